"""The verb `cancel`: stop runs; they keep their checkpoints."""

from __future__ import annotations

import argparse

from launcher.cli.arguments import chosen_arguments, complained
from launcher.cli.selection import choose, open_sweep, runs_of
from launcher.runs.cancel import cancel as stop
from launcher.runs.copies import in_originals
from launcher.runs.unreadable import damages_of
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
        adopt(runs_of(directory, store), scheduler)
        states = choose(options, directory, store, scheduler)
        faults = damages_of(directory, [state.facts for state in states])
        faults += in_originals(state.facts for state in states)
        with working() as tell:
            stopped = stop(states, scheduler, tell, faults.append)
    views_states.say_cancelled(directory, stopped, len(states))
    return complained(faults)
