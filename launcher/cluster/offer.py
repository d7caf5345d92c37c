"""What a partition gives a job, in words that all schedulers share.

Owns: those words. Must not know: any scheduler's own, what follows for a run.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Offer:
    """What a job may have where it is to go; None: nobody says, or there is no limit.

    Attributes:
        nodes: how many there are.
        minutes: a job's time limit where it names none.
        most_minutes: the longest limit that it may name.
    """

    nodes: int | None = None
    minutes: int | None = None
    most_minutes: int | None = None
