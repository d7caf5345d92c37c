"""The verb `report`: the report on a sweep, or on several; the same as `python -m analysis`."""

from __future__ import annotations

import argparse
from pathlib import Path

from launcher.cli.arguments import Parser
from launcher.cli.selection import find_sweep

EXAMPLES = (
    "python -m launcher report smoke",
    "python -m launcher report dpo ipo --output /tmp/both",
    "python -m launcher report smoke --json | jq '.models[].losses[] | {loss_type, rerun, probability}'",
)


def arguments(parser: Parser) -> None:
    """What the verb may be given."""
    where = "where to write it (default: SWEEP_DIR/report; of several, FIRST/report-with-OTHERS)"
    default = "names, or folders that hold a results.jsonl (default: the sweep launched last)"
    parser.add_argument("sweeps", nargs="*", metavar="SWEEP", help=default)
    parser.add_argument("--output", type=Path, metavar="DIR", help=where)
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")


def report(options: argparse.Namespace) -> int:
    """Write the report on what `collect` has written, and say what is best."""
    from analysis.__main__ import report_on

    return report_on(
        [_folder(options, named) for named in options.sweeps or [None]], options.output, as_json=options.json
    )


def _folder(options: argparse.Namespace, named: str | None) -> Path:
    """A sweep's folder as it is printed: below the folder where one is."""
    if named is not None and (Path(named).is_file() or (Path(named) / "results.jsonl").is_file()):
        return Path(named)
    folder, here = find_sweep(options, named).path, Path.cwd()
    return folder.relative_to(here) if folder.is_relative_to(here) else folder
