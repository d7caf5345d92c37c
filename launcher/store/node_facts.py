"""The facts that a process on a node leaves: what happened to it, what it has made, where it waits.

Owns: their keys and types, as `facts` does for those of launches, jobs and attempts.
Must not know: how a file is read or written (`files`), where it lies, what follows from it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from launcher.store.files import LEFT_OUT, Plain


@dataclass(frozen=True)
class Lost:
    """`lost/<start>.json`: what was noticed of a rank that is gone or hangs, by the first of the others to notice.

    Attributes:
        rank: which; None where one of several hangs, and which is not known.
        node: where it was.
        hangs: whether it was still there.
    """

    reason: str
    rank: int | None
    hangs: bool
    node: str | None = None
    time: float = 0.0


@dataclass(frozen=True)
class Requeue:
    """A line of `requeues.jsonl`: the job went back into the queue.

    Attributes:
        step: of its last checkpoint.
        why: None: because the time limit was near.
        node: the one that it keeps away from since.
        progress: whether this life of the job has made anything that the next need not make again; None: not said.
    """

    step: int | None
    time: float
    progress: bool | None = field(default=None, metadata=LEFT_OUT)
    why: str | None = field(default=None, metadata=LEFT_OUT)
    node: str | None = field(default=None, metadata=LEFT_OUT)


@dataclass(frozen=True)
class Halving:
    """A line of `memory.jsonl`: the run goes on with this micro-batch. `step`: of its last checkpoint."""

    micro_batch_size: int
    step: int | None
    time: float


@dataclass(frozen=True)
class Damage:
    """A line of `damage.jsonl`: a checkpoint that was finished is not what was written.

    Attributes:
        checkpoint: its path below `checkpoints/`.
        why: which files, and how.
        step: of the checkpoint that the training went on from instead; None: it began anew.
    """

    checkpoint: str
    why: str
    step: int | None
    time: float


@dataclass(frozen=True)
class CheckpointMarker:
    """`complete.json` of a checkpoint, written last.

    Attributes:
        files: their sizes in bytes, by name.
        ranks: how many processes have written them.
        sums: their checksums (xxh3_128), by name; none where an older version wrote them.
        run: whose training it is of.
        sources: the hash of what that was trained on; None: that is not known.
        step: at which it was written.
        packing: how pairs went through the model up to there, in words; None: an older version wrote it.
    """

    files: dict[str, int]
    ranks: int
    sums: dict[str, str] = field(default_factory=dict)
    run: str | None = field(default=None, metadata=LEFT_OUT)
    sources: str | None = field(default=None, metadata=LEFT_OUT)
    step: int | None = field(default=None, metadata=LEFT_OUT)
    packing: str | None = field(default=None, metadata=LEFT_OUT)


@dataclass(frozen=True)
class TableManifest:
    """`manifest.json` of a reference table.

    Attributes:
        made_from: what its values depend on.
        rows: how many.
        table_sha256: of the table's file.
    """

    made_from: Plain = field(default_factory=dict)
    rows: int | None = None
    table_sha256: str | None = None
    device: str | None = None
    versions: Plain = field(default_factory=dict)
    time: float | None = None


@dataclass(frozen=True)
class Packable:
    """`<cache>/packed/<key>.json`, derived: whether pairs can go through a base model packed.

    Attributes:
        why_not: what is against it, in words; None: nothing.
        up_to: with how many tokens of prompt and completion at most; None: with any number.
    """

    why_not: str | None = None
    up_to: int | None = None


@dataclass(frozen=True)
class Place:
    """`rendezvous/*.json`: where rank 0 waits for the others.

    Attributes:
        token: tells this start of the job from others.
        gpus: the GPUs that rank 0 has taken for all, on one machine without a queue; None where nobody takes any.
    """

    address: str
    port: int
    token: str
    gpus: list[str] | None = None


@dataclass(frozen=True)
class Probe:
    """`answer.json`: what doctor's job has found on its node.

    Attributes:
        word: what the login node had left in the folder, if that is the same folder.
        packages: version by name; None: it is not installed.
        free_gb: in the output folder, in 10^9 bytes.
        torch_error: why torch cannot be imported; the rest is empty then.
        cuda, nccl: the versions that torch was built for, and sees.
        gpus: their names.
        lacks: what the output folder's file system does not do there, each with what is done instead.
        lock_seen: whether a lock that the login node holds is seen there; None: there are no locks.
        hub: the Hub's address.
        hub_silence: why it has not answered; None: it has.
    """

    node: str
    python: str
    free_gb: float
    word: str | None = None
    packages: dict[str, str | None] = field(default_factory=dict)
    torch_error: str | None = None
    cuda: str | None = None
    nccl: str | None = None
    gpus: list[str] = field(default_factory=list)
    lacks: list[str] = field(default_factory=list)
    lock_seen: bool | None = None
    hub: str | None = None
    hub_silence: str | None = None
