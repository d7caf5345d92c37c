"""What this process's main thread is doing, as it announces itself, for those who judge whether it hangs.

Owns: the phase that the main thread is in, how much of it is done, how often it has moved.
Must not know: who looks at it, other ranks, runs.

The main thread alone announces. A phase says ahead how long it may take from one sign of progress to the next; where
there is something to count, each `bump` is such a sign.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

# Seconds without a sign of progress. Generous: too long costs some GPU-hours once, too short ends work that was sound.
LONGEST = 6 * 3600.0  # that anything may take which does not wait for others
UNNAMED = 3600.0  # of what has no phase of its own
READING = 7200.0
LOADING = 7200.0  # perhaps fetched first
REFERENCE = 1800.0  # a batch, and the first one compiles
FIRST_STEP = 3600.0  # compiles, and skips what was trained on before
SAVING = 7200.0
EVALUATING = 3600.0  # a batch
PUBLISHING = LONGEST  # one file may be a whole model
FOR_EVER = math.inf  # waits for somebody who judges himself
STEPS = 20  # so many mean steps without one that is done are a hang


@dataclass(frozen=True)
class Doing:
    """A phase of the main thread.

    Attributes:
        phase: its name.
        seconds: how long it may take until the next sign of progress.
        done, of: what is countable in it.
        since: when it began, in seconds since 1970.
        bumps: how often it has moved; the same on all ranks that are equally far.
    """

    phase: str
    seconds: float = UNNAMED
    done: int = 0
    of: int | None = None
    since: float = 0.0
    bumps: int = 0


_stack: list[Doing] = [Doing("starting", since=time.time())]  # about when the process began
_moves = 0
_least = 300.0


def now() -> Doing:
    """The innermost phase."""
    return _stack[-1]


def allowed() -> float:
    """Seconds without a sign of progress that are not yet a hang."""
    return max(_least, now().seconds)


def judge_from(seconds: float) -> None:
    """Nothing shorter than this counts as a hang."""
    global _least  # noqa: PLW0603 - a process has one main thread
    _least = seconds


def moves() -> int:
    """How many signs of progress there have been; who sees the same number twice has seen none."""
    return _moves


@contextmanager
def phase(name: str, seconds: float = UNNAMED, of: int | None = None) -> Iterator[None]:
    """Within, the main thread is in this phase, and back in the one around it afterwards."""
    _stack.append(Doing(name, seconds, of=of, since=time.time()))
    _moved()
    depth = len(_stack)
    try:
        yield
    finally:
        del _stack[depth - 1 :]
        _moved()


def bump(done: int | None = None, *, of: int | None = None, seconds: float | None = None) -> None:
    """A sign of progress in this phase.

    Args:
        done: how much is done now, where that is countable.
        of: how much there will be, where that is known only now.
        seconds: until the next sign, from now on.
    """
    doing = _stack[-1]
    _stack[-1] = replace(
        doing,
        bumps=doing.bumps + 1,
        done=doing.done if done is None else done,
        of=doing.of if of is None else of,
        seconds=doing.seconds if seconds is None else seconds,
    )
    _moved()


def _moved() -> None:
    global _moves  # noqa: PLW0603 - a process has one main thread
    _moves += 1


class Pace:
    """How long the steps of a training take; tells after each one how long the next may."""

    def __init__(self) -> None:
        self._began, self._steps = time.perf_counter(), 0

    def step(self, done: int, of: int) -> None:
        """One more is done: the step `done` of `of`."""
        self._steps += 1
        mean = (time.perf_counter() - self._began) / self._steps
        bump(done, of=of, seconds=STEPS * mean)
