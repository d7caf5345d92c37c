"""A model that is not as its training has left it: neither measured nor published, nor trained from."""

from __future__ import annotations

import errno
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from worker_fixtures import Configure

from launcher.errors import PublishError, StoreError
from launcher.hub.payload import payload_of
from launcher.store import model_marker
from launcher.store.facts import Revision
from launcher.store.files import write_once
from launcher.store.output_folder import Store
from launcher.store.results import Result
from launcher.store.run_folder import Point, RunDir
from launcher.worker.model.weights import from_folder
from launcher.worker.training.train import final_model


@pytest.fixture
def run(store: Store) -> RunDir:
    return store.run("mine")


def trained(point: Point, content: bytes = b"weights") -> Path:
    """The weights of a model that a training has left, of this content."""
    weights = point.folder.model / "model.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(content)
    (weights.parent / "config.json").write_text("{}")
    sums = model_marker.mark(weights.parent, point.folder, ("model.safetensors", "config.json"))
    if point.step is None:
        write_once(point.run.result_file, Result(4, 4, 1.0, sums=sums))
    return weights


def without_marker(weights: Path) -> None:
    weights.write_bytes(b"another")
    (weights.parent / ".trained.json").unlink()


OTHER = "model.safetensors has other content than was written"
HARM: dict[str, tuple[Callable[[Path], object], str]] = {
    "another": (
        lambda weights: weights.write_bytes(b"another"),
        "model.safetensors has other content than was written",
    ),
    "cut": (lambda weights: weights.write_bytes(b"wei"), "model.safetensors has 3 bytes, and had 7"),
    "gone": (lambda weights: weights.unlink(), "model.safetensors is gone"),
    "a folder": (lambda weights: (weights.unlink(), weights.mkdir()), "model.safetensors is gone"),
    "beside": (
        lambda weights: (weights.parent / "config.json").write_text("[]"),
        "config.json has other content than was written",
    ),
    "without its marker": (without_marker, OTHER),
}


MARKED = sorted(HARM.keys() - {"without its marker"})  # all that a milestone has: no result tells of it


@pytest.mark.parametrize(("step", "harm"), [*((None, harm) for harm in HARM), *((2, harm) for harm in MARKED)])
def test_a_model_that_was_changed_is_neither_measured_nor_published(run: RunDir, step: int | None, harm: str) -> None:
    """Also by the files of another, copied by name, which leaves a hidden one where it is, or out."""
    point, (change, fault) = Point(run, step), HARM[harm]
    write_once(run.config_file, {})
    weights = trained(point)
    assert final_model(point.folder) == weights.parent
    payload_of(point, "card")
    change(weights)
    words = f"{weights.parent}: {fault}; put its own there, or remove the run's result.json to train it again"
    with pytest.raises(StoreError, match=re.escape(words)):
        final_model(point.folder)
    with pytest.raises(PublishError, match=re.escape(f"{point.name}: {words}")):
        payload_of(point, "card")


def test_a_model_that_cannot_be_read_is_not_called_damaged(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's own words: it may be whole, and nobody is told to train it again."""
    weights = trained(Point(run))

    def refused(path: Path, *_: object, **_how: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(PermissionError, match=re.escape(f"Permission denied: '{weights.parent}")):
        final_model(run)


def test_a_revision_that_stands_in_for_the_model_is_read_too(run: RunDir, tmp_path: Path) -> None:
    """Its weights; an adapter's configuration there names another base."""
    weights = trained(Point(run))
    revision = Path(shutil.copytree(weights.parent, tmp_path / "revision"))
    (revision / "config.json").write_text('{"base": 1}')
    (revision / ".trained.json").unlink()
    (revision / "prefsweep.json").write_text(json.dumps({"run_id": run.run_id}))
    shutil.rmtree(weights.parent)
    write_once(run.revision_file, Revision(str(revision), "folder", "r", "v", "hash", "hash", 1.0))
    assert final_model(run) == revision
    (revision / "model.safetensors").write_bytes(b"another")
    with pytest.raises(StoreError, match=re.escape(f"{revision}: model.safetensors has other content")):
        final_model(run)


def test_a_training_does_not_start_from_a_runs_damaged_model(run: RunDir, configure: Configure) -> None:
    """One whose model.path is that folder; other files there are the user's to change."""
    weights = trained(Point(run))
    (weights.parent / "config.json").write_text('{"changed": 1}')
    model_marker.verify_start(weights.parent)
    weights.write_bytes(b"another")
    words = f"{weights.parent}: model.safetensors has other content than was written; put back what mine has left there"
    with pytest.raises(StoreError, match=re.escape(words)):
        from_folder(str(weights.parent), configure().model, torch.float32)
