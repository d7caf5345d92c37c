"""The verb `cancel`: stop runs; they keep their checkpoints."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from launcher.cli.arguments import chosen_arguments, complained
from launcher.cli.selection import choose, open_sweep, runs_of
from launcher.cluster.scheduler import Scheduler, key_of
from launcher.machine.terminal import say
from launcher.runs.around import Around
from launcher.runs.cancel import cancel as stop
from launcher.runs.cancel import end_jobs
from launcher.runs.copies import in_originals
from launcher.runs.idle_jobs import idle_jobs
from launcher.runs.run_state import RunState
from launcher.runs.unreadable import damages_of
from launcher.store.output_folder import SweepDir
from launcher.submission.adopt import adopt
from launcher.views import states as views_states
from launcher.views.console import working

EXAMPLES = (
    "python -m launcher cancel smoke",
    "python -m launcher cancel smoke tiny-ipo",
    "python -m launcher cancel smoke --state pending",
)
arguments = chosen_arguments


def cancel(options: argparse.Namespace) -> int:
    """Ask the chosen runs to stop."""
    directory, store, scheduler = open_sweep(options)
    with store.submitting():
        runs = runs_of(directory, store)
        around = Around.of(runs, keeps=True)
        if adopt(runs, scheduler, around):
            around = Around.of(runs, keeps=True)
        states = choose(options, directory, store, scheduler, around)
        faults = damages_of(directory.faults(), [state.facts for state in states])
        faults += in_originals(state.facts for state in states)
        notes: list[str] = []
        with working() as tell:
            stopped = stop(states, scheduler, tell, faults.append, notes.append, around)
        if not options.runs and not options.state:
            notes += _without_idle(directory, states, scheduler, faults, around)
    for note in notes:
        say(note)
    done = {state.run for state in stopped}
    goes_on = [state for state in states if state.in_flight and state.run not in done]
    views_states.say_cancelled(directory, stopped, len(states), goes_on)
    return complained(faults)


def _without_idle(
    directory: SweepDir, states: Sequence[RunState], scheduler: Scheduler, faults: list[str], around: Around
) -> list[str]:
    """Have the jobs end that no run waits for; says which, and adds to `faults` why others go on."""
    idle = idle_jobs(directory, states, scheduler, faults.append, around)
    missed = end_jobs([each.job for each in idle], scheduler, faults.append)
    return [f"job {each.job.job_id} cancelled: it {each.what}" for each in idle if key_of(each.job) not in missed]
