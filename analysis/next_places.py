"""Where a further run may lie: between settings that were run, beyond them, or where a curve lacks them.

Owns: which settings nobody has run are worth a thought, and why. Must not know: what a run there would tell, seeds.

Beyond an end there is something to look for only where the loss's best is likely to lie at that end. No place lies in a
gap beside a setting that training has destroyed, nor beyond one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from analysis.gaussian import Floats, Integers, Posterior
from analysis.smooth import FEWEST, Along, Smooth
from analysis.words import number

_SHARES = (0.5, 0.25, 0.75)  # of a gap between two settings
_BEYOND = (0.5, 1.0)  # of the usual gap, beyond the first and the last
_EDGE = 0.5  # probability of being the loss's best from which on there is something to look for beyond an end
_DIGITS = 2  # of a value that nobody has run yet
_NEAR = 0.04  # of the axis: what is nearer to a setting that was run is the same
_STEP = 3.0  # from one beta to the next, where there is but one


@dataclass(frozen=True)
class Place:
    """A setting like ``row`` but for the values of ``changed``, by axis: one that was run where there are none."""

    row: pd.Series
    changed: Mapping[str, float] = field(default_factory=dict)
    why: str = ""


def lacking(row: pd.Series, tried: Sequence[float], *, upwards: bool) -> Iterator[Place]:
    """Give settings like ``row`` until its loss has enough betas for a curve, in addition to those that were ``tried``.

    Each lies in the widest gap, or a step beyond: above them where ``upwards``, then below, in turn.
    """
    betas = list(tried)
    why = f"{row['loss_type']} has {len(tried)} of the {FEWEST} betas that a curve takes"
    while len(betas) < FEWEST:
        gaps = [(after / before, before, after) for before, after in itertools.pairwise(sorted(betas))]
        ratio, before, after = max(gaps, default=(1.0, betas[0], betas[0]))
        if ratio >= _STEP:
            beta = math.sqrt(before * after)
        else:
            beta, upwards = (max(betas) * _STEP if upwards else min(betas) / _STEP), not upwards
        betas.append(_rounded(beta))
        yield Place(row, {"beta": betas[-1]}, why)


def candidates(smooth: Smooth, posterior: Posterior, frame: pd.DataFrame) -> Iterator[Place]:
    """Give settings that nobody has run: along each axis of ``smooth``, all else being as it is in some setting.

    ``frame`` has all runs, those that have no score yet among them.
    """
    scores = posterior.scores
    for curve in np.unique(scores.curves):
        own = np.flatnonzero(scores.curves == curve)
        for position, axis in enumerate(smooth.axes):
            sides = _sides(posterior, own, position)
            for alike in _lines(own, np.delete(scores.places, position, axis=1)[own]):
                line = alike[np.argsort(scores.places[alike, position], kind="stable")]
                rows, known = smooth.settings.iloc[line], scores.places[line, position]
                if known[0] < known[-1]:
                    lost = [each.row for each in smooth.destroyed]
                    yield from _Line(axis, rows, known, sides).places(lost, frame)


def _sides(posterior: Posterior, own: Integers, position: int) -> set[int]:
    """Give the ends of an axis, -1 or 1, at which the best of a curve's ``own`` settings is likely to lie."""
    share = np.bincount(posterior.draws[:, own].argmax(axis=1), minlength=len(own)) / len(posterior.draws)
    units = posterior.scores.places[own, position]
    ends = {-1: units.min(), 1: units.max()}
    return {side for side, end in ends.items() if share[units == end].sum() >= _EDGE}


def _lines(own: Integers, others: Floats) -> Iterator[Integers]:
    """Give the settings of each line along an axis: those that are alike on the others."""
    _, which = np.unique(others.round(9), axis=0, return_inverse=True)
    return (own[which.reshape(-1) == line] for line in range(int(which.max()) + 1))


@dataclass(frozen=True)
class _Line:
    """Settings that differ along one axis only, in its order; ``known`` (n,) is where they lie on it.

    ``sides``: the ends, -1 or 1, beyond which there is something to look for.
    """

    axis: Along
    rows: pd.DataFrame
    known: Floats
    sides: set[int]

    def places(self, lost: Sequence[pd.Series], frame: pd.DataFrame) -> Iterator[Place]:
        """Give the places between and beyond; ``lost`` are destroyed settings of the model, of every loss."""
        values = [self.axis.value(each, self._loss) for each in self.known]
        tried = sorted({*values, *self._betas(frame)})
        shut = self._betas(pd.DataFrame(list(lost)))
        taken = [*self.known, *(self.axis.unit(each, self._loss) for each in self._betas(frame))]
        for unit in self._units():
            value = _rounded(self.axis.value(unit, self._loss))
            place = self.axis.unit(value, self._loss)
            side = -1 if place < self.known[0] else 1 if place > self.known[-1] else 0
            near = min(abs(place - each) for each in taken) < _NEAR
            if near or (side and side not in self.sides) or not all(_apart(values, value, each) for each in shut):
                continue
            taken.append(place)
            row = self.rows.iloc[int(np.abs(self.known - place).argmin())]
            yield Place(row, {self.axis.key: value}, self._why(tried, value))

    def _units(self) -> Iterator[float]:
        """Give where places could lie, the middles of gaps first."""
        gaps = np.diff(self.known)
        for share in _SHARES:
            yield from (self.known[:-1] + share * gaps)[gaps > 0]
        usual = float(np.median(gaps[gaps > 0]))
        for step in _BEYOND:
            yield from (self.known[0] - step * usual, self.known[-1] + step * usual)

    def _betas(self, rows: pd.DataFrame) -> list[float]:
        """Give the betas of rows that are of the line's loss and setting."""
        if self.axis.key != "beta" or rows.empty:
            return []
        first = self.rows.iloc[0]
        keys = ("model", "dataset", "loss_type", "setting")
        alike = np.logical_and.reduce([rows[key] == first[key] for key in keys])
        return [float(each) for each in rows[alike]["beta"].dropna()]

    def _why(self, tried: Sequence[float], value: float) -> str:
        """Say where a value lies among those that were run, or will be."""
        name = self.axis.key.rpartition(".")[2]
        below, above = [each for each in tried if each < value], [each for each in tried if each > value]
        if below and above:
            return f"between {name} {number(below[-1])} and {number(above[0])}"
        return f"beyond the {'highest' if below else 'lowest'} {name}, where the best may lie"

    @property
    def _loss(self) -> str:
        return str(self.rows.iloc[0]["loss_type"] or "?")


def _apart(values: Sequence[float], one: float, other: float) -> bool:
    """Tell whether one of ``values`` lies between two others."""
    low, high = sorted((one, other))
    return any(low < each < high for each in values)


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
