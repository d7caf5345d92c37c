"""How runs do while somebody watches: a screen that is drawn again, or a line for every change where there is none.

Owns: when what is shown is drawn, and that a terminal is left as it was found. Must not know: how a state is found out.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Collection, Sequence
from types import TracebackType
from typing import Self

from rich.live import Live

from launcher.machine.terminal import Screen, say
from launcher.runs.run_state import RunState
from launcher.runs.status import Status
from launcher.store.attempts import Attempts
from launcher.store.curve import Curves
from launcher.store.facts import RunName
from launcher.store.output_folder import SweepDir
from launcher.views.board import Board
from launcher.views.console import duration
from launcher.views.run_lines import Shown

GUESS_AFTER_RUNS = 0.25  # before so much is done, a guess of the time left would mislead
READ_SECONDS = 5.0  # between two readings of the logs of runs at work
DRAWN_SECONDS = 0.5  # within which a change of the terminal's size is followed


def shown_runs(names: Sequence[RunName], states: Sequence[RunState], curves: Curves) -> list[Shown]:
    """The runs with their names, and of those at work the curves as they are now."""
    named = {name.run_id: name for name in names}
    return [_shown(named.get(state.run.run_id), state, curves) for state in states]


def _shown(name: RunName | None, state: RunState, curves: Curves) -> Shown:
    curve = curves.of(state.run.metrics_file, refreshed=state.status is Status.RUNNING)
    return Shown(name or RunName(state.run.run_id, "", "", 0.0), state, curve)


def can_redraw() -> bool:
    """Whether stdout is a terminal whose text can be drawn again."""
    console = Screen()
    return console.is_terminal and not console.is_dumb_terminal


class Watch:
    """The screen of `status --watch`; the terminal's own text comes back at its end, whatever ends it."""

    def __init__(self, directory: SweepDir, only: Collection[Status]) -> None:
        self._directory, self._only = directory, frozenset(only)
        self._console, self._curves, self._pace = Screen(), Curves(), Pace()
        self._live = Live(console=self._console, screen=True, auto_refresh=False)

    def __enter__(self) -> Self:
        self._before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()
        signal.signal(signal.SIGTERM, self._before)

    def show(self, states: Sequence[RunState], notes: Sequence[str], seconds: float) -> None:
        """Show these states for so many seconds; meanwhile the logs of runs at work are read on."""
        until, size = time.monotonic() + seconds, None
        left, names = self._pace.left(states), self._directory.run_names()
        while True:
            runs = shown_runs(names, states, self._curves)
            read = time.monotonic()
            while time.monotonic() < min(until, read + READ_SECONDS) or size != self._console.size:
                if size != self._console.size:
                    size = self._console.size
                    self._draw(runs, notes, left)
                time.sleep(DRAWN_SECONDS)
            if time.monotonic() >= until:
                return
            size = None

    def _draw(self, runs: Sequence[Shown], notes: Sequence[str], left: float | None) -> None:
        board = Board(self._directory.name, runs, self._only, notes, self._console.height, left)
        self._live.update(board, refresh=True)


class Pace:
    """How long runs will take, at the pace since the first step was seen: what comes before is paid once for all."""

    def __init__(self) -> None:
        self._first_step: tuple[float, float] | None = None  # when it was seen, and how many runs' worth was done

    def left(self, states: Sequence[RunState]) -> float | None:
        """Seconds until all are done; None where that is not known yet."""
        done = sum(1.0 if not s.in_flight else (s.facts.step or 0) / (s.facts.max_steps or 1) for s in states)
        if not any(state.in_flight and state.facts.step for state in states) and self._first_step is None:
            return None
        self._first_step = self._first_step or (time.time(), done)
        since, progress = time.time() - self._first_step[0], done - self._first_step[1]
        return since * (len(states) - done) / progress if progress > GUESS_AFTER_RUNS else None


class Progress:
    """The live table of a sweep that runs on this machine; where there is no terminal, a line for every change."""

    def __init__(self, directory: SweepDir) -> None:
        self._directory, self._curves, self._pace = directory, Curves(), Pace()
        self._console = Screen()
        self._live = Live(console=self._console, auto_refresh=False) if can_redraw() else None
        self._started, self._said = time.time(), ""
        self._names: list[RunName] = []

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def show(self, states: Sequence[RunState]) -> None:
        """Show these states."""
        sentence, left = self._sentence(states), self._pace.left(states)
        if self._live:
            self._names = self._names or self._directory.run_names()
            runs = shown_runs(self._names, states, self._curves)
            height = self._console.height - 1  # the cursor has a line of its own
            self._live.update(Board(self._directory.name, runs, frozenset(), [sentence], height, left), refresh=True)
        elif sentence != self._said:
            line = f"{sentence}, about {duration(left)} left" if left else sentence
            say(f"[{duration(time.time() - self._started)}] {line}")
        self._said = sentence

    def _sentence(self, states: Sequence[RunState]) -> str:
        done = sum(not state.in_flight for state in states)
        current = next((state for state in states if state.in_flight and state.facts.started), None)
        if current is None:
            if done == len(states):
                return f"{done} of {len(states)} runs done"
            why = next((f": {state.job.reason}" for state in states if state.in_flight and state.job.reason), "")
            return f"{done} of {len(states)} runs done; waiting for a job to start{why}"
        doing = (
            f"step {current.facts.step}/{current.facts.max_steps or '?'}"
            if current.facts.step
            else _last_words(current) or "preparing"
        )
        if current.facts.trained:
            doing = "publishing" if current.facts.publishing else "evaluating"
        return f"run {done + 1} of {len(states)}: {current.run.run_id}: {doing}"


def _last_words(state: RunState) -> str:
    """What a run that has not come to its first step printed last: how far the shared work is."""
    training = Attempts.of(state.run).training
    log = training.log_file() if training else None
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log and log.exists() else []
    return next((line for line in reversed(lines) if line.startswith("reference pass")), "")
