"""What a file system may lack, and what is done there instead.

Owns: which promises a folder's file system keeps, and a name that is given once (hard links, renames, locks).
Must not know: what a file holds, where it lies.

A name that is taken must stay: `link` refuses to replace, and so does a rename that is told to. Where there is neither,
the name is looked for and given while nobody else does, by a lock in its folder.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from launcher.store import locks

NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV, errno.EMLINK)
_NO_SUCH_RENAME = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)
_HERE = -100  # fcntl.h, AT_FDCWD
_NO_REPLACE = 1  # linux/fs.h, RENAME_NOREPLACE
LOCK = ".names.lock"


def name_once(aside: str, path: Path) -> bool:
    """Give a file that nobody else knows the name `path`, unless that is taken; whether it was given. `aside` goes."""
    try:
        for give, lacking in ((_link, NO_LINKS), (_rename, _NO_SUCH_RENAME)):
            try:
                return give(aside, path)
            except OSError as error:
                if error.errno not in lacking:
                    raise
        with locks.held(path.with_name(LOCK)):
            return not os.path.lexists(path) and _replace(aside, path)
    finally:
        Path(aside).unlink(missing_ok=True)


def _link(aside: str, path: Path) -> bool:
    try:
        os.link(aside, path)
    except FileExistsError:
        return path.exists() and path.samefile(aside)  # over NFS, where the answer to the first question was lost
    return True


def _rename(aside: str, path: Path) -> bool:
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if rename(_HERE, os.fsencode(aside), _HERE, os.fsencode(path), _NO_REPLACE):
        number = ctypes.get_errno()
        if number != errno.EEXIST:
            raise OSError(number, os.strerror(number), str(path))
        return False
    return True


def _replace(aside: str, path: Path) -> bool:
    Path(aside).replace(path)
    return True


# ------------------------------------------------------------------------------------------------ what there is


def lacks_in(folder: Path) -> list[str]:
    """What its file system does not do, each with what is done instead; tried with files of its own.

    Raises:
        OSError: nothing can be written there.
    """
    with tempfile.TemporaryDirectory(prefix=".trial.", dir=folder) as name:
        trial = Path(name)
        (trial / "one").write_text("", encoding="utf-8")
        links = _works(lambda: os.link(trial / "one", trial / "two"), NO_LINKS)
        renames = _works(lambda: _rename(str(trial / "one"), trial / "three"), _NO_SUCH_RENAME)
        instead = "a rename that refuses to replace" if renames else "a lock"
        lacks = [] if links else [f"no hard links: {instead} keeps files from being written twice"]
        with contextlib.suppress(OSError):
            locks.try_flock(trial / "lock")
            return lacks
        return [*lacks, f"no flock: {locks.INSTEAD}"]


def _works(act: Callable[[], object], lacking: tuple[int, ...]) -> bool:
    try:
        act()
    except OSError as error:
        if error.errno not in lacking:
            raise
        return False
    return True
