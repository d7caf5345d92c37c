"""The best setting of each loss, and what may be said of it.

Owns: the choice, its correction, the comparisons between winners. Must not know: files, figures, sentences.

The choice is made on the numbers that it is then judged by, so the best of k is optimistic. Every verdict therefore
uses an interval with Bonferroni's correction
for all K settings of the model that were looked at, of every loss, since the best of all is what people remember.

- Best setting of a loss against the untrained model: one comparison of K.
- Best loss against another loss's best: also of K. If the winner is not truly better, then some fixed setting, the
  truly best of the others, is at least as good and scored at most what the other's best scored; so a false lead is a
  false lead over a fixed setting, of one setting among K.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pandas as pd

from analysis.gaussian import Floats
from analysis.intervals import CONFIDENCE, Estimate, less, student_interval, widened
from analysis.measures import ACCURACY, CHANCE, Measure, primary
from analysis.statistics import base_of, difference, score
from analysis.units import on_same_units

T = TypeVar("T")


@dataclass(frozen=True)
class Best:
    """The best setting of one loss on one model and dataset, by ``measure``.

    ``difference`` (95 %) is the score less the base's, or less 0.5 where the measure is an accuracy; ``corrected`` is
    the same at Bonferroni's level for the ``looked_at`` settings of the model, ``of_loss`` of them of this loss.
    ``row`` is the setting's row of the frame. ``ties`` are the rows of the loss's other settings that cannot be told
    from it, None where that cannot be computed; ``tied`` counts those of all losses.
    """

    row: pd.Series
    measure: Measure
    looked_at: int
    of_loss: int
    difference: Estimate
    corrected: Estimate
    ties: tuple[pd.Series, ...] | None = ()
    tied: int = 0

    @property
    def beyond_noise(self) -> bool:
        """Whether the corrected interval excludes no difference."""
        return self.corrected.excludes(0)

    @property
    def value(self) -> float:
        """Its score."""
        return float(self.row[self.measure.column])

    @property
    def rank(self) -> float:
        """What it is put in order by, turned so that more is better."""
        return self.measure.sign * float(self.row.get("standing", self.value))

    @property
    def all_tie(self) -> bool:
        """Whether no setting of the model, of any loss, can be told from it."""
        return self.looked_at > 1 and self.tied == self.looked_at - 1


@dataclass(frozen=True)
class Lead:
    """A model's best loss against another loss's best; ``corrected`` for the ``looked_at`` settings of the model."""

    first: Best
    second: Best
    difference: Estimate
    corrected: Estimate
    looked_at: int

    @property
    def beyond_noise(self) -> bool:
        """Whether the corrected interval excludes no difference."""
        return self.corrected.excludes(0)


def best_settings(frame: pd.DataFrame) -> list[Best]:
    """Choose the best setting of each model, dataset and loss from a ``with_estimates`` frame of settings.

    By MT-Bench score, else golden reward, else a program's first score. A model with none is judged by reward accuracy,
    which alone can hide a destroyed model: of the settings whose accuracy cannot be told from the highest, the one that
    stayed closest to the reference (lowest KL) is chosen. Losses without any score are left out, and so are settings
    that were judged, or evaluated, otherwise than most. By accuracy only those of one reward compare.
    """
    runs, bases = frame[frame["kind"] == "run"], frame[frame["kind"] == "base"]
    chosen = []
    for _, own in runs.groupby(["model", "dataset"], sort=False, dropna=False):
        measure = primary(own)
        for alike in _by_reward(own) if measure is ACCURACY else [own]:
            scored = evaluated_alike(alike[np.isfinite(alike[measure.column])], measure)
            scored = scored.assign(standing=_standings(scored, measure))
            groups = scored.groupby("loss_type", sort=False, dropna=False)
            chosen += [_best(group, measure, bases, scored) for _, group in groups]
    return chosen


def _standings(scored: pd.DataFrame, measure: Measure) -> Floats:
    """Give what the settings are put in order by: the scores that they would have on the same questions or prompts.

    The mean of those that a setting happens to have says as much of them as of the setting.
    """
    alike = None if measure is ACCURACY else on_same_units([row for _, row in scored.iterrows()], measure)
    return scored[measure.column].to_numpy(dtype=float) if alike is None else alike.scores


def _by_reward(runs: pd.DataFrame) -> list[pd.DataFrame]:
    """The settings of each reward: accuracies of several rewards are of several questions."""
    return [pd.DataFrame(group) for _, group in runs.groupby("reward", sort=False, dropna=False)]


def evaluated_alike(scored: pd.DataFrame, measure: Measure) -> pd.DataFrame:
    """Of a model's settings keep those that were evaluated in one way, which most were: only they compare.

    A measure by question or task is in columns of its own for each way; the others depend on what was generated.
    """
    if measure.of_model or scored["base"].nunique() < 2:  # noqa: PLR2004 - one way, or none is known
        return scored
    return pd.DataFrame(scored[scored["base"] == scored["base"].mode(dropna=True).iloc[0]])


def _best(scored: pd.DataFrame, measure: Measure, bases: pd.DataFrame, every: pd.DataFrame) -> Best:
    """Choose among the settings of a loss; ``every`` has those of all losses of the model."""
    level, counts = corrected_level(len(every)), (len(every), len(scored))
    if measure is ACCURACY:
        row = _closest(scored)
        plain, corrected = (less(score(row, ACCURACY, each), CHANCE) for each in (CONFIDENCE, level))
        return Best(row, measure, *counts, plain, corrected, *_ties(row, scored, every, measure, level))
    row = scored.iloc[int((measure.sign * scored["standing"]).argmax())]
    strict = difference(row, base_of(row, bases, measure), measure, level)
    corrected = _with_seeds(strict, row, measure, 1 / row["seeds"])
    if len(every) == 1:
        corrected = row[measure.difference]
    ties = _ties(row, scored, every, measure, level)
    return Best(row, measure, *counts, row[measure.difference], corrected, *ties)


def _ties(
    row: pd.Series, scored: pd.DataFrame, every: pd.DataFrame, measure: Measure, level: float
) -> tuple[tuple[pd.Series, ...] | None, int]:
    """Give the loss's other settings that cannot be told from this one, and how many of all losses cannot."""
    others = {index: other for index, other in every.iterrows() if index != row.name}
    verdicts = {index: _tied(row, other, measure, level) for index, other in others.items()}
    tied = sum(verdict is True for verdict in verdicts.values())
    own = {index: verdict for index, verdict in verdicts.items() if index in scored.index}
    if None in own.values():
        return None, tied
    return tuple(others[index] for index, verdict in own.items() if verdict), tied


def corrected_level(looked_at: int) -> float:
    """Give Bonferroni's level of confidence for so many looks."""
    return 1 - (1 - CONFIDENCE) / looked_at


def _closest(scored: pd.DataFrame) -> pd.Series:
    """Of the settings whose accuracy is within noise of the highest, give that of the lowest KL, where it is known."""
    highest = scored.iloc[int(scored["reward_accuracy"].argmax())]
    floor = highest[ACCURACY.estimate].low
    near = scored[np.isfinite(scored["kl"]) & (scored["reward_accuracy"] >= floor)]
    return near.iloc[int(near["kl"].argmin())] if len(near) and math.isfinite(floor) else highest


def _with_seeds(estimate: Estimate, row: pd.Series, measure: Measure, share: float) -> Estimate:
    """Widen an interval by the noise between seeds; ``share`` is the sum of 1 / seeds of the means compared."""
    spread = row["spread"].get(measure.column)
    return widened(estimate, spread.deviation * math.sqrt(share), spread.freedom) if spread else estimate


def _tied(row: pd.Series, other: pd.Series, measure: Measure, level: float) -> bool | None:
    """Tell whether two settings' scores are within noise of each other; None where that cannot be told.

    By Student's paired t, where both list their values, else by their intervals; at Bonferroni's level.
    """
    ours, theirs = measure.values(row), measure.values(other)
    pairs = np.asarray([ours[key] - theirs[key] for key in ours if key in theirs], dtype=float)
    pairs = pairs[np.isfinite(pairs)]
    if len(pairs) < 2:  # noqa: PLR2004 - nothing to pair
        apart = difference(row, other, measure, level)
        return not apart.excludes(0) if apart.known else (True if apart.value == 0 else None)
    with np.errstate(all="ignore"):
        apart = student_interval(pairs, level)
    wide = _with_seeds(apart, row, measure, 1 / row["seeds"] + 1 / other["seeds"])
    return not wide.excludes(0) if wide.known else wide.value == 0


def first_of(group: Sequence[Best]) -> Best:
    """Give the best of a model's losses' best settings, chosen as each of them was within its loss."""
    if group[0].measure is not ACCURACY:
        return max(group, key=lambda each: each.rank)
    row = _closest(pd.DataFrame([each.row for each in group]))
    return next(each for each in group if each.row.name == row.name)


def leads(best: Sequence[Best]) -> list[Lead]:
    """Compare each model's best loss with each other loss's best, highest first; none by reward accuracy."""
    found = []
    for group in by_model(best, lambda each: each):
        first, *others = sorted(group, key=lambda each: -each.rank)
        if first.measure is not ACCURACY:
            found += [lead(first, other) for other in others]
    return found


def lead(first: Best, second: Best) -> Lead:
    """Compare two losses' best settings on one model."""
    looked_at = first.looked_at
    share = 1 / first.row["seeds"] + 1 / second.row["seeds"]
    plain, corrected = (
        _with_seeds(difference(first.row, second.row, first.measure, level), first.row, first.measure, share)
        for level in (CONFIDENCE, corrected_level(looked_at))
    )
    return Lead(first, second, plain, corrected, looked_at)


def by_model(found: Iterable[T], best_of: Callable[[T], Best]) -> list[list[T]]:
    """Group best settings, or what has one each, by what those that compare have in common.

    That is model, dataset and, of reward accuracies, the reward.
    """
    groups: dict[tuple[object, ...], list[T]] = {}
    for each in found:
        best = best_of(each)
        reward = best.row["reward"] if best.measure is ACCURACY else None
        groups.setdefault((best.row["model"], best.row["dataset"], reward), []).append(each)
    return list(groups.values())
