"""What the process is doing, written beside its attempt while that goes on, for the eyes of `status`.

Owns: how often that is. Must not know: who reads it, what a phase is.

A thread of its own writes it: a file system that does not answer must stop neither the work nor those who judge it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from launcher.store.progress import Progress, write_progress
from launcher.worker import progress

LOOK_SECONDS = 1.0
EVERY_SECONDS = 30.0


@contextmanager
def reported(path: Path, *, wanted: bool) -> Iterator[None]:
    """Within, the file says what the main thread is doing: at each change of phase, and every half a minute."""
    over = threading.Event()
    if wanted:
        threading.Thread(target=_report, args=(path, over), name="report", daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _report(path: Path, over: threading.Event) -> None:
    said, when = progress.Doing(""), 0.0
    while not over.wait(0 if not when else LOOK_SECONDS):
        doing = progress.now()
        if (doing.phase, doing.since) != (said.phase, said.since) or time.monotonic() - when >= EVERY_SECONDS:
            said, when = doing, time.monotonic()
            with suppress(OSError):
                write_progress(path, _told(doing))


def _told(doing: progress.Doing) -> Progress:
    expected = min(progress.allowed(), progress.LONGEST)
    return Progress(doing.phase, doing.done, doing.of, expected, doing.since, time.time())
