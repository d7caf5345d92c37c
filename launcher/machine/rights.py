"""Who may read and write what: the rights of what we leave, and what is said where somebody lacks them.

Owns: that a file has the rights that the umask gives it, whoever wrote it; the words for a refusal, with the remedy.
Must not know: what a file is for, what an error becomes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from pathlib import Path

from launcher.machine import disk
from launcher.machine.users import name_of, our_name

NEW_FILE = 0o666  # asked for, of which the umask, or the folder's default ACL, leaves what it grants
_MODE = 0o777
_OWN = 0o600
_ACL = "system.posix_acl_default"  # which takes the place of the umask
HOW = 'setgid folders and umask 002: "Several people" in slurm/README.md'
OR_YOUR_OWN = ", or launch into an output_dir of your own"


def follow_umask(top: Path) -> None:
    """Give all that libraries have left below a folder the rights of what anybody makes there now.

    safetensors writes 0600 whatever the umask is, which shuts a group off. What is another user's stays as it is.
    """
    new = _mode_of_new(top)
    for folder, _, names in os.walk(top):
        for path in (Path(folder), *(Path(folder, name) for name in names)):
            with contextlib.suppress(FileNotFoundError):  # a tracker's, which is still at work
                _set_mode(path, new)


def _mode_of_new(folder: Path) -> int:
    """What a new file there gets: a default ACL, where there is one, takes the place of the umask."""
    file = folder / f".{secrets.token_hex(6)}"
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, NEW_FILE)
    try:
        return os.fstat(handle).st_mode & _MODE
    finally:
        os.close(handle)
        file.unlink()


def _set_mode(path: Path, new: int) -> None:
    found = path.lstat()
    if found.st_uid != os.getuid() or not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
        return
    may_enter = stat.S_ISDIR(found.st_mode) or found.st_mode & stat.S_IXUSR
    mode = new | (new & 0o444) >> 2 if may_enter else new
    if found.st_mode & _MODE != mode:
        path.chmod(stat.S_IMODE(found.st_mode) & ~_MODE | mode)  # a folder stays setgid


def like_folder(folder: Path) -> int:
    """The mode of a file that whoever may make files in a folder may write; the folder need not be there yet."""
    with contextlib.suppress(OSError):
        return _OWN | folder.stat().st_mode & NEW_FILE
    return _OWN


def make_open(folder: Path) -> None:
    """Make a folder, and those above it, in which the group of what is there already may work, whatever the umask.

    For whoever is the first to make one in which others are to go on.
    """
    if folder.exists():
        return
    make_open(folder.parent)
    shut = shuts_group_off(folder.parent)
    with contextlib.suppress(FileExistsError):  # somebody else was first
        folder.mkdir()
        if shut:
            folder.chmod(stat.S_IMODE(folder.stat().st_mode) | stat.S_IRWXG)


def shuts_group_off(folder: Path) -> str | None:
    """The umask, where a folder is its group's to work in and this user leaves them files that they may not write."""
    mode, umask = folder.stat().st_mode, os.umask(0o077)
    os.umask(umask)
    shared = mode & stat.S_ISGID and mode & stat.S_IWGRP and _ACL not in os.listxattr(folder)
    return f"{umask:03o}" if shared and umask & stat.S_IWGRP else None


def unreadable_in(folder: Path) -> Path | None:
    """A file or folder below it, or itself, that this user may not read; None where there is none."""
    for top, folders, names in os.walk(folder):
        for path in (Path(top), *(Path(top, name) for name in (*folders, *names))):
            if _lacks(path, "read"):
                return path
    return None


def may_write(path: Path) -> bool:
    """Whether this user may write a file, or make and remove files in a folder; both are there."""
    return not _lacks(path, "write")


def may_read(path: Path) -> bool:
    """Whether this user may read a file, or list a folder, that is there."""
    return not _lacks(path, "read")


def owner_of(path: Path) -> str:
    """The name of the user whose a file or folder is, or of the folder that shuts it off."""
    for each in (path, *path.parents):
        with contextlib.suppress(OSError):
            return name_of(each.stat().st_uid) or f"user {each.stat().st_uid}"
    return "its owner"


def refused(path: Path, doing: str, why: str | None = None) -> str:
    """What is said where this user may not `read` or `write` a file or folder, which need not be there.

    `why`: the system's words.
    """
    done = "read" if doing == "read" else "written"
    return f"{path}: cannot be {done} ({why or os.strerror(errno.EACCES)}); {remedy(path, doing)}"


def denied(error: BaseException) -> str | None:
    """The same of an error; None where it is about something else, or does not say of what."""
    if not isinstance(error, PermissionError) or not isinstance(error.filename, str):
        return None
    named = [Path(each) for each in (error.filename, error.filename2) if isinstance(each, str)]
    for doing in ("read", "write"):
        if path := next((each for each in named if _refusing(each, doing)), None):
            return refused(path, doing, error.strerror)
    return None if owner_of(named[0]) == our_name() else refused(named[0], "write", error.strerror)


def remedy(path: Path, doing: str) -> str:
    """What helps there: whom to ask, if it is another's, and for what."""
    place = _refusing(path, doing) or path
    if doing == "write" and os.statvfs(disk.existing(place)).f_flag & os.ST_RDONLY:
        return "choose another folder, this disk is read-only"
    owner = owner_of(place)
    if owner == our_name():
        return f"give yourself the right to it: chmod u+rwX {place}"
    return f"ask {owner}, the owner of {place}, to share it with your group ({HOW})"


def _refusing(path: Path, doing: str) -> Path | None:
    """What keeps this user from it: itself, the folder in which it is, or is to be made, or one that shuts it off."""
    there = next((each for each in (path, *path.parents) if os.path.lexists(each)), path)
    places = [there, there.parent] if doing == "write" and there == path else [there]
    return next((each for each in places if _lacks(each, doing)), None)


def _lacks(path: Path, doing: str) -> bool:
    """Whether something is there of which the system says that this user may not do that."""
    wanted = os.R_OK if doing == "read" else os.W_OK
    try:
        is_folder = stat.S_ISDIR(path.stat().st_mode)
    except PermissionError:
        return True
    except (OSError, ValueError):
        return False
    # As whom files are opened, with the capabilities that this user has; a file server is asked.
    return not os.access(path, wanted | (os.X_OK if is_folder else 0), effective_ids=True)
