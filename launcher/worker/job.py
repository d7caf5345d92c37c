"""What a job does: takes up the runs in its list, one after another, and records how each ended.

Owns: the process: logs, the slot on the machine; `started.json` and `failure.json`.
Must not know: how a model is trained or evaluated, how it was submitted, what signals mean.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from filelock import FileLock, Timeout

from launcher.cluster import node
from launcher.config import RunConfig, from_plain
from launcher.errors import PrefsweepError
from launcher.evaluation.missing import discard_all
from launcher.hub.sources import restore
from launcher.machine.gpus import gpu_names
from launcher.store.attempt_config import read_config
from launcher.store.attempts import Attempts
from launcher.store.done import lacking
from launcher.store.files import Fact, read_fact, write_once
from launcher.store.output_folder import PreparingDir, Store
from launcher.store.run_folder import AttemptDir, RunDir
from launcher.tracking.process import tracked
from launcher.worker import out_of_memory
from launcher.worker.distributed import ranks
from launcher.worker.distributed.rendezvous import MEETING_SECONDS, PATIENCE, Rank
from launcher.worker.interruption import StopRequest, leave

SLOT_POLL_SECONDS = 0.5


@dataclass(frozen=True)
class JobList:
    """`job.json` of a job's folder: the attempts to make, and how many such jobs may work at once on this machine."""

    attempts: tuple[AttemptDir, ...]
    slots: int | None

    @classmethod
    def read(cls, folder: Path) -> JobList:
        """The list of the job in `folder`."""
        fact = read_fact(folder / "job.json") or {}
        return cls(tuple(AttemptDir(Path(path)) for path in fact["attempts"]), fact.get("slots"))


def work(folder: Path) -> None:
    """Do the work of the job in `folder`; called in the job's process, again after a requeue."""
    fact = read_fact(folder / "job.json") or {}
    if "prepare" in fact:
        make_table(fact, PreparingDir(folder.parent))
    else:
        take_up_runs(folder)


def make_table(fact: Fact, folder: PreparingDir) -> None:
    """Make the reference table that several jobs are waiting for; its absence is recorded, and fails the job."""
    StopRequest().listen()  # a warning is not for a pass that cannot be resumed: it has until the limit itself
    config: RunConfig = from_plain(fact["prepare"])

    def record(reason: str) -> None:
        if ranks.is_first():
            failure = {"reason": reason, "traceback": traceback.format_exc()[-8000:], "time": time.time()}
            write_once(folder.failure_file, failure)

    with ranks.joined(folder.path, always=bool(config.deepspeed.config)) as rank:
        ranks.begin("table", record)
        try:
            ranks.first(partial(restore, config.pins, Store(Path(fact["root"]))))
            _prepared(config, Store(Path(fact["root"])))
        except Exception as error:
            record(ranks.failed(_reason(error)).cause or "")
            raise
    if rank.index == 0:
        write_once(folder.done_file, {"time": time.time()})


def _prepared(config: RunConfig, store: Store) -> None:
    from launcher.worker.training.reference_table import prepared

    prepared(config, store)


def take_up_runs(folder: Path) -> None:
    """Take up every run of the job in `folder` that is not done."""
    jobs = JobList.read(folder)
    stop = StopRequest()
    stop.listen()
    store = Store(jobs.attempts[0].run.path.parent.parent)
    slots = jobs.slots if Rank.here().index == 0 else None  # the others wait for rank 0 anyway
    with _slot(store, slots, stop), _joined(folder, jobs) as rank:
        for number, attempt in enumerate(jobs.attempts, 1):
            step = ranks.first(partial(_next_step, attempt, stop))
            if step == "leave":
                break
            if step == "make":
                print(f"run {number} of {len(jobs.attempts)}: {attempt.run.run_id}", flush=True)
                with _output_to(attempt.log_file(rank.index)):
                    make_attempt(attempt, store, stop)
    if rank.index == 0:
        _leave_if_asked([attempt for attempt in jobs.attempts if not _is_over(attempt)], stop)
        if node.queued() is not None and all(attempt.failure_file.exists() for attempt in jobs.attempts):
            sys.exit(1)  # so that the job is not started that was to evaluate what this one trains


def _joined(folder: Path, jobs: JobList) -> AbstractContextManager[Rank]:
    """The job's ranks as one. Where rank 0 may have to wait for a slot, the others wait for it as long as it takes."""
    deepspeed = any(read_config(attempt).deepspeed.config for attempt in jobs.attempts)
    within = MEETING_SECONDS if jobs.slots is None else PATIENCE.total_seconds()
    return ranks.joined(folder, always=deepspeed, within=within)


def _next_step(attempt: AttemptDir, stop: StopRequest) -> str:
    """What to do with the next attempt: skip it, leave, or make it."""
    if _is_over(attempt):
        return "skip"
    if stop():
        return "leave"
    if attempt.cancel_file.exists():
        _record_failure(attempt, "cancelled before it was started", status="CANCELLED")
        return "skip"
    if attempt.evaluates and not attempt.run.result_file.exists():  # it has other resources than training needs
        _record_failure(attempt, "nothing to evaluate: its training has ended without a model", status="FAILED")
        return "skip"
    return "make"


def _is_over(attempt: AttemptDir) -> bool:
    """Whether nothing is left to do: it failed, the run is done, or another attempt is to evaluate it."""
    return Attempts.of(attempt.run).is_over(attempt)


def _leave_if_asked(attempts: Sequence[AttemptDir], stop: StopRequest) -> None:
    if attempts and stop() and stop.signal is not None:
        leave(attempts, stop.signal, read_config(attempts[0]).cluster.max_requeues)


def make_attempt(attempt: AttemptDir, store: Store, stop_process: StopRequest) -> bool:
    """Train, evaluate and publish one run as far as it is not done yet; a failure is recorded, never raised.

    What the end of the process has cut short is no failure: `interruption.leave` says what becomes of it.
    """
    ranks.begin(f"{attempt.run.run_id}/{attempt.number}", partial(_record_loss, attempt))
    job, host = node.queued(), node.name()
    process = {"host": host, "gpus": gpu_names(), "pid": os.getpid(), "job": job and job.job_id, "time": time.time()}
    if ranks.is_first():
        write_once(attempt.started_file, process)
    place = f", rank {ranks.index()} of {ranks.size()}" if ranks.size() > 1 else ""
    print(f"{attempt.run.run_id}, attempt {attempt.number}, on {host}{place}", flush=True)

    def stop() -> bool:
        return stop_process() or attempt.cancel_file.exists()

    try:
        config = read_config(attempt)
        with tracked(config, attempt):
            if ranks.size() > 1:
                _train_and_evaluate(config, attempt, store, stop)
            else:
                out_of_memory.within_memory(config, attempt.run, lambda c: _train_and_evaluate(c, attempt, store, stop))
    except Exception as error:  # noqa: BLE001 - whatever it is, it is recorded, and the next run goes on
        traceback.print_exc()
        _failed(attempt, error, stop_process)
        return False
    return True


def _failed(attempt: AttemptDir, error: Exception, stop_process: StopRequest) -> None:
    """Record the failure, or another rank's that has led to it. Ranks that are apart are of no more use."""
    trace = traceback.format_exc()
    end = ranks.failed(_reason(error), stop_process.signal if stop_process() else None)
    cancelled = attempt.cancel_file.exists()
    if end.signal is not None and not cancelled:
        stop_process.signal = end.signal  # the only one may have come to another rank
        return
    if ranks.is_first() and not _back_with_less(attempt, end.cause or ""):
        _record_failure(attempt, end.cause or "", status="CANCELLED" if cancelled else "FAILED", trace=trace)
    if not end.together:
        print(f"leaving the other ranks: {end.cause}", flush=True)
        os._exit(1)


def _record_loss(attempt: AttemptDir, reason: str) -> None:
    print(f"leaving the other ranks: {reason}", flush=True)
    if ranks.is_first() and not _back_with_less(attempt, reason):
        _record_failure(attempt, reason, status="FAILED")


def _back_with_less(attempt: AttemptDir, reason: str) -> bool:
    """Where several ranks ran out of GPU memory: the next start has half the micro-batch; whether the queue has it."""
    config, job = read_config(attempt), node.queued()
    if ranks.size() == 1 or not out_of_memory.can_halve(reason, config):
        return False
    out_of_memory.halve(config, attempt.run)
    return job is not None and node.requeue(job) is None


def attempt_here(run: RunDir, store: Store, choose: Callable[[], AttemptDir], *, deepspeed: bool) -> bool:
    """Make an attempt in this process, printing to the terminal; returns whether it succeeded.

    Of several ranks, rank 0 chooses the attempt, and all make it. `deepspeed`: whether it needs a process group anyway.
    """
    stop = StopRequest()
    stop.listen()
    with ranks.joined(run.path, always=deepspeed) as rank:
        attempt = AttemptDir(Path(ranks.first(lambda: str(choose().path))))
        succeeded = make_attempt(attempt, store, stop)
    if rank.index == 0:
        _leave_if_asked([] if _is_over(attempt) else [attempt], stop)
    return succeeded


def _train_and_evaluate(config: RunConfig, attempt: AttemptDir, store: Store, stop: Callable[[], bool]) -> None:
    from launcher.worker.hub import publish_in_job, record_sources
    from launcher.worker.training.train import train

    run = attempt.run
    ranks.first(partial(restore, config.pins, store))
    if ranks.first(lambda: not run.result_file.exists()):
        ranks.first(partial(discard_all, run))  # of a result that was deleted
        ranks.first(partial(record_sources, config, run, store))
        train(config, run, store, stop)
    missing = ranks.first(lambda: lacking(run, config.evaluation.benchmarks))
    if missing:
        ranks.first(partial(record_sources, config, run, store))
    for benchmark in missing:
        ranks.first(partial(_measure, benchmark, config, run, store, stop))
    ranks.first(partial(publish_in_job, attempt, store, stop))


def _measure(benchmark: str, config: RunConfig, run: RunDir, store: Store, stop: Callable[[], bool]) -> None:
    """On rank 0 alone, as if it had been alone from the start: so a run's scores do not depend on how it was trained.

    The others wait without using their GPU. It is a small part of a run, and sampling in step would need all ranks to
    agree on each token's end.
    """
    from launcher.worker.evaluation.measure import measure

    with ranks.alone():
        measure(benchmark, config, run, store, stop)


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, PrefsweepError) else f"{type(error).__name__}: {text}"


def _record_failure(attempt: AttemptDir, reason: str, *, status: str, trace: str = "") -> None:
    fact: Fact = {"reason": reason[:2000], "status": status, "traceback": trace[-8000:], "time": time.time()}
    write_once(attempt.failure_file, fact)


@contextlib.contextmanager
def _slot(store: Store, slots: int | None, stop: StopRequest) -> Iterator[None]:
    """Wait until fewer than `slots` jobs work on this machine; the lock goes with the process, however it ends."""
    with contextlib.ExitStack() as stack:
        while slots and not stop():
            for number in range(slots):
                lock = FileLock(store.cache("slots", f"{socket.gethostname()}-{number}.lock"))
                Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
                with contextlib.suppress(Timeout):
                    stack.enter_context(lock.acquire(timeout=0))
                    slots = None
                    break
            else:
                time.sleep(SLOT_POLL_SECONDS)
        yield


@contextlib.contextmanager
def _output_to(path: Path) -> Iterator[None]:
    """Send all that this process prints, from any language, to the end of `path`."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    with path.open("ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, descriptor in enumerate(kept, 1):
            os.dup2(descriptor, number)
            os.close(descriptor)
