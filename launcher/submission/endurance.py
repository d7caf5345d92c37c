"""How often a run is tried again that fails each time.

Owns: which attempts count as in vain, and what is said instead of another one.
Must not know: why a run failed, how it is submitted.

Launching again is how a sweep goes on, also from a cron job; a run that fails at once would have one attempt after
another for ever. What was cancelled, never became a job, waited for a reference table that was not made, or for another
run with which its job has ended, is no such attempt. The jobs that are to make a table are counted for themselves.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

from launcher.errors import StoreError
from launcher.runs.run_state import RunState
from launcher.runs.status import UNSUCCESSFUL
from launcher.store.attempt_config import wanted_by
from launcher.store.attempts import Attempts
from launcher.store.facts import Failure, FailureStatus
from launcher.store.files import read_fact
from launcher.store.output_folder import PreparingDir
from launcher.store.run_folder import AttemptDir
from launcher.store.starts import last_start
from launcher.store.work_list import attempts_of
from launcher.submission.table_tries import Tries
from launcher.sweep import Run


def in_vain(run: Run, state: RunState, lacks: Collection[str]) -> str | None:
    """Why another attempt would be in vain; None where one is due.

    Args:
        run: as it is to be submitted.
        state: how it is, in no job's hands.
        lacks: the benchmarks that are still to be had.
    """
    attempts = Attempts.of(state.run)
    if state.facts.trained:
        evaluations = [attempt for attempt in attempts.all if attempt.evaluates]
        times = _last_in_vain(evaluations, lambda attempt: set(wanted_by(attempt)) <= set(lacks))
    elif state.status in UNSUCCESSFUL:
        times = _last_in_vain(attempts.trainings, lambda attempt: attempt.record.step == state.facts.checkpoint_step)
    else:
        return None
    if times < run.config.cluster.max_attempts:
        return None
    return f"failed {times} times without progress: {state.reason}; {_again(run)}"


def table_in_vain(run: Run, tries: Tries) -> str | None:
    """Why another job that is to make the run's table would be in vain; None where one is due."""
    if tries.failed < run.config.cluster.max_attempts:
        return None
    return f"its reference table was not made {tries.failed} times in a row: {tries.reason}; {_again(run)}"


def _again(run: Run) -> str:
    return f"`resume {run.config.sweep} {run.run_id}` tries again"


def _last_in_vain(attempts: Iterable[AttemptDir], without_progress: Callable[[AttemptDir], bool]) -> int:
    """How many of the last attempts have been without progress, one after another."""
    times = 0
    for attempt in reversed(list(attempts)):
        if _counts(attempt):
            if not without_progress(attempt):
                break
            times += 1
    return times


def _counts(attempt: AttemptDir) -> bool:
    failure = read_fact(attempt.failure_file, Failure)
    cancelled = attempt.has(attempt.cancel_file) or (failure and failure.status is FailureStatus.CANCELLED)
    if not attempt.was_submitted or cancelled:
        return False
    return failure is not None or last_start(attempt) is not None or not (_lacked_table(attempt) or _came_late(attempt))


def _lacked_table(attempt: AttemptDir) -> bool:
    """Whether the job for which it waited has made no table."""
    table = attempt.record.after
    return table is not None and table.folder is not None and not PreparingDir(Path(table.folder)).has_made


def _came_late(attempt: AttemptDir) -> bool:
    """Whether its job took up another run, and ended before it came to this one."""
    batch, index = attempt.batch, attempt.record.index
    if batch is None or index is None:
        return False
    with contextlib.suppress(StoreError):
        return any(last_start(other) is not None for other in attempts_of(batch / str(index)) if other != attempt)
    return False
