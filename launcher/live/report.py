"""The report on a sweep that is not over: made anew by a process of its own whenever there are other results.

Owns: when that is, and what became of it. Must not know: what is in a report (`analysis` has that), who reads it.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import IO

from launcher.errors import StoreError
from launcher.machine import rights
from launcher.runs.collect import collect
from launcher.runs.run_state import RunState
from launcher.runs.unreadable import Reading
from launcher.store.files import Plain
from launcher.store.output_folder import Store, SweepDir

REST_SECONDS = 5.0  # at least, between two while runs are in flight; and as long as the last took: others work here
NICENESS = 10
WORDS_BYTES = 2000  # of what a report that failed has complained of


class LiveReport:
    """The report of one sweep; `look` starts what is to be made, and takes in what is done."""

    def __init__(self, directory: SweepDir, store: Store) -> None:
        self._directory, self._store = directory, store
        self._page = directory.report / "report.html"
        self._found: object = None  # of which states results.jsonl tells
        self._made_from: str | None = self._content() if self._is_newer() else None
        self._child: subprocess.Popen[bytes] | None = None
        self._words: IO[bytes] | None = None
        self._began, self._rested = 0.0, 0.0
        self.version = 1 if self._page.exists() else 0
        self.is_behind = False  # there are results of which it does not tell
        self.why = ""  # there is none, or none of the last results

    def look(self, states: Sequence[RunState]) -> None:
        """Have the report made of these states, unless they say what the last ones did, or one is being made.

        The first waits for a run that is evaluated, or for the end of all.
        """
        results = [
            (state.run.run_id, state.status, state.facts.evaluated, state.facts.address, state.facts.attempts)
            for state in states
        ]
        is_over = not any(state.in_flight for state in states)
        has_results = any(state.facts.trained and (state.facts.evaluated or is_over) for state in states)
        self.is_behind = results != self._found and has_results
        rests = time.monotonic() < self._rested and not is_over
        if self._is_busy() or rests or not self.is_behind:
            return
        self._found, self.is_behind = results, False
        try:
            collect(self._directory, self._store, states, Reading())
        except (OSError, StoreError) as error:
            denied = rights.denied(error) if isinstance(error, OSError) else None
            self.why = f"results.jsonl cannot be written: {denied or error}"
            return
        content = self._content()
        if content != self._made_from:
            self._made_from = content
            self._start()

    def told(self) -> Plain:
        """Which version there is (0: none), whether another is being made, or will be, and why one could not be."""
        making = self._child is not None
        return {"version": self.version, "making": making, "behind": self.is_behind and not making, "why": self.why}

    def read(self) -> bytes | None:
        """The page as it is now; None where there is none."""
        with suppress(OSError):
            return self._page.read_bytes()
        return None

    def close(self) -> None:
        """End what is being made; its files are derived, and written again by the next."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            self._child = None

    # ------------------------------------------------------------------------------------------ the process

    def _start(self) -> None:
        self._began = time.monotonic()
        self._words = tempfile.TemporaryFile()  # noqa: SIM115 - read when the process has ended
        command = [sys.executable, "-m", "analysis", str(self._directory.path)]
        self._child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=self._words)
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, self._child.pid, NICENESS)

    def _is_busy(self) -> bool:
        """Whether one is being made; takes in one that is done."""
        if self._child is None:
            return False
        code = self._child.poll()
        if code is None:
            return True
        self._child = None
        took = time.monotonic() - self._began
        self._rested = time.monotonic() + max(REST_SECONDS, took)
        self.why = self._said() if code else ""
        self.version += not code
        return False

    def _said(self) -> str:
        """The last line of what it complained of."""
        if self._words is None:
            return ""
        with self._words as words:
            size = words.seek(0, os.SEEK_END)
            words.seek(max(0, size - WORDS_BYTES))
            lines = words.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "`python -m analysis` failed without a word"

    # ------------------------------------------------------------------------------------------ files

    def _content(self) -> str | None:
        """What tells these results from others."""
        with suppress(OSError):
            return hashlib.sha256(self._directory.results_file.read_bytes()).hexdigest()
        return None

    def _is_newer(self) -> bool:
        with suppress(OSError):
            return self._page.stat().st_mtime >= self._directory.results_file.stat().st_mtime
        return False
