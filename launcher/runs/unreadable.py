"""Runs of which a fact cannot be read: which facts those are, and what the others say.

Owns: reading on behind a damaged fact. Must not know: schedulers, what is done with such a run.

Whoever has damaged it, a disk or a hand, it is one run's. That run is left as it is until somebody has looked; the
others go on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from launcher.errors import StoreError
from launcher.hub.unpublished import why_unpublished
from launcher.machine.terminal import Say, silent
from launcher.runs.status import RunFacts
from launcher.store.age import age, written
from launcher.store.attempt_config import wanted_by
from launcher.store.attempts import Attempts
from launcher.store.facts import BatchRecord, Failure
from launcher.store.files import read_fact
from launcher.store.measurements import result_of, revision_of
from launcher.store.metrics_log import last_metrics
from launcher.store.run_folder import BATCH_FILE, AttemptDir
from launcher.store.starts import last_start
from launcher.store.work_done import lacking
from launcher.store.work_list import works_of

T = TypeVar("T")


class Reading:
    """Reads what can be read, keeps what is wrong with the rest, and tells it to `warn`, once each."""

    def __init__(self, warn: Say = silent) -> None:
        self.faults: dict[str, None] = {}
        self._warn = warn

    def __call__(self, read: Callable[[], T]) -> T | None:
        """What `read` gives; None where it cannot read a fact."""
        try:
            return read()
        except StoreError as error:
            self.note(error)
            return None

    def note(self, error: StoreError) -> None:
        """Keep what somebody else could not read."""
        if str(error) not in self.faults:
            self.faults[str(error)] = None
            self._warn(str(error))


def damages_of(launches: Iterable[str], states: Iterable[RunFacts]) -> list[str]:
    """What cannot be read of a sweep, its `launches` and its runs, a line for each file."""
    return list(dict.fromkeys([*launches, *(fault for facts in states for fault in facts.unreadable)]))


def check_readable(facts: RunFacts) -> None:
    """That all facts of a run can be read.

    Raises:
        StoreError: names each that cannot.
    """
    if facts.unreadable:
        raise StoreError("; ".join(facts.unreadable))


def known_of(attempts: Attempts, error: StoreError) -> tuple[RunFacts, AttemptDir | None]:
    """What can be read of a run, and the attempt that acts as far as that is known; `error`: what was found first."""
    read, run = Reading(), attempts.run
    if read(lambda: attempts.all) is None:
        return RunFacts(unreadable=tuple(read.faults)), None
    result = read(lambda: result_of(run))
    revision = read(lambda: revision_of(run))
    metrics = read(lambda: last_metrics(run.metrics_file)) or {}
    for attempt in attempts.current if read(lambda: attempts.current) else attempts.all[-1:]:
        read(lambda: attempt.record)  # noqa: B023 - called at once
    last = read(lambda: attempts.acting) or attempts.training
    known = {} if last is None else _of_attempt(last, read)
    facts = RunFacts(
        attempts=len(attempts.trainings),
        trained=result is not None,
        evaluated=bool(read(lambda: not lacking(run, [name for each in attempts.current for name in wanted_by(each)]))),
        step=result.steps if result else metrics.get("step"),
        max_steps=result.max_steps if result else metrics.get("max_steps"),
        checkpoint_step=read(run.last_checkpoint_step),
        revision=revision,
        unreadable=tuple(read.faults | {str(error): None}),
        **known,
    )
    return facts, last


def _of_attempt(last: AttemptDir, read: Reading) -> dict[str, Any]:
    failure, job = read(lambda: last.read(last.failure_file, Failure)), read(lambda: last.job)
    start = read(lambda: last_start(last))
    started = read(lambda: start.fact) if start else None
    read(lambda: why_unpublished(last))
    return {
        "submitted": written(last.attempt_file),
        "began": written(start.path) if start else None,
        "submitted_seconds": age(last.attempt_file) or 0.0,
        "job": job,
        "job_id": job.job_id if job else None,
        "started": start is not None,
        "host": started.host if started else None,
        "failure": failure.reason if failure else None,
        "cancelled": bool(read(lambda: last.has(last.cancel_file))),
    }


def check_batch(attempt: AttemptDir) -> None:
    """That an attempt without a recorded job can be asked for by its batch's name.

    Raises:
        StoreError: the batch cannot be read, so that nobody knows whether there is a job.
    """
    if attempt.batch is not None:
        read_fact(attempt.batch / BATCH_FILE, BatchRecord)
        works_of(attempt.batch)
