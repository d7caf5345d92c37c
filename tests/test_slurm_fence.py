"""A node that SLURM has given up works on: its run is started elsewhere, and ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import REPOSITORY
from safetensors.numpy import load_file
from slurm_cluster import QUICK, needs_slurm, running_cluster
from slurm_site import TINY, Site
from waiting import eventually

pytestmark = needs_slurm

STEPS = 500
STARTED = "starts/001.0001.json"
RUN = [*TINY, "trainer.learning_rate=1e-3", f"trainer.max_steps={STEPS}", "trainer.batch_size=8", "loss_type=sigmoid",
       "beta=0.42", "evaluation=none", "hub=off", "tracking=off", "checkpoint.every=3"]  # fmt: skip
# The first life of a job is slow, so that it is still at work, and saves, when the second one begins.
SLOW = """
import os, time
if "SLURM_PROCID" in os.environ and "SLURM_RESTART_COUNT" not in os.environ:
    from launcher.worker.interruption import StopRequest
    asked = StopRequest.__call__
    StopRequest.__call__ = lambda self: time.sleep(0.15) or asked(self)
"""


@dataclass(frozen=True)
class Twice:
    """A run that was at work in two processes, the pid of the first, and one that was left in peace."""

    site: Site
    pid: int
    run: Path
    in_peace: Path


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twice]:
    folder = tmp_path_factory.mktemp("fence")
    with running_cluster("--nodes", "2", "--gpus-per-node", "0", "--no-accounting", *QUICK) as cluster:
        yield started_twice(Site(cluster, folder / "none", REPOSITORY))


def started_twice(base: Site) -> Twice:
    """Kill -9 the slurmd of the run's node, and nothing else, when the run is at work."""
    slow = base.folder.parent / "slow"
    slow.mkdir()
    (slow / "sitecustomize.py").write_text(SLOW)
    site, peaceful = base.at("lost", PYTHONPATH=f"{slow}:{base.code}"), base.at("peaceful")
    site.launch(*RUN, "sweep=lost")
    same = f"dataset.path={site.folder / 'pairs'}"
    assert eventually(lambda: steps_of(site)[-1:] >= [40])
    first = json.loads((site.run() / STARTED).read_text())
    os.kill(int((site.cluster.root / "run" / f"{first['host']}.pid").read_text().split()[0]), signal.SIGKILL)
    in_peace = peaceful.start(*RUN, same, "sweep=peaceful", "cluster=local")
    site.wait("lost", "TRAINED", 1)
    said, _ = in_peace.communicate()
    assert in_peace.returncode == 0, said
    return Twice(site, first["pid"], site.run(), peaceful.run())


def steps_of(site: Site) -> list[int]:
    files = list(site.folder.glob("outputs/runs/*/metrics.jsonl"))
    return [json.loads(line)["step"] for file in files for line in file.read_text().splitlines()]


def test_the_weights_are_those_of_a_run_in_peace(twice: Twice) -> None:
    """Bit for bit: whatever the first process still did, the second one went on from what it needed."""
    ours, theirs = (load_file(run / "model" / "model.safetensors") for run in (twice.run, twice.in_peace))
    assert ours.keys() == theirs.keys()
    assert {name: float(abs(ours[name] - theirs[name]).max()) for name in ours} == dict.fromkeys(ours, 0.0)


def test_the_first_process_left_when_the_second_began(twice: Twice) -> None:
    """It says why, and is gone within seconds; the second one went on from the checkpoint that it found."""
    assert eventually(lambda: not Path(f"/proc/{twice.pid}").exists(), seconds=20)
    log = (twice.run / "attempts/001/rank0.log").read_text()
    assert "left: start 001.0002 on n" in log  # it may find the other's start before that one says a word
    first = log.partition("start 001.0002")[0]
    assert int(re.findall(r"step (\d+)/", first)[-1]) >= 40
    hosts = [json.loads((twice.run / f"starts/001.000{n}.json").read_text())["host"] for n in (1, 2)]
    assert sorted(hosts) == ["n1", "n2"]
    assert twice.site.status("lost")[0]["attempts"] == 1


def test_nothing_is_left_of_either(twice: Twice) -> None:
    """No checkpoint, nothing half made, no failure; each step was logged."""
    assert not (twice.run / "checkpoints").exists()
    assert not list(twice.run.glob("**/*partial"))
    assert not list(twice.run.glob("attempts/*/failure.json"))
    assert set(steps_of(twice.site)) == set(range(1, STEPS + 1))
