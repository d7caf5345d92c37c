"""Two real clusters under one slurmdbd, whose jobs have the same numbers: each is asked of the one that has it."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest
from slurm_cluster import QUICK, dev_cluster_script, needs_slurm, running_cluster
from slurm_site import TINY, Site, checkout
from test_slurm_cluster import wrapped
from waiting import eventually

pytestmark = [pytest.mark.long, *needs_slurm]
HELD = "+cluster.extra.hold=true"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("clusters")
    with running_cluster(*QUICK, "--nodes", "2", "--gpus-per-node", "0", "--clusters", "2") as cluster:
        yield Site(cluster, folder / "none", checkout(folder / "code"))


@pytest.fixture(scope="module")
def names(site: Site) -> list[str]:
    """Both clusters' names, that of the one which answers by itself first."""
    return sorted(site.cluster.slurm("sacctmgr", "-nP", "show", "cluster", "format=cluster").splitlines())


def queued(site: Site, cluster: str, sweep: str) -> list[str]:
    """The ids of a sweep's jobs that have not ended on that cluster."""
    lines = site.cluster.slurm("squeue", f"--clusters={cluster}", "-h", "-r", "-o", "%i %j").splitlines()
    return [line.split()[0] for line in lines if line.split()[1].startswith(f"{sweep}.")]


def recorded(here: Site, sweep: str) -> list[tuple[str, str]]:
    """The cluster and the id of each job of a sweep's runs, as recorded."""
    files = here.folder.glob(f"outputs/sweeps/{sweep}/jobs/*/jobs.json")
    return [(job["cluster"], job["job_id"]) for file in files for job in json.loads(file.read_text())["jobs"]]


def ran_on(here: Site) -> Counter[str]:
    """On how many nodes of each cluster attempts have started."""
    files = here.folder.glob("outputs/runs/*/attempts/*/started.json")
    return Counter(json.loads(file.read_text())["environment"]["SLURM_CLUSTER_NAME"] for file in files)


def test_a_sweep_on_the_cluster_that_is_not_the_default(site: Site, names: list[str]) -> None:
    """Equal ids of both never mix: one is cancelled, resumed and finished, the other waits; new runs go elsewhere."""
    first, second = names
    here = site.at("both")
    gate = here.folder / "gate"
    here = replace(here, variables=(("GATE", str(gate)),))
    there = replace(here, variables=(*here.variables, ("SBATCH_CLUSTERS", second)))
    here.launch(*TINY, "sweep=ours", "seed=1,2", HELD)
    setup = f"cluster.setup=['export SLURM_CLUSTERS={first}']"  # with which srun would not find its job
    said = there.launch(*TINY, "sweep=theirs", "seed=3,4", HELD, setup)
    assert f"cluster {second} from SBATCH_CLUSTERS" in said
    assert {cluster for cluster, _ in recorded(here, "theirs")} == {second}
    assert [job for _, job in recorded(here, "theirs")] == [job for _, job in recorded(here, "ours")]
    assert (here.counts("ours"), here.counts("theirs")) == ({"PENDING": 2}, {"PENDING": 2})

    assert "2 runs of theirs cancelled" in here.launch("cancel", "theirs")
    assert eventually(lambda: queued(site, second, "theirs") == [])
    assert (here.counts("ours"), here.counts("theirs")) == ({"PENDING": 2}, {"CANCELLED": 2})
    assert len(queued(site, first, "ours")) == 3  # with the table's

    assert "2 runs submitted" in here.launch("resume", "theirs", "cluster.extra.hold=false")
    assert "2 skip" in here.launch(*TINY, "sweep=theirs", "seed=3,4,5")
    gate.touch()
    here.wait("theirs", "TRAINED", 3)
    assert ran_on(here) == {second: 2, first: 1}
    here.launch("cancel", "ours")
    assert eventually(lambda: queued(site, first, "ours") == [])


def test_what_is_no_cluster_is_refused(site: Site, names: list[str]) -> None:
    """In one line, with the names that there are, before anything is submitted or written."""
    here = site.at("refused")
    said = here.launch(*TINY, "sweep=refused", "cluster.clusters=nowhere", code=2)
    expected = f"prefsweep: cluster.clusters=nowhere: must be one of {', '.join(names)}"
    assert [line for line in said.splitlines() if "nowhere" in line] == [expected]
    said = replace(here, variables=(("SLURM_CLUSTERS", "all"),)).launch(*TINY, "sweep=refused", code=2)
    assert "cluster.clusters=all: give one name" in said
    assert "cluster all from SLURM_CLUSTERS" in said
    assert not (here.folder / "outputs").exists()


def test_each_question_goes_to_one_cluster(site: Site, names: list[str]) -> None:
    """Of a sweep on another one, squeue is asked once, there, and sacct not at all."""
    here = site.at("once")
    here.launch(*TINY, "sweep=once", "seed=range(0,12)", HELD, f"cluster.clusters={names[1]}")
    for name in ("squeue", "sacct", "scontrol", "sacctmgr"):
        path = wrapped(here, name, f'echo {name} "$@" >>{here.folder}/asked; exec $REAL "$@"')
    seen = replace(here, variables=(("PATH", path),))
    assert seen.counts("once") == {"PENDING": 12}
    asked = (here.folder / "asked").read_text().splitlines()
    assert Counter(line.split()[0] for line in asked) == {"scontrol": 1, "sacctmgr": 1, "squeue": 1}
    assert [line.split()[1] for line in asked if line.startswith("squeue")] == [f"--clusters={names[1]}"]
    here.launch("cancel", "once")


REQUEUE = """#!/bin/bash
export SLURM_CLUSTERS={first} PREFSWEEP_REQUEST=$PWD/request.$SLURM_RESTART_COUNT
if [[ ${{SLURM_RESTART_COUNT:-0}} == 0 ]]; then
    {python} -c 'from launcher.cluster import node; print(node.requeue(node.here()))'
    sleep 60
elif [[ $SLURM_RESTART_COUNT == 1 ]]; then
    (exit 250)
    source {slurm}/requeue.sh
fi
echo life $SLURM_RESTART_COUNT
"""


def test_a_job_goes_back_into_the_queue_of_its_own_cluster(site: Site, names: list[str]) -> None:
    """From Python and from its script, whichever cluster the user's variable means; a job of its number stays."""
    first, second = names
    here = site.at("requeue")
    script = here.folder / "script.sh"
    script.write_text(REQUEUE.format(first=first, python=sys.executable, slurm=site.code / "slurm"))
    options = (f"--chdir={here.folder}", f"--output={here.folder}/%j.log", f"--export=ALL,PYTHONPATH={site.code}")
    last = {first: 0, second: 0}
    while not last[first] == last[second] > 0:
        behind = min(last, key=lambda name: last[name])
        made = site.cluster.slurm("sbatch", "--parsable", "--hold", f"--clusters={behind}", *options, str(script))
        last[behind] = int(made.partition(";")[0])
    job = str(last[second])
    site.cluster.slurm("scontrol", f"--clusters={second}", "release", job)
    log = here.folder / f"{job}.log"
    assert eventually(lambda: log.exists() and "life 2" in log.read_text(), 240), log.read_text()
    assert (site.cluster.field(job, "JobState"), site.cluster.field(job, "Restarts")) == ("PENDING", "0")
    site.cluster.slurm("scancel", "--user=root", f"--clusters={first},{second}")


def test_doctor_names_the_clusters_and_looks_at_a_node_of_another(site: Site, names: list[str]) -> None:
    """By its survey and by a job there."""
    first, second = names
    here = site.at("doctor")
    assert f"{second}: cluster.clusters=NAME" in here.launch("doctor")
    said = here.launch("doctor", "--probe", f"cluster.clusters={second}", "cluster.gpus_per_node=0", "--wait", "250")
    assert f"cluster {second}" in said
    assert f"{first}: cluster.clusters=NAME" in said
    assert f"clusters: {second}" in said
    assert "ran on n3" in said or "ran on n4" in said


def test_the_script_knows_the_daemons_of_both(site: Site, names: list[str]) -> None:
    """A node of the second dies and comes back, its controller restarts, and a shell may be pointed at it."""
    script, second = site.cluster.script, names[1]
    assert script("kill-node", "n3").returncode == 0
    status = script("status")
    assert status.returncode == 1
    assert [line.split()[0] for line in status.stdout.splitlines() if " dead " in line] == ["n3"]
    for command in (("start-node", "n3"), ("restart", "ctld2"), ("status",)):
        done = script(*command)
        assert done.returncode == 0, done.stderr
    assert f"{site.cluster.root}/etc2/slurm.conf" in script("env", "--cluster", second).stdout
    refused = script("env", "--cluster", "nowhere")
    assert (refused.returncode, f"there are {names[0]} {second}" in refused.stderr) == (2, True)
    none = dev_cluster_script("up", "--root", f"{site.cluster.root}-none", "--clusters", "2", "--no-accounting")
    assert none.returncode == 2
