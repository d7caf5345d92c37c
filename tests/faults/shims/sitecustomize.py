"""What every Python process of a fault run imports first: longer steps, orders to a rank, clocks that are wrong.

Owns: how a process does to itself what cannot be done to it from outside. An order is a file
`$FAULTS_MOODS/orders/<pid>`, which says what the main thread does at its next step.
Must not know: who is struck, and when.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from pathlib import Path

MOODS = Path(os.environ["FAULTS_MOODS"])
IS_RANK = "SLURM_PROCID" in os.environ or "SUBMITIT_LOCAL_GLOBALID" in os.environ
STUCK_SECONDS = 15  # shorter than what counts as a hang: who waits for it has lost nothing


def obey() -> None:
    """Do what this process was told to do to itself."""
    order = MOODS / "orders" / str(os.getpid())
    if not order.exists():
        return
    word = order.read_text()
    order.unlink()
    if word == "sleep":
        time.sleep(STUCK_SECONDS)
    elif word == "hold the GIL":
        ctypes.PyDLL(None).sleep(STUCK_SECONDS)
    elif word == "sleep for ever":
        time.sleep(1e6)
    elif word == "hold the GIL for ever":
        ctypes.PyDLL(None).sleep(1000000)
    elif word == "wait for a rank that never comes":
        import torch.distributed

        torch.distributed.barrier()
    else:
        raise RuntimeError("an injected error")


def stretch_steps() -> None:
    """Let each optimizer step last, at whose end a run asks whether to stop."""
    from launcher.worker.interruption import StopRequest

    asked = StopRequest.__call__

    def ask(self: StopRequest) -> bool:
        # A rank that got SIGTERM waits for its scheduler, which here did not send it: not for a quarter of an hour.
        sys.modules["launcher.worker.outcome"].PATIENCE_SECONDS = 20  # type: ignore[attr-defined]
        time.sleep(float(os.environ["STEP_SECONDS"]))
        obey()
        return asked(self)

    StopRequest.__call__ = ask  # type: ignore[method-assign]


def set_clock() -> None:
    """Let the clock be wrong by the seconds in `clock`, if that is there when the process starts."""
    offset, right = float((MOODS / "clock").read_text()), time.time
    time.time = lambda: right() + offset


if (MOODS / "clock").exists():
    set_clock()
if IS_RANK and os.environ.get("STEP_SECONDS"):
    stretch_steps()
