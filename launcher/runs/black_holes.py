"""Nodes on which runs end before they begin, one after another: each free place draws the next.

Owns: when a node is taken for one, by how the last attempts of a sweep's runs have ended.
Must not know: schedulers, files, what is done about it.

A run may fail at once through its own fault, and all may, where what they share is broken. So it takes several ends on
a node, and other nodes on which runs do well; or several where nothing has been tried on any other node.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from launcher.cluster.job_state import JobState, Phase
from launcher.runs.run_state import RunState
from launcher.runs.status import Status

FEW, SEVERAL = 2, 3
AT_ONCE_SECONDS = 60.0


@dataclass(frozen=True)
class BlackHole:
    """A node, how many runs have ended there before they began or at once, and why the last one did."""

    node: str
    runs: int
    reason: str

    @property
    def in_words(self) -> str:
        """For whoever may have the node mended."""
        return f"{self.node}: {self.runs} runs ended there before they began; look at it, or give cluster.exclude"


def black_holes(states: Iterable[RunState]) -> dict[str, BlackHole]:
    """The nodes that runs of a sweep should keep away from, by name."""
    states = list(states)
    ended: dict[str, list[RunState]] = {}
    for state in states:
        if (node := _node(state)) and (never_began(state) or _ended_at_once(state)):
            ended.setdefault(node, []).append(state)
    well = {_node(state) for state in states if _does_well(state)} - {None}
    found = {node: BlackHole(node, len(bad), bad[-1].reason or "") for node, bad in ended.items()}
    return {node: found[node] for node, bad in ended.items() if _is_hole(node, bad, ended, well)}


def _is_hole(node: str, bad: list[RunState], ended: Mapping[str, object], well: set[str | None]) -> bool:
    begun = sum(not never_began(state) for state in bad)
    if well - ended.keys():
        return len(bad) - begun >= (SEVERAL if node in well else FEW) or (node not in well and len(bad) >= SEVERAL)
    return len(ended) == 1 and len(bad) - begun >= SEVERAL


def _job(state: RunState) -> JobState:
    """The job that ended under it: its own, or that of its reference table, for which it has waited."""
    return state.table if state.table.phase is Phase.FAILED and not state.facts.started else state.job


def never_began(state: RunState) -> bool:
    """Whether its job ended before it came to the run, for no reason of the job's own that is known."""
    facts = state.facts
    unexplained = facts.failure is None and facts.table_failure is None and state.cause is None
    return state.status is Status.FAILED and not facts.started and unexplained


def _ended_at_once(state: RunState) -> bool:
    facts = state.facts
    lasted = facts.lasted is not None and facts.lasted < AT_ONCE_SECONDS
    return state.status is Status.FAILED and facts.started and lasted and facts.step is None and state.cause is None


def _does_well(state: RunState) -> bool:
    return state.facts.started and (state.facts.trained or state.status is Status.RUNNING or bool(state.facts.step))


def _node(state: RunState) -> str | None:
    """The node on which its last attempt was; None where there were several, of which nobody knows which it was."""
    node = _job(state).node or state.facts.host
    return None if node is None or "[" in node or "," in node else node
