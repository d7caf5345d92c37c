"""A `revision.json` that was copied from another run: that one's model is not taken for the run's own."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from test_unreadable import fake, listed, runs  # noqa: F401 - fixtures
from test_whose_run import Runs, named
from test_wrong_facts import sweep  # noqa: F401 - a fixture

from launcher.cli import main
from launcher.errors import StoreError
from launcher.hub.payload import MARKER
from launcher.store.facts import Revision
from launcher.store.files import read_fact, write_once
from launcher.store.output_folder import Store
from launcher.store.run_folder import Point, RunDir
from launcher.worker.training.train import final_model

PUBLISHED = Revision("", "folder", "tiny-s", "v", "0a", "0a", 1.0)


def published(point: Point, folder: Path, *, older: bool) -> Path:
    """A model that was published, and whose own weights were removed since."""
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_text(point.name)
    marker = {"run_id": point.run.run_id} | ({} if point.step is None else {"step": point.step})
    (folder / MARKER).write_text(json.dumps(marker))
    model = None if older else point.name
    write_once(point.folder.revision_file, replace(PUBLISHED, address=str(folder), model=model))
    return folder


@pytest.mark.parametrize("older", [False, True])
@pytest.mark.parametrize("step", [None, 2])
@pytest.mark.parametrize("kept", ["folder", "huggingface"])
def test_the_revision_of_another_is_not_measured(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: str, step: int | None, older: bool
) -> None:
    """Of another run, or milestone, in a folder or on the Hub; nor one that does not say whose it is."""
    own, other = (
        Point(store.run("own"), step),
        Point(store.run("other") if step is None else store.run("own"), step and 4),
    )
    folders = {point.name: published(point, tmp_path / point.name, older=older) for point in (own, other)}
    if kept == "huggingface":
        for point in (own, other):
            named(point.folder.revision_file, store=kept, repo=point.name)
        monkeypatch.setattr("huggingface_hub.snapshot_download", lambda repo, **_: str(folders[repo]))
    assert final_model(own.folder) == folders[own.name]
    right = own.folder.revision_file.read_text()
    shutil.copy(other.folder.revision_file, own.folder.revision_file)
    with pytest.raises(StoreError, match=f"of {other.name}, not of {own.name}; put its own there"):
        final_model(own.folder)
    own.folder.revision_file.write_text(right)
    (folders[own.name] / MARKER).unlink()
    with pytest.raises(StoreError, match=f"is there without a {re.escape(MARKER)}, so nobody knows whose it is"):
        final_model(own.folder)


def final(run: RunDir) -> Path:
    return run.revision_file


def of_milestone(run: RunDir) -> Path:
    return run.milestone(1).revision_file


@pytest.mark.parametrize("file", [final, of_milestone])
def test_the_revision_of_another_is_told_of_neither(
    runs: Runs,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
    file: Callable[[RunDir], Path],
) -> None:
    """`publish` and `collect` name the file, and `status` that of the final model; nothing is written over it."""
    one, other = runs
    place = Path(shutil.copy(file(one), file(other)))
    before, said = place.read_bytes(), f"{place}: is of {one.run_id}"
    if file is final:
        assert main.main(["status", "s", "--json"]) == 1
        states = listed(capsys)
        assert states[one.run_id]["status"] == "TRAINED"
        assert states[other.run_id]["status"] == "UNREADABLE"
        assert said in states[other.run_id]["reason"]
    for words in (["publish", "s", other.run_id], ["collect", "s"]):
        assert main.main(words) == 1
        assert said in capsys.readouterr().err
    assert place.read_bytes() == before


def test_an_older_versions_revision_of_another_is_not_collected(
    runs: Runs,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It names nobody; the marker in the folder that it leads to does."""
    one, other = runs
    for run in runs:
        named(run.revision_file, model=None)
    assert main.main(["collect", "s"]) == 0
    shutil.copy(one.revision_file, other.revision_file)
    capsys.readouterr()
    assert main.main(["collect", "s"]) == 1
    address = (read_fact(one.revision_file) or {})["address"]
    assert f"{other.revision_file}: {address} is the model of {one.run_id}" in capsys.readouterr().err
