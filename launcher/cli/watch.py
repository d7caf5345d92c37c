"""What happens between a submission and its results: local jobs are followed to their end, detached ones left alone.

Owns: the wait, and what Ctrl-C does in it. Must not know: why anything was submitted, or how a job is run.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from launcher.cli.arguments import DONE, FAILED
from launcher.cli.selection import runs_of
from launcher.cluster.scheduler import Scheduler
from launcher.evaluation.missing_benchmarks import awaits_judge
from launcher.runs.cancel import cancel
from launcher.runs.run_state import RunState, states_of
from launcher.runs.status import UNSUCCESSFUL
from launcher.store.output_folder import Store, SweepDir
from launcher.store.run_folder import RunDir
from launcher.store.work_done import lacking
from launcher.submission.decide import Action, Decision
from launcher.submission.plan import Plan
from launcher.views import results
from launcher.views import states as views_states

POLL_SECONDS = 2.0


def after_submission(plan: Plan, store: Store, scheduler: Scheduler, *, quiet: bool) -> int:
    """Follow local jobs to their end; leave detached ones alone."""
    directory = store.sweep(plan.sweep.name)
    submitted = [d for d in plan.decisions if d.action is not Action.SKIP]
    if scheduler.detached or quiet:
        views_states.say_submitted(directory, len(submitted), quiet=quiet)
        return DONE
    return _follow(plan.decisions, directory, store, scheduler)


def _follow(decisions: Sequence[Decision], directory: SweepDir, store: Store, scheduler: Scheduler) -> int:
    runs = [store.run(decision.run.run_id) for decision in decisions]
    states = watch(runs, directory, scheduler)
    if states is None:
        return FAILED
    show_results(directory, store, scheduler)
    wanted = (decision.run.config.evaluation.benchmarks for decision in decisions)
    failed = any(state.status in UNSUCCESSFUL for state in states) or any(map(lacking, runs, wanted))
    return FAILED if failed else DONE


def watch(runs: Sequence[RunDir], directory: SweepDir, scheduler: Scheduler) -> list[RunState] | None:
    """Show how the runs do until none is in flight; None where the user has ended it."""
    try:
        with views_states.Progress(directory) as progress:
            while True:
                states = states_of(runs, scheduler)
                progress.show(states)
                if not any(state.in_flight for state in states):
                    break
                time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        stopped = cancel(states_of(runs, scheduler), scheduler)
        views_states.say_interrupted(directory, len(stopped))
        return None
    return states


def show_results(directory: SweepDir, store: Store, scheduler: Scheduler) -> None:
    """Write results.jsonl from what is there now, and show it."""
    from launcher.runs.collect import collect

    runs = runs_of(directory, store)
    results.show_results(directory, collect(directory, store, states_of(runs, scheduler)))
    results.say_unjudged(directory, [run.run_id for run in runs if awaits_judge(run)])
