"""Real training on a real SLURM: a whole grid; the time limit, a preemption and kill -9 cost no accuracy.

All of it runs side by side, so that the module takes as long as its slowest run.
"""

from __future__ import annotations

import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import pytest
from conftest import REPOSITORY
from safetensors.numpy import load_file
from slurm_cluster import QUICK, eventually, needs_slurm, running_cluster
from slurm_site import TINY, Site

pytestmark = needs_slurm

STEPS = 800
LONG = [*TINY, "trainer.learning_rate=1e-3", f"trainer.max_steps={STEPS}", "trainer.batch_size=8",
        "evaluation.generations=2", "evaluation.max_new_tokens=4"]  # fmt: skip
# Makes each optimizer step last: StopRequest is asked once a step.
SLOW = """
import os, time
if os.environ.get("STEP_SECONDS") and "SLURM_PROCID" in os.environ:
    from launcher.worker.interruption import StopRequest
    asked = StopRequest.__call__
    StopRequest.__call__ = lambda self: time.sleep(float(os.environ["STEP_SECONDS"])) or asked(self)
"""


@dataclass(frozen=True)
class Launched:
    """What the module's tests look at: a site for each sweep."""

    grid: Site
    limit: Site
    preempted: Site
    killed: Site
    undisturbed: Site
    seconds: float


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launched]:
    folder = tmp_path_factory.mktemp("runs")
    (folder / "slow").mkdir()
    (folder / "slow" / "sitecustomize.py").write_text(SLOW)
    with running_cluster(*QUICK) as cluster:
        base = Site(cluster, folder / "none", REPOSITORY)
        slow = {"PYTHONPATH": f"{folder / 'slow'}:{REPOSITORY}", "STEP_SECONDS": "0.04"}
        limit, preempted, killed = (base.at(name, **slow) for name in ("limit", "preempted", "killed"))
        data = f"dataset.path={folder / 'limit' / 'pairs'}"  # one objective: the same run id everywhere
        never, often = "checkpoint.every=10000", "checkpoint.every=20"
        limit.launch(*LONG, data, never, "sweep=limit", "cluster.time=1", "cluster.warning_seconds=30")
        preempted.launch(*LONG, data, never, "sweep=preempted", "cluster.extra={nodelist: n4, exclusive: true}")
        killed.launch(*LONG, data, often, "sweep=killed")
        undisturbed = base.at("undisturbed")
        undisturbed.launch(*LONG, data, never, "sweep=undisturbed", "cluster.executor=slurm")
        grid, began = base.at("grid"), time.monotonic()
        grid.launch(*TINY, "sweep=grid", "loss_type=sigmoid,ipo,kto_pair", "beta=0.01,0.1,0.2,0.5",
                    "trainer.max_steps=4", "cluster.runs_per_job=6", "evaluation.generations=2")  # fmt: skip
        yield Launched(grid, limit, preempted, killed, undisturbed, time.monotonic() - began)


def weights_are_those_of(run: Path, other: Path) -> bool:
    ours, theirs = (load_file(folder / "model" / "model.safetensors") for folder in (run, other))
    return ours.keys() == theirs.keys() and all((ours[name] == theirs[name]).all() for name in ours)


def steps_of(run: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_kill_9_is_a_failure_that_resume_mends(launched: Launched) -> None:
    """SLURM says how it ended; resume goes on from the last checkpoint, and the weights are those of a run in peace."""
    here = launched.killed
    assert eventually(lambda: list(here.folder.glob("outputs/runs/*/checkpoints/*/complete.json")), 90)
    run = here.run()
    os.kill(json.loads((run / "attempts/001/started.json").read_text())["pid"], signal.SIGKILL)
    here.wait("killed", "FAILED", 1)
    (state,) = here.status("killed")
    assert re.fullmatch(r"FAILED (exit code (9|137)|signal 9)", str(state["reason"]))
    done = steps_of(run)[-1]
    quick = replace(here, variables=())
    output = quick.launch("resume", "killed")
    resumed_from = int(re.findall(r"from step (\d+)", output)[0])
    assert 0 <= done - resumed_from <= 20
    quick.wait("killed", "TRAINED", 1)
    assert json.loads((run / "attempts/002/job.json").read_text())["executor"] == "slurm"
    launched.undisturbed.wait("undisturbed", "TRAINED", 1)
    assert weights_are_those_of(run, launched.undisturbed.run())


def test_a_preempted_run_goes_on_where_it_was(launched: Launched) -> None:
    """Pushed out by a higher partition, it saves, SLURM puts it back, and it ends as if nothing had been."""
    here = launched.preempted
    assert eventually(lambda: list(here.folder.glob("outputs/runs/*/metrics.jsonl")), 90)
    (job,) = here.recorded()
    urgent = here.cluster.sbatch("sleep 1", "-w", "n4", "--exclusive", "-p", "urgent")
    assert eventually(lambda: here.cluster.recorded(urgent) == ["COMPLETED"])
    here.wait("preempted", "TRAINED", 1)
    assert here.cluster.recorded(job)[0] == "PREEMPTED"
    run = here.run()
    assert steps_of(run) == list(range(1, STEPS + 1))  # none redone
    assert weights_are_those_of(run, launched.undisturbed.run())
    assert [path.name for path in (run / "attempts").iterdir()] == ["001"]


def test_a_run_longer_than_its_limit_is_requeued(launched: Launched) -> None:
    """Warned of the time limit, it saves and goes back into the queue under its own id, as often as it takes."""
    here = launched.limit
    here.wait("limit", "TRAINED", 1, seconds=240)
    (job,) = here.recorded()
    lives = here.cluster.recorded(job)
    run = here.run()
    assert lives[:-1] == ["REQUEUED"] * (len(lives) - 1)
    assert len((run / "attempts/001/requeues.jsonl").read_text().splitlines()) == len(lives) - 1 >= 1
    assert steps_of(run) == list(range(1, STEPS + 1))  # none redone
    assert weights_are_those_of(run, launched.undisturbed.run())


def test_a_grid_on_the_cluster(launched: Launched, record_testsuite_property: Callable[..., None]) -> None:
    """Twelve runs of the three losses, packed six to a job, end TRAINED; the launcher had returned long before."""
    record_testsuite_property("launcher returned after seconds", launched.seconds)
    launched.grid.wait("grid", "TRAINED", 12)
    assert len({job.partition("_")[0] for job in launched.grid.recorded()}) == 1
    assert len(launched.grid.jobs("grid")) == 2
    assert "12 skip" in launched.grid.launch("resume", "grid")
    log = launched.grid.launch("logs", str(launched.grid.status("grid")[0]["run_id"]))
    assert "step 4/4" in log


def test_a_run_is_relaunched_by_hand(launched: Launched) -> None:
    """sbatch slurm/run.sbatch RUN_DIR needs no launcher: the job is the run's next attempt, whatever options it has."""
    here = launched.grid
    run = here.folder / "outputs" / "runs" / str(here.status("grid")[0]["run_id"])
    (run / "result.json").unlink()
    environment = {**here.environment, "PREFSWEEP_PYTHON": sys.executable}
    command = ["sbatch", "--parsable", "--job-name=by hand", REPOSITORY / "slurm/run.sbatch", run]
    done = subprocess.run(command, cwd=here.folder, env=environment, capture_output=True, text=True, check=True)
    here.wait("grid", "TRAINED", 12)
    job = json.loads((run / "attempts/002/job.json").read_text())
    assert (job["executor"], job["job_id"]) == ("slurm", done.stdout.strip())


def test_a_failing_run_shows_its_traceback(launched: Launched) -> None:
    """status has the reason and the last lines of the traceback, logs all of it."""
    here = launched.grid
    here.launch(*TINY, "sweep=failing", "trainer.learning_rate=1e30", "trainer.max_steps=4")
    here.wait("failing", "FAILED", 1)
    text = here.launch("status", "failing")
    assert "lower the learning rate" in text
    assert re.search(r"RuntimeError: .*\n", text)
    assert "Traceback" in here.launch("logs", str(here.status("failing")[0]["run_id"]))


def test_doctor_looks_at_a_node(launched: Launched) -> None:
    """A job says what a run would find there: a folder that both see, the versions, the GPUs that torch sees."""
    text = launched.grid.launch("doctor", "--probe", "cluster.gpus_per_node=0", "--wait", "120")
    assert re.search(r"probe job +ran on n\d", text)
    assert re.search(r"outputs on n\d +shared and writable, \d+ GB free", text)
    assert re.search(rf"Python on n\d +{platform.python_version()}, torch {version('torch')}", text)
    assert re.search(r"GPU on n\d +none; torch is built for the CPU alone", text)
    assert not list((launched.grid.folder / "outputs" / "doctor").iterdir())


def test_doctor_names_what_keeps_a_job_from_a_node(launched: Launched) -> None:
    """SLURM's refusal, in one line; a job that gets no node in time is taken back."""
    here = launched.grid
    refused = here.launch("doctor", "--probe", "cluster.partition=none-such", code=1)
    assert "invalid partition" in refused.splitlines()[-1]
    late = here.launch("doctor", "--probe", "+cluster.extra.hold=true", "--wait", "1", code=1)
    assert late.splitlines()[-1] == "prefsweep: sbatch: no answer within 1 s"
    queue = here.cluster.slurm("squeue", "-h", "-o", "%j %T")
    assert not re.search(r"prefsweep-doctor\S+ PENDING", queue)
