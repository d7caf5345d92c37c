"""What is cancelled: the runs that are to stop, their jobs, and the tables that nobody else waits for.

Owns: which jobs are of no use any more once these runs stop.
Must not know: how an executor works, how anything is printed, why a run was submitted.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from launcher.cluster import scheduler as executors
from launcher.cluster.scheduler import Scheduler
from launcher.runs.run_state import RunState
from launcher.store.attempts import Attempts
from launcher.store.facts import Cancel, Job, JobList, TableWork
from launcher.store.files import flush, write_once
from launcher.store.output_folder import Store
from launcher.store.run_folder import AttemptDir, RunDir
from launcher.store.work_done import is_measured
from launcher.store.work_list import attempts_of, listed_in, works_of


def cancel(states: Iterable[RunState], scheduler: Scheduler) -> list[RunState]:
    """Ask these runs to stop, and their jobs where nothing else is left in them; returns those that were in flight."""
    wanted = [state for state in states if state.in_flight]
    batches: dict[str, list[Job] | None] = {}
    found = [attempt for state in wanted for attempt in Attempts.of(state.run.at_a_look(batches)).open]
    for attempt in found:
        write_once(attempt.cancel_file, Cancel(time.time()), flushed=False)
    if wanted:
        flush(wanted[0].run.path)
    jobs = {executors.key_of(job): job for attempt in found if (job := attempt.job)}
    unneeded = _without_other_work(list(jobs.values()), {attempt.path for attempt in found})
    executors.cancel([*unneeded, *_tables_without_use(wanted)], scheduler)
    return wanted


def _tables_without_use(cancelled: Sequence[RunState]) -> list[Job]:
    """The jobs that make a reference table for which only these runs wait."""
    tables = {job.job_id: job for state in cancelled if (job := _table_of(state.run.at_a_look({})))}
    runs = Store(cancelled[0].run.path.parent.parent).runs() if tables else []
    seen = (run.at_a_look({}) for run in runs)
    needed = {job.job_id for run in seen if not _is_cancelled(run) and (job := _table_of(run))}
    return [job for job_id, job in tables.items() if job_id not in needed]


def _is_cancelled(run: RunDir) -> bool:
    training = Attempts.of(run).training
    return training is not None and training.has(training.cancel_file)


def _table_of(run: RunDir) -> Job | None:
    """The job that makes the reference table of a run that still waits for it."""
    attempt = Attempts.of(run).training
    if attempt is None:
        return None
    ended = attempt.has(attempt.started_file) or attempt.has(attempt.failure_file)
    return None if ended else attempt.record.after


def _without_other_work(jobs: Sequence[Job], stopped: Collection[Path]) -> list[Job]:
    """The jobs without an attempt that is neither `stopped` just now nor over."""
    works: dict[Path, list[JobList | TableWork] | None] = {}
    return [job for job in jobs if all(each.path in stopped or _is_over(each) for each in _attempts_in(job, works))]


def _attempts_in(job: Job, works: dict[Path, list[JobList | TableWork] | None]) -> list[AttemptDir]:
    """What a job is to make; `works`: of each batch, read once."""
    if job.folder is None:
        return []
    folder = Path(job.folder)
    if folder.parent not in works:
        works[folder.parent] = works_of(folder.parent)
    of_batch = works[folder.parent]
    work = None if of_batch is None else of_batch[int(folder.name)]
    return attempts_of(folder) if work is None else listed_in(work) if isinstance(work, JobList) else []


def _is_over(attempt: AttemptDir) -> bool:
    return attempt.cancel_file.exists() or attempt.failure_file.exists() or is_measured(attempt)
