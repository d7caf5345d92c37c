"""Whether this process's own main thread moves.

Owns: the clock by which its silence is measured, the process beside that sees what no thread can.
Must not know: what the main thread does (`progress` has its words for that), what follows from a hang.

The clock counts this thread's own ticks: a job that was suspended finds the machine's clock far ahead. C code that
never lets go of the interpreter stops this thread too; then the process beside no longer hears from it.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from launcher.worker import progress

TICK_SECONDS = 1.0
DUMP = signal.SIGUSR1  # what the process beside sends for a trace; nothing else of ours uses it
BESIDE = "launcher.worker.beside"
LOCKS = f"{os.sep}filelock{os.sep}"
COLLECTIVES = (f"distributed{os.sep}distributed_c10d.py", f"autograd{os.sep}graph.py")  # a backward ends in one


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
        self._read, self._pipe = os.pipe()
        os.set_blocking(self._pipe, False)

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
        """Whether the main thread seems to wait for other ranks."""
        return _is_in(self._frame(), *COLLECTIVES)

    def start(self) -> None:
        """Begin, with the process beside."""
        faulthandler.enable(2)  # a number: the log that it means may change
        faulthandler.register(DUMP, 2, all_threads=True)
        command = [sys.executable, "-P", "-m", BESIDE, str(os.getpid())]
        self._beside = subprocess.Popen(command, stdin=self._read)
        os.close(self._read)
        super().start()

    def stop(self) -> None:
        """Watch no longer."""
        self._over.set()
        if self.is_alive():
            self.join()
        os.close(self._pipe)
        if self._beside:
            self._beside.kill()
            self._beside.wait()

    def run(self) -> None:
        """Count until stopped."""
        while not self._over.wait(TICK_SECONDS):
            moves = progress.moves()
            moved = moves != self._seen or _is_in(self._frame(), LOCKS)  # who holds the lock judges himself
            self._seen, self._still = moves, 0 if moved else self._still + 1
            self._tell()
            self._tick()

    def _tell(self) -> None:
        """Let the process beside hear of us, and what to make of it when it does not any more."""
        doing = progress.now()
        allowed = min(progress.allowed(), progress.LONGEST)
        told = {"phase": doing.phase, "done": doing.done, "of": doing.of, "allowed": allowed}
        attempt, start = self.speaks_for or (None, None)
        told |= {"attempt": attempt and str(attempt), "start": start}
        with contextlib.suppress(OSError):  # it is stopped, or dead
            os.write(self._pipe, json.dumps(told).encode() + b"\n")

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
