"""What a sweep spends on each loss: settings that are tried, and seeds of each.

Owns: counting them. Must not know: how that is said. Writes nothing.

The best of many settings scores higher than the best of few by chance alone, so that losses are compared fairly only
where each had as many.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from launcher.machine.once import Once
from launcher.planning.planned_runs import run_id
from launcher.sweep import Run


@dataclass(frozen=True)
class Budget:
    """What one loss has on one model and data set.

    Attributes:
        model, dataset, loss_type: their names.
        settings: objectives that differ in more than their seed.
        fewest_seeds, most_seeds: seeds of the setting that has the fewest, and the most.
        runs: all of them.
    """

    model: str
    dataset: str
    loss_type: str
    settings: int
    fewest_seeds: int
    most_seeds: int
    runs: int

    @property
    def size(self) -> tuple[int, int, int]:
        """What is equal where losses have the same."""
        return self.settings, self.fewest_seeds, self.most_seeds


def budgets(runs: Iterable[Run]) -> list[Budget]:
    """The budget of each loss on each model and data set, in the order of the runs."""
    once, found = Once(), dict[tuple[str, str, str], dict[str, set[int]]]()
    for run in runs:
        place = run.config.model.name, run.config.dataset.name, run.config.loss_type
        setting = run_id({**run.objective, "seed": None}, once)
        found.setdefault(place, {}).setdefault(setting, set()).add(run.config.seed)
    return [_budget(place, [len(seeds) for seeds in settings.values()]) for place, settings in found.items()]


def _budget(place: tuple[str, str, str], seeds: list[int]) -> Budget:
    return Budget(*place, len(seeds), min(seeds), max(seeds), sum(seeds))
