"""Intervals of means, differences and shares.

Owns: the arithmetic of an interval. Must not know: frames, runs, sentences.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy import stats

FloatArray = np.ndarray[tuple[int, ...], np.dtype[np.float64]]

RESAMPLES = 9999
CONFIDENCE = 0.95
_SEED = 20240118  # intervals are the same at every reading
_BATCH = 100_000  # resampled values held at once: as many as a processor's cache takes
_TAIL = 50  # resampled means beyond an interval's two limits together
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


def mean_interval(
    values: Sequence[float], confidence: float = CONFIDENCE, method: str = "bootstrap", resamples: int | None = None
) -> Estimate:
    """Give the mean of ``values`` (n,) with its bootstrap interval; NaN values are left out.

    BCa (Efron 1987, by ``scipy.stats.bootstrap``), percentile above 1000 values. With fewer than 2 values
    there is no interval. Bootstrap intervals of fewer than about 30 values are somewhat too narrow.
    ``resamples`` None: as many as the confidence needs.
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
    wanted = resamples or max(RESAMPLES, math.ceil(_TAIL / (1 - confidence)))
    low, high = _bootstrap(tuple(data), confidence, "BCa" if len(data) <= _BCA_LIMIT else "percentile", wanted)
    return Estimate(mean, low, high, confidence, method)


def paired_difference(
    scores: Sequence[float], others: Sequence[float], confidence: float = CONFIDENCE, resamples: int | None = None
) -> Estimate:
    """Give mean(scores) - mean(others), both (n,) and paired by position, with its bootstrap interval.

    Resampling pairs is resampling their differences, since the mean is linear; a pair with a NaN is left out.
    Lists of unequal length cannot be paired: each is then resampled by itself (``method`` "unpaired").
    """
    if len(scores) == len(others):
        return mean_interval((_finite(scores) - _finite(others)).tolist(), confidence, "paired", resamples)
    first, second = (mean_interval(values, confidence, resamples=resamples) for values in (scores, others))
    return unpaired_difference(first, second)


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


def unpaired_difference(first: Estimate, second: Estimate) -> Estimate:
    """Give the difference of independent estimates; interval by MOVER (Zou & Donner 2008), asymmetry kept."""
    value, confidence = first.value - second.value, first.confidence
    if not (first.known and second.known):
        return Estimate(value, confidence=confidence)
    low = value - math.hypot(first.value - first.low, second.high - second.value)
    high = value + math.hypot(first.high - first.value, second.value - second.low)
    return Estimate(value, low, high, confidence, "unpaired")


def widened(estimate: Estimate, stderr: float, freedom: float) -> Estimate:
    """Add an independent source of noise to an interval: in quadrature on either side (MOVER, as above).

    ``stderr`` is its standard error, known from ``freedom`` degrees of freedom, so that Student's t applies.
    """
    if not (estimate.known and math.isfinite(stderr) and freedom >= 1):
        return estimate
    half = float(stats.t.ppf((1 + estimate.confidence) / 2, freedom)) * stderr
    low = estimate.value - math.hypot(estimate.value - estimate.low, half)
    high = estimate.value + math.hypot(estimate.high - estimate.value, half)
    return replace(estimate, low=low, high=high)


def less(estimate: Estimate, point: float) -> Estimate:
    """Shift an estimate down by a constant."""
    return replace(estimate, value=estimate.value - point, low=estimate.low - point, high=estimate.high - point)


def _finite(values: Sequence[float]) -> FloatArray:
    """Give an array in which NaN stands for everything that is not a finite number."""
    data = np.asarray(values, dtype=float)
    return np.where(np.isfinite(data), data, np.nan)


@functools.lru_cache(maxsize=1024)
def _bootstrap(
    data: tuple[float, ...], confidence: float, method: Literal["BCa", "percentile"], resamples: int
) -> tuple[float, float]:
    """Give the limits; remembered, since an untrained model is compared with every run."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        interval = stats.bootstrap(
            (data,),
            np.mean,
            n_resamples=resamples,
            batch=max(1, _BATCH // len(data)),
            confidence_level=confidence,
            method=method,
            rng=np.random.default_rng(_SEED),
        ).confidence_interval
    low, high = float(interval.low), float(interval.high)
    if method == "BCa" and not (math.isfinite(low) and math.isfinite(high)):
        return _bootstrap(data, confidence, "percentile", resamples)  # BCa is undefined for some samples with many ties
    return low, high
