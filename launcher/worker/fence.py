"""The fence around a run's folder: a process whose start another has superseded leaves, and writes nothing more there.

Owns: this process's start, when it is looked at whether that is still the valid one, how the process leaves.
Must not know: how starts are numbered (`store.starts`), what is trained or written.

It is looked at before each fact and each line of a log (`files.guarded`), before a checkpoint, a rotation and a model,
at each step, and by a thread, since the main one may hang in a collective or a download. A process that was stopped
meanwhile, or whose node SLURM has given up, finds out so before it harms the run. What is made of many files has a name
of the start's own until it is whole.

Only rank 0 is asked to look; when it leaves, the others notice, and record nothing either.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from launcher.errors import StoreError
from launcher.machine import rights
from launcher.machine.terminal import say
from launcher.store import files
from launcher.store.facts import Started
from launcher.store.run_folder import AttemptDir
from launcher.store.starts import Start, claim

GUARD_SECONDS = 5.0  # between two looks of the thread
STEP_SECONDS = 2.0  # between two looks at steps, which may be short


@dataclass
class _Fence:
    start: Start
    looks: bool
    exit_code: int = 0
    guards: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    over: threading.Event = field(default_factory=threading.Event)
    looked: float = 0.0


_fence: _Fence | None = None


def take_up(attempt: AttemptDir, fact: Started, exit_code: int = 0) -> str:
    """On rank 0: take up an attempt, from here on as long as nobody else does; returns the name of the start.

    It does not return where a later life of this job has the attempt already.

    `exit_code`: with which this process leaves once it is superseded.
    """
    lift()
    start = claim(attempt, fact)
    if start is None:
        _leave("this job was started again elsewhere", exit_code)
    _put_up(_Fence(start, looks=True, exit_code=exit_code))
    check()
    return start.name


def follow(attempt: AttemptDir, name: str) -> None:
    """On the other ranks: what rank 0 has taken up."""
    lift()
    _put_up(_Fence(Start(attempt.run.starts / f"{name}.json"), looks=False))


def _put_up(fence: _Fence) -> None:
    global _fence  # noqa: PLW0603 - a process is in one run at a time
    _fence = fence
    if fence.looks:
        fence.guards.enter_context(files.guarded(check))
        threading.Thread(target=_guard, args=(fence,), name="fence", daemon=True).start()


def lift() -> None:
    """This process no longer has a run in its hands."""
    global _fence  # noqa: PLW0603 - see above
    if _fence is not None:
        _fence.over.set()
        _fence.guards.close()
    _fence = None


def check(within: float = 0.0) -> None:
    """Leave, where another start has taken up the run; unless that was looked at in the last `within` seconds.

    Raises:
        OSError: the folder of starts cannot be read.
    """
    if _fence is not None:
        _check(_fence, within)


def _check(fence: _Fence, within: float) -> None:
    now = time.clock_gettime(time.CLOCK_BOOTTIME)  # goes on while the machine sleeps
    if not fence.looks or now - fence.looked < within:
        return
    if fence.start.is_superseded():
        _leave(_why(fence.start), fence.exit_code)
    fence.looked = now


def _guard(fence: _Fence) -> None:
    while not fence.over.wait(GUARD_SECONDS):
        with contextlib.suppress(OSError):  # the next look may tell; whatever is written is looked at itself
            if fence.start.is_superseded() and not fence.over.is_set():
                _leave(_why(fence.start), fence.exit_code)


def _why(start: Start) -> str:
    later = None
    with contextlib.suppress(FileNotFoundError, StoreError):
        if (later := start.later()) is not None:
            return f"start {later.name} on {later.fact.host} has taken this run up"
    return f"start {later.name} has taken this run up" if later else f"{start.path} was removed"


def _leave(why: str, exit_code: int) -> NoReturn:
    say(f"left: {why}; this process writes nothing more")
    sys.stdout.flush()
    os._exit(exit_code)


# ------------------------------------------------------------------------------------------------ what is its own


def name() -> str | None:
    """The name of this process's start; None where it has taken up nothing."""
    return None if _fence is None else _fence.start.name


def own(folder: Path) -> Path:
    """This start's part of a folder; all of it where nothing was taken up."""
    return folder / (name() or "")


def aside(path: Path) -> Path:
    """Where this start makes `path` until it is whole, empty; what earlier ones have left of it goes.

    So no two ever fill one folder, and no late one takes away what another makes.
    """
    check()
    for left in path.parent.glob(f".{path.name}.*partial"):
        shutil.rmtree(left, ignore_errors=True)
    return path.with_name("." + ".".join(filter(None, [path.name, name(), "partial"])))


def put_in_place(made: Path, path: Path) -> None:
    """Give a folder that is whole its name, and what is in it the umask's rights; one that is there makes way.

    Raises:
        FileNotFoundError: a later start has removed it, which has taken up the run.
    """
    rights.follow_umask(made)
    check()
    try:
        made.rename(path)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        before = aside(path.with_name(f"{path.name}.before"))
        path.rename(before)
        made.rename(path)
        shutil.rmtree(before, ignore_errors=True)
