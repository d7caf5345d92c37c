"""How old a file is, by the clock of the file system that has it.

Owns: that clock. Must not know: what a file is for.

A shared file system gives files its server's time, from which the clock of this machine may be minutes or hours apart.
So the age of a file is the time that a file made beside it now would get, less its own.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from launcher.machine import rights

_ahead: dict[int, float] = {}  # by device: how far its clock is ahead of time.monotonic(); it is looked at once


def age(path: Path) -> float | None:
    """Seconds since the file was last written; None where there is none.

    One that seems to come from the future was written while a clock was wrong, and is as old as it seems far away.
    """
    try:
        stat = path.stat()
    except OSError:
        return None
    if stat.st_dev not in _ahead:
        _ahead[stat.st_dev] = _now(path.parent) - time.monotonic()
    return abs(time.monotonic() + _ahead[stat.st_dev] - stat.st_mtime)


def written(path: Path) -> float:
    """When the file was last written, by the clock that `age` goes by, in seconds since 1970; 0 where there is none.

    For what came first of two files: unlike their ages, this does not depend on when one looks.
    """
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _now(folder: Path) -> float:
    """The time there; where nothing may be written, this machine's."""
    file = folder / f".now.{os.getpid()}"
    try:
        descriptor = os.open(file, os.O_CREAT | os.O_WRONLY, rights.NEW_FILE)
        try:
            os.utime(descriptor)  # without a time: the server's
            return os.fstat(descriptor).st_mtime
        finally:
            os.close(descriptor)
            file.unlink()
    except OSError:
        return time.time()
