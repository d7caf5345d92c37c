"""What is cancelled: the runs that are to stop, their jobs, and the tables that nobody else waits for.

Owns: which jobs are of no use any more once these runs stop.
Must not know: how an executor works, how anything is printed, why a run was submitted.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from launcher.cluster import scheduler as executors
from launcher.cluster.scheduler import Scheduler
from launcher.machine.terminal import Say, silent
from launcher.runs.run_state import RunState
from launcher.store.attempts import Attempts
from launcher.store.facts import Cancel, Job, JobList, TableWork
from launcher.store.files import flush, write_once
from launcher.store.output_folder import Store
from launcher.store.run_folder import AttemptDir
from launcher.store.starts import last_start
from launcher.store.work_done import has_done_its_part
from launcher.store.work_list import listed_in, work_of, works_of


def cancel(states: Iterable[RunState], scheduler: Scheduler, tell: Say = silent) -> list[RunState]:
    """Ask these runs to stop, and their jobs where nothing else is left in them; returns those that were in flight.

    `tell` is told how far it is.
    """
    wanted = [state for state in states if state.in_flight]
    batches: dict[str, list[Job] | None] = {}
    stopped: set[Path] = set()
    jobs: dict[executors.JobKey, Job] = {}
    tables: dict[str, Job] = {}
    for number, state in enumerate(wanted, 1):
        tell(f"asking run {number:,} of {len(wanted):,} to stop")
        attempts = Attempts.of(state.run.at_a_look(batches))
        tables |= {job.job_id: job for job in _tables_of(attempts)}
        for attempt in attempts.open:
            write_once(attempt.cancel_file, Cancel(time.time()), flushed=False)
            stopped.add(attempt.path)
            jobs |= {executors.key_of(job): job for job in [attempt.job] if job}
    if wanted:
        flush(wanted[0].run.path)
    tell(f"cancelling {len(jobs):,} jobs")
    unneeded = _without_other_work(list(jobs.values()), stopped)
    executors.cancel([*unneeded, *_without_use(tables, wanted)], scheduler)
    return wanted


def _without_use(tables: Mapping[str, Job], cancelled: Sequence[RunState]) -> list[Job]:
    """Those of the jobs that make a reference table for which no run waits but these."""
    stopped = {state.run for state in cancelled}
    runs = Store(cancelled[0].run.path.parent.parent).runs() if tables else []
    others = (Attempts.of(run.at_a_look({})) for run in runs if run not in stopped)
    needed = {job.job_id for attempts in others if not _is_cancelled(attempts) for job in _tables_of(attempts)}
    return [job for job_id, job in tables.items() if job_id not in needed]


def _is_cancelled(attempts: Attempts) -> bool:
    training = attempts.training
    return training is not None and training.has(training.cancel_file)


def _tables_of(attempts: Attempts) -> list[Job]:
    """The job that makes the reference table of a run that still waits for it; nothing where it waits for none."""
    attempt = attempts.training
    if attempt is None or attempt.record.after is None:
        return []
    return [] if last_start(attempt) is not None or attempt.has(attempt.failure_file) else [attempt.record.after]


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
    work = of_batch[int(folder.name)] if of_batch and int(folder.name) < len(of_batch) else work_of(folder)
    return listed_in(work) if isinstance(work, JobList) else []


def _is_over(attempt: AttemptDir) -> bool:
    return attempt.cancel_file.exists() or attempt.failure_file.exists() or has_done_its_part(attempt)
