"""Checkpoints of another run, in whatever place a hand has put them: they count for nothing, and none is removed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_links import everything
from test_whose import age, exchange, gone_on_from, make, told

from launcher.store.output_folder import Store
from launcher.store.run_folder import RunDir
from launcher.store.set_aside import set_aside
from launcher.worker.remains import discard_remains
from launcher.worker.training import checkpoints

STEPS = (20, 40, 60)


@pytest.fixture
def run(store: Store) -> RunDir:
    return store.run("mine")


@pytest.fixture
def other(store: Store) -> RunDir:
    return store.run("other")


def of_an_older_version(checkpoint: Path, run: RunDir) -> None:
    """Its marker names no run; its trainer's arguments do."""
    folder = f"/moved/since/runs/{run.run_id}/checkpoints/001.0001"
    torch.save({"output_dir": folder}, checkpoint / "training_args.bin")
    age(checkpoint)


def steps_in(folder: Path) -> list[int]:
    return sorted(checkpoints.step_of(path) for path in folder.glob("checkpoint-*"))


@pytest.mark.parametrize("older", [False, True])
@pytest.mark.parametrize("torn", [False, True])
@pytest.mark.parametrize("start", ["001.0002", "002.0001"])
def test_those_of_a_later_start_displace_none_of_its_own(
    run: RunDir, other: RunDir, start: str, *, torn: bool, older: bool
) -> None:
    """Of the same steps, whole or not, also where the next start writes: its own are kept, and gone on from."""
    for step in STEPS:
        make(run, step)
        foreign = make(other, step)
        if older:
            of_an_older_version(foreign, other)
        if torn:
            (foreign / "optimizer.pt").unlink()
    there = Path(shutil.copytree(other.checkpoints / "001.0001", run.checkpoints / start))
    before = everything(there)
    assert gone_on_from(run, "002.0001", keep=2) == 60
    for step in (80, 100):
        make(run, step, "002.0001")
        checkpoints.rotate(run.checkpoints / "002.0001", keep=2)
    assert steps_in(run.checkpoints / "001.0001") == []
    kept = everything(run.checkpoints)
    for name, data in before.items():
        checkpoint, _, file = name.partition("/")
        places = [path for path in kept if path.startswith(f"{start}/{checkpoint}") and path.endswith(f"/{file}")]
        assert data in [kept[path] for path in places]
    assert gone_on_from(run, "002.0002") == 100
    names = [checkpoint for checkpoint, *_ in told(run)]
    assert len(names) == len(set(names))


def test_those_that_were_exchanged_are_there_for_their_own_runs(run: RunDir, other: RunDir) -> None:
    """While both train on, to the end: each may be all that the other has."""
    made = make(run, 60), make(other, 60)
    exchange(*made)
    for each in (run, other):
        assert gone_on_from(each) is None
        for step in (80, 100):
            make(each, step, "001.0002")
            checkpoints.rotate(each.checkpoints / "001.0002", keep=1)
        checkpoints.rotate(each.checkpoints / "001.0002", keep=0, up_to=100)
        assert [len(told(each)), steps_in(each.checkpoints / "001.0002")] == [1, []]
    exchange(*made)
    assert (gone_on_from(run, "001.0003"), gone_on_from(other, "001.0003")) == (60, 60)


@pytest.mark.parametrize("end", [set_aside, discard_remains])
def test_those_in_a_training_that_is_thrown_away_stay(run: RunDir, other: RunDir, end: Callable[[RunDir], Any]) -> None:
    """Its own go: `retrain=true`, and a result that was removed."""
    make(run, 40)
    make(run, 80, "001.0002")
    moved = make(other, 60).rename(run.checkpoints / "001.0001" / "checkpoint-60")
    (run.checkpoints / "001.0003").symlink_to(other.checkpoints)
    before = everything(moved)
    run.evaluation_file.write_text("{}")
    end(run)
    assert everything(moved) == before
    assert checkpoints.newest_first(run.checkpoints) == [moved]
    assert not os.path.lexists(run.checkpoints / "001.0003")


def test_a_start_does_not_write_behind_a_link(run: RunDir, other: RunDir) -> None:
    """One that lies where its own folder is to be, and leads to another run's."""
    make(run, 40)
    make(other, 60)
    before = everything(other.path)
    (run.checkpoints / "001.0002").symlink_to(other.checkpoints / "001.0001")
    assert gone_on_from(run) == 40
    make(run, 60, "001.0002")
    checkpoints.rotate(run.checkpoints / "001.0002", keep=1)
    assert steps_in(run.checkpoints / "001.0002") == [60]
    assert everything(other.path) == before
