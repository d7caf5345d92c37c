"""The verbs about what runs have come to: evaluate, collect, publish, dashboard, sync.

Owns: the order of each verb's steps; each takes its parsed arguments and returns the exit code.
Must not know: how anything is measured, judged, uploaded or worded; it calls those who do.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

from launcher import evaluating, views, views_plan, views_results, views_states
from launcher.arguments import DONE, FAILED
from launcher.benchmarks import lacking
from launcher.config import Judge
from launcher.following import POLL_SECONDS, show_results, watch
from launcher.handover import adopt
from launcher.hub_look import HubLook
from launcher.judging import estimate, require_judge
from launcher.plan import Sweep
from launcher.records import recorded_sweep
from launcher.scheduler import Scheduler, scheduler_for
from launcher.selection import chosen, opened, runs_of
from launcher.states import states_of
from launcher.store import Store, SweepDir
from launcher.submit import Action, Decision, act, decide


def collect(options: argparse.Namespace) -> int:
    """Write results.jsonl and show it."""
    directory, store, scheduler = opened(options)
    show_results(directory, store, scheduler)
    return DONE


def evaluate(options: argparse.Namespace) -> int:
    """Measure what is missing: answers in jobs, then judging here."""
    from launcher.resources import trl_losses
    from launcher.sources import check_benchmarks

    directory, store, _ = opened(options)
    sweep = evaluating.asked(recorded_sweep(directory, store, trl_losses()), options.benchmark, options.overrides)
    check_benchmarks(sweep)
    judge = evaluating.judge_of(sweep)
    if not options.dry_run and evaluating.needs_judge(sweep, store, again=options.again):
        require_judge(judge)
    scheduler = scheduler_for(sweep.runs[0].config.cluster.executor)
    with store.submission_lock:
        adopt(runs_of(directory, store), scheduler)
        if options.again:
            evaluating.set_aside(sweep, store)
        decisions = [d for d in decide(sweep, store, scheduler) if d.action is Action.EVALUATE]
        if decisions:
            views_plan.show_plan(sweep, decisions, None, store, as_json=False)
        if not options.dry_run:
            act(sweep, decisions, store, scheduler, {})
    if decisions and not options.dry_run and not _measured(decisions, directory, store, scheduler):
        return FAILED
    return _judge(sweep, store, judge, options)


def _measured(decisions: Sequence[Decision], directory: SweepDir, store: Store, scheduler: Scheduler) -> bool:
    """Follow local jobs to their end, leave detached ones alone; whether, as far as is known, they succeed."""
    if scheduler.detached:
        views_states.say_submitted_to_evaluate(directory, len(decisions))
        return True
    runs = [store.run(decision.run.run_id) for decision in decisions]
    watched = watch(runs, directory, scheduler)
    wanted = [decision.run.config.evaluation.benchmarks for decision in decisions]
    if watched is not None and any(map(lacking, runs, wanted)):
        show_results(directory, store, scheduler)
    return watched is not None and not any(map(lacking, runs, wanted))


def _judge(sweep: Sweep, store: Store, judge: Judge, options: argparse.Namespace) -> int:
    """Have the judge rate what awaits it, with its cost before and after."""
    with evaluating.only_judge(store):
        waiting = evaluating.answers_to_judge(sweep, store)
        opened = evaluating.open_judgements(waiting, judge, again=options.again)
        if waiting:
            views_results.say_to_judge(waiting, estimate(opened, judge), judge)
        if options.dry_run:
            views.say_judging_ahead(*evaluating.ahead(sweep, store), judge)
            return DONE
        if waiting:
            try:
                spent = evaluating.judge_all(waiting, opened, judge, views_results.judging_progress())
            except KeyboardInterrupt:
                views.complain("stopped; what was judged is kept, and the same command goes on")
                return FAILED
            views_results.say_judged(spent, waiting)
    views_results.say_judged_otherwise(evaluating.judged_otherwise(sweep, store), judge)
    directory = store.sweep(sweep.name)
    show_results(directory, store, scheduler_for("auto"))
    return DONE


def publish(options: argparse.Namespace) -> int:
    """Push the chosen runs' models, or with --dry-run only say which."""
    from launcher.publication import act, decide, gather

    directory, store, scheduler = opened(options)
    states = chosen(options, directory, store, scheduler)
    given, look = {"store": options.hub, "repo": options.repo, "public": options.public}, HubLook()
    publications = [each for state in states for each in decide(state, look, **given)]
    if options.dry_run:
        views_results.show_publications(directory, publications, as_json=options.json)
        return FAILED if any(each.verdict.error for each in publications) else DONE
    outcomes = []
    for number, publication in enumerate(publications, 1):
        views_results.say_pushing(publication, number, len(publications), quiet=options.json)
        outcomes.append(act(publication, store))
        views_results.say_outcome(outcomes[-1], number, len(publications), quiet=options.json)
    count, hub = options.collection, publications[0].hub if publications else None
    address = gather(outcomes, directory, hub, store, count) if count and hub else None
    views_results.show_published(directory, outcomes, address, as_json=options.json)
    return FAILED if any(outcome.error for outcome in outcomes) else DONE


def dashboard(options: argparse.Namespace) -> int:
    """Open the sweep's dashboard; serve it until Ctrl-C where it is a local page."""
    from launcher.dashboard import open_dashboard

    directory, _, _ = opened(options)
    lines, serving = open_dashboard(directory, options.port, browser=not options.no_browser)
    views_results.say_dashboard(lines, serving=serving)
    try:
        while serving:
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        pass
    return DONE


def sync(options: argparse.Namespace) -> int:
    """Upload what nodes without internet kept for W&B, of the runs that have ended."""
    from launcher.sync import pending, upload

    directory, store, scheduler = opened(options)
    states = states_of(runs_of(directory, store), scheduler)
    waiting = sum(state.in_flight for state in states)
    uploaded = upload(pending(state.run for state in states if not state.in_flight))
    views_results.say_uploaded(directory, len(uploaded.done), len(uploaded.left), waiting, uploaded.words)
    return FAILED if uploaded.left else DONE
