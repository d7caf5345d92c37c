"""The curve of a run at work: points of `metrics.jsonl`, as few as can be shown, read on where it has grown.

Owns: which of many lines stand for the curve, and that no more is read of a log than these take.
Must not know: who shows a curve.

A log of a long training has megabytes, and a sweep has many: of a long one, lines at even distances are read.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from launcher.errors import StoreError
from launcher.store.files import Plain, typed
from launcher.store.metrics_log import Logged
from launcher.store.reading import opened, rest_of

POINTS = 64  # of a curve, at least, where there are so many; at most twice as many
WHOLE_BYTES = 1 << 16  # so much is read as it is
LINE_BYTES = 2048  # in which a whole line is found
KEYS = ("loss", "reward_margin", "reward_accuracy")


@dataclass(frozen=True, slots=True)
class Dot:
    """What is shown of a logged step; None is what the line does not say, or what is no finite number."""

    step: int
    loss: float | None
    reward_margin: float | None
    reward_accuracy: float | None


@dataclass
class Curve:
    """The points of one log, in the order of their steps, and how many there will be; `refresh` reads on."""

    path: Path
    dots: list[Dot] = field(default_factory=list)
    max_steps: int | None = None
    _read: int = 0  # bytes, up to the end of the last whole line
    _file: int = 0  # the inode: a log may be set aside and begun again

    @property
    def last(self) -> Dot | None:
        """The step logged last."""
        return self.dots[-1] if self.dots else None

    def values(self, key: str) -> list[float]:
        """The finite values of one of KEYS, in order."""
        found = (getattr(dot, key) for dot in self.dots)
        return [value for value in found if value is not None]

    def refresh(self) -> None:
        """Read what the log has more than before; a log that cannot be read, or is not there, adds nothing."""
        with suppress(OSError, StoreError), opened(self.path) as (handle, size):
            inode = os.fstat(handle).st_ino
            if size < self._read or inode != self._file:
                self.dots, self._read, self._file = [], 0, inode
            if size > self._read:
                self._take(_lines(self._added(handle, size)))

    def _added(self, handle: int, size: int) -> Iterator[bytes]:
        """Pieces of whole lines from where the last reading ended."""
        if size - self._read > WHOLE_BYTES:
            step = (size - WHOLE_BYTES - self._read) / POINTS
            for place in range(POINTS):
                os.lseek(handle, self._read + int(place * step), os.SEEK_SET)
                piece = os.read(handle, LINE_BYTES)
                if place or self._read:
                    piece = piece.partition(b"\n")[2]  # its first line may be cut
                yield piece.partition(b"\n")[0]
            self._read = size - WHOLE_BYTES
            os.lseek(handle, self._read, os.SEEK_SET)
            cut = rest_of(handle, WHOLE_BYTES)
            start = cut.find(b"\n") + 1
            self._read += start
            added = cut[start:]
        else:
            os.lseek(handle, self._read, os.SEEK_SET)
            added = rest_of(handle, size - self._read)
        whole = added[: added.rfind(b"\n") + 1]
        self._read += len(whole)
        yield whole

    def _take(self, lines: Iterable[Plain]) -> None:
        for line in lines:
            logged = _logged(line, self.path)
            if logged is None or logged.step is None:
                continue
            self.max_steps = logged.max_steps
            dot = Dot(logged.step, *(_finite(getattr(logged, key)) for key in KEYS))
            while self.dots and self.dots[-1].step >= dot.step:  # a step that is done again after a fault counts last
                self.dots.pop()
            self.dots.append(dot)
        self.dots = thinned(self.dots)


def thinned(dots: Sequence[Dot]) -> list[Dot]:
    """At most twice POINTS, at about even distances of their steps, the first and the last among them."""
    if len(dots) <= 2 * POINTS:
        return list(dots)
    first, last = dots[0].step, dots[-1].step
    kept: dict[int, Dot] = {}
    for dot in dots:
        kept[(dot.step - first) * POINTS // max(1, last - first)] = dot
    return [dots[0], *(dot for place, dot in kept.items() if place)]


def _lines(pieces: Iterable[bytes]) -> Iterator[Plain]:
    for piece in pieces:
        for line in piece.split(b"\n"):
            with suppress(ValueError):
                record = json.loads(line)
                if isinstance(record, dict):
                    yield record


def _logged(line: Plain, path: Path) -> Logged | None:
    with suppress(StoreError):
        return typed(line, Logged, path)
    return None


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


class Curves:
    """The curves of several runs, each kept between two looks."""

    def __init__(self) -> None:
        self._found: dict[Path, Curve] = {}

    def of(self, path: Path, *, refreshed: bool) -> Curve:
        """The curve of this log; `refreshed`: with what was added to it since."""
        curve = self._found.setdefault(path, Curve(path))
        if refreshed:
            curve.refresh()
        return curve
