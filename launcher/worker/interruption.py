"""What asks a job to end before its work is done, and what then becomes of the work.

Owns: the signals of this process; the job's way back into its queue.
Must not know: how a run is trained or saved; it is asked at each step boundary whether to stop.

    node.WARNING   the time limit is near: the run saves, and we put the job back into the queue
    SIGTERM        preemption, after which the scheduler puts the job back by itself; or a cancellation
    SIGINT         somebody at the keyboard
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from filelock import FileLock, Timeout

from launcher.cluster import node
from launcher.cluster.task import Task
from launcher.store.files import append_line, read_lines, write_once
from launcher.store.run_folder import AttemptDir

PATIENCE_SECONDS = 900  # longer than the grace that sites give
LOCK_POLL_SECONDS = 1.0


class Interrupted(Exception):
    """Work outside training was asked to stop, and what it has made so far is kept."""


@contextmanager
def locked(folder: Path, stop: Callable[[], bool]) -> Iterator[None]:
    """Nobody else works on `folder` meanwhile; whoever holds it may need hours, and waiting ends on request.

    Raises:
        Interrupted: `stop` became true before it was our turn.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    while not lock.is_locked:
        if stop():
            raise Interrupted(f"stopped on request while another job was making {folder}")
        with suppress(Timeout):
            lock.acquire(timeout=LOCK_POLL_SECONDS)
    try:
        yield
    finally:
        lock.release()


class StopRequest:
    """Whether the process was asked to end.

    The runs ask at each step boundary, since no signal handler may save: a ZeRO-3 save is collective.
    """

    def __init__(self) -> None:
        self.signal: int | None = None

    def listen(self) -> None:
        """Take the signals, also from a library that has set handlers of its own.

        The warning reaches every process of a job step and kills those that do not expect it. So it is blocked, which
        our children inherit, whatever they execute; the handler is for threads that were there before us.
        """
        for number in (signal.SIGTERM, node.WARNING):
            signal.signal(number, self._note)
        signal.pthread_sigmask(signal.SIG_BLOCK, {node.WARNING})
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, self._note)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.signal = self.signal or number

    def __call__(self) -> bool:
        """Whether a signal has come."""
        if self.signal is None and node.WARNING in signal.sigpending():
            self.signal = node.WARNING
        return self.signal is not None


def leave(attempts: Sequence[AttemptDir], number: int, max_requeues: int) -> None:
    """Decide what becomes of the attempts that the signal `number` cut short; the first may have begun."""
    job = node.queued()
    if job is not None and job.rank != 0:
        return
    if job is None or number == signal.SIGINT:
        _stopped(attempts, number)
    elif number == node.WARNING:
        _requeue(job, attempts, max_requeues)
    else:
        # Who leaves within the grace of a preemption has completed, for SLURM, and is not put back into the queue.
        print("waiting for the scheduler to end this job: it was preempted or cancelled", flush=True)
        time.sleep(PATIENCE_SECONDS)
        _stopped(attempts, number)


def _stopped(attempts: Sequence[AttemptDir], number: int) -> None:
    for attempt in attempts:
        begun = attempt.started_file.exists()
        when = f" at step {attempt.run.last_checkpoint_step() or 0}" if begun else " before it was started"
        reason = f"stopped by {signal.Signals(number).name}{when}"
        write_once(attempt.failure_file, {"reason": reason, "status": "CANCELLED", "time": time.time()})


def _requeue(job: Task, attempts: Sequence[AttemptDir], at_most: int) -> None:
    """Put the job back into the queue for the time limit's sake, without the runs that have had that often enough."""
    for number, attempt in enumerate(attempts):
        times = len(read_lines(attempt.requeue_log))
        if times < at_most:
            _back(job, attempts[number:])
            return
        _timed_out(attempt, f"the time limit, after {times} requeues (cluster.max_requeues)")


def _back(job: Task, attempts: Sequence[AttemptDir]) -> None:
    first = attempts[0]
    append_line(first.requeue_log, {"step": first.run.last_checkpoint_step(), "time": time.time()})
    print(f"the time limit is near: {job.job_id} goes back into the queue", flush=True)
    complaint = node.requeue(job)
    for attempt in attempts if complaint is not None else ():
        _timed_out(attempt, f"the time limit; it could not be requeued: {complaint}")


def _timed_out(attempt: AttemptDir, reason: str) -> None:
    write_once(attempt.failure_file, {"reason": reason, "status": "TIMEOUT", "time": time.time()})
