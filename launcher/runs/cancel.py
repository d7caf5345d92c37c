"""What is cancelled: the runs that are to stop, their jobs, and the tables that nobody else waits for.

Owns: which jobs are of no use any more once these runs stop.
Must not know: how an executor works, how anything is printed, why a run was submitted.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from launcher.cluster import scheduler as executors
from launcher.cluster.batch import Batch
from launcher.cluster.job_state import Phase
from launcher.cluster.scheduler import Scheduler
from launcher.errors import ConfigError, SchedulerError, StoreError, number_of
from launcher.machine import rights
from launcher.machine.terminal import Say, silent
from launcher.machine.users import our_name
from launcher.runs.around import Around
from launcher.runs.idle_jobs import IN_QUEUE, awaited_by, tables_of, without_use
from launcher.runs.run_state import AT_WORK, RunState
from launcher.runs.unreadable import Reading
from launcher.store.attempts import Attempts
from launcher.store.facts import Cancel, Job, JobList, TableWork
from launcher.store.files import flush, look_first, write_once
from launcher.store.output_folder import PreparingDir, Store
from launcher.store.run_folder import AttemptDir
from launcher.store.work_done import has_done_its_part
from launcher.store.work_list import listed_in, work_of, works_of

GO_ON = "one that works in this folder stops at its next step, one that works in a copy of it is cancelled there"
_Tables = dict[executors.JobKey, Job]  # that make reference tables


def cancel(
    states: Iterable[RunState],
    scheduler: Scheduler,
    tell: Say = silent,
    warn: Say = silent,
    note: Say = silent,
    around: Around | None = None,
) -> list[RunState]:
    """Ask these runs to stop, and their jobs where nothing else is left in them; returns those that were asked.

    The wish comes first, so that a job that is told to end knows why. It is withdrawn from the runs whose job is not
    reached: that goes on, and so do they. Not where the job is another cluster's: nobody here may ever reach it, and if
    it works in this folder, it sees the wish. Of another user's job it comes last, see `_end_anothers`. A hidden job
    that is denied is there, and another user's. Jobs of earlier attempts end too, where they have turned up again, and
    of runs of which a fact cannot be read, where nothing says that they have ended.

    Args:
        states: of the runs that are meant.
        scheduler: who is asked to end jobs.
        tell: is told how far it is.
        warn: is told of each fact that cannot be read, and of each job that is not reached: it may go on.
        note: is told of each job of an earlier attempt, and that there may be jobs which nobody here can end.
        around: what lies around them, as it was found before; with the looks at them, where those are kept.
    """
    read, states, wishes = Reading(warn), list(states), _Wishes()
    wanted = [state for state in states if state.in_flight or _may_be_at_work(state)]
    around = around or Around.of((state.run for state in states), keeps=True)
    earlier = _earlier(states, scheduler, around, warn)
    asked = {state.run.path: _Asking.of(around.look(state.run), scheduler, read) for state in wanted}
    meant = [*(pair for each in asked.values() for pair in each.jobs), *earlier.attempts]
    theirs = _end_anothers(meant, scheduler, read, warn)
    wanted = [state for state in wanted if not theirs.denied & asked[state.run.path].paths]
    tables = {**earlier.tables, **_ask([asked[state.run.path] for state in wanted], wishes, read, tell)}
    own = tuple(wishes.asked)
    goes_on = asked.keys() - {state.run.path for state in wanted}
    past = [each for each in earlier.attempts if each[0].path not in theirs.denied and each[0].run.path not in goes_on]
    _ask_earlier(past, wishes, read, note)
    if wishes.asked:
        flush(states[0].run.path)
    tell(f"cancelling {number_of(len(wishes.jobs), 'job')}")
    left = [job for key, job in wishes.jobs.items() if key not in theirs.asked]
    unneeded = _without_other_work(left, wishes.stopped, read)
    unused = read(lambda: _unused(tables, states, wanted)) or ()
    missed = theirs.missed | end_jobs([*unneeded, *unused], scheduler, warn)
    _record_cancelled([job for job in unused if executors.key_of(job) not in missed], wanted)
    hidden = {state.run.path for state in wanted if state.job.phase is Phase.HIDDEN}
    elsewhere = {each.run for each in own if each.job and executors.is_elsewhere(each.job[1], scheduler)} & hidden
    wishes.withdraw(missed, but_of=elsewhere)
    reached = {each.run for each in own if each.job not in missed or each.run in elsewhere} - wishes.refused
    if told := len(hidden & reached):
        note(f"the jobs of {number_of(told, 'run')} are not shown here, and may go on: {GO_ON}")
    return [state for state in wanted if state.run.path in reached]


@dataclass(frozen=True)
class _Asking:
    """A run that is to stop: its attempts that are open, each with its job, and the jobs of the tables it waits for."""

    jobs: Sequence[tuple[AttemptDir, Job | None]]
    tables: Sequence[Job]

    @classmethod
    def of(cls, attempts: Attempts, scheduler: Scheduler, read: Reading) -> _Asking:
        tables = read(partial(tables_of, attempts)) or ()
        return cls([(each, read(partial(_job_of, each, scheduler))) for each in _to_stop(attempts, read)], tables)

    @property
    def paths(self) -> set[Path]:
        """Of its attempts."""
        return {attempt.path for attempt, _ in self.jobs}


def _ask(asked: Sequence[_Asking], wishes: _Wishes, read: Reading, tell: Say) -> _Tables:
    """Ask the open attempts at these runs to end; returns the jobs that make the tables that they wait for."""
    tables: _Tables = {}
    for number, each in enumerate(asked, 1):
        tell(f"asking run {number:,} of {len(asked):,} to stop")
        tables |= {executors.key_of(job): job for job in each.tables}
        for attempt, job in each.jobs:
            read(partial(wishes.ask, attempt, job))
    return tables


@dataclass(frozen=True)
class _Theirs:
    """What became of other users' jobs: those that were asked to end, or missed, and the attempts that go on."""

    asked: Collection[executors.JobKey] = ()
    missed: frozenset[executors.JobKey] = frozenset()
    denied: frozenset[Path] = frozenset()


def _end_anothers(
    meant: Sequence[tuple[AttemptDir, Job | None]], scheduler: Scheduler, read: Reading, warn: Say
) -> _Theirs:
    """Have other users' jobs end before their runs see the wish, which they look for at each step.

    They would take it before it is withdrawn, though SLURM, or this machine, may say no. A job that has runs besides is
    theirs alone to divide. root may end all; a job of a cluster that is not reached denies nothing.
    """
    known = {executors.key_of(job): job for _, job in meant if job}
    theirs = {key: job for key, job in known.items() if job.user not in (None, our_name())}
    if not theirs or os.geteuid() == 0:
        return _Theirs()
    whole = _without_other_work(list(theirs.values()), {attempt.path for attempt, _ in meant}, read)
    asked = {executors.key_of(job) for job in whole}
    missed = end_jobs(whole, scheduler, warn)
    divided = [job for key, job in theirs.items() if key not in asked]
    for job in divided:
        warn(f"job {job.job_id} is {job.user}'s to cancel: it has other runs to make")
    going_on = {key: job for key, job in theirs.items() if key in missed or key not in asked}
    denied = {key for key, job in going_on.items() if not executors.is_elsewhere(job.cluster, scheduler)}
    return _Theirs(
        asked, missed, frozenset(each.path for each, job in meant if job and executors.key_of(job) in denied)
    )


def _unused(tables: _Tables, states: Sequence[RunState], wanted: Iterable[RunState]) -> Sequence[Job]:
    """The jobs that make tables of which no run has a use once these have stopped."""
    stopped = {state.run for state in wanted}
    return without_use(tables, stopped, Store(states[0].run.path.parents[1])) if tables else ()


def _ask_earlier(past: Iterable[tuple[AttemptDir, Job]], wishes: _Wishes, read: Reading, note: Say) -> None:
    """Ask the attempts of long ago to end whose jobs have turned up again."""
    for attempt, job in past:
        read(partial(wishes.ask, attempt, job))
        if attempt.path in wishes.stopped:
            note(f"{attempt.run.run_id}: job {job.job_id} of attempt {attempt.number} asked to stop, too")


@dataclass(frozen=True)
class Asked:
    """The wish that an attempt end: its run's folder, its file, the job, and whether the wish is of just now."""

    run: Path
    file: Path
    job: executors.JobKey | None
    is_new: bool


@dataclass(frozen=True)
class _Wishes:
    """What is asked of attempts, their folders, and their jobs; the runs of which an attempt does not let us ask."""

    asked: list[Asked] = field(default_factory=list)
    refused: set[Path] = field(default_factory=set)
    stopped: set[Path] = field(default_factory=set)
    jobs: dict[executors.JobKey, Job] = field(default_factory=dict)

    def ask(self, attempt: AttemptDir, job: Job | None) -> None:
        """Ask an attempt to end.

        Raises:
            StoreError: it is another user's, who does not let it be asked.
        """
        try:
            rights.make_open(attempt.path)
            is_new = write_once(attempt.cancel_file, Cancel(time.time()), flushed=False)
        except PermissionError as error:
            self.refused.add(attempt.run.path)
            why = rights.denied(error) or f"{error.filename}: cannot be written ({error.strerror})"
            raise StoreError(f"{attempt.run.run_id} is not cancelled: {why}") from error
        key = executors.key_of(job) if job else None
        self.asked.append(Asked(attempt.run.path, attempt.cancel_file, key, is_new))
        self.stopped.add(attempt.path)
        self.jobs.update({key: job} if job and key else {})

    def withdraw(self, missed: Collection[executors.JobKey], but_of: Collection[Path]) -> None:
        """Of those whose job goes on, as if they had not been asked; `but_of`: runs whose jobs nobody can end here."""
        for each in self.asked:
            if each.is_new and each.job in missed and each.run not in but_of:
                look_first()
                each.file.unlink(missing_ok=True)


def _record_cancelled(tables: Iterable[Job], waited: Iterable[RunState]) -> None:
    """Record of those of these jobs that were at work at the tables of runs that waited, that they have not failed."""
    tried = (state.facts.table for state in waited if state.table.phase in AT_WORK)
    at_work = {executors.key_of(job) for job in tried if job}
    for job in tables:
        if job.folder and executors.key_of(job) in at_work:
            write_once(PreparingDir(Path(job.folder)).cancel_file, Cancel(time.time()))


def end_jobs(jobs: Sequence[Job], scheduler: Scheduler, warn: Say) -> frozenset[executors.JobKey]:
    """Have these jobs end; returns those that were not reached."""
    try:
        executors.cancel(jobs, scheduler)
    except executors.Unreached as error:
        warn(str(error))
        return error.jobs
    return frozenset()


@dataclass(frozen=True)
class _Earlier:
    """The attempts before the current ones that an executor still has jobs of, and the tables that those wait for."""

    attempts: Sequence[tuple[AttemptDir, Job]] = ()
    tables: _Tables = field(default_factory=dict)


def _earlier(states: Iterable[RunState], scheduler: Scheduler, around: Around, warn: Say) -> _Earlier:
    """Those of these runs, from one question for all: a job that got lost may have turned up again.

    What cannot be read of an attempt long past is in nobody's way.
    """
    read = Reading()
    past = [each for state in states for each in read(partial(_past, around.look(state.run), around.copied)) or ()]
    jobs = [(each, job) for each in past if (job := read(partial(_job_of, each, scheduler)))]
    tables = [job for each in past for job in read(partial(awaited_by, [each])) or ()]
    try:
        answers = executors.states([*(job for _, job in jobs), *tables], scheduler) if jobs else {}
    except (SchedulerError, ConfigError) as error:
        warn(f"whether jobs of earlier attempts are there is not known: {error}")
        return _Earlier()
    there = {key for key, state in answers.items() if state.phase in IN_QUEUE}
    return _Earlier(
        [(each, job) for each, job in jobs if executors.key_of(job) in there],
        {executors.key_of(job): job for job in tables if executors.key_of(job) in there},
    )


def _past(attempts: Attempts, copied: Collection[Path]) -> list[AttemptDir]:
    """Its attempts that have neither the run in their hands nor failed, but for those of a copy's original."""
    if len(attempts.all) == 1:  # which has it: thousands of runs have no other, and no record is read for it
        return []
    current = attempts.current
    past = [each for each in attempts.all if each not in current and not each.has(each.failure_file)]
    return [each for each in past if each.batch not in copied]


def _may_be_at_work(state: RunState) -> bool:
    facts = state.facts
    if facts.original is not None:
        return False
    return bool(facts.unreadable) and facts.attempts > 0 and facts.failure is None and not facts.finished


def _to_stop(attempts: Attempts, read: Reading) -> list[AttemptDir]:
    """Its open attempts; where it cannot be read which those are, all that have not failed."""
    known = read(lambda: attempts.open)
    if known is not None:
        return known
    every = read(lambda: attempts.all) or ()
    return [each for each in every if not read(partial(each.has, each.failure_file))]


def _job_of(attempt: AttemptDir, scheduler: Scheduler) -> Job | None:
    """Its job as it was recorded; where that record is damaged, as its executor knows it by the batch's name.

    Raises:
        StoreError: neither can be read.
    """
    try:
        return attempt.job
    except StoreError:
        folder, index = attempt.batch, attempt.record.index
        if folder is None or index is None:
            raise
        batch, record = Batch.read(folder)
        found = executors.recorded(record.executor, scheduler).find(batch)
        return replace(found[index], folder=str(batch.job_folders[index])) if found else None


def _without_other_work(jobs: Sequence[Job], stopped: Collection[Path], read: Reading) -> list[Job]:
    """The jobs without an attempt that is neither `stopped` just now nor over, as far as that can be read."""
    works: dict[Path, list[JobList | TableWork] | None] = {}

    def is_free(job: Job) -> bool:
        return all(each.path in stopped or _is_over(each) for each in _attempts_in(job, works))

    return [job for job in jobs if read(partial(is_free, job))]


def _attempts_in(job: Job, works: dict[Path, list[JobList | TableWork] | None]) -> list[AttemptDir]:
    """What a job is to make; `works`: of each batch, read once."""
    if job.folder is None:
        return []
    folder = Path(job.folder)
    if folder.parent not in works:
        works[folder.parent] = works_of(folder.parent)
    of_batch = works[folder.parent]
    work = of_batch[int(folder.name)] if of_batch and int(folder.name) < len(of_batch) else work_of(folder)
    return listed_in(work) if isinstance(work, JobList) else []


def _is_over(attempt: AttemptDir) -> bool:
    return attempt.cancel_file.exists() or attempt.failure_file.exists() or has_done_its_part(attempt)
