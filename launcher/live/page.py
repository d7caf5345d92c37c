"""A sweep's own page: looked up again while it runs, and answered from memory.

Owns: when files and scheduler are asked, and which address shows what. Must not know: who may ask (`server`).
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from http import HTTPStatus
from importlib import resources
from typing import Self
from urllib.parse import parse_qs

from launcher.cluster.scheduler import Scheduler
from launcher.errors import PrefsweepError
from launcher.live.cost import Cost
from launcher.live.now import told
from launcher.live.report import LiveReport
from launcher.live.server import Answer, Server
from launcher.runs.run_state import RunState, states_of
from launcher.store.curve import Curves
from launcher.store.facts import RunName
from launcher.store.output_folder import Store, SweepDir
from launcher.views.live import Pace, shown_runs
from launcher.views.states import notes

READ_SECONDS = 3.0  # between two readings of the logs of runs at work
OVER_SECONDS = 30.0  # between two looks at a sweep of which nothing is in flight: it may be launched again
PARTS = {"": "html", "page.css": "css", "page.js": "javascript"}  # addresses, and what kind of text is there
# The report says itself which scripts it has, by their hashes; here only that it loads nothing, and who may frame it.
REPORT_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'self'"
)


class SweepPage:
    """The page of one sweep, on loopback, from `__enter__` to `__exit__`."""

    def __init__(self, directory: SweepDir, store: Store, scheduler: Scheduler, port: int | None) -> None:
        self._directory, self._store, self._scheduler = directory, store, scheduler
        self._curves, self._pace, self._cost = Curves(), Pace(), Cost(directory, store)
        self._report = LiveReport(directory, store)
        self._names: Sequence[RunName] = ()
        self._states: Sequence[RunState] = ()
        self._asked, self._look_again = 0.0, 0.0
        self._left: float | None = None
        self._complaints: list[str] = []
        self._now, self._version = b"{}", 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._go_on, daemon=True)
        self.server = Server(self.answer, port)

    def __enter__(self) -> Self:
        self._thread.start()
        self.server.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.server.__exit__()
        self._thread.join(1.0)  # it may be asking a scheduler that takes its time
        self._report.close()

    # ------------------------------------------------------------------------------------------ what is asked

    def answer(self, path: str, query: str) -> Answer | None:
        """What stands at this address; None where there is nothing."""
        if path == "now.json":
            since = parse_qs(query).get("since", [""])[0]
            same = since == str(self._version) or not self._version  # or nothing is known yet
            return Answer(self._now, "application/json", code=HTTPStatus.NO_CONTENT if same else HTTPStatus.OK)
        if path == "report":
            content = self._report.read()
            return None if content is None else Answer(content, "text/html; charset=utf-8", REPORT_POLICY)
        if path in PARTS:
            content = resources.files("launcher.live").joinpath(path or "page.html").read_bytes()
            return Answer(content, f"text/{PARTS[path]}; charset=utf-8")
        return None

    # ------------------------------------------------------------------------------------------ what is looked up

    def _go_on(self) -> None:
        while not self._over.is_set():
            self.look()
            self._over.wait(READ_SECONDS)

    def look(self) -> None:
        """Ask the scheduler, where it is time to, and read on the logs of the runs at work."""
        try:
            self._ask()
            self._report.look(self._states)
            runs = shown_runs(self._names, self._states, self._curves)
            said = [*self._complaints, *notes(self._directory, self._states)]
            now = told(self._directory, runs, said, self._asked)
            now |= {"seconds_left": self._left, "cost": self._cost.told(runs), "report": self._report.told()}
            self._publish(now)
        except (OSError, PrefsweepError) as error:
            self._complaints = [str(error)]

    def _ask(self) -> None:
        if time.monotonic() < self._look_again:
            return
        try:
            self._directory.check_there()
            self._names = self._directory.run_names()
            self._states = states_of([self._store.run(named.run_id) for named in self._names], self._scheduler)
        except PrefsweepError as error:
            self._complaints = [str(error)]
        else:
            self._asked, self._complaints = time.time(), self._directory.faults()
            self._left = self._pace.left(self._states)
        seconds = READ_SECONDS if any(state.in_flight for state in self._states) else OVER_SECONDS
        self._look_again = time.monotonic() + max(self._scheduler.poll_seconds, seconds)

    def _publish(self, now: dict[str, object]) -> None:
        """Have this told from now on; nothing is sent again that has not changed."""
        content = json.dumps(now | {"version": self._version}).encode()
        if content != self._now:
            self._version += 1
            self._now = json.dumps(now | {"version": self._version}).encode()
