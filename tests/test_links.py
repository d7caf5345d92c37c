"""Checkpoints that lie behind a symbolic link: read, and neither written nor removed through it."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest
from test_whose import gone_on_from, make

from launcher.store.output_folder import Store
from launcher.store.run_folder import RunDir
from launcher.store.set_aside import set_aside
from launcher.worker.remains import discard_remains
from launcher.worker.training import checkpoints


@pytest.fixture
def run(store: Store) -> RunDir:
    return store.run("mine")


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("linked", ["checkpoint", "start", "all"])
def test_nothing_is_removed_behind_a_link_to_another_run(
    run: RunDir, store: Store, linked: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever of a run's folder is one: the other run keeps its checkpoints, and goes on from the newest."""
    other = store.run("other")
    for step in (600, 800, 1000):
        make(other, step)
    before = everything(other.path)
    part = {"checkpoint": "001.0001/checkpoint-1000", "start": "001.0001", "all": ""}[linked]
    place = run.checkpoints / part
    place.parent.mkdir(parents=True)
    place.symlink_to(other.checkpoints / part)
    assert gone_on_from(run) is None
    for step in (200, 1000, 1200):
        make(run, step, "001.0002")
        checkpoints.rotate(run.checkpoints / "001.0002", keep=1)
    checkpoints.rotate(run.checkpoints / "001.0002", keep=0, up_to=1200)
    assert {name: data for name, data in everything(other.path).items() if "001.0002" not in name} == before
    assert "cannot be removed" not in capsys.readouterr().out
    assert place.is_symlink() == (linked == "all")
    assert gone_on_from(other, "001.0003") == 1000


@pytest.mark.parametrize("linked", ["checkpoint", "start", "all"])
@pytest.mark.parametrize("far", [False, True])
def test_checkpoints_that_were_moved_to_another_disk_are_gone_on_from(
    run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, linked: str, *, far: bool
) -> None:
    """By a link in their place, also where no file there can have a name here; what was moved there stays."""

    def no_link(*_: object, **_how: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    checkpoint = make(run, 600)
    moved = {"checkpoint": checkpoint, "start": checkpoint.parent, "all": run.checkpoints}[linked]
    scratch = Path(shutil.move(moved, tmp_path / "scratch"))
    moved.symlink_to(scratch)
    before = everything(scratch)
    if far and linked != "all":  # there the new start's folder is too
        monkeypatch.setattr(os, "link", no_link)
        monkeypatch.setattr(Path, "rename", no_link)
    assert gone_on_from(run) == 600
    monkeypatch.undo()
    mine = run.checkpoints / "001.0002" / "checkpoint-600"
    assert checkpoints.missing_in(mine) is None
    checkpoints.rotate(run.checkpoints / "001.0002", keep=0, up_to=600)
    assert not os.path.lexists(mine)
    assert everything(scratch) == ({} if linked == "all" else before)


def test_a_training_that_is_set_aside_or_begun_anew_leaves_a_link_alone(run: RunDir, tmp_path: Path) -> None:
    """The link goes, and not what is behind it."""
    for number, begin_anew in enumerate((set_aside, discard_remains)):
        scratch = tmp_path / str(number)
        scratch.mkdir()
        (scratch / "file").write_text("")
        run.path.mkdir(parents=True, exist_ok=True)
        run.checkpoints.symlink_to(scratch)
        run.evaluation_file.write_text("{}")
        begin_anew(run)
        assert not os.path.lexists(run.checkpoints)
        assert (scratch / "file").exists()
