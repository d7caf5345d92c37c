"""The disk that a folder lies on, bytes in words, and what a disk's refusal means.

Owns: what is free there, the sentence for each refusal. Must not know: what needs it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rich.filesize import pick_unit_and_suffix

# What the system says of a disk that does not take what is written, and what that is for the user.
FAULTS = {
    errno.ENOSPC: "the disk of {folder} is full: {room}, then {then} again",
    errno.EDQUOT: "your quota on the disk of {folder} is used up; remove something there, then {then} again",
    errno.EROFS: "{folder} is read-only on {host}; make it writable there, or give another folder, then {then} again",
    errno.EIO: "the disk of {folder} fails on {host} (input/output error); {then} again when it is in order",
    errno.ESTALE: "{folder} is gone from {host} (stale file handle); {then} again when its file server is back",
}
_TOLD_WITHOUT_REASON = re.compile(
    r"PytorchStreamWriter failed|database or disk is full|file write failed|unexpected pos \d|iostream error"
)
_MUCH = 0.1  # of a disk is free: then it is hardly that which is lacking
_NOTHING_BYTES = 1 << 20  # a disk with less free is full
SUFFIXES = ["B", "kB", "MB", "GB", "TB", "PB"]


def existing(folder: Path) -> Path:
    """The folder, or the nearest above it that is there."""
    return next(each for each in (folder, *folder.parents) if each.is_dir())


def free_bytes(folder: Path) -> int:
    """Bytes that are free where a folder is, or will be."""
    return shutil.disk_usage(existing(folder)).free


def in_words(size: float) -> str:
    """A number of bytes to three digits, `1.74 TB`."""
    unit, suffix = pick_unit_and_suffix(int(size), SUFFIXES, 1000)
    return f"{float(f'{size / unit:.3g}'):g} {suffix}"  # 999.6 GB would be 1e+03 GB


def fault(error: BaseException, folder: Path | None = None, then: str = "launch") -> str | None:
    """What an error says of a disk, in a sentence for the user; None where it is about something else.

    Args:
        error: as it was raised; libraries put the system's words into errors of their own.
        folder: where the process writes, for an error that names no file.
        then: what is to be done again.
    """
    for each in _chain(error):
        number = next((number for number in FAULTS if _tells(each, number)), None)
        lacks_reason = number is None and _TOLD_WITHOUT_REASON.search(str(each))
        if number is None and not lacks_reason:
            continue
        written = [each for each in (folder, Path(tempfile.gettempdir())) if each is not None]
        full = [each for each in written if _is_full(each)] if number in (errno.ENOSPC, None) else []
        named = [Path(each.filename)] if isinstance(each, OSError) and isinstance(each.filename, str) else []
        if number is not None or full:
            return _sentence(number or errno.ENOSPC, (named or full or written)[0], then)
    return None


@contextlib.contextmanager
def asked_at_once(folder: Path) -> Iterator[None]:
    """What is written into a folder within; whoever removes it where that fails asks the disk before.

    torch says only that a write has failed. As long as the half of it is there, the next one fails too, and says why.

    Raises:
        OSError: that next one, in place of an error that says nothing of the reason.
    """
    try:
        yield
    except Exception as error:
        is_told = any(_tells(each, number) for each in _chain(error) for number in FAULTS)
        if not is_told and any(_TOLD_WITHOUT_REASON.search(str(each)) for each in _chain(error)):
            _write_into(existing(folder), error)
        raise


def _write_into(folder: Path, error: Exception) -> None:
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(_NOTHING_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as refused:
        raise OSError(refused.errno, refused.strerror, str(folder)) from error


def _is_full(folder: Path) -> bool:
    with contextlib.suppress(OSError):
        return free_bytes(folder) < _NOTHING_BYTES
    return False


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and those behind it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _tells(error: BaseException, number: int) -> bool:
    own = isinstance(error, OSError) and error.errno == number
    return own or os.strerror(number) in str(error)


def _sentence(number: int, folder: Path, then: str) -> str:
    room = "free some"
    with contextlib.suppress(OSError):  # of a folder that is gone nothing can be asked
        folder = existing(folder)
        room = _room(os.statvfs(folder))
    return FAULTS[number].format(folder=folder, room=room, host=os.uname().nodename, then=then)


def _room(disk: os.statvfs_result) -> str:
    """Why nothing fits on it, and what to do: bytes, the number of files, or a limit that it does not tell of."""
    free, total = disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
    if disk.f_files and not disk.f_favail:
        return f"it can hold no more than its {disk.f_files:,} files; remove some"
    may_be_quota = ", so a quota of its project may be used up" if free > total * _MUCH else ""
    return f"{in_words(free)} free of {in_words(total)}{may_be_quota}; free some"
