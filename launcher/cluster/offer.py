"""What a partition gives a job, in words that all schedulers share.

Owns: those words, and how many nodes a job may keep away from.
Must not know: any scheduler's own words, what follows for a run.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from launcher.cluster.node_list import count


@dataclass(frozen=True)
class Offer:
    """What a job may have where it is to go; None: nobody says, or there is no limit.

    Attributes:
        nodes: how many there are.
        minutes: a job's time limit where it names none.
        most_minutes: the longest limit that it may name.
        unlisted: partitions that the job names, and the scheduler does not.
    """

    nodes: int | None = None
    minutes: int | None = None
    most_minutes: int | None = None
    unlisted: tuple[str, ...] = ()

    def has_enough(self, nodes: int, without: Iterable[str]) -> bool:
        """Whether a job of so many nodes may keep away from these: as many are left to it, and half of all.

        Else it would wait for ever, or for a fault that is no node's. Where nobody says how many there are, it may.
        """
        return self.nodes is None or self.nodes - count(without) >= max(nodes, self.nodes / 2)
