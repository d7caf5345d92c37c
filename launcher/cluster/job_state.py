"""What a scheduler says of a job, in words that all schedulers share.

Owns: those words. Must not know: any scheduler's own, runs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from launcher.store.facts import Cause

SUSPENDED = "suspended"  # the reason of a job that has its nodes and stands still
LAG_SECONDS = 15.0  # a scheduler may not show a job for so long after accepting it


class Phase(StrEnum):
    """What a scheduler says of a job, in words that every scheduler shares."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"
    HIDDEN = "hidden"  # not shown to us, and perhaps at work: another user's, another cluster's, or nobody can say
    UNKNOWN = "unknown"  # not known to the scheduler (any more)


@dataclass(frozen=True)
class JobState:
    """A job's phase, the scheduler's own words for the reason, the node where it is or was, and the cause in ours.

    The words are for the eyes of the user alone. `rank_told`: whether they say which rank was the first to go.
    `minutes`: whole ones, for how long it has run since it started last; None where nobody says.
    `place`: of a job that waits, its place among those that were asked about, the first to start being 1; `start`: when
    it is expected to, in seconds since 1970; None where nobody says. Both change with every answer.
    `only_there`: whether only another machine can say, so that it is taken to be so. `cluster`: the one that has the
    job, where another one answers here.
    """

    phase: Phase
    reason: str | None = None
    node: str | None = None
    cause: Cause | None = None
    rank_told: bool = False
    minutes: int | None = None
    only_there: bool = False
    cluster: str | None = None
    place: int | None = field(default=None, compare=False)
    start: float | None = field(default=None, compare=False)


UNKNOWN = JobState(Phase.UNKNOWN)


BAD_ENDS = frozenset({Phase.FAILED, Phase.CANCELLED, Phase.TIMEOUT})
