"""What is cancelled: the runs that are to stop, their jobs, and the tables that nobody else waits for.

Owns: which jobs are of no use any more once these runs stop.
Must not know: how an executor works, how anything is printed, why a run was submitted.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from launcher.cluster import scheduler as executors
from launcher.cluster.scheduler import Scheduler
from launcher.runs.run_state import RunState
from launcher.store.attempts import Attempts
from launcher.store.facts import Cancel, Job
from launcher.store.files import read_fact, write_once
from launcher.store.output_folder import Store
from launcher.store.run_folder import RunDir, attempts_of
from launcher.store.starts import last_start
from launcher.store.work_done import has_done_its_part


def cancel(states: Iterable[RunState], scheduler: Scheduler) -> list[RunState]:
    """Ask these runs to stop, and their jobs where nothing else is left in them; returns those that were in flight."""
    wanted = [state for state in states if state.in_flight]
    for state in wanted:
        for attempt in Attempts.of(state.run).open:
            write_once(attempt.cancel_file, Cancel(time.time()))
    attempts = [attempt for state in wanted for attempt in Attempts.of(state.run).open]
    jobs = {executors.key_of(job): job for attempt in attempts if (job := read_fact(attempt.job_file, Job))}
    unneeded = [job for job in jobs.values() if not _has_other_work(job)]
    executors.cancel([*unneeded, *_tables_without_use(wanted)], scheduler)
    return wanted


def _tables_without_use(cancelled: Sequence[RunState]) -> list[Job]:
    """The jobs that make a reference table for which only these runs wait."""
    tables = {job.job_id: job for state in cancelled if (job := _table_of(state.run))}
    runs = Store(cancelled[0].run.path.parent.parent).runs() if tables else []
    needed = {job.job_id for run in runs if not _is_cancelled(run) and (job := _table_of(run))}
    return [job for job_id, job in tables.items() if job_id not in needed]


def _is_cancelled(run: RunDir) -> bool:
    training = Attempts.of(run).training
    return training is not None and training.cancel_file.exists()


def _table_of(run: RunDir) -> Job | None:
    """The job that makes the reference table of a run that still waits for it."""
    attempt = Attempts.of(run).training
    if attempt is None:
        return None
    ended = last_start(attempt) is not None or attempt.failure_file.exists()
    return None if ended else attempt.record.after


def _has_other_work(job: Job) -> bool:
    """Whether a job has runs that were not cancelled and are not done."""
    attempts = attempts_of(Path(job.folder)) if job.folder else []
    return any(
        not (attempt.cancel_file.exists() or attempt.failure_file.exists() or has_done_its_part(attempt))
        for attempt in attempts
    )
