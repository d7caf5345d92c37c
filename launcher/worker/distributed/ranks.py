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
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from launcher.errors import RankFailedError
from launcher.worker.distributed.liveness import Watch
from launcher.worker.distributed.rendezvous import MEETING_SECONDS, PATIENCE, POLL_SECONDS, Rank, meet

Value = TypeVar("Value")

END_SECONDS = 20.0  # between two ranks' failures of one attempt; SLURM kills the others 30 s after one has died


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
    attempt: str = ""
    calls: int = 0
    apart: bool = False
    lost: Callable[[str], None] | None = None


_group: _Group | None = None


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
def joined(folder: Path, *, always: bool = False, within: float = MEETING_SECONDS) -> Iterator[Rank]:
    """Within, the ranks of the job in `folder` are one process group.

    Args:
        folder: shared by all nodes.
        always: make a process group of one rank too: DeepSpeed needs one. Otherwise a lone process initialises nothing.
        within: seconds that the others wait for rank 0.

    Raises:
        RankFailedError: not all ranks have come in time.
    """
    global _group  # noqa: PLW0603 - a process has one place in one job
    rank = Rank.here()
    if rank.size == 1 and not always:
        yield rank
        return
    group = _group = _Group(rank, meet(folder, rank, within))
    watch = Watch(group.store.clone(), rank.index, rank.size, lambda reason: _lose(group, reason))
    try:
        _start(group)
        watch.start()
        yield rank
    finally:
        _stop(group, watch)
        _group = None


def _start(group: _Group) -> None:
    import torch

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
        timeout=PATIENCE,
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
    torch.distributed.destroy_process_group()


def _lose(group: _Group, reason: str) -> None:
    """End this process, whatever its main thread is waiting for."""
    if group.lost is not None:
        group.lost(reason)
    os._exit(1)


# ------------------------------------------------------------------------------------------------ acting as one


def begin(attempt: str, lost: Callable[[str], None]) -> None:
    """From here on it is about this attempt: ranks that lost each other in the last one start counting anew.

    Args:
        attempt: its name, the same on all ranks.
        lost: called with the reason, in another thread, before this process ends because another rank is gone.
    """
    if _group is not None:
        _group.attempt, _group.calls, _group.lost = attempt, 0, lost


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
        there = _all_there(_group, key, END_SECONDS)
        ends = sorted(json.loads(_group.store.get(f"{key}/{number}")) for number in there)
        _group.apart = _verdict(_group, "together" if len(ends) == rank.size else "apart") == "apart"
        _group.attempt, _group.calls = f"{_group.attempt}/after", 0  # they may have come to different points
        if not _group.apart:
            return End(together=True, cause=reason, signal=next((end[3] for end in ends if end[3] is not None), None))
        _, first_one, cause, asked = ends[0]  # the others' failures are its consequences
        cause = cause if first_one == rank.index else f"rank {first_one}: {cause}"
        _group.store.set("apart", cause)
    except RuntimeError:
        _group.apart = True
        return End(together=False, cause=reason, signal=signal)
    return End(together=False, cause=cause, signal=asked)


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
