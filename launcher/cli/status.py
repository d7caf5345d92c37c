"""The verb `status`: the states of a sweep's runs."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from launcher.cli.arguments import Parser, complained, count, sweep_arguments
from launcher.cli.selection import open_sweep, runs_of
from launcher.cluster.scheduler import Scheduler
from launcher.errors import SchedulerError
from launcher.machine.terminal import Say, complain
from launcher.runs.around import Around
from launcher.runs.idle_jobs import Idle, idle_jobs
from launcher.runs.run_data import data_of
from launcher.runs.run_state import RunState, states_of
from launcher.runs.status import Status
from launcher.runs.unreadable import damages_of
from launcher.store.counts import DataCounts
from launcher.store.output_folder import Store, SweepDir
from launcher.views import states as views_states
from launcher.views.data import show_data
from launcher.views.live import Watch, can_redraw

EXAMPLES = (
    "python -m launcher status",
    "python -m launcher status smoke --watch",
    "python -m launcher status smoke --state failed --state timeout",
    "python -m launcher status smoke --json | jq '.runs[] | select(.status==\"FAILED\")'",
)


def arguments(parser: Parser) -> None:
    """What the verb may be given."""
    sweep_arguments(parser)
    parser.add_argument("--watch", action="store_true", help="on a screen of its own, until nothing is in flight")
    parser.add_argument(
        "--state", action="append", default=[], type=state, metavar="S", help="list only runs in this state"
    )
    parser.add_argument(
        "--show-data", type=count, default=0, metavar="N", help="print the first N rows (at most 3) as trained on"
    )
    parser.add_argument("--every", type=float, default=30.0, metavar="S", help="seconds between two (default: 30)")


def state(text: str) -> Status:
    """A state's name, however it is written, as argparse's `type`."""
    try:
        return Status(text.upper())
    except ValueError:
        known = ", ".join(Status)
        raise argparse.ArgumentTypeError(f"{text} is no state of a run; there are {known}") from None


@dataclass(frozen=True)
class Look:
    """What was found of a sweep at one moment."""

    states: Sequence[RunState]
    faults: list[str]
    data: Sequence[DataCounts]
    idle: Sequence[Idle]

    @property
    def over(self) -> bool:
        """Whether no run is in flight."""
        return not any(each.in_flight for each in self.states)


def status(options: argparse.Namespace) -> int:
    """Show the states of a sweep's runs, once or until none is in flight."""
    directory, store, scheduler = open_sweep(options)
    seconds = max(options.every, scheduler.poll_seconds)
    if options.watch and not options.json and can_redraw():
        return _watch(options, directory, store, scheduler, seconds)
    while True:
        look = _looked(directory, store, scheduler, complain, raises=not options.watch)
        if look is not None:
            _show(options, directory, look)
            if not options.watch or look.over:
                return complained(look.faults)
        time.sleep(seconds)


def _show(options: argparse.Namespace, directory: SweepDir, look: Look) -> None:
    views_states.show_status(directory, look.states, look.data, look.idle, as_json=options.json, only=options.state)
    if not options.json:
        show_data(look.data, options.show_data)


def _watch(options: argparse.Namespace, directory: SweepDir, store: Store, scheduler: Scheduler, seconds: float) -> int:
    """Show them on a screen until nothing is in flight or Ctrl-C; then what was shown last stays in the terminal."""
    last: Look | None = None
    said: list[str] = []
    with suppress(KeyboardInterrupt), Watch(directory, options.state) as screen:
        while last is None or not last.over:
            said.clear()
            last = _looked(directory, store, scheduler, said.append, raises=False) or last
            states = last.states if last else ()
            notes = [*said, *(last.faults if last else ()), *views_states.notes(directory, states)]
            notes += map(views_states.idle_line, last.idle if last else ())
            screen.show(states, notes, 0.0 if last and last.over else seconds)
    if last is None:
        return complained(said)
    _show(options, directory, last)
    return complained(last.faults)


def _looked(directory: SweepDir, store: Store, scheduler: Scheduler, warn: Say, *, raises: bool) -> Look | None:
    """What there is now; None where the scheduler did not answer and the user is watching anyway."""
    directory.check_there()
    damages = directory.faults()  # before there are states: of thousands of runs each takes much memory
    runs = runs_of(directory, store)
    around = Around.of(runs)
    try:
        states = states_of(runs, scheduler, around)
    except SchedulerError as error:
        if raises:
            raise
        warn(str(error))
        return None
    for fault in around.faults:
        warn(fault)
    faults = damages_of(damages, [each.facts for each in states])
    data = data_of(states, faults.append)
    return Look(states, faults, data, idle_jobs(directory, states, scheduler, warn, around))
