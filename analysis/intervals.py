"""Intervals of means, differences and shares.

Owns: the arithmetic of an interval. Must not know: frames, runs, sentences.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Literal

import numpy as np
from scipy import special

FloatArray = np.ndarray[tuple[int, ...], np.dtype[np.float64]]

RESAMPLES = 9999
CONFIDENCE = 0.95
_SEED = 20240118  # intervals are the same at every reading
_BATCH = 100_000  # resampled values held at once: as many as a processor's cache takes
_TAIL = 50  # resampled means beyond an interval's two limits together
_BCA_LIMIT = 1000  # above this BCa equals the percentile interval
_KEPT = 100_000_000  # bytes of resamples that are kept


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

    BCa (Efron 1987), percentile above 1000 values: the limits that ``scipy.stats.bootstrap`` gives. With fewer than 2
    values there is no interval. Bootstrap intervals of fewer than about 30 values are somewhat too narrow.
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
    half = NormalDist().inv_cdf((1 + confidence) / 2) * abs(stderr)
    return Estimate(value, value - half, value + half, confidence, "normal")


def proportion_interval(share: float, count: float, confidence: float = CONFIDENCE) -> Estimate:
    """Give a share (0..1) of ``count`` trials with Wilson's score interval (Wilson 1927)."""
    if not (0 <= share <= 1 and count >= 1 and math.isfinite(count)):
        return Estimate(share, confidence=confidence)
    trials = round(count)
    seen, normal = round(share * count) / trials, NormalDist().inv_cdf((1 + confidence) / 2)
    middle = (seen + normal**2 / (2 * trials)) / (1 + normal**2 / trials)
    half = normal / (1 + normal**2 / trials) * math.sqrt(seen * (1 - seen) / trials + normal**2 / (4 * trials**2))
    low, high = max(0.0, middle - half), min(1.0, middle + half)
    return Estimate(share, min(low, share), max(high, share), confidence, "Wilson")


def student_interval(values: FloatArray, confidence: float = CONFIDENCE) -> Estimate:
    """Give the mean of at least 2 ``values`` (n,) with Student's interval."""
    mean, stderr = float(values.mean()), float(values.std(ddof=1)) / math.sqrt(len(values))
    half = _student((1 + confidence) / 2, len(values) - 1) * stderr
    return Estimate(mean, mean - half, mean + half, confidence, "normal")


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
    half = _student((1 + estimate.confidence) / 2, freedom) * stderr
    low = estimate.value - math.hypot(estimate.value - estimate.low, half)
    high = estimate.value + math.hypot(estimate.high - estimate.value, half)
    return replace(estimate, low=low, high=high)


def _student(share: float, freedom: float) -> float:
    """Give the quantile of Student's t; of ``scipy.stats`` the import alone would take as long as a report does."""
    return float(special.stdtrit(freedom, share))


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
    values = np.asarray(data)
    shares = np.asarray([(1 - confidence) / 2, (1 + confidence) / 2])
    with np.errstate(all="ignore"):
        means = np.concatenate([counts @ values for counts in _resamples(len(values), resamples)]) / len(values)
        if method == "BCa":
            away = values - values.mean()
            bias = special.ndtri((np.mean(means < values.mean()) + np.mean(means <= values.mean())) / 2)
            skew = np.sum(away**3) / (6 * np.sum(away**2) ** 1.5)  # which is what the jackknife finds of a mean
            normal = bias + special.ndtri(shares)
            shares = special.ndtr(bias + normal / (1 - skew * normal))
        if not np.isfinite(shares).all():
            return _bootstrap(data, confidence, "percentile", resamples)  # BCa is undefined for some with many ties
        low, high = np.quantile(means, shares)
    return float(low), float(high)


def _resamples(size: int, count: int) -> Iterable[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]:
    """Give how often each of ``size`` values is in each of ``count`` resamples: arrays (some, size), always the same.

    They are kept, as all lists of one length take the same ones, unless they are very many.
    """
    return _drawn(size, count) if size * count <= _KEPT else _draw(size, count)


@functools.lru_cache(maxsize=2)
def _drawn(size: int, count: int) -> list[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]:
    return list(_draw(size, count))


def _draw(size: int, count: int) -> Iterator[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]:
    random, most = np.random.default_rng(_SEED), max(1, _BATCH // size)
    for first in range(0, count, most):
        rows = min(most, count - first)
        places = random.integers(0, size, (rows, size)) + size * np.arange(rows)[:, None]
        yield np.bincount(places.ravel(), minlength=rows * size).reshape(rows, size).astype(np.uint8)
