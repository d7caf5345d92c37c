"""How runs do, as the user sees it: status, progress, logs, what was submitted or stopped. Prints; decides nothing.

Owns: words, columns and colours of states. Must not know: how a state is found out.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path

from rich.table import Table

from launcher.cluster.job_state import SUSPENDED, Phase
from launcher.errors import StoreError, listed, number_of
from launcher.machine.disk import in_words
from launcher.machine.terminal import Screen, say, say_json
from launcher.runs.black_holes import black_holes
from launcher.runs.idle_jobs import Idle
from launcher.runs.run_state import RunState
from launcher.runs.status import Status, scontrol
from launcher.store.counts import DataCounts
from launcher.store.curve import Curve, Curves
from launcher.store.facts import RunName
from launcher.store.files import Plain, plain
from launcher.store.output_folder import SweepDir
from launcher.store.throughput import Throughput
from launcher.views.board import Board
from launcher.views.console import duration, verb_command
from launcher.views.data import shortened
from launcher.views.live import shown_runs
from launcher.views.marks import word
from launcher.views.run_lines import Shown, node_of, stage
from launcher.views.table import Lines, Row, table_of

Ended = Callable[[], bool]
LOG_POLL_SECONDS = 0.5
SHOWN_JOBS = 4  # of a launch, by id
TRACEBACKS, TRACEBACK_LINES = 3, 3  # shown by status: several runs of a sweep mostly fail alike


def show_status(
    directory: SweepDir,
    states: Sequence[RunState],
    data: Sequence[DataCounts],
    idle: Sequence[Idle] = (),
    *,
    as_json: bool,
    only: Collection[Status] = (),
) -> None:
    """The states of a sweep's runs, and the jobs that no run waits for; as JSON with what the runs are trained on.

    `only`: of which states runs are listed; none: of all.
    """
    listed = [state for state in states if not only or state.status in only]
    if as_json:
        records = {record.run_id: record for record in directory.run_names()}
        runs = [_state_json(records[state.run.run_id], state) for state in listed]
        jobs = [{"job_id": each.job.job_id, "reason": each.what} for each in idle]
        say_json({"sweep": directory.name, "runs": runs, "idle_jobs": jobs, "data": shortened(data, 0)})
        return
    console = Screen()
    if console.is_terminal:
        console.print(Board(directory.name, shown_runs(directory.run_names(), states, Curves()), frozenset(only)))
    else:
        console.print(_state_table(directory, listed), crop=False)
        console.print(_summary(states))
    for line in notes(directory, states):
        console.print(line, soft_wrap=True)
    for state in [state for state in listed if state.status is Status.FAILED and state.facts.traceback][:TRACEBACKS]:
        console.print(f"\n{state.run.run_id} ended so (all of it: logs {state.run.run_id}):")
        console.print("\n".join(state.facts.traceback.splitlines()[-TRACEBACK_LINES:]), soft_wrap=True)
    for each in idle:
        say(idle_line(each))


def notes(directory: SweepDir, states: Sequence[RunState]) -> list[str]:
    """What is to be said of the runs together, a line each."""
    lines = [*_throughputs(states), *(hole.in_words for hole in black_holes(states).values())]
    lines += [f"job {job} is suspended; `{said} resume {job}` lets it go on" for said, job in _suspended(states)]
    count = sum(state.facts.unpublished is not None and not state.in_flight for state in states)
    if count:
        which = f"{count} runs are" if count > 1 else "1 run is"
        lines.append(f"{which} not published: use `{verb_command(directory, 'publish')}`")
    return lines


def idle_line(idle: Idle) -> str:
    """A job that no run waits for, and what to do."""
    return f"job {idle.job.job_id} {idle.what}; {idle.remedy}"


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
    """A line for each run, for a pipe or a log."""
    rows: list[Row] = []
    for state in states:
        facts, shown = state.facts, Shown(RunName(state.run.run_id, "", "", 0.0), state, Curve(state.run.metrics_file))
        job = " on ".join(filter(None, [facts.job_id, state.job.cluster]))
        words = [node_of(state), state.reason or stage(state), facts.address or ""]
        cells = [shown.steps, duration(shown.seconds_left), job, str(facts.attempts), *words]
        rows.append(([state.run.run_id, word(state.status), *cells], ""))
    columns = ["run", "status", "step", "left", "job", "attempts", "node", "reason", "published"]
    if not any(cells[-1] for cells, _ in rows):
        columns, rows = columns[:-1], [(cells[:-1], style) for cells, style in rows]
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
    runs = f"{number_of(len(known), 'run')} {'at work' if at_work else 'trained'}"
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


def _summary(states: Iterable[RunState]) -> str:
    states = list(states)
    counts = Counter(state.status for state in states)
    return f"{number_of(len(states), 'run')}: " + ", ".join(
        f"{count} {status}" for status, count in counts.most_common()
    )


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


def say_submitted(directory: SweepDir, count: int, jobs: Sequence[str]) -> None:
    """What was submitted, with the ids of the jobs, and where to look from now on."""
    told = f" as job{'' if len(jobs) == 1 else 's'} {listed(jobs, SHOWN_JOBS)}" if jobs else ""
    say(
        f"{number_of(count, 'run')} submitted{told}; `{verb_command(directory, 'status', '--watch')}` shows how they do"
    )


def say_submitted_to_evaluate(directory: SweepDir, count: int, *, judged: bool) -> None:
    """What to do when the jobs are done; `judged`: whether a judge is to rate what they write."""
    then = "the same command has what they wrote judged" if judged else f"`{verb_command(directory, 'report')}` has all"
    follow = f"`{verb_command(directory, 'status')}` follows them"
    say(f"{number_of(count, 'run')} submitted; {follow}; then {then}")


def say_interrupted(directory: SweepDir, count: int) -> None:
    """What Ctrl-C did."""
    say(f"\n{number_of(count, 'run')} asked to stop at the next step; `{verb_command(directory, 'resume')}` goes on")


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
    say("; ".join(filter(None, [f"{number_of(len(stopped), 'run')} of {directory.name} cancelled", *others])))


def _of_those_asked_for(count: int, how: str) -> str:
    return f"of those asked for, {count} {'was' if count == 1 else 'were'} {how}" if count else ""
