"""The hash of a file's content, remembered, so that a large file is read once.

Owns: when a remembered hash still holds. Must not know: what a file is for.

A file is known by its path, size, both times of change and inode. The time of its last modification can be set by
anybody (`cp -p`, `rsync -t`, `tar`), the other one (ctime) cannot. A file that has changed just now may change again
within the tick of the file system's clock: its hash is not remembered yet, as git does it.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from os import stat_result
from pathlib import Path

from launcher.errors import Unread
from launcher.store.files import file_hash, read_fact, write_once
from launcher.store.origins import FileHash
from launcher.store.output_folder import Store

SETTLED_SECONDS = 2.0  # since its last change, after which a file's time tells the next one; FAT's clock has such ticks
LARGE_BYTES = 2 * 10**9  # takes some seconds to read


@dataclass(frozen=True)
class Hashes:
    """The hashes of files, remembered in a store.

    Attributes:
        store: where.
        told: is given a line before a large file is read.
        new: those that `keep` will write there: a launch that is refused writes nothing.
    """

    store: Store
    told: Callable[[str], None] = print
    new: dict[Path, FileHash] = field(default_factory=dict)

    def of(self, path: Path) -> str:
        """The hash of a file's content."""
        before, began = path.stat(), time.time()
        memory = self.store.cache("hashes", f"{_identity(path, before)}.json")
        fact = self.new.get(memory) or _remembered(memory)
        if fact is None:
            if before.st_size >= LARGE_BYTES:
                self.told(f"reading {path}, {before.st_size / 1e9:.1f} GB, to know its content from now on")
            fact = FileHash(str(path), file_hash(path))
            settled = began - before.st_ctime >= SETTLED_SECONDS
            if settled and _identity(path, path.stat()) == _identity(path, before):
                self.new[memory] = fact
        return fact.sha256

    def keep(self) -> None:
        """Remember those that are new."""
        for memory, fact in self.new.items():
            with contextlib.suppress(PermissionError):  # another user's folder: then it is read again next time
                write_once(memory, fact)
        self.new.clear()


def _remembered(memory: Path) -> FileHash | None:
    """None also where another user does not let it be read."""
    try:
        return read_fact(memory, FileHash)
    except Unread:
        return None


def file_sha256(path: Path, store: Store) -> str:
    """The hash of a file's content, remembered in the store until the file changes."""
    hashes = Hashes(store)
    digest = hashes.of(path)
    hashes.keep()
    return digest


def _identity(path: Path, stat: stat_result) -> str:
    """What changes with the file; the device is none of it, since each machine numbers its mounts for itself."""
    parts = (path.resolve(), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:32]
