"""The verb `collect`: write results.jsonl and show it."""

from __future__ import annotations

import argparse

from launcher.cli.arguments import complained, sweep_arguments
from launcher.cli.selection import open_sweep
from launcher.cli.watch import show_results

EXAMPLES = ("python -m launcher collect smoke",)
arguments = sweep_arguments


def collect(options: argparse.Namespace) -> int:
    """Write results.jsonl and show it."""
    directory, store, scheduler = open_sweep(options)
    return complained(show_results(directory, store, scheduler))
