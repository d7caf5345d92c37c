"""How SLURM writes the ids of jobs: `7`, the task `7_1` of an array, several of one as `7_[0-3,9%2]`. Pure.

Owns: that notation, both ways. Must not know: which job an id is of.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

JOB_ID = re.compile(r"(?P<job>[0-9]{1,18})(?:_[0-9]{1,18}|_\[(?P<tasks>[^\]]*)\])?(?:\+[0-9]+)?")
MOST_TASKS = 4_000_001  # man slurm.conf, MaxArraySize


def task_ids(text: str) -> list[str]:
    """The ids that one id column means: `7`, `7_1`, `7_[0-3,9%2]`; what squeue left out (`...`) is left out.

    None where that is no id.
    """
    match = JOB_ID.fullmatch(text)
    if match is None:
        return []
    if match["tasks"] is None:
        return [text]
    parts = match["tasks"].split("%")[0].split(",")
    return [f"{match['job']}_{index}" for part in parts for index in _indices(part)]


def _indices(part: str) -> range:
    match = re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?(?::([0-9]{1,9}))?", part)
    if not match:
        return range(0)
    found = range(int(match[1]), int(match[2] or match[1]) + 1, max(1, int(match[3] or "1")))
    return found if len(found) <= MOST_TASKS else range(0)


def folded(ids: Iterable[str]) -> list[str]:
    """Ids with those of one array as one, `7_[0-3,9]`: a command then asks the controller once for each array."""
    tasks: dict[str, list[int]] = {}
    for job, _, index in (each.partition("_") for each in ids):
        tasks.setdefault(job, []).extend([int(index)] if index else [])
    return [f"{job}_[{_ranges(sorted(found))}]" if found else job for job, found in tasks.items()]


def _ranges(indices: Iterable[int]) -> str:
    """Ascending numbers as SLURM writes them: `0-3,9`."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][1] + 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
