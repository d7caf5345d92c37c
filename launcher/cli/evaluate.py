"""The verb `evaluate`: measure what is missing, and have a judge rate it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from launcher.cli.arguments import DONE, FAILED, Parser, complained
from launcher.cli.selection import open_sweep, runs_of
from launcher.cli.watch import show_results, watch
from launcher.cluster.scheduler import Scheduler, scheduler_for, scheduler_to_ask
from launcher.config import Judge
from launcher.evaluation import scores
from launcher.evaluation.judge import estimate
from launcher.machine.terminal import complain, say
from launcher.planning import changes
from launcher.planning.launches import recorded_sweep
from launcher.store.output_folder import Store, SweepDir
from launcher.store.work_done import lacking
from launcher.submission.adopt import adopt
from launcher.submission.decide import Action, Decision, decide
from launcher.submission.environment import in_environment
from launcher.submission.plan import plan_batches
from launcher.submission.submit import act
from launcher.sweep import Sweep
from launcher.views import console, plan, results
from launcher.views import states as views_states

EXAMPLES = (
    "python -m launcher evaluate smoke",
    "python -m launcher evaluate smoke --benchmark mt_bench evaluation.judge.base_url=URL evaluation.judge.model=NAME",
    "python -m launcher evaluate smoke --again evaluation.generations=256",
)


def evaluate(options: argparse.Namespace) -> int:
    """Measure what is missing: answers in jobs, then judging here."""
    from launcher.machine.installed import trl_losses
    from launcher.planning.prerequisites import check_benchmarks, shut_to_group

    directory, store, _ = open_sweep(options)
    sweep = changes.with_evaluation(
        recorded_sweep(directory, store, trl_losses()), options.benchmark, options.overrides
    )
    check_benchmarks(sweep)
    judge = scores.judge_of(sweep)
    if not options.dry_run and scores.needs_judge(sweep, store, again=options.again):
        scores.check_judge(sweep, judge, again=options.again)
    anew = scores.anew(sweep, store) if options.again else {}
    scheduler = scheduler_for(sweep.runs[0].config.cluster.executor)
    sweep, taken = in_environment(sweep, scheduler)
    with store.submitting():
        adopt(runs_of(directory, store), scheduler)
        every = [run.run_id for run in sweep.runs]
        decided = decide(sweep, store, scheduler, anew=anew, insisted=every)
        decisions = [d for d in decided if d.action is Action.EVALUATE]
        planned = plan_batches(sweep, decisions, store, scheduler, decided)
        if decisions:
            plan.show_plan(planned, None, store, as_json=False, sources=taken)
            console.show_notes(shut_to_group(store.root))
        if not options.dry_run:
            scores.set_aside({d.run.run_id: anew.get(d.run.run_id, ()) for d in decisions}, store)
            act(planned, store, scheduler, None)
    if decisions and not options.dry_run and not _follow(decisions, directory, store, scheduler):
        return FAILED
    return _judge(sweep, store, judge, options, decided=bool(decisions))


def _follow(decisions: Sequence[Decision], directory: SweepDir, store: Store, scheduler: Scheduler) -> bool:
    """Follow local jobs to their end, leave detached ones alone; whether, as far as is known, they succeed."""
    if scheduler.detached:
        judged = any("mt_bench" in decision.run.config.evaluation.benchmarks for decision in decisions)
        views_states.say_submitted_to_evaluate(directory, len(decisions), judged=judged)
        return True
    runs = [store.run(decision.run.run_id) for decision in decisions]
    watched = watch(runs, directory, scheduler)
    wanted = [decision.run.config.evaluation.benchmarks for decision in decisions]
    if watched is not None and any(map(lacking, runs, wanted)):
        complained(show_results(directory, store, scheduler))
    return watched is not None and not any(map(lacking, runs, wanted))


def _judge(sweep: Sweep, store: Store, judge: Judge, options: argparse.Namespace, *, decided: bool) -> int:
    """Have the judge rate what awaits it, with its cost before and after; `decided`: whether jobs evaluate, too."""
    with scores.only_judge(store):
        waiting = scores.answers_to_judge(sweep, store, again=options.again)
        opened = scores.open_judgements(waiting, judge, again=options.again)
        if waiting:
            results.say_to_judge(waiting, estimate(opened, judge), judge)
        if options.dry_run:
            models, cost = scores.judging_ahead(sweep, store)
            console.say_judging_ahead(models, cost, judge)
            if not (decided or waiting or models):
                say(f"nothing to evaluate: the trained runs of {sweep.name} have all that is asked for")
            return DONE
        if waiting:
            try:
                spent = scores.judge_all(waiting, opened, judge, results.judging_progress())
            except KeyboardInterrupt:
                complain("stopped; what was judged is kept, and the same command goes on")
                return FAILED
            results.say_judged(spent, waiting)
    results.say_judged_otherwise(scores.judged_otherwise(sweep, store), judge)
    directory = store.sweep(sweep.name)
    return complained(show_results(directory, store, scheduler_to_ask()))


def arguments(parser: Parser) -> None:
    """What the verb may be given."""
    parser.add_argument("sweep", metavar="SWEEP")
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="evaluation...=value", help="in place of what it was launched with"
    )
    named = "only this one (may be given again); default: those of evaluation.benchmarks"
    parser.add_argument("--benchmark", action="append", default=[], metavar="NAME", help=named)
    parser.add_argument(
        "--again",
        action="store_true",
        help="also what is there already, which is kept under a number and holds until the new is there",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="only show what would be measured and what judging costs"
    )
