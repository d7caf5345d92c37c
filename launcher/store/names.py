"""The names in an output folder that tell something: those of attempts, starts, checkpoints, milestones, launches.

Owns: the pattern of each, and what a name tells. Must not know: where such a file lies, what it holds.

Whatever has another name, somebody else has put there: a copy aside, a note, what a file browser leaves. It is none of
ours, and stays as it is.
"""

from __future__ import annotations

import re

EVALUATION_SUFFIX = ".evaluation"
_EVALUATION = re.escape(EVALUATION_SUFFIX)
_ATTEMPT = re.compile(rf"[0-9]+(?:{_EVALUATION})?")
_ATTEMPT_FILE = re.compile(rf"attempt-({_ATTEMPT.pattern})\.json")
_START = re.compile(rf"([0-9]+)({_EVALUATION})?\.([0-9]+)")
_CHECKPOINT = re.compile(r"checkpoint-([1-9][0-9]*)")
_MILESTONE = re.compile(r"[0-9]{6}|[1-9][0-9]{6,}")
_LAUNCH = re.compile(r"([0-9]{3,})\.json")


def is_attempt(name: str) -> bool:
    """Whether an attempt's folder has this name: `001`, `002.evaluation`."""
    return _ATTEMPT.fullmatch(name) is not None


def attempt_in(file: str) -> str | None:
    """The attempt of which a file of this name is the record."""
    match = _ATTEMPT_FILE.fullmatch(file)
    return match[1] if match else None


def start_in(name: str) -> tuple[int, bool, int] | None:
    """Of the start of this name the number of its attempt, whether that evaluates, and its own number."""
    match = _START.fullmatch(name)
    return (int(match[1]), match[2] is not None, int(match[3])) if match else None


def order_of(name: str) -> tuple[int, int]:
    """The number of the attempt that a start of this name takes up, and its own; lowest where that names no start."""
    parts = start_in(name)
    return parts[::2] if parts else (0, 0)


def step_in(checkpoint: str) -> int | None:
    """The optimizer step at which a checkpoint of this name was written."""
    match = _CHECKPOINT.fullmatch(checkpoint)
    return int(match[1]) if match else None


def milestone_in(name: str) -> int | None:
    """The step of the milestone whose folder has this name."""
    return int(name) if _MILESTONE.fullmatch(name) else None


def launch_in(file: str) -> int | None:
    """The number of the launch of which a file of this name is the record."""
    match = _LAUNCH.fullmatch(file)
    return int(match[1]) if match else None
