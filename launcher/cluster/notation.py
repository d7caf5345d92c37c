"""Time limits and sizes of memory as sbatch takes them, and as numbers.

Owns: the two notations. Pure.
Must not know: which key a value is of.
"""

from __future__ import annotations

import math
import re

_TIME = re.compile(r"(\d+-\d+(:\d+){0,2}|\d+(:\d+){0,2})")
_UNLIMITED = ("unlimited", "infinite")
_MEMORY = re.compile(r"(\d+)([KMGT]?)B?", re.IGNORECASE)
_UNITS = {"K": 1 / 1024, "": 1, "M": 1, "G": 1024, "T": 1024**2}  # sbatch counts in MiB


def minutes(limit: str | None) -> int | None:
    """A time limit in whole minutes, rounded up; None where it is no time. SLURM takes 0 for no limit."""
    if limit and limit.lower() in _UNLIMITED:
        return 0
    found = _seconds(limit)
    return None if found is None else -(-found // 60)


def minutes_passed(time: str | None) -> int | None:
    """The whole minutes of a time that has passed; None where it is none."""
    found = _seconds(time)
    return None if found is None else found // 60


def _seconds(limit: str | None) -> int | None:
    if not _TIME.fullmatch(limit or ""):
        return None
    days, dash, rest = str(limit).rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if dash:  # days-hours[:minutes[:seconds]]
        hours, mins, seconds = (*parts, 0, 0)[:3]
    else:  # minutes, or minutes:seconds, or hours:minutes:seconds
        hours, mins, seconds = {1: (0, *parts, 0), 2: (0, *parts), 3: tuple(parts)}[len(parts)]
    return (int(days or 0) * 1440 + hours * 60 + mins) * 60 + seconds


def megabytes(size: str | None) -> int | None:
    """A size of memory in MiB, rounded up; None where it is none."""
    match = _MEMORY.fullmatch(size or "")
    return math.ceil(int(match[1]) * _UNITS[match[2].upper()]) if match else None
