"""A run that goes on is held to what it noted that it is trained on: of another, nothing is touched."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from test_links import everything
from test_same_content import append
from test_whose import age, make
from worker_fixtures import Configure

from launcher.config import OBJECTIVE, RunConfig
from launcher.errors import StoreError, UsageError
from launcher.store.facts import Attempt
from launcher.store.files import read_fact
from launcher.store.origins import DatasetSources, Sources
from launcher.store.output_folder import Store
from launcher.store.run_folder import RunDir
from launcher.store.set_aside import set_aside
from launcher.worker import hub
from launcher.worker.attempt import make_attempt
from launcher.worker.hub import record_sources
from launcher.worker.interruption import StopRequest
from launcher.worker.outcome import Kind

Begun = tuple[RunConfig, RunDir, Path]
WAYS_ON = "put that back, or launch with retrain=true to train it anew"


@pytest.fixture
def begun(configure: Configure, store: Store, tmp_path: Path) -> Begun:
    """A run that has come to a checkpoint, and the file that it is trained on."""
    config, run = configure(hub=replace(configure().hub, store="off")), store.run("r")
    run.write_config({key: asdict(config)[key] for key in OBJECTIVE})
    record_sources(config, run, store)
    make(run, 80)
    return config, run, tmp_path / "pairs/train.jsonl"


def reason(config: RunConfig, run: RunDir, store: Store) -> str:
    """Why a start by hand, which was not told what to be trained on, has failed."""
    settings = {key: value for key, value in asdict(config).items() if key not in OBJECTIVE}
    outcome = make_attempt(run.new_attempt(Attempt(settings)), store, StopRequest())
    assert outcome.kind is Kind.FAILED
    return outcome.reason


def kept(run: RunDir) -> dict[str, bytes]:
    names = ("attempt", "starts/", "damage")
    return {name: data for name, data in everything(run.path).items() if not name.startswith(names)}


@pytest.mark.parametrize("older", [False, True])
def test_other_data_are_refused_before_anything_is_touched(begun: Begun, store: Store, *, older: bool) -> None:
    """Also where the checkpoints say nothing of what they are of; once the data are put back the run may go on."""
    config, run, file = begun
    if older:
        age(run.checkpoints / "001.0001/checkpoint-80")
    before, data = kept(run), file.read_bytes()
    append(file)
    said = f"r: {file} is not the one that it was trained on so far ({run.sources_file}); {WAYS_ON}"
    assert reason(config, run, store) == said
    assert (kept(run), run.damages()) == (before, [])
    file.write_bytes(data)
    record_sources(config, run, store)
    assert kept(run) == before


@pytest.mark.parametrize("torn", ['{"model": {"wei', "", "[]", "\0\0\0"])
def test_what_it_noted_cannot_be_read(begun: Begun, store: Store, torn: str) -> None:
    """It is noted again where a checkpoint tells that it was this; else refused, and nothing is touched."""
    config, run, file = begun
    noted, data = run.sources_file.read_text(), file.read_bytes()
    run.sources_file.write_text(torn)
    append(file)
    before = kept(run)
    assert str(run.sources_file) in reason(config, run, store)
    assert kept(run) == before
    file.write_bytes(data)
    record_sources(config, run, store)
    assert run.sources_file.read_text() == noted
    run.sources_file.write_text(torn)
    age(run.checkpoints / "001.0001/checkpoint-80")
    with pytest.raises(StoreError, match=r"sources\.json"):
        record_sources(config, run, store)


def test_what_it_noted_is_gone(begun: Begun, store: Store) -> None:
    """Then its checkpoints tell; where they are an older version's, nothing is known, and it goes on."""
    config, run, file = begun
    data = file.read_bytes()
    noted = read_fact(run.sources_file)
    run.sources_file.unlink()
    append(file)
    before = kept(run)
    assert reason(config, run, store).endswith(f"as its checkpoints tell ({run.checkpoints}); {WAYS_ON}")
    assert kept(run) == before
    file.write_bytes(data)
    record_sources(config, run, store)
    assert read_fact(run.sources_file) == noted
    run.sources_file.unlink()
    age(run.checkpoints / "001.0001/checkpoint-80")
    append(file)
    record_sources(config, run, store)
    assert run.sources_file.exists()


def test_other_hashes_than_it_is_trained_on(begun: Begun, store: Store) -> None:
    config, run, _ = begun
    noted = read_fact(run.sources_file) or {}
    run.sources_file.write_text(json.dumps(noted | {"model": {"weights": {"w": "0"}}}))
    assert reason(config, run, store).startswith("r: its model is not the one that it was trained on so far")


def checkpoint_moved_away(run: RunDir) -> None:
    (run.checkpoints / "001.0001/checkpoint-80").rename(run.path / "x")


@pytest.mark.parametrize("end", [set_aside, checkpoint_moved_away])
def test_a_training_of_which_nothing_is_left_is_not_held_to_anything(
    begun: Begun, store: Store, end: Callable[[RunDir], Any]
) -> None:
    """One that is set aside, and one whose checkpoints are gone."""
    config, run, file = begun
    before = run.sources_file.read_text()
    end(run)
    append(file)
    if run.sources_file.exists():
        run.sources_file.write_text("{")
    record_sources(config, run, store)
    assert read_fact(run.sources_file, Sources)
    assert run.sources_file.read_text() != before


OF_THE_HUB = Sources({"hub": "o/m", "commit": "1"}, DatasetSources({"o/d": "1"}, {"hub": "o/w", "commit": "1"}))


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (replace(OF_THE_HUB, model={"hub": "o/m", "commit": "2"}), "its model is not the one"),
        (replace(OF_THE_HUB, dataset=replace(OF_THE_HUB.dataset, commits={"o/d": "2"})), "o/d is not at the commit"),
        (
            replace(OF_THE_HUB, dataset=replace(OF_THE_HUB.dataset, weaker_model={"hub": "o/w", "commit": "2"})),
            "its weaker model is not the one",
        ),
    ],
)
def test_other_commits_are_refused(
    configure: Configure, store: Store, monkeypatch: pytest.MonkeyPatch, now: Sources, said: str
) -> None:
    """Where a pin was removed or edited since; by what the run noted, and where that is gone by its checkpoints."""
    config, run = configure(), store.run("r")
    monkeypatch.setattr(hub, "_sources", lambda *_: OF_THE_HUB)
    record_sources(config, run, store)
    make(run, 80)
    record_sources(config, run, store)
    monkeypatch.setattr(hub, "_sources", lambda *_: now)
    with pytest.raises(UsageError, match=f"r: {said} that it was trained on so far"):
        record_sources(config, run, store)
    run.sources_file.unlink()
    with pytest.raises(UsageError, match="r: its model or its data are not those that it was trained on so far"):
        record_sources(config, run, store)
