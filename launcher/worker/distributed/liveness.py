"""Whether the other ranks are still there, while this one may be waiting for them.

Owns: a heartbeat of each rank, and a thread that ends this process when another's has stopped.
Must not know: what the ranks are doing.

On CPUs a collective whose partner has died fails at once. On GPUs it waits, and so does any collective whose partner
is frozen, or has failed and gone on to something else: for hours of a whole allocation. Rank 0 keeps the store, so the
others notice its death when they can no longer reach it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

BEAT_SECONDS = 5.0
SILENT_BEATS = 24  # counted, not timed: a job that was suspended finds its clock far ahead
GRACE_BEATS = 2  # for a rank to find out by itself what went wrong, and say it better


class Watch(threading.Thread):
    """Beats for this rank, and calls `lost` with the reason, once, when another rank is gone."""

    def __init__(self, store: Any, index: int, size: int, lost: Callable[[str], None]) -> None:
        super().__init__(name="watch", daemon=True)
        self._store, self._index, self._size, self._lost = store, index, size, lost
        self._over = threading.Event()
        self._beat = 0
        self._heard: dict[int, tuple[bytes, int]] = {}  # of each rank: its last beat, and ours when it was new

    def stop(self) -> None:
        """Watch no longer."""
        self._over.set()
        self.join()

    def run(self) -> None:
        """Beat and listen until stopped, or until somebody is lost."""
        apart_since: int | None = None
        while not self._over.wait(BEAT_SECONDS):
            self._beat += 1
            try:
                self._store.set(f"alive/{self._index}", str(self._beat))
                reason = self._silent() if self._index == 0 else None
                told = self._store.get("apart").decode() if self._store.check(["apart"]) else None
            except RuntimeError:
                reason, told = "rank 0 has ended", None
            if told is not None:
                apart_since = apart_since or self._beat
                reason = told if self._beat - apart_since >= GRACE_BEATS else reason
            if reason is not None:
                self._lost(reason)
                return

    def _silent(self) -> str | None:
        for rank in range(1, self._size):
            key = f"alive/{rank}"
            last = self._store.get(key) if self._store.check([key]) else b""
            if rank not in self._heard or self._heard[rank][0] != last:
                self._heard[rank] = (last, self._beat)
            silent = self._beat - self._heard[rank][1]
            if silent >= SILENT_BEATS:
                return f"rank {rank} has been silent for {silent * BEAT_SECONDS:.0f} s"
        return None
