"""What lies in the output folder, opened to be read; and what is said where the system refuses.

Owns: which files are read at all, the words for those that are not.
Must not know: where a file lies, what it holds.

Somebody else's folder may be shut, a disk fail, a pipe lie in a file's place. Each is said of the one file, so that the
others are read all the same.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from launcher.errors import StoreError, Unread
from launcher.machine import disk, rights

REMEDY = "put it right, or move it away to have it made again"
LARGEST_BYTES = 1 << 28  # of a fact; a launch of ten thousand runs has some 10 MB
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC  # a pipe has no writer to wait for
DEEPEST = 100  # of a configuration, which has some five levels
_OPENING = (b"[", b"{", b"- ", b"? ", b"-\t", b"?\t")  # of a level; a mapping by lines has each further to the right
_DEEP = re.compile(rb"^[ ]{%d}" % DEEPEST, re.MULTILINE)
# Ten times as fast, where PyYAML was built with libyaml.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def unread(path: Path, error: OSError | ValueError) -> Unread:
    """What the system says of a file or folder that it does not let be read, and what helps."""
    why = getattr(error, "strerror", None) or error
    if isinstance(error, PermissionError):
        return Unread(rights.refused(path, "read", error.strerror))
    return Unread(f"{path}: {disk.fault(error, path.parent, then='try') or f'cannot be read ({why}); {REMEDY}'}")


def is_there(path: Path) -> bool:
    """Whether there is something of that name.

    Raises:
        Unread: the system does not tell.
    """
    try:
        os.stat(path)  # noqa: PTH116 - of each run
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as error:
        raise unread(path, error) from error
    return True


def may_be_there(path: Path) -> bool:
    """Whether something of that name is there, or may be: the system does not tell."""
    try:
        return is_there(path)
    except Unread:
        return True


@contextlib.contextmanager
def opened(path: Path) -> Iterator[tuple[int, int]]:
    """The descriptor of a file, to be read, and its size.

    Raises:
        FileNotFoundError: there is none.
        Unread: the system does not let it be read.
        StoreError: it is a folder, or a pipe.
    """
    try:
        handle = os.open(path, _READ)
        try:
            found = os.fstat(handle)
            if not stat.S_ISREG(found.st_mode):
                what = os.strerror(errno.EISDIR) if stat.S_ISDIR(found.st_mode) else "is no regular file"
                raise StoreError(f"{path}: {what}; {REMEDY}")
            yield handle, found.st_size
        finally:
            os.close(handle)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise unread(path, error) from error


def read_content(path: Path) -> bytes | None:
    """What a fact's file holds; None where there is none."""
    with contextlib.suppress(FileNotFoundError), opened(path) as (handle, size):
        if size > LARGEST_BYTES:
            raise StoreError(f"{path}: has {disk.in_words(size)}, as no such file; {REMEDY}")
        return rest_of(handle, size)
    return None


def rest_of(handle: int, size: int) -> bytes:
    """What is left to be read of a file, probably `size` bytes."""
    parts = iter(lambda: os.read(handle, size + 1), b"")
    return b"".join(parts)


def read_mapping(path: Path) -> dict[Any, Any] | None:
    """The YAML mapping at `path`; None where there is no such file.

    Raises:
        StoreError: it cannot be read, or is none.
    """
    text = read_content(path)
    if text is None:
        return None
    try:
        if _DEEP.search(text) or sum(map(text.count, _OPENING)) >= DEEPEST:
            _check_depth(text.decode(), path)
        found = yaml.load(text.decode(), Loader=_LOADER)  # noqa: S506 - a safe one
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise StoreError(f"{path}: not readable as YAML; {REMEDY}") from error
    if not isinstance(found, dict):
        raise StoreError(f"{path}: holds no mapping; {REMEDY}")
    return found


def _check_depth(text: str, path: Path) -> None:
    """That a YAML text is not nested deeper than any of ours: the loader ends the process where its stack is full.

    Raises:
        StoreError: it is.
        YAMLError: it is none.
    """
    depth = 0
    for event in yaml.parse(text, Loader=_LOADER):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise StoreError(f"{path}: nested too deeply; {REMEDY}")
