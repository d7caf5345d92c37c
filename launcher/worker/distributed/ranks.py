"""The ranks of one job as one process group: letting rank 0 decide or do something for all.

Owns: the process group, what ranks tell each other besides tensors, and whether they are still together.
Must not know: runs, training; how ranks find each other (`rendezvous`).

Messages go through the store that rank 0 keeps, as JSON: a rank that waits there keeps no GPU busy, and may wait for
hours while rank 0 evaluates.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from launcher.errors import RankFailedError
from launcher.worker import progress
from launcher.worker.distributed.liveness import Kind, Loss, Watch, beats, hang_of, here
from launcher.worker.distributed.rendezvous import MEETING_SECONDS, POLL_SECONDS, Rank, await_all, meet
from launcher.worker.distributed.self_watch import TICK_SECONDS, SelfWatch, dump

Value = TypeVar("Value")

END_SECONDS = 20.0  # between two ranks' failures of one attempt
COLLECTIVE = timedelta(hours=1)  # longer waits go through the store


@dataclass(frozen=True)
class End:
    """How a failed attempt ended on all ranks.

    Attributes:
        together: whether they can go on together; if not, this process must end.
        cause: what failed first, with the rank if that was another and they are apart.
        signal: the signal that asked the ranks to stop, where that is what ended the attempt.
    """

    together: bool
    cause: str | None = None
    signal: int | None = None


@dataclass
class _Group:
    rank: Rank
    store: Any  # torch.distributed.Store
    watch: Watch
    attempt: str = ""
    calls: int = 0
    apart: bool = False


Lost = Callable[[Loss], None]

_group: _Group | None = None
_lost: Lost | None = None
_whole: _Group | None = None  # also while rank 0 acts `alone`
_self_watch: SelfWatch | None = None


def index() -> int:
    """The rank of this process; 0 where there is one only."""
    return _group.rank.index if _group else 0


def size() -> int:
    """How many ranks there are."""
    return _group.rank.size if _group else 1


def is_first() -> bool:
    """Whether this is rank 0, the one that writes facts."""
    return index() == 0


@contextlib.contextmanager
def joined(
    folder: Path, *, always: bool = False, within: float = MEETING_SECONDS, lost: Lost | None = None
) -> Iterator[Rank]:
    """Within, the ranks of the job in `folder` are one process group, and each is watched by itself and by the others.

    Args:
        folder: shared by all nodes.
        always: make a process group of one rank too: DeepSpeed needs one. Otherwise a lone process initialises nothing.
        within: seconds that the others wait for rank 0.
        lost: called in another thread before this process ends because a rank is gone or hangs, until `begin`.

    Raises:
        RankFailedError: not all ranks have come in time.
    """
    global _lost
    _lost, rank = lost, Rank.here()
    with _watched_by_itself(rank) as own:
        if rank.size == 1 and not always:
            yield rank
        else:
            with _met(folder, rank, within, own) as group:
                _start(group)
                yield rank


@contextlib.contextmanager
def _watched_by_itself(rank: Rank) -> Iterator[SelfWatch]:
    global _self_watch  # noqa: PLW0603 - see joined
    watch = _self_watch = SelfWatch(partial(_look, rank, _Patience()))
    watch.start()
    try:
        yield watch
    finally:
        watch.stop()
        _self_watch = None


@dataclass
class _Patience:
    """How long the store has not answered, in ticks of the thread that asks."""

    answered: int = -1
    ticks: int = 0


def _look(rank: Rank, patience: _Patience) -> None:
    """What this rank's own watch does at each tick."""
    watch = _watch_of_all()
    if watch is None:
        if _self_watch is not None and _self_watch.hangs:
            dump()
            _lose(hang_of({rank.index: here(watch=_self_watch)}, of=1))
        return
    same = patience.answered == watch.answered
    patience.answered, patience.ticks = watch.answered, patience.ticks + 1 if same else 0
    silent = watch.unanswered(patience.ticks * TICK_SECONDS)
    if silent is not None:
        _lose(silent)


def _watch_of_all() -> Watch | None:
    return _whole.watch if _whole is not None else None


@contextlib.contextmanager
def _met(folder: Path, rank: Rank, within: float, own: SelfWatch) -> Iterator[_Group]:
    """The group, watched from before its ranks have to wait for each other in torch."""
    global _group, _whole  # noqa: PLW0603 - see joined
    try:
        with progress.phase("meeting the other ranks", within + MEETING_SECONDS):
            store = meet(folder, rank, within)
            await_all(store, rank, MEETING_SECONDS, json.dumps(asdict(here())))
    except RankFailedError as error:
        if _lost is not None:
            _lost(Loss(str(error), Kind.HANGS, rank.index))
        raise
    watch = Watch(store.clone(), rank.index, rank.size, _lose, own)
    group = _group = _whole = _Group(rank, store, watch)
    watch.start()
    try:
        yield group
    finally:
        _stop(group, watch)
        _group = _whole = None


def _start(group: _Group) -> None:
    import torch

    # Else NCCL ends this process soon after a node has died, minutes before the scheduler says so.
    os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0")
    if torch.cuda.is_available():
        torch.cuda.set_device(group.rank.local % torch.cuda.device_count())
    else:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    torch.distributed.init_process_group(
        "nccl" if torch.cuda.is_available() else "gloo",
        store=torch.distributed.PrefixStore(  # type: ignore[attr-defined]
            "group", group.store
        ),
        rank=group.rank.index,
        world_size=group.rank.size,
        timeout=COLLECTIVE,
    )


def _stop(group: _Group, watch: Watch) -> None:
    """Leave; rank 0, which keeps the store, as the last one."""
    import torch.distributed

    if watch.is_alive():
        watch.stop()
    if group.apart:
        return  # to take leave of a rank that is gone could take for ever
    with contextlib.suppress(RuntimeError):
        group.store.set(f"left/{group.rank.index}", "")
        if group.rank.index == 0:
            _all_there(group, "left", END_SECONDS)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _lose(loss: Loss) -> None:
    """End this process, whatever its main thread is waiting for, and whatever keeps us from recording it."""
    try:
        if _lost is not None:
            _lost(loss)
    finally:
        os._exit(1)


# ------------------------------------------------------------------------------------------------ acting as one


def begin(attempt: str, lost: Lost) -> None:
    """From here on it is about this attempt: ranks that lost each other in the last one start counting anew.

    Args:
        attempt: its name, the same on all ranks.
        lost: called with the reason, in another thread, before this process ends because a rank is gone or hangs.
    """
    global _lost  # noqa: PLW0603 - see joined
    _lost = lost
    if _self_watch is not None:
        _self_watch.speaks_for = None
    if _group is not None:
        _group.attempt, _group.calls = attempt, 0


def speak_for(folder: Path, start: str) -> None:
    """From here on it is about this attempt's folder and that start of it, also for the process beside."""
    if _self_watch is not None:
        _self_watch.speaks_for = folder, start


def failed(reason: str, signal: int | None = None) -> End:
    """Tell the other ranks why the attempt failed on this one, and hear from them.

    Ranks that have all failed are still together and can go on to the next attempt. Otherwise some may wait for this
    one in a collective that will never be: this process must end, so that they notice.

    Args:
        reason: why it failed here.
        signal: the signal that has asked this rank to stop, if one has.
    """
    if _group is None:
        return End(together=True, cause=reason, signal=signal)
    key, rank = f"{_group.attempt}/end", _group.rank
    try:
        order = _group.store.add(f"{key}/order", 1)
        _group.store.set(f"{key}/{rank.index}", json.dumps([order, rank.index, reason, signal]))
        heard = beats(_group.store, _group.rank.size)
        there = _all_there(_group, key, END_SECONDS)
        _group.watch.until_they_beat(_group.store, heard, there)
        ends = sorted(json.loads(_group.store.get(f"{key}/{number}")) for number in there)
        _group.apart = _verdict(_group, "together" if len(ends) == rank.size else "apart") == "apart"
        _group.attempt, _group.calls = f"{_group.attempt}/after", 0  # they may have come to different points
        if not _group.apart:
            return End(together=True, cause=reason, signal=next((end[3] for end in ends if end[3] is not None), None))
        _, first_one, cause, asked = ends[0]  # the others' failures are its consequences
        named = f"rank {first_one}: {cause}"
        _group.store.set("apart", json.dumps(asdict(Loss(named, Kind.FAILED, first_one))))
    except RuntimeError:
        _group.watch.until_verdict()
        _group.apart = True
        return End(together=False, cause=reason, signal=signal)
    return End(together=False, cause=cause if first_one == rank.index else named, signal=asked)


def let_first_end() -> None:
    """Wait until rank 0, with the store, is gone: it records, and srun kills the others when one of them has ended."""
    until = time.monotonic() + 3 * END_SECONDS
    with contextlib.suppress(RuntimeError):
        while _whole is not None and _whole.rank.index and time.monotonic() < until:
            _whole.store.check(["left/0"])
            time.sleep(POLL_SECONDS)


def _verdict(group: _Group, proposed: str) -> str:
    """What the first rank to decide has decided: a rank that has given up the others must not be waited for."""
    verdict: bytes = group.store.compare_set(f"{group.attempt}/verdict", "", proposed)
    return verdict.decode()


def _all_there(group: _Group, key: str, seconds: float) -> list[int]:
    """The ranks that have set `key`, when all have or the time is over."""
    until = time.monotonic() + seconds
    while True:
        there = [number for number in range(group.rank.size) if group.store.check([f"{key}/{number}"])]
        if len(there) == group.rank.size or time.monotonic() > until:
            return there
        time.sleep(POLL_SECONDS)


def first(do: Callable[[], Value]) -> Value:
    """What `do` returns on rank 0, on every rank; the others wait for it. It must survive JSON.

    Raises:
        RankFailedError: on the others, where `do` has failed.
    """
    if _group is None:
        return do()
    key = _next_key(_group)
    if _group.rank.index:
        return _answer(_group, key)
    try:
        value = do()
    except BaseException as error:
        _group.store.set(key, json.dumps({"failure": f"{type(error).__name__}: {error}"}))
        raise
    _group.store.set(key, json.dumps({"value": value}))
    return value


@contextlib.contextmanager
def first_ahead() -> Iterator[None]:
    """Rank 0 goes through the body before the others, who then find in the cache what it has made.

    Raises:
        RankFailedError: on the others, where rank 0 has failed.
    """
    if _group is None:
        yield
        return
    key = _next_key(_group)
    if _group.rank.index:
        _answer(_group, key)
    try:
        yield
    except BaseException as error:
        if not _group.rank.index:
            _group.store.set(key, json.dumps({"failure": f"{type(error).__name__}: {error}"}))
        raise
    if not _group.rank.index:
        _group.store.set(key, json.dumps({"value": None}))


def _next_key(group: _Group) -> str:
    group.calls += 1
    return f"{group.attempt}/first/{group.calls}"


def _answer(group: _Group, key: str) -> Any:
    with progress.phase("waiting for rank 0", progress.FOR_EVER):
        answer = json.loads(group.store.get(key))
    if "failure" in answer:
        raise RankFailedError(f"rank 0: {answer['failure']}")
    return answer["value"]


def gather(values: list[Value]) -> list[Value]:
    """The values of all ranks in one list, by rank; on rank 0 only, the others get none."""
    if size() == 1:
        return values
    import torch.distributed

    lists: list[list[Value]] | None = [[] for _ in range(size())] if is_first() else None
    torch.distributed.gather_object(values, lists)
    return [value for of_rank in lists or [] for value in of_rank]


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Within, rank 0 is the only one, for us and for accelerate: it can evaluate while the others wait."""
    global _group  # noqa: PLW0603 - see joined
    if _group is None:
        yield
        return
    from accelerate.state import AcceleratorState  # type: ignore[import-untyped]

    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    kept = {name: os.environ.pop(name) for name in names if name in os.environ}
    group, _group = _group, None
    AcceleratorState._reset_state(reset_partial_state=True)  # noqa: SLF001 - accelerate's own way to start anew
    try:
        yield
    finally:
        _group = group
        os.environ |= kept
        AcceleratorState._reset_state(reset_partial_state=True)  # noqa: SLF001
