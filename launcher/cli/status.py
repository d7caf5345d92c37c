"""The verb `status`: the states of a sweep's runs."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

from launcher.cli.arguments import Parser, complained, count, sweep_arguments
from launcher.cli.selection import open_sweep, runs_of
from launcher.cluster.scheduler import Scheduler
from launcher.errors import SchedulerError
from launcher.machine.terminal import complain
from launcher.runs.around import Around
from launcher.runs.idle_jobs import idle_jobs
from launcher.runs.run_data import data_of
from launcher.runs.run_state import RunState, states_of
from launcher.runs.unreadable import damages_of
from launcher.store.run_folder import RunDir
from launcher.views import states as views_states
from launcher.views.data import show_data

EXAMPLES = (
    "python -m launcher status",
    "python -m launcher status smoke --watch",
    "python -m launcher status smoke --json | jq '.runs[] | select(.status==\"FAILED\")'",
)


def arguments(parser: Parser) -> None:
    """What the verb may be given."""
    sweep_arguments(parser)
    parser.add_argument("--watch", action="store_true", help="again and again, until nothing is in flight")
    parser.add_argument(
        "--show-data", type=count, default=0, metavar="N", help="print the first N rows (at most 3) as trained on"
    )
    parser.add_argument("--every", type=float, default=30.0, metavar="S", help="seconds between two (default: 30)")


def status(options: argparse.Namespace) -> int:
    """Show the states of a sweep's runs, once or until none is in flight."""
    directory, store, scheduler = open_sweep(options)
    while True:
        damages = directory.faults()  # before there are states: of thousands of runs each takes much memory
        runs = runs_of(directory, store)
        around = Around.of(runs)
        states = _states_or_complaint(runs, scheduler, around, raises=not options.watch)
        if states is not None:
            for fault in around.faults:
                complain(fault)
            faults = damages_of(damages, [state.facts for state in states])
            data = data_of(states, faults.append)
            idle = idle_jobs(directory, states, scheduler, complain, around)
            views_states.show_status(directory, states, data, idle, as_json=options.json, clear=options.watch)
            if not options.json:
                show_data(data, options.show_data)
            if not options.watch or not any(state.in_flight for state in states):
                return complained(faults)
        time.sleep(max(options.every, scheduler.poll_seconds))


def _states_or_complaint(
    runs: Sequence[RunDir], scheduler: Scheduler, around: Around, *, raises: bool
) -> list[RunState] | None:
    """The states; None where the scheduler did not answer and the user is watching anyway."""
    try:
        return states_of(runs, scheduler, around)
    except SchedulerError as error:
        if raises:
            raise
        complain(str(error))
        return None
