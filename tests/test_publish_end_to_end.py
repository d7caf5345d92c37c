"""A sweep that trains, and whose jobs publish to a Hub on loopback through faults; then every revision is loaded.

Each of its runs has a milestone, which is a revision of its own.
Its jobs are four of a real SLURM, which push from four nodes at the same time; where none is to be had, this machine's.
The tokens are in the environment of the launcher, and from there, as sbatch has it, in that of the jobs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
from conftest import clean_environment
from finished_runs import files_holding
from hub_server import FAULTS, TOKEN, HubServer, serving
from slurm_cluster import PATIENT, needs_slurm, running_cluster, why_not_here
from waiting import LONGEST_WAIT, eventually
from worker_fixtures import write_pairs

pytestmark = needs_slurm if why_not_here() is None else []

RUNS = 12
SWEEP = ("model=tiny", "trainer=full,lora", "loss_type=sigmoid,ipo,kto_pair", "beta=0.1,0.5", "sweep=scan",
         "dataset=./pairs", "trainer.max_steps=2", "trainer.learning_rate=1e-2", "evaluation.generations=2",
         "evaluation.max_new_tokens=4", "trainer.lr_scheduler=constant", "checkpoint.milestones=[1]",
         "tracking=off")  # fmt: skip
HUB = ("hub=huggingface", "hub.org=us", "hub.revision='${loss_type}-${beta}-${trainer.name}'", "hub.timeout=2",
       "hub.patience=600")  # fmt: skip
REVISIONS = {
    f"{loss}-{beta}-{trainer}"
    for loss in ("sigmoid", "ipo", "kto_pair")
    for beta in (0.1, 0.5)
    for trainer in ("full", "lora")
}
POINTS = REVISIONS | {f"{name}-step1" for name in REVISIONS}
ON_FOUR_NODES = (
    "cluster=slurm",
    "cluster.gpus_per_node=0",
    "cluster.runs_per_job=3",
    "cluster.extra={exclusive: true}",
)
REPO, REFUSED = "us/tiny-scan", ("ipo-0.1-lora", "sigmoid-0.1-lora-step1")
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

    def facts(self, name: str) -> list[Path]:
        """The facts of that name of all runs, their milestones, attempts and starts."""
        places = ("", "milestones/*/", "attempts/*/", "starts/")
        return [path for place in places for path in self.folder.glob(f"outputs/runs/*/{place}{name}")]

    @property
    def pushed(self) -> bool:
        """Whether every model is published, or its run has noted why it is not."""
        return len(self.facts("revision.json")) + len(self.facts("unpublished.json")) == len(POINTS)


@contextmanager
def cluster() -> Iterator[tuple[dict[str, str], tuple[str, ...]]]:
    """Where the jobs run: the environment that leads there, and the words of the command line."""
    if why_not_here() is None:
        with running_cluster(*PATIENT) as slurm:
            yield slurm.environment, ON_FOUR_NODES
    else:
        yield {}, ("cluster=local",)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Published]:
    """Twelve runs, trained and pushed while a fifth of all requests fails, and all commits to two branches."""
    folder = tmp_path_factory.mktemp("published")
    home = str(tmp_path_factory.mktemp("home"))
    write_pairs(folder / "pairs")
    with serving() as hub, cluster() as (environment, words):
        hub.inject(0.2, seed=3)
        hub.slow_seconds = 3.0
        some = hub.fault
        hub.fault = lambda method, path: "403" if path.rpartition("/commit/")[2] in REFUSED else some(method, path)

        def run(*arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [sys.executable, *arguments],
                cwd=folder,
                env=clean_environment(**{**environment, **hub.environment(home), **OTHER_TOKENS}),
                text=True,
                capture_output=True,
                input=stdin,
                timeout=LONGEST_WAIT,
                check=False,
            )

        published = Published(folder, hub, run, run("-m", "launcher", "-m", *SWEEP, *HUB, *words))
        assert published.launched.returncode == 0, published.launched.stdout + published.launched.stderr
        assert eventually(lambda: published.pushed, 900), published.run("-m", "launcher", "status", "scan").stdout
        yield published


def states(sweep: Published) -> dict[str, dict[str, str]]:
    done = sweep.run("-m", "launcher", "status", "scan", "--json")
    return {run["run_id"]: run for run in json.loads(done.stdout)["runs"]}


def test_a_push_that_fails_leaves_the_run_trained_and_publish_completes_it(sweep: Published) -> None:
    """The jobs push through the faults; what is refused is told; `publish` pushes that, and nothing else, later."""
    assert f"revisions of {REPO} (hub=huggingface): sigmoid-0.1-full, ..." in sweep.launched.stdout
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
    assert f"{RUNS} of {RUNS} runs of scan are published, {RUNS} of {RUNS} milestones" in done.stdout
    assert sweep.hub.requests["commit"] == pushed + 2
    after = states(sweep)
    assert {state["address"] for state in after.values()} == {f"{REPO}@{revision}" for revision in REVISIONS}
    assert {state["reason"] for state in after.values()} == {None}


def test_no_revision_is_lost_doubled_or_overwritten(sweep: Published) -> None:
    """Whatever was tried again: the repository has a branch for each model, of one commit each, on the first one.

    The adapters' starting point, which was made here, is one of them, once for all.
    """
    repo = sweep.hub.repos[REPO]
    assert sum(sweep.hub.faults[kind] for kind in FAULTS) > RUNS
    (start,) = repo.branches.keys() - {"main", *POINTS}
    assert start.startswith("start-")
    assert len(repo.commits) == 2 + len(POINTS)
    assert {repo.commits[repo.branches[name]].parent for name in (start, *POINTS)} == {repo.branches["main"]}
    markers = [json.loads(repo.commits[repo.branches[name]].files["prefsweep.json"]) for name in POINTS]
    models = [(run_id, step) for run_id in states(sweep) for step in (None, 1)]
    assert sorted((marker["run_id"], str(marker.get("step"))) for marker in markers) == sorted(
        (run_id, str(step)) for run_id, step in models
    )
    assert all_is_recorded(sweep)


def all_is_recorded(sweep: Published) -> bool:
    """Whether the facts name the commits that the Hub's branches are at."""
    recorded = [json.loads(path.read_text()) for path in sweep.facts("revision.json")]
    heads = {name: commit for name, commit in sweep.hub.repos[REPO].branches.items() if name in POINTS}
    return {fact["revision"]: fact["commit"] for fact in recorded} == heads


@pytest.mark.skipif(why_not_here() is not None, reason=why_not_here() or "SLURM is here")
def test_jobs_push_from_four_nodes_at_the_same_time(sweep: Published) -> None:
    """Three runs were trained and pushed on each node, and no node waited until another had pushed all of its own."""
    hosts = {path.parents[1].name: json.loads(path.read_text())["host"] for path in sweep.facts("001.0001.json")}
    assert Counter(hosts.values()) == dict.fromkeys(("n1", "n2", "n3", "n4"), 3)
    pushed = [path for path in sweep.facts("revision.json") if path.parent.name in hosts]  # the final models
    nodes = [hosts[path.parent.name] for path in sorted(pushed, key=lambda path: json.loads(path.read_text())["time"])]
    assert sum(one != other for one, other in pairwise(nodes)) > 3


def head(sweep: Published, revision: str) -> dict[str, bytes]:
    repo = sweep.hub.repos[REPO]
    return dict(repo.commits[repo.branches[revision]].files)


def test_a_job_that_evaluates_later_publishes_what_it_found(sweep: Published) -> None:
    """Each final model's revision gets the scores and a new card, by its evaluation's job; milestones stay as is."""
    (sweep.folder / "score.py").write_text(SCORE)
    before, pushed = head(sweep, "ipo-0.1-full-step1"), sweep.hub.requests["commit"]
    argv = f"evaluation.command.argv=[{sys.executable},{sweep.folder / 'score.py'},'{{model}}']"
    done = sweep.run("-m", "launcher", "evaluate", "scan", "--benchmark", "command", argv)
    assert done.returncode == 0, done.stdout + done.stderr
    assert eventually(lambda: sweep.hub.requests["commit"] == pushed + RUNS and all_is_recorded(sweep), 600)
    for revision in REVISIONS:
        files = head(sweep, revision)
        size = sum(len(content) for name, content in files.items() if name.endswith(".safetensors"))
        found = json.loads(files["evaluations/command.json"])
        assert found["scores"] == {"bytes": size, "bytes_stderr": 0.5}
        assert b"score.py" not in files["evaluations/command.json"]
        assert b"command: bytes | " in files["README.md"]
    assert head(sweep, "ipo-0.1-full-step1") == before
    assert b"The model after step 1 of 2, in one run" in before["README.md"]
    assert json.loads(before["prefsweep.json"])["step"] == 1


def test_every_revision_loads_from_the_hub_and_from_a_folder(sweep: Published) -> None:
    """from_pretrained takes the address of either store, for adapters and full models; weights are those trained.

    No two of the twelve final models have the same weights.
    """
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
    assert len({case[2:] for case in cases}) == 2 * len(POINTS)
    final = {case[0] for case in cases if "milestones" not in case[0]}
    weights = [next(Path(folder).glob("*model.safetensors")).read_bytes() for folder in final]
    assert len(set(weights)) == RUNS
    done = sweep.run("-c", LOAD, stdin=json.dumps(cases))
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 2 * len(POINTS)


def test_results_name_each_revision(sweep: Published) -> None:
    """results.jsonl, which the report is made of, has where each model is, also each milestone."""
    sweep.run("-m", "launcher", "collect", "scan")
    lines = (sweep.folder / "outputs/sweeps/scan/results.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if row["kind"] == "run"]
    assert len(rows) == len({row["revision"]["address"] for row in rows}) == len(POINTS)
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
