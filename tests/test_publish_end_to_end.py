"""A sweep that trains, and whose jobs publish to a Hub on loopback through faults; then every revision is loaded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import clean_environment
from finished_runs import files_holding
from hub_server import TOKEN, HubServer, serving

SWEEP = ("model=tiny", "trainer=full,lora", "loss_type=sigmoid,ipo", "sweep=scan", "trainer.max_steps=2",
         "trainer.learning_rate=1e-2", "dataset.train_pairs=16", "dataset.test_pairs=8", "evaluation.generations=4",
         "evaluation.max_new_tokens=4")  # fmt: skip
HUB = (
    "hub=huggingface",
    "hub.org=us",
    "hub.revision='${loss_type}-${trainer.name}'",
    "hub.timeout=1",
    "hub.patience=90",
)
REPO, REFUSED = "us/tiny-scan", "ipo-lora"
OTHER_TOKENS = {"WANDB_API_KEY": "PlantedKeyOfWandb", "OPENAI_API_KEY": "sk-PlantedKeyOfOpenai"}

LOAD = """
import json, sys
from pathlib import Path
from peft import AutoPeftModelForCausalLM, get_peft_model_state_dict
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

for local, adapter, address, revision in json.load(sys.stdin):
    kind, name = (AutoPeftModelForCausalLM, "adapter_") if adapter else (AutoModelForCausalLM, "")
    options = {"revision": revision} if revision else {}
    model = kind.from_pretrained(address, **options)
    found = get_peft_model_state_dict(model) if adapter else model.state_dict()
    wanted = load_file(Path(local) / f"{name}model.safetensors")
    assert wanted and all((found[key] == tensor).all() for key, tensor in wanted.items()), address
    assert AutoTokenizer.from_pretrained(address, **options)("abc").input_ids
    print(address, revision)
"""


@dataclass(frozen=True)
class Published:
    """The folder, the Hub, and a function that runs `python -m ...` there."""

    folder: Path
    hub: HubServer
    run: Callable[..., subprocess.CompletedProcess[str]]
    launched: subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Published]:
    """Four runs, trained and pushed while a fifth of all requests fails, and all commits to one branch."""
    folder = tmp_path_factory.mktemp("published")
    home = str(tmp_path_factory.mktemp("home"))
    with serving() as hub:
        hub.inject(0.2, seed=3)
        some = hub.fault
        hub.fault = lambda method, path: "403" if f"/commit/{REFUSED}" in path else some(method, path)

        def run(*arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
            environment = clean_environment(**hub.environment(home), **OTHER_TOKENS)
            command = [sys.executable, *arguments]
            return subprocess.run(
                command,
                cwd=folder,
                env=environment,
                text=True,
                capture_output=True,
                input=stdin,
                timeout=300,
                check=False,
            )

        yield Published(folder, hub, run, run("-m", "launcher", "-m", *SWEEP, *HUB))


def states(sweep: Published) -> dict[str, dict[str, str]]:
    done = sweep.run("-m", "launcher", "status", "scan", "--json")
    return {run["run_id"]: run for run in json.loads(done.stdout)["runs"]}


def test_a_push_that_fails_leaves_the_run_trained_and_publish_completes_it(sweep: Published) -> None:
    """The jobs push through the faults; the refused run says why; `publish` pushes it, and nothing else, later."""
    assert sweep.launched.returncode == 0, sweep.launched.stdout + sweep.launched.stderr
    assert f"published as revisions of {REPO} (hub=huggingface)" in sweep.launched.stdout
    before = states(sweep)
    assert {state["status"] for state in before.values()} == {"TRAINED"}
    (refused,) = [name for name, state in before.items() if state["address"] is None]
    assert before[refused]["reason"].startswith("not published: ")
    assert "403" in before[refused]["reason"]
    sweep.hub.fault = lambda *_: None
    pushed = sweep.hub.requests["commit"]
    done = sweep.run("-m", "launcher", "publish", "scan")
    assert done.returncode == 0, done.stdout + done.stderr
    assert sweep.hub.requests["commit"] == pushed + 1
    after = states(sweep)
    assert {state["address"] for state in after.values()} == {
        f"{REPO}@{loss}-{trainer}" for loss in ("sigmoid", "ipo") for trainer in ("full", "lora")
    }
    assert {state["reason"] for state in after.values()} == {None}


def test_every_revision_loads_from_the_hub_and_from_a_folder(sweep: Published) -> None:
    """from_pretrained takes the address of either store, for adapters and full models; weights are those trained."""
    cases = []
    for where in ("huggingface", "folder"):
        done = sweep.run("-m", "launcher", "publish", "scan", "--hub", where, "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        for run in json.loads(done.stdout)["runs"]:
            local, revision = sweep.folder / "outputs/runs" / run["run_id"] / "model", run["revision"]
            on_hub = where == "huggingface"
            address = revision["repo"] if on_hub else revision["address"]
            adapter = (local / "adapter_model.safetensors").exists()
            cases.append((str(local), adapter, address, revision["revision"] if on_hub else None))
    assert len({case[2:] for case in cases}) == 8
    done = sweep.run("-c", LOAD, stdin=json.dumps(cases))
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 8


def test_results_name_each_revision(sweep: Published) -> None:
    """results.jsonl, which the report is made of, has where each model is."""
    sweep.run("-m", "launcher", "collect", "scan")
    lines = (sweep.folder / "outputs/sweeps/scan/results.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if row["kind"] == "run"]
    assert len(rows) == 4
    for row in rows:
        sources = json.loads((sweep.folder / "outputs/runs" / row["run_id"] / "sources.json").read_text())
        assert sources["model"]["weights"].keys() >= {"model.safetensors", "config.json"}  # hashes: it has no commit
        assert row["revision"]["address"]
        assert len(row["revision"]["commit"]) >= 40


def test_no_planted_token_is_in_any_file_or_revision(sweep: Published) -> None:
    """Configs, pickles, logs, facts, cards, results: whatever a sweep leaves, here or on the Hub, holds no secret."""
    secrets = (TOKEN, "PlantedSignature", *OTHER_TOKENS.values())
    assert len([path for path in sweep.folder.rglob("*") if path.is_file()]) > 50
    assert files_holding(sweep.folder, *secrets) == []
    for commit in sweep.hub.repos[REPO].commits.values():
        for name, content in commit.files.items():
            assert not any(secret.encode() in content for secret in secrets), name
    assert not any(secret in sweep.launched.stdout + sweep.launched.stderr for secret in secrets)
    assert os.environ.get("HF_TOKEN") != TOKEN
