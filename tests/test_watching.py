"""A sweep in a terminal: how it fits the room that there is, which curves are read, how the screen is left."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import signal
import struct
import sys
import termios
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from conftest import clean_environment
from waiting import LONGEST_WAIT
from watched_runs import REASON, recorded, states_of

from launcher.cli.main import verb_parser
from launcher.cluster.job_state import Cause, JobState, Phase
from launcher.cluster.slurm_words import read_queue
from launcher.errors import UsageError
from launcher.runs.run_state import RunState
from launcher.runs.status import RunFacts, Status, status_of
from launcher.store import curve as curves
from launcher.store.curve import Curve, Curves
from launcher.store.facts import RunName
from launcher.store.output_folder import Store
from launcher.views import marks
from launcher.views.board import Board
from launcher.views.live import shown_runs
from launcher.views.run_lines import Shown, labels
from launcher.views.states import show_status

SIZES = [(80, 24), (80, 50), (160, 50), (60, 12), (40, 8)]


def board(store: Store, models: int, losses: int, betas: int, height: int | None = None, **states: int) -> Board:
    directory = recorded(store, models, losses, betas)
    return Board(
        directory.name,
        shown_runs(directory.run_names(), states_of(directory, store, **states), Curves()),
        height=height,
    )


def text_of(shown: Board, width: int) -> list[str]:
    return [line.plain for line in shown.lines(width)]


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("models", [1, 2, 20])
def test_a_sweep_fits_its_terminal(store: Store, models: int, width: int, height: int) -> None:
    """With 30, 60 and 600 runs: no line is wider, and there are no more; the counts are first, and none is lost."""
    lines = text_of(board(store, models, 5, 6, height), width)
    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    counted = " ".join(lines[: lines.index("")])
    total = sum(int(number) for number in re.findall(r"(\d+) (?:[A-Z]=)?[A-Z]{3}", counted))
    assert total == 30 * models


def test_what_runs_and_what_failed_is_first(store: Store) -> None:
    """Of 60 runs at 80 columns: each has its line with curves, or why it failed; then all of them are in a matrix."""
    lines = text_of(board(store, 2, 5, 6), 80)
    at_work = [line for line in lines if " RUNNING " in line and "/400" in line]
    assert len(at_work) == 8
    assert all(re.search(r"[▁▂▃▄▅▆▇█]{5,} [▁▂▃▄▅▆▇█]{5,} +\d+m\d\ds +gpu-\d+$", line) for line in at_work)
    failed = [line for line in lines if REASON[:20] in line]
    assert len(failed) == 4
    assert lines.index(at_work[-1]) < lines.index(failed[0])
    rows = [re.split(r"  +", line) for line in lines if re.match(r"mistral-7b-v\d \w+  ", line)]
    assert len(rows) == 10
    letters = "".join("".join(row[1:]) for row in rows)
    assert letters.replace("F", "x").replace("O", "x").replace("L", "x").replace("C", "x") == "".join(
        ["T" * 15, "R" * 8, "x" * 4, "P" * 33]
    )


def held(shown: Board) -> Board:
    """The same, all that waits being held, each by its own job."""
    job = JobState(Phase.PENDING, "JobHeldUser", cause=Cause.HELD)

    def changed(each: Shown) -> Shown:
        if each.status is not Status.PENDING:
            return each
        return replace(each, state=replace(each.state, job=job, reason=status_of(each.state.facts, job)[1]))

    return replace(shown, runs=[changed(each) for each in shown.runs])


def test_what_keeps_many_runs_waiting_is_told_once(store: Store) -> None:
    """Of 33 held jobs, each with a command that names it; where they only wait for their turn, nothing is said."""
    shown = board(store, 2, 5, 6, 24)
    assert not any("waiting" in line for line in text_of(shown, 100))
    told = [line for line in text_of(held(shown), 100) if "waiting" in line]
    assert told == ["33 runs waiting: JobHeldUser; `scontrol release JOB` lets it go on"]
    one = replace(held(shown), runs=held(shown).runs[:28])
    assert "`scontrol release 4711_27`" in next(line for line in text_of(one, 100) if "1 run waiting" in line)


def test_a_log_that_is_ahead_of_the_state_says_how_many_steps_there_are(store: Store) -> None:
    """A run that had none when it was asked: its share is of all its steps, and 0 where nothing says how many."""
    (shown, *_) = (each for each in board(store, 2, 5, 6).runs if each.status is Status.RUNNING)
    before = replace(shown, state=replace(shown.state, facts=replace(shown.state.facts, step=None, max_steps=None)))
    assert (before.steps, before.share) == (shown.steps, shown.share)
    silent = replace(before, curve=replace(before.curve, max_steps=None))
    assert (silent.steps, silent.share) == (f"{shown.step}/?", 0)


def test_neither_hides_the_other(store: Store) -> None:
    """Where 40 run and 12 have failed, a small terminal shows some of both, and counts the rest."""
    lines = text_of(board(store, 4, 10, 15, 24, running=40, failed=12, trained=200), 80)
    assert sum(" RUNNING " in line and "gpu-" in line for line in lines) >= 3
    assert sum(REASON[:20] in line for line in lines) >= 3
    assert any(re.match(r"and \d+ more: \d+ RUNNING", line) for line in lines)
    assert any(re.fullmatch(r"\d+ other rows: all P", line) for line in lines)


@pytest.mark.parametrize(("value", "text"), [(0.6931, "0.6931"), (3.7714e-05, "3.8e-05"), (-3.7714e-05, "-4e-05")])
def test_a_curves_last_value_is_whole(store: Store, value: float, text: str) -> None:
    """An exponent is not cut off: digits before it are."""
    (shown, *_) = (each for each in board(store, 2, 5, 6).runs if each.status is Status.RUNNING)
    last = replace(shown.curve.dots[-1], loss=value)
    curve = replace(shown.curve, dots=[*shown.curve.dots[:-1], last])
    lines = text_of(Board("many", [replace(shown, curve=curve)]), 160)
    assert text in lines[-1].split()


def test_few_runs_have_a_line_each(store: Store) -> None:
    """Those that wait say when they start."""
    lines = text_of(board(store, 1, 3, 4, running=3, failed=2, trained=4), 80)
    states = [line.split()[1] for line in lines if re.match(r"(sigmoid|ipo|kto_pair)-beta", line)]
    assert sorted(states, key=lambda state: marks.ORDER[Status(state)]) == states
    assert len(states) == 12
    assert sum("starts about " in line for line in lines) == 3


def test_a_state_alone_can_be_listed(store: Store) -> None:
    """Each of its runs has a line, however many there are."""
    shown = replace(board(store, 2, 5, 6), only=frozenset({Status.PENDING}))
    lines = text_of(shown, 80)
    assert sum(" PENDING " in line for line in lines) == 33
    assert not any(" RUNNING " in line for line in lines[3:])


def test_a_terminal_with_ascii_alone_gets_ascii(store: Store) -> None:
    """Bars and curves too; what is cut off ends in the one sign that the terminal's way out knows."""
    lines = [line.plain.replace("…", "") for line in board(store, 2, 5, 6, 24).lines(80, ascii_only=True)]
    assert all(line.isascii() for line in lines)
    assert any(" ##" in line for line in lines)


def test_names_are_as_short_as_tells_them_apart() -> None:
    """First the model that all have goes, then the hash; the end of a name stays, where loss and beta are."""
    names = [RunName(f"tiny-ipo-beta{beta}-a7b68eb3", "tiny", "ipo", beta) for beta in (0.1, 0.2)]
    first = names[0].run_id
    found = [labels(names, width)[first] for width in (60, 21, 16, 12, 8)]
    assert found == [first, "ipo-beta0.1-a7b68eb3", "ipo-beta0.1-a7b6", "ipo-beta0.1", "…beta0.1"]
    twins = [*names, RunName("tiny-ipo-beta0.1-ffffffff", "tiny", "ipo", 0.1)]
    assert labels(twins, 12)[first] == "…eta0.1-a7b6"


@pytest.mark.parametrize("hostile", ["a\x1b[2Jb", "a\nb", "a\u202eb", "[red]a[/red]"])
def test_nothing_on_the_screen_is_obeyed(store: Store, hostile: str) -> None:
    """Whatever a reason, a node or a name holds."""
    state = RunState(
        store.run(hostile), RunFacts(attempts=1, host=hostile), Status.FAILED, hostile, JobState(Phase.FAILED), None
    )
    directory = recorded(store, 1, 1, 1)
    lines = text_of(Board(hostile, shown_runs(directory.run_names(), [state], Curves()), notes=[hostile]), 80)
    assert not any(set("\x1b\n\u202e") & set(line) for line in lines)
    assert any("[red]a[/red]" in line for line in lines) == (hostile == "[red]a[/red]")


# ------------------------------------------------------------------------------------------------ curves


def write_log(path: Path, steps: range, mode: str = "a") -> None:
    with path.open(mode) as file:
        for step in steps:
            file.write(json.dumps({"step": step, "max_steps": 10**6, "loss": 1 / (1 + step), "note": "x" * 200}) + "\n")


def test_a_curve_is_read_on_where_it_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what is there already nothing is read again; a torn last line is read when it is whole."""
    path, curve = tmp_path / "metrics.jsonl", Curve(tmp_path / "metrics.jsonl")
    curve.refresh()
    assert curve.last is None
    write_log(path, range(1, 11))
    curve.refresh()
    with path.open("a") as file:
        file.write('{"step": 11, "lo')
    read: list[int] = []
    real = os.lseek
    monkeypatch.setattr(os, "lseek", lambda handle, place, how: read.append(place) or real(handle, place, how))
    curve.refresh()
    assert [dot.step for dot in curve.dots] == list(range(1, 11))
    with path.open("a") as file:
        file.write('ss": 0.5}\n')
    curve.refresh()
    assert read == [path.read_bytes().find(b'{"step": 11')] * 2
    assert curve.values("loss")[-1] == 0.5
    assert curve.values("reward_margin") == []


def test_of_a_long_log_little_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten megabytes cost some two hundred kilobytes; the curve has its whole length all the same."""
    path, curve = tmp_path / "metrics.jsonl", Curve(tmp_path / "metrics.jsonl")
    write_log(path, range(1, 40_001))
    amount: list[int] = []
    real = os.read
    monkeypatch.setattr(os, "read", lambda handle, size: [amount.append(len(found := real(handle, size))), found][1])
    curve.refresh()
    assert path.stat().st_size > 9_000_000
    assert sum(amount) < 250_000
    steps = [dot.step for dot in curve.dots]
    assert steps == sorted(set(steps))
    assert (steps[0], steps[-1]) == (1, 40_000)
    assert curves.POINTS / 2 < len(steps) <= 2 * curves.POINTS
    assert max(b - a for a, b in pairwise(steps)) < 2 * 40_000 / curves.POINTS


def test_a_step_that_is_made_again_counts_once(tmp_path: Path) -> None:
    """As after a fault; a log that was set aside and begun anew is read anew."""
    path, curve = tmp_path / "metrics.jsonl", Curve(tmp_path / "metrics.jsonl")
    write_log(path, range(1, 11))
    write_log(path, range(6, 9))
    curve.refresh()
    assert [dot.step for dot in curve.dots] == [*range(1, 9)]
    path.rename(tmp_path / "before")
    write_log(path, range(1, 3))
    curve.refresh()
    assert [dot.step for dot in curve.dots] == [1, 2]


@pytest.mark.parametrize(
    "line", ['{"step": 1, "loss": NaN}', '{"step": 1, "loss": "x"}', "[1]", '{"step": -1}', "\x00"]
)
def test_a_line_that_cannot_be_drawn_is_passed_over(tmp_path: Path, line: str) -> None:
    """The others are drawn."""
    path, curve = tmp_path / "metrics.jsonl", Curve(tmp_path / "metrics.jsonl")
    path.write_text(f'{line}\n{{"step": 2, "loss": 0.5}}\n')
    curve.refresh()
    assert curve.values("loss") == [0.5]


@pytest.mark.parametrize(
    ("values", "drawn"),
    [([0, 1, 2, 3, 4, 5, 6, 7], "▁▂▃▄▅▆▇█"), ([2, 2], "▄▄"), ([], ""), ([1], "▄"), ([0, 0, 8, 8], "▁▁██")],
)
def test_a_sparkline_goes_from_the_least_to_the_largest(values: list[float], drawn: str) -> None:
    """A flat one is in the middle."""
    assert marks.sparkline(values, 8, ascii_only=False) == drawn


# ------------------------------------------------------------------------------------------------ the queue


def test_the_queue_tells_places_and_starts() -> None:
    """In the one answer of squeue, whose order is that of the queue; who runs has no place."""
    lines = "7_1|PENDING|Priority||j|s|0:00|2031-05-06T07:08:09", "7_0|RUNNING||n1|j|s|4:00|2026-01-01T00:00:00"
    found = read_queue("\n".join([*lines, "8|PENDING|Resources||j|s|0:00|N/A", "9|PENDING|Resources||j|s|0:00"]))
    assert {job: state.place for job, state in found.items()} == {"7_1": 1, "7_0": None, "8": 2, "9": 3}
    start = time.mktime((2031, 5, 6, 7, 8, 9, 0, 0, -1))
    assert {job: state.start for job, state in found.items()} == {"7_1": start, "7_0": None, "8": None, "9": None}
    assert found["7_0"].minutes == 4


# ------------------------------------------------------------------------------------------------ the verb


def test_a_pipe_gets_lines(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    """One for each run, in the sweep's order; where a model is published has a column of its own."""
    directory = recorded(store, 1, 2, 2)
    states = states_of(directory, store, 1, 1, 1)
    show_status(directory, states, [], as_json=False)
    out = capsys.readouterr().out
    assert out.splitlines()[1].split() == ["run", "status", "step", "left", "job", "attempts", "node", "reason"]
    assert re.findall(r"^mistral\S+", out, re.MULTILINE) == [state.run.run_id for state in states]
    assert "\x1b" not in out
    show_status(directory, states, [], as_json=True, only=[Status.PENDING])
    assert [run["status"] for run in json.loads(capsys.readouterr().out)["runs"]] == ["PENDING"]


def test_a_state_that_there_is_not_is_refused() -> None:
    """In one line that names those that there are; either case will do."""
    with pytest.raises(UsageError, match="FALED is no state of a run; there are NEW, PENDING"):
        verb_parser("status").parse_args(["--state", "FALED"])
    assert verb_parser("status").parse_args(["--state", "failed"]).state == [Status.FAILED]


WATCHING = """
import sys, time
sys.path.insert(0, {tests!r})
from watched_runs import recorded, states_of
from launcher.cli import status as verb
from launcher.cli.main import main
from launcher.store.output_folder import Store
from pathlib import Path
store = Store(Path({root!r}))
directory = recorded(store, 2, 5, 6)
states = states_of(directory, store)
verb.states_of = lambda *_: states
verb.idle_jobs = lambda *_: []
sys.exit(main(["status", "many", "--watch", "--output-dir", {root!r}]))
"""


def watched(
    root: Path, end: Callable[[int, int], object], **variables: str
) -> tuple[int, bytes, list[object], list[object]]:
    """Run `status --watch` on 60 runs in a terminal of 80 x 24, and end it once it shows them.

    Returns its exit code, all that it wrote, and the terminal's settings before and after.
    """
    program = WATCHING.format(tests=str(Path(__file__).parent), root=str(root))
    environment = {**clean_environment(), "TERM": "xterm-256color", **variables}
    for name in ("COLUMNS", "LINES", "NO_COLOR"):
        if name not in variables:
            environment.pop(name, None)
    child, terminal = pty.fork()
    if child == 0:
        os.execve(sys.executable, [sys.executable, "-c", program], environment)  # noqa: S606 - pty's
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    before, out, ended = termios.tcgetattr(terminal), b"", False
    deadline = time.monotonic() + LONGEST_WAIT
    while time.monotonic() < deadline:
        try:
            out += os.read(terminal, 65536)
        except OSError:  # the other end is closed
            break
        if not ended and b"rows: all" in out:
            end(child, terminal)
            ended = True
    after = termios.tcgetattr(terminal)
    _, status = os.waitpid(child, 0)
    os.close(terminal)
    return os.waitstatus_to_exitcode(status), out, before, after


@pytest.mark.parametrize("by", ["Ctrl-C", "kill"])
def test_the_terminal_is_left_as_it_was(tmp_path: Path, by: str) -> None:
    """Its own text comes back, the cursor too, and what was shown last is beneath; nothing was cleared meanwhile."""
    end = {
        "Ctrl-C": lambda _, terminal: os.write(terminal, b"\x03"),
        "kill": lambda child, _: os.kill(child, signal.SIGTERM),
    }
    code, out, before, after = watched(tmp_path, end[by])
    assert code == 0
    assert before == after
    inside, _, behind = out.partition(b"\x1b[?1049h")[2].partition(b"\x1b[?1049l")
    assert (out.count(b"\x1b[?1049h"), out.count(b"\x1b[?1049l"), inside.count(b"\x1b[2J")) == (1, 1, 0)
    assert out.rfind(b"\x1b[?25h") > out.rfind(b"\x1b[?25l")
    assert b"60 runs:" in behind
    assert b"Traceback" not in behind.replace(b"Traceback (most recent", b"")
    frame = inside.split(b"\x1b[H")[-1]
    assert frame.count(b"\n") < 24


def test_colours_can_be_left_out(tmp_path: Path) -> None:
    """By NO_COLOR; the words say the same."""
    _, out, *_ = watched(tmp_path, lambda _, terminal: os.write(terminal, b"\x03"), NO_COLOR="1")
    assert not re.search(rb"\x1b\[[0-9;]*3[0-7]m", out)
    assert b"RUNNING" in out
