"""How an attempt and its process end, and what follows from it.

Owns: what a process on a node says in `failure.json` (the launcher says there what was never submitted), the job's way
back into the queue, the exit code.
Must not know: how a run is trained or saved, what signals this process listens to, how ranks find out about each other.

    what happened                what is recorded                  exit code                what the queue does
    done; nothing was left       nothing here                      0                        starts what waits for it
    failed on every rank         FAILED                            0, after the next runs   starts what waits for it
    cancelled (cancel.json)      CANCELLED                         0, after the next runs   starts what waits for it
    failed on one of the ranks   FAILED, with that rank's reason   1, at once               does not start what waits
    a rank is gone (`lost`)      lost/, and without a queue FAILED 1, at once               says why: see `lost`
    a rank hangs, or is silent   lost/, requeues.jsonl             1, at once               starts it again: we ask
      too often, or refused      FAILED                            1, at once               does not start what waits
    out of GPU memory
      on the only rank           memory.jsonl                      none: goes on with half  nothing
      on one of several          memory.jsonl                      as where it failed       starts it again: we ask
      and it is not requeued     memory.jsonl, FAILED              as where it failed       as where it failed
    the time limit is near       requeues.jsonl                    0                        starts it again: we ask
      too often, or refused      TIMEOUT, for each such run        0                        starts what waits for it
      we cannot ask              the job's script does, TIMEOUT    250                      starts it again, or not
    SIGTERM in a queue's job     nothing; after 15 min. CANCELLED  none: waits for its end  preempted: starts it again
    SIGTERM elsewhere, Ctrl-C    CANCELLED, for each run left      0                        starts what waits for it
    all runs of a queue's job    as above                          1, where above it is 0   does not start what waits
      have ended in one of these
    another start has taken up   nothing                        0, at once (`run`: 1)    nothing that counts
      the run: see `fence`
    no reference table           FAILED, in the folder of its job  1, at once               does not start what waits

FAILED, CANCELLED and TIMEOUT are the status in failure.json, and "these" are the rows above. Rank 0 alone records, and
asks the scheduler; where it is refused, or nobody answers, the script of ours that has started it asks once more, and
records what it is told (slurm/requeue.sh). `deadline` has the same follow where the time limit is near and the main
thread does not come to it. The verb `run` exits with 1 unless its attempt is done. A process that is killed records
nothing.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path

from launcher.cluster import node
from launcher.cluster.task import Task
from launcher.errors import PrefsweepError
from launcher.machine import disk, rights
from launcher.machine.terminal import complain, say
from launcher.store.attempt_config import read_config
from launcher.store.facts import Failure, FailureStatus, cause_told
from launcher.store.files import append_line, plain, read_lines, write_once
from launcher.store.node_facts import Requeue
from launcher.store.output_folder import PreparingDir
from launcher.store.run_folder import AttemptDir
from launcher.store.starts import last_start
from launcher.worker import headway, out_of_memory
from launcher.worker.distributed import ranks

PATIENCE_SECONDS = 900  # longer than the grace that sites give
MOST_IDLE = 3  # lives in a row that end at the time limit with nothing to show: the next would be as the last


class Kind(Enum):
    """Which way something has ended."""

    DONE = auto()
    FAILED = auto()
    CANCELLED = auto()
    STOPPED = auto()
    ALL_FAILED = auto()


RECORDED = {Kind.FAILED: FailureStatus.FAILED, Kind.CANCELLED: FailureStatus.CANCELLED}


@dataclass(frozen=True)
class Outcome:
    """How an attempt, or the job of several, has ended on this rank.

    Attributes:
        kind: which way.
        reason: what went wrong first, on whichever rank, in one line.
        trace: this rank's traceback.
        signal: the signal that has cut it short, where it is STOPPED.
        together: whether the ranks can go on together; if not, this process must end, so that the others notice.
    """

    kind: Kind
    reason: str = ""
    trace: str = ""
    signal: int | None = None
    together: bool = True


def reason_of(error: Exception, root: Path | None = None) -> str:
    """An error in one line; ours say themselves what they are, and so does what a disk or another user refuses.

    `root`: the output folder.
    """
    if (told := disk.fault(error, root) or rights.denied(error)) is not None:
        return told
    text = " ".join(str(error).split())
    return text if isinstance(error, PrefsweepError) else f"{type(error).__name__}: {text}"


def settle(outcome: Outcome, *attempts: AttemptDir) -> None:
    """Do what follows from an outcome; may not return, as the table above says.

    Args:
        outcome: how it ended.
        attempts: which it is about. Of a signal: all that are left to the job, of which the first may have begun.
    """
    match outcome:
        case Outcome(Kind.STOPPED, signal=int(number)):
            _leave(attempts, number, read_config(attempts[0]).cluster.max_requeues)
        case Outcome(Kind.FAILED | Kind.CANCELLED as kind):
            _record_or_requeue(outcome, RECORDED[kind], attempts)
        case Outcome(Kind.ALL_FAILED) if node.queued() is not None:
            sys.exit(1)  # so that the job is not started that was to evaluate what this one trains
    if not outcome.together:
        say(f"leaving the other ranks: {outcome.reason}")
        ranks.let_first_end()
        os._exit(1)


def settle_table(job: PreparingDir, reason: str, trace: str = "") -> None:
    """Do what follows where a job has made no reference table; the error ends it, which its caller lets pass."""
    if ranks.is_first():
        record(job, _ended(FailureStatus.FAILED, reason, trace))


# ------------------------------------------------------------------------------------------------ a failure


def _record_or_requeue(outcome: Outcome, status: FailureStatus, attempts: Sequence[AttemptDir]) -> None:
    for attempt in attempts if ranks.is_first() else ():
        if not _back_with_less(attempt, outcome.reason):
            record(attempt, _ended(status, outcome.reason[:2000], outcome.trace))


def _back_with_less(attempt: AttemptDir, reason: str) -> bool:
    """Where several ranks ran out of GPU memory: the next start has half the micro-batch; whether the queue has it."""
    if ranks.size() == 1 or not out_of_memory.can_halve(reason, config := read_config(attempt)):
        return False
    out_of_memory.halve(config, attempt.run)
    job = node.queued()
    refused = Failure(f"{reason[:2000]}; its job could not be requeued: {node.COMPLAINT}", time=time.time())
    return job is not None and node.requeue(job, {attempt.failure_file: refused}) is None


def record(where: AttemptDir | PreparingDir, failure: Failure) -> None:
    """Record how it ended; where the disk does not take that, the log's last line says it, and the process fails."""
    try:
        write_once(where.failure_file, failure)
    except OSError as error:
        told = disk.fault(error, where.path)
        complain(failure.reason if told in (None, failure.reason) else f"{failure.reason}; {told}")
        os._exit(1)


def _ended(status: FailureStatus, reason: str, trace: str = "") -> Failure:
    return Failure(reason, status, trace[-8000:], time.time(), cause_told(reason))


def put_back(
    job: Task, attempts: Sequence[AttemptDir], life: Requeue, failure: Callable[[str], Failure], why: str
) -> None:
    """Put the job of these attempts back into the queue; returns only where that is refused, and recorded.

    Args:
        job: this process's.
        attempts: those that are left to it; the first is the one that it is at.
        life: what is noted of the first one's life that ends here; its node is avoided where enough are left.
        failure: of what the scheduler complained of, what is recorded of each attempt.
        why: for the log.
    """
    without = life.node if life.node and node.spares(job, life.node) else None
    with contextlib.suppress(OSError):  # a disk that takes nothing ends the next life, with the reason
        append_line(attempts[0].requeue_log, plain(life))
    how = f", without {without}" if without else f", though on {life.node}: too few are left" if life.node else ""
    say(f"{why}: {job.job_id} goes back into the queue{how}")
    refused = {attempt.failure_file: failure(node.COMPLAINT) for attempt in attempts}
    complaint = node.requeue(job, refused, without)
    if complaint is not None:
        for attempt in attempts:
            record(attempt, failure(complaint))


# ------------------------------------------------------------------------------------------------ a signal


def _leave(attempts: Sequence[AttemptDir], number: int, max_requeues: int) -> None:
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
        say("waiting for the scheduler to end this job: it was preempted or cancelled")
        time.sleep(PATIENCE_SECONDS)
        _stopped(attempts, number)


def _stopped(attempts: Sequence[AttemptDir], number: int) -> None:
    for attempt in attempts:
        begun = last_start(attempt) is not None
        when = f" at step {attempt.run.last_checkpoint_step() or 0}" if begun else " before it was started"
        record(attempt, _ended(FailureStatus.CANCELLED, f"stopped by {signal.Signals(number).name}{when}"))


def _requeue(job: Task, attempts: Sequence[AttemptDir], at_most: int) -> None:
    """Put the job back into the queue for the time limit's sake, without the runs that have had that often enough."""
    for number, attempt in enumerate(attempts):
        before, step = read_lines(attempt.requeue_log), attempt.run.last_checkpoint_step()
        progress = headway.was_made() or step != (before[-1].get("step") if before else None)
        why_not = _often_enough([line.get("progress", True) for line in before], progress, at_most)
        if why_not is None:
            life = Requeue(step, time.time(), progress)
            put_back(job, attempts[number:], life, _not_requeued, "the time limit is near")
            return
        record(attempt, _out_of_time(f", {why_not}"))


def _often_enough(before: Sequence[bool], now: bool, at_most: int) -> str | None:
    """Why a run is not put back once more; of each life before and this one, whether it has made progress."""
    if len(before) >= at_most:
        return f"after {len(before)} requeues (cluster.max_requeues)"
    lives = [*before, now]
    if len(lives) >= MOST_IDLE and not any(lives[-MOST_IDLE:]):
        return (
            f"{MOST_IDLE} times in a row before a checkpoint or a benchmark was done: raise cluster.time, or lower "
            "checkpoint.every"
        )
    return None


def _not_requeued(complaint: str) -> Failure:
    return _out_of_time(f"; it could not be requeued: {complaint}")


def _out_of_time(why: str) -> Failure:
    return _ended(FailureStatus.TIMEOUT, f"the time limit{why}")
