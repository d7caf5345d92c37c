"""The kinds of fact, and what each says: a class for each, with the keys of its file.

Owns: the keys, their types, what a fact of an older version stands for where it lacks one. `results` has those of
results, `origins` those of what a run is trained on.
Must not know: how a file is read or written (`files`), where it lies, what follows from it.

A key without a default has been written ever since there is such a file. `time` is always when the fact was written, in
seconds since 1970. What is open by nature, such as settings or scores by name, stays a mapping.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from launcher.config import Hub
from launcher.store.files import LEFT_OUT, Count, Plain, Seconds
from launcher.store.origins import Contents

# ------------------------------------------------------------------------------------------------ launches


@dataclass(frozen=True)
class RunRecord:
    """What a launch records of a run: enough to list it without its folder, and to launch it again.

    Attributes:
        axes: its value of each key that varies.
        settings: what belongs to no objective, by section.
        overrides: the command line that gives this run alone.
        loss: the keys of its loss that have a value; None where none has.
    """

    run_id: str
    model: str
    dataset: str
    loss_type: str
    beta: float
    seed: int
    axes: Plain
    settings: Plain
    overrides: list[str]
    loss: Plain | None = field(default=None, metadata=LEFT_OUT)


@dataclass(frozen=True)
class Launch:
    """`launches/NNN.json`: one launch of a sweep.

    Attributes:
        axes: the keys that vary.
        runs: those that are new to the sweep, or have other settings than before.
        common: what of their settings, by section, all of them have; in the file it stands here alone.
        argv: what was typed.
        provenance: the code, the machine and the versions.
    """

    axes: list[str]
    runs: list[RunRecord]
    argv: list[str] = field(default_factory=list)
    time: Seconds | None = None
    provenance: Plain = field(default_factory=dict)
    common: Plain | None = field(default=None, metadata=LEFT_OUT)


@dataclass(frozen=True)
class RunName:
    """What a listing tells of a recorded run."""

    run_id: str
    model: str
    loss_type: str
    beta: float


@dataclass(frozen=True)
class NamedRuns:
    """A launch, as a listing reads it."""

    runs: list[RunName]


# ------------------------------------------------------------------------------------------------ jobs


@dataclass(frozen=True, slots=True)
class Job:
    """A job as its executor knows it: in `jobs.json` of a batch, and in `job.json` of a job that makes a table.

    An attempt that was started by hand, or by an older version, has a `job.json` too.

    Attributes:
        job_id: the executor's name for it; on this machine a process id.
        executor: which one has it.
        log: where the job prints what belongs to no run.
        host, process_start: of a process: its machine, and its start in clock ticks since that machine's boot.
        user: whose it is; None: that was not recorded.
        cluster, name: of a queue's job: where it is, and its batch's name; likewise.
        folder: holds its list of work; None: the job was started by hand.
    """

    job_id: str
    executor: str
    log: str | None = field(default=None, metadata=LEFT_OUT)
    host: str | None = field(default=None, metadata=LEFT_OUT)
    process_start: Count | None = field(default=None, metadata=LEFT_OUT)
    user: str | None = field(default=None, metadata=LEFT_OUT)
    cluster: str | None = field(default=None, metadata=LEFT_OUT)
    name: str | None = field(default=None, metadata=LEFT_OUT)
    folder: str | None = None
    time: Seconds | None = None


@dataclass(frozen=True)
class BatchRecord:
    """`batch.json`: what is handed to an executor in one piece, written before it is.

    Attributes:
        name: unique, so that the executor can be asked for it.
        size: how many jobs.
        resources: what each needs: the section `cluster`.
        root: the output folder.
        code: the snapshot of the code; None: the installed one.
        cluster: the one to which it goes; None: there is none, or it was not recorded.
        user: who handed it over; None: that was not recorded.
    """

    name: str
    size: Count
    resources: Plain
    executor: str
    time: Seconds
    root: str
    code: str | None = None
    cluster: str | None = field(default=None, metadata=LEFT_OUT)
    user: str | None = field(default=None, metadata=LEFT_OUT)


@dataclass(frozen=True)
class JobList:
    """What a job is to do: the folders of the attempts that it makes, one after another.

    Attributes:
        slots: how many such jobs may be at work on this machine at the same time; None: all.
    """

    attempts: list[str] = field(default_factory=list)
    slots: Count | None = None


@dataclass(frozen=True)
class WorkList:
    """`work.json` of a batch: what each of its jobs does, in order, a JobList or a TableWork.

    Older versions wrote a `<index>/job.json` for each.
    """

    jobs: list[Plain]


@dataclass(frozen=True)
class JobRecords:
    """`jobs.json` of a batch: its jobs as their executor recorded them, in order."""

    jobs: list[Job]


@dataclass(frozen=True)
class TableWork:
    """What a job does that makes a reference table: the configuration of one of its runs, and the output folder."""

    prepare: Plain
    root: str


@dataclass(frozen=True)
class Prepared:
    """`done.json`: a job has made the reference table.

    Attributes:
        entries: what was made for that, as paths below the cache's folder; none where an earlier version made it.
    """

    time: Seconds | None = None
    entries: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class CacheUse:
    """`cache.json` of a run: what it has in the cache that is large.

    Attributes:
        entries: its reference table and a model that was made for it, as paths below the cache's folder.
    """

    entries: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class EntryFiles:
    """`.files.json` of a cache entry: every file that it was made with, by its path in it.

    Attributes:
        files: its size in bytes.
        sums: its checksum (xxh3_128); none where an older version made the entry.
        marks: its inode and its time of change; whoever changes what a file holds changes them.
    """

    files: dict[str, int]
    sums: dict[str, str] = field(default_factory=dict)
    marks: dict[str, str] = field(default_factory=dict)


# ------------------------------------------------------------------------------------------------ attempts


class Purpose(StrEnum):
    """What an attempt is made for."""

    TRAINING = "training"  # and for what of the evaluation its job does
    EVALUATION = "evaluation"  # of what another attempt trains, or has trained


@dataclass(frozen=True)
class Attempt:
    """`attempt-NNN.json`: what was asked for.

    Attributes:
        settings, overrides: as in a RunRecord; of this attempt.
        cost_key: that of runs that need about the same time per step.
        provenance: the code, the machine and the versions.
        batch: the folder of what it was handed over with; None: it was made by hand.
        index: which of the batch's jobs makes it; None: an older version handed it over, or nobody did.
        after: the job that makes its reference table, where there is one.
        follows: the job that trains what it evaluates, where it waits for one.
        purpose: None: an older version made it, which told it by the folder's name.
        inputs: what it is to be trained on, of this machine, by key; None: that was not recorded.
        step: of the run's last checkpoint when it was made; None: there was none, or that was not recorded.
        run: whose it is; None: an older version made it.
    """

    settings: Plain = field(default_factory=dict)
    overrides: list[str] = field(default_factory=list)
    cost_key: str | None = None
    provenance: Plain = field(default_factory=dict)
    batch: str | None = None
    index: Count | None = field(default=None, metadata=LEFT_OUT)
    after: Job | None = field(default=None, metadata=LEFT_OUT)
    follows: Job | None = field(default=None, metadata=LEFT_OUT)
    time: Seconds | None = None
    purpose: Purpose | None = None
    inputs: dict[str, Contents] | None = field(default=None, metadata=LEFT_OUT)
    step: Count | None = field(default=None, metadata=LEFT_OUT)
    run: str | None = field(default=None, metadata=LEFT_OUT)


@dataclass(frozen=True)
class Started:
    """`starts/<attempt>.<NNNN>.json`: the process that took the attempt up, and was rank 0 of those that did.

    Attributes:
        host: the node.
        gpus: their names.
        job: the scheduler's id of the job, where it is one.
        restart: how often that job had come back from the queue.
        time: when it did.
    """

    host: str | None = None
    gpus: list[str] = field(default_factory=list)
    pid: Count | None = None
    job: str | None = None
    restart: Count = 0
    time: Seconds | None = None


@dataclass(frozen=True)
class Cancel:
    """`cancel.json`: the wish that the attempt end."""

    time: Seconds | None = None


class FailureStatus(StrEnum):
    """As what an end without a result counts; a word that we do not know is a failure."""

    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    TIMEOUT = "TIMEOUT"
    LOST = "LOST"

    @classmethod
    def _missing_(cls, value: object) -> FailureStatus | None:
        return cls.FAILED if isinstance(value, str) else None


class Cause(StrEnum):
    """Why a job or an attempt is where it is, where something follows from it; a time limit is a status of its own."""

    DEPENDENCY = "waits for another job"
    IN_VAIN = "waits for another job, which has failed"
    HELD = "is held"
    OUT_OF_MEMORY = "out of memory"
    NODE_FAILED = "node failed"
    HUNG = "hung"
    QUEUE_FULL = "not submitted, since the queue is full"


@dataclass(frozen=True)
class Failure:
    """`failure.json`: why an attempt ended without a result, or a job without a reference table.

    Attributes:
        cause: the reason in a word, where something follows from it; read it as `known_cause`.
        node: the one to which it happened, of several, where that is known.
    """

    reason: str
    status: FailureStatus = FailureStatus.FAILED
    traceback: str = ""
    time: Seconds | None = None
    cause: Cause | None = field(default=None, metadata=LEFT_OUT)
    node: str | None = field(default=None, metadata=LEFT_OUT)

    @property
    def known_cause(self) -> Cause | None:
        """The cause; older versions wrote none, and left it to be found in the reason."""
        return self.cause or cause_told(self.reason)


def cause_told(reason: str) -> Cause | None:
    """The cause that a failed process's own words tell: a driver's and the kernel's for a lack of the job's memory.

    An accelerator's lack of it is none, since asking the cluster for more would not help: see `worker.out_of_memory`.
    """
    lacks_memory = "OUT_OF_MEMORY" in reason or "oom" in reason.lower().split()
    return Cause.OUT_OF_MEMORY if lacks_memory else None


# ------------------------------------------------------------------------------------------------ publishing


@dataclass(frozen=True)
class Revision:
    """`revision.json`: where a model is published.

    Attributes:
        address: what from_pretrained takes, or a link that people can open.
        commit: of the Hub; of a folder, the hash of what it holds.
        content: changes with the model and with every number that is published beside it.
        model: RUN or RUN@STEP, whose it is; None: an older version wrote it.
    """

    address: str
    store: str
    repo: str
    revision: str
    commit: str
    content: str
    time: Seconds = 0.0
    model: str | None = field(default=None, metadata=LEFT_OUT)

    def is_at(self, hub: Hub) -> bool:
        """Whether it is where `hub` says; the owner of the repository may have been left to the Hub."""
        repo = self.repo if "/" in (hub.repo or "") else self.repo.rpartition("/")[2]
        return (self.store, repo, self.revision) == (hub.store, hub.repo, hub.revision)


@dataclass(frozen=True)
class Unpublished:
    """`unpublished.json`: why the attempt's job could not publish a model."""

    reason: str
    time: Seconds = 0.0
