"""What was measured of a model, by benchmark.

Owns: which file of a model holds which benchmark's result. Must not know: how anything is measured, or shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from launcher.config import BENCHMARKS
from launcher.store.files import read_fact
from launcher.store.output_folder import Store
from launcher.store.results import RESULTS, Evaluation, MTBenchResult, ProgramResult
from launcher.store.run_folder import EvaluationDir, RunDir


@dataclass(frozen=True)
class Measured:
    """The results of a trained or untrained model; None: it was not measured by that benchmark."""

    preference: Evaluation | None = None
    mt_bench: MTBenchResult | None = None
    lm_eval: ProgramResult | None = None
    command: ProgramResult | None = None

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
        return cls(**{name: read_fact(file, RESULTS[name]) for name, file in files.items()})

    @property
    def bases(self) -> dict[str, str]:
        """The cache entries of the untrained model's results, by benchmark."""
        facts = {name: getattr(self, name) for name in BENCHMARKS}
        return {name: fact.base for name, fact in facts.items() if fact is not None and fact.base}
