"""The verb `dashboard`: open the sweep's dashboard."""

from __future__ import annotations

import argparse
import time

from launcher.cli.arguments import DONE, Parser
from launcher.cli.selection import open_sweep
from launcher.cli.watch import POLL_SECONDS
from launcher.views import results

EXAMPLES = (
    "python -m launcher dashboard smoke",
    "python -m launcher dashboard smoke --port 7860 --no-browser",
)


def arguments(parser: Parser) -> None:
    """What the verb may be given."""
    parser.add_argument("sweep", nargs="?", metavar="SWEEP", help="default: the sweep launched last")
    parser.add_argument("--port", type=int, metavar="P", help="of the local page, on loopback (default: a free one)")
    parser.add_argument("--no-browser", action="store_true", help="print the local page's address only")


def dashboard(options: argparse.Namespace) -> int:
    """Open the sweep's dashboard; serve it until Ctrl-C where it is a local page."""
    from launcher.tracking.dashboard import open_dashboard

    directory, _, _ = open_sweep(options)
    lines, serving = open_dashboard(directory, options.port, browser=not options.no_browser)
    results.say_dashboard(lines, serving=serving)
    try:
        while serving:
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        pass
    return DONE
