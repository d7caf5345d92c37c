"""Faults of a rank: signals, and what its main thread does to itself.

Owns: those injections. Must not know: other kinds.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from dataclasses import replace
from random import Random

from slurm_cluster import processes_naming
from strike import Injection, Kind, Struck, a_rank, name_of, one_of
from world import World

STOPPED_SECONDS = 15
FOR_EVER_SECONDS = 300


def _signal(number: signal.Signals, *, training: bool = True) -> Injection:
    def inject(world: World, draw: Random) -> Struck | None:
        if (found := a_rank(world, draw, training=training)) is None:
            return None
        scene, rank = found
        with suppress(ProcessLookupError):
            os.kill(rank.pid, number)
        return Struck(name_of(rank), scene)

    return inject


def _stop(world: World, draw: Random) -> Struck | None:
    if (found := a_rank(world, draw)) is None:
        return None
    scene, rank = found

    def go_on() -> None:
        with suppress(ProcessLookupError):
            os.kill(rank.pid, signal.SIGCONT)

    with suppress(ProcessLookupError):
        os.kill(rank.pid, signal.SIGSTOP)
    return Struck(name_of(rank), scene, go_on, STOPPED_SECONDS)


def _stop_for_ever(world: World, draw: Random) -> Struck | None:
    """It goes on only when all is over, if it still can."""
    struck = _stop(world, draw)
    return struck and replace(struck, seconds=FOR_EVER_SECONDS)


def _strike_tracker(number: signal.Signals) -> Injection:
    """The process beside a run that tells a tracker of it."""

    def inject(world: World, draw: Random) -> Struck | None:
        pids = sorted(processes_naming("launcher.tracking.process", f"FAULTS_MOODS={world.moods}"))
        pid = one_of(draw, pids)
        if pid is None:
            return None
        with suppress(ProcessLookupError):
            os.kill(pid, number)
        return Struck(f"pid {pid}")

    return inject


def _order(word: str, *, many: bool = False) -> Injection:
    def inject(world: World, draw: Random) -> Struck | None:
        if (found := a_rank(world, draw, many=many)) is None:
            return None
        scene, rank = found
        world.tell(rank.pid, word)
        return Struck(name_of(rank), scene)

    return inject


KINDS = (
    Kind("rank gets SIGKILL", _signal(signal.SIGKILL)),
    Kind("rank gets SIGKILL while it starts", _signal(signal.SIGKILL, training=False)),
    Kind("rank gets SIGTERM", _signal(signal.SIGTERM)),
    Kind("rank gets SIGSEGV", _signal(signal.SIGSEGV)),
    Kind("rank gets SIGABRT", _signal(signal.SIGABRT)),
    Kind("rank is stopped for a while", _stop),
    Kind("main thread sleeps", _order("sleep")),
    Kind("main thread holds the GIL", _order("hold the GIL")),
    Kind("main thread sleeps for ever", _order("sleep for ever")),
    Kind("main thread holds the GIL for ever", _order("hold the GIL for ever")),
    Kind("collective never returns", _order("wait for a rank that never comes", many=True)),
    Kind("rank is stopped for ever", _stop_for_ever),
    Kind("tracker is killed", _strike_tracker(signal.SIGKILL)),
    Kind("tracker is stopped", _strike_tracker(signal.SIGSTOP)),
    Kind("rank raises", _order("raise")),
)
