"""`metrics.jsonl`: a line each time that a step of a training was logged. `saves.jsonl`: one for each checkpoint.

A step that is done again after a fault is logged again; the last line counts.

Owns: what a line says, and which lines a run's curve has.
Must not know: who logs, what follows from the numbers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import median_low

from launcher.store.files import Count, Plain, Seconds, read_lines, tail, typed
from launcher.store.throughput import Throughput

LAST = 3  # lines that tell the pace


@dataclass(frozen=True)
class Logged(Throughput):
    """A line; None is what it does not say. What a Throughput has is of the steps since the line before, too.

    Attributes:
        step, max_steps: optimizer steps so far, and how many there will be.
        loss, reward_accuracy, reward_margin, learning_rate, grad_norm: of the steps since the line before.
        seconds, seconds_per_step: what those took.
        time: when it was written, in seconds since 1970.
    """

    step: Count | None = None
    max_steps: Count | None = None
    loss: float | None = None
    reward_accuracy: float | None = None
    reward_margin: float | None = None
    learning_rate: float | None = None
    grad_norm: float | None = None
    seconds: Seconds | None = None
    seconds_per_step: Seconds | None = None
    time: Seconds | None = None


@dataclass(frozen=True)
class Saved:
    """A line of `saves.jsonl`: the checkpoint of this step took so many seconds, from its first byte to its marker."""

    step: Count
    seconds: Seconds


def longest_save(path: Path) -> float | None:
    """The seconds of the slowest checkpoint of a run; None where none is known.

    Raises:
        StoreError: names a value that cannot be.
    """
    return max((typed(line, Saved, path).seconds for line in read_lines(path) if "seconds" in line), default=None)


def read_metrics(path: Path) -> list[Plain]:
    """The whole lines of a metrics log, as they are; none where there is no log.

    Raises:
        StoreError: a value is of a type that it cannot have: names the file and the value.
    """
    return [_checked(line, path) for line in read_lines(path)]


def last_metrics(path: Path) -> Plain:
    """The last whole line of a metrics log, read from its end; empty where there is none.

    Its `seconds_per_step` is the median of the last lines': after a restart, the first step compiles.

    Raises:
        StoreError: as of all lines.
    """
    try:
        lines = tail(path).splitlines()
    except FileNotFoundError:
        return {}
    last = [_checked(line, path) for line in islice(_whole(reversed(lines)), LAST)]
    paces = [pace for record in last if isinstance(pace := record.get("seconds_per_step"), (int, float))]
    return last[0] | ({"seconds_per_step": median_low(paces)} if paces else {}) if last else {}


def _whole(lines: Iterable[bytes]) -> Iterator[Plain]:
    """Those that were neither torn by a crash nor cut by the tail's beginning."""
    for line in lines:
        with suppress(ValueError):
            record = json.loads(line)
            if isinstance(record, dict):
                yield record


def _checked(line: Plain, path: Path) -> Plain:
    typed(line, Logged, path)
    return line
