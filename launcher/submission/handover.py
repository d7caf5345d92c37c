"""Handing a batch over to an executor, and the record of the jobs that became of it.

Owns: the order in which those facts are written. Must not know: why a batch is handed over, what its jobs do.

Before a batch is handed over, its lists of work and its name are on disk; its job ids come right after. A batch without
job ids is therefore one whose launcher died in between: `adopt` asks for it by its name.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace

from launcher.cluster.batch import Batch
from launcher.cluster.scheduler import Scheduler
from launcher.errors import QueueFull, Refused
from launcher.store.facts import (
    Cause,
    Failure,
    FailureStatus,
    Job,
    JobList,
    JobRecords,
    TableWork,
)
from launcher.store.files import flush, write_once
from launcher.store.output_folder import PreparingDir
from launcher.store.run_folder import JOBS_FILE, AttemptDir
from launcher.store.work_list import attempts_of, listed_in, work_of, works_of, write_works


def hand_over(batch: Batch, work: Iterable[JobList | TableWork], scheduler: Scheduler) -> list[Job]:
    """Submit a batch; called under the submission lock, and followed by `record_jobs`. `work`: the list of each job.

    Raises:
        ConfigError: there is no such cluster.
        SchedulerError: it was not taken, or nobody knows.
    """
    where, works = scheduler.destination(batch.resources), list(work)
    write_works(batch.folder, works)
    batch.write(scheduler.name, where)
    flush(batch.root)  # with the attempts, and the runs' folders
    try:
        return scheduler.submit(batch)
    except Refused as refusal:
        full = isinstance(refusal, QueueFull)
        reason, cause = (f"not submitted: {refusal}", Cause.QUEUE_FULL) if full else (str(refusal), None)
        for attempt in _attempts_in(works):
            record_unsubmitted(attempt, reason, FailureStatus.FAILED, cause)
        raise


def record_jobs(batch: Batch, jobs: Sequence[Job]) -> list[Job]:
    """Record the jobs of a batch of runs, or the one that makes a reference table; returns what was recorded."""
    now, makes_table = time.time(), isinstance(work_of(batch.job_folders[0]), TableWork)
    where = [batch.folder] if makes_table else batch.job_folders
    facts = [replace(job, folder=str(each), time=now) for job, each in zip(jobs, where, strict=True)]
    if makes_table:
        write_once(PreparingDir(batch.folder).job_file, facts[0])
    elif (
        works_of(batch.folder) is None
    ):  # handed over by an older version, whose attempts do not say which job is theirs
        for folder, fact in zip(where, facts, strict=True):
            for attempt in attempts_of(folder):
                write_once(attempt.job_file, fact)
    else:
        write_once(batch.folder / JOBS_FILE, JobRecords(facts))
    return facts


def _attempts_in(works: Iterable[JobList | TableWork]) -> list[AttemptDir]:
    return [attempt for work in works if isinstance(work, JobList) for attempt in listed_in(work)]


def record_unsubmitted(attempt: AttemptDir, reason: str, status: FailureStatus, cause: Cause | None = None) -> None:
    """Record that no job makes this attempt, and why."""
    write_once(attempt.failure_file, Failure(reason, status, time=time.time(), cause=cause), flushed=False)
