"""One attempt at a run: train, evaluate and publish it as far as it is not done yet.

Owns: what an attempt consists of, in order; what a start says of itself.
Must not know: how a model is trained or evaluated, what follows from how it ended (`outcome`), the other attempts of
the job.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial

from launcher.cluster import node
from launcher.config import RunConfig
from launcher.evaluation.missing_benchmarks import discard_all
from launcher.hub.sources import restore
from launcher.machine.gpus import gpu_names
from launcher.machine.imports import uncollected
from launcher.machine.terminal import say
from launcher.store.attempt_config import read_config
from launcher.store.facts import Started
from launcher.store.locks import ended_by
from launcher.store.output_folder import Store
from launcher.store.run_folder import AttemptDir, RunDir
from launcher.store.work_done import lacking
from launcher.tracking.process import tracked
from launcher.worker import fence, headway, out_of_memory, progress
from launcher.worker.deadline import say_if_late
from launcher.worker.distributed import ranks
from launcher.worker.interruption import StopRequest
from launcher.worker.lost import settle_loss
from launcher.worker.outcome import Kind, Outcome, reason_of
from launcher.worker.remains import discard_remains
from launcher.worker.report import reported


def make_attempt(attempt: AttemptDir, store: Store, stop_process: StopRequest) -> Outcome:
    """Train, evaluate and publish one run as far as it is not done yet; how that ended is returned, never raised.

    The same on all ranks, as far as they are together. Should another rank be gone meanwhile, it does not return.
    """
    ranks.begin(f"{attempt.run.run_id}/{attempt.number}", partial(settle_loss, attempt))
    start = ranks.first(lambda: fence.take_up(attempt, _here(), exit_code=0 if node.here() else 1))
    if not ranks.is_first():
        fence.follow(attempt, start)
    ranks.speak_for(attempt.path, start)
    place = f", rank {ranks.index()} of {ranks.size()}" if ranks.size() > 1 else ""
    say(f"{attempt.run.run_id}, attempt {attempt.number}, on {node.name()}{place}, start {start}")

    called_off = False

    def stop() -> bool:
        nonlocal called_off
        called_off = called_off or attempt.cancel_file.exists()
        return stop_process() or called_off

    try:
        ranks.first(partial(discard_remains, attempt.run))  # first: a micro-batch that was halved is among it
        config = read_config(attempt)
        progress.judge_from(config.cluster.hang_seconds)
        with ended_by(stop), tracked(config, attempt), reported(attempt.progress_file, wanted=ranks.is_first()):
            _train_and_evaluate(config, attempt, store, stop)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is recorded, and the next run goes on
        trace = traceback.format_exc()
        with contextlib.suppress(OSError):  # the log's disk may be full
            say(trace, on=sys.stderr)
        called_off = called_off or attempt.cancel_file.exists()  # a wish that was withdrawn has ended it all the same
        return _outcome_of(error, trace, attempt, stop_process, called_off)
    return Outcome(Kind.DONE)


def _here() -> Started:
    """This process, as one that takes an attempt up."""
    job = node.queued()
    name, restart = (job.job_id, job.restart) if job else (None, 0)
    return Started(node.name(), gpu_names(), os.getpid(), name, restart, time.time())


def _outcome_of(
    error: Exception, trace: str, attempt: AttemptDir, stop_process: StopRequest, called_off: bool
) -> Outcome:
    """Why the attempt has failed: for a reason of this rank, or another's that has led to it."""
    root = attempt.run.path.parent.parent
    end = ranks.failed(reason_of(error, root), stop_process.signal if stop_process() else None)
    if called_off:
        return Outcome(Kind.CANCELLED, end.cause or "", trace, together=end.together)
    if end.signal is not None:
        return Outcome(Kind.STOPPED, end.cause or "", trace, end.signal)
    return Outcome(Kind.FAILED, end.cause or "", trace, together=end.together)


def _train_and_evaluate(config: RunConfig, attempt: AttemptDir, store: Store, stop: Callable[[], bool]) -> None:
    with uncollected():
        from launcher.worker.hub import publish_in_job, record_sources
        from launcher.worker.training.train import train

    run, note = attempt.run, partial(record_sources, config, attempt.run, store, attempt.record.inputs)
    ranks.first(partial(restore, config.pins, store))
    if ranks.first(lambda: not run.result_file.exists()):
        ranks.first(note)  # first: where it is refused, nothing is removed
        ranks.first(partial(discard_all, run))  # of a result that was deleted
        ranks.first(partial(say_if_late, run, config.cluster.warning_seconds))
        if ranks.size() > 1:
            train(config, run, store, stop)
        else:
            out_of_memory.within_memory(config, run, lambda given: train(given, run, store, stop))
        headway.note()
    missing = ranks.first(lambda: lacking(run, config.evaluation.benchmarks))
    if missing:
        ranks.first(note)
    for benchmark in missing:
        ranks.first(partial(_measure, benchmark, config, run, store, stop))
    with progress.phase("publishing", progress.PUBLISHING):
        ranks.first(partial(publish_in_job, attempt, store, stop))


def _measure(benchmark: str, config: RunConfig, run: RunDir, store: Store, stop: Callable[[], bool]) -> None:
    """On rank 0 alone, as if it had been alone from the start: so a run's scores do not depend on how it was trained.

    The others wait without using their GPU. It is a small part of a run, and sampling in step would need all ranks to
    agree on each token's end.
    """
    from launcher.worker.evaluation.measure import measure

    with ranks.alone(), progress.phase(f"evaluating {benchmark}", progress.EVALUATING):
        out_of_memory.measured(benchmark, lambda: measure(benchmark, config, run, store, stop))
    headway.note()
