"""Waiting for whoever works on the same thing: never in silence, and not after a request to stop.

Owns: the lock, who holds it, what is said of the wait.
Must not know: what is made under a lock.

    <lock>           the kernel's, or the file server's; ends with the process that holds it
    <lock>.holder    derived: who that is, for those who wait
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from launcher.errors import StoreError
from launcher.machine.terminal import complain

POLL_SECONDS = 0.5
SILENT_SECONDS = 2.0
AGAIN_SECONDS = 60.0
LONG_SECONDS = 120.0  # longer than a launcher takes, or a file server to give up the lock of a host that is gone

_stops: list[Callable[[], bool]] = []  # what asks this process to end: then it waits for nothing more


@contextlib.contextmanager
def ended_by(stop: Callable[[], bool]) -> Iterator[None]:
    """Within, this process waits for nobody once `stop` is true."""
    _stops.append(stop)
    try:
        yield
    finally:
        _stops.remove(stop)


@contextlib.contextmanager
def turn(lock: Path, who: str = "another process") -> Iterator[None]:
    """Nobody else is within at the same time, on any machine that shares the folder.

    Args:
        lock: its file.
        who: whom one waits for, in words.

    Raises:
        StoreError: this process was asked to stop before it was its turn.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    held = FileLock(lock)
    _acquire(held, lock, who)
    holder = _holder_file(lock)
    try:
        with contextlib.suppress(OSError):  # a full disk: the others then wait for they know not whom
            since = time.strftime("%Y-%m-%d %H:%M:%S")
            holder.write_text(f"pid {os.getpid()} on {socket.gethostname()} since {since}", encoding="utf-8")
        yield
    finally:
        with contextlib.suppress(OSError):
            holder.unlink()
        held.release()


def _acquire(held: FileLock, lock: Path, who: str) -> None:
    began, said = time.monotonic(), time.monotonic() - AGAIN_SECONDS + SILENT_SECONDS
    while True:
        with contextlib.suppress(Timeout):
            held.acquire(timeout=POLL_SECONDS)
            return
        if any(stop() for stop in _stops):
            raise StoreError(f"stopped on request while waiting for {_holder(lock, who)}")
        if time.monotonic() - said >= AGAIN_SECONDS:
            said = time.monotonic()
            complain(f"waiting for {_holder(lock, who)}; Ctrl-C is safe" + _remedy(lock, said - began))


def _holder(lock: Path, who: str) -> str:
    """Whom one waits for, as far as that is known."""
    told = ""
    with contextlib.suppress(OSError):  # it is written just now
        told = _holder_file(lock).read_text(encoding="utf-8", errors="replace")
    if told:
        return f"{who}, {told} (it holds {lock})"
    return f"{who} (it holds {lock}, and has not said who it is: `fuser -v {lock}` on its machine does)"


def _remedy(lock: Path, seconds: float) -> str:
    if seconds < LONG_SECONDS:
        return ""
    return f". If its machine is down, a file server may keep its lock: if no such process is left, remove {lock}"


def _holder_file(lock: Path) -> Path:
    return lock.with_name(f"{lock.name}.holder")
