"""This machine's GPUs, dealt out to jobs: a process takes free ones, and has them until it ends.

Owns: which GPUs are taken, for all users and output folders of this machine. Must not know: jobs, what a GPU computes.

A GPU is held by a name of the kernel's, an abstract Unix socket `prefsweep/gpu/<GPU>/<pid>`: the kernel lists them, and
takes them back however their process ends. No file is left behind, and none must be trusted. Each rank of a job holds
all of the job's GPUs, and so does a program that it has started to measure: they are free only when the last one is
gone. What is not promised: containers with a network of their own do not see each other's, and nothing here knows of
programs that are not ours.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path

WANTED = "PREFSWEEP_GPUS"  # in a job's environment: how many of its visible GPUs it takes before it starts to work
WAITS = "waiting for {} of the GPUs {} to be free"  # what a job prints meanwhile, and nothing after it
_TURN = "\0prefsweep/dealing"  # one process at a time looks which are free, and takes them
_HELD = re.compile(r" @prefsweep/gpu/(\S+)/\d+$", re.MULTILINE)

_ours: list[socket.socket] = []


def take(wanted: int, visible: Mapping[str, str]) -> list[str] | None:
    """So many of these GPUs, ours from now on; None where fewer are free, or another process is just taking some.

    `visible`: by name, each one's identity.
    """
    with _turn() as ours:
        taken = held() if ours else set(visible.values())
        free = [gpu for gpu, identity in visible.items() if identity not in taken][:wanted]
        if len(free) < wanted:
            return None
        hold({gpu: visible[gpu] for gpu in free})
        return free


def hold(gpus: Mapping[str, str]) -> None:
    """Hold GPUs, also beside another process of this job: they are not free before both have ended."""
    _ours.extend([_bound(f"\0prefsweep/gpu/{identity}/{os.getpid()}") for identity in gpus.values()])


def descriptors() -> list[int]:
    """What a child inherits that is to hold our GPUs, too, for as long as it lives."""
    return [each.fileno() for each in _ours]


def held() -> set[str]:
    """The identities of the GPUs that somebody holds."""
    return set(_HELD.findall(Path("/proc/net/unix").read_text(encoding="utf-8", errors="replace")))


@contextlib.contextmanager
def _turn() -> Iterator[bool]:
    """Whether nobody else takes GPUs meanwhile."""
    try:
        turn = _bound(_TURN)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        yield False
    else:
        with turn:
            yield True


def _bound(name: str) -> socket.socket:
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        bound.bind(name)
    except OSError:
        bound.close()
        raise
    return bound
