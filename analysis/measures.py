"""What a run can be judged by, and in which order of trust.

Owns: the measures, and where a row keeps each. Must not know: intervals, figures.

A measure of the text that a model writes comes first: an MT-Bench score, else a golden reward. Only where a model has
neither is held-out reward accuracy left, which can look fine while the text is destroyed; see ``best``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from analysis.columns import CATEGORIES

CHANCE = 0.5  # reward accuracy of a coin


@dataclass(frozen=True)
class Measure:
    """A measure: its column, what to call it, and where its values by ``unit`` (question, generation) are."""

    column: str
    label: str
    stderr: str = ""
    values_column: str = ""
    unit: str = "generation"
    against: str = "untrained"

    @property
    def estimate(self) -> str:
        """The column of its Estimates."""
        return f"{self.column}_estimate"

    @property
    def difference(self) -> str:
        """The column of the Estimates of its difference to the base."""
        return f"{self.column}_difference"

    @property
    def name(self) -> str:
        """Its name in a sentence."""
        return self.label if self.label.isupper() or "-" in self.label else self.label.lower()

    def values(self, row: pd.Series) -> dict[str, float]:
        """Give a row's finite values by what they are paired by: the question, or the generation's place."""
        if not self.values_column:
            return {}
        values = row[self.values_column]
        items = values.items() if isinstance(values, dict) else enumerate(values)
        return {str(key): value for key, value in items}


MT_BENCH = Measure("mt_bench", "MT-Bench", "mt_bench_se", "mt_bench_scores", "question")
GOLDEN = Measure("golden_reward", "Golden reward", "golden_reward_stderr", "golden_rewards")
ACCURACY = Measure("reward_accuracy", "Reward accuracy", unit="pair", against="chance")
TEXT_MEASURES = (MT_BENCH, GOLDEN)


def present(rows: pd.DataFrame) -> list[Measure]:
    """Give the measures of text that some row has, the most trusted first."""
    return [measure for measure in TEXT_MEASURES if rows[measure.column].abs().lt(math.inf).any()]


def primary(rows: pd.DataFrame) -> Measure:
    """Give the measure by which these rows are to be judged."""
    return next(iter(present(rows)), ACCURACY)


def categories(rows: pd.DataFrame) -> list[str]:
    """Give the MT-Bench categories for which some row has a mean, in their usual order."""
    return [each for each in CATEGORIES if rows[f"mt_bench_{each}"].abs().lt(math.inf).any()]
