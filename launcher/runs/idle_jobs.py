"""Jobs that no run waits for: tables that nobody needs any more, what is left of removed runs, and what came late.

Owns: which those are, and what is said of them. Must not know: how an executor works, how anything is printed.

A launcher that dies between a table's job and the jobs that are to wait for it leaves the first alone in the queue: no
run's record names it. It is found by what was written down before it was handed over.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from launcher.cluster import scheduler as executors
from launcher.cluster.batch import Batch
from launcher.cluster.job_state import Phase
from launcher.cluster.scheduler import Scheduler
from launcher.errors import ConfigError, SchedulerError, StoreError
from launcher.machine.terminal import Say, silent
from launcher.runs.around import Around
from launcher.runs.copies import original_of
from launcher.runs.lost_records import Listed
from launcher.runs.run_state import RunState
from launcher.store.age import written
from launcher.store.attempts import Attempts
from launcher.store.facts import BatchRecord, Failure, FailureStatus, Job, JobRecords
from launcher.store.files import read_fact
from launcher.store.output_folder import PreparingDir, Store, SweepDir
from launcher.store.reading import may_be_there
from launcher.store.run_folder import JOBS_FILE, AttemptDir, RunDir
from launcher.store.seen import names_in
from launcher.store.starts import last_start

IN_QUEUE = frozenset({Phase.PENDING, Phase.RUNNING})
LATE = "turned up when its runs had been given up, and trains nothing"


@dataclass(frozen=True)
class Idle:
    """A job that no run waits for, what it is there for, as the rest of a sentence about it, and what to do."""

    job: Job
    what: str
    remedy: str = "launch again, or cancel"


def idle_jobs(
    directory: SweepDir,
    states: Sequence[RunState],
    scheduler: Scheduler,
    warn: Say = silent,
    around: Around | None = None,
) -> list[Idle]:
    """Those of a sweep that its executor has; `states`: of all its runs. Writes nothing.

    `warn` is told where an executor cannot be asked, or a folder of tables be read; `around`: as found before.
    """
    store = Store(directory.path.parent.parent)
    try:
        return _idle_jobs(directory, states, scheduler, around or Around.of([store.run(directory.name)]))  # of any run
    except (SchedulerError, ConfigError, StoreError) as error:
        warn(f"whether jobs are there that no run waits for is not known: {error}")
        return []


def _idle_jobs(directory: SweepDir, states: Sequence[RunState], scheduler: Scheduler, around: Around) -> list[Idle]:
    store = Store(directory.path.parent.parent)
    awaited = {executors.key_of(state.facts.table) for state in states if state.in_flight and state.facts.table}
    tables = [job for job in _tables(directory, store, scheduler) if executors.key_of(job) not in awaited]
    left = list(_of_no_run(directory, store, scheduler, around))
    jobs = [*tables, *(each.job for each in left)]
    answers = executors.states(jobs, scheduler) if jobs else {}
    there = {key for key, answer in answers.items() if answer.phase in IN_QUEUE}
    over = {state.run for state in states if not state.in_flight}
    asked = {executors.key_of(job): job for job in tables}
    unneeded = without_use({key: job for key, job in asked.items() if key in there}, over, store)
    made = (Idle(job, "makes a reference table that no run waits for") for job in unneeded)
    return [*made, *(each for each in left if executors.key_of(each.job) in there)]


def _tables(directory: SweepDir, store: Store, scheduler: Scheduler) -> Iterator[Job]:
    """The jobs that this sweep has handed over for tables, but for those that have failed or found one made.

    Of whichever number: where nobody has recorded a job, it may have turned up when another was there.
    """
    name = re.compile(rf"{re.escape(directory.name)}\.prepare\.\w+")
    for key in names_in(store.root / "cache" / "prepare"):
        numbers = sorted(each for each in names_in(store.cache("prepare", key)) if each.isdigit())
        for folder in (PreparingDir(store.cache("prepare", key) / number) for number in numbers):
            with suppress(StoreError):  # told by whoever needs the table
                record = None if folder.failure_file.exists() else read_fact(folder.batch_file, BatchRecord)
                if record is None or not name.fullmatch(record.name) or original_of(folder.path):
                    continue
                job = read_fact(folder.job_file, Job)
                if job is None or written(folder.done_file) < written(folder.batch_file):
                    yield from [job] if job else _found(folder.path, scheduler)


def _of_no_run(directory: SweepDir, store: Store, scheduler: Scheduler, around: Around) -> Iterator[Idle]:
    """The jobs that have nothing left to make: their runs were removed, or made anew, or nobody knew of a job."""
    why: dict[tuple[Path, int], list[str | None]] = {}
    for each, said in _left(directory, store, around):
        why.setdefault((each.batch, each.index), []).append(said)
    batches: dict[Path, list[Job]] = {}
    for (batch, index), reasons in why.items():
        if all(reasons):
            if batch not in batches:
                batches[batch] = _recorded(batch, scheduler)
            yield from (Idle(job, str(reasons[0]), "cancel") for job in batches[batch][index : index + 1])


def _left(directory: SweepDir, store: Store, around: Around) -> Iterator[tuple[Listed, str | None]]:
    """Each attempt that this sweep has handed over, and why no job is to make it any more, if that is so."""
    there, may_be_late = set(names_in(store.root / "runs")), dict[Path, bool]()
    for run_id, listed in around.listed.items():
        names, run = [each.name for each in listed], store.run(run_id)
        for each in (each for each in listed if each.batch.parent == directory.jobs):
            if each.batch not in may_be_late:  # one attempt of each tells: there may be thousands
                may_be_late[each.batch] = not may_be_there(each.batch / JOBS_FILE) or _is_given_up(run, each)
            if run_id not in there or (names.count(each.name) > 1 and _is_anothers(run, each)):
                yield each, "was handed over for runs that were removed since"
            else:
                yield each, LATE if may_be_late[each.batch] and _is_given_up(run, each) else None


def _is_given_up(run: RunDir, each: Listed) -> bool:
    """Whether it is on record that an attempt got no job, of which no answer of an executor is a proof."""
    with suppress(StoreError):
        failure = read_fact(AttemptDir(run.path / "attempts" / each.name).failure_file, Failure)
        return failure is not None and failure.status is FailureStatus.LOST
    return False


def _is_anothers(run: RunDir, listed: Listed) -> bool:
    with suppress(StoreError):
        batch = next((each.batch for each in run.attempts() if each.path.name == listed.name), None)
        return batch is not None and batch != listed.batch
    return False


def _recorded(batch: Path, scheduler: Scheduler) -> list[Job]:
    with suppress(StoreError):
        recorded = read_fact(batch / JOBS_FILE, JobRecords)
        return recorded.jobs if recorded else _found(batch, scheduler)
    return []


def _found(folder: Path, scheduler: Scheduler) -> list[Job]:
    """The jobs of a batch that its launcher did not live to record, if any."""
    batch, record = Batch.read(folder)
    found = executors.recorded(record.executor, scheduler).find(batch)
    folders = batch.job_folders if found else []  # there are none where it was refused, or never handed over
    return [replace(job, folder=str(each)) for job, each in zip(found or [], folders, strict=True)]


def without_use(tables: Mapping[executors.JobKey, Job], stopped: Collection[RunDir], store: Store) -> list[Job]:
    """Those of the jobs that make a reference table for which no run waits but these."""
    runs = store.runs() if tables else []
    others = (Attempts.of(run.at_a_look({})) for run in runs if run not in stopped)
    waiting = (attempts for attempts in others if not _is_cancelled(attempts))
    needed = {executors.key_of(job) for attempts in waiting for job in tables_of(attempts)}
    return [job for key, job in tables.items() if key not in needed]


def _is_cancelled(attempts: Attempts) -> bool:
    training = attempts.training
    return training is not None and training.has(training.cancel_file)


def tables_of(attempts: Attempts) -> list[Job]:
    """The job that makes the reference table of a run that still waits for it; nothing where it waits for none."""
    return awaited_by([attempts.training] if attempts.training else [])


def awaited_by(attempts: Iterable[AttemptDir]) -> list[Job]:
    """The jobs that make the tables of those of the attempts that have not begun."""
    waiting = (each for each in attempts if each.record.after is not None)
    begun = ((each, last_start(each) is not None or each.has(each.failure_file)) for each in waiting)
    return [each.record.after for each, has_begun in begun if each.record.after and not has_begun]
