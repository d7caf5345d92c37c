"""Intervals, and what may be said of them.

Owns: every number in a report that is not simply read: intervals, differences, the choice of the best
setting. Must not know: files, figures, sentences.

Two things these intervals do not cover, which a report has to say: they treat generations as independent, and
they hold the noise of *evaluation* only; training again with another seed would move the scores as well.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy import stats

FloatArray = np.ndarray[tuple[int, ...], np.dtype[np.float64]]

RESAMPLES = 9999
CONFIDENCE = 0.95
CHANCE = 0.5  # reward accuracy of a coin
_SEED = 20240118  # intervals are the same at every reading
_BATCH = 2_000_000  # resampled values held in memory at once
_BCA_LIMIT = 1000  # its jackknife is quadratic, and above this it equals the percentile interval


@dataclass(frozen=True)
class Estimate:
    """A value with its interval; ``low`` and ``high`` are NaN where no interval can be given.

    ``method`` says how the interval was made: "bootstrap", "paired", "unpaired", "normal", "Wilson" or
    "none".
    """

    value: float
    low: float = math.nan
    high: float = math.nan
    confidence: float = CONFIDENCE
    method: str = "none"

    @property
    def known(self) -> bool:
        """Whether there is an interval."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    def excludes(self, point: float) -> bool:
        """Whether the interval lies wholly on one side of ``point``."""
        return self.known and not self.low <= point <= self.high


@dataclass(frozen=True)
class Best:
    """The best setting of one loss on one model and dataset.

    ``metric`` is "golden_reward" or "reward_accuracy". ``difference`` (95 %) is the score less the base's
    golden reward, or less 0.5 where the metric is an accuracy; ``corrected`` is the same at Bonferroni's
    level for the ``looked_at`` settings among which this one was chosen. ``row`` is the run's row of the
    frame.
    """

    row: pd.Series
    metric: str
    looked_at: int
    difference: Estimate
    corrected: Estimate

    @property
    def beyond_noise(self) -> bool:
        """Whether the corrected interval excludes no difference."""
        return self.corrected.excludes(0)


def mean_interval(values: Sequence[float], confidence: float = CONFIDENCE, method: str = "bootstrap") -> Estimate:
    """Give the mean of ``values`` (n,) with its bootstrap interval; NaN values are left out.

    BCa (Efron 1987, by ``scipy.stats.bootstrap``), percentile above 1000 values. With fewer than 2 values
    there is no interval. Bootstrap intervals of fewer than about 30 values are somewhat too narrow.
    """
    data = _finite(values)
    data = data[~np.isnan(data)]
    if not len(data):
        return Estimate(math.nan, confidence=confidence)
    mean = math.fsum(data / len(data))
    if len(data) == 1:
        return Estimate(mean, confidence=confidence)
    if data.min() == data.max():
        return Estimate(mean, mean, mean, confidence, method)
    low, high = _bootstrap(data, confidence, "BCa" if len(data) <= _BCA_LIMIT else "percentile")
    return Estimate(mean, low, high, confidence, method)


def paired_difference(scores: Sequence[float], others: Sequence[float], confidence: float = CONFIDENCE) -> Estimate:
    """Give mean(scores) - mean(others), both (n,) and paired by position, with its bootstrap interval.

    Resampling pairs is resampling their differences, since the mean is linear; a pair with a NaN is left out.
    Lists of unequal length cannot be paired: each is then resampled by itself (``method`` "unpaired").
    """
    if len(scores) == len(others):
        return mean_interval((_finite(scores) - _finite(others)).tolist(), confidence, method="paired")
    first, second = (mean_interval(values, confidence) for values in (scores, others))
    return _unpaired(first, second, confidence)


def normal_interval(value: float, stderr: float, confidence: float = CONFIDENCE) -> Estimate:
    """Give ``value`` +- z * ``stderr``; no interval where the standard error is unknown."""
    if not (math.isfinite(value) and math.isfinite(stderr)):
        return Estimate(value, confidence=confidence)
    half = float(stats.norm.ppf((1 + confidence) / 2)) * abs(stderr)
    return Estimate(value, value - half, value + half, confidence, "normal")


def proportion_interval(share: float, count: float, confidence: float = CONFIDENCE) -> Estimate:
    """Give a share (0..1) of ``count`` trials with Wilson's score interval (Wilson 1927)."""
    if not (0 <= share <= 1 and count >= 1 and math.isfinite(count)):
        return Estimate(share, confidence=confidence)
    test = stats.binomtest(round(share * count), round(count))
    interval = test.proportion_ci(confidence, method="wilson")
    return Estimate(share, min(interval.low, share), max(interval.high, share), confidence, "Wilson")


def score(row: pd.Series, confidence: float = CONFIDENCE) -> Estimate:
    """Give a row's golden reward with its interval: over its generations, else from its standard error."""
    if np.isfinite(row["golden_rewards"]).sum() > 1:
        return mean_interval(row["golden_rewards"], confidence)
    return normal_interval(row["golden_reward"], row["golden_reward_stderr"], confidence)


def difference(row: pd.Series, other: pd.Series | None, confidence: float = CONFIDENCE) -> Estimate:
    """Give the golden reward of ``row`` less that of ``other`` (None: unknown), paired where both list theirs."""
    if other is None:
        return Estimate(math.nan, confidence=confidence)
    if min(np.isfinite(each["golden_rewards"]).sum() for each in (row, other)) > 1:
        return paired_difference(row["golden_rewards"], other["golden_rewards"], confidence)
    return _unpaired(score(row, confidence), score(other, confidence), confidence)


def accuracy(row: pd.Series, confidence: float = CONFIDENCE) -> Estimate:
    """Give a row's held-out reward accuracy with Wilson's interval over its pairs."""
    return proportion_interval(row["reward_accuracy"], row["pairs"], confidence)


def with_estimates(frame: pd.DataFrame) -> pd.DataFrame:
    """Add ``score``, ``difference`` (to the base of the same model and dataset) and ``accuracy``, as Estimates."""
    bases = _bases(frame)
    rows = [row for _, row in frame.iterrows()]
    differences = [
        difference(row, bases.get((row["model"], row["dataset"])) if row["kind"] == "run" else None) for row in rows
    ]
    columns = {
        "score": list(map(score, rows)),
        "difference": differences,
        "accuracy": list(map(accuracy, rows)),
    }
    return frame.assign(**{name: _column(values, frame) for name, values in columns.items()})


def best_settings(frame: pd.DataFrame) -> list[Best]:
    """Choose, for each (model, dataset, loss_type) in the file's order, the best run of a ``with_estimates`` frame.

    By golden reward; by reward accuracy where no run of the group has one. Groups without any score are left
    out.
    """
    bases = _bases(frame)
    runs = frame[frame["kind"] == "run"]
    groups = runs.groupby(["model", "dataset", "loss_type"], sort=False, dropna=False)
    chosen = [_best(group, bases.get((group.iloc[0]["model"], group.iloc[0]["dataset"]))) for _, group in groups]
    return [best for best in chosen if best is not None]


def _bases(frame: pd.DataFrame) -> dict[tuple[Any, Any], pd.Series]:
    return {(row["model"], row["dataset"]): row for _, row in frame[frame["kind"] == "base"].iterrows()}


def _column(values: Sequence[object], frame: pd.DataFrame) -> pd.Series:
    return pd.Series(values, index=frame.index, dtype=object)


def _best(group: pd.DataFrame, base: pd.Series | None) -> Best | None:
    for metric in ("golden_reward", "reward_accuracy"):
        scored = group[np.isfinite(group[metric])]
        if len(scored):
            row = scored.loc[scored[metric].idxmax()]
            strict = 1 - (1 - CONFIDENCE) / len(scored)
            levels = (CONFIDENCE, strict)
            if metric == "golden_reward":
                plain, corrected = (difference(row, base, level) for level in levels)
            else:
                plain, corrected = (_less(accuracy(row, level), CHANCE) for level in levels)
            return Best(row, metric, len(scored), plain, corrected)
    return None


def runner_up(best: list[Best]) -> tuple[Best, Best, Estimate] | None:
    """Give the two best of ``best`` (those with a golden reward, one model and dataset) and their difference."""
    ranked = sorted(
        (each for each in best if each.metric == "golden_reward"),
        key=lambda each: -float(each.row["golden_reward"]),
    )
    return (ranked[0], ranked[1], difference(ranked[0].row, ranked[1].row)) if len(ranked) > 1 else None


def hidden_damage(frame: pd.DataFrame) -> pd.DataFrame:
    """Give the runs whose reward accuracy beats chance while their golden reward fell below the base's.

    Both beyond their 95 % intervals: such a run looks fine by reward metrics alone and writes worse text.
    """
    accurate = [estimate.known and estimate.low > CHANCE for estimate in frame["accuracy"]]
    worse = [estimate.known and estimate.high < 0 for estimate in frame["difference"]]
    return frame[np.logical_and(accurate, worse)]


def seed_spread(frame: pd.DataFrame) -> float:
    """Give the pooled standard deviation of golden reward between seeds of one setting; NaN without repeats."""
    runs = frame[(frame["kind"] == "run") & np.isfinite(frame["golden_reward"])]
    keys = [
        (row["model"], row["dataset"], row["loss_type"], row["beta"], _without_seed(str(row["setting"])))
        for _, row in runs.iterrows()
    ]
    scores = runs["golden_reward"].groupby(_column([str(key) for key in keys], runs))
    freedom = float((scores.count() - 1).sum())
    with np.errstate(all="ignore"):
        squares = float(((scores.count() - 1) * scores.var(ddof=1).fillna(0)).sum())
    return math.sqrt(squares / freedom) if freedom > 0 else math.nan


def pareto(cost: Sequence[float], gain: Sequence[float]) -> list[bool]:
    """Tell which points (n,) no other point beats: none costs at most as much and gains more, or less and as much."""
    points = list(zip(cost, gain, strict=True))
    return [not any(_beats(other, point) for other in points) for point in points]


def _beats(other: tuple[float, float], point: tuple[float, float]) -> bool:
    return other[0] <= point[0] and other[1] >= point[1] and other != point


def _without_seed(setting: str) -> str:
    return ", ".join(part for part in setting.split(", ") if not part.startswith("seed="))


def _unpaired(first: Estimate, second: Estimate, confidence: float) -> Estimate:
    """Give the difference of independent estimates; interval by MOVER (Zou & Donner 2008), asymmetry kept."""
    value = first.value - second.value
    if not (first.known and second.known):
        return Estimate(value, confidence=confidence)
    low = value - math.hypot(first.value - first.low, second.high - second.value)
    high = value + math.hypot(first.high - first.value, second.value - second.low)
    return Estimate(value, low, high, confidence, "unpaired")


def _less(estimate: Estimate, point: float) -> Estimate:
    """Shift an estimate down by a constant."""
    return replace(estimate, value=estimate.value - point, low=estimate.low - point, high=estimate.high - point)


def _finite(values: Sequence[float]) -> FloatArray:
    """Give an array in which NaN stands for everything that is not a finite number."""
    data = np.asarray(values, dtype=float)
    return np.where(np.isfinite(data), data, np.nan)


def _bootstrap(data: FloatArray, confidence: float, method: Literal["BCa", "percentile"]) -> tuple[float, float]:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        interval = stats.bootstrap(
            (data,),
            np.mean,
            n_resamples=RESAMPLES,
            batch=max(1, _BATCH // len(data)),
            confidence_level=confidence,
            method=method,
            rng=np.random.default_rng(_SEED),
        ).confidence_interval
    low, high = float(interval.low), float(interval.high)
    if method == "BCa" and not (math.isfinite(low) and math.isfinite(high)):
        return _bootstrap(data, confidence, "percentile")  # BCa is undefined for some samples with many ties
    return low, high
