"""Jobs that a launcher handed over before it died.

Owns: finding them by their batch's name. Must not know: how they were submitted, what they do.

An attempt whose job is not found is marked LOST, which is also what a job looks at first: should a scheduler bring one
to life after all, it finds nothing to do.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

from launcher.cluster.batch import Batch
from launcher.cluster.job_state import LAG_SECONDS
from launcher.cluster.scheduler import Scheduler, recorded
from launcher.machine.terminal import complain
from launcher.store.age import age
from launcher.store.attempts import Attempts
from launcher.store.facts import FailureStatus
from launcher.store.run_folder import AttemptDir, RunDir
from launcher.submission.handover import record_jobs, record_unsubmitted


def adopt(runs: Iterable[RunDir], scheduler: Scheduler) -> None:
    """Record the jobs that a launcher handed over and then died, so that nobody submits their runs again."""
    runs = list(runs)
    adopt_batches(_handed_over(_without_job(runs)), scheduler)
    for attempt in _without_job(runs):
        record_unsubmitted(attempt, "its launcher ended before it was submitted", FailureStatus.LOST)


def adopt_batches(folders: Iterable[Path], scheduler: Scheduler) -> None:
    """Record the jobs of the batches in these folders, of runs or of a reference table, as far as there are any.

    Under the submission lock nobody else is submitting, but a scheduler may be slow to show a job: what was handed
    over just now and is not found yet is asked for once more when that time is over.
    """
    missing = [folder for folder in folders if not _adopt_batch(folder, scheduler)]
    ages = [age(folder / "batch.json") or 0.0 for folder in missing]
    if missing and (wait := LAG_SECONDS - min(ages)) > 0:
        complain(f"a launcher ended while it was submitting; asking in {wait:.0f} s what became of its jobs")
        time.sleep(wait)
        for folder in missing:
            _adopt_batch(folder, scheduler)


def _without_job(runs: Iterable[RunDir]) -> list[AttemptDir]:
    return [attempt for run in runs for attempt in Attempts.of(run).without_job]


def _handed_over(attempts: Iterable[AttemptDir]) -> list[Path]:
    """The folders of the batches of these attempts, as far as it came to a batch."""
    folders = dict.fromkeys(attempt.record.batch for attempt in attempts)
    return [Path(folder) for folder in folders if folder and (Path(folder) / "batch.json").exists()]


def _adopt_batch(folder: Path, scheduler: Scheduler) -> bool:
    batch, record = Batch.read(folder)
    found = recorded(record.executor, scheduler).find(batch)
    if found is not None:
        record_jobs(batch, found)
    return found is not None
