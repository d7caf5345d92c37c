"""Where things go on a plane: axes that suit the data and labels that do not cover each other.

Owns: the arithmetic of positions. Must not know: Altair, sweeps.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

_LOG_FROM = 20  # a logarithmic axis from this ratio of largest to smallest on
_LOG_TO = 1e12  # and up to this one: beyond, the smallest values are rounding errors
_FEW_POWERS = 4
_LABEL = (28.0, 14.0)  # width and height of a label in pixels
_MARK = 9.0  # side of a mark in pixels
_TRIES = [(angle, radius) for radius in (16.0, 24.0, 34.0) for angle in (40, 140, 220, 320, 0, 180, 90, 270)]

Position = tuple[float, float]


@dataclass(frozen=True)
class Axis:
    """An axis from ``low`` to ``high``; ``ticks`` are the values seen, sorted."""

    low: float
    high: float
    log: bool
    ticks: tuple[float, ...]

    @classmethod
    def of(cls, values: Iterable[float], *, log: bool | None = None) -> Axis:
        """Fit an axis to ``values`` (NaN left out) with a margin of 6 %; ``log`` None: where it suits."""
        ticks = tuple(sorted({value for value in values if math.isfinite(value)})) or (0.0, 1.0)
        low, high = ticks[0], ticks[-1]
        log = (low > 0 and _LOG_FROM <= high / low <= _LOG_TO) if log is None else log
        if log:
            margin = (high / low) ** 0.06
            return cls(low / margin, high * margin, log=True, ticks=ticks)
        margin = 0.06 * (high - low) or 0.1 * abs(high) or 0.1
        return cls(low - margin, high + margin, log=False, ticks=ticks)

    def round_ticks(self) -> list[float]:
        """Give the powers of ten on a logarithmic axis, with their 2- and 5-folds if they are few; else nothing."""
        if not self.log:
            return []
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        steps = (1, 2, 5) if len(powers) <= _FEW_POWERS else (1,)
        ticks = [step * 10.0**power for power in powers for step in steps]
        return [tick for tick in ticks if self.low <= tick <= self.high]

    def unit(self, value: float) -> float:
        """Map a value to 0 (low) .. 1 (high)."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def value(self, unit: float) -> float:
        """Map 0..1 back to a value."""
        if self.log:
            return self.low * float((self.high / self.low) ** unit)
        return self.low + unit * (self.high - self.low)

    def move(self, value: float, share: float) -> float:
        """Shift a value by a share of the axis' length."""
        return self.value(self.unit(value) + share)


def spread_evenly_in_log(values: Iterable[float]) -> bool:
    """Tell whether positive ``values`` lie more evenly on a logarithmic axis: its smallest gap is the larger share."""
    ticks = sorted(set(values))
    if len(ticks) < 2 or ticks[0] <= 0:  # noqa: PLR2004 - two values have one gap
        return False
    return _smallest_gap([math.log(tick) for tick in ticks]) > _smallest_gap(ticks)


def _smallest_gap(ticks: Sequence[float]) -> float:
    return min(after - before for before, after in pairwise(ticks)) / (ticks[-1] - ticks[0])


def place(points: Sequence[Position], marks: Sequence[Position], size: Position) -> list[Position]:
    """Give each point's label a place among ``marks``; positions are 0..1 of a panel of ``size`` pixels, y upwards.

    Greedy: of 24 places around the point, the first that covers no mark and no earlier label, else the one
    that covers the least. Labels stay inside the panel.
    """
    points, marks = ([(x * size[0], y * size[1]) for x, y in group] for group in (points, marks))
    taken: list[Position] = []
    for point in points:
        tries = [_inside(_around(point, angle, radius), size) for angle, radius in _TRIES]
        taken.append(min(tries, key=lambda at: _cover(at, marks, taken)))
    return [(x / size[0], y / size[1]) for x, y in taken]


def _around(mark: Position, angle: float, radius: float) -> Position:
    turn = math.radians(angle)
    return mark[0] + 1.5 * radius * math.cos(turn), mark[1] + radius * math.sin(turn)


def _inside(at: Position, size: Position) -> Position:
    half = (_LABEL[0] / 2, _LABEL[1] / 2)
    return min(max(at[0], half[0]), size[0] - half[0]), min(max(at[1], half[1]), size[1] - half[1])


def _cover(at: Position, marks: Sequence[Position], labels: Sequence[Position]) -> float:
    side = (_MARK, _MARK)
    return sum(_overlap(at, mark, side) for mark in marks) + sum(_overlap(at, each, _LABEL) for each in labels)


def _overlap(at: Position, other: Position, size: Position) -> float:
    """Give the area in which a label at ``at`` covers a box of ``size`` at ``other``."""
    wide, tall = ((_LABEL[i] + size[i]) / 2 - abs(at[i] - other[i]) for i in (0, 1))
    return max(wide, 0) * max(tall, 0)
