"""What is cancelled: the runs that are to stop, their jobs, and the tables that nobody else waits for.

Owns: which jobs are of no use any more once these runs stop.
Must not know: how an executor works, how anything is printed, why a run was submitted.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from launcher.cluster import scheduler as executors
from launcher.cluster.batch import Batch
from launcher.cluster.scheduler import Scheduler
from launcher.errors import StoreError
from launcher.machine.terminal import Say, silent
from launcher.runs.run_state import RunState
from launcher.runs.unreadable import Reading
from launcher.store.attempts import Attempts
from launcher.store.facts import Cancel, Job, JobList, TableWork
from launcher.store.files import flush, look_first, write_once
from launcher.store.output_folder import Store
from launcher.store.run_folder import AttemptDir, RunDir
from launcher.store.starts import last_start
from launcher.store.work_done import has_done_its_part
from launcher.store.work_list import listed_in, work_of, works_of


def cancel(states: Iterable[RunState], scheduler: Scheduler, tell: Say = silent, warn: Say = silent) -> list[RunState]:
    """Ask these runs to stop, and their jobs where nothing else is left in them; returns those that were asked.

    The wish comes first, so that a job that is told to end knows why. It is withdrawn from the runs whose job is not
    reached: that goes on, and so do they.

    A run of which a fact cannot be read is asked too, where nothing says that it has ended.

    Args:
        states: of the runs that are meant.
        scheduler: who is asked to end jobs.
        tell: is told how far it is.
        warn: is told of each fact that cannot be read, and of each job that is not reached: it may go on.
    """
    read = Reading(warn)
    wanted = [state for state in states if state.in_flight or _may_be_at_work(state)]
    batches: dict[str, list[Job] | None] = {}
    stopped: set[Path] = set()
    asked: dict[RunDir, list[Asked]] = {}
    jobs: dict[executors.JobKey, Job] = {}
    tables: dict[str, Job] = {}
    for number, state in enumerate(wanted, 1):
        tell(f"asking run {number:,} of {len(wanted):,} to stop")
        attempts = Attempts.of(state.run.at_a_look(batches))
        tables |= {job.job_id: job for job in read(partial(_tables_of, attempts)) or ()}
        for attempt in _to_stop(attempts, read):
            is_new = write_once(attempt.cancel_file, Cancel(time.time()), flushed=False)
            stopped.add(attempt.path)
            job = read(partial(_job_of, attempt, scheduler))
            key = executors.key_of(job) if job else None
            asked.setdefault(state.run, []).append(Asked(attempt.cancel_file, key, is_new))
            jobs |= {executors.key_of(job): job} if job else {}
    if wanted:
        flush(wanted[0].run.path)
    tell(f"cancelling {len(jobs):,} jobs")
    unneeded = _without_other_work(list(jobs.values()), stopped, read)
    missed = _cancelled([*unneeded, *(read(lambda: _without_use(tables, wanted)) or ())], scheduler, warn)
    _withdraw([each for of_run in asked.values() for each in of_run], missed)
    return [state for state in wanted if any(each.job not in missed for each in asked.get(state.run, ()))]


@dataclass(frozen=True)
class Asked:
    """The wish that an attempt end: its file, the attempt's job, and whether the wish is of just now."""

    file: Path
    job: executors.JobKey | None
    is_new: bool


def _cancelled(jobs: Sequence[Job], scheduler: Scheduler, warn: Say) -> frozenset[executors.JobKey]:
    """Have these jobs end; returns those that were not reached."""
    try:
        executors.cancel(jobs, scheduler)
    except executors.Unreached as error:
        warn(str(error))
        return error.jobs
    return frozenset()


def _withdraw(asked: Iterable[Asked], missed: Collection[executors.JobKey]) -> None:
    for each in asked:
        if each.is_new and each.job in missed:
            look_first()
            each.file.unlink(missing_ok=True)


def _may_be_at_work(state: RunState) -> bool:
    facts = state.facts
    if facts.original is not None:
        return False
    return bool(facts.unreadable) and facts.attempts > 0 and facts.failure is None and not facts.finished


def _to_stop(attempts: Attempts, read: Reading) -> list[AttemptDir]:
    """Its open attempts; where it cannot be read which those are, all that have not failed."""
    known = read(lambda: attempts.open)
    if known is not None:
        return known
    every = read(lambda: attempts.all) or ()
    return [each for each in every if not read(partial(each.has, each.failure_file))]


def _job_of(attempt: AttemptDir, scheduler: Scheduler) -> Job | None:
    """Its job as it was recorded; where that record is damaged, as its executor knows it by the batch's name.

    Raises:
        StoreError: neither can be read.
    """
    try:
        return attempt.job
    except StoreError:
        folder, index = attempt.batch, attempt.record.index
        if folder is None or index is None:
            raise
        batch, record = Batch.read(folder)
        found = executors.recorded(record.executor, scheduler).find(batch)
        return replace(found[index], folder=str(batch.job_folders[index])) if found else None


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


def _without_other_work(jobs: Sequence[Job], stopped: Collection[Path], read: Reading) -> list[Job]:
    """The jobs without an attempt that is neither `stopped` just now nor over, as far as that can be read."""
    works: dict[Path, list[JobList | TableWork] | None] = {}

    def is_free(job: Job) -> bool:
        return all(each.path in stopped or _is_over(each) for each in _attempts_in(job, works))

    return [job for job in jobs if read(partial(is_free, job))]


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
