"""The reference pass as a job of its own, for which the training jobs that need its table wait.

Owns: which runs share a pass, the folder of its jobs, finding one that is on its way.
Must not know: what the pass computes, what becomes of the runs.

Whether the table is there and right is decided on the node, from the content of weights and data. What is decided here
is only whether a job of its own is worth its wait in the queue: it is where several jobs would otherwise all compute
the table, or wait for the first of them with their GPUs idle.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from launcher.cluster.batch import Batch
from launcher.cluster.job_state import LAG_SECONDS, UNKNOWN, Phase
from launcher.cluster.scheduler import Scheduler, key_of, scheduler_for, states
from launcher.losses import loss_named
from launcher.store.files import Fact, read_fact, write_once
from launcher.store.output_folder import PreparingDir, Store
from launcher.sweep import Run


@dataclass(frozen=True)
class Preparation:
    """A pass that runs of one model and data set share; `folder` holds its jobs."""

    key: str
    folder: Path

    @property
    def is_done(self) -> bool:
        """Whether a job has said that the table is there."""
        return PreparingDir(self.folder / "001").done_file.exists()

    def jobs(self) -> list[PreparingDir]:
        """Its jobs, oldest first."""
        names = sorted(os.listdir(self.folder)) if self.folder.is_dir() else []
        return [PreparingDir(self.folder / name) for name in names if name.isdigit()]


def preparation_of(run: Run, store: Store) -> Preparation:
    """What this run shares with others of its model and data."""
    shared = {key: run.objective[key] for key in ("model", "dataset")}
    parts = [shared, run.objective["trainer"]["max_length"]]
    if not loss_named(run.config.loss_type).paired:  # its rows have neighbours, by seed and micro-batch
        parts += [run.objective["seed"], run.objective["trainer"]["micro_batch_size"]]
    text = json.dumps(parts, sort_keys=True)
    key = hashlib.sha256(text.encode()).hexdigest()[:16]
    return Preparation(key, store.cache("prepare", key))


def planned(preparation: Preparation, batches: Sequence[Batch]) -> Batch | None:
    """The job that would make the table for these batches; None where none is worth it. Nothing is written."""
    if preparation.is_done or sum(batch.size for batch in batches) < 2:  # noqa: PLR2004 - see the module's docstring
        return None
    first = batches[0]
    name = f"{first.name.rpartition('.')[0]}.prepare.{uuid.uuid4().hex[:10]}"
    number = len(preparation.jobs()) + 1
    return replace(first, name=name, folder=preparation.folder / f"{number:03d}", size=1, at_once=None)


def ensure(preparation: Preparation, batch: Batch, run: Run, scheduler: Scheduler) -> Fact:
    """The job that makes the table: the one that is on its way, else `batch`, handed over now.

    Called under the submission lock.

    Raises:
        SchedulerError: it was not taken, or nobody knows.
    """
    underway = find(preparation, scheduler)
    if underway is not None:
        return underway
    work = {"prepare": {**run.objective, **run.settings}, "root": str(batch.root)}
    write_once(batch.job_folders[0] / "job.json", work)
    batch.write({"executor": scheduler.name, "time": time.time()})
    (job,) = scheduler.submit(batch)
    return _record(PreparingDir(batch.folder), job)


def _record(folder: PreparingDir, job: Fact) -> Fact:
    fact = {**job, "folder": str(folder.path), "time": time.time()}
    write_once(folder.job_file, fact)
    return fact


def find(preparation: Preparation, scheduler: Scheduler) -> Fact | None:
    """The job that is making the table, be it running or waiting."""
    folders = [folder for folder in preparation.jobs() if (folder.path / "batch.json").exists()]
    job = _job_in(folders[-1], scheduler) if folders else None
    if job is None:
        return None
    phase = states([job], scheduler).get(key_of(job), UNKNOWN).phase
    lagging = phase is Phase.UNKNOWN and time.time() - float(job["time"]) < LAG_SECONDS
    return job if lagging or phase in (Phase.PENDING, Phase.RUNNING) else None


def _job_in(folder: PreparingDir, scheduler: Scheduler) -> Fact | None:
    """The job of a folder; one whose launcher died before recording it is asked for by its name."""
    job = read_fact(folder.job_file)
    if job is not None:
        return job
    batch, fact = Batch.read(folder.path)
    executor = scheduler if fact["executor"] == scheduler.name else scheduler_for(fact["executor"])
    found = executor.find(batch)
    if found is None:  # a scheduler may be slow to show it
        time.sleep(max(0.0, float(fact["time"]) + LAG_SECONDS - time.time()))
        found = executor.find(batch)
    return None if found is None else _record(folder, found[0])
