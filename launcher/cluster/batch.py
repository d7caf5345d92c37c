"""What is handed to an executor: a batch of jobs that need the same, and the work that each of them does.

Owns: the batch, in memory and on disk; what is pickled.
Must not know: executors, what a run is. A job is a folder with a list of work in it.
"""

from __future__ import annotations

import importlib
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from launcher.config import Cluster, from_plain
from launcher.errors import StoreError
from launcher.machine.users import our_name
from launcher.store.facts import BatchRecord, Job
from launcher.store.files import read_fact, write_once
from launcher.store.run_folder import BATCH_FILE


@dataclass(frozen=True)
class Work:
    """What is pickled: one path. The configuration on disk is the record, so that a job never replays stale state."""

    folder: str

    def __call__(self) -> None:
        """Do the work that is listed in the folder."""
        importlib.import_module("launcher.worker.job").work(Path(self.folder))


@dataclass(frozen=True)
class Batch:
    """Jobs that are handed over in one piece.

    Attributes:
        name: unique, so that a scheduler can be asked whether it has the batch.
        folder: takes the executor's files; `folder/<index>` lists the work of each job.
        size: how many jobs.
        resources: what each job needs.
        root: the output folder.
        code: the snapshot of the code that the jobs run; None: the installed one.
        at_once: how many of the jobs may be at work at the same time; None: all.
        after: the job, as its executor recorded it, that must have ended well before these start; None: none.
        in_step: whether `after` is of a batch of the same size, and each job waits for its counterpart there alone.
        behind: the jobs that must have ended, well or not, before these start.
        user: who handed it over; None: we are about to, or it was not recorded.
    """

    name: str
    folder: Path
    size: int
    resources: Cluster
    root: Path
    code: Path | None = None
    at_once: int | None = None
    after: Job | None = None
    in_step: bool = False
    behind: tuple[Job, ...] = ()
    user: str | None = None

    @property
    def job_folders(self) -> list[Path]:
        """Each job's folder, in order."""
        return [self.folder / str(index) for index in range(self.size)]

    @property
    def work(self) -> list[Work]:
        """What each job does."""
        return [Work(str(folder)) for folder in self.job_folders]

    def write(self, executor: str, cluster: str | None) -> None:
        """Record the batch, before it is handed over to the executor of that name, there."""
        code = None if self.code is None else str(self.code)
        resources, root = asdict(self.resources), str(self.root)
        record = BatchRecord(self.name, self.size, resources, executor, time.time(), root, code, cluster, our_name())
        write_once(self.folder / BATCH_FILE, record)

    @classmethod
    def read(cls, folder: Path) -> tuple[Batch, BatchRecord]:
        """The batch that was recorded in `folder`, for the cluster to which it went, and its record.

        Raises:
            StoreError: there is no record.
        """
        record = read_fact(folder / BATCH_FILE, BatchRecord)
        if record is None:
            raise StoreError(f"{folder / BATCH_FILE}: is missing")
        code = Path(record.code) if record.code else None
        resources = from_plain(record.resources, Cluster, "cluster.")
        resources = replace(resources, clusters=record.cluster or resources.clusters)
        return cls(record.name, folder, record.size, resources, Path(record.root), code, user=record.user), record
