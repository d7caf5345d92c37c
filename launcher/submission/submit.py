"""From a plan to jobs: the sweep's record, attempts on disk, batches handed over.

Owns: the order in which the parts of a plan are acted on, what an attempt records.
Must not know: why a run is submitted, how an executor works.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from launcher.cluster.batch import Batch
from launcher.cluster.local import this_process
from launcher.cluster.scheduler import Scheduler
from launcher.config import Cluster
from launcher.dataset.inputs import inputs_of
from launcher.errors import ConfigError, Refused, SchedulerError, StoreError, number_of
from launcher.machine import disk, rights, snapshot
from launcher.machine.gpus import VISIBLE, visible_gpus
from launcher.machine.installed import missing_to_train, trl_losses
from launcher.machine.provenance import provenance
from launcher.machine.terminal import Say, silent
from launcher.planning.launches import last_record, news_of
from launcher.planning.planned_runs import plan_run
from launcher.store.facts import (
    Attempt,
    Job,
    JobList,
    Launch,
    Purpose,
)
from launcher.store.files import write_once
from launcher.store.hashes import Hashes
from launcher.store.output_folder import Store, folders_in
from launcher.store.run_folder import AttemptDir, RunDir
from launcher.store.set_aside import set_aside
from launcher.submission import reference_job
from launcher.submission.decide import Action
from launcher.submission.environment import without_keys
from launcher.submission.handover import hand_over, record_jobs
from launcher.submission.lanes import Lanes
from launcher.submission.plan import Plan, PlannedBatch
from launcher.submission.same_content import moved
from launcher.submission.timings import cost_key
from launcher.sweep import Run


def new_attempt(
    run: Run, store: Store, batch: Batch | None = None, index: int | None = None, *, evaluates: bool = False
) -> AttemptDir:
    """The run's next attempt, on disk; `index`: which of the batch's jobs makes it."""
    waits_for = None if batch is None else batch.after
    fact = Attempt(
        settings=run.settings,
        overrides=list(run.overrides),
        cost_key=cost_key(run),
        provenance=provenance(),
        batch=None if batch is None else str(batch.folder),
        index=index,
        after=None if evaluates else waits_for,
        follows=waits_for if evaluates else None,
        time=time.time(),
        purpose=Purpose.EVALUATION if evaluates else Purpose.TRAINING,
        inputs=dict(run.inputs) or None,
        step=store.run(run.run_id).last_checkpoint_step(),
    )
    return store.run(run.run_id).new_attempt(fact)


def new_attempt_here(run: RunDir) -> AttemptDir:
    """A new attempt that is made in this process, with the settings that the run was last launched with.

    Raises:
        StoreError: no launch has recorded settings for the run.
    """
    record = last_record(run)
    config = {**run.read_config(), **record.settings}
    planned = plan_run(config, record.axes, record.overrides, trl_losses(), recorded=True)
    store = Store(run.path.parent.parent)
    attempt = new_attempt(replace(planned, run_id=run.run_id, inputs=inputs_of(planned.config, Hashes(store))), store)
    write_once(attempt.job_file, replace(this_process(), time=time.time()))
    return attempt


def check_ranks(asked: Iterable[Cluster], scheduler: Scheduler, *, dry_run: bool) -> list[str]:
    """Refuse jobs that this machine could never start; a dry run, which shows their plan, is only told of the first.

    Raises:
        ConfigError: names the key.
    """
    problem = None if scheduler.detached else next(_too_large(asked), None)
    if problem is None or dry_run:
        return [] if problem is None else [str(problem)]
    raise problem


def _too_large(asked: Iterable[Cluster]) -> Iterator[ConfigError]:
    """What is too large for this machine; a job of one GPU computes on the cores where there is none."""
    gpus = len(visible_gpus())
    for cluster in asked:
        if cluster.nodes > 1:
            yield ConfigError("cluster.nodes", cluster.nodes, "this is one machine; use cluster=slurm, or 1")
        if cluster.gpus_per_node > max(1, gpus):
            there = number_of(gpus, "GPU") if gpus else "no GPUs"
            visible = f" visible ({VISIBLE}={os.environ[VISIBLE]})" if VISIBLE in os.environ else ""
            others = "" if gpus or visible else f", or name those that nvidia-smi does not tell of in {VISIBLE}"
            remedy = f"this machine has {there}{visible}; use cluster=slurm, or at most {max(1, gpus)}{others}"
            yield ConfigError("cluster.gpus_per_node", cluster.gpus_per_node, remedy)


def _check_python(plan: Plan, scheduler: Scheduler) -> None:
    """Refuse jobs for this very Python where it could not start one; what a cluster's nodes have is known there alone.

    Raises:
        ConfigError: names what is missing.
    """
    missing = missing_to_train() if plan.batches and not scheduler.detached else []
    if missing:
        what = f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed"
        remedy = f"runs would be trained in this Python, where {what}; pip install 'prefsweep[train]'"
        raise ConfigError("cluster.executor", scheduler.name, remedy)


def act(plan: Plan, store: Store, scheduler: Scheduler, argv: Sequence[str] | None, tell: Say = silent) -> list[Job]:
    """Submit what is planned, and record the sweep; called, like `decide`, under the submission lock.

    Each run's folder and attempt and the batch's name are on disk before its jobs exist, and the jobs' ids right
    after: what a launcher that dies in between has handed over is found by that name (`adopt`).

    `argv` is what was typed, where this is a launch to be recorded; None: what was launched before is taken up. `tell`
    is told how far it is.

    Returns:
        The jobs that were submitted, as their executor recorded them.

    Raises:
        ConfigError: this Python cannot train, or this machine cannot start a job, and would have to; nothing was
            recorded.
        SchedulerError: a batch was not taken; those before it are submitted and recorded. Where nobody knows what an
            earlier launcher has handed over, nothing was recorded.
    """
    _check_python(plan, scheduler)
    check_ranks((planned.batch.resources for planned in plan.batches), scheduler, dry_run=False)
    reference_job.take_up((planned.table for planned in plan.batches if planned.table), scheduler)
    _record_launch(plan, store, argv, tell)
    submitted: list[Job] = []
    try:
        with without_keys(plan.sweep):
            for jobs in _hand_over_all(plan, store, scheduler, tell):
                submitted += jobs
    except SchedulerError as error:
        raise type(error)(f"{error} ({number_of(len(submitted), 'job')} of runs submitted before)") from error
    return submitted


def _record_launch(plan: Plan, store: Store, argv: Sequence[str] | None, tell: Say) -> None:
    sweep, directory = plan.sweep, store.sweep(plan.sweep.name)
    launched = () if argv is None else {decision.run.run_id for decision in plan.decisions}
    left = (each for each in plan.decisions if each.action is Action.SKIP or each.follows)  # to those who train them
    records = news_of(sweep, directory, launched, {decision.run.run_id for decision in left})
    _check_rights(plan, store, [directory.path / "launches"] if records else [])
    for number, run in enumerate(sweep.runs, 1):  # also one that was recorded before, and whose folder is gone
        tell(f"recording run {number:,} of {len(sweep.runs):,}")
        store.run(run.run_id).write_config(run.objective)
    for folder, objective in moved(sweep, store):
        folder.write_config(objective, anew=True)
    for decision in plan.decisions:
        if decision.anew:
            set_aside(store.run(decision.run.run_id))
    if records:
        directory.add_launch(Launch(list(sweep.axes), records, list(argv or ()), time.time(), provenance()))


def _check_rights(plan: Plan, store: Store, more: Sequence[Path]) -> None:
    """Refuse a launch that, or whose jobs, would come to a folder in which it may not write; `more`: some of them.

    Raises:
        StoreError: names it; nothing was recorded.
    """
    tables = [planned.table.batch for planned in plan.batches if planned.table]
    runs = [store.run(each.run.run_id).path for each in plan.decisions if each.action is not Action.SKIP]
    parts = [part for run in runs for part in folders_in(run)]  # as another user's job has left them
    batches = [batch.folder.parent for batch in (*tables, *(planned.batch for planned in plan.batches))]
    code = [store.sweep(plan.sweep.name).code] if plan.batches else []
    for folder in dict.fromkeys(disk.existing(folder) for folder in (*more, *batches, *code, *runs, *parts)):
        if not rights.may_write(folder):
            raise StoreError(rights.refused(folder, "write") + rights.OR_YOUR_OWN)


def _hand_over_all(plan: Plan, store: Store, scheduler: Scheduler, tell: Say) -> Iterator[list[Job]]:
    """Hand over each batch, what it waits for before it, what evaluates it behind it; gives the jobs of each."""
    code = snapshot.take(store.sweep(plan.sweep.name).code) if plan.batches and scheduler.detached else None
    numbers, lanes = itertools.count(1), Lanes(plan.every, scheduler)
    for table, members in itertools.groupby(plan.batches, key=lambda planned: planned.table):
        made = None if table is None else reference_job.ensure(table, code, scheduler)
        try:
            for planned in members:
                tell(f"submitting batch {next(numbers):,} of {len(plan.batches):,}")
                jobs = _hand_over(planned.ready(code, made), lanes, store, scheduler)
                yield jobs
                if planned.evaluation is not None:
                    yield _hand_over(planned.evaluation.ready(code, jobs[0]), lanes, store, scheduler)
        except Refused as refusal:
            said = None if made is None else reference_job.left_by(refusal, made, store, scheduler)
            raise type(refusal)("; ".join(filter(None, [str(refusal), said]))) from refusal


def _hand_over(planned: PlannedBatch, lanes: Lanes, store: Store, scheduler: Scheduler) -> list[Job]:
    planned = lanes.placed(planned)
    jobs = hand_over(
        planned.batch, (_work(index, planned, store, scheduler) for index in range(planned.batch.size)), scheduler
    )
    record_jobs(planned.batch, jobs)
    lanes.add(planned, jobs)
    return jobs


def _work(index: int, planned: PlannedBatch, store: Store, scheduler: Scheduler) -> JobList:
    """What one job is to do: attempts, which are on disk from now on."""
    batch, evaluates = planned.batch, planned.evaluates
    attempts = [new_attempt(run, store, batch, index, evaluates=evaluates) for run in planned.jobs[index]]
    return JobList([str(attempt.path) for attempt in attempts], scheduler.slots(batch.resources))
