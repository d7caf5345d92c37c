"""What takes space on the disk, and taking it away.

Owns: how much folders take, and what is free once they are gone; removing a path of the output folder.
Must not know: what a path is for, whether anybody still needs it.

A file may have two names, as a published model and a run's: it takes its space once, which is free when both are gone.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from launcher.errors import StoreError
from launcher.store.files import look_first

_BLOCK_BYTES = 512  # of st_blocks, whatever the file system's are
REMOVED = ".removed."  # in the name of what is being removed


@dataclass(frozen=True)
class Space:
    """Bytes on the disk.

    Attributes:
        taken: by all that is there, each file once.
        freed: what is free when it is gone: not what has another name elsewhere.
    """

    taken: int = 0
    freed: int = 0


def space(paths: Iterable[Path]) -> Space:
    """What these files and folders take. Links are not followed; what vanishes meanwhile takes nothing."""
    seen: dict[tuple[int, int], tuple[int, int, int]] = {}
    for stat in _files(paths):
        _, _, names = seen.get((stat.st_dev, stat.st_ino), (0, 0, 0))
        seen[stat.st_dev, stat.st_ino] = stat.st_blocks * _BLOCK_BYTES, stat.st_nlink, names + 1
    taken = sum(size for size, _, _ in seen.values())
    return Space(taken, sum(size for size, links, names in seen.values() if names >= links))


def _files(paths: Iterable[Path]) -> Iterator[os.stat_result]:
    folders: list[str | Path] = []
    for path in paths:
        try:
            stat = path.lstat()
        except OSError:
            continue
        if path.is_dir() and not path.is_symlink():
            folders.append(path)
        else:
            yield stat
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    else:
                        yield entry.stat(follow_symlinks=False)
        except OSError:
            continue


def check_within(root: Path, path: Path) -> None:
    """That a path is one of the output folder, reached by no link that leads elsewhere.

    Raises:
        StoreError: it is not, so that it is not ours to remove.
    """
    whole = root.resolve()
    folder = path.parent.resolve()
    if path.is_symlink() or not folder.is_relative_to(whole) or path.name in ("", ".."):
        raise StoreError(f"{path}: is a link, or lies outside {root} by way of one; remove it by hand")


def remove(root: Path, path: Path) -> None:
    """Remove a file or folder of the output folder: its name is gone at once, and what it holds after that.

    Raises:
        StoreError: it is not within that folder, or a link.
        OSError: the system does not let it go.
    """
    check_within(root, path)
    look_first()
    aside = path.with_name(f".{path.name}{REMOVED}{secrets.token_hex(6)}")
    try:
        path.rename(aside)
    except FileNotFoundError:
        return
    if aside.is_dir():
        shutil.rmtree(aside)  # follows no link, also not one that takes a folder's place meanwhile
    else:
        aside.unlink()
