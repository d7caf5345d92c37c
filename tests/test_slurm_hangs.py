"""Hangs and lost ranks on a real SLURM: what comes back by itself, without the node, and what SLURM says of others."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from conftest import REPOSITORY
from slurm_cluster import KILLED, PATIENT, needs_slurm, running_cluster
from slurm_site import TINY, Site
from waiting import eventually

from launcher.store.files import read_lines

pytestmark = needs_slurm

# In a job's first life the last rank does so at its third step; the stop request is asked at each,
# and elsewhere, also by other threads.
THIRD_STEP = """
import os, signal, sys, time
last = int(os.environ.get("SLURM_STEP_NUM_TASKS") or 1) - 1
if os.environ.get("SLURM_PROCID") == str(last) and os.environ.get("THIRD_STEP") and not os.environ.get(
        "SLURM_RESTART_COUNT"):
    from launcher.worker.interruption import StopRequest
    asked, calls = StopRequest.__call__, []
    def third(self):
        if sys._getframe(2).f_code.co_name == "on_step_end":
            calls.append(0)
            if len(calls) == 3:
                exec(os.environ["THIRD_STEP"])
        return asked(self)
    StopRequest.__call__ = third
"""
RUN = [*TINY, "trainer.max_steps=6", "trainer.batch_size=8", "trainer.micro_batch_size=4", "model.dtype=float32",
       "evaluation.generations=2", "checkpoint.every=1", "cluster.hang_seconds=5"]  # fmt: skip
TWO = ["cluster.nodes=2"]
CASES = {
    "lone": ([], "time.sleep(10000)"),
    "two": (TWO, "time.sleep(10000)"),
    "killed": (TWO, "time.sleep(12); os.kill(os.getpid(), signal.SIGKILL)"),
}


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Site]]:
    folder = tmp_path_factory.mktemp("hangs")
    (folder / "hook").mkdir()
    (folder / "hook" / "sitecustomize.py").write_text(THIRD_STEP)
    with running_cluster(*PATIENT) as cluster:
        base = Site(cluster, folder / "none", REPOSITORY)
        found = {}
        for name, (words, do) in CASES.items():
            found[name] = base.at(name, PYTHONPATH=f"{folder / 'hook'}:{REPOSITORY}", THIRD_STEP=do)
            more = ["cluster.hang_seconds=60"] if name == "killed" else []
            found[name].launch(*RUN, *words, *more, f"sweep={name}")
        yield found


@pytest.mark.parametrize("name", ["lone", "two"])
def test_a_hang_is_trained_elsewhere(sites: dict[str, Site], name: str) -> None:
    """The job is back in the queue without the node of the rank that stood still, and goes on from its checkpoint."""
    site = sites[name]
    assert eventually(lambda: site.counts(name)["TRAINED"] == 1, 300), site.launch("status", name)
    attempt = site.run() / "attempts" / "001"
    (back,) = read_lines(attempt / "requeues.jsonl")
    assert back["step"] == 2
    assert f"rank {int(name == 'two')} stood in 'step 3 of 6' for" in back["why"]
    job = min((job.partition("_")[0] for job in site.recorded()), key=int)  # another evaluates what two nodes train
    first, second = (set(nodes(site, line)) for line in site.cluster.recorded(job, "nodelist"))
    assert back["node"] in first
    assert back["node"] not in second


def nodes(site: Site, names: str) -> list[str]:
    return site.cluster.slurm("scontrol", "show", "hostnames", names).split()


def test_slurm_says_why_a_rank_is_gone_and_we_say_which(sites: dict[str, Site]) -> None:
    """Its step ends at once, its job has failed in SLURM's words, and stands in nobody's way."""
    site = sites["killed"]
    assert eventually(lambda: site.counts("killed")["FAILED"] == 1, 300), site.launch("status", "killed")
    (run,) = site.status("killed")
    assert not (site.run() / "attempts" / "001" / "failure.json").exists()
    assert re.fullmatch(KILLED + "; rank 1 was killed on n2", str(run["reason"]))
