"""The verb `dashboard`: open the sweep's dashboard, its tracker's or, where it has none, its own page."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from launcher.cli.arguments import DONE, Parser
from launcher.cli.selection import open_sweep
from launcher.cli.watch import POLL_SECONDS
from launcher.cluster.scheduler import Scheduler
from launcher.machine.terminal import command
from launcher.machine.users import our_name
from launcher.store.output_folder import Store, SweepDir
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
    from launcher.tracking.dashboard import has_tracker, open_dashboard

    directory, store, scheduler = open_sweep(options)
    with contextlib.suppress(KeyboardInterrupt):
        if has_tracker(directory):
            lines, serving = open_dashboard(directory, options.port, browser=not options.no_browser)
            results.say_dashboard(lines, serving=serving)
            if serving:
                _wait()
        else:
            _serve(options, directory, store, scheduler)
    return DONE


def _serve(options: argparse.Namespace, directory: SweepDir, store: Store, scheduler: Scheduler) -> None:
    """Serve the sweep's own page until Ctrl-C, or the end that `kill` asks for."""
    from launcher.live.page import SweepPage

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with SweepPage(directory, store, scheduler, options.port) as page, _opened(page.server.address, options) as opened:
        port = page.server.port
        here = f"{our_name()}@{socket.gethostname()}"
        tunnel = command("ssh", "-N", "-L", f"{port}:127.0.0.1:{port}", here)
        elsewhere = f"from another machine: `{tunnel}` there, then the same address; it holds the key to the page"
        results.say_dashboard([page.server.address, *([] if opened else [elsewhere])], serving=True)
        _wait()


def _wait() -> None:
    """Until Ctrl-C."""
    while True:
        time.sleep(POLL_SECONDS)


@contextlib.contextmanager
def _opened(address: str, options: argparse.Namespace) -> Iterator[bool]:
    """Within, a browser may open the page: by a file that leads there, since everybody sees a command's arguments.

    Yields whether one was asked to: there is none to be seen at the other end of ssh, nor without a display.
    """
    has_display = sys.platform == "darwin" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if options.no_browser or not has_display or os.environ.get("SSH_CONNECTION"):
        yield False
        return
    import webbrowser

    with tempfile.TemporaryDirectory() as folder:  # which nobody else may enter
        Path(folder).chmod(stat.S_IRWXU)
        file = Path(folder) / "open.html"
        file.write_text(f'<!doctype html><meta http-equiv="refresh" content="0; url={address}">', encoding="utf-8")
        yield webbrowser.open(file.as_uri())
