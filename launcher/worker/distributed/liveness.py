"""Whether the other ranks are still there and get on, while this one may be waiting for them.

Owns: what each rank tells the others of itself every few seconds, and the verdict that one is gone, silent or hangs.
Must not know: what the ranks are doing, what follows from a verdict.

On CPUs a collective whose partner has died fails at once. On GPUs it waits, and so does any collective whose partner
is frozen, or has failed and gone on to something else: for hours of a whole allocation.

    gone     its process has ended, as its own node can tell at once; why, the scheduler will say
    silent   none of its threads tells anything any more; from another node only after the scheduler's own patience
    hangs    its main thread stands still longer than it has announced, and so does everybody who does not wait for
             rank 0. The one that is behind is named: the others may be waiting for it in a collective. Where several
             are level, nobody is, since an innocent one's node would be left to the guilty one

Rank 0 keeps the store and judges; the others judge rank 0. Who waits in a collective for a rank that saves, or for one
that compiles, does not hang as long as that one keeps to what it has announced.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from launcher.cluster import node
from launcher.machine.processes import process_start
from launcher.store.files import typed
from launcher.worker import progress
from launcher.worker.distributed.self_watch import SelfWatch, dump, stood

BEAT_SECONDS = 5.0
SILENT_BEATS = 24  # counted, not timed: a job that was suspended finds its clock far ahead
FAR_SILENT_BEATS = 120  # of another node: longer than SLURM waits for one (SlurmdTimeout, 300 s), which speaks first
POLL_SECONDS = 0.2
NAMED = 8  # of many ranks that are level
GRACE_BEATS = 2  # for a rank to find out by itself what went wrong, and say it better


class Kind(StrEnum):
    """What has become of a rank that is lost."""

    FAILED = "failed"  # it said why
    GONE = "gone"  # the scheduler will say why
    HANGS = "hangs"  # it is still there, and nobody else will end it


@dataclass(frozen=True)
class Loss:
    """Why the ranks cannot go on together: which rank, what has become of it, in words as well, and on which node.

    No rank where one of several hangs, and nobody knows which.
    """

    reason: str
    kind: Kind
    rank: int | None = 0
    node: str | None = None

    @classmethod
    def told(cls, text: bytes) -> Loss:
        """From its JSON."""
        return typed(json.loads(text), cls, Path("store"))


@dataclass(frozen=True)
class Stand:
    """What a rank tells of itself.

    Attributes:
        beat: counts its own words.
        node, namespace, pid, born: its process.
        phase, done, of, bumps: as in `progress`.
        still: seconds since it moved last.
        hangs: whether that is longer than announced.
        waits: whether it waits for rank 0, which judges itself.
        joint: whether it seems to wait in a collective.
    """

    beat: int
    node: str
    namespace: str
    pid: int
    born: int | None
    phase: str = ""
    done: int = 0
    of: int | None = None
    bumps: int = 0
    still: float = 0.0
    hangs: bool = False
    waits: bool = False
    joint: bool = False


def here(beat: int = 0, watch: SelfWatch | None = None) -> Stand:
    """Where this process stands."""
    pid, doing = os.getpid(), progress.now()
    place = (node.name(), str(Path("/proc/self/ns/pid").readlink()), pid, process_start(pid))
    if watch is None:
        return Stand(beat, *place)
    waits = doing.seconds == progress.FOR_EVER
    state = (watch.still_seconds, watch.hangs, waits, watch.in_collective)
    return Stand(beat, *place, doing.phase, doing.done, doing.of, doing.bumps, *state)


class Watch(threading.Thread):
    """Tells of this rank, and calls `lost`, once, when another rank is gone or hangs."""

    def __init__(self, store: Any, index: int, size: int, lost: Callable[[Loss], None], own: SelfWatch) -> None:
        super().__init__(name="watch", daemon=True)
        self._store, self._index, self._size, self._lost, self._own = store, index, size, lost, own
        self._over = threading.Event()
        self._place = here()
        self._beat = 0
        # Of each rank that we judge: its last words, and our beat when they were new. The first are from the meeting.
        self._heard = {rank: (self._told(f"came/{rank}"), 0) for rank in (range(1, size) if index == 0 else (0,))}
        self._answered = 0  # our beat when the store answered last

    def stop(self) -> None:
        """Watch no longer."""
        self._over.set()
        self.join(BEAT_SECONDS)  # the store may never answer again

    def run(self) -> None:
        """Tell and listen until stopped, or until somebody is lost."""
        since: int | None = None
        while not self._over.wait(BEAT_SECONDS):
            self._beat += 1
            try:
                loss, is_verdict = self._listen()
            except RuntimeError:
                loss, is_verdict = self._missing(0), False
            self._answered = self._beat
            since = None if loss is None else since or self._beat
            if loss is not None and since is not None and (is_verdict or self._beat - since >= GRACE_BEATS):
                self._conclude(loss)
                return

    @property
    def answered(self) -> int:
        """Changes whenever the store has answered."""
        return self._answered

    def unanswered(self, seconds: float) -> Loss | None:
        """Rank 0, if the store has not answered for so long; asked from another thread.

        A call to a store whose process is stopped may never return, whatever time it is given.
        """
        beats = int(seconds / BEAT_SECONDS)
        return self._silence(0, beats) if self._index and beats >= self._silent_beats(0) else None

    def until_they_beat(self, store: Any, before: list[bytes], there: list[int]) -> None:
        """Wait until those who are not `there` show that they live; if one does not, we end this process.

        What failed here is then but a consequence, in the words of a connection that broke.
        """
        missing = set(range(self._size)) - set(there)
        while self.is_alive() and any(beats(store, self._size)[rank] == before[rank] for rank in missing):
            time.sleep(POLL_SECONDS)

    def until_verdict(self) -> None:
        """Rank 0 is gone, with the store: we say so in better words, and end this process."""
        while self.is_alive():
            time.sleep(POLL_SECONDS)

    def _listen(self) -> tuple[Loss | None, bool]:
        """Whom we have lost, and whether that is rank 0's verdict, which has had its grace."""
        stand = here(self._beat, self._own)
        self._store.set(f"alive/{self._index}", json.dumps(asdict(stand)))
        for key in ("lost", "apart"):
            if self._store.check([key]):
                return Loss.told(self._store.get(key)), key == "lost"
        for rank in self._heard:
            self._hear(rank)
        missing = next((loss for rank in self._heard if (loss := self._missing(rank))), None)
        if missing is not None:
            return (None if self._store.check([f"left/{missing.rank}"]) else missing), False
        return self._hang(stand), False

    def _hear(self, rank: int) -> None:
        key = f"alive/{rank}"
        if not self._store.check([key]):
            return
        stand = self._told(key)
        if self._heard[rank][0].beat != stand.beat:
            self._heard[rank] = (stand, self._beat)

    def _told(self, key: str) -> Stand:
        return Stand(**json.loads(self._store.get(key)))

    def _missing(self, rank: int) -> Loss | None:
        """That rank, if it is gone or silent."""
        stand, when = self._heard[rank]
        if self._is_near(stand) and process_start(stand.pid) != stand.born:
            return Loss(f"rank {rank} was killed", Kind.GONE, rank, stand.node)
        silent = self._beat - when
        return self._silence(rank, silent) if silent >= self._silent_beats(rank) else None

    def _silence(self, rank: int, beats: int) -> Loss:
        where = self._heard[rank][0].node
        return Loss(f"rank {rank} has been silent for {beats * BEAT_SECONDS:.0f} s", Kind.HANGS, rank, where)

    def _silent_beats(self, rank: int) -> int:
        return SILENT_BEATS if self._is_near(self._heard[rank][0]) else FAR_SILENT_BEATS

    def _is_near(self, stand: Stand) -> bool:
        """Whether we can see its process."""
        return (stand.node, stand.namespace) == (self._place.node, self._place.namespace)

    def _hang(self, ours: Stand) -> Loss | None:
        if self._index:
            return None
        stands = {0: ours} | {rank: stand for rank, (stand, _) in self._heard.items()}
        level = behind(stands)
        return hang_of({rank: stands[rank] for rank in level}, of=self._size) if level else None

    def _conclude(self, loss: Loss) -> None:
        if loss.kind is Kind.HANGS:
            dump()
        if self._index == 0 and loss.kind is not Kind.FAILED:
            self._store.set("lost", json.dumps(asdict(loss)))
            self._over.wait(GRACE_BEATS * BEAT_SECONDS)  # so that all others have said where they stand
        self._lost(loss)


def beats(store: Any, size: int) -> list[bytes]:
    """What each rank has told of itself last."""
    keys = [f"alive/{rank}" for rank in range(size)]
    return [store.get(key) if store.check([key]) else b"" for key in keys]


def hang_of(level: dict[int, Stand], of: int) -> Loss:
    """The hang of a rank, or of one among several that are level, in words; `of`: how many ranks there are."""
    each = {(stand.phase, stand.done, stand.of): stand.still for stand in level.values()}
    places = " or ".join(stood(*place, still) for place, still in each.items())
    if len(level) == 1:
        ((rank, stand),) = level.items()
        return Loss(f"rank {rank} {places}", Kind.HANGS, rank, stand.node)
    names = ", ".join(map(str, list(level)[:NAMED])) + (" and others" if len(level) > NAMED else "")
    who = "all ranks" if len(level) == of else f"ranks {names}"
    return Loss(f"{who} {places}, and which of them hangs is not known", Kind.HANGS, rank=None)


def behind(stands: dict[int, Stand]) -> list[int]:
    """The rank that hangs, or those of which one does; nobody as long as somebody gets on.

    Of ranks in the same phase it is the one that has come less far, and of any the one that waits in no collective.
    """
    if any(not (stand.hangs or stand.waits) for stand in stands.values()):
        return []
    hanging = {rank: stand for rank, stand in stands.items() if stand.hangs}
    together = len({stand.phase for stand in hanging.values()}) == 1
    places = {rank: (stand.bumps if together else 0, stand.joint) for rank, stand in hanging.items()}
    return [rank for rank, place in places.items() if place == min(places.values())]
