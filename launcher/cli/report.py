"""The verb `report`: the report on a sweep, or on several; the same as `python -m analysis`."""

from __future__ import annotations

import argparse
from pathlib import Path

from launcher.cli.arguments import Parser
from launcher.cli.selection import find_sweep, runs_of, store_of, sweep_at
from launcher.cluster.scheduler import scheduler_to_ask
from launcher.machine import rights
from launcher.runs.collect import collect
from launcher.runs.run_state import states_of
from launcher.runs.unreadable import Reading
from launcher.store.output_folder import SweepDir
from launcher.views.console import show_notes

EXAMPLES = (
    "python -m launcher report smoke",
    "python -m launcher report dpo ipo --output /tmp/both",
    "python -m launcher report smoke --json | jq '.models[].losses[] | {loss_type, rerun: .curve.rerun}'",
)


def arguments(parser: Parser) -> None:
    """What the verb may be given."""
    where = "where to write it (default: SWEEP_DIR/report; of several, FIRST/report-with-OTHERS)"
    default = "names, or folders that hold a results.jsonl (default: the sweep launched last)"
    parser.add_argument("sweeps", nargs="*", metavar="SWEEP", help=default)
    parser.add_argument("--output", type=Path, metavar="DIR", help=where)
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")


def report(options: argparse.Namespace) -> int:
    """Collect what there is by now, write the report on it, and say what is best."""
    from analysis.__main__ import report_on

    return report_on(
        [_folder(options, named) for named in options.sweeps or [None]], options.output, as_json=options.json
    )


def _folder(options: argparse.Namespace, named: str | None) -> Path:
    """A sweep's folder as it is printed, below the folder where one is, with results of now; or results elsewhere."""
    place = Path(named or "")
    if named and sweep_at(place) is None and (place.is_file() or (place / "results.jsonl").is_file()):
        return place
    directory, here = find_sweep(options, named), Path.cwd()
    show_notes(_collected(directory))
    return directory.path.relative_to(here) if directory.path.is_relative_to(here) else directory.path


def _collected(directory: SweepDir) -> list[str]:
    """Write results.jsonl as `collect` does; returns what could not be read, and that it could not be written."""
    store, faults = store_of(directory), list[str]()
    try:
        collect(directory, store, states_of(runs_of(directory, store), scheduler_to_ask()), Reading(faults.append))
    except OSError as error:
        faults.append(
            f"results.jsonl cannot be written: {rights.denied(error) or error}; the report is on what it holds"
        )
    return faults
