"""Launches from shells that hold whatever variables of SLURM's: none is submitted twice, and each says what counts.

What a variable means is written down here from sbatch's manual, and read back from SLURM.
"""

from __future__ import annotations

import os
import random
import re
from collections.abc import Iterator
from dataclasses import replace

import pytest
from slurm_cluster import QUICK, needs_slurm, running_cluster
from slurm_site import TINY, Site, checkout
from waiting import eventually

pytestmark = needs_slurm

LAUNCHES = int(os.environ.get("PREFSWEEP_TEST_LAUNCHES", "10"))
SEED = int(os.environ.get("PREFSWEEP_TEST_SEED", "1"))

# What counts: its values, and what squeue then says of the job, by squeue's own letter for it.
TAKEN = {
    "SBATCH_ACCOUNT": ("%a", {"proj": "proj", "other": "other"}),
    "SBATCH_PARTITION": ("%P", {"main": "main", "urgent": "urgent"}),
    "SBATCH_QOS": ("%q", {"normal": "normal"}),
    "SBATCH_TIMELIMIT": ("%l", {"30": "30:00", "1:00:00": "1:00:00", "2-0": "2-00:00:00"}),
    "SBATCH_MEM_PER_NODE": ("%m", {"2G": "2G", "700": "700M"}),
    "SBATCH_COMMENT": ("%k", {"hello": "hello"}),
}
# What sbatch would heed, and our jobs would not survive.
NEVER = {
    "SBATCH_ARRAY_INX": ["0-3", "7"], "SBATCH_EXPORT": ["NONE", "PATH"], "SBATCH_JOB_NAME": ["mine"],
    "SBATCH_OUTPUT": ["/dev/null"], "SBATCH_ERROR": ["/dev/null"], "SBATCH_INPUT": ["/dev/zero"],
    "SBATCH_NO_REQUEUE": ["1"], "SBATCH_SIGNAL": ["KILL@10"], "SBATCH_WAIT": ["1"], "SBATCH_GPUS": ["8"],
    "SBATCH_GPUS_PER_NODE": ["8"], "SBATCH_OPEN_MODE": ["truncate"], "SBATCH_GET_USER_ENV": ["1"],
}  # fmt: skip
LEFT = {"SBATCH_HINT": ["nomultithread"], "SBATCH_THREADS_PER_CORE": ["1"], "SBATCH_USE_MIN_NODES": ["1"]}
# What would change the answers to our questions, or belongs to a job in which somebody launches.
FILTERS = {
    "SQUEUE_STATES": ["RUNNING", "COMPLETED"], "SQUEUE_USERS": ["nobody"], "SQUEUE_PARTITION": ["urgent"],
    "SQUEUE_FORMAT": ["%i"], "SQUEUE_FORMAT2": ["jobid"], "SQUEUE_ACCOUNT": ["none"], "SQUEUE_SORT": ["-i"],
    "SQUEUE_NAMES": ["x"], "SQUEUE_ARRAY": ["1"], "SACCT_FORMAT": ["jobid"], "SACCT_LOCAL": ["1"],
    "SCANCEL_STATE": ["SUSPENDED"], "SCANCEL_USER": ["nobody"], "SCANCEL_INTERACTIVE": ["1"], "SINFO_FORMAT": ["%N"],
    "SINFO_PARTITION": ["urgent"], "SLURM_TIME_FORMAT": ["relative"], "SLURM_BITSTR_LEN": ["3"],
    "SLURM_JOB_ID": ["1"], "SLURM_ARRAY_JOB_ID": ["1"], "SLURM_ARRAY_TASK_ID": ["3"], "SLURM_PROCID": ["2"],
    "SLURM_NTASKS": ["4"], "SLURM_CLUSTER_NAME": ["elsewhere"], "SLURM_CPU_BIND": ["mask_cpu:0x1"],
    "SLURM_JOB_NAME": ["interactive"], "SLURM_RESTART_COUNT": ["2"], "SRUN_DEBUG": ["3"], "RANK": ["3"],
    "WORLD_SIZE": ["4"], "CUDA_VISIBLE_DEVICES": ["5"],
}  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("ambient")
    with running_cluster(*QUICK, "--nodes", "2") as cluster:
        for account in ("proj", "other"):
            cluster.slurm("sacctmgr", "-i", "add", "account", account)
            cluster.slurm("sacctmgr", "-i", "add", "user", "root", f"account={account}")
        yield Site(cluster, folder / "none", checkout(folder / "code"))


def drawn(draw: random.Random) -> dict[str, str]:
    """The variables of a shell: about half of those that count, and some of each other kind."""
    values = {name: list(taken) for name, (_, taken) in TAKEN.items()} | NEVER | LEFT | FILTERS
    wanted = [name for name in values if draw.random() < (0.5 if name in TAKEN else 0.2)]
    return {name: draw.choice(values[name]) for name in wanted}


@pytest.mark.long
def test_no_variable_doubles_a_run_or_counts_in_silence(site: Site) -> None:
    """Each launch, from another shell, adds one run to those in flight; its job is as that shell says, and runs."""
    draw, here = random.Random(SEED), site.at("fuzz")  # noqa: S311 - not for secrets
    name = site.cluster.slurm("sacctmgr", "-nP", "show", "cluster", "format=cluster")
    gate, words = here.folder / "gate", (*TINY, "sweep=fuzz", "+cluster.extra.hold=true")
    jobs: dict[int, str] = {}
    for number in range(1, LAUNCHES + 1):
        shell = drawn(draw)
        if draw.random() < 0.3:
            shell["SLURM_CLUSTERS"] = name
        there = replace(here, variables=(*shell.items(), ("GATE", str(gate))))
        told = there.launch(*words, f"seed=range(1,{number + 1})")
        context = f"launch {number} of seed {SEED}: {shell}\n{told}"
        assert re.search("^1 run submitted", told, re.MULTILINE), context
        (jobs[number],) = set(here.recorded()) - set(jobs.values())
        _check_told(shell, told, context)
        _check_job(site, jobs[number], shell, context)
        assert there.counts("fuzz") == {"PENDING": number}, context
    assert sorted(here.jobs("fuzz")) == sorted(jobs.values())
    for job in jobs.values():
        site.cluster.slurm("scontrol", "release", job)
    gate.touch()
    here.wait("fuzz", "TRAINED", LAUNCHES)
    assert eventually(lambda: not site.cluster.slurm("squeue", "-h"))
    attempts = [len(list(run.glob("attempts/*"))) for run in here.folder.glob("outputs/runs/*")]
    assert attempts == [1] * LAUNCHES


def _check_told(shell: dict[str, str], told: str, context: str) -> None:
    for name, value in shell.items():
        if name in TAKEN or name == "SLURM_CLUSTERS":
            assert re.search(rf"{re.escape(value)} from {name}\b", told), f"{name} is not told: {context}"
        elif name in NEVER:
            assert f"{name}={value} does not count" in told, f"{name} is not told: {context}"
        elif name in LEFT:
            assert re.search(rf"left to sbatch: .*{name}={re.escape(value)}", told), f"{name} is not told: {context}"


def _check_job(site: Site, job: str, shell: dict[str, str], context: str) -> None:
    for name, (letter, values) in TAKEN.items():
        if name in shell:
            said = site.cluster.slurm("squeue", "-h", "-o", letter, "-j", job)
            assert said == values[shell[name]], f"{name} does not count: {context}"
    assert "fuzz" in site.cluster.field(job, "JobName"), context
    assert site.cluster.field(job, "Requeue") == "1", context
