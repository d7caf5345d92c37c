"""What asks a job to end before its work is done.

Owns: the signals of this process; a wait for a lock, which they end.
Must not know: how a run is trained or saved; it is asked at each step boundary whether to stop. What then becomes of
the work (`outcome`).

    node.WARNING   the time limit is near: the run saves, and we put the job back into the queue
    SIGTERM        preemption, after which the scheduler puts the job back by itself; or a cancellation
    SIGINT         somebody at the keyboard
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from launcher.cluster import node
from launcher.store.locks import Lock, Timeout

LOCK_POLL_SECONDS = 1.0


class Interrupted(Exception):
    """Work outside training was asked to stop, and what it has made so far is kept."""


@contextmanager
def locked(folder: Path, stop: Callable[[], bool]) -> Iterator[None]:
    """Nobody else works on `folder` meanwhile; whoever holds it may need hours, and waiting ends on request.

    Raises:
        Interrupted: `stop` became true before it was our turn.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = Lock(folder.with_name(f".{folder.name}.lock"))
    while not lock.is_locked:
        if stop():
            raise Interrupted(f"stopped on request while another job was making {folder}")
        with suppress(Timeout):
            lock.acquire(LOCK_POLL_SECONDS)
    try:
        yield
    finally:
        lock.release()


class StopRequest:
    """Whether the process was asked to end.

    The runs ask at each step boundary, since no signal handler may save: a ZeRO-3 save is collective.
    """

    def __init__(self) -> None:
        self.signal: int | None = None

    def listen(self) -> None:
        """Take the signals, also from a library that has set handlers of its own.

        The warning reaches every process of a job step and kills those that do not expect it. So it is blocked, which
        our children inherit, whatever they execute; the handler is for threads that were there before us.
        """
        for number in (signal.SIGTERM, node.WARNING):
            signal.signal(number, self._note)
        signal.pthread_sigmask(signal.SIG_BLOCK, {node.WARNING})
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, self._note)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.signal = self.signal or number

    def __call__(self) -> bool:
        """Whether a signal has come."""
        if self.signal is None and node.WARNING in signal.sigpending():
            self.signal = node.WARNING
        return self.signal is not None
