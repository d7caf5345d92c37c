"""Sweeps of thousands of runs: what each run costs is counted, and does not grow with their number.

Nothing is timed here, since a machine may be busy; `make bench` does that, on a real SLURM.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import sweep_of
from fakes import FakeScheduler, submit
from finished_runs import finish
from omegaconf import OmegaConf

from launcher.cli import main
from launcher.cluster.slurm_ids import folded, task_ids
from launcher.machine.terminal import Screen
from launcher.planning.compose import compose
from launcher.planning.planned_runs import run_id
from launcher.runs.cancel import cancel
from launcher.runs.run_state import states_of
from launcher.runs.status import Status
from launcher.store.facts import Launch, RunRecord
from launcher.store.files import fact_text
from launcher.store.launch_record import divided, whole
from launcher.store.output_folder import Store
from launcher.submission.adopt import adopt
from launcher.sweep import Sweep
from launcher.views import console, table

FEW, MANY = 25, 100
FILE_EVENTS = {"open", "os.listdir", "os.scandir", "os.mkdir", "os.link", "os.rename", "os.remove", "subprocess.Popen"}
happened: Counter[str] = Counter()
counting = False


def _count(event: str, _: tuple[object, ...]) -> None:
    if counting and event in FILE_EVENTS:
        happened[event] += 1


sys.addaudithook(_count)  # a hook can be had, but never be taken back


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """What is done to files meanwhile; and how many of our functions are called, under `calls`."""
    global counting  # noqa: PLW0603 - the hook is the interpreter's
    happened.clear()
    counting = True
    sys.setprofile(_calls)
    try:
        yield happened
    finally:
        sys.setprofile(None)
        counting = False


def _calls(_frame: object, event: str, _: object) -> None:
    if event == "call":
        happened["calls"] += 1


def sweep_with(runs: int) -> Sweep:
    return sweep_of("model=tiny", "trainer=full", "cluster=slurm", "hub=off", "sweep=s", f"seed=range(0,{runs})")


def launched(root: Path, runs: int) -> tuple[Sweep, Store, FakeScheduler]:
    sweep, store, scheduler = sweep_with(runs), Store(root / f"outputs{runs}"), FakeScheduler(batch_size=1000)
    submit(sweep, store, scheduler, [])
    return sweep, store, scheduler


def folders(sweep: Sweep, store: Store) -> list[object]:
    return [store.run(run.run_id) for run in sweep.runs]


def test_a_run_has_three_entries_before_it_starts(tmp_path: Path) -> None:
    """Its folder, what it is and what was asked for; what belongs to its job is in the files of the batch."""
    few, many = (sum(1 for _ in launched(tmp_path, runs)[1].root.rglob("*")) for runs in (FEW, MANY))
    assert many - few == 3 * (MANY - FEW)


@pytest.mark.parametrize("verb", ["plan", "launch", "launch again", "status", "cancel", "adopt"])
def test_the_work_grows_with_the_runs_and_no_faster(tmp_path: Path, verb: str) -> None:
    """Neither what is asked of the file system nor the functions that are called, from planning to cancelling."""
    found = {}
    for runs in (FEW, MANY):
        sweep, store, scheduler = launched(tmp_path, runs)
        fresh = Store(tmp_path / f"fresh{runs}")
        act: dict[str, Callable[[], object]] = {
            "plan": lambda runs=runs: sweep_with(runs),
            "launch": lambda: submit(sweep, fresh, FakeScheduler(batch_size=1000), []),  # noqa: B023 - called at once
            "launch again": lambda: submit(sweep, store, scheduler, []),  # noqa: B023
            "status": lambda: states_of(folders(sweep, store), scheduler),  # noqa: B023
            "cancel": lambda: cancel(states_of(folders(sweep, store), scheduler), scheduler),  # noqa: B023
            "adopt": lambda: adopt(folders(sweep, store), scheduler),  # noqa: B023
        }
        with counted() as events:
            act[verb]()
        found[runs] = Counter(events)
    for event, often in found[MANY].items():
        assert often <= found[FEW][event] * MANY / FEW * 1.02 + 8, (event, found)


def test_status_of_a_run_costs_few_questions_of_the_file_system(tmp_path: Path) -> None:
    """A listing tells which of the many facts there are: a waiting run takes one more, a finished one few."""
    sweep, store, scheduler = launched(tmp_path, FEW)
    runs = folders(sweep, store)
    with counted() as events:
        states_of(runs, scheduler)
    assert events["open"] + events["os.listdir"] <= 3 * FEW + 5
    for run in runs:
        finish(run)
    with counted() as events:
        states = states_of(runs, scheduler)
    assert {state.status for state in states} == {Status.TRAINED}
    assert events["open"] + events["os.listdir"] + events["os.scandir"] <= 6 * FEW + 5


def test_cancelling_looks_at_a_run_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From what a dead launcher has left to what is asked of the job: one listing, one record, then the wish."""
    found = []
    for runs in (1, FEW, MANY):  # with the first, modules are read
        _, store, scheduler = launched(tmp_path, runs)
        monkeypatch.setattr("launcher.cluster.scheduler.EXECUTORS", {"fake": lambda known=scheduler: known})
        with counted() as events:
            assert main.main(["cancel", "s", "--output-dir", str(store.root)]) == 0
        found.append(Counter(events))
    _, few, many = found
    more = {event: (many[event] - few[event]) / (MANY - FEW) for event in ("os.link", "os.listdir", "open")}
    assert more == {"os.link": 1, "os.listdir": 1, "open": 4}


def test_a_launch_waits_for_the_disk_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not once for each file of each run; and before its jobs exist."""
    order: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda _: order.append("file"))
    flush = "launcher.submission.handover.flush"
    monkeypatch.setattr(flush, lambda folder: order.append(f"all of {folder.name}"))
    sweep, store, scheduler = sweep_with(MANY), Store(tmp_path / "outputs"), FakeScheduler(batch_size=1000)
    taken = scheduler.submit
    monkeypatch.setattr(scheduler, "submit", lambda batch: (order.append("submitted"), taken(batch))[1])
    submit(sweep, store, scheduler, [])
    assert len(order) < 20
    assert [word for word in order if word != "file"] == ["all of outputs", "submitted"] * 2  # the table, the array


def test_cancelling_asks_once_for_an_array() -> None:
    """Of tasks that follow each other only the ends are named; SLURM reads them as we do."""
    assert folded(f"7_{index}" for index in range(10_000)) == ["7_[0-9999]"]
    ids = ["7_3", "9", "7_0", "7_1", "8_5", "7_9", "7_2"]
    assert folded(ids) == ["7_[0-3,9]", "9", "8_[5]"]
    assert sorted(task for each in folded(ids) for task in task_ids(each)) == sorted(ids)


def test_a_launch_is_read_as_it_was_recorded() -> None:
    """What runs have in common stands once; 1, 1.0 and true are equal in Python, and not the same."""
    values = ({"a": 1, "b": {"x": [1]}, "c": 0}, {"a": 1, "b": {"x": [1]}, "c": 0.0}, {"a": True, "b": {}, "d": None})
    settings = [{"hub": hub, "sweep": "s", "own": own} for hub, own in itertools.product(values, (None, {}, {"k": 1}))]
    for some in (settings[:1], settings[:2], settings[3:6], settings):
        runs = [RunRecord(str(i), "m", "d", "l", 0.1, i, {}, each, []) for i, each in enumerate(some)]
        launch = Launch(["seed"], runs)
        written = json.loads(fact_text(divided(launch)))
        read = whole(Launch(**{**written, "runs": [RunRecord(**run) for run in written["runs"]]}))
        assert repr([sorted(run.settings.items(), key=str) for run in read.runs]).replace(" ", "")
        assert json.dumps([r.settings for r in read.runs], sort_keys=True) == json.dumps(some, sort_keys=True)


def test_a_long_launch_is_recorded_briefly(tmp_path: Path) -> None:
    """A run's line has what is its own; the settings of the sweep are there once, and all come back."""
    sweep, store, _ = launched(tmp_path, MANY)
    (file,) = store.sweep("s").path.glob("launches/*.json")
    assert file.stat().st_size < 1000 * MANY
    assert [record.settings for record in store.sweep("s").run_records()] == [run.settings for run in sweep.runs]
    assert [run.run_id for run in store.sweep("s").run_names()] == [run.run_id for run in sweep.runs]


def test_a_folder_with_another_name_knows_its_jobs(tmp_path: Path) -> None:
    """What a batch recorded is found where the output folder lies now."""
    sweep, store, scheduler = launched(tmp_path, FEW)
    moved = Store(shutil.move(store.root, tmp_path / "elsewhere"))
    assert {state.status for state in states_of(folders(sweep, moved), scheduler)} == {Status.PENDING}


@pytest.mark.parametrize("argv", [
    ["seed=range(0,5)", "trainer=full", "+cluster.extra.hold=true", "cluster.time=5"],
    ["beta=0.1,0.5,1", "loss_type=sigmoid,ipo", "trainer.learning_rate=0.001", "hub.repo=r${beta}"],
    ["cluster.partition=a,b", "cluster.nodes=2", "seed=1,2", "evaluation.temperature=0.5"],
    ["trainer=full,lora", "trainer.batch_size=16", "sweep=x${seed}", "seed=1,2"],
    ["dataset.train_pairs=4,8", "dataset.name=d", "hub.org=o", "hub.repo=${..seed}x", "seed=3,4"],
])  # fmt: skip
def test_what_runs_share_changes_no_run(argv: list[str]) -> None:
    """A grid's points are what each of them is alone, down to the type of each number."""
    _, points = compose(["model=tiny", *argv], multirun=True)
    for point in points:
        _, (alone,) = compose(point.overrides, multirun=False)
        assert repr(OmegaConf.to_yaml(OmegaConf.create(point.config), sort_keys=True)) == repr(
            OmegaConf.to_yaml(OmegaConf.create(alone.config), sort_keys=True)
        )


def test_an_id_does_not_depend_on_what_is_shared() -> None:
    """It is that of the run alone: older sweeps are found again."""
    for run in sweep_with(3).runs:
        text = json.dumps(_valued(run.objective), sort_keys=True, ensure_ascii=False)
        assert run.run_id.rpartition("-")[2] == hashlib.sha256(text.encode()).hexdigest()[:8]
        assert run_id(run.objective) == run.run_id


def _valued(section: object) -> object:
    """A section, without the keys that have no value."""
    if isinstance(section, list):
        return [_valued(item) for item in section]
    if not isinstance(section, dict):
        return section
    return {key: _valued(item) for key, item in section.items() if item is not None}


def test_a_long_table_looks_like_a_short_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of thousands of runs each has one line, with columns as rich has them."""
    rows = [(["a" * i, "é日本", "", str(10**i)], "") for i in range(6)]
    shown = []
    for many in (100, 1):
        monkeypatch.setattr(table, "MANY", many)
        screen = Screen()
        screen.file = io.StringIO()
        screen.print(table.table_of("sweep s", ("run", "status", "node", "step"), rows), crop=False)
        shown.append([line.rstrip() for line in screen.file.getvalue().splitlines()])
    assert shown[0] == shown[1]


def test_a_long_launch_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """In a log a line every five seconds at most, and none for what is quick."""
    now = itertools.count()
    monkeypatch.setattr("launcher.views.console.time.monotonic", lambda: next(now) / 100)
    with console.working() as tell:
        for number in range(1, 1201):
            tell(f"recording run {number:,} of 1,200")
    assert capsys.readouterr().err == "recording run 500 of 1,200 ...\nrecording run 1,000 of 1,200 ...\n"
    with console.working() as tell:
        tell("recording run 1 of 2")
    assert capsys.readouterr().err == ""
