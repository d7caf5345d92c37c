"""Scores on the same questions, or prompts: what settings score where some lack units that others have.

Owns: which evaluations can be compared unit by unit, and the table of them without gaps. Must not know: frames'
settings, losses, curves, sentences.

Units differ in how hard they are, so the mean over those that a setting happens to have says as much of them as of the
setting. What is missing is therefore filled in by the additive model, value = unit + setting + rest (least squares).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.gaussian import Floats, paired_covariance
from analysis.measures import Measure

FEW = 10  # units in common; of fewer, no covariance is estimated
_TIED = 2  # units in common, below which nothing says what two settings differ by


@dataclass(frozen=True)
class Evaluations:
    """Scores (n,) on the same units; ``covariance`` (n, n) of their noise, None where it is not paired."""

    scores: Floats
    covariance: Floats | None = None


@dataclass(frozen=True)
class Whole:
    """A table (m units, n settings) without gaps; ``scores`` (n,) are its means.

    ``ties``: how many units tie the settings together, by the worst known difference: m without gaps, k of two settings
    that share k, 0 where nothing ties some to the others. ``alike`` (n, n) is the form of the covariance of ``scores``,
    but for a factor and what all share, if all values were as noisy; None without gaps.
    """

    values: Floats
    ties: float
    alike: Floats | None = None

    @property
    def scores(self) -> Floats:
        """The settings' scores over all units."""
        return np.asarray(self.values.mean(axis=0))

    @property
    def covariance(self) -> Floats:
        """The covariance (n, n) of their noise."""
        return paired_covariance(self.values, self.alike)


def on_same_units(rows: Sequence[pd.Series], measure: Measure) -> Evaluations | None:
    """Give the scores of ``rows``; None where they were scored on different units, of which too few are shared.

    A row without values by unit keeps its score, and so do lists of different lengths whose places say nothing.
    """
    own = [measure.units(row) for row in rows]
    known = np.asarray([float(row[measure.column]) for row in rows])
    alike = all(each.keys() == own[0].keys() for each in own)
    by_name = measure.unit != "generation" or len({len(measure.values(row)) for row in rows}) == 1
    if not all(own) or not (alike or by_name):
        return Evaluations(known)
    names = list(dict.fromkeys(name for each in own for name in each))
    values = np.asarray([[each.get(name, math.nan) for each in own] for name in names])
    if alike:
        return Evaluations(known, paired_covariance(values) if len(names) >= FEW else None)
    whole = without_gaps(values)
    if whole.ties < _TIED:
        return None
    return Evaluations(whole.scores, whole.covariance if whole.ties >= FEW else None)


def without_gaps(values: Floats) -> Whole:
    """Fill the gaps of ``values`` (m units, n settings), NaN where there is none; each unit has some value.

    The means of the table are the settings' scores over all m units by least squares, and its scatter about them is
    what each unit adds to these (its influence, times m), so that the covariance of the means is that of a bootstrap of
    the units. What has no gaps stays as it is.
    """
    known = np.isfinite(values)
    if known.all():
        return Whole(values, len(values))
    each = known.sum(axis=1, keepdims=True)
    units, share = len(values), known / each
    strengths, vectors = np.linalg.eigh(np.diag(known.sum(axis=0)) - known.T @ share)
    ties = max(0.0, float(strengths[1]))
    if ties < 1e-6 * units:
        return Whole(values, 0.0)
    inverse = vectors[:, 1:] / strengths[1:] @ vectors[:, 1:].T
    apart = inverse @ _within(values, known).sum(axis=0)
    left = np.where(known, values - apart, 0)
    unit = left.sum(axis=1, keepdims=True) / each
    moved = units * _within(left, known) @ inverse
    return Whole(apart + unit + moved - moved @ share.mean(axis=0)[:, None], ties, inverse)


def _within(values: Floats, known: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> Floats:
    """Give each known value less the mean of its unit's, 0 where there is none."""
    filled = np.where(known, values, 0)
    return np.where(known, filled - filled.sum(axis=1, keepdims=True) / known.sum(axis=1, keepdims=True), 0)
