"""A run that two sweeps hold, each with a repository of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import clean_environment, sweep_of
from fakes import FakeScheduler, submit
from finished_runs import trained_runs
from waiting import LONGEST_WAIT

from launcher.store.facts import Revision
from launcher.store.files import read_fact
from launcher.store.output_folder import Store

GRID = ("model=tiny", "trainer=full", "hub.when=login", "hub=folder")


def typed(store: Store, *words: str) -> str:
    """What `python -m launcher` prints."""
    place = [f"output_dir={store.root}"] if words[0] == "-m" else ["--output-dir", str(store.root)]
    command = [sys.executable, "-m", "launcher", *words, *place]
    done = subprocess.run(
        command, env=clean_environment(), capture_output=True, text=True, timeout=LONGEST_WAIT, check=True
    )
    return done.stdout


@pytest.fixture
def twice(store: Store) -> Store:
    """One run, trained and published by the sweep `one`, and launched, with another beta, by the sweep `two`."""
    trained_runs(store, "hub=folder", "sweep=one", "beta=0.1")
    typed(store, "publish", "one")
    submit(sweep_of(*GRID, "sweep=two", "beta=0.1,0.2"), store, FakeScheduler(), [])
    return store


def address(store: Store) -> Path:
    """Where the run is published, as it says."""
    (file,) = store.root.glob("runs/*/revision.json")
    fact = read_fact(file, Revision)
    assert fact is not None
    return Path(fact.address)


def test_the_plan_says_where_a_finished_run_is_published(twice: Store) -> None:
    """Not that it is published where this sweep publishes: nothing pushes it there."""
    lines = typed(twice, "-m", *GRID, "sweep=two", "beta=0.1,0.2", "dry_run=true").splitlines()
    assert "published as revisions of tiny-two (hub=folder): sigmoid-0.2" in lines
    (already,) = (line for line in lines if line.startswith("published already"))
    assert already.startswith("published already, as revisions of tiny-one (hub=folder): sigmoid-0.1; they stay there")
    own = typed(twice, "-m", *GRID, "sweep=one", "beta=0.1", "dry_run=true")
    assert "published as revisions of tiny-one (hub=folder): sigmoid-0.1" in own
    assert "published already" not in own


def test_publish_goes_by_the_settings_of_its_sweep(twice: Store) -> None:
    """What another sweep has published elsewhere is published here too, and stays there."""
    first = address(twice)
    assert (first.parent.name, first.name) == ("tiny-one", "sigmoid-0.1")
    assert "(sigmoid-0.1 of tiny-two, hub=folder)" in typed(twice, "publish", "two", "--dry-run")
    typed(twice, "publish", "two")
    assert address(twice) == first.parent.parent / "tiny-two" / "sigmoid-0.1"
    weights = [sorted(folder.glob("*.safetensors")) for folder in (first, address(twice))]
    assert len(weights[0]) == 2
    assert [one.read_bytes() for one in weights[0]] == [other.read_bytes() for other in weights[1]]


def test_a_sweep_without_the_hub_publishes_nothing_of_anothers(twice: Store) -> None:
    """`hub=off` counts for its sweep; where the run is all the same is told."""
    submit(sweep_of(*GRID[:3], "hub=off", "sweep=three", "beta=0.1"), twice, FakeScheduler(), [])
    told = typed(twice, "publish", "three", "--dry-run")
    assert f"hub=off, and was published as {address(twice)} before" in told
    assert "0 of 1 would be pushed" in told
    assert "published already, as revisions of tiny-one" in typed(
        twice, "-m", *GRID[:3], "hub=off", "sweep=three", "beta=0.1", "dry_run=true"
    )
