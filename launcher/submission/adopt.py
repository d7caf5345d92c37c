"""Jobs that a launcher handed over before it died.

Owns: finding them by their batch's name. Must not know: how they were submitted, what they do.

An attempt whose job is not found is marked LOST, which is also what a job looks at first: should a scheduler bring one
to life after all, it finds nothing to do.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from launcher.cluster.batch import Batch
from launcher.cluster.job_state import LAG_SECONDS
from launcher.cluster.scheduler import Scheduler, is_elsewhere, recorded
from launcher.errors import SchedulerError, StoreError
from launcher.machine.terminal import complain
from launcher.runs.around import Around
from launcher.runs.lost_records import Listed, lost_of
from launcher.runs.unreadable import check_batch
from launcher.store.age import age
from launcher.store.attempts import Attempts
from launcher.store.facts import BatchRecord, FailureStatus, Job
from launcher.store.files import read_fact
from launcher.store.reading import may_be_there
from launcher.store.run_folder import BATCH_FILE, JOBS_FILE, AttemptDir, RunDir
from launcher.submission.handover import record_jobs, record_unsubmitted


def adopt(runs: Iterable[RunDir], scheduler: Scheduler, around: Around | None = None) -> bool:
    """Record the jobs that a launcher handed over and then died, so that nobody submits their runs again.

    What cannot be read of the lists of work is said: where a record is gone too, it is not known that there is a job.

    Returns:
        Whether some may have been, so that `around`, of these runs as found before, holds no more.

    Raises:
        SchedulerError: another cluster alone can say what became of them.
    """
    runs = list(runs)
    around = around or Around.of(runs)
    for fault in around.faults:
        complain(fault)
    missing, lost = _without_job(map(around.look, runs), around.listed)
    unrecorded = [batch for batch in dict.fromkeys(lost.values()) if not may_be_there(batch / JOBS_FILE)]
    handed_over = dict.fromkeys([*_handed_over(missing), *filter(_was_recorded, unrecorded)])
    for folder in handed_over:
        _check_here(folder, scheduler)
    adopt_batches(handed_over, scheduler)
    # Those whose batch cannot be read may have a job: they stay as they are.
    batches: dict[str, list[Job] | None] = {}
    again = [Attempts.of(run.at_a_look(batches)) for run in dict.fromkeys(attempt.run for attempt in missing)]
    for attempt in filter(_can_be_asked, _without_job(again)[0]):
        if attempt.path in lost and _may_have_jobs(lost[attempt.path]):
            continue
        record_unsubmitted(attempt, "its launcher ended before it was submitted", FailureStatus.LOST)
    return bool(missing or lost)


def _check_here(folder: Path, scheduler: Scheduler) -> None:
    record = read_fact(folder / BATCH_FILE, BatchRecord)
    if record is None or record.executor != scheduler.name or not is_elsewhere(record.cluster, scheduler):
        return
    where = f"{record.name} is on cluster {record.cluster}, and this is {scheduler.cluster}"
    remedy = f"ask there: launch there again; if it is gone, move {folder / BATCH_FILE} away"
    raise SchedulerError(f"a launcher ended while it was submitting, and {where}; {remedy}")


def _was_recorded(batch: Path) -> bool:
    with contextlib.suppress(StoreError):
        return read_fact(batch / BATCH_FILE, BatchRecord) is not None
    return False


def _may_have_jobs(batch: Path) -> bool:
    return may_be_there(batch / JOBS_FILE) or (may_be_there(batch / BATCH_FILE) and not _was_recorded(batch))


def adopt_batches(folders: Iterable[Path], scheduler: Scheduler) -> None:
    """Record the jobs of the batches in these folders, of runs or of a reference table, as far as there are any.

    Under the submission lock nobody else is submitting, but a scheduler may be slow to show a job: what was handed
    over just now and is not found yet is asked for once more when that time is over.
    """
    missing = [folder for folder in folders if not _adopt_batch(folder, scheduler)]
    ages = [age(folder / BATCH_FILE) or 0.0 for folder in missing]
    if missing and (wait := LAG_SECONDS - min(ages)) > 0:
        complain(f"a launcher ended while it was submitting; asking in {wait:.0f} s what became of its jobs")
        time.sleep(wait)
        for folder in missing:
            _adopt_batch(folder, scheduler)


def _without_job(
    looks: Iterable[Attempts], listed: Mapping[str, Sequence[Listed]] = MappingProxyType({})
) -> tuple[list[AttemptDir], dict[Path, Path]]:
    """The attempts of these runs without a recorded job; of runs that cannot be read, none.

    And those of which only a batch's list of work tells, each with the batch's folder.
    """
    found: list[AttemptDir] = []
    lost: dict[Path, Path] = {}
    for attempts in looks:
        with contextlib.suppress(StoreError):
            lost |= {attempt.path: each.batch for attempt, each in lost_of(attempts, listed)}
            found += attempts.without_job
    return found, lost


def _can_be_asked(attempt: AttemptDir) -> bool:
    try:
        check_batch(attempt)
    except StoreError:
        return False
    return True


def _handed_over(attempts: Iterable[AttemptDir]) -> list[Path]:
    """The folders of the batches of these attempts, as far as it came to a batch."""
    folders = dict.fromkeys(attempt.batch for attempt in attempts if _can_be_asked(attempt))
    return [folder for folder in folders if folder and _was_recorded(folder)]


def _adopt_batch(folder: Path, scheduler: Scheduler) -> bool:
    batch, record = Batch.read(folder)
    found = recorded(record.executor, scheduler).find(batch)
    if found is not None:
        record_jobs(batch, found)
    return found is not None
