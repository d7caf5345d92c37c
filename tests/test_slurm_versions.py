"""A short sweep on the newest SLURM that slurm/dev-cluster knows; `make slurm-versions` runs all of the tests there."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from dataclasses import replace

import pytest
from slurm_cluster import KILLED, QUICK, VERSION, needs_slurm, running_cluster, why_no_other_slurm
from slurm_site import TINY, Site, checkout
from waiting import eventually

NEWEST = "26.05"
pytestmark = [
    pytest.mark.long,
    *needs_slurm,
    pytest.mark.skipif(VERSION is not None, reason=f"all of the tests are on SLURM {VERSION}"),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Two nodes with accounting; the first time it takes a minute or two, since that SLURM is fetched."""
    if reason := why_no_other_slurm(NEWEST):
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("newest")
    with running_cluster(*QUICK, "--nodes", "2", "--slurm", NEWEST) as cluster:
        assert f"slurm-wlm {NEWEST}." in cluster.slurm("sbatch", "--version")
        yield Site(cluster, folder / "none", checkout(folder / "code"))


def test_a_sweep_on_the_newest_slurm_runs_once(site: Site) -> None:
    """It is an array behind the job of its table; launched again it does nothing twice; it is cancelled and resumed."""
    here = site.at("sweep", STAND_IN_SECONDS="600")
    assert "4 runs submitted" in here.launch(*TINY, "sweep=sweep", "seed=range(0,4)", "cluster.max_parallel=2")
    assert "4 skip" in here.launch(*TINY, "sweep=sweep", "seed=range(0,4)", "cluster.max_parallel=2")
    here.wait("sweep", "RUNNING", 2)
    here.launch("cancel", "sweep", "--state", "pending")
    here.wait("sweep", "CANCELLED", 2)
    here.launch("cancel", "sweep")
    here.wait("sweep", "CANCELLED", 4)
    quick = replace(here, variables=())
    assert "4 runs submitted" in quick.launch("resume", "sweep")
    quick.wait("sweep", "TRAINED", 4)
    assert len(here.tables("sweep")) == 1
    assert len({job.partition("_")[0] for job in here.jobs("sweep")}) == 2
    assert len(set(here.recorded())) == 8


def test_what_the_newest_slurm_says_of_jobs_that_were_disturbed(site: Site) -> None:
    """One that is put back into the queue waits; one whose process is killed has FAILED, and its accounts say how."""
    here = site.at("disturbed", STAND_IN_SECONDS="600")
    here.launch(*TINY, "sweep=disturbed")
    here.wait("disturbed", "RUNNING", 1)
    (job,) = here.recorded()
    here.cluster.slurm("scontrol", "requeuehold", job)
    assert eventually(lambda: str(here.status("disturbed")[0]["reason"]).startswith("requeued"))
    here.cluster.slurm("scontrol", "release", job)
    started = here.run() / "attempts/001/started.json"
    assert eventually(lambda: '"SLURM_RESTART_COUNT": "1"' in started.read_text())
    here.wait("disturbed", "RUNNING", 1)
    pid = re.search(r'"pid": ([0-9]+)', started.read_text())
    assert pid
    os.kill(int(pid[1]), signal.SIGKILL)
    here.wait("disturbed", "FAILED", 1)
    assert eventually(lambda: re.fullmatch(KILLED, str(here.status("disturbed")[0]["reason"])))
