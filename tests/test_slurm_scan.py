"""The sweep pref_align_scan on a real SLURM, end to end: runs from and to a Hub, on two nodes each under ZeRO-3.

What differs from a user's launch is size: a Hub on loopback that holds tiny contents, two of the ten betas, two steps a
run, and no GPU. All sixty runs are trained and published in test_named_sweeps, on this machine.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import REPOSITORY
from hub_contents import TEST, TRAIN, plant_everything
from hub_server import HubServer, serving
from ranks import EXTENSIONS
from safetensors.numpy import load
from slurm_cluster import PATIENT, needs_slurm, running_cluster
from slurm_site import Site
from waiting import LONGEST_WAIT, eventually

pytestmark = [pytest.mark.long, *needs_slurm]

MODELS = ("zephyr-7b-sft", "openhermes-2.5-7b")
SMALL = ["model.dtype=float32", "cluster=slurm", "cluster.nodes=2", "cluster.gpus_per_node=0", "cluster.time=30",
         "cluster.runs_per_job=3", "beta=0.1,0.5", "trainer.max_steps=2", "trainer.batch_size=8",
         "trainer.micro_batch_size=4", "trainer.max_length=128", "evaluation.generations=2",
         "evaluation.max_new_tokens=4", "hub=huggingface"]  # fmt: skip
PARAMETERS = 37_216  # of the tiny model
RUNS = 12


@dataclass(frozen=True)
class Scan:
    """The scan, ended: where it was launched, and the Hub that it came from and went to."""

    site: Site
    hub: HubServer


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scan]:
    folder = tmp_path_factory.mktemp("scan")
    with serving() as hub, running_cluster(*PATIENT) as cluster:
        plant_everything(hub)
        variables = hub.environment(str(folder / "home")) | {"TORCH_EXTENSIONS_DIR": str(EXTENSIONS)}
        here = Site(cluster, folder / "none", REPOSITORY).at("site", **variables)
        here.launch("-m", "+sweeps=pref_align_scan", *SMALL)
        here.wait("pref_align_scan", "TRAINED", RUNS, seconds=LONGEST_WAIT)
        assert eventually(lambda: len(list(here.folder.glob("outputs/runs/*/revision.json"))) == RUNS)
        yield Scan(here, hub)


def test_all_runs_are_trained(scan: Scan) -> None:
    """Each model with three losses and two betas, two steps each, in four jobs of three runs on two nodes.

    Behind each, a job of one task measures and publishes what it has trained.
    """
    runs = scan.site.status("pref_align_scan")
    assert {run["status"] for run in runs} == {"TRAINED"}
    assert Counter((run["model"], run["loss_type"]) for run in runs) == {
        (model, loss): 2 for model in MODELS for loss in ("sigmoid", "ipo", "kto_pair")
    }
    assert {(run["step"], run["max_steps"], run["attempts"]) for run in runs} == {(2, 2, 1)}
    assert len(set(scan.site.recorded())) == 8  # four that train, and those behind them
    second = [path.read_text() for path in scan.site.folder.glob("outputs/runs/*/attempts/001/rank1.log")]
    assert ["rank 1 of 2" in log for log in second] == [True] * RUNS


def test_every_run_is_a_revision_on_the_hub(scan: Scan) -> None:
    """Each with its weights gathered whole, and a card that names the commits; nothing else is on the repositories."""
    facts = [json.loads(path.read_text()) for path in scan.site.folder.glob("outputs/runs/*/revision.json")]
    assert Counter(fact["repo"] for fact in facts) == {f"me/{model}-pref_align_scan": RUNS // 2 for model in MODELS}
    for repo in {fact["repo"] for fact in facts}:
        published = {fact["revision"]: fact["commit"] for fact in facts if fact["repo"] == repo}
        assert {name: head for name, head in scan.hub.repos[repo].branches.items() if name != "main"} == published
        for commit in published.values():
            files = scan.hub.repos[repo].commits[commit].files
            assert sum(value.size for value in load(files["model.safetensors"]).values()) == PARAMETERS
            assert len(re.findall(r"\(commit `[0-9a-f]{40}`\)", files["README.md"].decode())) == 2


def test_one_reference_pass_serves_all_runs_of_a_model(scan: Scan) -> None:
    """There is one table for each model on its data, each made by a job of its own, every pair measured once.

    Weights and rows that the jobs of four nodes share were fetched once.
    """
    outputs = scan.site.folder / "outputs"
    assert len(list(outputs.glob("cache/reference/*/manifest.json"))) == 2
    assert len(scan.site.tables("pref_align_scan")) == 2
    logs = [path.read_text() for path in outputs.glob("**/*") if path.suffix in (".log", ".out")]
    passes = [words for log in logs for words in re.findall(r"reference pass: (\d+) of (\d+)", log)]
    assert sum(int(done) for done, total in passes if done == total) == 2 * (TRAIN + TEST)
    large = {file: counts for file, counts in scan.hub.downloads.items() if file.endswith((".safetensors", ".parquet"))}
    assert {file: counts["requests"] for file, counts in large.items()} == dict.fromkeys(large, 1)


def test_the_report_shows_both_models(scan: Scan) -> None:
    """One page has the twelve runs, the best setting of each model and loss, and a figure with both models."""
    site = scan.site
    site.launch("collect", "pref_align_scan")
    sweep = Path("outputs/sweeps/pref_align_scan")
    command = [sys.executable, "-m", "analysis", str(sweep)]
    subprocess.run(
        command, cwd=site.folder, env=site.environment, check=True, capture_output=True, timeout=LONGEST_WAIT
    )
    lines = (site.folder / sweep / "results.jsonl").read_text().splitlines()
    rows = [row for line in lines if (row := json.loads(line))["kind"] == "run"]
    assert Counter(row["model"] for row in rows) == dict.fromkeys(MODELS, RUNS // 2)
    report = site.folder / sweep / "report"
    page = (report / "report.html").read_text()
    assert all(row["run_id"] in page for row in rows)
    best = page.partition('<section id="best">')[2].partition("</section>")[0]
    losses = ("sigmoid", "ipo", "kto_pair")
    rows_of_best = [re.sub("<[^>]*>", " ", row) for row in best.split("<tr")]
    shown = {
        (model, loss) for row in rows_of_best for model in MODELS for loss in losses if {model, loss} <= {*row.split()}
    }
    assert shown == {(model, loss) for model in MODELS for loss in losses}
    figures = {path.name: path.read_text() for path in (report / "figures").glob("*.svg")}
    assert any(all(model in text for model in MODELS) for text in figures.values())
