"""The verb `list`: the sweeps in the output folder."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping

from launcher.cli.arguments import FAILED, Parser, complained
from launcher.cli.selection import runs_of
from launcher.cluster.scheduler import scheduler_to_ask
from launcher.errors import SchedulerError
from launcher.machine.terminal import complain
from launcher.runs.run_state import RunState, states_of
from launcher.store.disk_use import space
from launcher.store.output_folder import Store, SweepDir
from launcher.views.disk import Row, show_sweeps

EXAMPLES = ("python -m launcher list", "python -m launcher list --json | jq -r '.[].sweep'")


def arguments(parser: Parser) -> None:
    """What the verb may be given."""
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")


def list_sweeps(options: argparse.Namespace) -> int:
    """Show each sweep: how many runs, their states in counts, when it was launched last, the disk that it takes."""
    store = Store(options.output_dir.absolute())
    sweeps = store.sweeps()
    runs = {run.path: run for sweep in sweeps for run in runs_of(sweep, store)}
    silence: str | None = None
    states: dict[str, RunState] = {}
    try:
        states = {state.run.run_id: state for state in states_of(list(runs.values()), scheduler_to_ask())}
    except SchedulerError as error:
        silence = f"{error}; the states are not known"
    rows = [_row(sweep, store, states) for sweep in sweeps]
    show_sweeps(store, rows, as_json=options.json)
    code = complained([fault for sweep in sweeps for fault in sweep.faults()])
    if silence is not None:
        complain(silence)
        return FAILED
    return code


def _row(sweep: SweepDir, store: Store, states: Mapping[str, RunState]) -> Row:
    runs = runs_of(sweep, store)
    found = Counter(str(states[run.run_id].status) for run in runs if run.run_id in states)
    disk = space([sweep.path, *(run.path for run in runs)]).taken
    return Row(sweep.name, len(runs), dict(found), sweep.launched(), disk)
