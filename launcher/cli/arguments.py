"""What the command line has in common: the verbs' names, arguments that several of them take, exit codes.

Owns: these. Must not know: what a verb does or takes besides, or anything of a sweep.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

from launcher.errors import UsageError
from launcher.machine import terminal
from launcher.machine.terminal import complain

AS_MODULE = "python -m launcher"
DONE, FAILED, WRONG = 0, 1, 2  # exit codes: WRONG is the command or the config


VERBS = {
    "status": "the runs of a sweep: state, step, time left, reason",
    "logs": "what a run printed",
    "cancel": "stop runs that are in flight; they keep their checkpoints",
    "resume": "submit again what failed, was cancelled, timed out or got lost",
    "run": "one run in this process",
    "evaluate": "measure what is missing: answers in jobs, judging here",
    "collect": "write results.jsonl from what is there now",
    "suggest": "the settings and seeds to run next, and the command that launches them",
    "dashboard": "the sweep's own page while it runs, or that of its tracker: W&B, trackio, TensorBoard",
    "fetch": "what nodes without internet need: models, data, judge questions, fetched here",
    "sync": "upload what nodes without internet kept for W&B",
    "publish": "push the models that are trained and not published, each as one revision",
    "report": "the report on a sweep, or on several: tables, figures, one page",
    "list": "the sweeps in the output folder: runs, states, when they were launched, disk",
    "du": "what takes the disk: of all, or of a sweep, run by run",
    "rm": "delete a sweep with its runs, or some of its runs",
    "gc": "delete what nothing refers to any more",
    "completion": "the script that completes commands in bash, zsh or fish",
    "schema": "the JSON schema of a YAML file, for editors: completion, meanings, mistyped keys",
    "doctor": "what this machine and its cluster offer, and a file for conf/cluster",
}


def complained(faults: Iterable[str]) -> int:
    """Say what could not be read, a line for each; the exit code is that of a failure where there is any."""
    lines = dict.fromkeys(faults)
    for line in lines:
        complain(line)
    return FAILED if lines else DONE


def folder_given(override: str) -> str:
    """The folder of `output_dir=FOLDER`, which may be quoted as Hydra has it."""
    text = override.partition("=")[2]
    if not set(text) & set("\"'\\"):
        return text
    from launcher.planning.overrides import parse  # imports Hydra, which no other verb waits for

    return str(parse(override).value())


class Parser(argparse.ArgumentParser):
    """argparse with our one-line errors."""

    def error(self, message: str) -> NoReturn:
        """Raise what a wrong command line is."""
        raise UsageError(f"{message}; see `{self.prog} --help`")


def count(text: str) -> int:
    """A number of at least 1, as argparse's `type`."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no number of at least 1")
    return int(text)


def folder(text: str) -> Path:
    """A folder, as argparse's `type`: none is no folder, and not this one (a variable that nobody has set)."""
    if not text:
        raise argparse.ArgumentTypeError("is empty; give a folder, or leave it out")
    return Path(text)


def sweep_arguments(parser: Parser, default: str = "the sweep launched last") -> None:
    """A sweep, and JSON."""
    parser.add_argument("sweep", nargs="?", metavar="SWEEP", help=f"by name or folder; default: {default}")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")


def chosen_arguments(parser: Parser, which: str = "run ids or their beginnings (default: all)") -> None:
    """A sweep, and which of its runs."""
    parser.add_argument("sweep", metavar="SWEEP")
    parser.add_argument("runs", nargs="*", default=[], metavar="RUN", help=which)
    from launcher.runs.status import Status  # imports what facts are made of, which no completion waits for

    states = [status.lower() for status in Status]
    parser.add_argument("--state", action="append", default=[], choices=states, help="only runs in this state")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")


def program() -> str:
    """How this program was called, in one piece."""
    return " ".join(terminal.program())


def as_called(text: str) -> str:
    """Commands of a help text as this program was called."""
    return text.replace(AS_MODULE, program())
