"""Attempts whose record is gone, empty or damaged though a batch's list of work names them: a job may make them.

Owns: which those are, their jobs, what is said of them. Must not know: schedulers, what is done with such a run.

Without its record an attempt looks as if it had never been asked for, and its run would be submitted beside its job.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from launcher.errors import StoreError
from launcher.runs.status import Gone
from launcher.store.attempts import Attempts
from launcher.store.facts import Job
from launcher.store.reading import is_there
from launcher.store.run_folder import AttemptDir


@dataclass(frozen=True, slots=True)
class Listed:
    """An attempt as the list of its batch has it: its name, the batch's folder, and which of its jobs makes it."""

    name: str
    batch: Path
    index: int


def lost_of(attempts: Attempts, listed: Mapping[str, Sequence[Listed]]) -> list[tuple[AttemptDir, Listed]]:
    """The attempts at a run of which only the lists tell, and that have not failed.

    None where the run's whole folder was removed: so a run is had anew.
    """
    if attempts.run.run_id not in listed or not attempts.run.names(attempts.run.path):
        return []
    known = {attempt.path.name: attempt for attempt in attempts.all}
    folder, seen = attempts.run.path / "attempts", attempts.run.seen
    pairs = ((known.get(e.name) or AttemptDir(folder / e.name, seen), e) for e in listed[attempts.run.run_id])
    return [(attempt, each) for attempt, each in pairs if _is_lost(attempt)]


def _is_lost(attempt: AttemptDir) -> bool:
    with contextlib.suppress(StoreError):
        if attempt.record.batch is not None:
            return False
    return not attempt.has(attempt.failure_file) and not attempt.has(attempt.job_file)


def gone_of(attempts: Attempts, listed: Mapping[str, Sequence[Listed]]) -> tuple[Gone, ...]:
    """The jobs that were handed over to make those, each with what is said of its attempt."""
    found = ((attempt, attempt.job_in(each.batch, each.index)) for attempt, each in lost_of(attempts, listed))
    return tuple((job, _in_words(attempt, job)) for attempt, job in found if job)


def _in_words(attempt: AttemptDir, job: Job) -> str:
    there = is_there(attempt.attempt_file)
    file = attempt.attempt_file if there else attempt.run.path / f"attempt-{attempt.path.name}.json"
    what, remedy = ("cannot be used", "put it right") if there else ("is not there", "put it back")
    away = " and move it away" if there else ""
    ended = f"cancel job {job.job_id} by hand{away}, and launch again once it has ended"
    return f"{file}: {what}, and job {job.job_id} has the run in its hands: {remedy}, or {ended}"
