"""What the files of runs say, and schedulers of their jobs: the facts by which `status` names each run's state.

Owns: reading a run's facts and logs into plain values; which jobs are asked about.
Must not know: any scheduler's own words, how anything is trained.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from launcher.cluster import scheduler as executors
from launcher.cluster.job_state import UNKNOWN, JobState, Phase
from launcher.cluster.scheduler import Scheduler
from launcher.errors import StoreError, UsageError
from launcher.hub.unpublished import why_unpublished
from launcher.runs.around import Around
from launcher.runs.lost_records import gone_of
from launcher.runs.signs import last_words, looked_into
from launcher.runs.status import IN_FLIGHT, RunFacts, Status, cause_of, status_of
from launcher.runs.unreadable import check_batch, known_of
from launcher.store.age import age, written
from launcher.store.attempt_config import BEFORE_BENCHMARKS, section, wanted_by
from launcher.store.attempts import Attempts
from launcher.store.facts import Cause, Failure, FailureStatus, Job
from launcher.store.files import Plain, read_fact, read_lines, typed
from launcher.store.measurements import result_of, revision_of
from launcher.store.metrics_log import last_metrics
from launcher.store.node_facts import Lost
from launcher.store.output_folder import PreparingDir
from launcher.store.progress import Progress
from launcher.store.reading import is_there, may_be_there
from launcher.store.results import Result
from launcher.store.run_folder import AttemptDir, RunDir
from launcher.store.starts import Start, last_start
from launcher.store.throughput import Throughput
from launcher.store.work_done import due_behind, due_in_job, lacking

Look = tuple[RunFacts, AttemptDir | None]
AT_WORK = frozenset({Phase.PENDING, Phase.RUNNING, Phase.HIDDEN})  # or perhaps
HALF_KNOWN = frozenset({Status.TRAINED, Status.UNREADABLE})  # of which the job tells whether it is at work


def read_facts(run: RunDir) -> RunFacts:
    """What is known of a run without asking a scheduler."""
    return _legible(Attempts.of(run))[0]


def _looked_at(attempts: Attempts, around: Around) -> Look:
    """The same from a look, and the attempt that acts; nothing else of the look is kept here."""
    facts, acting = _legible(attempts)
    if around.copied and acting and facts.failure is None and (original := _original(acting, around.copied)):
        facts = replace(facts, job=None, job_id=None, table=None, original=str(original))
    try:
        gone = gone_of(attempts, around.listed)
    except StoreError as error:
        facts, gone = replace(facts, unreadable=tuple(dict.fromkeys([*facts.unreadable, str(error)]))), ()
    return replace(facts, gone=gone) if gone else facts, acting and AttemptDir(acting.path)


def _original(acting: AttemptDir, copied: Mapping[Path, Path]) -> Path | None:
    with contextlib.suppress(StoreError):
        return copied.get(acting.batch) if acting.batch else None
    return None


def _legible(attempts: Attempts) -> Look:
    """The facts, and the attempt that acts; of a run with one that cannot be read, what the others say."""
    try:
        return _facts_of(attempts), attempts.acting
    except StoreError as error:
        return known_of(attempts, error)


def _facts_of(attempts: Attempts) -> RunFacts:
    attempts.check_own()
    last = attempts.acting
    progress = _progress(attempts.run, attempts)
    if last is None:
        return RunFacts(**progress)
    failure, start = last.read(last.failure_file, Failure), last_start(last)
    job = last.job
    if job is None and failure is None:
        check_batch(last)
    done = bool(progress["trained"] and progress["evaluated"])
    at_work = start is not None and failure is None and not done
    lost = read_fact(last.lost_file(start.name), Lost) if at_work and start else None
    return RunFacts(
        attempts=len(attempts.trainings),
        submitted=written(last.attempt_file),
        submitted_seconds=age(last.attempt_file) or 0.0,
        job=job,
        job_id=job.job_id if job else None,
        started=start is not None,
        put_back=bool(at_work and start and _was_put_back(last, start)),
        host=start.fact.host if start else None,
        failure=failure.reason if failure else None,
        ended=failure.status if failure else FailureStatus.FAILED,
        cause=failure.known_cause if failure else None,
        lost=lost.reason if lost and not lost.hangs else None,
        lost_on=failure.node if failure else lost.node if lost else None,
        progress=_doing(last) if at_work else None,
        lasted=_lasted(start, failure),
        began=written(start.path) if start else None,
        cluster=_shared(json.dumps(section(last, "cluster"))),
        cancelled=last.has(last.cancel_file),
        traceback=failure.traceback if failure else "",
        publishing=done and (due_in_job(last) or due_behind(last)),
        unpublished=why_unpublished(last) if done else None,
        **_of_table(last.record.after),
        **progress,
    )


def _of_table(job: Job | None) -> dict[str, Any]:
    """What is known of the job for which an attempt waited, to make its reference table."""
    if job is None:
        return {}
    failure = failure_of(job)
    return {
        "table": _one(job),
        "table_failure": failure.reason if failure else None,
        "table_cause": failure.known_cause if failure else None,
        "table_made": _is_made(job),
    }


@cache
def _one(job: Job) -> Job:
    """A job, as one object for all runs that wait for it."""
    return job


@cache
def _shared(settings: str) -> Plain:
    """Settings, as one object for all runs that have the same: thousands have."""
    content: Plain = json.loads(settings)
    return content


def _doing(attempt: AttemptDir) -> Progress | None:
    """Its progress, which is written again in some seconds where somebody has damaged it."""
    with contextlib.suppress(StoreError):
        return read_fact(attempt.progress_file, Progress)
    return None


def _was_put_back(attempt: AttemptDir, start: Start) -> bool:
    """Whether its job has gone back into the queue, by its own doing, since this start."""
    return attempt.has(attempt.requeue_log) and len(read_lines(attempt.requeue_log)) > start.fact.restart


def _lasted(start: Start | None, failure: Failure | None) -> float | None:
    times = (start.fact.time if start else None), (failure.time if failure else None)
    return None if times[0] is None or times[1] is None else times[1] - times[0]


def _progress(run: RunDir, attempts: Attempts) -> Plain:
    """How far the run itself has come, whichever attempt has it."""
    result, revision = result_of(run), revision_of(run)
    metrics = last_metrics(run.metrics_file) if run.has(run.metrics_file) else {}
    return {
        "trained": result is not None,
        "evaluated": not lacking(run, _wanted(attempts)),
        "step": metrics.get("step") if result is None else result.steps,
        "max_steps": metrics.get("max_steps") if result is None else result.max_steps,
        "seconds_per_step": metrics.get("seconds_per_step"),
        "throughput": _throughput(metrics, run.metrics_file) if result is None else result.throughput,
        "checkpoint_step": run.last_checkpoint_step(),
        "revision": revision,
        "unreached": _unreached(attempts, result) if result else (),
        "damage": _damage(run),
    }


def _throughput(metrics: Plain, file: Path) -> Throughput | None:
    """What a line of the log says of it; None where an earlier version wrote the line."""
    return typed(metrics, Throughput, file) if "tokens" in metrics else None


def _damage(run: RunDir) -> str | None:
    """What happened to the checkpoint that was found damaged last, and what that has cost."""
    last = next(reversed(run.damages()), None)
    if last is None:
        return None
    after = "the training began anew" if last.step is None else f"the training went on from step {last.step}"
    return f"{last.checkpoint} was damaged ({last.why}): {after}"


def _unreached(attempts: Attempts, result: Result) -> tuple[int, ...]:
    """The milestones that its training was to have and ended before."""
    settings = attempts.training.record.settings if attempts.training else {}
    wanted = (settings.get("checkpoint") or {}).get("milestones") or ()
    return tuple(step for step in wanted if step > result.steps)


def _wanted(attempts: Attempts) -> list[str]:
    """What the acting attempt is to measure, and what the one that waits for it."""
    current = attempts.current
    return [name for attempt in current for name in wanted_by(attempt)] if current else list(BEFORE_BENCHMARKS)


def require_run(run: RunDir) -> RunDir:
    """The run, where its folder holds one.

    Raises:
        UsageError: there is no such run.
    """
    if not may_be_there(run.config_file):
        raise UsageError(f"{run.run_id}: no such run in {run.path.parent}; `status` lists the runs of a sweep")
    return run


def failure_of(job: Job) -> Failure | None:
    """Why a preparing job ended without a table, as it said itself."""
    return read_fact(PreparingDir(Path(job.folder)).failure_file, Failure) if job.folder else None


def _is_made(table: Job) -> bool:
    return table.folder is not None and is_there(PreparingDir(Path(table.folder)).done_file)


@dataclass(frozen=True, slots=True)
class RunState:
    """A run's facts, its status and its job's, and why its last attempt ended, where something follows from that."""

    run: RunDir
    facts: RunFacts
    status: Status
    reason: str | None
    job: JobState
    cause: Cause | None
    table: JobState = UNKNOWN  # the job's that was to make its reference table

    @property
    def in_flight(self) -> bool:
        """Whether a job has this run in its hands: also one that is trained, and about to be evaluated or published."""
        if self.facts.failure is not None or self.facts.finished:
            return False
        return self.status in IN_FLIGHT or (self.status in HALF_KNOWN and self._has_job)

    @property
    def _has_job(self) -> bool:
        hidden = self.job.phase is Phase.HIDDEN and not self.facts.cancelled
        return self.job.phase in (Phase.PENDING, Phase.RUNNING) or hidden or self.facts.alive


def states_of(runs: Sequence[RunDir], scheduler: Scheduler, around: Around | None = None) -> list[RunState]:
    """The state of each run, with one question to the scheduler for all of them; `around`: as found before."""
    around = around or Around.of(runs)
    looks = [_looked_at(around.look(run), around) for run in runs]
    facts = [fact for fact, _ in looks]
    jobs = [fact.job if _has_open_job(fact) else None for fact in facts]
    tables = [fact.table if job and not fact.started else None for job, fact in zip(jobs, facts, strict=True)]
    unrecorded = [job for fact in facts for job, _ in fact.gone]
    wanted = {executors.key_of(job): job for job in (*jobs, *tables, *unrecorded) if job}
    answers = executors.states(list(wanted.values()), scheduler)

    def answer(job: Job | None) -> JobState:
        said = answers.get(executors.key_of(job), UNKNOWN) if job else UNKNOWN
        return replace(said, phase=Phase.HIDDEN) if said.only_there else said

    answered = [answer(job) for job in jobs]
    looks = _looked_at_again(runs, looks, answered, around)
    words, about = cache(last_words), zip(looks, answered, map(answer, tables), strict=True)
    looked_at = [looked_into(acting, fact, job, table, words) for (fact, acting), job, table in about]
    told = [_unless_gone(*each, answer) for each in zip(looked_at, answered, strict=True)]
    looked_at, answered = [fact for fact, _ in told], [job for _, job in told]
    asked = zip(runs, looked_at, answered, map(answer, tables), strict=True)
    return [
        RunState(run, fact, *status_of(fact, job, table), job, cause_of(fact, job, table), table)
        for run, fact, job, table in asked
    ]


def _unless_gone(facts: RunFacts, job: JobState, answer: Callable[[Job], JobState]) -> tuple[RunFacts, JobState]:
    """The same; of a run of which a job may make an attempt whose record is gone, that it cannot be read."""
    alive = [(each, said) for each, said in facts.gone if answer(each).phase in AT_WORK]
    if not alive or facts.finished:
        return facts, job
    last, unreadable = alive[-1][0], (*facts.unreadable, *(said for _, said in alive))
    return replace(facts, job=last, job_id=last.job_id, failure=None, unreadable=unreadable), answer(last)


def _looked_at_again(
    runs: Sequence[RunDir], looks: Sequence[Look], answered: Sequence[JobState], around: Around
) -> list[Look]:
    """The looks, anew at each run whose job is no more: it may have ended well between the look and the answer."""
    batches: dict[str, list[Job] | None] = {}

    def again(run: RunDir, look: Look, job: JobState) -> Look:
        if not _has_open_job(look[0]) or job.phase in (Phase.PENDING, Phase.RUNNING):
            return look
        fresh = _looked_at(Attempts.of(run.at_a_look(batches)), around)
        same = _job_key(fresh[0]) == _job_key(look[0])  # the answer is of that job
        return fresh if same else look

    return [again(*each) for each in zip(runs, looks, answered, strict=True)]


def _job_key(facts: RunFacts) -> executors.JobKey | None:
    return executors.key_of(facts.job) if facts.job else None


def _has_open_job(facts: RunFacts) -> bool:
    return facts.job_id is not None and facts.failure is None and not facts.finished
