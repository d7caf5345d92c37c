"""What a Hub on loopback holds: repositories, their commits and branches, and what is told of a file.

A commit is an immutable mapping of paths to content, named by a hash or by the id that a test prescribes; a branch is
the name of its newest. What is large by its name lies in another storage, as with git-lfs.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LARGE = re.compile(r".*\.(safetensors|bin|gguf|parquet)")
POINTER_SIZE = 134  # of the file that stands for a large one in git


@dataclass
class Commit:
    id: str
    parent: str | None
    title: str
    files: dict[str, bytes]


@dataclass
class Repo:
    """`address` is its path on the Hub. Where it is `gated`, its files are for those whom its owner lets in."""

    address: str
    private: bool = False
    gated: str | None = None  # auto or manual, as its owner lets people in
    lets_us_in: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def add(self, branch: str, title: str, files: dict[str, bytes], commit: str | None = None) -> Commit:
        """The commit to which the branch moves, named by `commit`, else by a hash."""
        parent = self.branches.get(branch)
        told = repr((parent, title, sorted((name, hashlib.sha1(data).hexdigest()) for name, data in files.items())))  # noqa: S324
        made = Commit(commit or hashlib.sha1(told.encode()).hexdigest(), parent, title, files)  # noqa: S324 - as git does
        self.commits[made.id], self.branches[branch] = made, made.id
        return made

    def find(self, revision: str) -> Commit | None:
        return self.commits.get((self.tags | self.branches).get(revision, revision))

    def history(self, revision: str) -> Iterator[Commit]:
        commit = self.find(revision)
        while commit:
            yield commit
            commit = self.commits.get(commit.parent or "")


def address_of(kind: str, name: str) -> str:
    """The path of a repository; only that of a model is its name alone."""
    return f"datasets/{name}" if kind.removesuffix("s") == "dataset" else name


def content_of(folder: Path) -> dict[str, bytes]:
    """The files below a folder, by their paths in it."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def blob(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()  # noqa: S324 - git's name of a file


def is_large(path: str) -> bool:
    return LARGE.fullmatch(path) is not None


def etag(path: str, data: bytes) -> str:
    """The file's name by content, under which clients keep it."""
    return sha256(data) if is_large(path) else blob(data)


def file_entry(path: str, data: bytes) -> dict[str, Any]:
    """A file as `tree` and `paths-info` tell of it."""
    entry = {"type": "file", "path": path, "size": len(data), "oid": blob(data)}
    if is_large(path):
        entry["lfs"] = {"oid": sha256(data), "size": len(data), "pointerSize": POINTER_SIZE}
    return entry


def folder_entries(files: dict[str, bytes]) -> list[dict[str, Any]]:
    """Every folder, which is there because a file is in it."""
    paths = {str(parent) for path in files for parent in Path(path).parents} - {"."}
    return [{"type": "directory", "path": path, "size": 0, "oid": blob(path.encode())} for path in sorted(paths)]


def entries(files: dict[str, bytes]) -> list[dict[str, Any]]:
    """Every folder and every file."""
    return folder_entries(files) + [file_entry(path, data) for path, data in sorted(files.items())]
