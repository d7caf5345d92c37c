"""The sweep pref_align_scan on a real SLURM, end to end: its sixty runs, with tiny models in place of the 7B ones."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import REPOSITORY
from slurm_cluster import PATIENT, needs_slurm, running_cluster
from slurm_site import Site
from waiting import LONGEST_WAIT
from worker_fixtures import ARCHITECTURE

pytestmark = needs_slurm

MODELS = ("zephyr", "openhermes")
SMALL = ["model.dtype=float32", "deepspeed=none", "cluster=slurm", "cluster.gpus_per_node=0", "cluster.time=30",
         "cluster.runs_per_job=15", "trainer.max_steps=2", "trainer.batch_size=8", "trainer.micro_batch_size=4",
         "trainer.max_length=64", "evaluation.generations=2", "evaluation.max_new_tokens=4", "hub=off"]  # fmt: skip


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The scan, ended: each of its two choices replaced by one override, and what a run costs by a few more."""
    from launcher.worker.tiny import build_tiny

    folder = tmp_path_factory.mktemp("scan")
    with running_cluster(*PATIENT) as cluster:
        here = Site(cluster, folder / "none", REPOSITORY).at("site")
        for seed, name in enumerate(MODELS):
            build_tiny(ARCHITECTURE | {"seed": seed}, here.folder / name)
        replaced = ["model=" + ",".join(f"./{name}" for name in MODELS), "dataset=./pairs"]
        here.launch("-m", "+sweeps=pref_align_scan", *replaced, *SMALL)
        here.wait("pref_align_scan", "TRAINED", 60, seconds=LONGEST_WAIT)
        yield here


def test_all_sixty_runs_are_trained(scan: Site) -> None:
    """Each model with three losses and ten betas, two steps each, in four jobs of fifteen runs."""
    runs = scan.status("pref_align_scan")
    assert {run["status"] for run in runs} == {"TRAINED"}
    assert Counter((run["model"], run["loss_type"]) for run in runs) == {
        (model, loss): 10 for model in MODELS for loss in ("sigmoid", "ipo", "kto_pair")
    }
    assert {(run["step"], run["max_steps"], run["attempts"]) for run in runs} == {(2, 2, 1)}
    assert len(set(scan.recorded())) == 4


def test_one_reference_pass_serves_thirty_runs(scan: Site) -> None:
    """There is one table for each model on the data, each made by a job of its own, every pair measured once."""
    manifests = [json.loads(path.read_text()) for path in scan.folder.glob("outputs/cache/reference/*/manifest.json")]
    weights = {manifest["made_from"]["base"]["weights"]["model.safetensors"] for manifest in manifests}
    assert (len(manifests), len(weights)) == (2, 2)
    assert len(scan.tables("pref_align_scan")) == 2
    logs = [path.read_text() for path in scan.folder.glob("outputs/**/*") if path.suffix in (".log", ".out")]
    passes = [words for log in logs for words in re.findall(r"reference pass: (\d+) of (\d+)", log)]
    assert [int(done) for done, total in passes if done == total] == [38, 38]


def test_the_report_shows_both_models(scan: Site) -> None:
    """One page has the sixty runs, the best setting of each model and loss, and a figure with both models."""
    scan.launch("collect", "pref_align_scan")
    sweep = Path("outputs/sweeps/pref_align_scan")
    command = [sys.executable, "-m", "analysis", str(sweep)]
    subprocess.run(
        command, cwd=scan.folder, env=scan.environment, check=True, capture_output=True, timeout=LONGEST_WAIT
    )
    lines = (scan.folder / sweep / "results.jsonl").read_text().splitlines()
    rows = [row for line in lines if (row := json.loads(line))["kind"] == "run"]
    assert Counter(row["model"] for row in rows) == dict.fromkeys(MODELS, 30)
    report = scan.folder / sweep / "report"
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
