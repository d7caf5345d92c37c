"""Waiting for whoever works on the same thing: never in silence, and not after a request to stop.

Owns: the lock, of which kind it is, who holds it, what is said of the wait.
Must not know: what is made under a lock.

    <lock>           the kernel's, or the file server's (flock); ends with the process that holds it
    <lock>.lease     where there is no flock: a file that its holder renews; who waits takes it over once that has been
                     seen dead here, or has not renewed it for LEASE_SECONDS by the clock of the one who waits
    <lock>.holder    derived: who holds it, for those who wait

A lock has no content to keep from anybody: whoever may make files in its folder may hold it, whatever the umask was of
the one who made it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

from filelock import BaseFileLock, FileLock, LeaseCompromise, SoftFileLease
from filelock import Timeout as Timeout  # noqa: PLC0414 - for whoever waits for a while only

from launcher.errors import StoreError, UsageError
from launcher.machine import rights
from launcher.machine.terminal import complain

POLL_SECONDS = 0.5
SILENT_SECONDS = 2.0
AGAIN_SECONDS = 60.0
LONG_SECONDS = 120.0  # longer than a launcher takes, or a file server to give up the lock of a host that is gone
LEASE_SECONDS = 120.0  # renewed thrice as often; a client of NFS may show an old time for a minute
NO_FLOCK = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
INSTEAD = f"files that their holders renew do instead, and are free {LEASE_SECONDS:g} s after a holder's death"
FLOCK = " by flock"  # how whoever holds a lock holds it, in the holder's file
CHOICE = "PREFSWEEP_LOCKS"  # `lease`: no flock, where it holds on one machine only, and says nothing of that
LEASE = "lease"

_stops: list[Callable[[], bool]] = []  # what asks this process to end: then it waits for nothing more


@contextlib.contextmanager
def ended_by(stop: Callable[[], bool]) -> Iterator[None]:
    """Within, this process waits for nobody once `stop` is true."""
    _stops.append(stop)
    try:
        yield
    finally:
        _stops.remove(stop)


class Lock:
    """Nobody else holds it at the same time, on any machine that shares the folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._held = _lease(path) if is_leased() else _flock(path)
        self._beside: BaseFileLock | None = None

    @property
    def is_leased(self) -> bool:
        """Whether it is a file that is renewed, since there is no flock."""
        return isinstance(self._held, SoftFileLease)

    @property
    def waits_for_lease(self) -> bool:
        """Whether it waits for one, having none itself."""
        return self._beside is not None and not self._beside.is_locked

    @property
    def is_locked(self) -> bool:
        """Whether this process has it."""
        return self._held.is_locked

    def acquire(self, seconds: float = -1) -> None:
        """Wait for it, as long as it takes or so many seconds.

        Raises:
            Timeout: somebody still holds it.
        """
        try:
            self._held.acquire(timeout=seconds)
        except OSError as error:
            if error.errno not in NO_FLOCK or self.is_leased:
                raise
            _say_leased(str(error.strerror))
            self._held = _lease(self.path)
            self._held.acquire(timeout=seconds)
            self._check_flock()
        else:
            self._wait_for_lease(seconds)

    def _check_flock(self) -> None:
        """Where flock fails here, or for a moment: whoever holds it elsewhere is not seen.

        Raises:
            StoreError: somebody may.
        """
        told = _told(self.path)
        if FLOCK in told and not _is_dead(told):
            self._held.release()
            file = _holder_file(self.path)
            raise StoreError(f"flock fails here, and {told}, may be at work; try again, or remove {file} if it is not")

    def _wait_for_lease(self, seconds: float) -> None:
        """Where flock works here, and somebody for whom it does not has a lease, that counts too."""
        if self.is_leased or not _lease_file(self.path).exists():
            return
        self._beside = self._beside or _lease(self.path)  # the same one, which has seen for how long it stands still
        try:
            self._beside.acquire(timeout=seconds)
        except Timeout:
            self._held.release()
            raise

    def check(self) -> None:
        """Look whether it is still ours: who stands still for long loses a lease, and goes on without knowing.

        Raises:
            StoreError: another has taken its turn.
        """
        if not isinstance(self._held, SoftFileLease):
            return
        claim = Path(self._held.lock_file)
        try:
            is_ours = f"token={self._held.token}\n" in claim.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            is_ours = False
        if not is_ours:
            raise StoreError(f"this process stood still, and another has taken its turn ({claim}); launch again")

    def release(self) -> None:
        """Let the next one in."""
        if self._beside is not None:
            self._beside.release()
        self._held.release()


def is_leased() -> bool:
    """Whether the user wants no flock.

    Raises:
        UsageError: they want something else; two launches might hold a lock of different kinds at the same time.
    """
    wanted = os.environ.get(CHOICE) or None
    if wanted not in (None, LEASE):
        raise UsageError(f"{CHOICE}={wanted}: must be {LEASE}, or not set")
    return wanted == LEASE


def try_flock(path: Path) -> bool:
    """Whether this process gets the kernel's lock at once, which it gives back.

    Raises:
        OSError: there is no such lock on this file system.
    """
    kernels = _flock(path)
    try:
        kernels.acquire(timeout=0)
    except Timeout:
        return False
    kernels.release()
    return True


def _flock(path: Path) -> BaseFileLock:
    return FileLock(path, mode=rights.like_folder(path.parent), fallback_to_soft=False)


def _lease(path: Path) -> BaseFileLock:
    return SoftFileLease(_lease_file(path), lease_duration=LEASE_SECONDS, on_compromise=_say_lost)


def _lease_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.lease")


@cache
def _say_leased(why: str) -> None:
    complain(f"this file system has no locks (flock: {why}): {INSTEAD}")


def _say_lost(lost: LeaseCompromise) -> None:
    complain(f"{lost.lock_file}: this process stood still, and another may have taken its turn ({lost.reason})")


@contextlib.contextmanager
def held(path: Path, seconds: float = -1) -> Iterator[None]:
    """Nobody else is within; waits in silence, as long as it takes or so many seconds.

    Raises:
        Timeout: somebody still is.
    """
    lock = Lock(path)
    lock.acquire(seconds)
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def turn(lock: Path, who: str = "another process") -> Iterator[Lock]:
    """Nobody else is within at the same time, on any machine that shares the folder.

    Args:
        lock: its file.
        who: whom one waits for, in words.

    Raises:
        StoreError: this process was asked to stop before it was its turn.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    mine = Lock(lock)
    _acquire(mine, who)
    holder = _holder_file(lock)
    try:
        with contextlib.suppress(OSError):  # a full disk: the others then wait for they know not whom
            since = time.strftime("%Y-%m-%d %H:%M:%S")
            by = "" if mine.is_leased else FLOCK
            holder.write_text(f"pid {os.getpid()} on {socket.gethostname()} since {since}{by}", encoding="utf-8")
        yield mine
    finally:
        with contextlib.suppress(OSError):
            holder.unlink()
        mine.release()


def _acquire(mine: Lock, who: str) -> None:
    began, said = time.monotonic(), time.monotonic() - AGAIN_SECONDS + SILENT_SECONDS
    while True:
        with contextlib.suppress(Timeout):
            mine.acquire(POLL_SECONDS)
            return
        if any(stop() for stop in _stops):
            raise StoreError(f"stopped on request while waiting for {_holder(mine.path, who)}")
        if time.monotonic() - said >= AGAIN_SECONDS:
            said = time.monotonic()
            complain(f"waiting for {_holder(mine.path, who)}; Ctrl-C is safe" + _remedy(mine, said - began))


def _holder(lock: Path, who: str) -> str:
    """Whom one waits for, as far as that is known."""
    if told := _told(lock):
        return f"{who}, {told} (it holds {lock})"
    return f"{who} (it holds {lock}, and has not said who it is: `fuser -v {lock}` on its machine does)"


def _told(lock: Path) -> str:
    """Who holds a lock, as that says; nothing where it has not, or has let it go."""
    with contextlib.suppress(OSError):  # it is written just now
        return _holder_file(lock).read_text(encoding="utf-8", errors="replace")
    return ""


def _is_dead(told: str) -> bool:
    """Whether who says so is a process of this machine, and no more."""
    found = re.match(r"pid (\d+) on (\S+) since", told)
    return found is not None and found[2] == socket.gethostname() and not Path("/proc", found[1]).exists()


def _remedy(mine: Lock, seconds: float) -> str:
    if mine.is_leased or mine.waits_for_lease:
        return f". If it has died, its lock ends within {LEASE_SECONDS:g} s"
    if seconds < LONG_SECONDS:
        return ""
    return f". If its machine is down, a file server may keep its lock: if no such process is left, remove {mine.path}"


def _holder_file(lock: Path) -> Path:
    return lock.with_name(f"{lock.name}.holder")
