"""Real training on a real SLURM: a whole grid; the time limit, a preemption and kill -9 cost no accuracy.

All of it runs side by side, so that the module takes as long as its slowest run. On the cluster without accounting a
run is preempted; what SLURM says there of one that was killed, and that resume mends it, is in `test_slurm_cluster`.
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
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import pytest
from conftest import REPOSITORY
from finished_runs import files_holding
from ranks import EXTENSIONS
from safetensors.numpy import load_file
from slurm_cluster import KILLED, PATIENT, needs_slurm, running_cluster
from slurm_site import TINY, Site
from waiting import eventually
from wandb_server import WandbServer, history, serving

from launcher.store.run_folder import AttemptDir

pytestmark = needs_slurm

STEPS = 200
LONG = [*TINY, "trainer.learning_rate=1e-3", f"trainer.max_steps={STEPS}", "trainer.batch_size=8",
        "evaluation.generations=2", "evaluation.max_new_tokens=4"]  # fmt: skip
GRID = [*TINY, "trainer.max_steps=4", "trainer.batch_size=8", "trainer.micro_batch_size=4", "model.dtype=float32",
        "evaluation.generations=2"]  # fmt: skip
LIVE = ("squeue", "-h", "-r", "-t", "RUNNING,COMPLETING,PENDING", "-o", "%i")
# Makes each optimizer step last: StopRequest is asked once a step. WARNED_EARLY: SLURM warns the job's first life of
# the time limit before Python has imported a thing, of which a busy machine needs a minute, as SLURM may.
SLOW = """
import os, signal, sys, time
if os.environ.get("STEP_SECONDS") and "SLURM_PROCID" in os.environ:
    from launcher.worker.interruption import StopRequest
    asked = StopRequest.__call__
    StopRequest.__call__ = lambda self: time.sleep(float(os.environ["STEP_SECONDS"])) or asked(self)
first_life = "SLURM_PROCID" in os.environ and "SLURM_RESTART_COUNT" not in os.environ
if first_life and os.environ.get("WARNED_EARLY") and "launcher.worker.shielded" not in sys.orig_argv:
    os.kill(os.getpid(), signal.SIGUSR2)
"""
# Notes what it was asked and what environment it got, and runs here what was to run in the image.
APPTAINER = """#!/bin/bash
printf '%s\\n' "$@" >"$ASKED/$SLURM_JOB_ID"
env >"$ASKED/$SLURM_JOB_ID.environment"
while [[ $1 != *.sif ]]; do shift; done
shift
exec "$@"
"""
IMAGE = "/images/our torch.sif"
KEY = "0123456789abcdef" * 2 + "01234567"  # as long as W&B wants one


@dataclass(frozen=True)
class Preempted:
    """A run that was pushed out by the jobs `urgent`, and the server that it was told to track on."""

    site: Site
    urgent: list[str]
    wandb: WandbServer


@dataclass(frozen=True)
class Launched:
    """What the module's tests look at: a site for each sweep."""

    grid: Site
    single: Site
    limit: Site
    preempted: dict[str, Preempted]
    killed: Site
    undisturbed: Site
    seconds: float

    def in_peace(self) -> Path:
        """The run that nothing disturbed, once it is done."""
        self.undisturbed.wait("undisturbed", "TRAINED", 1)
        return self.undisturbed.run()


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launched]:
    folder, bare_folder = tmp_path_factory.mktemp("accounting"), tmp_path_factory.mktemp("no-accounting")
    (folder / "slow").mkdir()
    (folder / "slow" / "sitecustomize.py").write_text(SLOW)
    with ExitStack() as stack:
        servers = [stack.enter_context(serving()) for _ in range(2)]
        cluster = stack.enter_context(running_cluster(*PATIENT))
        bare = stack.enter_context(running_cluster(*PATIENT, "--no-accounting"))
        base = Site(cluster, folder / "none", REPOSITORY)
        grid = base.at("grid", TORCH_EXTENSIONS_DIR=str(EXTENSIONS))
        single, data = with_apptainer(base, folder / "apptainer"), grid.folder / "pairs"
        grid.launch(*GRID, "sweep=grid", "loss_type=ipo", "beta=0.1", "cluster.nodes=2", "deepspeed=zero3")
        began = time.monotonic()
        grid.launch(*GRID, "sweep=grid", "loss_type=sigmoid,ipo,kto_pair", "beta=0.01,0.1,0.2,0.5",
                    "cluster.runs_per_job=6")  # fmt: skip
        seconds = time.monotonic() - began
        single.launch(*GRID, f"dataset.path={data}", "sweep=single", "loss_type=ipo", "beta=0.1",
                      f"cluster.container={IMAGE}", "cluster.container_runtime=apptainer",
                      f"cluster.container_mounts=['{data}:{data}']", f"cluster.python={sys.executable}",
                      "cluster.setup=['export SITE=here']")  # fmt: skip
        slow = {"PYTHONPATH": f"{folder / 'slow'}:{REPOSITORY}", "STEP_SECONDS": "0.16"}
        killed = base.at("killed", **slow)
        limit = base.at("limit", **{**slow, "STEP_SECONDS": "0.6", "WARNED_EARLY": "yes"})  # longer than its limit
        same = f"dataset.path={folder / 'limit' / 'pairs'}"  # one objective: the same run id everywhere
        never, often = "checkpoint.every=10000", "checkpoint.every=20"
        # Warned between 60 and 90 s after its start, since SLURM looks every 30 s and warns rather early than late.
        limit.launch(*LONG, same, never, "sweep=limit", "cluster.time=2", "cluster.warning_seconds=30",
                     "cluster.max_requeues=100")  # fmt: skip
        places = {"offline": base, "online": Site(bare, bare_folder / "none", REPOSITORY)}
        preempted = {
            mode: (launched_tracking(place, mode, wandb, slow, same, never), wandb)
            for (mode, place), wandb in zip(places.items(), servers, strict=True)
        }
        killed.launch(*LONG, same, often, "sweep=killed")
        undisturbed = base.at("undisturbed")
        undisturbed.launch(*LONG, same, never, "sweep=undisturbed", "cluster.executor=slurm")
        with ThreadPoolExecutor() as pool:  # none waits for another's run, which might be over by then
            urgent = {mode: pool.submit(preempt, site, times=2) for mode, (site, _) in preempted.items()}
            pool.submit(kill_first_rank, killed).result()
        disturbed = {mode: Preempted(site, urgent[mode].result(), wandb) for mode, (site, wandb) in preempted.items()}
        yield Launched(grid, single, limit, disturbed, killed, undisturbed, seconds)


def launched_tracking(place: Site, mode: str, wandb: WandbServer, slow: dict[str, str], *words: str) -> Site:
    """A long run alone on its node, told to track on `wandb`."""
    site = place.at("preempted", **slow, WANDB_BASE_URL=wandb.url, WANDB_API_KEY=KEY)
    site.launch(*LONG, *words, "sweep=preempted", "cluster.extra={nodelist: n4, exclusive: true}", "tracking=wandb",
                f"tracking.mode={mode}")  # fmt: skip
    return site


def with_apptainer(base: Site, folder: Path) -> Site:
    """A site whose nodes find the stand-in for apptainer on the PATH."""
    folder.mkdir()
    (folder / "apptainer").write_text(APPTAINER)
    (folder / "apptainer").chmod(0o755)
    return base.at("single", PATH=f"{folder}:{base.cluster.environment['PATH']}", ASKED=str(folder))


def preempt(site: Site, times: int) -> list[str]:
    """Each time that the run has begun, or gone on, hand its node to a job of a higher partition; these jobs' ids."""
    urgent: list[str] = []
    for _ in range(times):
        assert eventually(lambda: steps_per_life(site)[len(urgent) :])
        urgent.append(site.cluster.sbatch("sleep 1", "-w", "n4", "--exclusive", "-p", "urgent"))
    return urgent


def steps_per_life(site: Site) -> list[int]:
    """How many steps the run has logged in each life of its job; those without a step are left out."""
    logs = [path.read_text() for path in site.folder.glob("outputs/runs/*/attempts/001/rank0.log")]
    lives = [len(re.findall(r"step \d+/", life)) for log in logs for life in log.split(", attempt 1, on ")]
    return [steps for steps in lives if steps]


def kill_first_rank(site: Site) -> None:
    """Once the run has a checkpoint, kill its process with -9."""
    assert eventually(lambda: list(site.folder.glob("outputs/runs/*/checkpoints/*/*/complete.json")))
    os.kill(json.loads((site.run() / "starts/001.0001.json").read_text())["pid"], signal.SIGKILL)


def weights_are_those_of(run: Path, other: Path) -> bool:
    ours, theirs = (load_file(folder / "model" / "model.safetensors") for folder in (run, other))
    return ours.keys() == theirs.keys() and all((ours[name] == theirs[name]).all() for name in ours)


def steps_of(run: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("mode", ["offline", "online"])
def test_a_preempted_run_goes_on_where_it_was(launched: Launched, mode: str) -> None:
    """Twice pushed out by a higher partition, it saves, SLURM puts it back, and it ends as if nothing had been.

    The run that tracks online is on the cluster without accounting.
    """
    here, urgents = launched.preempted[mode].site, launched.preempted[mode].urgent
    (job,) = here.recorded()
    here.wait("preempted", "TRAINED", 1)
    assert [here.cluster.field(urgent, "JobState") for urgent in urgents] == ["COMPLETED"] * 2
    assert int(here.cluster.field(job, "Restarts")) == 2
    if mode == "offline":
        assert here.cluster.recorded(job)[:2] == ["PREEMPTED"] * 2
    run = here.run()
    assert len(steps_per_life(here)) == 3
    assert steps_of(run) == list(range(1, STEPS + 1))  # none redone
    assert weights_are_those_of(run, launched.in_peace())
    assert [path.name for path in (run / "attempts").iterdir()] == ["001"]


@pytest.mark.parametrize("mode", ["offline", "online"])
def test_a_run_preempted_twice_is_one_wandb_run(launched: Launched, mode: str) -> None:
    """One curve with each step once, as the run logged it, in what wandb wrote offline and `sync` uploads, or online.

    The key is in no file, though jobs and trackers had it.
    """
    here, wandb = launched.preempted[mode].site, launched.preempted[mode].wandb
    run = here.run()
    here.wait("preempted", "TRAINED", 1)
    assert eventually(lambda: not set(here.recorded()) & set(here.cluster.slurm(*LIVE).split()))
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    logged = [(line["step"], line["loss"]) for line in lines]
    if mode == "offline":
        folders = sorted(run.glob("tracking/wandb/offline-run-*"))
        assert all(folder.name.endswith(f"-{run.name}") for folder in folders)
        assert history(folders[-1]) == logged
        assert "1 run of preempted uploaded" in here.launch("sync", "preempted")
    assert "0 runs of preempted uploaded" in here.launch("sync", "preempted")
    assert list(wandb.runs) == [run.name]
    told = wandb.runs[run.name]
    assert [(line["_step"], line["train/loss"]) for line in told.history] == logged
    assert [step for step, _ in logged] == list(range(1, STEPS + 1))
    assert "eval/kl" in told.summary
    assert files_holding(here.folder, KEY) == []


def test_kill_9_is_a_failure_that_resume_mends(launched: Launched) -> None:
    """SLURM says how it ended; resume goes on from the last checkpoint, and the weights are those of a run in peace."""
    here, run = launched.killed, launched.killed.run()
    here.wait("killed", "FAILED", 1)
    (state,) = here.status("killed")
    assert re.fullmatch(KILLED, str(state["reason"]))
    done = steps_of(run)[-1]
    quick = replace(here, variables=())
    output = quick.launch("resume", "killed")
    resumed_from = int(re.findall(r"from step (\d+)", output)[0])
    assert 0 <= done - resumed_from <= 20
    quick.wait("killed", "TRAINED", 1)
    job = AttemptDir(run / "attempts/002").job
    assert job is not None
    assert job.executor == "slurm"
    assert weights_are_those_of(run, launched.in_peace())


def test_a_run_longer_than_its_limit_is_requeued(launched: Launched) -> None:
    """Warned of the time limit, it saves and goes back into the queue under its own id, as often as it takes.

    The first warning is there before the process has imported anything, when a signal would end it.
    """
    here = launched.limit
    here.wait("limit", "TRAINED", 1)
    (job,) = here.recorded()
    restarts, run = int(here.cluster.field(job, "Restarts")), here.run()
    assert here.cluster.recorded(job)[:-1] == ["REQUEUED"] * restarts
    assert len((run / "attempts/001/requeues.jsonl").read_text().splitlines()) == restarts >= 2
    assert steps_of(run) == list(range(1, STEPS + 1))  # none redone
    assert weights_are_those_of(run, launched.in_peace())


def test_a_grid_on_the_cluster(launched: Launched, record_testsuite_property: Callable[..., None]) -> None:
    """Twelve runs of the three losses, packed six to a job, end TRAINED; the launcher had returned long before."""
    record_testsuite_property("launcher returned after seconds", launched.seconds)
    launched.grid.wait("grid", "TRAINED", 12)
    assert len({job.partition("_")[0] for job in launched.grid.recorded()}) == 3  # one evaluates what two nodes train
    assert len(launched.grid.jobs("grid")) == 3
    assert "12 skip" in launched.grid.launch("resume", "grid")
    log = launched.grid.launch("logs", str(launched.grid.status("grid")[0]["run_id"]), "--attempt", "1")
    assert "step 4/4" in log


def test_a_run_on_two_nodes_under_zero_3_equals_one_process(launched: Launched) -> None:
    """One of the twelve had a task on each of two nodes, and its weights are those of a run in one process."""
    here, single = launched.grid, launched.single
    here.wait("grid", "TRAINED", 12)
    single.wait("single", "TRAINED", 1)
    (run,) = (path for path in here.folder.glob("outputs/runs/tiny-ipo-beta0.1-*"))
    logs = [(run / "attempts" / "001" / f"rank{rank}.log").read_text() for rank in (0, 1)]
    assert [re.findall(r"rank \d of 2", log)[0] for log in logs] == ["rank 0 of 2", "rank 1 of 2"]
    assert len({re.findall(r"on (n\d)", log)[0] for log in logs}) == 2
    ours, theirs = (load_file(path / "model" / "model.safetensors") for path in (run, single.run()))
    assert ours.keys() == theirs.keys()
    assert max(float(abs(ours[name] - theirs[name]).max()) for name in theirs) < 1e-5


def test_apptainer_is_asked_for_the_jobs_command(launched: Launched) -> None:
    """With its folders, in the job's environment: its table, its training.

    A stand-in answers, which runs the command on the node itself. That the weights are right is the test above. That
    anything runs inside an image is not tried, nor pyxis, which is a plugin.
    """
    here = launched.single
    here.wait("single", "TRAINED", 1)
    outputs, pairs = here.folder / "outputs", launched.grid.folder / "pairs"
    (job,) = here.recorded()
    asked = (here.folder.parent / "apptainer" / job).read_text().splitlines()
    assert asked[:-1] == ["exec", "--bind", f"{outputs}:{outputs},{pairs}:{pairs}", IMAGE, sys.executable, "-P", "-m",
                          "launcher.worker.shielded", "-u", "-m", "launcher.worker.start"]  # fmt: skip
    assert Path(asked[-1]).is_relative_to(outputs / "sweeps" / "single" / "jobs")
    environment = (here.folder.parent / "apptainer" / f"{job}.environment").read_text().splitlines()
    assert {"SITE=here", f"SLURM_JOB_ID={job}", "SLURM_PROCID=0", "SLURM_NTASKS=1"} <= set(environment)
    assert any(line.startswith(f"PYTHONPATH={outputs}/sweeps/single/code/") for line in environment)


def test_the_reference_pass_is_made_once_for_the_whole_sweep(launched: Launched) -> None:
    """However many jobs, nodes and ranks: every pair went through the reference model exactly once."""
    here = launched.grid
    here.wait("grid", "TRAINED", 12)
    logs = [path.read_text() for path in here.folder.glob("outputs/**/*") if path.suffix in (".log", ".out")]
    measured = [
        int(done) for log in logs for done, all_ in re.findall(r"reference pass: (\d+) of (\d+)", log) if done == all_
    ]
    pairs = sum(len(path.read_text().splitlines()) for path in (here.folder / "pairs").glob("*.jsonl"))
    assert sum(measured) == pairs == 38
    assert len([path for path in here.folder.glob("outputs/cache/reference/*") if path.is_dir()]) == 1


def test_a_run_is_relaunched_by_hand(launched: Launched) -> None:
    """sbatch slurm/run.sbatch RUN_DIR needs no launcher: the job is the run's next attempt, whatever options it has.

    Of a run with a task on each of two nodes, all tasks make the same attempt.
    """
    here, environment = launched.grid, {**launched.grid.environment, "PREFSWEEP_PYTHON": sys.executable}
    here.wait("grid", "TRAINED", 12)
    assert eventually(lambda: not set(here.recorded()) & set(here.cluster.slurm(*LIVE).split()))  # they evaluate
    single = here.folder / "outputs" / "runs" / str(here.status("grid")[1]["run_id"])
    (double,) = here.folder.glob("outputs/runs/tiny-ipo-beta0.1-*")
    jobs = {}
    for run, options in ((single, ["--job-name=by hand"]), (double, ["--nodes=2", "--ntasks-per-node=1"])):
        (run / "result.json").unlink()
        command = ["sbatch", "--parsable", *options, REPOSITORY / "slurm/run.sbatch", run]
        done = subprocess.run(command, cwd=here.folder, env=environment, capture_output=True, text=True, check=True)
        jobs[run] = done.stdout.strip()
    here.wait("grid", "TRAINED", 12)
    for run, number in (
        (single, 2),
        (double, 3),
    ):  # the second attempt at the double one evaluates what the first trained
        job = AttemptDir(run / f"attempts/{number:03d}").job
        assert job is not None
        assert (job.executor, job.job_id) == ("slurm", jobs[run])
        assert not (run / f"attempts/{number + 1:03d}").exists()


def test_run_sbatch_names_a_python_without_prefsweep(launched: Launched) -> None:
    """As where SBATCH_EXPORT keeps the user's PATH from the job: what helps, and no traceback."""
    here = launched.grid
    command = ["sbatch", "--wait", "--output=by-hand.log", REPOSITORY / "slurm/run.sbatch", "outputs/runs/none"]
    environment = {**here.environment, "SBATCH_EXPORT": "NONE"}
    done = subprocess.run(command, cwd=here.folder, env=environment, capture_output=True, text=True, check=False)
    said = (here.folder / "by-hand.log").read_text()
    assert done.returncode == 2
    assert "has no prefsweep: name one that has in PREFSWEEP_PYTHON" in said
    assert "Traceback" not in said


def test_a_failing_run_shows_its_traceback(launched: Launched) -> None:
    """status has the reason and the last lines of the traceback, logs all of it."""
    here = launched.grid
    here.launch(*TINY, "sweep=failing", "trainer.learning_rate=1e30", "trainer.max_steps=4")
    here.wait("failing", "FAILED", 1)
    text = here.launch("status", "failing")
    assert "lower the learning rate" in text
    assert re.search(r"TrainingError: step \d+: .*\n", text)
    reason = str(here.status("failing")[0]["reason"])
    assert re.match(r"step \d+: the (loss|gradient) is ", reason), reason
    assert "Traceback" in here.launch("logs", str(here.status("failing")[0]["run_id"]))


@pytest.mark.parametrize("mode", ["offline", "online"])
def test_doctor_looks_at_a_node(launched: Launched, mode: str) -> None:
    """A job says what a run would find there: a folder that both see, the versions, the GPUs that torch sees."""
    here = replace(launched.preempted[mode].site, variables=())
    text = here.launch("doctor", "--probe", "cluster.gpus_per_node=0", "--wait", "250")
    assert re.search(r"probe job +ran on n\d", text)
    assert re.search(r"outputs on n\d +shared and writable, \d[\d.]* [GT]B free", text)
    assert re.search(rf"Python on n\d +{platform.python_version()}, torch {re.escape(version('torch'))}", text)
    assert re.search(r"GPU on n\d +none; torch is built for the CPU alone", text)
    assert not list(here.folder.rglob("prefsweep-doctor*"))


@pytest.mark.parametrize("mode", ["offline", "online"])
def test_doctor_names_what_keeps_a_job_from_a_node(launched: Launched, mode: str) -> None:
    """SLURM's refusal, in one line; a job that gets no node in time is taken back."""
    here = replace(launched.preempted[mode].site, variables=())
    refused = here.launch("doctor", "--probe", "cluster.partition=none-such", code=1)
    assert "invalid partition" in refused.splitlines()[-1]
    late = here.launch("doctor", "--probe", "+cluster.extra.hold=true", "--wait", "1", code=1)
    assert late.splitlines()[-1] == "prefsweep: sbatch: no answer within 1 s"
    queue = here.cluster.slurm("squeue", "-h", "-o", "%j %T")
    assert not re.search(r"prefsweep-doctor\S+ PENDING", queue)
