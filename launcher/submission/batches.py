"""Runs -> batches of jobs: which runs share a job, which jobs an array, what waits for what.

Owns: that division. Must not know: how a batch is handed over.
"""

from __future__ import annotations

import functools
import itertools
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from launcher.cluster.batch import Batch
from launcher.cluster.scheduler import Scheduler
from launcher.config import Cluster
from launcher.store.output_folder import Store, SweepDir
from launcher.submission import reference_job
from launcher.submission.decide import Action, Decision
from launcher.submission.reference_job import Preparation, preparation_of
from launcher.sweep import Run

T = TypeVar("T")


Jobs = list[list[Run]]  # the runs of each job


def batches(
    runs: Sequence[Run], directory: SweepDir, store: Store, scheduler: Scheduler, code: Path | None
) -> list[tuple[Batch, Jobs]]:
    """The runs in jobs of those that need the same, and these in batches as large as the scheduler takes them.

    Where jobs can wait for others, those of a batch wait for the same reference table.
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        shared = preparation_of(run, store).key if scheduler.detached else ""
        groups.setdefault(repr(asdict(run.config.cluster)) + shared, []).append(run)
    return [each for group in groups.values() for each in _of_class(group, directory, store, scheduler, code)]


def sharing(found: Sequence[tuple[Batch, Jobs]]) -> list[tuple[Batch, Jobs]]:
    """All batches of a launch that train, or that evaluate, each with its part of `max_parallel`."""
    ends = [0, *itertools.accumulate(batch.size for batch, _ in found)]
    return [
        (replace(batch, at_once=_at_once(batch, start, ends[-1])), jobs)
        for (batch, jobs), start in zip(found, ends[:-1], strict=True)
    ]


def _at_once(batch: Batch, start: int, total: int) -> int | None:
    """Its part of `max_parallel`, by its place among all jobs: a scheduler limits each array for itself."""
    limit = batch.resources.max_parallel
    return limit and max(1, limit * (start + batch.size) // total - limit * start // total)


def _of_class(
    runs: Sequence[Run], directory: SweepDir, store: Store, scheduler: Scheduler, code: Path | None
) -> list[tuple[Batch, Jobs]]:
    resources = runs[0].config.cluster
    jobs = _chunks(runs, resources.runs_per_job or scheduler.runs_per_job)
    parts = _chunks(jobs, scheduler.batch_size(resources))
    return [(_new_batch(part, directory, store, code), part) for part in parts]


def _chunks(items: Sequence[T], size: int) -> list[list[T]]:
    return [list(items[start : start + size]) for start in range(0, len(items), size)]


def _new_batch(jobs: Jobs, directory: SweepDir, store: Store, code: Path | None) -> Batch:
    """A batch of a name that no other has; nothing is written."""
    name = f"{directory.name}.{uuid.uuid4().hex[:10]}"
    return Batch(name, directory.jobs / name, len(jobs), jobs[0][0].config.cluster, store.root, code)


def evaluating(batch: Batch) -> Batch:
    """The batch under a name that tells those who read the queue that it evaluates."""
    name = f"{batch.name.rpartition('.')[0]}.evaluate.{uuid.uuid4().hex[:10]}"
    return replace(batch, name=name, folder=batch.folder.with_name(name))


def following(batch: Batch, resources: Cluster) -> Batch:
    """A batch whose every job is to evaluate what its counterpart in `batch` trains."""
    return replace(evaluating(batch), resources=resources, in_step=batch.size > 1)


@dataclass(frozen=True)
class RunGroup:
    """Batches, each with the runs of its jobs.

    Attributes:
        batches: those that are handed over in any order.
        table: the job that makes the reference table for all of them, where one is planned.
        evaluates: whether they only evaluate.
        then: the batch that evaluates what another of these names trains.
    """

    batches: list[tuple[Batch, Jobs]]
    table: Batch | None = None
    evaluates: bool = False
    then: Mapping[str, tuple[Batch, Jobs]] = field(default_factory=dict)


def planned_batches(
    decisions: Sequence[Decision],
    directory: SweepDir,
    store: Store,
    scheduler: Scheduler,
    take: Callable[[Path], Path],
) -> list[RunGroup]:
    """What is to be handed over; `take` makes the snapshot of the code."""
    chosen = [decision for decision in decisions if decision.action is not Action.SKIP]
    if not chosen:
        return []
    code = take(directory.code) if scheduler.detached else None
    into = functools.partial(batches, directory=directory, store=store, scheduler=scheduler, code=code)
    training = [decision for decision in chosen if decision.action is not Action.EVALUATE]
    found, then = _with_evaluations(training, into)
    groups: dict[Preparation, list[tuple[Batch, Jobs]]] = {}
    for batch, jobs in found:
        groups.setdefault(preparation_of(jobs[0][0], store), []).append((batch, jobs))
    return [
        RunGroup(
            members,
            reference_job.planned(shared, [batch for batch, _ in members]) if scheduler.detached else None,
            then={batch.name: then[batch.name] for batch, _ in members if batch.name in then},
        )
        for shared, members in groups.items()
    ] + _evaluation_groups([decision for decision in chosen if decision.action is Action.EVALUATE], into)


def _with_evaluations(
    decisions: Sequence[Decision], into: Callable[[list[Run]], list[tuple[Batch, Jobs]]]
) -> tuple[list[tuple[Batch, Jobs]], dict[str, tuple[Batch, Jobs]]]:
    """The batches that train, and by their names those that evaluate: job for job, with the same runs."""
    alike: dict[str, list[Decision]] = {}
    for decision in decisions:
        evaluation = decision.evaluation
        alike.setdefault("" if evaluation is None else repr(evaluation.config.cluster), []).append(decision)
    found = sharing([made for members in alike.values() for made in into([decision.run for decision in members])])
    later = {decision.run.run_id: decision.evaluation for decision in decisions if decision.evaluation}
    then = {}
    for batch, jobs in found:
        if jobs[0][0].run_id in later:  # then all of them are
            evaluated = [[later[run.run_id] for run in runs] for runs in jobs]
            then[batch.name] = (following(batch, evaluated[0][0].config.cluster), evaluated)
    return found, then


def _evaluation_groups(
    decisions: Sequence[Decision], into: Callable[[list[Run]], list[tuple[Batch, Jobs]]]
) -> list[RunGroup]:
    """What only evaluates: runs that are trained, and behind each job that is training others, those of that job."""
    behind: dict[str, list[Decision]] = {}
    for decision in decisions:
        behind.setdefault(str((decision.follows or {}).get("job_id", "")), []).append(decision)
    found = [
        (replace(evaluating(batch), after=members[0].follows), jobs)
        for members in behind.values()
        for batch, jobs in into([decision.run for decision in members])
    ]
    return [RunGroup(sharing(found), evaluates=True)] if found else []
