"""Decide, then act: what happens to each run of a sweep, then exactly that. Idempotent.

Owns: the decision for each run, what a launch records of its sweep.
Must not know: how an executor works, how anything is printed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from launcher import preparation, snapshot
from launcher.adapt import Past, adapted
from launcher.benchmarks import lacking, unclaimed
from launcher.config import ConfigError, SchedulerError
from launcher.facts import acting_attempt
from launcher.files import Fact
from launcher.handover import Jobs, batches, evaluating, following, hand_over, sharing
from launcher.jobs import Batch
from launcher.measured import Costs, costs
from launcher.plan import Run, Sweep, evaluates_apart, to_be_evaluated, to_be_trained
from launcher.preparation import Preparation, preparation_of
from launcher.provenance import provenance
from launcher.records import news_of
from launcher.scheduler import Scheduler
from launcher.states import RunState, states_of
from launcher.status import Status
from launcher.store import AttemptDir, Store, SweepDir


class Action(StrEnum):
    """What happens to a run."""

    SUBMIT = "submit"
    RESUME = "resume"
    EVALUATE = "evaluate"
    SKIP = "skip"


@dataclass(frozen=True)
class Decision:
    """What happens to one run, and why.

    Attributes:
        run: as its job is to make it.
        action: what happens.
        why: the reason, for the user.
        seconds: the estimate, where earlier runs give one.
        evaluation: the run as a second job is to evaluate it; None where that is left to the first, or nothing to do.
        follows: the job, under way already, that trains what is to be evaluated; None where it is trained.
    """

    run: Run
    action: Action
    why: str
    seconds: float | None = None
    evaluation: Run | None = None
    follows: Fact | None = None


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


# ------------------------------------------------------------------------------------------------ decide


def decide(sweep: Sweep, store: Store, scheduler: Scheduler, given: Collection[str] = ()) -> list[Decision]:
    """What launching this sweep does to each of its runs; writes nothing. `given`: see `adapt.adapted`."""
    known = costs(store)
    states = states_of([store.run(run.run_id) for run in sweep.runs], scheduler)
    waits = scheduler.name if scheduler.detached else None
    decisions = [_decide(run, state, known, waits) for run, state in zip(sweep.runs, states, strict=True)]
    staged = [_in_stages(d, s, known) for d, s in zip(decisions, states, strict=True)] if waits else decisions
    return [_adapt(decision, state, known, given) for decision, state in zip(staged, states, strict=True)]


def _adapt(decision: Decision, state: RunState, known: Costs, given: Collection[str]) -> Decision:
    """The decision, with resources that suit what earlier attempts and runs have shown."""
    if decision.action is Action.SKIP:
        return decision
    if decision.action is Action.EVALUATE:
        run, words = _adapted_evaluation(decision.run, state, known)
        return replace(decision, run=run, why="; ".join([decision.why, *words]))
    cost = known.training(decision.run)
    seconds = None if cost is None or decision.seconds is None else decision.seconds + cost.around
    run, words = adapted(decision.run, _past(state), seconds, given)
    return replace(decision, run=run, why="; ".join([decision.why, *words]))


def _in_stages(decision: Decision, state: RunState, known: Costs) -> Decision:
    """The decision, with a job of its own for what is not measured in the one that trains."""
    if decision.action not in (Action.SUBMIT, Action.RESUME) or not evaluates_apart(decision.run):
        return decision
    # From what is configured, not what training has learnt.
    evaluation, words = _adapted_evaluation(decision.run, state, known)
    why = "; ".join([decision.why, *(f"evaluation: {word}" for word in words)])
    return replace(decision, run=to_be_trained(decision.run), evaluation=evaluation, why=why)


def _adapted_evaluation(run: Run, state: RunState, known: Costs) -> tuple[Run, list[str]]:
    """The run as a job evaluates it, with resources that suit what earlier evaluations have shown."""
    last = state.run.evaluation_attempt()
    asked = _asked(last)
    ended = last is not None and last == acting_attempt(state.run)
    past = Past(state.job.reason or state.reason or "", state.job.node or state.facts.host, asked)
    evaluated, wanted = to_be_evaluated(run), run.config.evaluation.benchmarks
    # Of a run that is still to be trained, `preference` is measured by the job that trains it.
    left = lacking(state.run, wanted) if state.facts.trained else [name for name in wanted if name != "preference"]
    return adapted(evaluated, past if ended else Past(asked=asked), known.evaluation(evaluated, left))


def _past(state: RunState) -> Past:
    asked = _asked(next(iter(state.run.attempts()[-1:]), None))
    return Past(state.reason or "", state.job.node or state.facts.host, asked)


def _asked(attempt: AttemptDir | None) -> Mapping[str, Any] | None:
    """What an attempt asked of the cluster."""
    asked: Mapping[str, Any] | None = attempt.record.get("settings", {}).get("cluster") if attempt else None
    return asked


def _decide(run: Run, state: RunState, known: Costs, waits: str | None) -> Decision:
    """The decision; `waits`: the executor, where its jobs can wait for others."""
    facts = state.facts
    lacks = lacking(state.run, run.config.evaluation.benchmarks)
    if facts.trained and not lacks and (facts.finished or not facts.evaluated):
        return Decision(run, Action.SKIP, "finished")
    if state.in_flight:
        return _decide_in_flight(run, state, waits)
    if facts.trained and not lacks:
        return Decision(run, Action.SKIP, "finished, not published: use `publish`")
    if facts.trained:
        return Decision(run, Action.EVALUATE, f"trained, not evaluated: {', '.join(lacks)}")
    why = "new" if state.status is Status.NEW else f"was {state.status}: {state.reason}"
    if facts.checkpoint_step:
        seconds = _estimate(run, known, facts.checkpoint_step)
        return Decision(run, Action.RESUME, f"from step {facts.checkpoint_step}; {why}", seconds)
    return Decision(run, Action.SUBMIT, why, _estimate(run, known, 0))


def _decide_in_flight(run: Run, state: RunState, waits: str | None) -> Decision:
    """Nothing, but where a job trains the run and none is to measure afterwards what is wanted of it."""
    acting, job = acting_attempt(state.run), state.facts.job or {}
    training = acting is not None and not acting.evaluates and not state.facts.cancelled
    missing = unclaimed(state.run, run.config.evaluation.benchmarks)
    if training and missing and waits is not None and job.get("executor") == waits:
        return Decision(run, Action.EVALUATE, f"once it is trained: {', '.join(missing)}", follows=job)
    return Decision(run, Action.SKIP, f"in flight: {state.status} as job {state.facts.job_id}")


def _estimate(run: Run, known: Costs, done: int) -> float | None:
    cost = known.training(run)
    return None if cost is None else cost.training(run, done)


def check_ranks(sweep: Sweep, scheduler: Scheduler) -> None:
    """Refuse runs of several processes where the executor starts one.

    Raises:
        ConfigError: names the keys.
    """
    for cluster in (run.config.cluster for run in sweep.runs):
        if not scheduler.detached and cluster.nodes * cluster.gpus_per_node > 1:
            raise ConfigError(
                f"cluster.nodes={cluster.nodes}, cluster.gpus_per_node={cluster.gpus_per_node}: on this machine a run "
                "has one process; use cluster=slurm, or 1 for both"
            )


# ------------------------------------------------------------------------------------------------ act


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
    after = preparation.ensure(preparation_of(run, store), group.table, run, scheduler)
    return [(replace(batch, after=after), jobs) for batch, jobs in group.batches]


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
            preparation.planned(shared, [batch for batch, _ in members]) if scheduler.detached else None,
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
