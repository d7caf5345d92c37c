"""Facts that the version before this one has written: every one is read, and means what it meant."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from launcher.cli import main
from launcher.cluster.local import LocalScheduler
from launcher.machine.installed import trl_losses
from launcher.planning.launches import recorded_sweep
from launcher.store.output_folder import Store
from launcher.submission.decide import decide
from launcher.submission.timings import costs

HERE = Path(__file__).parent / "version_before"
SWEEPS = ("grid", "limit", "mixed", "refused", "bench")
SAID = json.loads((HERE / "said.json").read_text())


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder as it would lie here."""
    shutil.copytree(HERE / "output_folder", tmp_path / "outputs")
    for path in (tmp_path / "outputs").rglob("*"):
        if path.is_file():
            path.write_text(path.read_text().replace("/OUTPUTS", str(tmp_path / "outputs")))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "outputs"


def then(root: Path, said: Any) -> Any:
    """What the version before said, of the folder where it lies now."""
    return json.loads(json.dumps(said).replace("/OUTPUTS", str(root)))


@pytest.mark.parametrize("sweep", SWEEPS)
def test_every_verb_says_what_it_said(root: Path, sweep: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The states, the rows of results.jsonl, and, where no Hub is asked, what is to be published."""
    before = (root / "sweeps" / sweep / "results.jsonl").read_text().splitlines()
    assert main.main(["status", sweep, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"] == then(root, SAID["status"][sweep])
    assert main.main(["collect", sweep]) == 0
    rows = (root / "sweeps" / sweep / "results.jsonl").read_text().splitlines()
    assert list(map(json.loads, rows)) == list(map(json.loads, before))
    capsys.readouterr()
    if sweep in SAID["publish"]:
        assert main.main(["publish", sweep, "--dry-run", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["runs"] == then(root, SAID["publish"][sweep])


def test_a_launch_decides_as_it_did(root: Path) -> None:
    """What is done is left alone, what failed or was cancelled goes on, and earlier runs tell how long that takes."""
    store = Store(root)
    for name in SWEEPS:
        decisions = decide(recorded_sweep(store.sweep(name), store, trl_losses()), store, LocalScheduler())
        assert [[d.run.run_id, d.action, d.why, d.seconds] for d in decisions] == SAID["decisions"][name]
    found = {key: {"seconds_per_step": cost.seconds_per_step, "steps": cost.steps} for key, cost in
             costs(store).trainings.items()}  # fmt: skip
    assert found == SAID["costs"]
