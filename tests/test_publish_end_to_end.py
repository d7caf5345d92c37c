"""A sweep that trains, and whose jobs publish to a Hub on loopback through faults; then every revision is loaded.

Each of its runs has a milestone, which is a revision of its own.
"""

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
         "evaluation.max_new_tokens=4", "trainer.lr_scheduler=constant", "checkpoint.milestones=[1]")  # fmt: skip
HUB = (
    "hub=huggingface",
    "hub.org=us",
    "hub.revision='${loss_type}-${trainer.name}'",
    "hub.timeout=1",
    "hub.patience=90",
)
REPO, REFUSED = "us/tiny-scan", ("ipo-lora", "sigmoid-lora-step1")
REVISIONS = [f"{loss}-{trainer}" for loss in ("sigmoid", "ipo") for trainer in ("full", "lora")]
SCORE = """
import json, pathlib, sys
size = sum(path.stat().st_size for path in pathlib.Path(sys.argv[1]).glob("*.safetensors"))
print(json.dumps({"bytes": size, "bytes_stderr": 0.5}))
"""
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
    """Four runs, trained and pushed while a fifth of all requests fails, and all commits to two branches."""
    folder = tmp_path_factory.mktemp("published")
    home = str(tmp_path_factory.mktemp("home"))
    with serving() as hub:
        hub.inject(0.2, seed=3)
        some = hub.fault
        hub.fault = lambda method, path: "403" if path.rpartition("/commit/")[2] in REFUSED else some(method, path)

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
    """The jobs push through the faults; what is refused is told; `publish` pushes that, and nothing else, later."""
    assert sweep.launched.returncode == 0, sweep.launched.stdout + sweep.launched.stderr
    assert f"revisions of {REPO} (hub=huggingface): sigmoid-full, ..." in sweep.launched.stdout
    before = states(sweep)
    assert {state["status"] for state in before.values()} == {"TRAINED"}
    (refused,) = [name for name, state in before.items() if state["address"] is None]
    told = sorted(state["reason"] for state in before.values() if state["reason"])
    assert [reason.partition(": 403")[0] for reason in told] == [f"not published: {REPO}@{name}" for name in REFUSED]
    assert before[refused]["reason"] == told[0]
    sweep.hub.fault = lambda *_: None
    pushed = sweep.hub.requests["commit"]
    done = sweep.run("-m", "launcher", "publish", "scan")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 of 4 runs of scan are published, 4 of 4 milestones" in done.stdout
    assert sweep.hub.requests["commit"] == pushed + 2
    after = states(sweep)
    assert {state["address"] for state in after.values()} == {f"{REPO}@{revision}" for revision in REVISIONS}
    assert {state["reason"] for state in after.values()} == {None}
    assert sweep.hub.repos[REPO].branches.keys() == {"main", *REVISIONS, *(f"{name}-step1" for name in REVISIONS)}


def head(sweep: Published, revision: str) -> dict[str, bytes]:
    repo = sweep.hub.repos[REPO]
    return dict(repo.commits[repo.branches[revision]].files)


def test_a_job_that_evaluates_later_publishes_what_it_found(sweep: Published) -> None:
    """Each final model's revision gets the scores and a new card, by its evaluation's job; milestones stay as is."""
    (sweep.folder / "score.py").write_text(SCORE)
    before, pushed = head(sweep, "ipo-full-step1"), sweep.hub.requests["commit"]
    argv = f"evaluation.command.argv=[{sys.executable},{sweep.folder / 'score.py'},'{{model}}']"
    done = sweep.run("-m", "launcher", "evaluate", "scan", "--benchmark", "command", argv)
    assert done.returncode == 0, done.stdout + done.stderr
    assert sweep.hub.requests["commit"] == pushed + 4
    for revision in REVISIONS:
        files = head(sweep, revision)
        size = sum(len(content) for name, content in files.items() if name.endswith(".safetensors"))
        found = json.loads(files["evaluations/command.json"])
        assert found["scores"] == {"bytes": size, "bytes_stderr": 0.5}
        assert b"score.py" not in files["evaluations/command.json"]
        assert b"command: bytes | " in files["README.md"]
    assert head(sweep, "ipo-full-step1") == before
    assert b"The model after step 1 of 2, in one run" in before["README.md"]
    assert json.loads(before["prefsweep.json"])["step"] == 1


def test_every_revision_loads_from_the_hub_and_from_a_folder(sweep: Published) -> None:
    """from_pretrained takes the address of either store, for adapters and full models; weights are those trained."""
    cases = []
    for where in ("huggingface", "folder"):
        done = sweep.run("-m", "launcher", "publish", "scan", "--hub", where, "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        for run in json.loads(done.stdout)["runs"]:
            name, _, step = run["run_id"].partition("@")
            within = f"milestones/{step:>06}/model" if step else "model"
            local, revision = sweep.folder / "outputs/runs" / name / within, run["revision"]
            on_hub = where == "huggingface"
            address = revision["repo"] if on_hub else revision["address"]
            adapter = (local / "adapter_model.safetensors").exists()
            cases.append((str(local), adapter, address, revision["revision"] if on_hub else None))
    assert len({case[2:] for case in cases}) == 16
    done = sweep.run("-c", LOAD, stdin=json.dumps(cases))
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 16


def test_results_name_each_revision(sweep: Published) -> None:
    """results.jsonl, which the report is made of, has where each model is, also each milestone."""
    sweep.run("-m", "launcher", "collect", "scan")
    lines = (sweep.folder / "outputs/sweeps/scan/results.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if row["kind"] == "run"]
    assert len(rows) == len({row["revision"]["address"] for row in rows}) == 8
    for row in rows:
        run = row["run_id"].partition("@")[0]
        sources = json.loads((sweep.folder / "outputs/runs" / run / "sources.json").read_text())
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
