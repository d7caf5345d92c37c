"""Processes of this machine.

Owns: what tells a process from a later one of the same number; that a child ends with its parent.
Must not know: what a process does.
"""

from __future__ import annotations

import ctypes
import os
import signal
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with(parent: int) -> None:
    """Have this process killed when its parent ends, in whatever way; `parent`: the id that the parent gave it."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it has ended before that
        os._exit(1)


def process_start(pid: int) -> int | None:
    """When a process started, in clock ticks since boot: tells it from a later one with the same pid.

    Not psutil's time since 1970, which moves when the clock is set: then a job would look dead. None: it has ended.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[19])
