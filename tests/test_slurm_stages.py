"""Training and evaluation as two arrays of a real SLURM: who waits for whom, and what becomes of it when one fails."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from slurm_cluster import QUICK, needs_slurm, running_cluster
from slurm_site import TINY, Site, checkout
from waiting import eventually

from launcher.store.run_folder import AttemptDir

pytestmark = needs_slurm
SCORE = ["hub=off", "seed=1,2,3", "evaluation=command", "evaluation.command.argv=[python,'{model}']"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("stages")
    with running_cluster(*QUICK, "--nodes", "2") as cluster:
        yield Site(cluster, folder / "none", checkout(folder / "code"))


def measured(here: Site) -> list[Path]:
    return sorted(here.folder.glob("outputs/runs/*/evaluations/command.json"))


def job_of(attempt: Path) -> str:
    return str(job.job_id) if (job := AttemptDir(attempt).job) else ""


def test_each_task_starts_when_its_counterpart_is_done(site: Site) -> None:
    """Two arrays of three: task i evaluates what task i trained, though another task still trains; each ran once."""
    here = site.at("stages", STAND_IN_SECONDS="5")
    here.launch(*TINY, *SCORE, "sweep=stages", "cluster.max_parallel=1")
    assert "3 skip" in here.launch(*TINY, *SCORE, "sweep=stages", "cluster.max_parallel=1")
    assert eventually(lambda: len(measured(here)) >= 1)
    assert here.counts("stages")["TRAINED"] < 3
    assert eventually(lambda: len(measured(here)) == 3)
    assert here.counts("stages") == {"TRAINED": 3}
    assert (len(here.jobs("stages")), len(here.evaluations("stages"))) == (3, 3)
    for run in here.folder.glob("outputs/runs/*"):
        training, evaluation = job_of(run / "attempts/001"), job_of(run / "attempts/002.evaluation")
        assert training.partition("_")[2] == evaluation.partition("_")[2] != ""
    assert "3 skip" in here.launch(*TINY, *SCORE, "sweep=stages")


def test_a_training_that_fails_takes_its_evaluation_along(site: Site) -> None:
    """SLURM drops what waited for it; the runs have FAILED for the reason of the training; resume makes both anew."""
    here = site.at("fails", TRAINING_FAILS="1")
    here.launch(*TINY, *SCORE, "sweep=fails")
    here.wait("fails", "FAILED", 3)
    assert {run["reason"] for run in here.status("fails")} == {"the loss is not a number"}
    assert eventually(lambda: "PENDING" not in states_of(here)), states_of(here)
    assert not list(here.folder.glob("outputs/runs/*/attempts/*.evaluation/started.json"))
    quick = replace(here, variables=())
    assert "3 runs submitted" in quick.launch("resume", "fails")
    assert eventually(lambda: len(measured(here)) == 3)
    assert quick.counts("fails") == {"TRAINED": 3}


def states_of(here: Site) -> str:
    return here.cluster.slurm("squeue", "-h", "-r", "-t", "all", "-o", "%T %j")


def test_an_evaluation_that_is_asked_for_while_runs_train(site: Site) -> None:
    """It waits for the task that trains each run: also what becomes of a launcher that died between the two arrays."""
    gate = site.folder.parent / "gate"
    here = site.at("later", GATE=str(gate))
    here.launch(*TINY, "hub=off", "seed=1,2,3", "sweep=later")
    assert "3 runs submitted" in here.launch(*TINY, *SCORE, "sweep=later")
    assert "3 skip" in here.launch(*TINY, *SCORE, "sweep=later")
    assert {run["status"] for run in here.status("later")} <= {"PENDING", "RUNNING"}
    gate.touch()
    assert eventually(lambda: len(measured(here)) == 3)
    assert (len(here.jobs("later")), len(here.evaluations("later"))) == (3, 3)
    assert here.counts("later") == {"TRAINED": 3}
