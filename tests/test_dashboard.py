"""launcher.tracking.dashboard: what it defines, and the local pages as they are served."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY, sweep_of
from waiting import LONGEST_WAIT, eventually
from wandb_server import serving

from launcher.errors import UsageError
from launcher.planning.launches import record_of
from launcher.store.attempt_config import read_config
from launcher.store.facts import Attempt, Launch
from launcher.store.files import append_line
from launcher.store.output_folder import Store, SweepDir
from launcher.tracking import process as tracking
from launcher.tracking.dashboard import SERVERS, Page, has_tracker, open_dashboard

ARGUMENTS = ("model=tiny", "loss_type=ipo,sigmoid", "beta=0.1,0.5", "sweep=shown")


def launched(store: Store, backend: str) -> SweepDir:
    """A sweep of 2 loss types x 2 betas as its launch records it."""
    sweep = sweep_of(*ARGUMENTS, f"tracking={backend}")
    for run in sweep.runs:
        store.run(run.run_id).write_config(run.objective)
    store.sweep(sweep.name).add_launch(Launch(list(sweep.axes), [record_of(run) for run in sweep.runs]))
    return store.sweep(sweep.name)


def test_the_tracking_is_that_of_the_last_launch(store: Store) -> None:
    """Also where that was of some of the runs only."""
    directory = launched(store, "off")
    again, *_ = sweep_of(*ARGUMENTS, "tracking=trackio").runs
    directory.add_launch(Launch([], [record_of(again)]))
    page = Page.of(directory)
    assert (page.tracking.backend, page.losses) == ("trackio", ("ipo", "sigmoid"))


def panels(definition: Any) -> list[dict[str, Any]]:
    """Every panel of a report or a workspace, wherever it stands."""
    if isinstance(definition, dict):
        found = [definition] if "viewType" in definition else []
        return found + [panel for value in definition.values() for panel in panels(value)]
    return [panel for item in definition for panel in panels(item)] if isinstance(definition, list) else []


def grids(report: dict[str, Any]) -> list[dict[str, Any]]:
    return [block["metadata"] for block in report["spec"]["blocks"] if block["type"] == "panel-grid"]


def test_without_an_account_the_definitions_are_files(store: Store) -> None:
    """Workspace and report: accuracy, margin and loss by step, KL and scores by beta, for each loss type; all axes."""
    directory = launched(store, "wandb")
    lines, serves = open_dashboard(directory, None, browser=False)
    assert not serves
    assert "wandb login" in lines[0]
    workspace, report = (json.loads(Path(line).read_text()) for line in lines[1:])
    assert report["displayName"] == workspace["displayName"] == "shown"
    best, everything, *of_losses = grids(report)
    assert [panel["viewType"] for panel in panels(everything)] == ["Parallel Coordinates Plot"]
    assert len(panels(best)) == 5
    assert len(of_losses) == 2
    for grid, loss in zip(of_losses, ("ipo", "sigmoid"), strict=True):
        lines_drawn = {
            key for p in panels(grid) if p["viewType"] == "Run History Line Plot" for key in p["config"]["metrics"]
        }
        assert {"train/reward_accuracy", "train/reward_margin", "train/loss"} <= lines_drawn
        scattered = {
            (p["config"]["xAxis"], p["config"]["yAxis"]) for p in panels(grid) if p["viewType"] == "Scatter Plot"
        }
        assert {("config:beta.value", f"summary:eval/{name}") for name in ("kl", "reward_accuracy")} <= scattered
        filters = json.dumps(grid["runSets"][0]["filters"])
        assert all(f'"value": "{value}"' in filters for value in (loss, "shown"))
    assert '"value": "shown"' in json.dumps(workspace["spec"]["section"]["runSets"][0]["filters"])


def test_all_runs_of_a_sweep_are_drawn(store: Store) -> None:
    """In the workspace and in each plot of curves, where the library would draw ten."""
    sweep = sweep_of("model=tiny", "loss_type=ipo", "beta=range(1,31)", "sweep=shown", "tracking=wandb")
    store.sweep("shown").add_launch(Launch(list(sweep.axes), [record_of(run) for run in sweep.runs]))
    lines, _ = open_dashboard(store.sweep("shown"), None, browser=False)
    workspace, report = (json.loads(Path(line).read_text()) for line in lines[1:])
    assert workspace["spec"]["section"]["settings"]["maxRuns"] == 30
    curves = [each for each in panels(report) + panels(workspace) if each["viewType"] == "Run History Line Plot"]
    assert {each["config"]["limit"] for each in curves} == {30}


def test_with_an_account_they_are_saved(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """W&B is sent both, and the user is told their addresses."""
    directory = launched(store, "wandb")
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef" * 2 + "01234567")
    with serving() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        lines, _ = open_dashboard(directory, None, browser=False)
        assert [view["displayName"] for view in server.views] == ["shown", "shown"]
        assert all(line.startswith(f"{server.url}/me/prefsweep") for line in lines)
        server.status = 403
        lines, _ = open_dashboard(directory, None, browser=False)
    assert "did not take" in lines[0]
    assert all(Path(line).exists() for line in lines[1:])


@pytest.mark.parametrize("backend", ["off", "auto"])
def test_a_sweep_without_a_tracker_has_its_own_page(store: Store, backend: str) -> None:
    """And so has one that W&B was to track if there were an account; which whoever named W&B is told to get."""
    assert not has_tracker(launched(store, backend))
    assert has_tracker(launched(Store(store.root / "other"), "wandb"))


def test_a_tracker_that_has_nothing_yet_says_so(store: Store) -> None:
    """In one line, with what to wait for."""
    with pytest.raises(UsageError, match="once they train"):
        open_dashboard(launched(Store(store.root / "other"), "trackio"), None, browser=False)


def test_port_0_is_any_that_is_free(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which not every library knows: it would wait for its own page at port 0."""
    directory = launched(store, "trackio")
    (directory.tracking / "trackio").mkdir(parents=True)
    monkeypatch.setitem(SERVERS, "trackio", lambda *given, **_: f"port {given[2]}")
    assert open_dashboard(directory, 0, browser=False) == (["port None"], True)


def tracked(store: Store, backend: str) -> SweepDir:
    """The sweep with three steps of each run told to its tracker."""
    directory = launched(store, backend)
    for record in directory.run_records():
        run = store.run(record.run_id)
        attempt = run.new_attempt(Attempt(settings=record.settings))
        for step in (1, 2, 3):
            append_line(run.metrics_file, {"step": step, "max_steps": 3, "loss": 1 / step, "time": time.time()})
        with tracking.tracked(read_config(attempt), attempt):
            pass
    return directory


@contextmanager
def page(store: Store) -> Iterator[str]:
    """`python -m launcher dashboard`, for as long as the context lasts; its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "launcher", "dashboard", "shown", "--port", str(port), "--no-browser"]
    command += ["--output-dir", str(store.root)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout
        address = process.stdout.readline().strip()
        assert f":{port}" in address
        try:
            yield address
        finally:
            process.terminate()


def test_the_trackio_page_shows_the_sweep(store: Store) -> None:
    """The page that `dashboard` serves on loopback draws each run's curve, as a headless browser sees it."""
    pytest.importorskip("trackio", minversion="0.43")
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    directory = tracked(store, "trackio")
    with page(store) as address:
        if browser is None:
            assert urllib.request.urlopen(address, timeout=LONGEST_WAIT).status == 200  # noqa: S310 - loopback
            pytest.skip("no Chromium to look at it with")
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=10000", "--dump-dom"]
        seen = subprocess.run(
            [*command, address], capture_output=True, text=True, check=True, timeout=LONGEST_WAIT
        ).stdout
    assert all(record.run_id in seen for record in directory.run_records())
    assert "train/loss" in seen


def test_the_tensorboard_page_knows_the_runs(store: Store) -> None:
    """The page that `dashboard` serves lists each run with its curve, as TensorBoard's own interface answers."""
    pytest.importorskip("tensorboard")
    directory = tracked(store, "tensorboard")
    expected = {record.run_id: ["train/loss"] for record in directory.run_records()}
    with page(store) as address:
        assert eventually(lambda: curves(address) == expected), curves(address)


def curves(address: str) -> dict[str, list[str]]:
    """The tags of each run, as TensorBoard answers now."""
    with urllib.request.urlopen(f"{address}data/plugin/scalars/tags", timeout=LONGEST_WAIT) as answer:  # noqa: S310 - loopback
        return {run: list(tags) for run, tags in json.loads(answer.read()).items()}
