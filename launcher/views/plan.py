"""The plan as the user sees it: each run, what will happen to it and why, its cost, its job. Prints; decides nothing.

Owns: words and columns of a plan. Must not know: how it was decided.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from rich.table import Table

from launcher.cluster.scheduler import Scheduler
from launcher.errors import number_of
from launcher.evaluation import scores
from launcher.losses import given
from launcher.machine.terminal import Screen, say_json
from launcher.planning.data_counts import Look
from launcher.planning.stages import is_joint
from launcher.store.files import Plain
from launcher.store.output_folder import Store
from launcher.submission.decide import Action, Decision
from launcher.submission.plan import Plan
from launcher.sweep import Run, Sweep
from launcher.views.budget import budget_json, budget_lines
from launcher.views.console import duration, say_judging_ahead, verb_command
from launcher.views.cost import cost_json, cost_lines, evaluation_hours, hours_of, is_costly
from launcher.views.data import data_json, data_lines
from launcher.views.settings import settings_json, settings_line
from launcher.views.table import Lines, table_of

_OF_LOSSES = "loss."  # how the keys of losses begin
_OWN_KEYS = "keys of the loss"


def show_plan(
    plan: Plan,
    scheduler: Scheduler | None,
    store: Store,
    *,
    as_json: bool,
    sources: Sequence[str] = (),
    data: Look | None = None,
) -> None:
    """The plan: each run, what will happen to it and why, where its sources come from, and what is in its `data`.

    `scheduler`, where given, shows what else a dry run tells: cost, jobs, a job's script.
    """
    data = data or Look()
    if as_json:
        more = {"sources": list(sources), "settings": settings_json(plan.sweep), "data": data_json(data)}
        say_json(_plan_json(plan.sweep, plan.decisions, data) | more)
        return
    console = Screen()
    console.print(settings_line(plan.sweep), soft_wrap=True)
    console.print(_plan_table(plan.sweep, plan.decisions), crop=False)
    console.print(_totals(plan.sweep, plan.decisions))
    about = (*_places(plan, store), *_followers(plan.decisions), *_at_a_time(plan))
    for line in (*budget_lines(plan.sweep), *data_lines(data), *sources, *about):
        console.print(line, soft_wrap=True)
    if scheduler is not None:
        for line in cost_lines(plan.decisions, scheduler.at_once(plan.sweep.runs[0].config.cluster), data):
            console.print(line, soft_wrap=True)
        say_judging_ahead(*scores.judging_ahead(plan.sweep, store), plan.sweep.runs[0].config.evaluation.judge)
        console.print(f"dry run: nothing was written or submitted. {_jobs_in_words(plan)}")
        code = store.sweep(plan.sweep.name).code / "HASH"  # the copy has its name, and is made, when it is submitted
        for planned in plan.batches[:1]:
            console.print(scheduler.script(replace(planned.batch, code=code)), soft_wrap=True)


def _jobs_in_words(plan: Plan) -> str:
    if plan.silence is not None:
        return f"Which jobs there would be, only the scheduler can tell: {plan.silence}"
    jobs = sum(planned.batch.size for planned in plan.batches)
    tables = len({planned.table.batch.name for planned in plan.batches if planned.table})
    pieces = f", in {len(plan.batches)} submissions" if len(plan.batches) > 1 else ""
    what = f"There would be {number_of(jobs, 'job')}{pieces}"
    if tables:
        what += f", after {tables} for the reference table" + ("s" if tables > 1 else "")
    if then := sum(planned.evaluation.batch.size for planned in plan.batches if planned.evaluation):
        what += f", and {then} that evaluate or publish what they have trained"
    return what + (", such as:" if jobs else "")


def _plan_json(sweep: Sweep, decisions: Iterable[Decision], data: Look) -> Plain:
    runs = [
        {
            "run_id": decision.run.run_id,
            "model": decision.run.config.model.name,
            "dataset": decision.run.config.dataset.name,
            "loss_type": decision.run.config.loss_type,
            "beta": decision.run.config.beta,
            "loss": given(decision.run.config),
            "axes": decision.run.axes,
            "action": decision.action,
            "why": decision.why,
            "seconds": decision.seconds,
            **cost_json(decision, data),
            "model_revision": decision.run.config.model.revision,
            "dataset_revision": decision.run.config.dataset.revision,
            "pins": decision.run.config.pins,
            "hub_store": decision.run.config.hub.store,
            "hub_repo": decision.run.config.hub.repo,
            "hub_revision": decision.run.config.hub.revision,
        }
        for decision in decisions
    ]
    twins = [{"run_id": twin.run_id, "same_as": twin.of} for twin in sweep.twins]
    about = {"duplicates": sweep.duplicates, "same_weights": twins, "budget": budget_json(sweep)}
    return {"sweep": sweep.name, **about, "runs": runs}


def _plan_table(sweep: Sweep, decisions: Sequence[Decision]) -> Table | Lines:
    extra = _extra(sweep.axes)
    costly = is_costly(decisions)  # a laptop's sweep needs no such column
    priced = ("resources", "GPU-hours") if costly else ()
    columns = ("run", "model", "loss_type", "beta", *extra, *priced, "action", "why", "est. time")
    rows = []
    for decision in decisions:
        run, style = decision.run, "dim" if decision.action is Action.SKIP else ""
        shown = [run.run_id, run.config.model.name, run.config.loss_type, _number(run.config.beta)]
        shown += [_own_keys(run) if axis == _OWN_KEYS else _number(run.axes.get(axis)) for axis in extra]
        shown += _price(decision) if costly else []
        shown += [decision.action, decision.why, duration(decision.seconds)]
        rows.append((shown, style))
    return table_of(f"sweep {sweep.name}", columns, rows)


def _extra(axes: Sequence[str]) -> list[str]:
    """The further columns: axes, and in place of several keys of losses, of which each run has few, one for all."""
    others = [axis for axis in axes if axis not in ("model", "loss_type", "beta")]
    own = [axis for axis in others if axis.startswith(_OF_LOSSES)]
    if len(own) == 1:
        return others
    return [axis for axis in others if axis not in own] + [_OWN_KEYS][: len(own)]


def _own_keys(run: Run) -> str:
    given = {key.removeprefix(_OF_LOSSES): value for key, value in run.axes.items() if key.startswith(_OF_LOSSES)}
    return " ".join(f"{key}={_number(value)}" for key, value in given.items() if value is not None)


def _price(decision: Decision) -> list[str]:
    deepspeed = decision.run.config.deepspeed.name
    return [_gpus(decision.run) + ("" if deepspeed == "none" else f" {deepspeed}"), hours_of(decision)]


def _totals(sweep: Sweep, decisions: Sequence[Decision]) -> str:
    counts = Counter(decision.action for decision in decisions)
    parts = [number_of(len(decisions), "run")] + [f"{count} {action}" for action, count in sorted(counts.items())]
    if sweep.duplicates:
        parts.append(f"{number_of(sweep.duplicates, 'duplicate')} dropped")
    if sweep.twins:
        parts.append(f"{len(sweep.twins)} left out that would train the same weights as others")
    known = [d.seconds for d in decisions if d.seconds is not None]
    if known:
        parts.append(f"about {duration(sum(known))} of training for {len(known)} of them")
    return ", ".join(parts)


def _places(plan: Plan, store: Store) -> list[str]:
    """Where the models will be published, and where those are that are published elsewhere, a line for each place."""
    places: dict[tuple[str, str | None], list[str]] = {}
    others: dict[tuple[str, str | None], list[str]] = {}
    for decision in plan.decisions:
        hub, there = decision.run.config.hub, decision.published
        if there is not None and not there.is_at(hub):
            others.setdefault((there.store, there.repo), []).append(there.revision)
        elif hub.store != "off":
            milestones = decision.run.config.checkpoint.milestones or []
            names = [hub.at_step(step).revision for step in (None, *milestones)]
            places.setdefault((hub.store, hub.repo), []).extend(names)
    return [
        *(f"published as revisions of {_place(*each)}" for each in places.items()),
        *(f"published already, as revisions of {_place(*each)}{_as_well(plan, store)}" for each in others.items()),
    ]


def _as_well(plan: Plan, store: Store) -> str:
    """How models that another launch has published elsewhere come to where this one says."""
    if all(run.config.hub.store == "off" for run in plan.sweep.runs):
        return ""
    return f"; they stay there, and `{verb_command(store.sweep(plan.sweep.name), 'publish')}` has them here, too"


def _place(place: tuple[str, str | None], names: Sequence[str]) -> str:
    store, repo = place
    return f"{repo} (hub={store}): {names[0]}{', ...' if len(names) > 1 else ''}"


def _followers(decisions: Iterable[Decision]) -> list[str]:
    """That what several ranks train is measured and published by another job, and what this takes where it is known."""
    joint = [each for each in decisions if each.evaluation and is_joint(each.run.config)]
    if not joint:
        return []
    small = " or ".join(dict.fromkeys(_gpus(each.evaluation) for each in joint if each.evaluation))
    large = " or ".join(dict.fromkeys(_gpus(each.run) for each in joint))
    hours = [evaluation_hours(each) for each in joint]
    known = sum(each for each in hours if each is not None)
    took = f": {known:,.1f} GPU-hours, as earlier ones took" if None not in hours else ""
    runs = "1 run is" if len(joint) == 1 else f"{len(joint)} runs are"
    return [
        f"{runs} measured and published by jobs of {small} behind the training, whose {large} are free by then{took}"
    ]


def _at_a_time(plan: Plan) -> list[str]:
    """How many jobs work at a time on this machine, where it is more than one, or one that takes several GPUs."""
    if plan.at_once is None:
        return []
    gpus = plan.batches[0].batch.resources.gpus_per_node
    taking = f", with {gpus} GPUs each" if gpus > 1 else ""
    at_once = f"up to {number_of(plan.at_once, 'job')} at a time on this machine"
    return [at_once + taking] if taking or plan.at_once > 1 else []


def _gpus(run: Run) -> str:
    return f"{run.config.cluster.nodes} x {run.config.cluster.gpus_per_node} GPUs"


def _number(value: Any) -> str:
    """A value of an axis; nothing where the run leaves that as it is."""
    return f"{value:g}" if isinstance(value, float) else "" if value is None else str(value)
