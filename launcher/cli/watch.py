"""What happens between a submission and its results: local jobs are followed to their end, detached ones left alone.

Owns: the wait, and what Ctrl-C does in it. Must not know: why anything was submitted, or how a job is run.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from functools import partial

from launcher.cli.arguments import DONE, FAILED, complained
from launcher.cli.selection import runs_of
from launcher.cluster.scheduler import Scheduler
from launcher.evaluation.missing_benchmarks import awaits_judge
from launcher.machine.terminal import complain
from launcher.runs.cancel import cancel
from launcher.runs.run_state import RunState, states_of
from launcher.runs.status import BAD
from launcher.runs.unreadable import Reading
from launcher.store.facts import Job
from launcher.store.output_folder import Store, SweepDir
from launcher.store.run_folder import RunDir
from launcher.store.work_done import lacking
from launcher.submission.decide import Action, Decision
from launcher.submission.plan import Plan
from launcher.views import results
from launcher.views import states as views_states
from launcher.views.live import Progress

POLL_SECONDS = 2.0


def after_submission(plan: Plan, jobs: Iterable[Job], store: Store, scheduler: Scheduler, *, quiet: bool) -> int:
    """Follow local jobs to their end; leave detached ones alone. `jobs`: those that the plan became."""
    directory = store.sweep(plan.sweep.name)
    submitted = [d for d in plan.decisions if d.action is not Action.SKIP]
    if quiet:
        code, faults = DONE, list[str]()
    elif scheduler.detached:
        views_states.say_submitted(directory, len(submitted), _ids_of(jobs))
        code, faults = DONE, list[str]()
    else:
        code, faults = _follow(plan.decisions, directory, store, scheduler)
    return complained([*faults, *damages_in(plan, directory)]) or code


def _ids_of(jobs: Iterable[Job]) -> list[str]:
    """The ids of the jobs, an array's once."""
    return list(dict.fromkeys(job.job_id.partition("_")[0] for job in jobs))


def damages_in(plan: Plan, directory: SweepDir) -> list[str]:
    """What could not be read, for which runs of the plan, or of the sweep, were left alone."""
    return [*directory.faults(), *(decision.why for decision in plan.decisions if decision.unreadable)]


def _follow(
    decisions: Sequence[Decision], directory: SweepDir, store: Store, scheduler: Scheduler
) -> tuple[int, list[str]]:
    """Wait for the runs' ends, and show their results; what could not be read of them, a line each."""
    runs = [store.run(decision.run.run_id) for decision in decisions]
    states = watch(runs, directory, scheduler)
    if states is None:
        return FAILED, []
    faults = show_results(directory, store, scheduler)
    wanted = (decision.run.config.evaluation.benchmarks for decision in decisions)
    failed = any(state.status in BAD for state in states) or any(map(lacking, runs, wanted))
    return (FAILED if failed else DONE), faults


def watch(runs: Sequence[RunDir], directory: SweepDir, scheduler: Scheduler) -> list[RunState] | None:
    """Show how the runs do until none is in flight; None where the user has ended it."""
    try:
        with Progress(directory) as progress:
            while True:
                states = states_of(runs, scheduler)
                progress.show(states)
                if not any(state.in_flight for state in states):
                    break
                time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        stopped = cancel(states_of(runs, scheduler), scheduler, warn=complain)
        views_states.say_interrupted(directory, len(stopped))
        return None
    return states


def show_results(directory: SweepDir, store: Store, scheduler: Scheduler) -> list[str]:
    """Write results.jsonl from what is there now, and show it; returns what could not be read, a line each."""
    from launcher.runs.collect import collect

    runs, faults = runs_of(directory, store), directory.faults()
    read = Reading(faults.append)
    results.show_results(directory, collect(directory, store, states_of(runs, scheduler), read))
    results.say_unjudged(directory, [run.run_id for run in runs if read(partial(awaits_judge, run))])
    return faults
