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
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from launcher.config import PrefsweepError, RunConfig, from_plain
from launcher.store import AttemptDir, Fact, PreparingDir, Store, read_fact, write_once
from launcher.worker.interruption import SlurmJob, StopRequest, leave

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
    from launcher.worker.prepare import prepared

    StopRequest().listen()  # a warning is not for a pass that cannot be resumed: it has until the limit itself
    try:
        prepared(from_plain(fact["prepare"]), Store(Path(fact["root"])))
    except Exception as error:
        failure = {"reason": _reason(error), "traceback": traceback.format_exc()[-8000:], "time": time.time()}
        write_once(folder.failure_file, failure)
        raise
    write_once(folder.done_file, {"time": time.time()})


def take_up_runs(folder: Path) -> None:
    """Take up every run of the job in `folder` that is not done."""
    jobs = JobList.read(folder)
    stop = StopRequest()
    stop.listen()
    store = Store(jobs.attempts[0].run.path.parent.parent)
    with _slot(store, jobs.slots, stop):
        for number, attempt in enumerate(jobs.attempts, 1):
            if _is_over(attempt):
                continue
            if stop():
                break
            print(f"run {number} of {len(jobs.attempts)}: {attempt.run.run_id}", flush=True)
            if attempt.cancel_file.exists():
                _record_failure(attempt, "cancelled before it was started", status="CANCELLED")
                continue
            with _output_to(attempt.log_file()):
                make_attempt(attempt, store, stop)
    _leave_if_asked([attempt for attempt in jobs.attempts if not _is_over(attempt)], stop)


def _is_over(attempt: AttemptDir) -> bool:
    """Whether nothing is left to do: it failed, or the run is done."""
    run = attempt.run
    return attempt.failure_file.exists() or (run.result_file.exists() and run.evaluation_file.exists())


def _leave_if_asked(attempts: Sequence[AttemptDir], stop: StopRequest) -> None:
    if attempts and stop() and stop.signal is not None:
        leave(attempts, stop.signal, read_config(attempts[0]).cluster.max_requeues)


def make_attempt(attempt: AttemptDir, store: Store, stop_process: Callable[[], bool]) -> bool:
    """Train and evaluate one run as far as it is not done yet; a failure is recorded, never raised.

    What the end of the process has cut short is no failure: `interruption.leave` says what becomes of it.
    """
    job = SlurmJob.here()
    process = {"host": _host(), "pid": os.getpid(), "job": job and job.job_id, "time": time.time()}
    write_once(attempt.started_file, process)
    print(f"{attempt.run.run_id}, attempt {attempt.number}, on {_host()}", flush=True)

    def stop() -> bool:
        return stop_process() or attempt.cancel_file.exists()

    try:
        _train_and_evaluate(read_config(attempt), attempt, store, stop)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is recorded, and the next run goes on
        traceback.print_exc()
        if not stop_process() or attempt.cancel_file.exists():
            _record_failure(
                attempt, _reason(error), status="CANCELLED" if stop() else "FAILED", trace=traceback.format_exc()
            )
        return False
    return True


def _host() -> str:
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def attempt_here(attempt: AttemptDir, store: Store) -> bool:
    """Make an attempt in this process, printing to the terminal; returns whether it succeeded."""
    stop = StopRequest()
    stop.listen()
    succeeded = make_attempt(attempt, store, stop)
    _leave_if_asked([] if _is_over(attempt) else [attempt], stop)
    return succeeded


def read_config(attempt: AttemptDir) -> RunConfig:
    """The run's configuration: the objective of the run, the settings of the attempt."""
    settings = (read_fact(attempt.attempt_file) or {}).get("settings", {})
    config: RunConfig = from_plain({**attempt.run.read_config(), **settings})
    return config


def _train_and_evaluate(config: RunConfig, attempt: AttemptDir, store: Store, stop: Callable[[], bool]) -> None:
    from launcher.worker.evaluate import evaluate, evaluate_base
    from launcher.worker.training import train

    run = attempt.run
    if not run.result_file.exists():
        run.evaluation_file.unlink(missing_ok=True)  # of a result that was deleted
        train(config, run, store, stop)
    if not run.evaluation_file.exists():
        evaluate_base(config, store)
        evaluate(config, run, store)


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
