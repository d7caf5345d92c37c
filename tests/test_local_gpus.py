"""One machine with several GPUs and no queue: jobs take free GPUs, and give them back. The GPUs are made up."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import uuid
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from conftest import REPOSITORY, Launch, sweep_of
from finished_runs import trained_runs
from ranks import EXTENSIONS
from safetensors.torch import load_file
from waiting import eventually
from worker_fixtures import write_pairs

from launcher.cli.arguments import DONE
from launcher.cli.main import main
from launcher.cluster.local import LocalScheduler, job_environment
from launcher.config import Cluster
from launcher.machine import dealing
from launcher.machine import gpus as gpus_of_machine
from launcher.machine.gpus import identities, visible_gpus
from launcher.runs.run_state import states_of
from launcher.store.facts import Job
from launcher.store.files import read_fact, read_lines
from launcher.store.output_folder import Store
from launcher.store.run_folder import AttemptDir, RunDir
from launcher.submission.decide import decide
from launcher.submission.plan import Plan, plan_batches
from launcher.submission.submit import act
from launcher.worker import job
from launcher.worker.interruption import StopRequest
from launcher.worker.outcome import Kind, Outcome

# In a job's ranks: an attempt says what it sees and when, as long as SECONDS, and trains nothing.
STAND_IN = """
import json, os, time
from pathlib import Path

if "SUBMITIT_LOCAL_GLOBALID" in os.environ:
    from launcher.worker import job
    from launcher.worker.outcome import Kind, Outcome

    def make_attempt(attempt, store, stop):
        seen = {name: os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", "SUBMITIT_LOCAL_JOB_ID")}
        seen |= {"began": time.monotonic(), "pid": os.getpid()}
        number = os.environ["SUBMITIT_LOCAL_GLOBALID"]
        (attempt.path / f"at-work-{number}").write_text(json.dumps(seen))
        until = time.monotonic() + float(os.environ["SECONDS"])
        while time.monotonic() < until and not stop():
            time.sleep(0.05)
        made = attempt.path / f"seen-{number}"
        made.with_suffix(".new").write_text(json.dumps(seen | {"ended": time.monotonic()}))
        made.with_suffix(".new").rename(made)
        return Outcome(Kind.DONE)

    job.make_attempt = make_attempt
"""
TINY = ("model=tiny", "trainer=full", "cluster=local", "hub=off", "tracking=off")


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Four GPUs that nobody else on this machine has made up."""
    names = [f"GPU-{uuid.uuid4()}" for _ in range(4)]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ",".join(names))
    return names


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Job]]:
    """Attempts are made up, too; the jobs that a test adds here are ended with it."""
    (tmp_path / "stand_in").mkdir()
    (tmp_path / "stand_in" / "sitecustomize.py").write_text(STAND_IN)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'stand_in'}:{REPOSITORY}")
    monkeypatch.setenv("SECONDS", "0.5")
    jobs: list[Job] = []
    yield jobs
    LocalScheduler().cancel(jobs)


def launched(store: Store, *words: str) -> list[Job]:
    scheduler, sweep = LocalScheduler(), sweep_of(*TINY, *words)
    return act(plan_batches(sweep, decide(sweep, store, scheduler), store, scheduler), store, scheduler, None)


def planned(store: Store, *words: str) -> Plan:
    scheduler, sweep = LocalScheduler(), sweep_of(*TINY, *words)
    return plan_batches(sweep, decide(sweep, store, scheduler), store, scheduler)


def files(stores: Sequence[Store], name: str) -> list[dict[str, Any]]:
    paths = [path for store in stores for path in store.root.glob(f"runs/*/attempts/*/{name}")]
    return [json.loads(text) for path in paths if (text := path.read_text())]


def free(gpus: Sequence[str]) -> bool:
    return not set(gpus) & dealing.held()


# ------------------------------------------------------------------------------------------------ which GPUs


@pytest.mark.parametrize(
    ("named", "visible"),
    [
        ("3,5", ["3", "5"]),
        ("", []),
        ("GPU-8932f937-d72c-4106-c12f-20bd9faed9f6, 1", ["GPU-8932f937-d72c-4106-c12f-20bd9faed9f6", "1"]),
        ("MIG-GPU-8932f937/1/0,MIG-a", ["MIG-GPU-8932f937/1/0", "MIG-a"]),
        ("0,-1,1", ["0"]),
        ("00, 01,1", ["0", "1"]),
        ("NoDevFiles", []),
    ],
)
def test_visible_gpus_are_those_that_the_user_left(
    monkeypatch: pytest.MonkeyPatch, named: str, visible: list[str]
) -> None:
    """CUDA_VISIBLE_DEVICES holds for jobs too, in all its notations, and up to a name that is none, as for CUDA."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert visible_gpus() == visible


@pytest.mark.parametrize(("named", "visible"), [(None, ["0", "1"]), ("1", ["1"]), ("1,7,0", ["1"]), ("7", [])])
def test_an_index_that_the_machine_does_not_have_ends_the_list(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, named: str | None, visible: list[str]
) -> None:
    """As for CUDA: a variable from another machine deals no run to a GPU that is not there."""
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    monkeypatch.setattr("launcher.machine.gpus.DEVICES", tmp_path)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if named is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert visible_gpus() == visible


def test_a_gpu_without_a_device_file_is_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Below WSL2 nvidia-smi tells of it; one that nobody tells of is left to torch, which may find it."""
    monkeypatch.setattr("launcher.machine.gpus.DEVICES", tmp_path)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert visible_gpus() == []
    assert "CUDA_VISIBLE_DEVICES" not in job_environment(Cluster(gpus_per_node=1), {})
    assert job_environment(Cluster(gpus_per_node=0), {})["CUDA_VISIBLE_DEVICES"] == ""
    assert (
        job_environment(Cluster(gpus_per_node=1), {"CUDA_VISIBLE_DEVICES": "NoDevFiles"})["CUDA_VISIBLE_DEVICES"] == ""
    )
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "nvidia-smi").write_text("#!/bin/sh\nprintf 'GPU-aaaa-1\\nGPU-bbbb-2\\n'\n")
    (tmp_path / "bin" / "nvidia-smi").chmod(0o755)
    assert visible_gpus() == ["0", "1"]
    assert job_environment(Cluster(gpus_per_node=1), {})["CUDA_VISIBLE_DEVICES"] == "0,1"


def test_a_gpu_is_the_same_by_index_and_by_uuid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver tells the UUIDs in the order of the indices; without one a name stands for itself.

    One that is named twice is one GPU: no more ranks than there are GPUs are planned, and none is dealt twice.
    """
    asked = tmp_path / "nvidia-smi"
    asked.write_text("#!/bin/sh\nprintf 'GPU-aaaa-1\\nGPU-bbbb-2\\n'\n")
    asked.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert identities(["1", "GPU-bbbb", "MIG-c", "7"]) == {
        "1": "GPU-bbbb-2",
        "GPU-bbbb": "GPU-bbbb-2",
        "MIG-c": "MIG-c",
        "7": "7",
    }
    for named, visible in (
        ("0,GPU-aaaa-1,1", ["0", "1"]),
        ("GPU-aa,GPU-aaaa-1", ["GPU-aa"]),
        ("MIG-c,1", ["MIG-c", "1"]),
    ):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
        assert visible_gpus() == visible
    asked.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed'; exit 9\n")
    assert identities(["1", "GPU-b"]) == {"1": "1", "GPU-b": "GPU-b"}


def test_the_driver_tells_which_gpus_there_are_where_no_program_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Launches with and without nvidia-smi call a GPU the same; one that was never used has no name."""
    for slot, name in (("0000:81:00.0", "bbbb-2"), ("0000:01:00.0", "aaaa-1")):
        (tmp_path / slot).mkdir()
        (tmp_path / slot / "information").write_text(
            f"Model: \t NVIDIA H\nGPU UUID: \t GPU-{name}\nDevice Minor: \t 0\n"
        )
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(gpus_of_machine, "DRIVER", tmp_path)
    assert identities(["1", "GPU-aa"]) == {"1": "GPU-bbbb-2", "GPU-aa": "GPU-aaaa-1"}
    (tmp_path / "0000:81:00.0" / "information").write_text("GPU UUID: \t GPU-????????-????\n")
    assert identities(["1"]) == {"1": "1"}


# ------------------------------------------------------------------------------------------------ how many jobs


@pytest.mark.parametrize(
    ("visible", "words", "jobs", "at_once", "slots"),
    [
        (4, (), [3, 3, 3, 3], 4, None),
        (4, ("cluster.gpus_per_node=2",), [6, 6], 2, None),
        (4, ("cluster.gpus_per_node=3",), [12], 1, None),
        (4, ("cluster.max_parallel=2",), [6, 6], 2, 2),
        (4, ("cluster.max_parallel=9",), [3, 3, 3, 3], 4, 9),
        (4, ("cluster.runs_per_job=1",), [1] * 12, 4, None),
        (4, ("cluster.gpus_per_node=0",), [12], 1, 1),
        (0, (), [12], 1, 1),
        (0, ("cluster.max_parallel=3",), [4, 4, 4], 3, 3),
    ],
)
def test_runs_are_divided_among_as_many_jobs_as_work_at_a_time(
    store: Store,
    gpus: list[str],
    monkeypatch: pytest.MonkeyPatch,
    visible: int,
    words: tuple[str, ...],
    jobs: list[int],
    at_once: int,
    slots: int | None,
) -> None:
    """As many as there are GPUs for, by default; without a GPU one."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ",".join(gpus[:visible]))
    words = ("seed=range(0,12)", "trainer.micro_batch_size=1", "trainer.batch_size=12", *words)
    plan = planned(store, *words)
    assert [len(runs) for batch in plan.batches for runs in batch.jobs] == jobs
    assert plan.at_once == at_once
    assert LocalScheduler().slots(plan.batches[0].batch.resources) == slots


def test_the_plan_says_how_many_work_at_a_time(launch: Launch, gpus: list[str]) -> None:
    """Where it is more than one, or a run takes several GPUs."""
    assert len(gpus) == 4
    shown = launch("-m", *TINY, "seed=1,2,3", "dry_run=true", "cluster.gpus_per_node=2", "trainer.micro_batch_size=4")
    assert "up to 2 jobs at a time on this machine, with 2 GPUs each" in shown.stdout, shown.stdout + shown.stderr


# ------------------------------------------------------------------------------------------------ who has which


def test_twelve_jobs_of_two_launchers_share_four_gpus(tmp_path: Path, gpus: list[str], stand_in: list[Job]) -> None:
    """Each sees one GPU, all are used, and no two jobs have one at a time, though their output folders differ."""
    stores = [Store(tmp_path / name) for name in ("one", "other")]
    for store in stores:
        stand_in += launched(store, "seed=range(0,6)", "cluster.runs_per_job=1")
    assert eventually(lambda: len(files(stores, "seen-0")) == 12)
    times = defaultdict(list)
    for seen in files(stores, "seen-0"):
        times[seen["CUDA_VISIBLE_DEVICES"]].append((seen["began"], seen["ended"]))
    assert sorted(times) == sorted(gpus)
    for intervals in map(sorted, times.values()):
        assert all(before[1] < after[0] for before, after in itertools.pairwise(intervals))
    assert eventually(lambda: free(gpus))


@pytest.mark.parametrize("victim", ["SUBMITIT_LOCAL_JOB_ID", "pid"])
def test_a_job_that_is_killed_gives_its_gpus_back(
    store: Store, gpus: list[str], stand_in: list[Job], monkeypatch: pytest.MonkeyPatch, victim: str
) -> None:
    """By -9, the job or its only process: the other ends with it, and who waited for a GPU has it."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus[0])
    monkeypatch.setenv("SECONDS", "600")
    stand_in += launched(store, "seed=1,2", "cluster.runs_per_job=1")
    assert eventually(lambda: files([store], "at-work-0"))
    (seen,) = files([store], "at-work-0")
    assert dealing.held() >= {gpus[0]}
    os.kill(int(seen[victim]), signal.SIGKILL)
    assert eventually(lambda: len(files([store], "at-work-0")) == 2)
    assert not psutil.pid_exists(int(seen["pid"])) or psutil.Process(int(seen["pid"])).status() == "zombie"


def test_ranks_share_the_gpus_of_their_job(
    store: Store, gpus: list[str], stand_in: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All ranks see them in one order, and hold them: as long as one of them lives, nobody else has them."""
    monkeypatch.setenv("SECONDS", "600")
    stand_in += launched(store, "seed=1", "cluster.gpus_per_node=3", "trainer.micro_batch_size=1",
                         "trainer.batch_size=3")  # fmt: skip
    assert eventually(lambda: len(files([store], "at-work-*")) == 3)
    seen = files([store], "at-work-*")
    assert {each["CUDA_VISIBLE_DEVICES"] for each in seen} == {",".join(gpus[:3])}
    held = Path("/proc/net/unix").read_text()
    for each in seen:
        assert all(f"@prefsweep/gpu/{gpu}/{each['pid']}" in held for gpu in gpus[:3])
    assert free(gpus[3:])


def test_who_waits_for_a_gpu_can_be_stopped(
    store: Store, gpus: list[str], stand_in: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says what it waits for, and ends at once, with its run CANCELLED."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus[0])
    dealing.hold({gpus[0]: gpus[0]})
    (job,) = stand_in[:] = launched(store, "seed=1")
    log = Path(str(job.log))
    waits = f"waiting for 1 of the GPUs {gpus[0]} to be free"
    assert eventually(lambda: log.exists() and waits in log.read_text())
    (state,) = states_of([RunDir(path) for path in store.root.glob("runs/*")], LocalScheduler())
    assert state.reason == f"{waits}; its job has not come to it yet"
    with log.open("a") as more:
        more.write("run 1 of 1\n")
    assert LocalScheduler().states([job])[job.job_id].reason is None
    LocalScheduler().cancel([job])
    (run,) = store.root.glob("runs/*")
    (attempt,) = RunDir(run).attempts()
    assert eventually(attempt.failure_file.exists)
    assert (read_fact(attempt.failure_file) or {})["reason"] == "stopped by SIGTERM before it was started"


def test_a_run_by_hand_takes_a_free_gpu(
    store: Store, gpus: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It sees and holds no more than that one; where none is free it waits, and who stops it leaves no attempt."""
    (run,) = sweep_of(*TINY).runs
    attempt = AttemptDir(store.run(run.run_id).path / "attempts" / "001")
    seen: list[str] = []

    def make(*_: object) -> Outcome:
        seen.append(os.environ["CUDA_VISIBLE_DEVICES"])
        return Outcome(Kind.DONE)

    monkeypatch.setattr(job, "make_and_settle", make)
    monkeypatch.setattr(job, "_deadline", lambda *_: SimpleNamespace(end=lambda: None))
    monkeypatch.setattr(job, "settle_what_is_left", lambda *_: None)
    monkeypatch.setattr(job, "StopRequest", Stopped)
    dealing.hold({gpus[0]: gpus[0]})
    for visible, stopped in ((gpus[:2], False), (gpus[:2], True), (gpus[3:], False)):
        monkeypatch.setattr(Stopped, "is_asked", stopped)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ",".join(visible))
        choose = pytest.fail if stopped else lambda: attempt
        assert job.attempt_here(attempt.run, store, choose, deepspeed=False) is not stopped
    assert seen == [gpus[1], gpus[3]]
    assert "stopped by SIGTERM before" in capsys.readouterr().out
    assert free(gpus[2:3])
    assert not free(gpus[1:2])


def test_a_finished_run_waits_for_no_gpu(
    store: Store, gpus: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By hand, it ends at once without an attempt; one that is to be measured or published still is taken up."""
    made: list[RunDir] = []
    monkeypatch.setattr(job, "attempt_here", lambda run, *_, **__: made.append(run) or True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus[0])
    dealing.hold({gpus[0]: gpus[0]})
    (run,) = trained_runs(store)
    before = run.attempts()
    assert main(["run", str(run.path)]) == DONE
    assert f"{run.run_id}: is trained, measured and published as it was launched" in capsys.readouterr().out
    assert (run.attempts(), made) == (before, [])
    run.evaluation_file.unlink()
    (unpublished,) = trained_runs(store, "beta=0.3", "hub=folder", "hub.when=job", "sweep=u")
    for left in (run, unpublished):
        assert main(["run", str(left.path)]) == DONE
    assert made == [run, unpublished]


class Stopped(StopRequest):
    """Asked to stop, or not, by the time that it is looked at."""

    is_asked = True

    def listen(self) -> None:
        """To no signal of the tests' own process."""

    def __call__(self) -> bool:
        return self.is_asked


def test_ranks_end_together(tmp_path: Path) -> None:
    """Where one has failed and the others do not end by themselves, they are killed, when they had time to say why."""
    code = (
        "import sys, pathlib; from launcher.cluster import local_job\n"
        "local_job.GRACE_SECONDS = 0.5; local_job.Parent(pathlib.Path(sys.argv[1])).run()"
    )
    rank = "import os, time; rank = int(os.environ['SUBMITIT_LOCAL_GLOBALID']); time.sleep(600) if rank else exit(3)"
    environment = job_environment(Cluster()) | {
        "SUBMITIT_LOCAL_COMMAND": f'{sys.executable} -c "{rank}"', "SUBMITIT_LOCAL_NTASKS": "2",
        "SUBMITIT_LOCAL_TIMEOUT_S": "0", "SUBMITIT_LOCAL_SIGNAL_DELAY_S": "0", "SUBMITIT_STDERR_TO_STDOUT": "1",
        "SUBMITIT_LOCAL_WITH_SHELL": "", "PYTHONPATH": str(REPOSITORY),
    }  # fmt: skip
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=environment, timeout=120, check=True)


# ------------------------------------------------------------------------------------------------ the environment


def test_jobs_without_a_gpu_wait_patiently() -> None:
    """Their threads do not spin, unless the user has said how they wait; how many there are is left alone."""
    ours = {"OMP_NUM_THREADS": "7", "PREFSWEEP_GPUS": "2"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        expected = {"OMP_NUM_THREADS": "7", "CUDA_VISIBLE_DEVICES": ""}
        assert job_environment(Cluster(gpus_per_node=0), ours) == expected | {"OMP_WAIT_POLICY": "passive"}
        for said in ({"OMP_WAIT_POLICY": "active"}, {"GOMP_SPINCOUNT": "100"}, {"KMP_BLOCKTIME": "200"}):
            assert job_environment(Cluster(gpus_per_node=0), said) == said | {"CUDA_VISIBLE_DEVICES": ""}
        patch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
        taking = job_environment(Cluster(gpus_per_node=1), {})
        both = {"OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // 2))}  # of the two jobs that fit
        assert taking == {"CUDA_VISIBLE_DEVICES": "2,3", "PREFSWEEP_GPUS": "1"} | both
        assert job_environment(Cluster(gpus_per_node=0), {})["OMP_WAIT_POLICY"] == "passive"


def test_jobs_that_are_at_work_together_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has as many threads as its share, by GPUs or by max_parallel; one alone has all, unless the user says."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(16))

    def threads(gpus: str, ours: dict[str, str] | None = None, **cluster: int) -> str | None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
        return job_environment(Cluster(**cluster), ours or {}).get("OMP_NUM_THREADS")

    assert threads("", gpus_per_node=1) is None
    assert threads("", gpus_per_node=1, max_parallel=3) == "5"
    assert threads("", gpus_per_node=1, max_parallel=40) == "1"
    assert threads("", {"OMP_NUM_THREADS": "2"}, gpus_per_node=1, max_parallel=3) == "2"
    assert threads("0,1,2,3", gpus_per_node=2) == "4"  # two jobs of two ranks
    assert threads("0,1,2,3", gpus_per_node=2, max_parallel=1) is None


# ------------------------------------------------------------------------------------------------ two real ranks


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return write_pairs(tmp_path / "pairs")


GRID = (*TINY, "dataset=./pairs", "trainer.batch_size=8", "trainer.micro_batch_size=2", "trainer.max_length=64",
        "model.dtype=float32", "evaluation.generations=2", "evaluation.max_new_tokens=2", "sweep=s")  # fmt: skip
TWO = "cluster.gpus_per_node=2"


def run_in(folder: Path) -> RunDir:
    (path,) = (folder / "runs").glob("*")
    return RunDir(path)


@pytest.mark.long
def test_two_ranks_under_zero_3_end_with_the_weights_of_one_process(
    launch: Launch, tmp_path: Path, pairs: Path, gpus: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Started by a launch on this machine, which has GPUs for both; without any, a run of one GPU has the cores."""
    assert pairs.is_dir()
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(EXTENSIONS))
    done = launch(*GRID, TWO, "deepspeed=zero3", "trainer.max_steps=3", "output_dir=two")
    assert done.returncode == 0, done.stdout + done.stderr
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert launch(*GRID, "trainer.max_steps=3", "output_dir=one").returncode == 0
    two, one = run_in(tmp_path / "two"), run_in(tmp_path / "one")
    assert two.run_id == one.run_id
    assert "rank 1 of 2" in launch("logs", one.run_id, "--rank", "1", "--output-dir", "two").stdout
    mine, theirs = (load_file(run.model / "model.safetensors") for run in (two, one))
    assert max(float((mine[name] - theirs[name]).abs().max()) for name in theirs) < 1e-5
    assert (read_fact(two.evaluation_file) or {})["pairs"] == 6
    assert free(gpus)


@pytest.mark.long
def test_ranks_of_this_machine_stop_and_die_together(
    launch: Launch, tmp_path: Path, pairs: Path, gpus: list[str]
) -> None:
    """`cancel` reaches both, which save; of a rank that is killed the run says so, and its GPUs are free."""
    assert pairs.is_dir()
    words = (*GRID, TWO, "trainer.epochs=1000", "checkpoint.every=1000", "--json")
    run = at_work(launch, tmp_path, words, 3)
    assert launch("cancel", "s").returncode == 0
    assert eventually(lambda: free(gpus))
    (first,) = run.attempts()
    assert "stopped on request at step" in (read_fact(first.failure_file) or {})["reason"]
    assert json.loads(launch("status", "s", "--json").stdout)["runs"][0]["status"] == "CANCELLED"
    saved = run.last_checkpoint_step() or 0
    assert saved >= 3
    run = at_work(launch, tmp_path, words, saved + 3)
    (rank_1,) = [each for each in psutil.process_iter(["environ", "ppid"]) if is_rank_1(each, gpus)]
    rank_1.kill()
    assert eventually(lambda: free(gpus))
    (state,) = json.loads(launch("status", "s", "--json").stdout)["runs"]
    assert state["status"] == "FAILED"
    assert "rank 1" in state["reason"]


def at_work(launch: Launch, folder: Path, words: Sequence[str], step: int) -> RunDir:
    """The run, launched and come to that step."""
    assert launch(*words).returncode == 0
    run = run_in(folder / "outputs")
    assert eventually(lambda: any(line["step"] >= step for line in read_lines(run.metrics_file)))
    return run


def is_rank_1(process: psutil.Process, gpus: Sequence[str]) -> bool:
    """Whether it is the child of a job that has one of these GPUs, and the second one."""
    environment = process.info["environ"] or {}
    number, parent = (environment.get(name) for name in ("SUBMITIT_LOCAL_GLOBALID", "PREFSWEEP_PARENT"))
    visible = environment.get("CUDA_VISIBLE_DEVICES", "").split(",")
    return number == "1" and parent == str(process.info["ppid"]) and visible[0] in gpus
