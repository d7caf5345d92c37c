"""Handing a batch over to an executor, and the record of the jobs that became of it.

Owns: the order in which those facts are written. Must not know: why a batch is handed over, what its jobs do.

Before a batch is handed over, its lists of work and its name are on disk; its job ids come right after. A batch without
job ids is therefore one whose launcher died in between: `adopt` asks for it by its name.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from launcher.cluster.batch import Batch
from launcher.cluster.scheduler import Scheduler
from launcher.errors import QueueFull, Refused
from launcher.store.facts import (
    Cause,
    Failure,
    FailureStatus,
    Job,
    JobList,
    TableWork,
)
from launcher.store.files import write_once
from launcher.store.output_folder import PreparingDir
from launcher.store.run_folder import AttemptDir, attempts_of


def hand_over(batch: Batch, work: Iterable[JobList | TableWork], scheduler: Scheduler) -> list[Job]:
    """Submit a batch; called under the submission lock, and followed by `record_jobs`. `work`: the list of each job.

    Raises:
        SchedulerError: it was not taken, or nobody knows.
    """
    for folder, listed in zip(batch.job_folders, work, strict=True):
        write_once(folder / "job.json", listed)
    batch.write(scheduler.name)
    try:
        return scheduler.submit(batch)
    except Refused as refusal:
        full = isinstance(refusal, QueueFull)
        reason, cause = (f"not submitted: {refusal}", Cause.QUEUE_FULL) if full else (str(refusal), None)
        for attempt in itertools.chain.from_iterable(map(attempts_of, batch.job_folders)):
            record_unsubmitted(attempt, reason, FailureStatus.FAILED, cause)
        raise


def record_jobs(batch: Batch, jobs: Sequence[Job]) -> list[Job]:
    """Record each job with the attempts that it is to make, or with the reference table; returns what was recorded."""
    return [_record_job(batch, folder, job) for folder, job in zip(batch.job_folders, jobs, strict=True)]


def _record_job(batch: Batch, folder: Path, job: Job) -> Job:
    attempts = attempts_of(folder)
    where = folder if attempts else batch.folder  # a table's job is alone in its batch
    fact = replace(job, folder=str(where), time=time.time())
    for file in [attempt.job_file for attempt in attempts] or [PreparingDir(where).job_file]:
        write_once(file, fact)
    return fact


def record_unsubmitted(attempt: AttemptDir, reason: str, status: FailureStatus, cause: Cause | None = None) -> None:
    """Record that no job makes this attempt, and why."""
    write_once(attempt.failure_file, Failure(reason, status, time=time.time(), cause=cause))
