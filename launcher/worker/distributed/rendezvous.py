"""Where the ranks of one job meet: who they are, and a store that all of them share.

Owns: rank and world size from the environment, the meeting point, what torch, accelerate and DeepSpeed read of both;
that all ranks hold the GPUs that rank 0 has taken.
Must not know: process groups, runs. It imports torch only after RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE,
MASTER_ADDR and MASTER_PORT are set.

Where the numbers come from, the first that is there:

    torchrun       RANK, WORLD_SIZE, LOCAL_RANK, and its own meeting point
    an executor    `cluster.node`

The world size follows the tasks, the device follows what torch sees: a node without a GPU computes on its cores.

The meeting point is a port that rank 0 holds from the moment it is chosen, so that no other job can take it. Rank 0
publishes it in the job's folder, under a name that is new at each start of the job. A file that an earlier start left
there names a store that is gone or does not know the file's token: nobody meets there.
"""

from __future__ import annotations

import importlib
import os
import secrets
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from launcher.cluster import node
from launcher.errors import RankFailedError
from launcher.machine.dealing import WANTED, hold
from launcher.machine.gpus import VISIBLE, identities, visible_gpus
from launcher.store.files import read_fact, write_once
from launcher.store.node_facts import Place

MEETING_SECONDS = 900.0  # from the first rank's arrival to the last's: nodes boot, containers are pulled
TRY_SECONDS = 60.0  # for one attempt to reach the published port; rank 0 may still be importing torch
PATIENCE = timedelta(days=2)  # of any wait: rank 0 may evaluate alone for hours; a death is noticed otherwise
ADDRESS = "PREFSWEEP_ADDRESS"  # the address of rank 0's node, where ours is not the one that other nodes reach
POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Rank:
    """One task of a job.

    Attributes:
        index: 0 to size - 1, over all nodes.
        size: the job's tasks.
        local: 0 to local_size - 1, on this node.
        local_size: the job's tasks on this node.
        start: names this start of the job; None where the meeting point is given from outside.
    """

    index: int = 0
    size: int = 1
    local: int = 0
    local_size: int = 1
    start: str | None = "alone"

    @classmethod
    def here(cls, environment: Mapping[str, str] = os.environ) -> Rank:
        """The rank of this process."""
        if all(name in environment for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "TORCHELASTIC_RUN_ID")):
            numbers = [int(environment[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")]
            return cls(numbers[0], numbers[1], numbers[2], numbers[3], start=None)
        task = node.here(environment)
        if task is None or task.size == 1:
            return cls()
        return cls(task.rank, task.size, task.local, task.local_size, task.start)


def meet(folder: Path, rank: Rank, within: float) -> Any:
    """The store that all ranks of this start of the job share.

    Args:
        folder: the job's, on a disk that all nodes share.
        rank: this one.
        within: seconds that the others wait for rank 0.

    Raises:
        RankFailedError: rank 0 has not come in time.
    """
    if rank.start is None:
        return next(_torch().rendezvous("env://", timeout=PATIENCE))[0]
    path = folder / "rendezvous" / f"{rank.start}.json"
    return _host(path, rank) if rank.index == 0 else _join(path, rank, within)


def await_all(store: Any, rank: Rank, within: float, words: str = "") -> None:
    """Wait until all ranks have come to the store; rank 0 says when, and who has not come.

    `words`: what this one says of itself; each one's are there for all afterwards, as `came/<rank>`.

    Raises:
        RankFailedError: not all have come in time.
    """
    store.set(f"came/{rank.index}", words)
    if rank.index:
        said = store.get("met").decode()
    else:
        said = _missing(store, rank.size, within)
        store.set("met", said)
    if said:
        raise RankFailedError(said)


def _missing(store: Any, size: int, within: float) -> str:
    """Who has not come after so many seconds, in words; nothing where all have."""
    until = time.monotonic() + within
    missing = list(range(1, size))
    while missing := [number for number in missing if not store.check([f"came/{number}"])]:
        if time.monotonic() > until:
            names = ", ".join(map(str, missing[:8])) + (" and others" if len(missing) > 8 else "")  # noqa: PLR2004
            which = f"rank {names} has" if len(missing) == 1 else f"ranks {names} have"
            return f"{which} not come within {within:.0f} s, of {size}; see the logs of the job"
        time.sleep(POLL_SECONDS)
    return ""


def _host(path: Path, rank: Rank) -> Any:
    one_node = rank.local_size == rank.size
    listener = socket.create_server(("127.0.0.1" if one_node else "", 0), backlog=max(128, rank.size))
    gpus = visible_gpus() if WANTED in os.environ else None
    place = Place(own_address(one_node=one_node), listener.getsockname()[1], secrets.token_hex(8), gpus)
    if rank.size > 1:
        path.unlink(missing_ok=True)  # of an earlier start under this name
        write_once(path, place)
    _export(rank, place)
    store = _torch().TCPStore(
        place.address,
        place.port,
        is_master=True,
        wait_for_workers=False,
        master_listen_fd=listener.detach(),
        timeout=PATIENCE,
    )
    store.set("token", place.token)
    return store


def _join(path: Path, rank: Rank, within: float) -> Any:
    until = time.monotonic() + within
    while time.monotonic() < until:
        place = read_fact(path, Place)
        if place is None:
            time.sleep(POLL_SECONDS)
            continue
        _export(rank, place)
        store = _store_at(place)
        if store is not None:
            if place.gpus:
                hold(identities(place.gpus))
            return store
    raise RankFailedError(f"rank {rank.index}: rank 0 was not met within {within:.0f} s; see its log")


def _store_at(place: Place) -> Any:
    """The store that was published; None where an earlier start's file names one that is gone or another's."""
    try:
        store = _torch().TCPStore(place.address, place.port, is_master=False, timeout=timedelta(seconds=TRY_SECONDS))
        if store.get("token").decode() != place.token:
            return None
    except RuntimeError:
        return None
    store.set_timeout(PATIENCE)
    return store


def own_address(*, one_node: bool, environment: Mapping[str, str] = os.environ) -> str:
    """The address under which other nodes reach this one.

    It is the one from which packets leave towards the node where the tasks were started (connecting a datagram socket
    sends nothing). Names are not used: they do not resolve everywhere, or to 127.0.1.1.
    """
    if environment.get(ADDRESS):
        return environment[ADDRESS]
    if one_node:
        return "127.0.0.1"
    task = node.here(environment)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(((task and task.origin) or "192.0.2.1", 9))
        except OSError:
            return "127.0.0.1"  # no network: all nodes are this machine
        return str(probe.getsockname()[0])


def _export(rank: Rank, place: Place) -> None:
    os.environ |= {
        "RANK": str(rank.index),
        "WORLD_SIZE": str(rank.size),
        "LOCAL_RANK": str(rank.local),
        "LOCAL_WORLD_SIZE": str(rank.local_size),
        "MASTER_ADDR": place.address,
        "MASTER_PORT": str(place.port),
    }
    if place.gpus is not None:
        os.environ[VISIBLE] = ",".join(place.gpus)
    task = node.here()
    cores = (task and task.cores) or max(1, len(os.sched_getaffinity(0)) // rank.local_size)
    os.environ.setdefault("OMP_NUM_THREADS", str(cores))  # else each rank would take all of them


def _torch() -> Any:
    """torch.distributed, now that it finds its variables; by name, since its types leave out what it documents."""
    return importlib.import_module("torch.distributed")
