"""How runs do, as the user sees it: status, progress, logs, what was submitted or stopped. Prints; decides nothing.

Owns: words, columns and colours of states. Must not know: how a state is found out.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Group as Stacked
from rich.live import Live
from rich.table import Table
from rich.text import Text

from launcher.cluster.job_state import SUSPENDED, Phase
from launcher.errors import StoreError
from launcher.machine.disk import in_words
from launcher.machine.terminal import Screen, say, say_json
from launcher.runs.black_holes import black_holes
from launcher.runs.idle_jobs import Idle
from launcher.runs.run_state import RunState
from launcher.runs.status import BAD, Status, scontrol
from launcher.store.attempts import Attempts
from launcher.store.counts import DataCounts
from launcher.store.facts import RunName
from launcher.store.files import Plain, plain
from launcher.store.output_folder import SweepDir
from launcher.store.throughput import Throughput
from launcher.views.console import duration, verb_command
from launcher.views.data import shortened
from launcher.views.table import Lines, Row, table_of

Ended = Callable[[], bool]
LOG_POLL_SECONDS = 0.5
TRACEBACKS, TRACEBACK_LINES = 3, 3  # shown by status: several runs of a sweep mostly fail alike
GUESS_AFTER_RUNS = 0.25  # before so much is done, a guess of the time left would mislead
COLOURS = {Status.TRAINED: "green", Status.RUNNING: "cyan", **dict.fromkeys(BAD, "red")}


def show_status(
    directory: SweepDir,
    states: Sequence[RunState],
    data: Sequence[DataCounts],
    idle: Sequence[Idle] = (),
    *,
    as_json: bool,
    clear: bool,
) -> None:
    """The states of a sweep's runs, and the jobs that no run waits for; as JSON with what the runs are trained on."""
    if as_json:
        records = {record.run_id: record for record in directory.run_names()}
        runs = [_state_json(records[state.run.run_id], state) for state in states]
        jobs = [{"job_id": each.job.job_id, "reason": each.what} for each in idle]
        say_json({"sweep": directory.name, "runs": runs, "idle_jobs": jobs, "data": shortened(data, 0)})
        return
    console = Screen()
    if clear and console.is_terminal:
        console.clear()
    console.print(_state_table(directory, states), crop=False)
    console.print(_summary(states))
    for line in _throughputs(states):
        console.print(line, soft_wrap=True)
    for hole in black_holes(states).values():
        console.print(hole.in_words, soft_wrap=True)
    for command, job in _suspended(states):
        console.print(f"job {job} is suspended; `{command} resume {job}` lets it go on", soft_wrap=True)
    count = sum(state.facts.unpublished is not None and not state.in_flight for state in states)
    if count:
        which = f"{count} runs are" if count > 1 else "1 run is"
        console.print(f"{which} not published: use `{verb_command(directory, 'publish')}`", soft_wrap=True)
    for state in [state for state in states if state.status is Status.FAILED and state.facts.traceback][:TRACEBACKS]:
        console.print(f"\n{state.run.run_id} ended so (all of it: logs {state.run.run_id}):")
        console.print("\n".join(state.facts.traceback.splitlines()[-TRACEBACK_LINES:]), soft_wrap=True)
    for each in idle:
        say(f"job {each.job.job_id} {each.what}; {each.remedy}")


def _suspended(states: Iterable[RunState]) -> list[tuple[str, str]]:
    """The jobs, arrays as one, that have their nodes and stand still; of runs, and of their reference tables.

    Each behind the command that is to change it.
    """
    asked = [
        (said, job)
        for state in states
        for said, job in ((state.job, state.facts.job), (state.table, state.facts.table))
    ]
    still = ((scontrol(said), job.job_id) for said, job in asked if job and said.reason == SUSPENDED)
    return list(dict.fromkeys((command, job_id.partition("_")[0]) for command, job_id in still))


def _state_json(record: RunName, state: RunState) -> Plain:
    facts = state.facts
    return {
        **{key: getattr(record, key) for key in ("run_id", "model", "loss_type", "beta")},
        "status": state.status,
        "job_id": facts.job_id,
        "cluster": facts.job.cluster if facts.job else None,
        "attempts": facts.attempts,
        "step": facts.step,
        "max_steps": facts.max_steps,
        "node": state.job.node or facts.host,
        "reason": state.reason,
        "phase": state.facts.progress.phase if state.facts.progress and state.status is Status.RUNNING else None,
        "address": facts.address,
        "throughput": plain(facts.throughput),
    }


def _state_table(directory: SweepDir, states: Iterable[RunState]) -> Table | Lines:
    rows: list[Row] = []
    for state in states:
        facts = state.facts
        words = [state.job.node or facts.host or "", state.reason or _stage(state)]
        job = " on ".join(filter(None, [facts.job_id, state.job.cluster]))
        shown = [_steps(state), _left(state), job, str(facts.attempts), *words]
        rows.append(([state.run.run_id, Text(state.status, COLOURS.get(state.status, "")), *shown], ""))
    columns = ("run", "status", "step", "left", "job", "attempts", "node", "reason")
    return table_of(f"sweep {directory.name}", columns, rows)


def _throughputs(states: Iterable[RunState]) -> list[str]:
    """What the runs at work compute, and where none is, what those have computed that are trained."""
    at_work: list[Throughput] = []
    trained: list[Throughput] = []
    for state in states:
        found = state.facts.throughput
        if found is not None and found.tokens_per_second is not None:
            is_training = state.status is Status.RUNNING and not state.facts.trained
            (at_work if is_training else trained if state.facts.trained else []).append(found)
    if not (known := at_work or trained):
        return []
    rates = [each.tokens_per_second or 0.0 for each in known]
    runs = f"{len(known)} run{'s' if len(known) > 1 else ''} {'at work' if at_work else 'trained'}"
    parts = [
        f"{_ends(rates, '{:,.0f}')} tokens/s (prompts and answers once)",
        *_told("{} % padding", [each.padding for each in known], 100),
        *_told("{} % of the GPUs' peak (MFU)", [each.mfu for each in known], 100),
    ]
    peak = max((each.peak_memory_bytes or 0 for each in known), default=0)
    parts += [f"memory up to {in_words(peak)} a rank"] if peak else []
    return [f"{runs}: {', '.join(parts)}"]


def _told(words: str, values: Iterable[float | None], times: float) -> list[str]:
    known = [times * value for value in values if value is not None]
    return [words.format(_ends(known, "{:.0f}"))] if known else []


def _ends(values: Sequence[float], how: str) -> str:
    """The least and the largest, or the one that both are."""
    return " to ".join(dict.fromkeys(how.format(end) for end in (min(values), max(values))))


def _doing(state: RunState) -> str:
    """What a run at work does where it makes no steps, how much of it is done, and for how long."""
    told = state.facts.progress
    if state.status is not Status.RUNNING or told is None or told.phase == "step":
        return ""
    count = f" {told.done}/{told.of}" if told.of else ""
    lasts = f", {duration(max(0.0, time.time() - told.since))}" if told.since else ""  # older versions: of no phase
    return f"{told.phase}{count}{lasts}"


def _stage(state: RunState) -> str:
    if not state.facts.trained:
        return _doing(state)
    if not state.facts.evaluated:
        return "evaluating" if state.in_flight else "not evaluated"
    if state.facts.publishing:
        return "publishing" if state.in_flight else "not published"
    return state.facts.address or ""


def _steps(state: RunState) -> str:
    facts = state.facts
    return "" if facts.step is None else f"{facts.step}/{facts.max_steps or '?'}"


def _seconds_left(state: RunState) -> float | None:
    facts = state.facts
    moves = state.status is Status.RUNNING and state.job.reason != SUSPENDED
    if not moves or not facts.seconds_per_step or facts.step is None or not facts.max_steps:
        return None
    return facts.seconds_per_step * (facts.max_steps - facts.step)


def _left(state: RunState) -> str:
    return duration(_seconds_left(state))


def _summary(states: Iterable[RunState]) -> str:
    states = list(states)
    counts = Counter(state.status for state in states)
    return f"{len(states)} runs: " + ", ".join(f"{count} {status}" for status, count in counts.most_common())


class Progress:
    """The live table of a sweep that runs on this machine; where there is no terminal, a line for every change."""

    def __init__(self, directory: SweepDir) -> None:
        self._directory = directory
        self._console = Screen()
        self._live = Live(console=self._console, auto_refresh=False) if self._console.is_terminal else None
        self._started, self._said = time.time(), ""
        self._first_step: tuple[float, float] | None = None  # when it was seen, and how many runs' worth was done

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
        sentence, left = self._sentence(states), self._remaining(states)
        line = f"{sentence}, about {duration(left)} left" if left else sentence
        if self._live:
            self._live.update(Stacked(_state_table(self._directory, states), line), refresh=True)
        elif sentence != self._said:
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
        doing = f"step {_steps(current)}" if current.facts.step else _last_words(current) or "preparing"
        if current.facts.trained:
            doing = "publishing" if current.facts.publishing else "evaluating"
        return f"run {done + 1} of {len(states)}: {current.run.run_id}: {doing}"

    def _remaining(self, states: Sequence[RunState]) -> float | None:
        """Seconds, at the pace since the first step was seen: what comes before it is paid once for all runs."""
        done = sum(1.0 if not s.in_flight else (s.facts.step or 0) / (s.facts.max_steps or 1) for s in states)
        if not any(state.in_flight and state.facts.step for state in states) and self._first_step is None:
            return None
        self._first_step = self._first_step or (time.time(), done)
        since, progress = time.time() - self._first_step[0], done - self._first_step[1]
        return since * (len(states) - done) / progress if progress > GUESS_AFTER_RUNS else None


def _last_words(state: RunState) -> str:
    """What a run that has not come to its first step printed last: how far the shared work is."""
    training = Attempts.of(state.run).training
    log = training.log_file() if training else None
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log and log.exists() else []
    return next((line for line in reversed(lines) if line.startswith("reference pass")), "")


def show_log(path: Path, *, follow: bool, ended: Ended) -> None:
    """Print a log, and what is added to it until the run has ended.

    Raises:
        StoreError: there is no log (yet).
    """
    while not path.exists():
        if not follow or ended():
            raise StoreError(f"{path}: not there; the run has not been started, or not with so many processes")
        time.sleep(LOG_POLL_SECONDS)
    with path.open(encoding="utf-8", errors="replace") as file:
        while True:
            over = not follow or ended()
            say(file.read(), end="")
            if over:
                return
            time.sleep(LOG_POLL_SECONDS)


def say_submitted(directory: SweepDir, count: int, *, quiet: bool) -> None:
    """Where to look from now on."""
    if not quiet:
        say(f"{count} runs submitted; `{verb_command(directory, 'status', '--watch')}` shows how they do")


def say_submitted_to_evaluate(directory: SweepDir, count: int) -> None:
    """What to do when the jobs are done."""
    say(f"{count} jobs submitted; when they are done, the same command judges what they wrote (sweep {directory.name})")


def say_interrupted(directory: SweepDir, count: int) -> None:
    """What Ctrl-C did."""
    say(f"\n{count} runs asked to stop at their next step; `{verb_command(directory, 'resume')}` goes on")


def say_cancelled(
    directory: SweepDir, stopped: Sequence[RunState], asked: int, goes_on: Sequence[RunState] = ()
) -> None:
    """What cancel did with as many runs as were asked for, of which some go on; of others it says nothing."""
    for state in stopped:
        say(f"{state.run.run_id}: asked to stop (was {state.status}, job {state.facts.job_id})")
    hidden = sum(state.job.phase is Phase.HIDDEN for state in goes_on)
    others = [
        _of_those_asked_for(asked - len(stopped) - len(goes_on), "not in flight"),
        _of_those_asked_for(hidden, "in flight elsewhere, and not reached from here"),
        _of_those_asked_for(len(goes_on) - hidden, "not reached, and in flight as before"),
    ]
    say("; ".join(filter(None, [f"{len(stopped)} runs of {directory.name} cancelled", *others])))


def _of_those_asked_for(count: int, how: str) -> str:
    return f"of those asked for, {count} {'was' if count == 1 else 'were'} {how}" if count else ""
