"""Jobs that no run waits for: tables that nobody needs any more, and what is left of runs that were removed.

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
from launcher.cluster.job_state import UNKNOWN, Phase
from launcher.cluster.scheduler import Scheduler
from launcher.errors import ConfigError, SchedulerError, StoreError
from launcher.machine.terminal import Say, silent
from launcher.runs.around import Around
from launcher.runs.copies import original_of
from launcher.runs.lost_records import Listed
from launcher.runs.run_state import RunState
from launcher.store.age import written
from launcher.store.attempts import Attempts
from launcher.store.facts import BatchRecord, Job, JobRecords
from launcher.store.files import read_fact
from launcher.store.output_folder import PreparingDir, Store, SweepDir
from launcher.store.run_folder import JOBS_FILE, AttemptDir, RunDir
from launcher.store.seen import names_in
from launcher.store.starts import last_start

IN_QUEUE = frozenset({Phase.PENDING, Phase.RUNNING})


@dataclass(frozen=True)
class Idle:
    """A job that no run waits for, and what it is there for, as the rest of a sentence about it."""

    job: Job
    what: str


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
    awaited = {state.facts.table.job_id for state in states if state.in_flight and state.facts.table}
    tables = {job.job_id: job for job in _tables(directory, store, scheduler) if job.job_id not in awaited}
    removed = list(_of_removed_runs(directory, store, scheduler, around))
    jobs = [*tables.values(), *removed]
    answers = executors.states(jobs, scheduler) if jobs else {}
    there = [job for job in jobs if answers.get(executors.key_of(job), UNKNOWN).phase in IN_QUEUE]
    over = {state.run for state in states if not state.in_flight}
    unneeded = without_use({job.job_id: job for job in there if job.job_id in tables}, over, store)
    return [
        *(Idle(job, "makes a reference table that no run waits for") for job in unneeded),
        *(Idle(job, "was handed over for runs that were removed since") for job in there if job in removed),
    ]


def _tables(directory: SweepDir, store: Store, scheduler: Scheduler) -> Iterator[Job]:
    """The last job of each table that this sweep has handed one over for, where that may not be made yet."""
    name = re.compile(rf"{re.escape(directory.name)}\.prepare\.\w+")
    for key in names_in(store.root / "cache" / "prepare"):
        numbers = sorted(each for each in names_in(store.cache("prepare", key)) if each.isdigit())
        folder = PreparingDir(store.cache("prepare", key) / numbers[-1]) if numbers else None
        if folder is None or folder.failure_file.exists():
            continue
        with suppress(StoreError):  # told by whoever needs the table
            record = read_fact(folder.batch_file, BatchRecord)
            if record is None or not name.fullmatch(record.name) or original_of(folder.path):
                continue
            if written(folder.done_file) < written(folder.batch_file):
                job = read_fact(folder.job_file, Job)
                yield from [job] if job else _found(folder.path, scheduler)


def _of_removed_runs(directory: SweepDir, store: Store, scheduler: Scheduler, around: Around) -> Iterator[Job]:
    """The jobs all of whose attempts are of runs whose folders were removed, or made anew by another batch since."""
    there = set(names_in(store.root / "runs"))
    made: dict[tuple[Path, int], list[bool]] = {}
    for run_id, listed in around.listed.items():
        names = [each.name for each in listed]
        for each in listed:
            gone = run_id not in there or (names.count(each.name) > 1 and _is_anothers(store.run(run_id), each))
            made.setdefault((each.batch, each.index), []).append(gone)
    batches: dict[Path, list[Job]] = {}
    for (batch, index), gone_of in made.items():
        if batch.parent == directory.jobs and all(gone_of):
            if batch not in batches:
                batches[batch] = _recorded(batch, scheduler)
            yield from batches[batch][index : index + 1]


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
    """The jobs of a batch that its launcher did not live to record."""
    batch, record = Batch.read(folder)
    found = executors.recorded(record.executor, scheduler).find(batch) or []
    return [replace(job, folder=str(each)) for job, each in zip(found, batch.job_folders, strict=True)]


def without_use(tables: Mapping[str, Job], stopped: Collection[RunDir], store: Store) -> list[Job]:
    """Those of the jobs that make a reference table for which no run waits but these."""
    runs = store.runs() if tables else []
    others = (Attempts.of(run.at_a_look({})) for run in runs if run not in stopped)
    needed = {job.job_id for attempts in others if not _is_cancelled(attempts) for job in tables_of(attempts)}
    return [job for job_id, job in tables.items() if job_id not in needed]


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
