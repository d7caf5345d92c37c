"""The verb `suggest`: which settings and seeds to run next, and the command that launches them."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from launcher.cli.arguments import Parser, complained, count, sweep_arguments
from launcher.cli.selection import open_sweep, runs_of
from launcher.errors import StoreError, UsageError
from launcher.machine.default_folder import default_output_dir
from launcher.planning.asked import excluded_by
from launcher.planning.further import Further, words_for
from launcher.planning.overrides import meaning
from launcher.runs.collect import collect
from launcher.runs.run_state import states_of
from launcher.runs.unreadable import Reading
from launcher.store.facts import RunRecord
from launcher.store.output_folder import Store, SweepDir
from launcher.views import suggestion

if TYPE_CHECKING:
    from analysis.next_runs import Suggestion

EXAMPLES = (
    "python -m launcher suggest smoke",
    "python -m launcher suggest smoke --runs 12",
    "python -m launcher suggest smoke --json | jq -r .command",
)
_FEW = 6


def arguments(parser: Parser) -> None:
    """What the verb may be given."""
    sweep_arguments(parser)
    parser.add_argument("--runs", type=count, default=_FEW, metavar="N", help=f"how many runs (default: {_FEW})")


def suggest(options: argparse.Namespace) -> int:
    """Show which runs tell most about which setting is best; launches nothing."""
    directory, store, scheduler = open_sweep(options)
    faults = directory.faults()
    collect(directory, store, states_of(runs_of(directory, store), scheduler), Reading(faults.append))
    found = _suggested(directory, options.runs, _left_out(directory))
    records = {record.run_id: record for record in directory.run_records()}
    words = words_for(_further(found, records), directory.name, _said(store)) if found.runs else []
    suggestion.show_suggestion(directory, found, words, _not_measured(found, records), as_json=options.json)
    return complained(faults)


def _left_out(directory: SweepDir) -> Callable[[str, Mapping[str, Any]], bool]:
    """Tells whether a run like one of the sweep, but for some values, is among what its sweep files exclude."""
    excluded = tuple(each for launch in directory.launches() for each in excluded_by(launch.argv))
    records = {record.run_id: record for record in directory.run_records()} if excluded else {}

    def left_out(like: str, changed: Mapping[str, Any]) -> bool:
        if not excluded or not changed:
            return False
        meant = set(map(meaning, Further(records[like], changed).overrides.values()))
        return any(each <= meant for each in excluded)

    return left_out


def _suggested(directory: SweepDir, runs: int, left_out: Callable[[str, Mapping[str, Any]], bool]) -> Suggestion:
    try:
        from analysis.next_runs import suggest as next_runs
        from analysis.read import ResultsError
    except ImportError as error:
        raise UsageError(f"{error.name or error} is not installed here; pip install 'prefsweep[analysis]'") from error
    try:
        return next_runs(directory.results_file, runs, left_out)
    except ResultsError as error:
        raise StoreError(str(error)) from error


def _further(found: Suggestion, records: Mapping[str, RunRecord]) -> list[Further]:
    return [Further(records[run.like], {**run.changed, "seed": run.seed}) for run in found.runs]


def _not_measured(found: Suggestion, records: Mapping[str, RunRecord]) -> list[str]:
    """The benchmarks by which settings were compared, and which are not of the runs' own evaluation."""
    evaluated = (records[run.like].settings.get("evaluation", {}).get("benchmarks", ()) for run in found.runs)
    own = set[str]().union(*evaluated)
    return [name for name in found.benchmarks if own and name not in own]


def _said(store: Store) -> str | None:
    """The folder of everything, where a launch from here has to be told."""
    return None if store.root == default_output_dir().absolute() else str(store.root)
