"""A small process beside one that works: python -m launcher.worker.beside PID, with its words on standard input.

Owns: noticing that the other has fallen silent altogether, a trace of where it stands, its end.
Must not know: torch, what is trained; what follows from a hang (`outcome`).

C code that never lets go of the interpreter, or a signal that has stopped the process, stops its threads as well. The
silence is counted in our own ticks, so that a job which is suspended, and we with it, does not hang.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

TICK_SECONDS = 1.0
TRACED_SECONDS = 60.0  # after which a silent process is asked for a trace, and left alone
RECORD_SECONDS = 120  # for the record of its hang, on whatever disk


def main() -> None:
    """Listen until the other has ended, or is to be ended."""
    for number in (signal.SIGINT, signal.SIGTERM):  # it ends with the other
        signal.signal(number, signal.SIG_IGN)
    process, told, silent = int(sys.argv[1]), dict[str, Any](), 0.0
    while True:
        ready, _, _ = select.select([0], [], [], TICK_SECONDS)
        words = os.read(0, 1 << 20) if ready else b"\n"
        if not words:
            return
        told = _last(words) or told
        silent = 0.0 if ready else silent + TICK_SECONDS
        if told and silent and silent == min(TRACED_SECONDS, told["allowed"] // 2):
            os.kill(process, signal.SIGUSR1)
        if told and silent >= told["allowed"]:
            end(process, told, silent)
            return


def _last(words: bytes) -> dict[str, Any] | None:
    lines = [line for line in words.split(b"\n") if line.startswith(b"{") and line.endswith(b"}")]
    return json.loads(lines[-1]) if lines else None


def end(process: int, told: dict[str, Any], silent: float) -> None:
    """Say where the process stood, do what follows, and kill it, come what may."""
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(RECORD_SECONDS)
    try:
        with contextlib.suppress(TimeoutError):
            _record(told, silent)
    finally:
        os.kill(process, signal.SIGKILL)


def _too_long(_number: int, _frame: FrameType | None) -> None:
    raise TimeoutError


def _record(told: dict[str, Any], silent: float) -> None:
    from launcher.cluster import node
    from launcher.store.run_folder import AttemptDir
    from launcher.worker.distributed.liveness import Kind, Loss
    from launcher.worker.distributed.rendezvous import Rank
    from launcher.worker.distributed.self_watch import stood
    from launcher.worker.lost import settle_loss

    rank = Rank.here().index
    words = f"rank {rank} {stood(told['phase'], told['done'], told['of'], silent)}, and none of its threads moved"
    if told["attempt"]:
        settle_loss(AttemptDir(Path(told["attempt"])), Loss(words, Kind.HANGS, rank, node.name()), told["start"])


if __name__ == "__main__":
    main()
