"""What was measured of a model, by benchmark.

Owns: which file of a model holds which benchmark's result. Must not know: how anything is measured, or shown.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from launcher.store import model_marker
from launcher.store.facts import Revision
from launcher.store.files import read_fact
from launcher.store.output_folder import Store
from launcher.store.results import BENCHMARKS, Evaluation, Measurement, MTBenchResult, ProgramResult, Result
from launcher.store.run_folder import EvaluationDir, RunDir
from launcher.store.whose import check

Kind = TypeVar("Kind")


@dataclass(frozen=True)
class Measured:
    """The results of a trained or untrained model, by benchmark: of those that have measured it.

    A result that is being had anew holds until the new one is there. `judged_before` are the MT-Bench scores that were
    replaced, the newest first: those of another judge stand beside the present ones.
    """

    results: Mapping[str, Measurement] = field(default_factory=dict)
    judged_before: tuple[MTBenchResult, ...] = ()

    @classmethod
    def of(cls, run: RunDir) -> Measured:
        """Those of a run, or of a milestone of one.

        Raises:
            StoreError: one cannot be read, or is another model's.
        """
        files = {name: run.evaluations.result_file(name) for name in BENCHMARKS} | {"preference": run.evaluation_file}
        measured = cls._read(files)
        for name, fact in measured.results.items():
            check(files[name], fact.model, model_marker.model_name(run))
        return measured

    @classmethod
    def of_untrained(cls, keys: Mapping[str, str], store: Store) -> Measured:
        """Those in the cache entries that another model's results name; see `bases`."""
        folders = {name: EvaluationDir(store.cache("benchmarks", f"{name}-{key}")) for name, key in keys.items()}
        files = {name: folder.result_file(name) for name, folder in folders.items()}
        if "preference" in keys:
            files["preference"] = store.cache("base", keys["preference"]) / "evaluation.json"
        return cls._read(files)

    @classmethod
    def _read(cls, files: Mapping[str, Path]) -> Measured:
        found = {name: _newest(file, BENCHMARKS[name]) for name, file in files.items()}
        before = kept(files["mt_bench"]) if "mt_bench" in files else []
        facts = [fact for file in before if (fact := read_fact(file, MTBenchResult))]
        replaced = tuple(fact for fact in facts if fact != found["mt_bench"])
        return cls({name: fact for name, fact in found.items() if fact is not None}, replaced)

    @property
    def judged_otherwise(self) -> list[MTBenchResult]:
        """Of the MT-Bench scores that were replaced, the newest of each other judge, or way of judging."""
        found: list[MTBenchResult] = [self.mt_bench] if self.mt_bench else []
        for fact in self.judged_before:
            if not any(fact.is_like(other) for other in found):
                found.append(fact)
        return found[1:]

    @property
    def bases(self) -> dict[str, str]:
        """The cache entries of the untrained model's results, by benchmark."""
        return {name: fact.base for name, fact in self.results.items() if fact.base}

    @property
    def preference(self) -> Evaluation | None:
        return self._by("preference", Evaluation)

    @property
    def mt_bench(self) -> MTBenchResult | None:
        return self._by("mt_bench", MTBenchResult)

    @property
    def lm_eval(self) -> ProgramResult | None:
        return self._by("lm_eval", ProgramResult)

    @property
    def command(self) -> ProgramResult | None:
        return self._by("command", ProgramResult)

    def _by(self, benchmark: str, kind: type[Kind]) -> Kind | None:
        """What that benchmark found; None where the model was not measured by it."""
        found = self.results.get(benchmark)
        return found if isinstance(found, kind) else None


def result_of(run: RunDir) -> Result | None:
    """That a run is trained; None where it is not.

    Raises:
        StoreError: that cannot be read, or is another run's; of one of an older version the model says so.
    """
    result = run.read(run.result_file, Result)
    if result is not None:
        check(run.result_file, result.model, run.run_id)
        if result.model is None:
            model_marker.check(run)
    return result


def revision_of(run: RunDir) -> Revision | None:
    """Where a run, or milestone, says that it is published; None where it is nowhere.

    One in the output folder is there also where that has another name since.

    Raises:
        StoreError: that cannot be read, or is another's.
    """
    revision = run.read(run.revision_file, Revision)
    if revision is None:
        return None
    check(run.revision_file, revision.model, model_marker.model_name(run), "remove it and publish again")
    if revision.store != "folder":
        return revision
    here = Store(model_marker.whole_run(run).path.parents[1]).published(revision.repo, revision.revision)
    has_moved = str(here) != revision.address and not Path(revision.address).is_dir() and here.is_dir()
    return replace(revision, address=str(here)) if has_moved else revision


def kept(file: Path) -> list[Path]:
    """What was kept of a result under a number, `mt_bench.001.json` of `mt_bench.json`, the newest first."""
    numbered = re.compile(rf"{re.escape(file.stem)}\.\d{{3,}}{re.escape(file.suffix)}")
    found = [path for path in file.parent.glob(f"{file.stem}.*{file.suffix}") if numbered.fullmatch(path.name)]
    return sorted(found, key=lambda path: (len(path.name), path.name), reverse=True)


def _newest(file: Path, kind: type[Kind]) -> Kind | None:
    fact = read_fact(file, kind)
    return fact if fact is not None else next((read_fact(path, kind) for path in kept(file)), None)
