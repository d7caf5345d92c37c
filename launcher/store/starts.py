"""The starts of a run: who may write in its folder.

Owns: `starts/` of a run; the number of each start, and which one is valid.
Must not know: what a process does, schedulers.

A start is one process group that takes up an attempt; a job that comes back from the queue is another one. Each has a
number, `<attempt>.<NNNN>`. Of one purpose, to train the run or to evaluate it, the highest is valid, and whoever sees a
higher one leaves. So two that are at work at once, since SLURM gave up a node that still works, do not both write.

What is asked of the file system, NFS among them:

    link      makes a name or fails: no two starts get one number. Its answer may be lost, and the second question then
              says that the name is there; so `write_once` looks whose file it is.
    listing   is the server's once this client has itself changed the folder. Otherwise a client may answer from what it
              knew up to a minute ago, that a name is missing among it. So each look makes and removes a file first.
    rename, and what is closed is there for whoever opens it later: as everywhere in the output folder.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from launcher.errors import StoreError, Unread
from launcher.machine import rights
from launcher.store.facts import Started
from launcher.store.files import read_fact, write_once
from launcher.store.names import order_of, start_in
from launcher.store.run_folder import AttemptDir

_CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)


@dataclass(frozen=True)
class Start:
    """`starts/<name>.json`.

    Attributes:
        path: the file of the fact `Started`.
        inode: of that file, where the start is this process's own: in a folder that was removed and made again, the
            same name is somebody else's.
    """

    path: Path
    inode: int | None = None

    @property
    def name(self) -> str:
        """`001.0002`; so is its folder of checkpoints called, and what it makes aside."""
        return self.path.stem

    @cached_property
    def fact(self) -> Started:
        """Who it is; empty where that was lost."""
        return read_fact(self.path, Started) or Started()

    @property
    def order(self) -> tuple[int, int]:
        """The number of its attempt, and its own: the higher is the later one."""
        return order_of(self.name)

    @property
    def evaluates(self) -> bool:
        """Whether its attempt trains nothing."""
        parts = start_in(self.name)
        return parts is not None and parts[1]

    def later(self) -> Start | None:
        """The valid start of the same purpose, where that is no longer this one; read afresh.

        Raises:
            OSError: the folder cannot be read.
        """
        found = [start for start in _afresh(self) if start.evaluates == self.evaluates and start.order > self.order]
        return max(found, key=lambda start: start.order, default=None)

    def is_superseded(self) -> bool:
        """Whether another has taken up the run since, or its folder is gone: this one must not write there any more.

        Raises:
            OSError: the folder cannot be read.
        """
        try:
            return self.later() is not None or (self.inode is not None and self.path.stat().st_ino != self.inode)
        except FileNotFoundError:
            return True


def claim(attempt: AttemptDir, fact: Started) -> Start | None:
    """Take up an attempt: the next free number is this process group's, and all earlier starts leave.

    None where a later life of the same job has done so already: this one was slow, or stopped, and is not to have it.
    """
    known = of_attempt(attempt)
    while not any(_is_later_life(start, fact) for start in known):
        number = max((start.order[1] for start in known), default=0) + 1
        path = attempt.run.starts / f"{attempt.path.name}.{number:04d}.json"
        if write_once(path, fact):
            return Start(path, path.stat().st_ino)
        known = of_attempt(attempt)  # as the server has it: what was tried has changed the folder
    return None


def _is_later_life(start: Start, one: Started) -> bool:
    try:
        other = start.fact
    except Unread:
        raise
    except StoreError:
        return False  # somebody has damaged it since; its name counts all the same
    return other.job is not None and other.job == one.job and other.restart > one.restart


def of_attempt(attempt: AttemptDir) -> list[Start]:
    """All starts of an attempt, in order."""
    folder, name = attempt.run.starts, attempt.path.name
    every = _those_in(folder, attempt.run.names(folder))
    mine = (start for start in every if start.name.rpartition(".")[0] == name)
    return sorted(mine, key=lambda start: start.order)


def last_start(attempt: AttemptDir) -> Start | None:
    """The last start of an attempt, or what an older version recorded; None where it was never taken up."""
    return next(reversed(all_starts(attempt)), None)


def all_starts(attempt: AttemptDir) -> list[Start]:
    """Every start of an attempt, in order; an older version recorded one in the attempt's own folder."""
    older = [Start(attempt.started_file)] if attempt.has(attempt.started_file) else []
    return older + of_attempt(attempt)


def _listed(folder: Path) -> Iterator[Start]:
    return _those_in(folder, os.listdir(folder) if folder.is_dir() else [])


def _those_in(folder: Path, names: Iterable[str]) -> Iterator[Start]:
    return (Start(folder / name) for name in names if name.endswith(".json") and start_in(name.removesuffix(".json")))


def _afresh(start: Start) -> Iterator[Start]:
    """All starts of the run, after a change of the folder by this client; where it can make none, as far as known."""
    look = start.path.with_name(f".{start.name}")
    try:
        os.close(os.open(look, os.O_CREAT | os.O_WRONLY, rights.NEW_FILE))
        with contextlib.suppress(FileNotFoundError):  # another thread's look
            look.unlink()
    except OSError as error:
        if error.errno not in _CANNOT_WRITE:
            raise
    return _listed(start.path.parent)
