"""`schema`: what an editor has to know of a YAML file of ours.

Owns: its arguments. Must not know: what a schema says.
"""

from __future__ import annotations

import argparse

from launcher.cli.arguments import DONE, Parser
from launcher.machine.terminal import say_json
from launcher.planning.schema import KINDS, SWEEP, schema_of

EXAMPLES = (
    "python -m launcher schema > sweep.schema.json             of a sweep file",
    "python -m launcher schema cluster > cluster.schema.json   of a file of conf/cluster",
    "# yaml-language-server: $schema=sweep.schema.json         the line in a YAML file that has an editor use it",
)


def arguments(parser: Parser) -> None:
    """The kind of file."""
    parser.add_argument(
        "kind", nargs="?", metavar="KIND", choices=KINDS, default=SWEEP, help=f"{', '.join(KINDS)} (default: {SWEEP})"
    )


def schema(options: argparse.Namespace) -> int:
    """Print it."""
    say_json(schema_of(options.kind))
    return DONE
