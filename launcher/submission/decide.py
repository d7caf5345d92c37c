"""What is to happen to each run of a sweep, by its state; decided before anything is done.

Owns: the decision for each run, and why. Writes nothing.
Must not know: which runs share a job, how one is handed over, how an executor works, how anything is printed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType

from launcher.cluster.scheduler import Scheduler
from launcher.evaluation.missing_benchmarks import unclaimed
from launcher.planning.estimate import saving_seconds
from launcher.planning.stages import evaluates_apart, to_be_evaluated, to_be_trained
from launcher.runs.run_state import RunState, states_of
from launcher.runs.status import Status
from launcher.store.attempts import Attempts
from launcher.store.facts import Job
from launcher.store.metrics_log import longest_save
from launcher.store.output_folder import Store
from launcher.store.run_folder import AttemptDir
from launcher.store.work_done import lacking
from launcher.submission.endurance import in_vain
from launcher.submission.kept_away import AS_BEFORE, kept_away, learnt_by
from launcher.submission.limits import check_limits
from launcher.submission.resources import Past, adapted
from launcher.submission.timings import Cost, Costs, read_costs
from launcher.sweep import Run, Sweep


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
        seconds: the estimate of its training, where earlier runs give one.
        cost: what those runs took.
        evaluation: the run as a second job is to evaluate it; None where that is left to the first, or nothing to do.
        follows: the job, under way already, that trains what is to be evaluated; None where it is trained.
        anew: whether what an earlier training has left of it is set aside first.
    """

    run: Run
    action: Action
    why: str
    seconds: float | None = None
    cost: Cost | None = None
    evaluation: Run | None = None
    follows: Job | None = None
    anew: bool = False


def decide(
    sweep: Sweep,
    store: Store,
    scheduler: Scheduler,
    given: Collection[str] = (),
    anew: Mapping[str, Collection[str]] = MappingProxyType({}),
    retrain: Mapping[str, str] = MappingProxyType({}),
    insisted: Collection[str] = (),
) -> list[Decision]:
    """What launching this sweep does to each of its runs; writes nothing.

    Args:
        sweep: as planned.
        store: the output folder.
        scheduler: where its jobs go.
        given: see `resources.adapted`.
        anew: by run id, the benchmarks that are to be had once more though they are there.
        retrain: by run id, why those are trained anew of which there is a training, or a part of one.
        insisted: the ids of runs that are tried again however often they have failed.

    Raises:
        ConfigError: a job would not have the time that it needs where it is to go.
    """
    states = states_of([store.run(run.run_id) for run in sweep.runs], scheduler)
    known = Known(read_costs(store), kept_away(sweep.runs, states), scheduler)
    waits = scheduler.name if scheduler.detached else None
    lacks = [_lacks(run, state, anew.get(run.run_id, ())) for run, state in zip(sweep.runs, states, strict=True)]
    decisions = [
        _anew(run, known.costs, retrain[run.run_id])
        if run.run_id in retrain
        else _unless_in_vain(_decide(run, state, missing, known.costs, waits), state, missing, insisted)
        for run, state, missing in zip(sweep.runs, states, lacks, strict=True)
    ]
    staged = [_in_stages(d, s, known) for d, s in zip(decisions, states, strict=True)] if waits else decisions
    return [_adapt(decision, state, known, given) for decision, state in zip(staged, states, strict=True)]


@dataclass(frozen=True)
class Known:
    """What earlier runs and the scheduler tell of the jobs to come.

    Attributes:
        costs: what runs have taken.
        away: the nodes from which all are kept away, each with the reason.
    """

    costs: Costs
    away: Mapping[str, str]
    scheduler: Scheduler

    def past(self, run: Run, state: RunState, attempts: Sequence[AttemptDir], *, ended: bool = True) -> Past:
        """How the last of these attempts has ended, if it has, and where the next one of `run` goes.

        Raises:
            ConfigError: it would not have the time that it needs there.
        """
        asked = attempts[-1].record.settings.get("cluster") if attempts else None
        away = {**dict.fromkeys(learnt_by(run, attempts), AS_BEFORE), **self.away}
        offer = self.scheduler.offer(run.config.cluster)
        check_limits(run.config.cluster, offer)
        past = Past(asked=asked, away=dict(sorted(away.items())), offer=offer)
        return replace(past, cause=state.cause, node=_node_of(state)) if ended else past

    def saving(self, run: Run, state: RunState) -> float | None:
        """The seconds that a checkpoint takes, as measured, or as its size lets expect; None: nothing ends its job."""
        if not self.scheduler.detached:
            return None
        return longest_save(state.run.saves_log) or saving_seconds(run.config)


def _node_of(state: RunState) -> str | None:
    """The node to which it happened, where that is known of several."""
    return state.facts.lost_on or state.job.node or state.facts.host


def _adapt(decision: Decision, state: RunState, known: Known, given: Collection[str]) -> Decision:
    """The decision, with resources that suit what earlier attempts and runs have shown."""
    if decision.action is Action.SKIP:
        return decision
    if decision.action is Action.EVALUATE:
        run, words = _adapted_evaluation(decision.run, state, known)
        return replace(decision, run=run, why="; ".join([decision.why, *words]))
    cost = known.costs.training(decision.run)
    seconds = None if cost is None or decision.seconds is None else decision.seconds + cost.around
    past = known.past(decision.run, state, Attempts.of(state.run).trainings)
    past = replace(past, saving=known.saving(decision.run, state))
    run, words = adapted(decision.run, past, seconds, given)
    if cost is not None and cost.device is not None and run.config.cluster.time != decision.run.config.cluster.time:
        words.append(f"measured on {cost.device}")
    return replace(decision, run=run, why="; ".join([decision.why, *words]), cost=cost)


def _in_stages(decision: Decision, state: RunState, known: Known) -> Decision:
    """The decision, with a job of its own for what is not measured in the one that trains."""
    if decision.action not in (Action.SUBMIT, Action.RESUME) or not evaluates_apart(decision.run):
        return decision
    # From what is configured, not what training has learnt.
    evaluation, words = _adapted_evaluation(decision.run, state, known)
    why = "; ".join([decision.why, *(f"evaluation: {word}" for word in words)])
    return replace(decision, run=to_be_trained(decision.run), evaluation=evaluation, why=why)


def _adapted_evaluation(run: Run, state: RunState, known: Known) -> tuple[Run, list[str]]:
    """The run as a job evaluates it, with resources that suit what earlier evaluations have shown."""
    attempts = Attempts.of(state.run)
    ended = attempts.evaluating is not None and attempts.evaluating == attempts.acting
    evaluated, wanted = to_be_evaluated(run), run.config.evaluation.benchmarks
    past = known.past(evaluated, state, [each for each in [attempts.evaluating] if each], ended=ended)
    # Of a run that is still to be trained, `preference` is measured by the job that trains it.
    left = lacking(state.run, wanted) if state.facts.trained else [name for name in wanted if name != "preference"]
    return adapted(evaluated, past, known.costs.evaluation(evaluated, left))


def _lacks(run: Run, state: RunState, anew: Collection[str]) -> list[str]:
    missing = lacking(state.run, run.config.evaluation.benchmarks)
    return [name for name in run.config.evaluation.benchmarks if name in missing or name in anew]


def _decide(run: Run, state: RunState, lacks: Sequence[str], known: Costs, waits: str | None) -> Decision:
    """The decision; `waits`: the executor, where its jobs can wait for others."""
    facts = state.facts
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


def _unless_in_vain(decision: Decision, state: RunState, lacks: Sequence[str], insisted: Collection[str]) -> Decision:
    """The decision, but for a run that has failed too often for another attempt."""
    if decision.action is Action.SKIP or state.in_flight or state.run.run_id in insisted:
        return decision
    why = in_vain(decision.run, state, lacks)
    return decision if why is None else Decision(decision.run, Action.SKIP, why)


def _anew(run: Run, known: Costs, why: str) -> Decision:
    return Decision(run, Action.SUBMIT, f"trained anew: {why}", _estimate(run, known, 0), anew=True)


def _decide_in_flight(run: Run, state: RunState, waits: str | None) -> Decision:
    """Nothing, but where a job trains the run and none is to measure afterwards what is wanted of it."""
    acting, job = Attempts.of(state.run).acting, state.facts.job
    training = acting is not None and not acting.evaluates and not state.facts.cancelled
    missing = unclaimed(state.run, run.config.evaluation.benchmarks)
    if training and missing and waits is not None and job and job.executor == waits:
        return Decision(run, Action.EVALUATE, f"once it is trained: {', '.join(missing)}", follows=job)
    return Decision(run, Action.SKIP, f"in flight: {state.status} as job {state.facts.job_id}")


def _estimate(run: Run, known: Costs, done: int) -> float | None:
    cost = known.training(run)
    return None if cost is None else cost.training(run, done)
