"""``python -m analysis SWEEP_DIR``: write the report on a sweep.

Owns: the command line; the only module that prints. Must not know: what a report consists of.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from launcher.machine.rights import denied
from launcher.machine.terminal import complain, prepare_streams, say, say_json, until_unread

if TYPE_CHECKING:
    from analysis.report import Report

_LONGEST = 100  # characters of a folder's name
_EXAMPLES = """\
examples:
  python -m launcher collect demo               gather the results of the sweep "demo"
  python -m analysis outputs/sweeps/demo        write its report to outputs/sweeps/demo/report/
  python -m analysis outputs/sweeps/demo --output /tmp/demo-report
  python -m analysis outputs/sweeps/dpo outputs/sweeps/ipo    one report on two sweeps
  python -m analysis outputs/sweeps/demo --json | jq '.models[].losses[] | {loss_type, rerun: .curve.rerun}'

exit codes: 0 done, 2 the results are missing or broken, or the report cannot be written
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command; give its exit code (0 done, 2 with one line on stderr)."""
    prepare_streams()
    return until_unread(lambda: _answer(_parser().parse_args(argv)))


def _answer(arguments: argparse.Namespace) -> int:
    return report_on(arguments.sweep_dir, arguments.output, as_json=arguments.json)


def report_on(sweep_dir: list[Path], output: Path | None, *, as_json: bool) -> int:
    """Write the report on these sweeps and say what is best; give the exit code."""
    try:
        return _write(_distinct(sweep_dir), output, as_json=as_json)
    except ImportError as error:
        return _refuse(f"{error.name or error}: not installed here; pip install 'prefsweep[analysis]'")
    except PermissionError as error:
        return _refuse(denied(error) or str(error))


def _write(sweep_dir: list[Path], output: Path | None, *, as_json: bool) -> int:
    """Write the report on these sweeps, with the packages that it takes."""
    from analysis.read import ResultsError, ResultsWarning, load
    from analysis.report import write

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", ResultsWarning)
        try:
            frame = load(*sweep_dir)
            notes = [str(each.message) for each in caught]
        except ResultsError as error:
            return _refuse(str(error))
        try:
            report = write(frame, output or _folder(sweep_dir), notes)
        except OSError as error:
            why = denied(error) or f"{error.filename}: cannot be written ({error.strerror})"
            return _refuse(f"{why}; or choose another --output")
    for note in notes:
        complain(note, "warning")
    if as_json:
        say_json(report.told)
    else:
        say(_told(report))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m analysis",
        description="Write a report (one page, figures, tables) from the results.jsonl of a sweep, or of several.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "sweep_dir", type=Path, nargs="+", metavar="SWEEP_DIR", help="the folder that holds results.jsonl; or several"
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="where to write the report (default: SWEEP_DIR/report; of several, FIRST/report-with-OTHERS)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    return parser


def _folder(given: list[Path]) -> Path:
    """Give the default folder of a report; a report on several sweeps does not replace that on the first alone."""
    first, *others = [each.parent if each.is_file() else each for each in given]
    names = "+".join(each.absolute().name for each in others)
    return first / (f"report-with-{names}"[:_LONGEST] if others else "report")


def _distinct(given: list[Path]) -> list[Path]:
    """The sweeps, each once, however its folder is spelt."""
    found: dict[Path, Path] = {}
    for each in given:
        found.setdefault((each.parent if each.is_file() else each).resolve(), each)
    return list(found.values())


def _refuse(text: str) -> int:
    complain(text, "error")
    return 2


def _told(report: Report) -> str:
    """Give the report's path and the best settings."""
    told = f"report: {report.page}"
    from tabulate import tabulate

    if not report.best:
        return f"{told}\nno run has been evaluated yet"
    return f"{told}\n{tabulate(report.best, headers='keys', tablefmt='simple', disable_numparse=True)}"


if __name__ == "__main__":
    sys.exit(main())
