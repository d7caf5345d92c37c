"""Cache entries: folders that are made once, and trusted only while all of their files are there as they were.

Owns: the list of an entry's files with what they hold, written last; whether an entry is as it was made; making it
again.
Must not know: what an entry holds, where it lies (`output_folder` does).

    <cache>/<kind>/<key>/.files.json    every file of the entry, with its size and its checksum

A cluster's scratch disk loses its oldest files, one by one. So an entry is looked at before each use: a `stat` for each
of its files, and one that was touched since is read. One that lacks a file, or its list, or holds something else, is
made again, and a line says so.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from launcher.errors import StoreError, Unread, listed
from launcher.machine import rights
from launcher.store.checksums import checksums
from launcher.store.facts import EntryFiles
from launcher.store.files import building, read_fact, write_once

LOG = logging.getLogger(__name__)
LIST = ".files.json"
NAMED = 3  # lost files that a line names


@contextlib.contextmanager
def making(folder: Path) -> Iterator[Path | None]:
    """Make a cache entry once: yields a scratch folder to fill, or None where `folder` is there and whole."""
    with building(folder, _is_whole_or_said) as empty:
        yield empty
        if empty is not None:
            list_files(empty)


def list_files(folder: Path) -> None:
    """Write down which files an entry has; nothing where that was done before, in a folder that may be another's."""
    if not (folder / LIST).exists():
        found = _files(folder)
        sizes = {name: stat.st_size for name, stat in found.items()}
        marks = {name: _mark(stat) for name, stat in found.items()}
        write_once(folder / LIST, EntryFiles(sizes, checksums(folder, found), marks))


def is_whole(folder: Path) -> bool:
    """Whether an entry has all the files that it was made with."""
    return _fault(folder) is None


def lost_files(folder: Path) -> list[str]:
    """The files that an entry was made with and does not have any more, or not as they were."""
    try:
        made = read_fact(folder / LIST, EntryFiles)
    except Unread:  # what may be whole is not made again
        raise
    except StoreError:
        return [LIST]
    if made is None:
        return []
    there = _files(folder)
    lost = {name for name, size in made.files.items() if name not in there or there[name].st_size != size}
    touched = [name for name in made.sums if name not in lost and _mark(there[name]) != made.marks.get(name)]
    lost.update(name for name, found in checksums(folder, touched).items() if found != made.sums[name])
    return [name for name in made.files if name in lost]


def _is_whole_or_said(folder: Path) -> bool:
    fault = _fault(folder)
    if fault is not None and folder.is_dir():
        LOG.warning("%s %s; making it again", folder, fault)
    return fault is None


def _fault(folder: Path) -> str | None:
    if not folder.is_dir():
        return "is not there"
    if (shut := rights.unreadable_in(folder)) is not None:  # which a library would call missing
        raise Unread(rights.refused(shut, "read"))
    if lost := lost_files(folder):
        return f"is not whole any more: {listed(lost, NAMED)} of it {'is' if len(lost) == 1 else 'are'} gone or changed"
    return None if (folder / LIST).is_file() else "does not say which files it was made with"


def _files(folder: Path) -> dict[str, os.stat_result]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path != folder / LIST]
    return {path.relative_to(folder).as_posix(): path.stat() for path in files}


def _mark(file: os.stat_result) -> str:
    return f"{file.st_ino}:{file.st_mtime_ns}"
