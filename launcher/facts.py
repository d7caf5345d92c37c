"""The run directory -> RunFacts: what the files of a run say.

Owns: reading a run's facts and logs into plain values.
Must not know: schedulers, how anything is trained.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from launcher.benchmarks import BEFORE_BENCHMARKS, lacking, wanted_by
from launcher.config import StoreError
from launcher.files import Fact, read_fact
from launcher.preparation import failure_of
from launcher.publish import due_in_job, unpublished
from launcher.status import RunFacts, Status
from launcher.store import AttemptDir, RunDir

TAIL_BYTES = 4096


def last_metrics(path: Path) -> Fact:
    """The last whole line of a metrics log, read from its end; empty where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
            lines = file.read().splitlines()
    except FileNotFoundError:
        return {}
    for line in reversed(lines):
        try:
            record = json.loads(line)
        except ValueError:
            continue  # torn by a crash, or cut by the tail's beginning
        if isinstance(record, dict):
            return record
    return {}


def read_facts(run: RunDir) -> RunFacts:
    """What is known of a run without asking a scheduler."""
    attempts = run.attempts()
    metrics, result = last_metrics(run.metrics_file), read_fact(run.result_file)
    progress: Fact = {
        "trained": result is not None,
        "evaluated": not lacking(run, wanted_by(attempts[-1]) if attempts else BEFORE_BENCHMARKS),
        "step": result["steps"] if result else metrics.get("step"),
        "max_steps": result["max_steps"] if result else metrics.get("max_steps"),
        "seconds_per_step": metrics.get("seconds_per_step"),
        "checkpoint_step": run.last_checkpoint_step(),
        "address": (read_fact(run.revision_file) or {}).get("address"),
    }
    if not attempts:
        return RunFacts(**progress)
    last = attempts[-1]
    failure, started = read_fact(last.failure_file) or {}, read_fact(last.started_file)
    after = (read_fact(last.attempt_file) or {}).get("after")
    done = bool(progress["trained"] and progress["evaluated"])
    return RunFacts(
        attempts=len(attempts),
        submitted_seconds=max(0.0, time.time() - _made_at(last)),
        job_id=(read_fact(last.job_file) or {}).get("job_id"),
        started=started is not None,
        host=(started or {}).get("host"),
        failure=failure.get("reason"),
        ended=Status(failure.get("status", Status.FAILED)),
        cancelled=last.cancel_file.exists(),
        waits_for=after and after["job_id"],
        table_failure=after and failure_of(after),
        traceback=failure.get("traceback", ""),
        publishing=done and due_in_job(last),
        unpublished=unpublished(last) if done else None,
        **progress,
    )


def _made_at(attempt: AttemptDir) -> float:
    return attempt.attempt_file.stat().st_mtime


def read_job(run: RunDir) -> Fact | None:
    """The job of the last attempt, as its executor recorded it."""
    attempts = run.attempts()
    return read_fact(attempts[-1].job_file) if attempts else None


def require_run(run: RunDir) -> RunDir:
    """The run, where its folder holds one.

    Raises:
        StoreError: there is no such run.
    """
    if not run.config_file.exists():
        raise StoreError(f"{run.run_id}: no such run in {run.path.parent}; `status` lists the runs of a sweep")
    return run
