"""From runs to jobs: batches, handed over to an executor, recorded, and found again after a crash.

Owns: the grouping of runs into jobs and batches, the order in which the facts of a submission are written.
Must not know: why a run is submitted, how an executor works.

Before a batch is handed over, its attempts, its name and its lists of work are on disk; its job ids come right after.
An attempt without a job id is therefore one whose launcher died in between: `adopt` asks for the batch by its name.
What it does not find it marks LOST, which is also what a job looks at first: should SLURM bring one to life after
all, it finds nothing to do.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import replace

from launcher.cluster.batch import Batch
from launcher.cluster.local import this_process
from launcher.cluster.scheduler import Scheduler
from launcher.errors import ConfigError, Refused, SchedulerError
from launcher.machine import snapshot
from launcher.machine.installed import trl_losses
from launcher.machine.provenance import provenance
from launcher.planning.launches import _last_record, news_of
from launcher.planning.plan import plan_run
from launcher.runs.status import Status
from launcher.store.files import Fact, write_once
from launcher.store.output_folder import Store
from launcher.store.run_folder import AttemptDir, RunDir, attempts_of
from launcher.submission import reference_job
from launcher.submission.batches import Jobs, RunGroup, planned_batches
from launcher.submission.decide import Decision
from launcher.submission.reference_job import preparation_of
from launcher.submission.timings import cost_key
from launcher.sweep import Run, Sweep

# ------------------------------------------------------------------------------------------------ grouping


# ------------------------------------------------------------------------------------------------ handing over


def hand_over(batch: Batch, jobs: Jobs, store: Store, scheduler: Scheduler, *, evaluates: bool = False) -> list[Fact]:
    """Submit a batch and record it; called under the submission lock. `evaluates`: that is all its jobs do.

    Raises:
        SchedulerError: it was not taken, or nobody knows.
    """
    slots = None if scheduler.detached else batch.resources.max_parallel or 1
    for folder, runs in zip(batch.job_folders, jobs, strict=True):
        attempts = [new_attempt(run, store, batch, evaluates=evaluates) for run in runs]
        write_once(folder / "job.json", {"attempts": [str(attempt.path) for attempt in attempts], "slots": slots})
    batch.write({"executor": scheduler.name, "time": time.time()})
    try:
        submitted = scheduler.submit(batch)
    except Refused as refusal:
        for attempt in itertools.chain.from_iterable(map(attempts_of, batch.job_folders)):
            _never_was(attempt, str(refusal), Status.FAILED)
        raise
    return _record(batch, submitted)


def new_attempt(run: Run, store: Store, batch: Batch | None = None, *, evaluates: bool = False) -> AttemptDir:
    """The run's next attempt, on disk."""
    after = None if batch is None else batch.after
    fact = {
        "settings": run.settings,
        "overrides": list(run.overrides),
        "cost_key": cost_key(run),
        "provenance": provenance(),
        "batch": None if batch is None else str(batch.folder),
        ("follows" if evaluates else "after"): after,  # the job that trains it; the one that makes its table
        "time": time.time(),
    }
    return store.run(run.run_id).new_attempt(fact, evaluates=evaluates)


def _record(batch: Batch, submitted: list[Fact]) -> list[Fact]:
    for folder, job in zip(batch.job_folders, submitted, strict=True):
        for attempt in attempts_of(folder):
            write_once(attempt.job_file, {**job, "folder": str(folder), "time": time.time()})
    return submitted


def _never_was(attempt: AttemptDir, reason: str, status: Status) -> None:
    write_once(attempt.failure_file, {"reason": reason, "status": status, "time": time.time()})


# ------------------------------------------------------------------------------------------------ after a crash


def new_attempt_here(run: RunDir) -> AttemptDir:
    """A new attempt that is made in this process, with the settings that the run was last launched with.

    Raises:
        StoreError: no launch has recorded settings for the run.
    """
    record = _last_record(run)
    config = {**run.read_config(), **record["settings"]}
    planned = plan_run(config, record["axes"], record["overrides"], trl_losses())
    attempt = new_attempt(planned, Store(run.path.parent.parent))
    write_once(attempt.job_file, {**this_process(), "folder": None, "time": time.time()})
    return attempt


def check_ranks(sweep: Sweep, scheduler: Scheduler) -> None:
    """Refuse runs of several processes where the executor starts one.

    Raises:
        ConfigError: names the key.
    """
    for cluster in (run.config.cluster for run in sweep.runs):
        if not scheduler.detached and cluster.nodes * cluster.gpus_per_node > 1:
            key = "nodes" if cluster.nodes > 1 else "gpus_per_node"
            remedy = "on this machine a run has one process; use cluster=slurm, or 1 for both"
            raise ConfigError(f"cluster.{key}", getattr(cluster, key), remedy)


def act(sweep: Sweep, decisions: Sequence[Decision], store: Store, scheduler: Scheduler, launch: Fact) -> list[Fact]:
    """Submit what was decided, and record the sweep; called, like `decide`, under the submission lock.

    Each run's folder and attempt and the batch's name are on disk before its jobs exist, and the jobs' ids right
    after: what a launcher that dies in between has handed over is found by that name (`adopt`).

    `launch` is what to record of this launch beside its runs; empty where what was launched before is taken up.

    Returns:
        The jobs that were submitted, as their executor recorded them.

    Raises:
        SchedulerError: a batch was not taken; those before it are submitted and recorded.
    """
    directory = store.sweep(sweep.name)
    for run in sweep.runs:  # also one that was recorded before, and whose folder was removed since
        store.run(run.run_id).write_config(run.objective)
    if records := news_of(sweep, directory, {d.run.run_id for d in decisions} if launch else ()):
        directory.add_launch({**launch, "axes": list(sweep.axes), "runs": records, "provenance": provenance()})
    submitted: list[Fact] = []
    try:
        for group in planned_batches(decisions, directory, store, scheduler, snapshot.take):
            for batch, jobs in _behind_its_table(group, store, scheduler):
                made = hand_over(batch, jobs, store, scheduler, evaluates=group.evaluates)
                submitted += made
                if batch.name in group.then:
                    then, evaluated = group.then[batch.name]
                    submitted += hand_over(replace(then, after=made[0]), evaluated, store, scheduler, evaluates=True)
    except SchedulerError as error:
        raise type(error)(f"{error} ({len(submitted)} jobs were submitted before)") from error
    return submitted


def _behind_its_table(group: RunGroup, store: Store, scheduler: Scheduler) -> list[tuple[Batch, Jobs]]:
    """The batches of a group, behind the job that makes their reference table, which is submitted here."""
    if group.table is None:
        return group.batches
    run = group.batches[0][1][0][0]
    after = reference_job.ensure(preparation_of(run, store), group.table, run, scheduler)
    return [(replace(batch, after=after), jobs) for batch, jobs in group.batches]
