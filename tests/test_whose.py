"""Whose checkpoints and models are: what a restore by hand has put elsewhere is not taken for the run's own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from launcher.config import Hub
from launcher.errors import CheckpointError, PublishError, StoreError
from launcher.hub.payload import payload_of
from launcher.hub.push import lacks
from launcher.store import model_marker
from launcher.store.facts import Attempt, Launch, Started
from launcher.store.files import read_fact, write_once
from launcher.store.origins import Contents, DatasetSources, Sources
from launcher.store.output_folder import Store
from launcher.store.run_folder import Point, RunDir
from launcher.store.starts import claim, last_start
from launcher.worker.training import checkpoints
from launcher.worker.training.checkpoints import Training
from launcher.worker.training.resume import checkpoint_to_resume, refuse
from launcher.worker.training.train import final_model
from launcher.worker.training.trainer import check_start

FILES = ("trainer_state.json", "model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth")
NEW = ("run", "sources", "step")  # of a marker: what an older version does not write


def make(run: RunDir, step: int, start: str = "001.0001") -> Path:
    """A whole checkpoint, as its training seals it."""
    path = run.checkpoints / start / f"checkpoint-{step}"
    path.mkdir(parents=True)
    for name in FILES:
        (path / name).write_text(json.dumps({"global_step": step}))
    checkpoints.seal(path, 1, {}, Training.of(run))
    return path


def age(checkpoint: Path) -> None:
    """Leave of the marker what an older version wrote."""
    marker = checkpoint / checkpoints.MARKER
    marker.write_text(json.dumps({key: value for key, value in (read_fact(marker) or {}).items() if key not in NEW}))


def exchange(one: Path, other: Path) -> None:
    one.rename(one.with_name("aside"))
    other.rename(one)
    one.with_name("aside").rename(other)


def gone_on_from(run: RunDir, start: str = "001.0002", keep: int = 2) -> int | None:
    found = checkpoint_to_resume(run, run.checkpoints / start, keep, sharded=False)
    return checkpoints.step_of(found) if found else None


def told(run: RunDir) -> list[tuple[str, str, int | None]]:
    return [(damage.checkpoint, damage.why, damage.step) for damage in run.damages()]


@pytest.fixture
def run(store: Store) -> RunDir:
    return store.run("mine")


# ------------------------------------------------------------------------------------------------ checkpoints


def test_a_checkpoint_of_another_run_is_passed_over(run: RunDir, store: Store) -> None:
    """With whose it is; it stays where it lies, and an older one, or none, is gone on from. Once told is enough."""
    other = store.run("other")
    make(run, 400)
    exchange(make(run, 600), make(other, 600))
    assert gone_on_from(run) == 400
    assert gone_on_from(run, "001.0003") == 400
    assert told(run) == [("001.0001/checkpoint-600", "it is a checkpoint of the run other", 400)]
    assert gone_on_from(other) is None
    assert told(other) == [("001.0001/checkpoint-600", "it is a checkpoint of the run mine", None)]
    assert (other.checkpoints / "001.0001/checkpoint-600/optimizer.pt").exists()
    assert run.last_checkpoint_step() == 400


def test_one_that_lies_where_this_start_writes_makes_way(run: RunDir, store: Store) -> None:
    """Else the marker that is there already would close what this start is to write into that folder."""
    other = make(store.run("other"), 600)
    shutil.copytree(other, run.checkpoints / "001.0002" / "checkpoint-600")
    assert gone_on_from(run) is None
    assert not (run.checkpoints / "001.0002" / "checkpoint-600").exists()


SOURCES = {
    "the data": Sources(inputs={"dataset.path": Contents("/here/a", "a", {"train.jsonl": "2"})}),
    "the model": Sources(model={"hub": "m", "commit": "2"}, inputs={"dataset.path": Contents("/a", "a", {"t": "1"})}),
    "a commit": Sources(dataset=DatasetSources({"d": "2"})),
}


@pytest.mark.parametrize("what", SOURCES)
def test_a_checkpoint_of_another_training_is_passed_over(run: RunDir, what: str) -> None:
    """One of the same run from before it was trained anew on something else, that came back."""
    write_once(run.sources_file, Sources(inputs={"dataset.path": Contents("/a", "a", {"t": "1"})}))
    make(run, 600)
    run.sources_file.unlink()
    write_once(run.sources_file, SOURCES[what])
    make(run, 400)
    assert gone_on_from(run) == 400
    why = "it is a checkpoint of another training of mine, with another model or other data"
    assert told(run) == [("001.0001/checkpoint-600", why, 400)]


def test_a_project_that_was_moved_goes_on(run: RunDir) -> None:
    """The same files at another place are the same data; what it is evaluated with decides no training."""
    write_once(run.sources_file, Sources(inputs={"dataset.path": Contents("/a", "a", {"t": "1"})}))
    make(run, 600)
    run.sources_file.unlink()
    write_once(run.sources_file, Sources(inputs={"dataset.path": Contents("/b", "../b", {"t": "1"})}))
    assert gone_on_from(run) == 600


@pytest.mark.parametrize("older", [False, True])
def test_checkpoints_whose_names_were_exchanged_are_passed_over(run: RunDir, *, older: bool) -> None:
    """Also those of an older version, whose step the trainer's state tells; an older one is gone on from."""
    made = [make(run, step) for step in (1000, 1200, 1400)]
    exchange(made[1], made[2])
    for checkpoint in made if older else []:
        age(checkpoint)
    assert gone_on_from(run) == 1000
    assert told(run) == [
        ("001.0001/checkpoint-1400", "it is the checkpoint of step 1200", 1000),
        ("001.0001/checkpoint-1200", "it is the checkpoint of step 1400", 1000),
    ]


@pytest.mark.parametrize("state", ["", "[]", "{}", '{"global_step": 600}', '{"global_step": null}'])
def test_a_checkpoint_of_an_older_version_is_gone_on_from(run: RunDir, state: str) -> None:
    """Its marker names neither run nor step."""
    write_once(run.sources_file, Sources())
    checkpoint = make(run, 600)
    (checkpoint / "trainer_state.json").write_text(state)
    marker = {"files": {name: (checkpoint / name).stat().st_size for name in FILES}, "ranks": 1}
    (checkpoint / checkpoints.MARKER).write_text(json.dumps(marker))
    assert gone_on_from(run) == 600
    assert told(run) == []


def test_what_a_training_could_not_start_from_is_not_tried_again(run: RunDir) -> None:
    """It is recorded, with what the next start goes on from, and that is so."""
    make(run, 400)
    make(run, 600)
    assert gone_on_from(run) == 600
    mine = run.checkpoints / "001.0002" / "checkpoint-600"
    with pytest.raises(CheckpointError, match="starts at step 400, its checkpoint is of step 600") as raised:
        check_start(400, mine)
    refuse(run, mine, str(raised.value))
    assert told(run) == [("001.0002/checkpoint-600", str(raised.value), 400)]
    assert gone_on_from(run, "001.0003") == 400


def test_a_checkpoint_of_another_run_is_known_by_its_trainers_arguments(run: RunDir) -> None:
    """One of an older version, whose marker names no run."""
    for step, name in ((200, "mine"), (400, "other")):
        checkpoint = make(run, step)
        folder = f"/moved/since/runs/{name}/checkpoints/001.0001"
        torch.save({"output_dir": folder, "logging_dir": f"{folder}/runs/Nov28"}, checkpoint / "training_args.bin")
        age(checkpoint)
    assert gone_on_from(run) == 200
    assert told(run) == [("001.0001/checkpoint-400", "it is a checkpoint of the run other", 200)]


def test_a_damaged_marker_is_told_as_that_of_the_checkpoint(run: RunDir) -> None:
    """Not as that of the copy that this start has made; both are removed, so that nothing is asked for."""
    make(run, 400)
    checkpoint = make(run, 600)
    marker = checkpoint / checkpoints.MARKER
    marker.write_text(json.dumps({**(read_fact(marker) or {}), "run": 5}))
    assert gone_on_from(run) == 400
    assert told(run) == [("001.0001/checkpoint-600", "complete.json: run cannot be 5", 400)]
    assert not checkpoint.exists()


# ------------------------------------------------------------------------------------------------ foreign names


def test_folders_of_other_names_do_no_harm(run: RunDir) -> None:
    """Copies aside, a file of a checkpoint's name: nobody reads, counts or removes them."""
    whole = make(run, 600)
    for name in ("600.bak", "best", "0700", "", "-700", "\N{SUPERSCRIPT TWO}", "700 (copy)"):
        shutil.copytree(whole, whole.with_name(f"checkpoint-{name}"))
    shutil.copytree(whole, run.checkpoints / "001.0001.bak" / "checkpoint-900")
    (run.checkpoints / "001.0001" / "checkpoint-800").write_text("a file")
    before = sorted(run.checkpoints.rglob("*"))
    assert run.last_checkpoint_step() == 600
    assert checkpoints.newest_first(run.checkpoints) == [whole]
    checkpoints.rotate(run.checkpoints / "001.0001", keep=1)
    assert sorted(run.checkpoints.rglob("*")) == before
    assert gone_on_from(run) == 600


def test_names_that_others_made_are_none_of_ours(run: RunDir, store: Store) -> None:
    """Beside attempts, starts, milestones and launches; of an older version's attempts too."""
    attempt = run.new_attempt(Attempt())
    claim(attempt, Started())
    for name in ("001.0001", "001.0001.json.bak", "001.0001 (copy).json", "notes.json", "001.\N{SUPERSCRIPT TWO}.json"):
        (run.starts / name).write_text("{}")
    for name in ("attempt-001.json.bak", "attempt-001 (copy).json", "attempt-\N{SUPERSCRIPT TWO}.json"):
        (run.path / name).write_text("{}")
    for name in ("000002", "000002.bak", "best", "2", "\N{SUPERSCRIPT TWO}"):
        (run.path / "milestones" / name / "model").mkdir(parents=True)
    assert [each.number for each in run.attempts()] == [1]
    start = last_start(attempt)
    assert start is not None
    assert (start.order, start.is_superseded()) == ((1, 1), False)
    assert [step for step, _ in run.milestones()] == [2]
    older = store.run("older")
    for name in ("001", "002.evaluation", "001.bak", "\N{SUPERSCRIPT TWO}", ".evaluation"):
        (older.path / "attempts" / name).mkdir(parents=True)
    assert [each.number for each in older.attempts()] == [1, 2]


def test_a_copy_of_a_launch_is_no_launch(store: Store) -> None:
    """Else it would be the newest by its name; a number that was removed is not given again before later ones."""
    sweep = store.sweep("s")
    for axis in ("a", "b"):
        sweep.add_launch(Launch([axis], []))
    folder = sweep.path / "launches"
    shutil.copy(folder / "001.json", folder / "old.json")
    (folder / "notes.json").write_text("none")
    assert ([launch.axes for launch in sweep.launches()], sweep.damages()) == ([["a"], ["b"]], [])
    (folder / "001.json").unlink()
    sweep.add_launch(Launch(["c"], []))
    assert [launch.axes for launch in sweep.launches()] == [["b"], ["c"]]


# ------------------------------------------------------------------------------------------------ models


def with_model(point: Point) -> None:
    point.folder.model.mkdir(parents=True)
    (point.folder.model / "model.safetensors").write_bytes(b"x")
    model_marker.mark(point.folder.model, point.folder)


@pytest.mark.parametrize("step", [None, 2])
def test_the_model_of_another_is_neither_measured_nor_published(run: RunDir, store: Store, step: int | None) -> None:
    """Of another run, or of another milestone; one that says nothing is an older version's."""
    own, other = Point(run, step), Point(store.run("other") if step is None else run, step and 4)
    for point in (own, other):
        write_once(point.run.config_file, {})
        with_model(point)
        assert final_model(point.folder) == point.folder.model
        assert ".trained.json" not in payload_of(point, "card").files
    exchange(own.folder.model, other.folder.model)
    with pytest.raises(StoreError, match=f"is the model of {other.name}, not of {own.name}; put its own there"):
        final_model(own.folder)
    with pytest.raises(PublishError, match=f"is the model of {other.name}; put its own there"):
        payload_of(own, "card")
    assert lacks(own, Hub(store="folder", repo="r", revision="v"))
    (own.folder.model / ".trained.json").unlink()
    assert final_model(own.folder) == own.folder.model
