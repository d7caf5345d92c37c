"""The verb `sync`: upload what nodes without internet kept for W&B."""

from __future__ import annotations

import argparse

from launcher.cli.arguments import DONE, FAILED, Parser
from launcher.cli.selection import open_sweep, runs_of
from launcher.runs.run_state import states_of
from launcher.views import results

EXAMPLES = ("python -m launcher sync smoke",)


def arguments(parser: Parser) -> None:
    """What the verb may be given."""
    parser.add_argument("sweep", nargs="?", metavar="SWEEP", help="default: the sweep launched last")


def sync(options: argparse.Namespace) -> int:
    """Upload what nodes without internet kept for W&B, of the runs that have ended."""
    from launcher.tracking.sync import pending, upload

    directory, store, scheduler = open_sweep(options)
    states = states_of(runs_of(directory, store), scheduler)
    waiting = sum(state.in_flight for state in states)
    uploaded = upload(pending(state.run for state in states if not state.in_flight))
    results.say_uploaded(directory, len(uploaded.done), len(uploaded.left), waiting, uploaded.words)
    return FAILED if uploaded.left else DONE
