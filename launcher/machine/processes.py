"""Processes of this machine.

Owns: what tells a process from a later one of the same number, and to which session it belongs; that a child ends with
its parent.
Must not know: what a process does.
"""

from __future__ import annotations

import ctypes
import os
import signal
from pathlib import Path

PARENT = "PREFSWEEP_PARENT"  # in the environment of a child that is to end with its parent: the parent's id
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with(parent: int) -> None:
    """Have this process killed when its parent ends, in whatever way; `parent`: the id that the parent gave it."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it has ended before that
        os._exit(1)


def end_with_parent() -> None:
    """The same, where the parent has left its id in the environment, which is then no longer there for others."""
    parent = os.environ.pop(PARENT, None)
    if parent is not None:
        end_with(int(parent))


def process_start(pid: int) -> int | None:
    """When a process started, in clock ticks since boot: tells it from a later one with the same pid.

    Not psutil's time since 1970, which moves when the clock is set: then a job would look dead. None: it has ended.
    """
    fields = _fields(str(pid))
    return int(fields[19]) if fields else None


def session_members(leader: int) -> list[int]:
    """The processes of a session that have not ended."""
    found = {entry: _fields(entry) for entry in os.listdir("/proc") if entry.isdigit()}
    return [int(pid) for pid, fields in found.items() if fields and int(fields[3]) == leader]


def _fields(pid: str) -> list[str]:
    """What the kernel says of a process behind its name, see proc(5); nothing of one that has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return []
    return [] if fields[0] in "ZX" else fields
