"""The named sweeps from one command each: models and data sets from the Hub under their own names, models back to it.

What differs from a user's launch is size: a Hub on loopback that holds tiny contents, two steps a run, and no GPU.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import clean_environment
from hub_contents import MODELS, named, plant_everything
from hub_repos import Commit, address_of
from hub_server import HubServer, serving
from safetensors.numpy import load
from waiting import LONGEST_WAIT

from launcher.store.files import read_fact
from launcher.store.output_folder import Store
from launcher.store.run_folder import RunDir

SMALL = ["model.dtype=float32", "deepspeed=none", "cluster=local", "cluster.gpus_per_node=0",
         "cluster.runs_per_job=100", "trainer.max_steps=2", "trainer.batch_size=8", "trainer.micro_batch_size=4",
         "trainer.max_length=128", "evaluation.generations=2", "evaluation.max_new_tokens=4",
         "hub=huggingface"]  # fmt: skip
SWEEPS = {"pref_align_scan": 60, "zephyr_ipo_lora": 20, "kto_unpaired": 12}


@dataclass(frozen=True)
class Launched:
    """Where the sweeps ran, one after another, and the Hub that served them."""

    folder: Path
    hub: HubServer

    def rows(self, sweep: str) -> list[dict[str, Any]]:
        """What the sweep's results say of each run."""
        lines = (self.folder / "outputs" / "sweeps" / sweep / "results.jsonl").read_text().splitlines()
        return [row for row in map(json.loads, lines) if row["kind"] == "run"]

    def runs(self, sweep: str) -> list[RunDir]:
        return [Store(self.folder / "outputs").run(row["run_id"]) for row in self.rows(sweep)]

    def published(self, run: RunDir) -> dict[str, bytes]:
        """What the Hub holds at the run's revision."""
        fact = read_fact(run.revision_file) or {}
        return self.commit(fact["repo"], fact["revision"]).files

    def commit(self, address: str, revision: str) -> Commit:
        found = self.hub.repos[address].find(revision)
        assert found is not None
        return found

    def fetches(self) -> list[str]:
        """What the jobs say of their fetching."""
        logs = sorted(self.folder.glob("outputs/**/*.log"))
        return [line for log in logs for line in log.read_text().splitlines() if "fetch" in line or "download" in line]

    def source(self, run: RunDir, kind: str) -> Commit:
        """The commit of the model or data set that the run's configuration names."""
        named = run.read_config()[kind]
        return self.commit(address_of(kind, named["path"]), named["revision"])


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launched]:
    """The three sweeps, trained and published: one folder, one HF_HOME, a job each."""
    folder, home = tmp_path_factory.mktemp("named"), tmp_path_factory.mktemp("home")
    with serving() as hub:
        plant_everything(hub)
        for sweep in SWEEPS:
            command = [sys.executable, "-m", "launcher", "-m", f"+sweeps={sweep}", *SMALL]
            done = subprocess.run(
                command, cwd=folder, env=clean_environment(**hub.environment(str(home))), text=True,
                capture_output=True, timeout=LONGEST_WAIT, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stdout + done.stderr
        yield Launched(folder, hub)


@pytest.mark.parametrize(("sweep", "count"), SWEEPS.items())
def test_every_run_is_trained_and_is_a_revision_on_the_hub(launched: Launched, sweep: str, count: int) -> None:
    """As many runs as the sweep's header says, each a branch of its own, at the commit that its fact names."""
    assert {(row["status"], row["step"]) for row in launched.rows(sweep)} == {("TRAINED", 2)}
    revisions = [read_fact(run.revision_file) or {} for run in launched.runs(sweep)]
    assert len({(fact["repo"], fact["revision"]) for fact in revisions}) == len(revisions) == count
    for fact in revisions:
        assert launched.hub.repos[fact["repo"]].branches[fact["revision"]] == fact["commit"]


@pytest.mark.parametrize("sweep", SWEEPS)
def test_sources_and_card_name_the_commits(launched: Launched, sweep: str) -> None:
    """Those that conf/ pins, or the one that a branch was at: what a run was trained on can be found again."""
    for run in launched.runs(sweep):
        model, dataset = (launched.source(run, kind).id for kind in ("model", "dataset"))
        sources = read_fact(run.sources_file) or {}
        assert (sources["model"]["commit"], *sources["dataset"]["commits"].values()) == (model, dataset)
        card = launched.published(run)["README.md"].decode()
        assert re.findall(r"\(commit `(\w+)`\)", card) == [model, dataset]


@pytest.mark.parametrize("sweep", SWEEPS)
def test_training_starts_from_the_weights_of_the_commit(launched: Launched, sweep: str) -> None:
    """Not from those at main: two steps move a published model a little; an adapter names the commit that it is for."""
    for run in launched.runs(sweep):
        base, files = launched.source(run, "model"), launched.published(run)
        if "adapter_config.json" in files:
            assert json.loads(files["adapter_config.json"])["revision"] == base.id
        else:
            ours, theirs = weights(files), weights(base.files)
            assert ours.keys() == theirs.keys()
            assert 0 < max(float(abs(ours[name] - theirs[name]).max()) for name in ours) < 1e-4


def weights(files: dict[str, bytes]) -> dict[str, Any]:
    parts = [load(data) for name, data in files.items() if name.endswith(".safetensors")]
    return {name: value for part in parts for name, value in part.items()}


def test_one_reference_pass_serves_all_runs_of_a_model_and_data_set(launched: Launched) -> None:
    """92 runs, three passes: the scan's two, of which one also serves the adapters, and that of KTO."""
    tables = list(launched.folder.glob("outputs/cache/reference/*/manifest.json"))
    logs = "".join(path.read_text() for path in launched.folder.glob("outputs/runs/*/attempts/*/rank0.log"))
    passes = re.findall(r"reference pass: (\d+) of (\d+)", logs)
    assert len(tables) == [done == total for done, total in passes].count(True) == 3


def test_weights_are_fetched_once(launched: Launched) -> None:
    """92 runs in three jobs with one HF_HOME: each file of weights came once, and what nobody named not at all.

    The small index of them each launch asks for again, to see that all are there.
    """
    weights = {file: counts for file, counts in launched.hub.downloads.items() if file.endswith(".safetensors")}
    paths = [named("model", choice)["path"] for choice in MODELS]
    wanted = [f"{path}/{name}" for path in paths for name in launched.commit(path, "main").files]
    assert set(weights) == {file for file in wanted if file.endswith(".safetensors")}
    assert {counts["requests"] for counts in weights.values()} == {1}, (weights, launched.fetches())
