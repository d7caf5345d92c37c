"""The time limit itself: who was warned of it and is not ready shortly before it goes back into the queue unready.

Owns: when that is, and that it is so whatever the main thread does: load, prepare, save, evaluate, push.
Must not know: runs, how a job goes back (`outcome`), what a save that was cut short leaves (`checkpoints`).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from launcher.cluster import node
from launcher.machine.terminal import complain, say
from launcher.store.metrics_log import longest_save
from launcher.store.run_folder import RunDir
from launcher.worker.interruption import StopRequest

POLL_SECONDS = 1.0
MARGIN_SECONDS = 20.0  # before the limit: to ask the scheduler, and be answered
LAST_SECONDS = 5.0  # for rank 0 to have the job put back, which ends all others


def say_if_late(run: RunDir, warned_seconds: int) -> None:
    """Say it where a save of this run has taken longer than the time from the warning to the limit."""
    longest = longest_save(run.saves_log)
    if node.queued() is not None and longest is not None and longest > warned_seconds:
        say(
            f"a checkpoint took {longest:.0f} s, and cluster.warning_seconds={warned_seconds}: one that is not whole "
            "by the limit is lost, and the run goes on from the one before; its next attempt is warned earlier"
        )


class Deadline(threading.Thread):
    """Leaves in time where the warning has come and the main thread has not left."""

    def __init__(self, stop: StopRequest, warned_seconds: int, leave: Callable[[], None]) -> None:
        """A watch, to be started.

        Args:
            stop: hears the warning.
            warned_seconds: how long before the limit the job was to be warned.
            leave: does what follows from the warning, on rank 0; may not return.
        """
        super().__init__(name="deadline", daemon=True)
        self._stop_request, self._warned_seconds, self._leave = stop, warned_seconds, leave
        self._over, self._leaving = threading.Event(), threading.Lock()

    def run(self) -> None:
        """Wait for the warning, then for the last moment."""
        task = node.queued()
        while task is not None and not self._over.wait(POLL_SECONDS):
            if self._stop_request() and self._stop_request.signal == node.WARNING:
                left = node.seconds_left(task, self._warned_seconds) - MARGIN_SECONDS
                if not self._over.wait(max(0.0, left)):
                    self._leave_at_once(first=task.rank == 0)
                return

    def _leave_at_once(self, *, first: bool) -> None:
        """End this process, whatever its main thread waits for, unless that one leaves just now; only rank 0 asks."""
        with self._leaving:
            if self._over.wait(0.0 if first else LAST_SECONDS):
                return
            code = 1
            try:
                if first:
                    complain("the time limit is seconds away: leaving without what is not saved yet")
                    self._leave()
                code = 0
            finally:
                os._exit(code)

    def end(self) -> None:
        """The main thread leaves by itself; does not return where the watch was first."""
        self._over.set()
        with self._leaving:
            return
