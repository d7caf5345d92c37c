"""What a sweep was expected to cost, what it has cost so far, and what it will have at its present pace.

Owns: these sums, of training steps alone. Must not know: the formulas of an estimate (`planning.estimate`), the page.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from launcher.config import RunConfig, from_plain
from launcher.errors import ConfigError, StoreError
from launcher.planning import estimate
from launcher.store.facts import RunRecord
from launcher.store.files import Plain
from launcher.store.measurements import result_of
from launcher.store.output_folder import Store, SweepDir
from launcher.views.run_lines import Shown


@dataclass
class Cost:
    """The cost of one sweep, looked at again and again: of a run that is trained, its result is read once."""

    directory: SweepDir
    store: Store
    _configs: dict[str, RunConfig] = field(default_factory=dict)
    _looked_for: set[str] = field(default_factory=set)
    _trained: dict[str, tuple[float, bool]] = field(default_factory=dict)  # seconds, and whether on a GPU
    _planned: str | None = None

    def told(self, runs: Sequence[Shown]) -> Plain:
        """`planned` in words, `spent` and `expected` in `unit`; None is what is not known."""
        if any(each.name.run_id not in self._looked_for for each in runs):
            self._read(self.directory.run_records())
            self._looked_for |= {each.name.run_id for each in runs}
        spent, expected, on_gpu = 0.0, 0.0, False
        unknown = 0
        for each in runs:
            gpus = max(1, estimate.gpus_of(self._configs[each.name.run_id])) if self._of(each) else 1
            seconds, whole, has_gpu = self._seconds(each)
            on_gpu |= has_gpu
            spent += gpus * seconds / 3600
            expected += gpus * (whole or 0.0) / 3600
            unknown += whole is None
        known = len(runs) - unknown
        return {
            "planned": self._planned,
            "unit": "GPU-hours" if on_gpu or not self._trained else "hours on CPUs",
            "spent": spent,
            "expected": expected * len(runs) / known if known else None,
        }

    def _of(self, shown: Shown) -> bool:
        return shown.name.run_id in self._configs

    def _read(self, records: Sequence[RunRecord]) -> None:
        """The configurations of runs that are new, and the estimate for all of them."""
        for record in records:
            with suppress(ConfigError, StoreError, TypeError):
                objective = self.store.run(record.run_id).read_config()
                self._configs[record.run_id] = from_plain({**objective, **record.settings})
        if self._configs.keys() == {record.run_id for record in records}:
            hours = estimate.total(self._configs.values(), None).gpu_hours
            self._planned = None if hours is None else estimate.in_hours(hours)

    def _seconds(self, shown: Shown) -> tuple[float, float | None, bool]:
        """Seconds of a run's steps so far, of all of them where that is known, and whether a GPU made them."""
        run_id, facts, pace = shown.name.run_id, shown.state.facts, shown.state.facts.seconds_per_step
        if facts.trained and run_id not in self._trained:
            with suppress(StoreError):
                result = result_of(shown.state.run)
                if result is not None:
                    self._trained[run_id] = (result.seconds, result.device not in (None, "cpu"))
        if run_id in self._trained:
            seconds, on_gpu = self._trained[run_id]
            return seconds, seconds, on_gpu
        spent = (pace or 0.0) * (shown.step or 0)
        return spent, pace * facts.max_steps if pace and facts.max_steps else None, False
