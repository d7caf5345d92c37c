"""What follows where a rank is gone or hangs: the job's way back into the queue, or what is left for `status` to say.

Owns: `lost/` of an attempt, who of several processes acts, the exclusion of a node.
Must not know: how a loss is found out (`distributed.liveness`), signals, other ends (`outcome`).

A rank that is gone is no failure of the run until the scheduler has spoken: it knows of a lack of memory and of nodes
that died, puts the job back by itself or not, and its word is what the next attempt learns from. So nothing is recorded
where there is a queue but what was noticed, which stands beside that word. A rank that hangs is known to us alone.
"""

from __future__ import annotations

import os
import socket
import time
from dataclasses import replace

from launcher.cluster import node
from launcher.machine.terminal import say
from launcher.store.attempt_config import read_config
from launcher.store.facts import Cause, Failure, FailureStatus
from launcher.store.files import read_lines, write_once
from launcher.store.node_facts import Lost, Requeue
from launcher.store.output_folder import PreparingDir
from launcher.store.run_folder import AttemptDir
from launcher.store.starts import Start
from launcher.worker import fence
from launcher.worker.distributed.liveness import Kind, Loss
from launcher.worker.outcome import Kind as Ended
from launcher.worker.outcome import Outcome, put_back, record, settle, settle_table

LINGER_SECONDS = 60.0  # for the scheduler, or for the process that acts; who ends first has the others killed


def settle_loss(attempt: AttemptDir, loss: Loss, start: str | None = None) -> None:
    """Do what follows from the loss of a rank, in any process of the job; the process is to end afterwards.

    `start`: the one that has lost it, where that is not this process's. Nothing follows where another has taken up the
    run since: the job may be at work again elsewhere.
    """
    say(f"leaving the other ranks: {loss.reason}")
    start = start or fence.name()
    if start is not None and Start(attempt.run.starts / f"{start}.json").is_superseded():
        return
    if loss.kind is Kind.FAILED:
        settle(Outcome(Ended.FAILED, loss.reason), attempt)
        return
    log = "each rank's log" if loss.rank is None else attempt.log_file(loss.rank).name
    loss = replace(loss, reason=f"{loss.reason}; see {log}")
    noticed = Lost(loss.reason, loss.rank, loss.kind is Kind.HANGS, loss.node, time.time())
    is_first = write_once(attempt.lost_file(start or _job_start()), noticed)
    if not is_first:
        time.sleep(LINGER_SECONDS)
    elif loss.kind is Kind.HANGS:
        _back_into_the_queue(attempt, loss)
    elif node.queued() is None:
        record(attempt, _failure(loss))
    else:
        time.sleep(LINGER_SECONDS)


def settle_table_loss(job: PreparingDir, loss: Loss) -> None:
    """The same of a job that makes a reference table, which is not put back: those who wait for it are told."""
    if loss.kind is Kind.GONE and node.queued() is not None:
        time.sleep(LINGER_SECONDS)
    else:
        settle_table(job, loss.reason)


def _job_start() -> str:
    """Names this start of the job, on all of its ranks, before it has taken up the run."""
    task = node.here()
    if task is not None:
        return task.start
    return os.environ.get("TORCHELASTIC_RUN_ID") or f"{socket.gethostname()}-{os.getpid()}"


def _back_into_the_queue(attempt: AttemptDir, loss: Loss) -> None:
    """Without the node of the rank that hangs, where that is known."""
    job, at_most, times = node.queued(), read_config(attempt).cluster.max_requeues, len(read_lines(attempt.requeue_log))
    if job is None:
        record(attempt, _failure(loss))
    elif times >= at_most:
        record(attempt, _failure(loss, f"after {times} requeues (cluster.max_requeues)"))
    else:
        life = Requeue(attempt.run.last_checkpoint_step(), time.time(), why=loss.reason, node=loss.node)
        put_back(job, [attempt], life, lambda said: _failure(loss, f"it could not be requeued: {said}"), "a rank hangs")


def _failure(loss: Loss, why: str | None = None) -> Failure:
    cause = Cause.HUNG if loss.kind is Kind.HANGS else None
    reason = "; ".join(filter(None, [loss.reason, why]))
    return Failure(reason, FailureStatus.FAILED, "", time.time(), cause, loss.node)
