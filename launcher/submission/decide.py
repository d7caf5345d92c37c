"""What is to happen to each run of a sweep, by its state; decided before anything is done.

Owns: the decision for each run, and why. Writes nothing.
Must not know: which runs share a job, how one is handed over, how an executor works, how anything is printed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from types import MappingProxyType

from launcher.cluster.scheduler import Scheduler, can_wait_for
from launcher.errors import StoreError
from launcher.evaluation.missing_benchmarks import unclaimed
from launcher.planning.estimate import Rates, saving_seconds
from launcher.planning.stages import evaluates_apart, left_to_evaluation, pushes, to_be_evaluated, to_be_trained
from launcher.runs.run_state import RunState, states_of
from launcher.runs.status import Status
from launcher.runs.unreadable import check_readable
from launcher.store.attempts import Attempts
from launcher.store.facts import Cause, Job, Revision
from launcher.store.metrics_log import longest_save
from launcher.store.output_folder import Store
from launcher.store.run_folder import AttemptDir, RunDir
from launcher.store.work_done import due_behind, lacking
from launcher.submission.endurance import in_vain, table_in_vain
from launcher.submission.kept_away import AS_BEFORE, kept_away, learnt_by
from launcher.submission.limits import check_limits
from launcher.submission.resources import Past, adapted
from launcher.submission.same_content import recorded
from launcher.submission.table_tries import Tables, tables_of
from launcher.submission.timings import Cost, Costs, read_costs
from launcher.sweep import Run, Sweep

UNPUBLISHED = "finished, not published: use `publish`"


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
        rates: what other runs of its model have come to, where none of its kind was measured.
        evaluation: the run as a second job is to evaluate and publish it, as far as the first does not; None where
            nothing is left to it.
        evaluation_seconds: the estimate of that job, where earlier ones give one.
        follows: the job, under way already, that trains what is to be evaluated; None where it is trained.
        anew: whether what an earlier training has left of it is set aside first.
        unreadable: whether it is left alone since a fact cannot be read.
        published: where its model is published, which stays so; None: nowhere, or it is trained anew.
        job: the one that has it in its hands, where nothing happens to it therefore.
        trained: whether that one only evaluates or publishes it.
    """

    run: Run
    action: Action
    why: str
    seconds: float | None = None
    cost: Cost | None = None
    rates: Rates | None = None
    evaluation: Run | None = None
    evaluation_seconds: float | None = None
    follows: Job | None = None
    anew: bool = False
    unreadable: bool = False
    published: Revision | None = None
    job: Job | None = None
    trained: bool = False


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
    tables, damages = tables_of(sweep.runs, states, store, scheduler), store.sweep(sweep.name).damages()
    known = Known(read_costs(store), kept_away(sweep.runs, states), tables, scheduler)
    waits = scheduler if scheduler.detached else None

    def decided(run: Run, state: RunState) -> Decision:
        _check_readable(state, damages)
        if run.run_id in retrain:
            decision = _anew(run, known.costs, retrain[run.run_id])
        else:
            again = anew.get(run.run_id, ())
            missing = _lacks(run, state, again)
            decision = _decide(run, state, missing, again, known.costs, waits)
            decision = _unless_in_vain(decision, state, missing, insisted, tables)
            decision = replace(decision, published=state.facts.revision)
        return _in_full(decision, state, known, given)

    pairs = zip(sweep.runs, states, strict=True)
    return [_unless_unreadable(run, partial(decided, run, state)) for run, state in pairs]


def _in_full(decision: Decision, state: RunState, known: Known, given: Collection[str]) -> Decision:
    """The decision with its stages and its resources."""
    if decision.action is not Action.SKIP:
        _check_config(state.run)
    staged = _in_stages(decision, state, known) if known.scheduler.detached else decision
    return _adapt(staged, state, known, given)


def _unless_unreadable(run: Run, decided: Callable[[], Decision]) -> Decision:
    """The decision; a run of which a fact cannot be read is left alone, in whatever state it is."""
    try:
        return decided()
    except StoreError as error:
        return Decision(run, Action.SKIP, str(error), unreadable=True)


def _check_readable(state: RunState, damages: Sequence[str]) -> None:
    """That a run may be decided upon; `damages`: of its sweep's launches, which may have recorded a run that is gone.

    Raises:
        StoreError: a fact of it cannot be read.
    """
    check_readable(state.facts)
    if damages and not state.run.path.is_dir():
        raise StoreError("; ".join(damages))
    if state.run.path.is_dir():
        recorded(state.run)


def _check_config(run: RunDir) -> None:
    """That the run's configuration, which its job will read, can be read where it is there.

    Raises:
        StoreError: it cannot.
    """
    if run.has(run.config_file):
        run.read_config()


@dataclass(frozen=True)
class Known:
    """What earlier runs and the scheduler tell of the jobs to come.

    Attributes:
        costs: what runs have taken.
        away: the nodes from which all are kept away, each with the reason; None: none, whatever was learnt before.
        tables: what became of the jobs that were to make reference tables.
    """

    costs: Costs
    away: Mapping[str, str] | None
    tables: Tables
    scheduler: Scheduler

    def past(self, run: Run, state: RunState, attempts: Sequence[AttemptDir], *, ended: bool = True) -> Past:
        """How the last of these attempts has ended, if it has, and where the next one of `run` goes."""
        asked = attempts[-1].record.settings.get("cluster") if attempts else None
        learnt = [] if self.away is None else learnt_by(run, attempts)
        away = {**self.tables.away(run), **dict.fromkeys(learnt, AS_BEFORE), **(self.away or {})}
        offer = self.scheduler.offer(run.config.cluster)
        elsewhere = self.scheduler.detached  # else this machine is the only one
        past = Past(asked=asked, away=dict(sorted(away.items())) if elsewhere else {}, offer=offer)
        if not ended:
            return past
        stays = (asked or {}).get("clusters") == run.config.cluster.clusters  # a node of that name is another there
        return replace(past, cause=state.cause, node=_node_of(state) if stays and elsewhere else None)

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
        run, words, _ = _adapted_evaluation(decision.run, state, known)
        return replace(decision, run=run, why="; ".join([decision.why, *words]))
    cost = decision.cost
    seconds = None if cost is None or decision.seconds is None else decision.seconds + cost.around
    past = known.past(decision.run, state, Attempts.of(state.run).trainings)
    past = replace(past, saving=known.saving(decision.run, state))
    run, words = adapted(decision.run, past, seconds, given)
    check_limits(run.config.cluster, past.offer)
    if cost is not None and cost.device is not None and run.config.cluster.time != decision.run.config.cluster.time:
        words.append(f"measured on {cost.device}")
    return replace(decision, run=run, why="; ".join([decision.why, *words]))


def _in_stages(decision: Decision, state: RunState, known: Known) -> Decision:
    """The decision, with a job of its own for what is not done in the one that trains."""
    if decision.action not in (Action.SUBMIT, Action.RESUME) or not evaluates_apart(decision.run):
        return decision
    # From what is configured, not what training has learnt.
    evaluation, words, seconds = _adapted_evaluation(decision.run, state, known)
    why = "; ".join([decision.why, *(f"evaluation: {word}" for word in words)])
    run = to_be_trained(decision.run)
    return replace(decision, run=run, evaluation=evaluation, evaluation_seconds=seconds, why=why)


def _adapted_evaluation(run: Run, state: RunState, known: Known) -> tuple[Run, list[str], float | None]:
    """The run as a job evaluates it, with resources that suit what earlier ones have shown, and what those took."""
    attempts = Attempts.of(state.run)
    ended = attempts.evaluating is not None and attempts.evaluating == attempts.acting
    evaluated, wanted = to_be_evaluated(run), run.config.evaluation.benchmarks
    past = known.past(evaluated, state, [each for each in [attempts.evaluating] if each], ended=ended)
    left = lacking(state.run, wanted) if state.facts.trained else left_to_evaluation(run)
    seconds = known.costs.evaluation(evaluated, left)
    evaluated, words = adapted(evaluated, past, seconds)
    check_limits(evaluated.config.cluster, past.offer)
    return evaluated, words, seconds


def _lacks(run: Run, state: RunState, anew: Collection[str]) -> list[str]:
    missing = lacking(state.run, run.config.evaluation.benchmarks)
    return [name for name in run.config.evaluation.benchmarks if name in missing or name in anew]


def _decide(
    run: Run, state: RunState, lacks: Sequence[str], anew: Collection[str], known: Costs, waits: Scheduler | None
) -> Decision:
    """The decision; `anew`: what of `lacks` is there; `waits`: the executor, where its jobs can wait for others."""
    facts = state.facts
    if facts.trained and not lacks and (facts.finished or not facts.evaluated):
        return Decision(run, Action.SKIP, UNPUBLISHED if facts.unpublished else "finished")
    if state.in_flight:
        return _decide_in_flight(run, state, waits)
    if facts.trained and not lacks and not _is_to_be_published(run, state):
        return Decision(run, Action.SKIP, UNPUBLISHED)
    if facts.trained:
        missing, again = [name for name in lacks if name not in anew], [name for name in lacks if name in anew]
        told = [f"not evaluated: {', '.join(missing)}"] * bool(missing) + [f"again: {', '.join(again)}"] * bool(again)
        return Decision(run, Action.EVALUATE, f"trained, {'; '.join(told) or 'not published'}")
    why = state.reason or "new" if state.status is Status.NEW else f"was {state.status}: {state.reason}"
    if facts.checkpoint_step:
        return _training(run, known, f"from step {facts.checkpoint_step}; {why}", facts.checkpoint_step)
    return _training(run, known, why)


def _training(run: Run, known: Costs, why: str, done: int = 0) -> Decision:
    """Train it, `done` steps being behind it."""
    cost = known.training(run)
    seconds = None if cost is None else cost.training(run, done)
    rates = known.rates_of(run.config) if cost is None else None
    return Decision(run, Action.RESUME if done else Action.SUBMIT, why, seconds, cost, rates)


def _unless_in_vain(
    decision: Decision, state: RunState, lacks: Sequence[str], insisted: Collection[str], tables: Tables
) -> Decision:
    """The decision, but for a run that has failed too often for another attempt, or whose table has."""
    if decision.action is Action.SKIP or state.in_flight or state.run.run_id in insisted:
        return decision
    why = in_vain(decision.run, state, lacks)
    if why is None and decision.action is not Action.EVALUATE:
        why = table_in_vain(decision.run, tables.tries(decision.run))
    return decision if why is None else Decision(decision.run, Action.SKIP, why)


def _anew(run: Run, known: Costs, why: str) -> Decision:
    return replace(_training(run, known, f"trained anew: {why}"), anew=True)


def _is_to_be_published(run: Run, state: RunState) -> bool:
    """Whether a job behind the one that trains, or has trained, the run is to publish it, and none is there."""
    attempts = Attempts.of(state.run)
    alive = [attempt for attempt in attempts.open if attempt.evaluates and not attempt.has(attempt.cancel_file)]
    due = attempts.training is not None and due_behind(attempts.training)
    return due and pushes(run) and not (alive and state.in_flight)


def _decide_in_flight(run: Run, state: RunState, waits: Scheduler | None) -> Decision:
    """Nothing, but where a job trains the run and none is to measure afterwards what is wanted of it."""
    acting, job = Attempts.of(state.run).acting, state.facts.job
    training = acting is not None and not acting.evaluates and not state.facts.cancelled
    missing = unclaimed(state.run, run.config.evaluation.benchmarks)
    missing += ["publication"] if _is_to_be_published(run, state) else []
    if training and missing and waits and job and can_wait_for(job, run.config.cluster, waits):
        return Decision(run, Action.EVALUATE, f"once it is trained: {', '.join(missing)}", follows=job)
    in_vain = f"; {state.reason}" if state.job.cause is Cause.IN_VAIN else ""
    job_id = state.facts.job_id
    known = f"as job {job_id}{in_vain}" if job_id else f"({state.reason})"
    why = f"in flight: {state.status} {known}"
    return Decision(run, Action.SKIP, why, job=state.facts.job, trained=state.facts.trained)
