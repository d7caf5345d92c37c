"""A real SLURM (slurm/dev-cluster) at a site that refuses job arrays, keeps no accounts and forbids requeueing."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace

import pytest
from slurm_cluster import QUICK, needs_slurm, running_cluster
from slurm_site import TINY, Site, checkout
from waiting import eventually

pytestmark = needs_slurm
NO_ARRAYS = """
for word in "$@"; do
    if [ -f "$word" ] && grep -q '^#SBATCH --array' "$word"; then
        echo "sbatch: error: job arrays are not supported on this system" >&2
        exit 1
    fi
done
"""
TIMED_OUT = "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("without")
    with running_cluster(*QUICK, "--nodes", "2", "--no-accounting", "--conf", "JobRequeue=0") as cluster:
        yield Site(cluster, folder / "none", checkout(folder / "code"))


def without_arrays(site: Site, name: str, at_end: str = 'exec $REAL "$@"', **variables: str) -> Site:
    """The site from a fresh folder, with a `sbatch` that refuses arrays, and takes other jobs in this manner."""
    here = site.at(name)
    folder = here.folder / "bin"
    folder.mkdir()
    (folder / "sbatch").write_text(f"#!/bin/bash\nREAL={shutil.which('sbatch')}\n{NO_ARRAYS}\n{at_end}\n")
    (folder / "sbatch").chmod(0o755)
    more = {"PATH": f"{folder}:{os.environ['PATH']}", **variables}
    return replace(here, variables=tuple(more.items()))


def queue(site: Site, sweep: str) -> list[str]:
    """State and reason of each job of a sweep that waits or is at work."""
    lines = site.cluster.slurm("squeue", "-h", "-o", "%j|%T|%r").splitlines()
    return sorted(line.partition("|")[2] for line in lines if line.startswith(f"{sweep}."))


def test_a_refused_array_is_told_with_the_remedy_and_leaves_nothing(site: Site) -> None:
    """One line; the job that was to make the table, which SLURM had taken before, is named and taken back."""
    here = without_arrays(site, "refused")
    held = "cluster.extra.hold=true"
    said = here.launch(*TINY, "sweep=refused", "seed=1,2", held, code=1).splitlines()[-1]
    assert "job arrays are not supported on this system; cluster.arrays=false submits each job by itself" in said
    table = re.search(r"job (\d+), which makes their reference table, was submitted before, and is taken back", said)
    assert table, said
    assert eventually(lambda: queue(here, "refused") == [])


def test_jobs_without_arrays_keep_to_max_parallel_and_run_once(site: Site) -> None:
    """Two at work, the others wait for them; one that is cancelled makes place; each run is trained by one job."""
    gate = site.folder.parent / "gate"
    here = without_arrays(site, "single", GATE=str(gate))
    command = (*TINY, "sweep=single", "seed=range(0,5)", "cluster.arrays=false", "cluster.max_parallel=2")
    assert "5 runs submitted" in here.launch(*command)
    here.wait("single", "RUNNING", 2)
    assert queue(here, "single") == ["PENDING|Dependency"] * 3 + ["RUNNING|None"] * 2
    first = next(run for run in here.status("single") if run["status"] == "RUNNING")
    here.launch("cancel", "single", str(first["run_id"]))
    here.wait("single", "CANCELLED", 1)
    here.wait("single", "RUNNING", 2)
    gate.touch()
    here.wait("single", "TRAINED", 4)
    assert "1 run submitted" in here.launch("resume", "single", "cluster.arrays=false")
    here.wait("single", "TRAINED", 5)
    assert len(set(here.recorded())) == 6
    assert not any("_" in job for job in here.recorded())
    assert set(here.recorded()) == set(here.jobs("single"))


def test_a_job_is_found_by_its_name_though_sbatch_has_failed(site: Site) -> None:
    """Each of them for itself; and the jobs of a launcher that died before it had recorded them are taken up."""
    here = without_arrays(site, "lost", f'$REAL "$@" >/dev/null; echo "{TIMED_OUT}" >&2; exit 1')
    command = (*TINY, "sweep=lost", "seed=1,2,3", "cluster.arrays=false")
    assert "3 runs submitted" in here.launch(*command)
    for record in list(here.folder.glob("outputs/sweeps/lost/jobs/*/jobs.json"))[1:]:
        record.unlink()
    assert "3 skip" in here.launch(*command)
    here.wait("lost", "TRAINED", 3)
    assert sorted(here.recorded()) == sorted(here.jobs("lost"))
    assert len(here.recorded()) == 3


def test_doctor_names_what_the_site_lacks(site: Site) -> None:
    """Arrays, found out by a job that is not submitted; accounts; requeueing; and the file has the key."""
    said = without_arrays(site, "doctor").launch("doctor")
    for line in (
        r"accounting +none: a run's files say how it ended",
        r"array +refused \(job arrays are not supported on this system\): cluster.arrays=false submits each job by",
        r"requeue +for jobs that ask for it, which ours do \(JobRequeue=0\)",
        r"its file system +hard links and locks work",
        r"arrays: false",
    ):
        assert re.search(rf"^{line}", said, re.MULTILINE), said
    assert not site.cluster.slurm("squeue", "-h", "-n", "trial.sh")


def test_gpus_by_gres_alone_are_found_out(site: Site) -> None:
    """Where --gpus-per-node is refused and --gres is not, doctor has the keys for it, also in its file."""
    refuses = 'grep -q "^#SBATCH --gpus-per-node" "${@: -1}" && { echo "sbatch: error: use --gres" >&2; exit 1; }'
    said = without_arrays(site, "gres", f'{refuses}; exec $REAL "$@"').launch("doctor")
    instead = r"--gpus-per-node is refused \(use --gres\), and --gres is not: cluster.extra.gpus-per-node=null"
    assert re.search(rf"^GPUs +{instead} cluster.extra.gres=gpu:1", said, re.MULTILINE), said
    assert "extra: {gpus-per-node: null, gres: gpu:1}" in said
    here = without_arrays(site, "gres-probe", f'{refuses}; exec $REAL "$@"')
    probed = here.launch("doctor", "--probe", code=1)  # which shows all of it, too, and last why there was no job
    assert re.search(rf"^GPUs +{instead}", probed, re.MULTILINE), probed
    assert probed.splitlines()[-1] == "prefsweep: sbatch: use --gres"
    assert not list(here.folder.glob("outputs/doctor/*"))


def test_a_node_is_looked_at(site: Site) -> None:
    """Its file system, whether a lock of the login node holds there, and whether the Hub answers."""
    here = site.at("node", HF_ENDPOINT="http://127.0.0.1:9")
    text = here.launch("doctor", "--probe", "cluster.gpus_per_node=0", "--wait", "250")
    assert re.search(r"its file system on n\d +hard links and locks work", text)
    assert re.search(r"Hub from n\d +http://127.0.0.1:9 does not answer", text)
