"""Nodes on which runs end before they begin, one after another: each free place draws the next.

Owns: when a node is taken for one, by how the last attempts of a sweep's runs have ended.
Must not know: schedulers, files, what is done about it.

A run may fail at once through its own fault, and all may, where what they share is broken. So it takes several ends on
a node, and other nodes on which runs do well; or several where nothing has been tried on any other node. A job counts
once, however many runs waited for it. Where jobs end on several nodes, and no run has begun since, it is not
the nodes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from launcher.cluster.job_state import JobState, Phase
from launcher.cluster.scheduler import JobKey, key_of
from launcher.runs.moved import has_moved
from launcher.runs.run_state import RunState
from launcher.runs.status import Status
from launcher.store.facts import Job

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


def black_holes(states: Iterable[RunState], learnt: Collection[str] = ()) -> dict[str, BlackHole]:
    """The nodes that runs of a sweep should keep away from, by name; `learnt`: those that they do by now."""
    states = list(states)
    ended = _ended(states)
    if ends_everywhere(states, learnt):
        return {}
    well = {_node(state) for state in states if _does_well(state)} - {None}
    found = {node: BlackHole(node, len(bad), bad[-1].reason or "") for node, bad in ended.items()}
    return {node: found[node] for node, bad in ended.items() if _is_hole(node, bad, ended, well)}


def _ended(states: Iterable[RunState]) -> dict[str, list[RunState]]:
    """By node, of each job that has ended there before it began, or at once, one of its runs."""
    ended: dict[str, dict[JobKey, RunState]] = {}
    for state in states:
        node, job = _node(state), _job_record(state)
        if node and job and (never_began(state) or _ended_at_once(state)):
            ended.setdefault(node, {}).setdefault(key_of(job), state)
    return {node: list(jobs.values()) for node, jobs in ended.items()}


def ends_everywhere(states: Sequence[RunState], learnt: Collection[str]) -> bool:
    """Whether runs end before they begin on several nodes, and none has begun since: it is what they share."""
    # Not of a table's jobs, which come one after another: nothing that does well could speak for the nodes.
    unbegun = _ended(state for state in states if never_began(state) and not _lacks_table(state))
    if not unbegun or len(unbegun.keys() | set(learnt)) < FEW:
        return False
    first = min(each.facts.submitted for bad in unbegun.values() for each in bad)
    return all(state.facts.began is not None and state.facts.began < first for state in states if state.facts.started)


def _is_hole(node: str, bad: list[RunState], ended: Mapping[str, object], well: set[str | None]) -> bool:
    begun = sum(not never_began(state) for state in bad)
    if well - ended.keys():
        return len(bad) - begun >= (SEVERAL if node in well else FEW) or (node not in well and len(bad) >= SEVERAL)
    return len(ended) == 1 and len(bad) - begun >= SEVERAL


def _lacks_table(state: RunState) -> bool:
    return state.table.phase is Phase.FAILED and not state.facts.started and state.job.phase is not Phase.FAILED


def _job(state: RunState) -> JobState:
    """The job that ended under it: its own, or that of its reference table, for which it has waited."""
    return state.table if _lacks_table(state) else state.job


def _job_record(state: RunState) -> Job | None:
    return state.facts.table if _lacks_table(state) else state.facts.job


def never_began(state: RunState) -> bool:
    """Whether its job ended before it came to the run, for no reason of the job's own that is known."""
    facts = state.facts
    unexplained = facts.failure is None and facts.table_failure is None and state.cause is None
    if state.status is not Status.FAILED or facts.started or not unexplained:
        return False
    return _job(state).phase is not Phase.CANCELLED and not has_moved(_job_record(state), state.run.path.parents[1])


def _ended_at_once(state: RunState) -> bool:
    facts = state.facts
    lasted = facts.lasted is not None and facts.lasted < AT_ONCE_SECONDS
    return state.status is Status.FAILED and facts.started and lasted and facts.step is None and state.cause is None


def _does_well(state: RunState) -> bool:
    return state.facts.started and (state.facts.trained or state.status is Status.RUNNING or bool(state.facts.step))


def _node(state: RunState) -> str | None:
    """The node on which its last attempt was, if it was one."""
    return single(_job(state).node or state.facts.host)


def single(node: str | None) -> str | None:
    """The node; None where there were several, of which nobody knows which it was."""
    return None if node is None or "[" in node or "," in node else node
