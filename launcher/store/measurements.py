"""What was measured of a model, by benchmark.

Owns: which file of a model holds which benchmark's result. Must not know: how anything is measured, or shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from launcher.store.files import read_fact
from launcher.store.output_folder import Store
from launcher.store.results import BENCHMARKS, Evaluation, Measurement, MTBenchResult, ProgramResult
from launcher.store.run_folder import EvaluationDir, RunDir

Kind = TypeVar("Kind")


@dataclass(frozen=True)
class Measured:
    """The results of a trained or untrained model, by benchmark: of those that have measured it."""

    results: Mapping[str, Measurement] = field(default_factory=dict)

    @classmethod
    def of(cls, run: RunDir) -> Measured:
        """Those of a run, or of a milestone of one."""
        files = {name: run.evaluations.result_file(name) for name in BENCHMARKS}
        return cls._read(files | {"preference": run.evaluation_file})

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
        found = {name: read_fact(file, BENCHMARKS[name]) for name, file in files.items()}
        return cls({name: fact for name, fact in found.items() if fact is not None})

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
