"""The run directory -> RunFacts: what the files of a run say.

Owns: reading a run's facts and logs into plain values.
Must not know: schedulers, how anything is trained.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launcher.cluster import scheduler as executors
from launcher.cluster.job_state import UNKNOWN, Cause, JobState, Phase
from launcher.cluster.scheduler import Scheduler
from launcher.errors import StoreError
from launcher.evaluation.missing import is_measured, lacking
from launcher.hub.due import due_in_job, unpublished
from launcher.runs.status import IN_FLIGHT, RunFacts, Status, cause_of, status_of
from launcher.store.attempt_config import BEFORE_BENCHMARKS, wanted_by
from launcher.store.files import Fact, read_fact
from launcher.store.output_folder import PreparingDir
from launcher.store.run_folder import AttemptDir, RunDir, SeenRun

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


def acting_attempt(run: RunDir) -> AttemptDir | None:
    """The attempt that has the run in its hands, or had it last.

    It is the one that trains, until it has done its part; then the one that evaluates. An evaluation that waited for
    no training was made when there was none under way.
    """
    training, evaluation = run.attempts()[-1:], run.evaluation_attempt()
    if evaluation is None or not run.result_file.exists():
        return training[0] if training else None
    waited = training and evaluation.record.get("follows")
    return training[0] if waited and not _has_done_its_part(training[0]) else evaluation


def _has_done_its_part(attempt: AttemptDir) -> bool:
    return is_measured(attempt) and not due_in_job(attempt)


def read_facts(run: RunDir) -> RunFacts:
    """What is known of a run without asking a scheduler."""
    run = SeenRun(run.path)
    last = acting_attempt(run)
    metrics, result = last_metrics(run.metrics_file), read_fact(run.result_file)
    progress: Fact = {
        "trained": result is not None,
        "evaluated": not lacking(run, _wanted(run, last)),
        "step": metrics.get("step") if result is None else result["steps"],
        "max_steps": metrics.get("max_steps") if result is None else result["max_steps"],
        "seconds_per_step": metrics.get("seconds_per_step"),
        "checkpoint_step": run.last_checkpoint_step(),
        "address": (read_fact(run.revision_file) or {}).get("address"),
    }
    if last is None:
        return RunFacts(**progress)
    failure, started, job = map(read_fact, (last.failure_file, last.started_file, last.job_file))
    after = last.record.get("after")
    done = bool(progress["trained"] and progress["evaluated"])
    return RunFacts(
        attempts=len(run.attempts()),
        submitted_seconds=max(0.0, time.time() - _made_at(last)),
        job=job,
        job_id=None if job is None else job["job_id"],
        started=started is not None,
        host=(started or {}).get("host"),
        failure=None if failure is None else failure["reason"],
        ended=Status.__members__.get((failure or {}).get("status", ""), Status.FAILED),
        cancelled=last.cancel_file.exists(),
        table=after,
        table_failure=after and failure_of(after),
        traceback=(failure or {}).get("traceback", ""),
        publishing=done and due_in_job(last),
        unpublished=unpublished(last) if done else None,
        **progress,
    )


def _wanted(run: RunDir, acting: AttemptDir | None) -> list[str]:
    """What the acting attempt is to measure, and what the one that waits for it."""
    attempts = [attempt for attempt in (acting, run.evaluation_attempt()) if attempt]
    return [name for attempt in attempts for name in wanted_by(attempt)] if attempts else list(BEFORE_BENCHMARKS)


def _made_at(attempt: AttemptDir) -> float:
    return attempt.attempt_file.stat().st_mtime


def require_run(run: RunDir) -> RunDir:
    """The run, where its folder holds one.

    Raises:
        StoreError: there is no such run.
    """
    if not run.config_file.exists():
        raise StoreError(f"{run.run_id}: no such run in {run.path.parent}; `status` lists the runs of a sweep")
    return run


def failure_of(job: Fact) -> str | None:
    """Why a preparing job ended without a table, as it said itself."""
    failure = read_fact(PreparingDir(Path(job["folder"])).failure_file)
    return None if failure is None else str(failure["reason"])


@dataclass(frozen=True)
class RunState:
    """A run's facts, its status and its job's, and why its last attempt ended, where something follows from that."""

    run: RunDir
    facts: RunFacts
    status: Status
    reason: str | None
    job: JobState
    cause: Cause | None

    @property
    def in_flight(self) -> bool:
        """Whether a job has this run in its hands: also one that is trained, and about to be evaluated or published."""
        if self.facts.failure is not None or self.facts.finished:
            return False
        return self.status in IN_FLIGHT or (self.facts.trained and self.job.phase in (Phase.PENDING, Phase.RUNNING))


def states_of(runs: Sequence[RunDir], scheduler: Scheduler) -> list[RunState]:
    """The state of each run, with one question to the scheduler for all of them."""
    facts = [read_facts(run) for run in runs]
    jobs = [fact.job if _has_open_job(fact) else None for fact in facts]
    tables = [fact.table if job and not fact.started else None for job, fact in zip(jobs, facts, strict=True)]
    wanted = {executors.key_of(job): job for job in (*jobs, *tables) if job}
    answers = executors.states(list(wanted.values()), scheduler)

    def answer(job: Fact | None) -> JobState:
        return answers.get(executors.key_of(job), UNKNOWN) if job else UNKNOWN

    asked = zip(runs, facts, map(answer, jobs), map(answer, tables), strict=True)
    return [
        RunState(run, fact, *status_of(fact, job, table), job, cause_of(fact, job, table))
        for run, fact, job, table in asked
    ]


def _has_open_job(facts: RunFacts) -> bool:
    return facts.job_id is not None and facts.failure is None and not facts.finished
