"""What each loss was given: settings that were scored, and seeds of each.

Owns: counting them, these words, and when they are a caution. Must not know: HTML, files, scores.

The best of many settings scores higher than the best of few by chance alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from analysis.rows import judged
from analysis.words import listed, number

_PLACE = ["model", "dataset"]


@dataclass(frozen=True)
class Budget:
    """How many settings of a loss were scored, and of how many seeds the one with fewest and the one with most."""

    settings: int
    fewest: int
    most: int

    def __str__(self) -> str:
        """Say it: "3 settings with 2 seeds"."""
        seeds = number(self.most) if self.fewest == self.most else f"{number(self.fewest)} to {number(self.most)}"
        many = "" if self.settings == 1 else "s"
        return f"{number(self.settings)} setting{many} with {seeds} seed{'' if self.most == 1 else 's'}"


Budgets = dict[str, Budget]


def budgets(runs: pd.DataFrame) -> dict[tuple[str, str], Budgets]:
    """Give by model and dataset each loss's budget, from a frame of runs; milestones are no settings of their own."""
    scored = runs[judged(runs) & runs["milestone"].isna()]
    found: dict[tuple[str, str], Budgets] = {}
    for (model, dataset, loss), own in scored.groupby([*_PLACE, "loss_type"], sort=False, dropna=False):
        seeds = own.groupby(["beta", "setting"], dropna=False)["seed"].nunique(dropna=False)
        budget = Budget(len(seeds), int(seeds.min()), int(seeds.max()))
        found.setdefault((str(model), str(dataset)), {})[str(loss)] = budget
    return {place: own for place, own in found.items() if len(own) > 1}


def finding(runs: pd.DataFrame) -> str:
    """Say what all losses had, where several were compared and all had the same; else nothing."""
    every = budgets(runs)
    given = {budget for own in every.values() for budget in own.values()}
    losses = dict.fromkeys(loss for own in every.values() for loss in own)
    return f"Of each loss ({listed(list(losses))}) {given.pop()} were scored." if len(given) == 1 else ""


def cautions(runs: pd.DataFrame) -> list[str]:
    """Say where the losses of a model did not have the same, and what follows."""
    unequal = {place: own for place, own in budgets(runs).items() if len(set(own.values())) > 1}
    return [
        f"The losses on {model} with {dataset} did not have the same budget: {_in_words(own)}. The best of more "
        "settings, or of fewer seeds each, scores higher by chance alone: a lead may be no more than that."
        for (model, dataset), own in unequal.items()
    ]


def _in_words(own: Budgets) -> str:
    groups: dict[Budget, list[str]] = {}
    for loss, budget in own.items():
        groups.setdefault(budget, []).append(loss)
    return "; ".join(f"of {listed(losses)} {budget}" for budget, losses in groups.items())
