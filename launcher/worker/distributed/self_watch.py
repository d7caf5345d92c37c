"""Whether this process's own main thread moves.

Owns: the clock by which its silence is measured, the process beside that sees what no thread can.
Must not know: what the main thread does (`progress` has its words for that), what follows from a hang.

The clock counts this thread's own ticks: a job that was suspended finds the machine's clock far ahead. C code that
never lets go of the interpreter stops this thread too; then the process beside no longer hears from it.
"""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from launcher.machine.terminal import complain
from launcher.worker import progress

TICK_SECONDS = 1.0
DUMP = signal.SIGUSR1  # what the process beside sends for a trace; nothing else of ours uses it
BESIDE = "launcher.worker.beside"
AGAIN_TICKS = 30  # from one start of the process beside to the next
REAP_SECONDS = 5.0
LOCKS = f"{os.sep}filelock{os.sep}"
COLLECTIVES = (f"distributed{os.sep}distributed_c10d.py", f"autograd{os.sep}graph.py")  # a backward ends in one
HANDLES = f"{os.sep}deepspeed{os.sep}"  # which waits for collectives that it began before
LIBRARIES = (f"{os.sep}torch{os.sep}", HANDLES)


class SelfWatch(threading.Thread):
    """Counts for how long the main thread has not moved, and calls `tick` after each look at it."""

    def __init__(self, tick: Callable[[], None]) -> None:
        super().__init__(name="self-watch", daemon=True)
        self.speaks_for: tuple[Path, str] | None = None  # the attempt and its start, for the process beside
        self._tick = tick
        self._over = threading.Event()
        self._main = threading.main_thread().ident or 0
        self._seen, self._still = -1, 0
        self._beside: subprocess.Popen[bytes] | None = None
        self._pipe = -1
        self._ticks_beside = 0  # since it was started

    @property
    def still_seconds(self) -> float:
        """For how long the main thread has not moved."""
        return self._still * TICK_SECONDS

    @property
    def hangs(self) -> bool:
        """Whether that is longer than what it has announced."""
        return self.still_seconds > progress.allowed()

    @property
    def in_collective(self) -> bool:
        """Whether the main thread seems to wait for other ranks, and is not below that in a signal's handler, say."""
        frame = self._frame()
        place = frame.f_code.co_filename if frame else ""
        return any(part in place for part in LIBRARIES) and (HANDLES in place or _is_in(frame, *COLLECTIVES))

    def start(self) -> None:
        """Begin, with the process beside."""
        faulthandler.enable(2)  # a number: the log that it means may change
        faulthandler.register(DUMP, 2, all_threads=True)
        self._start_beside()
        super().start()

    def stop(self) -> None:
        """Watch no longer."""
        self._over.set()
        if self.is_alive():
            self.join()
        self._end_beside()

    def run(self) -> None:
        """Count until stopped."""
        while not self._over.wait(TICK_SECONDS):
            moves = progress.moves()
            moved = moves != self._seen or _is_in(self._frame(), LOCKS)  # who holds the lock judges himself
            self._seen, self._still = moves, 0 if moved else self._still + 1
            self._ticks_beside += 1
            if not self._tell() and self._ticks_beside > AGAIN_TICKS:
                self._renew_beside()
            self._tick()

    def _start_beside(self) -> None:
        read, self._pipe = os.pipe()
        try:
            os.set_blocking(self._pipe, False)
            fcntl.fcntl(self._pipe, fcntl.F_SETPIPE_SZ, select.PIPE_BUF)  # full soon after nobody listens any more
            command = [sys.executable, "-P", "-m", BESIDE, str(os.getpid())]
            self._beside = subprocess.Popen(command, stdin=read)
        finally:
            os.close(read)

    def _end_beside(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self._pipe)
        self._pipe = -1
        if self._beside:
            self._beside.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):  # of a disk that does not answer
                self._beside.wait(REAP_SECONDS)

    def _renew_beside(self) -> None:
        """Start another; somebody has ended or stopped the one that there was."""
        self._ticks_beside = 0
        self._end_beside()
        try:
            self._start_beside()
            complain("the process beside this one, which notices its hangs, was gone; there is another")
        except OSError as error:
            complain(f"nothing notices a hang that stops all threads: the process beside cannot be started ({error})")

    def _tell(self) -> bool:
        """Let the process beside hear of us, and what to make of it when it does not any more; whether it listens."""
        doing = progress.now()
        allowed = min(progress.allowed(), progress.LONGEST)
        told = {"phase": doing.phase, "done": doing.done, "of": doing.of, "allowed": allowed}
        attempt, start = self.speaks_for or (None, None)
        told |= {"attempt": attempt and str(attempt), "start": start}
        try:
            os.write(self._pipe, json.dumps(told).encode() + b"\n")
        except OSError:
            return False
        return self._beside is not None and self._beside.poll() is None

    def _frame(self) -> FrameType | None:
        return sys._current_frames().get(self._main)  # noqa: SLF001 - documented


def _is_in(frame: FrameType | None, *parts: str) -> bool:
    """Whether a thread is somewhere below a file whose path has one of these parts."""
    while frame is not None:
        if any(part in frame.f_code.co_filename for part in parts):
            return True
        frame = frame.f_back
    return False


def stood(phase: str, done: int, of: int | None, seconds: float) -> str:
    """Where somebody stood, in words that follow a name."""
    place = f"{phase} {done} of {of}" if of else f"{phase} {done}" if done else phase
    return f"stood in {place!r} for {seconds:.0f} s"


def dump() -> None:
    """Print where every thread of this process is."""
    faulthandler.dump_traceback(2, all_threads=True)
