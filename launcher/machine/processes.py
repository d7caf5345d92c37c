"""Processes of this machine.

Owns: what tells a process from a later one of the same number. Must not know: what a process does.
"""

from __future__ import annotations

from pathlib import Path


def process_start(pid: int) -> int | None:
    """When a process started, in clock ticks since boot: tells it from a later one with the same pid.

    Not psutil's time since 1970, which moves when the clock is set: then a job would look dead. None: it has ended.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[19])
