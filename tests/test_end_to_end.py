"""The smoke sweep as a user runs it: real processes, a real (tiny) model, every verb."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from by_hand import kl_by_hand
from conftest import Launch, clean_environment, sweep_of
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM
from waiting import LONGEST_WAIT, eventually

from launcher.store.output_folder import Store
from launcher.store.run_folder import AttemptDir
from launcher.worker.model import weights

TINY = ["model=tiny", "trainer=full", "dataset.train_pairs=96", "dataset.test_pairs=16", "evaluation.generations=4",
        "evaluation.max_new_tokens=4"]  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the smoke sweep has run to its end; tests copy it before they change it."""
    folder = tmp_path_factory.mktemp("smoke")
    command = [sys.executable, "-m", "launcher", "-m", "+sweeps=smoke"]
    done = subprocess.run(
        command, cwd=folder, env=clean_environment(), capture_output=True, text=True, timeout=LONGEST_WAIT, check=False
    )
    (folder / "stdout").write_text(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished / "outputs", tmp_path / "outputs")
    return tmp_path


def status(launch: Launch, *names: str) -> list[dict[str, object]]:
    done = launch("status", *names, "--json")
    assert done.returncode == 0, done.stderr
    runs: list[dict[str, object]] = json.loads(done.stdout)["runs"]
    return runs


def test_the_smoke_sweep_trains_and_reports(finished: Path) -> None:
    """Six runs over the three losses end TRAINED, with everything that the report needs of each."""
    rows = [json.loads(line) for line in (finished / "outputs/sweeps/smoke/results.jsonl").read_text().splitlines()]
    runs, bases = ([row for row in rows if row["kind"] == kind] for kind in ("run", "base"))
    assert len(runs) == 6
    assert len(bases) == 1
    sweep, store = sweep_of("+sweeps=smoke"), Store(finished / "outputs")
    for row in runs:
        assert row["status"] == "TRAINED"
        assert row["step"] == row["max_steps"] == 12
        assert [point["step"] for point in row["curve"]] == list(range(1, 13))
        for key in ("loss", "reward_accuracy", "reward_margin", "kl", "golden_reward"):
            assert isinstance(row["evaluation"][key], float)
        assert [s["prompt"] for s in row["samples"]] == [s["prompt"] for s in bases[0]["samples"]]
        (run,) = [run for run in sweep.runs if run.run_id == row["run_id"]]
        policy = AutoModelForCausalLM.from_pretrained(store.run(run.run_id).model)
        expected = kl_by_hand(run.config, policy, weights.load(run.config.model, store), store)
        assert row["evaluation"]["kl"] == pytest.approx(expected, rel=1e-3)
        assert expected > 1e-3
        assert row["command"].startswith("python -m launcher ")
    first = {row["loss_type"]: row["curve"][0]["loss"] for row in runs if row["beta"] == 0.5}
    assert first["sigmoid"] == pytest.approx(0.693147, abs=1e-5)  # log 2
    assert first["ipo"] == pytest.approx(1.0, abs=1e-5)  # (1 / (2 beta))^2
    assert first["kto_pair"] == pytest.approx(0.5, abs=1e-5)


def test_progress_is_told_while_it_runs(finished: Path) -> None:
    """Where there is no terminal, each change is a line: which run of how many, and its step."""
    text = (finished / "stdout").read_text()
    assert "6 runs, 6 submit" in text
    assert re.search(r"run \d of 6: tiny-", text)
    assert "6 of 6 runs done" in text


def test_shared_work_is_done_once(finished: Path) -> None:
    """One base model, one reference table, one evaluation of the untrained model for six runs."""
    cache = finished / "outputs" / "cache"
    for kind in ("models", "reference", "base", "datasets"):
        assert len([entry for entry in (cache / kind).iterdir() if not entry.name.startswith(".")]) == 1, kind


def test_optimizer_states_go_when_a_run_is_done(finished: Path) -> None:
    """What remains of a run is its model, its facts and its logs."""
    for run in (finished / "outputs/runs").iterdir():
        assert not (run / "checkpoints").exists()
        assert (run / "model" / "model.safetensors").exists()
        assert "step 12/12" in (run / "attempts/001/rank0.log").read_text()


def test_launching_again_submits_nothing(copied: Path, launch: Launch) -> None:
    """The second time says of each run why it is left alone, and starts no job."""
    before = sorted(str(path) for path in (copied / "outputs").rglob("attempts/*"))
    done = launch("-m", "+sweeps=smoke")
    assert done.returncode == 0
    assert done.stdout.count("finished") >= 6
    assert "6 runs, 6 skip" in done.stdout
    assert sorted(str(path) for path in (copied / "outputs").rglob("attempts/*")) == before


def test_adding_a_beta_and_deleting_a_result(copied: Path, launch: Launch) -> None:
    """A new beta is submitted alone; a run whose result is deleted runs again and ends with the same weights."""
    (victim,) = (copied / "outputs/runs").glob("tiny-ipo-beta0.1-*")
    weights = load_file(victim / "model" / "model.safetensors")
    (victim / "result.json").unlink()
    done = launch("-m", "+sweeps=smoke", "loss_type=ipo", "beta=0.1,0.5,0.9")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 runs, 1 skip, 2 submit" in done.stdout
    again = load_file(victim / "model" / "model.safetensors")
    assert all((weights[name] == again[name]).all() for name in weights)
    job = AttemptDir(victim / "attempts/002").job
    assert job is not None
    assert job.executor == "local"
    assert len(status(launch, "smoke")) == 7


def test_dry_run_writes_nothing(launch: Launch, tmp_path: Path) -> None:
    """dry_run=true shows the plan and one job's script, and leaves the folder empty."""
    done = launch("-m", "+sweeps=smoke", "dry_run=true")
    assert done.returncode == 0
    assert "submitit" in done.stdout
    assert list(tmp_path.iterdir()) == []
    plan = json.loads(launch("-m", "+sweeps=smoke", "dry_run=true", "--json").stdout)
    assert [run["action"] for run in plan["runs"]] == ["submit"] * 6


def test_a_failing_run_does_not_stop_the_next(launch: Launch) -> None:
    """A run that fails is recorded with its reason, the next one goes on, and the exit code says that one failed."""
    done = launch("-m", *TINY, "trainer.max_steps=4", "trainer.learning_rate=1e30,1e-3", "sweep=mixed")
    assert done.returncode == 1, done.stdout + done.stderr
    failed, trained = status(launch, "mixed")
    assert failed["status"] == "FAILED"
    assert "finite" in str(failed["reason"]) or "nan" in str(failed["reason"])
    assert trained["status"] == "TRAINED"
    log = launch("logs", str(failed["run_id"]))
    assert "Traceback" in log.stdout


SLOW = [*TINY, "trainer.max_steps=300", "trainer.learning_rate=1e-3", "checkpoint.every=5", "sweep=slow"]


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "launcher", *arguments]
    with (folder / "launcher.log").open("w") as output:
        return subprocess.Popen(command, cwd=folder, env=clean_environment(), stdout=output, stderr=output, text=True)


def wait_for_checkpoint(folder: Path) -> Path:
    """The folder of the run that has one."""
    markers = "outputs/runs/*/checkpoints/*/checkpoint-*/complete.json"
    assert eventually(lambda: [*folder.glob(markers)]), (folder / "launcher.log").read_text()
    (run,) = folder.glob("outputs/runs/*")
    return run


@pytest.mark.parametrize("loss", ["ipo"])
def test_kill_9_then_resume_gives_the_same_weights(launch: Launch, tmp_path: Path, loss: str) -> None:
    """Killed in the middle, a run goes on from its last checkpoint and ends bit-identical to one left in peace."""
    launcher = start(tmp_path, "-m", *SLOW, f"loss_type={loss}")
    run = wait_for_checkpoint(tmp_path)
    os.kill(json.loads((run / "starts/001.0001.json").read_text())["pid"], signal.SIGKILL)
    assert launcher.wait(timeout=LONGEST_WAIT) == 1
    (state,) = status(launch, "slow")
    assert state["status"] == "FAILED"
    done = launch("resume", "slow")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"resume +from step \d+", done.stdout)
    log = (run / "attempts/002/rank0.log").read_text()
    first = int(re.findall(r"step (\d+)/300", log)[0])
    assert first > 1
    peaceful = launch("-m", *SLOW, f"loss_type={loss}", "output_dir=peaceful")
    assert peaceful.returncode == 0
    ours = load_file(run / "model" / "model.safetensors")
    theirs = load_file(tmp_path / "peaceful" / "runs" / run.name / "model" / "model.safetensors")
    assert ours.keys() == theirs.keys()
    assert all((ours[name] == theirs[name]).all() for name in ours)


def test_ctrl_c_stops_at_a_step_and_resume_completes(launch: Launch, tmp_path: Path) -> None:
    """Ctrl-C asks the runs to stop, they save and say so; resume completes them without repeating a step."""
    launcher = start(tmp_path, "-m", *SLOW)
    run = wait_for_checkpoint(tmp_path)
    launcher.send_signal(signal.SIGINT)
    assert launcher.wait(timeout=LONGEST_WAIT) == 1
    assert eventually(lambda: status(launch, "slow")[0]["status"] != "RUNNING")
    (state,) = status(launch, "slow")
    assert state["status"] == "CANCELLED"
    stopped_at = state["step"]
    done = launch("resume", "slow")
    assert done.returncode == 0, done.stdout + done.stderr
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 301)), f"stopped at {stopped_at}"


def test_cancel_and_run_by_hand(launch: Launch, tmp_path: Path) -> None:
    """cancel stops a run from another terminal; `run` completes it in the foreground."""
    launcher = start(tmp_path, "-m", *SLOW)
    run = wait_for_checkpoint(tmp_path)
    busy = launch("run", str(run))
    assert busy.returncode == 2
    assert "RUNNING" in busy.stderr
    done = launch("cancel", "slow", run.name[:12])
    assert done.returncode == 0
    assert "1 run of slow cancelled" in done.stdout
    assert launcher.wait(timeout=LONGEST_WAIT) == 1
    by_hand = launch("run", str(run))
    assert by_hand.returncode == 0, by_hand.stdout + by_hand.stderr
    assert "step 300/300" in by_hand.stdout
    assert status(launch, "slow")[0]["status"] == "TRAINED"


def test_the_report_of_a_sweep(copied: Path, launch: Launch) -> None:
    """collect and analysis make tables, figures and one page from a sweep folder alone."""
    assert launch("collect", "smoke").returncode == 0
    done = launch("outputs/sweeps/smoke", module="analysis")
    assert done.returncode == 0, done.stderr
    report = copied / "outputs/sweeps/smoke/report"
    page = (report / "report.html").read_text()
    assert all(run.name in page for run in (copied / "outputs/runs").iterdir())
    assert list((report / "figures").glob("*.svg"))
    assert (report / "tables" / "runs.csv").exists()
