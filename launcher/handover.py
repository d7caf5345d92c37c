"""From runs to jobs: batches, handed over to an executor, recorded, and found again after a crash.

Owns: the grouping of runs into jobs and batches, the order in which the facts of a submission are written.
Must not know: why a run is submitted, how an executor works.

Before a batch is handed over, its attempts, its name and its lists of work are on disk; its job ids come right after.
An attempt without a job id is therefore one whose launcher died in between: `adopt` asks for the batch by its name.
What it does not find it marks LOST, which is also what a job looks at first: should SLURM bring one to life after
all, it finds nothing to do.
"""

from __future__ import annotations

import itertools
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TypeVar

from launcher.config import Cluster, Refused
from launcher.files import Fact, read_fact, write_once
from launcher.jobs import Batch
from launcher.plan import Run, cost_key
from launcher.preparation import preparation_of
from launcher.provenance import provenance
from launcher.scheduler import Scheduler, scheduler_for
from launcher.status import LAG_SECONDS, Status
from launcher.store import AttemptDir, RunDir, Store, SweepDir

T = TypeVar("T")
Jobs = list[list[Run]]  # the runs of each job

# ------------------------------------------------------------------------------------------------ grouping


def batches(
    runs: Sequence[Run], directory: SweepDir, store: Store, scheduler: Scheduler, code: Path | None
) -> list[tuple[Batch, Jobs]]:
    """The runs in jobs of those that need the same, and these in batches as large as the scheduler takes them.

    Where jobs can wait for others, those of a batch wait for the same reference table.
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        shared = preparation_of(run, store).key if scheduler.detached else ""
        groups.setdefault(repr(asdict(run.config.cluster)) + shared, []).append(run)
    return [each for group in groups.values() for each in _of_class(group, directory, store, scheduler, code)]


def sharing(found: Sequence[tuple[Batch, Jobs]]) -> list[tuple[Batch, Jobs]]:
    """All batches of a launch that train, or that evaluate, each with its part of `max_parallel`."""
    ends = [0, *itertools.accumulate(batch.size for batch, _ in found)]
    return [
        (replace(batch, at_once=_at_once(batch, start, ends[-1])), jobs)
        for (batch, jobs), start in zip(found, ends[:-1], strict=True)
    ]


def _at_once(batch: Batch, start: int, total: int) -> int | None:
    """Its part of `max_parallel`, by its place among all jobs: a scheduler limits each array for itself."""
    limit = batch.resources.max_parallel
    return limit and max(1, limit * (start + batch.size) // total - limit * start // total)


def _of_class(
    runs: Sequence[Run], directory: SweepDir, store: Store, scheduler: Scheduler, code: Path | None
) -> list[tuple[Batch, Jobs]]:
    resources = runs[0].config.cluster
    jobs = _chunks(runs, resources.runs_per_job or scheduler.runs_per_job)
    parts = _chunks(jobs, scheduler.batch_size(resources))
    return [(_new_batch(part, directory, store, code), part) for part in parts]


def _chunks(items: Sequence[T], size: int) -> list[list[T]]:
    return [list(items[start : start + size]) for start in range(0, len(items), size)]


def _new_batch(jobs: Jobs, directory: SweepDir, store: Store, code: Path | None) -> Batch:
    """A batch of a name that no other has; nothing is written."""
    name = f"{directory.name}.{uuid.uuid4().hex[:10]}"
    return Batch(name, directory.jobs / name, len(jobs), jobs[0][0].config.cluster, store.root, code)


def evaluating(batch: Batch) -> Batch:
    """The batch under a name that tells those who read the queue that it evaluates."""
    name = f"{batch.name.rpartition('.')[0]}.evaluate.{uuid.uuid4().hex[:10]}"
    return replace(batch, name=name, folder=batch.folder.with_name(name))


def following(batch: Batch, resources: Cluster) -> Batch:
    """A batch whose every job is to evaluate what its counterpart in `batch` trains."""
    return replace(evaluating(batch), resources=resources, in_step=batch.size > 1)


# ------------------------------------------------------------------------------------------------ handing over


def hand_over(batch: Batch, jobs: Jobs, store: Store, scheduler: Scheduler, *, evaluates: bool = False) -> list[Fact]:
    """Submit a batch and record it; called under the submission lock. `evaluates`: that is all its jobs do.

    Raises:
        SchedulerError: it was not taken, or nobody knows.
    """
    slots = None if scheduler.detached else batch.resources.max_parallel or 1
    for folder, runs in zip(batch.job_folders, jobs, strict=True):
        attempts = [new_attempt(run, store, batch, evaluates=evaluates) for run in runs]
        write_once(folder / "job.json", {"attempts": [str(attempt.path) for attempt in attempts], "slots": slots})
    batch.write({"executor": scheduler.name, "time": time.time()})
    try:
        submitted = scheduler.submit(batch)
    except Refused as refusal:
        for attempt in itertools.chain.from_iterable(map(attempts_of, batch.job_folders)):
            _never_was(attempt, str(refusal), Status.FAILED)
        raise
    return _record(batch, submitted)


def new_attempt(run: Run, store: Store, batch: Batch | None = None, *, evaluates: bool = False) -> AttemptDir:
    """The run's next attempt, on disk."""
    after = None if batch is None else batch.after
    fact = {
        "settings": run.settings,
        "overrides": list(run.overrides),
        "cost_key": cost_key(run),
        "provenance": provenance(),
        "batch": None if batch is None else str(batch.folder),
        ("follows" if evaluates else "after"): after,  # the job that trains it; the one that makes its table
        "time": time.time(),
    }
    return store.run(run.run_id).new_attempt(fact, evaluates=evaluates)


def attempts_of(job_folder: Path) -> list[AttemptDir]:
    """What a job is to make."""
    return [AttemptDir(Path(path)) for path in (read_fact(job_folder / "job.json") or {}).get("attempts", [])]


def _record(batch: Batch, submitted: list[Fact]) -> list[Fact]:
    for folder, job in zip(batch.job_folders, submitted, strict=True):
        for attempt in attempts_of(folder):
            write_once(attempt.job_file, {**job, "folder": str(folder), "time": time.time()})
    return submitted


def _never_was(attempt: AttemptDir, reason: str, status: Status) -> None:
    write_once(attempt.failure_file, {"reason": reason, "status": status, "time": time.time()})


# ------------------------------------------------------------------------------------------------ after a crash


def adopt(runs: Iterable[RunDir], scheduler: Scheduler) -> None:
    """Record the jobs that a launcher handed over and then died, so that nobody submits their runs again.

    Under the submission lock nobody else is submitting, but a scheduler may be slow to show a job: what was handed
    over just now and is not found yet is asked for once more when that time is over.
    """
    runs = list(runs)
    missing = [folder for folder in _handed_over(_without_job(runs)) if not _adopted(folder, scheduler)]
    if missing:
        last = max(float(Batch.read(folder)[1]["time"]) for folder in missing)
        time.sleep(max(0.0, min(LAG_SECONDS, last + LAG_SECONDS - time.time())))
        for folder in missing:
            _adopted(folder, scheduler)
    for attempt in _without_job(runs):
        _never_was(attempt, "its launcher ended before it was submitted", Status.LOST)


def _without_job(runs: Iterable[RunDir]) -> list[AttemptDir]:
    attempts = [attempt for run in runs for attempt in run.last_attempts()]
    return [attempt for attempt in attempts if not (attempt.job_file.exists() or attempt.failure_file.exists())]


def _handed_over(attempts: Iterable[AttemptDir]) -> list[Path]:
    """The folders of the batches of these attempts, as far as it came to a batch."""
    folders = dict.fromkeys(attempt.record.get("batch") for attempt in attempts)
    return [Path(folder) for folder in folders if folder and (Path(folder) / "batch.json").exists()]


def _adopted(folder: Path, scheduler: Scheduler) -> bool:
    batch, fact = Batch.read(folder)
    executor = scheduler if fact["executor"] == scheduler.name else scheduler_for(fact["executor"])
    found = executor.find(batch)
    if found is not None:
        _record(batch, found)
    return found is not None
