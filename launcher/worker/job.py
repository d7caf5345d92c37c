"""What a job does: takes up the runs in its list, one after another.

Owns: the job's list, which of its runs are still to be made; the process's logs, its slot and GPUs on this machine.
Must not know: how a run is made, what follows from how it ended, how it was submitted, what signals mean.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from enum import StrEnum
from functools import partial
from pathlib import Path

from launcher.cluster import node
from launcher.machine import dealing
from launcher.machine.gpus import VISIBLE, identities, visible_gpus
from launcher.machine.processes import end_with_parent
from launcher.machine.terminal import say
from launcher.store.attempt_config import read_config
from launcher.store.attempts import Attempts, is_called_off
from launcher.store.facts import JobList, TableWork
from launcher.store.locks import Timeout, held
from launcher.store.output_folder import PreparingDir, Store
from launcher.store.run_folder import AttemptDir, RunDir
from launcher.store.work_list import listed_in, work_of
from launcher.worker.attempt import make_attempt
from launcher.worker.deadline import Deadline
from launcher.worker.distributed import ranks
from launcher.worker.distributed.liveness import Loss
from launcher.worker.distributed.rendezvous import MEETING_SECONDS, PATIENCE, Rank
from launcher.worker.interruption import StopRequest
from launcher.worker.lost import settle_loss
from launcher.worker.make_table import make_table
from launcher.worker.outcome import Kind, Outcome, reason_of, settle

TURN_POLL_SECONDS = 0.5


def work(folder: Path) -> None:
    """Do the work of the job in `folder`; called in the job's process, again after a requeue."""
    end_with_parent()
    listed = work_of(folder)
    if isinstance(listed, TableWork):
        make_table(listed, PreparingDir(folder.parent))
        return
    attempts = listed_in(listed)
    try:
        take_up_runs(listed, folder)
    except Exception as error:  # before it came to a run, or between two
        left = [attempt for attempt in attempts if not _is_over(attempt)] if Rank.here().index == 0 else []
        settle(Outcome(Kind.FAILED, reason_of(error, _root_of(attempts)), traceback.format_exc()), *left)
        raise


def _root_of(attempts: Sequence[AttemptDir]) -> Path:
    """The output folder."""
    return attempts[0].run.path.parent.parent


def take_up_runs(listed: JobList, folder: Path) -> None:
    """Take up every run of the job in `folder` that is not done."""
    attempts = listed_in(listed)
    stop = StopRequest()
    stop.listen()
    deadline = _deadline(attempts, stop)
    store = Store(_root_of(attempts))
    with _turn(store, listed.slots, stop), _joined(folder, attempts, listed.slots) as rank:
        for number, attempt in enumerate(attempts, 1):
            step = Step(ranks.first(partial(_next_step, attempt, stop)))
            if step is Step.LEAVE:
                break
            if step is Step.MAKE:
                say(f"run {number} of {len(attempts)}: {attempt.run.run_id}")
                with _output_to(attempt.log_file(rank.index)):
                    make_and_settle(attempt, store, stop)
    deadline.end()
    if rank.index == 0:
        settle_what_is_left(attempts, stop)
        if all(attempt.failure_file.exists() for attempt in attempts):
            settle(Outcome(Kind.ALL_FAILED))


def _joined(folder: Path, attempts: Sequence[AttemptDir], slots: int | None) -> AbstractContextManager[Rank]:
    """The job's ranks as one. Where rank 0 may have to wait for its turn, the others wait as long as it takes."""
    deepspeed = any(read_config(attempt).deepspeed.config for attempt in attempts)
    within = PATIENCE.total_seconds() if slots or dealing.WANTED in os.environ else MEETING_SECONDS
    return ranks.joined(folder, always=deepspeed, within=within, lost=partial(_lost, attempts))


def _lost(attempts: Sequence[AttemptDir], loss: Loss) -> None:
    """Some rank is lost before, or between, the attempts: the next of them is told."""
    for attempt in [attempt for attempt in attempts if not _is_over(attempt)][:1]:
        settle_loss(attempt, loss)


class Step(StrEnum):
    """What to do with the next attempt."""

    SKIP = "skip"
    MAKE = "make"
    LEAVE = "leave"  # and with those after it


def _next_step(attempt: AttemptDir, stop: StopRequest) -> Step:
    if _is_over(attempt):
        return Step.SKIP
    if stop():
        return Step.LEAVE
    if is_called_off(attempt):
        settle(Outcome(Kind.CANCELLED, "cancelled before it was started"), attempt)
        return Step.SKIP
    if attempt.evaluates and not attempt.run.result_file.exists():  # it has other resources than training needs
        settle(Outcome(Kind.FAILED, "nothing to evaluate: its training has ended without a model"), attempt)
        return Step.SKIP
    return Step.MAKE


def _is_over(attempt: AttemptDir) -> bool:
    """Whether nothing is left to do: it failed, the run is done, or another attempt is to evaluate it."""
    return Attempts.of(attempt.run).is_over(attempt)


def make_and_settle(attempt: AttemptDir, store: Store, stop: StopRequest) -> Outcome:
    """Make an attempt, and do what follows at once, unless a signal has cut it short."""
    outcome = make_attempt(attempt, store, stop)
    if outcome.kind is Kind.STOPPED:  # the job with it: that is settled when the ranks have parted
        stop.signal = outcome.signal  # the only one may have come to another rank
    else:
        settle(outcome, attempt)
    return outcome


def settle_what_is_left(attempts: Sequence[AttemptDir], stop: StopRequest) -> None:
    """Do what follows from a signal for all attempts that are not over; may not return."""
    left = [attempt for attempt in attempts if not _is_over(attempt)]
    if left and stop():
        settle(Outcome(Kind.STOPPED, signal=stop.signal), *left)


def _deadline(attempts: Sequence[AttemptDir], stop: StopRequest) -> Deadline:
    """The watch over the job's time limit, at work from now on."""
    warned = read_config(attempts[0]).cluster.warning_seconds
    deadline = Deadline(stop, warned, partial(settle_what_is_left, attempts, stop))
    deadline.start()
    return deadline


def attempt_here(run: RunDir, store: Store, choose: Callable[[], AttemptDir], *, deepspeed: bool) -> bool:
    """Make an attempt in this process, printing to the terminal; returns whether it succeeded.

    Of several ranks, rank 0 chooses the attempt, and all make it; one alone waits for a free GPU, where there are GPUs.
    Who is asked to stop meanwhile makes none; a queue's job does, by which it comes back into the queue. `deepspeed`:
    whether it needs a process group anyway.
    """
    queued = node.queued() is not None
    stop = StopRequest()
    stop.listen()
    if Rank.here().size == 1 and not queued:  # who gives it several ranks, or a queue, gives it GPUs, too
        _take_gpus(min(1, len(visible_gpus())), stop)
    with ranks.joined(run.path, always=deepspeed) as rank:
        chosen = ranks.first(lambda: None if stop() and not queued else str(choose().path))
        if chosen is None:
            say(f"stopped by {signal.Signals(stop.signal or signal.SIGTERM).name} before {run.run_id} was started")
            return False
        attempt = AttemptDir(Path(chosen))
        deadline = _deadline([attempt], stop)
        outcome = make_and_settle(attempt, store, stop)
    deadline.end()
    if rank.index == 0:
        settle_what_is_left([attempt], stop)
    return outcome.kind is Kind.DONE


@contextlib.contextmanager
def _turn(store: Store, slots: int | None, stop: StopRequest) -> Iterator[None]:
    """Wait for what the job needs of this machine: a slot, then GPUs; rank 0 does, for which the others wait anyway."""
    if Rank.here().index:
        yield
        return
    with _slot(store, slots, stop):
        _take_gpus(int(os.environ.get(dealing.WANTED, "0")), stop)
        yield


@contextlib.contextmanager
def _slot(store: Store, slots: int | None, stop: StopRequest) -> Iterator[None]:
    """Wait until fewer than `slots` jobs work on this machine; the lock goes with the process, however it ends."""
    with contextlib.ExitStack() as stack:
        while slots and not stop():
            for number in range(slots):
                lock = store.cache("slots", f"{socket.gethostname()}-{number}.lock")
                lock.parent.mkdir(parents=True, exist_ok=True)
                with contextlib.suppress(Timeout):
                    stack.enter_context(held(lock, 0))
                    slots = None
                    break
            else:
                time.sleep(TURN_POLL_SECONDS)
        yield


def _take_gpus(wanted: int, stop: StopRequest) -> None:
    """Wait until so many GPUs are free, and show this process no others; it has them to its end.

    The other ranks learn of them where they meet.
    """
    if not wanted:
        return
    visible = identities(visible_gpus())
    if unknown := [gpu for gpu, identity in visible.items() if identity.isdigit()]:
        told = "nvidia-smi, and the driver, do not tell which they are"
        say(f"GPU {', '.join(unknown)}: {told}; a job that knows may take them at the same time")
    taken = dealing.take(wanted, visible)
    if taken is None:
        say(dealing.WAITS.format(wanted, ", ".join(visible)))
    while taken is None and not stop():
        time.sleep(TURN_POLL_SECONDS)
        taken = dealing.take(wanted, visible)
    os.environ[VISIBLE] = ",".join(taken or ())


@contextlib.contextmanager
def _output_to(path: Path) -> Iterator[None]:
    """Send all that this process prints, from any language, to the end of `path`."""
    sys.stdout.flush()
    sys.stderr.flush()
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = [os.dup(1), os.dup(2)]
    with path.open("ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # of a disk that is full
            sys.stdout.flush()
            sys.stderr.flush()
        for number, descriptor in enumerate(kept, 1):
            os.dup2(descriptor, number)
            os.close(descriptor)
