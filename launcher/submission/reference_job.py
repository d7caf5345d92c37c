"""The reference pass as a job of its own, for which the training jobs that need its table wait.

Owns: which runs share a pass, the job that makes it and its folder, whether one is on its way.
Must not know: what the pass computes, what becomes of the runs.

Whether the table is there and right is decided on the node, from the content of weights and data. What is decided here
is only whether a job of its own is worth its wait in the queue: it is where several jobs would otherwise all compute
the table, or wait for the first of them with their GPUs idle.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from launcher.cluster.batch import Batch
from launcher.cluster.job_state import BAD_ENDS, LAG_SECONDS, UNKNOWN, Phase
from launcher.cluster.scheduler import Scheduler, can_wait_for, cancel, key_of, states
from launcher.dataset.inputs import Inputs, content_of
from launcher.errors import QueueFull, Refused, SchedulerError, StoreError, listed
from launcher.losses import loss_named
from launcher.machine.once import Once
from launcher.runs.copies import original_of
from launcher.runs.idle_jobs import without_use
from launcher.store.age import age
from launcher.store.entries import NAMED, is_whole, lost_files
from launcher.store.facts import Job, Prepared, TableWork
from launcher.store.files import Plain, content_key, read_fact
from launcher.store.output_folder import PreparingDir, Store
from launcher.store.reading import is_there
from launcher.submission.adopt import adopt_batches
from launcher.submission.handover import hand_over, record_jobs
from launcher.sweep import Run, Sweep

_ONCE = Once()


@dataclass(frozen=True)
class Preparation:
    """A pass that runs of one model and data set share; `folder` holds its jobs."""

    key: str
    folder: Path

    @property
    def is_done(self) -> bool:
        """Whether a job has said that the table is there, and what it made for that still is."""
        return self._done is not None and not self.lost

    @property
    def lost(self) -> list[str]:
        """What a job has made and is not there any more, or not whole; as paths below the cache's folder."""
        done = self._done
        return [] if done is None else [name for name in done.entries if not is_whole(self.folder.parents[1] / name)]

    @property
    def _done(self) -> Prepared | None:
        return read_fact(self.done_file, Prepared)

    @property
    def done_file(self) -> Path:
        """Of the last job that has made it."""
        return PreparingDir(self.folder / "001").done_file

    def jobs(self) -> list[PreparingDir]:
        """Its jobs, oldest first."""
        names = sorted(os.listdir(self.folder)) if self.folder.is_dir() else []
        return [PreparingDir(self.folder / name) for name in names if name.isdigit()]

    @property
    def next_job(self) -> Path:
        """The folder of the next one."""
        return self.folder / f"{len(self.jobs()) + 1:03d}"


def preparation_of(run: Run, store: Store) -> Preparation | None:
    """What this run shares with others of its model and data; None where its loss asks no reference model."""
    objective, trainer, loss = run.objective, run.objective["trainer"], loss_named(run.config.loss_type)
    if not loss.needs_table:
        return None
    neighbours = () if loss.paired else (objective["seed"], trainer["micro_batch_size"])
    key = _ONCE(_key_of, run.inputs, objective["model"], objective["dataset"], trainer["max_length"], *neighbours)
    return Preparation(key, store.cache("prepare", key))


def _key_of(inputs: Inputs, model: Plain, dataset: Plain, max_length: int, *neighbours: int) -> str:
    """What the runs of a table share; `neighbours`: what decides between which rows an unpaired one stands."""
    parts = [{"model": model, "dataset": dataset}, max_length, *neighbours]
    if inputs:  # else the hint that the table is there would be of other files
        parts.append(content_of(inputs))
    return content_key(parts)


def lost_tables(sweep: Sweep, store: Store) -> list[str]:
    """What earlier jobs have made for runs of this sweep, and a disk has lost since: a line for each."""
    preparations = dict.fromkeys(filter(None, (preparation_of(run, store) for run in sweep.runs)))
    lost = dict.fromkeys(store.root / "cache" / name for each in preparations for name in each.lost)
    return [f"{folder}: was made, and {_loss(folder)}; it is made again" for folder in lost]


def _loss(folder: Path) -> str:
    lost = listed(lost_files(folder), NAMED) if folder.is_dir() else ""
    return f"has lost {lost}" if lost else "is gone"


@dataclass(frozen=True)
class TableJob:
    """The job that is to make a table: a batch of one, whose work is the configuration of one of the runs."""

    preparation: Preparation
    batch: Batch
    run: Run


def table_job(run: Run, batches: Sequence[Batch], store: Store) -> TableJob | None:
    """The job that would make the table of `run` for these batches; None where none is worth it. Writes nothing."""
    preparation = preparation_of(run, store)
    if preparation is None or preparation.is_done or sum(batch.size for batch in batches) < 2:  # noqa: PLR2004 - see the module's docstring
        return None
    first = batches[0]
    name = f"{first.name.rpartition('.')[0]}.prepare.{uuid.uuid4().hex[:10]}"
    return TableJob(preparation, replace(first, name=name, folder=preparation.next_job, size=1, at_once=None), run)


def take_up(tables: Iterable[TableJob], scheduler: Scheduler) -> None:
    """Record the jobs of these tables that a launcher has handed over and not recorded, before anything else is.

    Called under the submission lock.

    Raises:
        SchedulerError: nobody knows whether there are any.
    """
    for preparation in dict.fromkeys(table.preparation for table in tables):
        for folder in preparation.jobs()[-1:]:
            if is_there(folder.batch_file) and original_of(folder.path) is None:
                _job_in(folder, scheduler)


def ensure(table: TableJob, code: Path | None, scheduler: Scheduler) -> Job:
    """The job that makes the table: the one that is on its way, else this one, handed over now to run `code`.

    Called under the submission lock.

    Raises:
        SchedulerError: it was not taken, or nobody knows.
    """
    underway = _find(table, scheduler)
    if underway is not None:
        return underway
    # Another one of the same launch may have been handed over since, to another cluster.
    batch = replace(table.batch, code=code, folder=table.preparation.next_job)
    work = TableWork({**table.run.objective, **table.run.settings}, str(batch.root))
    (job,) = record_jobs(batch, hand_over(batch, [work], scheduler))
    return job


def left_by(refusal: Refused, made: Job, store: Store, scheduler: Scheduler) -> str | None:
    """What becomes of the job that makes a table when jobs that were to wait for it are refused, in words.

    Where nobody else waits for it, it is taken back; not where the queue was full: what it makes is then there when
    they are submitted again.
    """
    what = f"job {made.job_id}, which makes their reference table,"
    try:
        phase = states([made], scheduler).get(key_of(made), UNKNOWN).phase
        if phase in (Phase.COMPLETED, *BAD_ENDS) or not without_use({key_of(made): made}, (), store):
            return None
        if isinstance(refusal, QueueFull):
            return f"{what} stays in the queue"
        cancel([made], scheduler)
    except (SchedulerError, StoreError) as error:
        return f"{what} was submitted before, and may be in the queue: {error}"
    return f"{what} was submitted before, and is taken back"


def _find(table: TableJob, scheduler: Scheduler) -> Job | None:
    """The job that is making the table, be it running or waiting, where others can wait for it."""
    own = [folder for folder in table.preparation.jobs() if original_of(folder.path) is None]
    folders = [folder for folder in own if is_there(folder.batch_file)]
    job = _job_in(folders[-1], scheduler) if folders else None
    if job is None or not can_wait_for(job, table.batch.resources, scheduler):
        return None  # of two that make a table, one finds it made
    phase = states([job], scheduler).get(key_of(job), UNKNOWN).phase
    lagging = phase is Phase.UNKNOWN and (age(folders[-1].job_file) or 0.0) < LAG_SECONDS
    return job if lagging or phase in (Phase.PENDING, Phase.RUNNING, Phase.HIDDEN) else None


def _job_in(folder: PreparingDir, scheduler: Scheduler) -> Job | None:
    if not folder.job_file.exists():
        adopt_batches([folder.path], scheduler)
    return read_fact(folder.job_file, Job)
