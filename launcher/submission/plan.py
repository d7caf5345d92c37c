"""Decisions -> the plan: which runs share a job, which jobs an array, what waits for what.

Owns: that division, and the plan as a value. Must not know: how a batch is handed over.
"""

from __future__ import annotations

import functools
import itertools
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from launcher.cluster.batch import Batch
from launcher.cluster.scheduler import JobKey, Scheduler, key_of
from launcher.config import Cluster
from launcher.errors import ConfigError
from launcher.machine.once import Once
from launcher.store.facts import Job
from launcher.store.output_folder import Store, SweepDir
from launcher.submission.decide import Action, Decision
from launcher.submission.reference_job import Preparation, TableJob, preparation_of, table_job
from launcher.sweep import Run, Sweep

T = TypeVar("T")
_ONCE = Once()


@dataclass(frozen=True)
class PlannedBatch:
    """A batch as it is to be handed over, but for its code, and for a job to wait for that is not handed over yet.

    Attributes:
        batch: what the executor will be given.
        jobs: the runs of each of its jobs.
        evaluates: whether its jobs only evaluate.
        table: the job that makes the reference table of all its runs; None where none is planned.
        evaluation: the batch that evaluates, job for job, what this one trains; None where none does.
    """

    batch: Batch
    jobs: tuple[tuple[Run, ...], ...]
    evaluates: bool = False
    table: TableJob | None = None
    evaluation: PlannedBatch | None = None

    def ready(self, code: Path | None, after: Job | None) -> PlannedBatch:
        """The same, to run `code`, and to wait for `after` where that was handed over just now."""
        return replace(self, batch=replace(self.batch, code=code, after=after or self.batch.after))


@dataclass(frozen=True)
class Plan:
    """All that one command is to do: shown first, then acted on.

    Attributes:
        sweep: whose runs they are; also those of which nothing was decided.
        decisions: what happens to each run.
        every: the same, and what was decided of the sweep's other runs, whose jobs count for `cluster.max_parallel`.
        batches: what is handed over for that, in this order; those that wait for one table come together.
        at_once: how many of the jobs work at a time on this machine, where they are its own.
        silence: why the batches of a dry run are not known, where the scheduler does not answer.
    """

    sweep: Sweep
    decisions: tuple[Decision, ...]
    every: tuple[Decision, ...] = ()
    batches: tuple[PlannedBatch, ...] = ()
    at_once: int | None = None
    silence: str | None = None


def plan_batches(
    sweep: Sweep,
    decisions: Sequence[Decision],
    store: Store,
    scheduler: Scheduler,
    every: Sequence[Decision] | None = None,
) -> Plan:
    """What is to be handed over, so that what was decided happens; writes nothing.

    `every`: what was decided of all runs of the sweep, where `decisions` are only some.

    Raises:
        ConfigError: nothing can be handed over from this output folder, or to the cluster that runs name.
        SchedulerError: that cluster does not answer.
    """
    into = functools.partial(_batches, directory=store.sweep(sweep.name), store=store, scheduler=scheduler)
    training = [decision for decision in decisions if decision.action in (Action.SUBMIT, Action.RESUME)]
    evaluating = [decision for decision in decisions if decision.action is Action.EVALUATE]
    trained = _behind_tables(_training(training, into), store, scheduler)
    batches = (*trained, *_evaluating(evaluating, into))
    at_once = scheduler.at_once(batches[0].batch.resources) if batches and not scheduler.detached else None
    return Plan(sweep, tuple(decisions), tuple(decisions if every is None else every), batches, at_once)


def check_root(store: Store, scheduler: Scheduler) -> None:
    """Refuse an output folder in whose path the executor reads signs of its own.

    Raises:
        ConfigError: names the key.
    """
    if signs := [sign for sign in scheduler.signs_in_paths if sign in str(store.root)]:
        said = " and ".join(map(_shown, signs))
        remedy = f"{scheduler.name} does not take {said} in a log's path as it stands, and every job"
        folder = "".join(map(_shown, str(store.root)))
        raise ConfigError("output_dir", folder, f"{remedy} would die; choose a folder without it, also above it")


def _shown(sign: str) -> str:
    """A character as it may stand in a message: a newline written out."""
    return sign if sign.isprintable() else repr(sign)[1:-1]


def _batches(runs: Sequence[Run], directory: SweepDir, store: Store, scheduler: Scheduler) -> list[PlannedBatch]:
    """The runs in jobs of those that need the same, and these in batches as large as the scheduler takes them.

    Where jobs can wait for others, those of a batch wait for the same reference table.
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        shared = preparation_of(run, store) if scheduler.detached else None
        groups.setdefault(_ONCE(repr, run.config.cluster) + (shared.key if shared else ""), []).append(run)
    return [each for group in groups.values() for each in _of_class(group, directory, store, scheduler)]


def _of_class(runs: Sequence[Run], directory: SweepDir, store: Store, scheduler: Scheduler) -> list[PlannedBatch]:
    check_root(store, scheduler)
    resources = runs[0].config.cluster
    scheduler.destination(resources)  # as a launch of long ago may have named it
    jobs = _chunks(runs, _runs_per_job(len(runs), resources, scheduler))
    parts = _chunks(jobs, scheduler.batch_size(resources))
    return [PlannedBatch(_new_batch(len(part), resources, directory, store), part) for part in parts]


def _runs_per_job(runs: int, resources: Cluster, scheduler: Scheduler) -> int:
    """As many as are asked for; on this machine fewer, where else fewer jobs would be there than can work at a time."""
    most, at_once = resources.runs_per_job or scheduler.runs_per_job, scheduler.at_once(resources)
    return most if scheduler.detached or at_once is None else min(most, -(-runs // at_once))


def _chunks(items: Sequence[T], size: int) -> tuple[tuple[T, ...], ...]:
    return tuple(tuple(items[start : start + size]) for start in range(0, len(items), size))


def _new_batch(size: int, resources: Cluster, directory: SweepDir, store: Store) -> Batch:
    """A batch of a name that no other has."""
    name = f"{resources.job_name or ''}{directory.name}.{uuid.uuid4().hex[:10]}"
    return Batch(name, directory.jobs / name, size, resources, store.root)


def _sharing(found: Sequence[PlannedBatch]) -> list[PlannedBatch]:
    """All batches of a launch that train, or that evaluate, each with its part of `max_parallel`."""
    ends = [0, *itertools.accumulate(each.batch.size for each in found)]
    return [
        replace(each, batch=replace(each.batch, at_once=_at_once(each.batch, start, ends[-1])))
        for each, start in zip(found, ends[:-1], strict=True)
    ]


def _at_once(batch: Batch, start: int, total: int) -> int | None:
    """Its part of `max_parallel`, by its place among all jobs: a scheduler limits each array for itself."""
    limit = batch.resources.max_parallel
    return limit and max(1, limit * (start + batch.size) // total - limit * start // total)


def _training(decisions: Sequence[Decision], into: Callable[[list[Run]], list[PlannedBatch]]) -> list[PlannedBatch]:
    """The batches that train, each with the one that evaluates: job for job, with the same runs."""
    alike: dict[str, list[Decision]] = {}
    for decision in decisions:
        evaluation = decision.evaluation
        alike.setdefault("" if evaluation is None else _ONCE(repr, evaluation.config.cluster), []).append(decision)
    found = _sharing([made for members in alike.values() for made in into([decision.run for decision in members])])
    later = {decision.run.run_id: decision.evaluation for decision in decisions if decision.evaluation}
    return [replace(each, evaluation=_evaluation_of(each, later)) for each in found]


def _evaluation_of(training: PlannedBatch, later: Mapping[str, Run]) -> PlannedBatch | None:
    """The batch whose every job is to evaluate what its counterpart trains."""
    if training.jobs[0][0].run_id not in later:  # then none of them is
        return None
    jobs = tuple(tuple(later[run.run_id] for run in runs) for runs in training.jobs)
    batch = replace(_named_evaluating(training.batch), resources=jobs[0][0].config.cluster)
    return PlannedBatch(replace(batch, in_step=batch.size > 1), jobs, evaluates=True)


def _named_evaluating(batch: Batch) -> Batch:
    """The batch under a name that tells those who read the queue that it evaluates."""
    name = f"{batch.name.rpartition('.')[0]}.evaluate.{uuid.uuid4().hex[:10]}"
    return replace(batch, name=name, folder=batch.folder.with_name(name))


def _behind_tables(found: Sequence[PlannedBatch], store: Store, scheduler: Scheduler) -> list[PlannedBatch]:
    """The batches by the reference table that they need, if any, each with the job that makes it on their cluster."""
    groups: dict[tuple[Preparation | None, str | None], list[PlannedBatch]] = {}
    for each in found:
        key = preparation_of(each.jobs[0][0], store), each.batch.resources.clusters
        groups.setdefault(key, []).append(each)
    return [each for members in groups.values() for each in _behind_one_table(members, store, scheduler)]


def _behind_one_table(members: Sequence[PlannedBatch], store: Store, scheduler: Scheduler) -> list[PlannedBatch]:
    run, batches = members[0].jobs[0][0], [each.batch for each in members]
    table = table_job(run, batches, store) if scheduler.detached else None
    return [replace(each, table=table) for each in members]


def _evaluating(decisions: Sequence[Decision], into: Callable[[list[Run]], list[PlannedBatch]]) -> list[PlannedBatch]:
    """What only evaluates: runs that are trained, and behind each job that is training others, those of that job."""
    behind: dict[JobKey | None, list[Decision]] = {}
    for decision in decisions:
        behind.setdefault(key_of(decision.follows) if decision.follows else None, []).append(decision)
    return _sharing(
        [
            replace(each, batch=replace(_named_evaluating(each.batch), after=members[0].follows), evaluates=True)
            for members in behind.values()
            for each in into([decision.run for decision in members])
        ]
    )
