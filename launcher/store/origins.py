"""The kinds of fact that say what a run is trained on: files of this machine by their hashes, the Hub by its commits.

Owns: the keys of these facts and their types. Must not know: how a file is read or written (`files`), where it lies,
who compares.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from launcher.store.files import LEFT_OUT, Plain


@dataclass(frozen=True)
class Contents:
    """What lies at a path of this machine, as far as it decides what is trained.

    Attributes:
        path: where that was.
        spelled: the path as it was known from the folder of the launch, `./train.jsonl`; absolute outside of it.
        files: the SHA-256 of each file that counts, by its name from there.
    """

    path: str
    spelled: str
    files: dict[str, str]


@dataclass(frozen=True)
class FileHash:
    """`cache/hashes/*.json`: the hash of a file that has not changed since; see `store.hashes`."""

    path: str
    sha256: str


@dataclass(frozen=True)
class DatasetSources:
    """Hub commits by name; what writes the rejected completions, where a weaker model does."""

    commits: dict[str, str] = field(default_factory=dict)
    weaker_model: Plain | None = field(default=None, metadata=LEFT_OUT)


@dataclass(frozen=True)
class Sources:
    """`sources.json`: what a run is trained on; of the model a commit of the Hub, or the hashes of its files.

    Attributes:
        inputs: all that is on this machine, by the key that names it; None: an older version did not record it.
    """

    model: Plain = field(default_factory=dict)
    dataset: DatasetSources = field(default_factory=DatasetSources)
    inputs: dict[str, Contents] | None = field(default=None, metadata=LEFT_OUT)


@dataclass(frozen=True)
class Pin:
    """`pins/.../*.json`: which commit a branch or a tag on the Hub stands for in this output folder."""

    commit: str
    path: str
    revision: str
    time: float | None = None
