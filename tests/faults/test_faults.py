"""A short form of `make faults`: some kinds of every sort, on sweeps of one rank, in about three minutes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import invariants
import numpy
import pytest
from invariants import (
    Doubles,
    Facts,
    Queue,
    Sayings,
    bad_reasons,
    written_by,
    wrong_losses,
    wrong_publication,
    wrong_weights,
)
from living import Rank
from reading import weights_of
from safetensors.numpy import save_file
from slurm_cluster import why_not_here
from waiting import LONGEST_WAIT, eventually
from world import GUEST, GUEST_UID

HERE = Path(__file__).parent
KINDS = ("rank gets SIGKILL", "rank raises", "main thread holds", "while it loads", "killed at a write of a checkpoint",
         "slurmctld restarts", "scancel of a task", "preemption", "squeue has a banner", "sbatch does it and fails",
         "launcher gets SIGKILL", "launcher is killed at any system call", "another user asks", "result.json is torn",
         "checkpoint has other bytes", "ESTALE under")  # fmt: skip
SHORT = ("--seed", "1", "--faults", "16", "--alive", "2", "--steps", "40", "--step-seconds", "0.3",
         "--shapes", "array", "disk", "--only", *KINDS)  # fmt: skip


def faults(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(HERE), *arguments], capture_output=True, text=True, timeout=LONGEST_WAIT, check=False
    )


@pytest.mark.long
@pytest.mark.slurm
@pytest.mark.skipif(why_not_here() is not None, reason=why_not_here() or "a dev cluster can run here")
def test_nothing_is_lost_under_faults() -> None:
    """Each run ends with the weights that it has in peace, and status never says what is false."""
    done = faults(*SHORT)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]


def test_every_kind_is_named() -> None:
    """--list names them; a word that is in none of the names is refused."""
    assert len(set(faults("--list").stdout.splitlines())) > 100
    assert faults("--only", "no such fault").returncode == 2


def write(path: Path, value: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def rank(pid: int, *, stopped: bool = False) -> Rank:
    return Rank(pid, 1, stopped, "", f"n{pid}", str(pid), "tiny", "001", 0)


def test_a_fact_that_changes_or_goes_is_told(tmp_path: Path) -> None:
    """Written anew with the same content it is the same; what we have damaged ourselves is excused."""
    facts, result = Facts(), write(tmp_path / "runs/tiny/result.json", {"steps": 1})
    failure = write(tmp_path / "runs/tiny/attempts/001/failure.json", {"reason": "x"})
    assert facts.broken(tmp_path) == []
    result.unlink()
    write(result, {"steps": 1})
    assert facts.broken(tmp_path) == []
    write(result, {"steps": 22})
    failure.unlink()
    assert [said.rpartition(": ")[2] for said in facts.broken(tmp_path)] == [
        "a fact has changed since it was written", "a fact is gone"]  # fmt: skip
    facts.excuse(result)
    write(result, {"steps": 333})
    assert facts.broken(tmp_path) == []


def test_two_processes_of_one_run_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """After as long as the fence allows, and where none of them is stopped."""
    doubles = Doubles()
    assert doubles.broken([rank(1), rank(2)]) == []
    monkeypatch.setattr(invariants, "FENCE_SECONDS", -1)
    assert doubles.broken([rank(1), rank(2, stopped=True)]) == []
    (said,) = doubles.broken([rank(1), rank(2)])
    assert "job 1 on n1" in said
    assert "job 2 on n2" in said


def test_a_false_status_is_told(tmp_path: Path) -> None:
    """LOST while a process goes on training, three times running; TRAINED without weights."""
    sayings, log = Sayings(), tmp_path / "runs/tiny/metrics.jsonl"
    log.parent.mkdir(parents=True)
    told = []
    for step in (1, 2, 3):
        with log.open("a") as file:
            file.write(json.dumps({"step": step, "loss": 0.5}) + "\n")
        run = {"run_id": "tiny", "status": "LOST", "reason": "gone"}
        told.append(sayings.broken("sweep", [run], [rank(1)], [rank(1)], tmp_path))
    assert [len(said) for said in told] == [0, 0, 1]
    run = {"run_id": "tiny", "status": "TRAINED", "reason": None}
    assert [len(sayings.broken("sweep", [run], [], [], tmp_path)) for _ in range(3)] == [0, 0, 1]


def test_a_job_that_no_file_names_is_told(tmp_path: Path) -> None:
    """As are two that train one run."""
    queue = Queue()
    for number in (1, 2):
        write(tmp_path / f"runs/tiny/attempts/00{number}/job.json", {"job_id": f"{number}"})
    told = [queue.broken(tmp_path, {"1", "2", "3"}) for _ in range(3)]
    write(tmp_path / "sweeps/s/jobs/b/work.json", {"jobs": [{"attempts": [str(tmp_path / "runs/other/attempts/001")]}]})
    write(tmp_path / "sweeps/s/jobs/b/jobs.json", {"jobs": [{"job_id": "4"}]})
    assert queue.broken(tmp_path, {"4"}) == []
    assert told == [[], [], ["3: a job that no file names", "tiny: 2 jobs train it, ['1', '2']"]]
    assert Queue().broken(tmp_path, {"1"}) == []


def test_a_job_goes_on_with_its_other_runs_where_one_has_failed(tmp_path: Path) -> None:
    """Another job may train that one meanwhile."""
    for number in (1, 2):
        write(tmp_path / f"runs/tiny/attempts/00{number}/job.json", {"job_id": f"{number}"})
    write(tmp_path / "runs/tiny/attempts/001/failure.json", {})
    queue = Queue()
    assert [queue.broken(tmp_path, {"1", "2"}) for _ in range(3)] == [[], [], []]


def test_jobs_of_two_clusters_are_told_apart_though_their_numbers_are_the_same(tmp_path: Path) -> None:
    """One whose record names no cluster is of the first."""
    queue = Queue()
    write(tmp_path / "runs/tiny/attempts/001/job.json", {"job_id": "1"})
    write(tmp_path / "runs/tiny/attempts/002/job.json", {"job_id": "1", "cluster": "there"})
    told = [queue.broken(tmp_path, {"here/1", "there/1", "there/2"}, "here") for _ in range(3)]
    assert told[2] == ["there/2: a job that no file names", "tiny: 2 jobs train it, ['here/1', 'there/1']"]
    assert Queue().broken(tmp_path, {"there/1"}, "here") == []


@pytest.fixture(scope="module", name="kill_at")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("shims") / "kill_at"
    command = ("gcc", HERE / "shims/kill_at.c", "-o", program)
    subprocess.run(command, check=True)
    return program


def within(program: Path, call: int, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program, str(call), *command], capture_output=True, text=True, timeout=120, check=False)


def test_a_command_is_killed_before_any_of_its_system_calls(kill_at: Path) -> None:
    """All are counted; before the last one, its exit, all else is done, and behind it nobody is killed."""
    command = ("/bin/sh", "-c", "echo a; echo b; exit 7")
    whole = within(kill_at, 0, *command)
    calls = int(whole.stderr.removeprefix("kill_at: ").removesuffix(" calls\n"))
    assert (whole.returncode, whole.stdout) == (7, "a\nb\n")
    killed = [within(kill_at, call, *command) for call in range(1, calls + 2)]
    assert [done.returncode for done in killed] == [-signal.SIGKILL] * calls + [7]
    said = [done.stdout for done in killed]
    assert said == sorted(said)
    assert set(said) == {"", "a\n", "a\nb\n"}


def test_a_command_and_who_traces_it_end_with_each_other(kill_at: Path) -> None:
    """Its threads are traced too, and it has the pid and the signals that it would have alone."""
    code = "import threading, time; threading.Thread(target=time.sleep, args=(600,)).start(); print(1, flush=True)"
    for victim in ("tracer", "command"):
        with subprocess.Popen([kill_at, "0", sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            process.stdout.readline()
            status = Path(f"/proc/{process.pid}/status").read_text()
            tracer = int(status.partition("TracerPid:")[2].split()[0])
            os.kill(tracer if victim == "tracer" else process.pid, signal.SIGKILL)
            assert process.wait(60) == -signal.SIGKILL
        there = Path(f"/proc/{tracer}/stat")
        assert eventually(lambda there=there: not there.exists() or ") Z " in there.read_text(), seconds=60)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_a_guest_reads_and_does_not_write(tmp_path: Path) -> None:
    """Also what is closed to it, as root's Python may be; what it has made is told."""
    secret = write(tmp_path / "closed/secret", 1)
    secret.chmod(0o600)
    secret.parent.chmod(0o700)
    made = tmp_path / "closed/made"
    for command, code in ((("cat", secret), 0), (("touch", made), 1), (("rm", "-f", secret), 1)):
        assert subprocess.run([*GUEST, *command], capture_output=True, check=False).returncode == code
    assert written_by(GUEST_UID, tmp_path) == []
    os.chown(write(made, 1), GUEST_UID, GUEST_UID)
    assert written_by(GUEST_UID, tmp_path) == [f"{made}: made by user {GUEST_UID}, who may not write there"]


@pytest.mark.parametrize("reason", [None, "", "RuntimeError", "Traceback (most recent call last):", "KeyError: "])
def test_a_reason_that_says_nothing_is_told(reason: str | None) -> None:
    """A name of an error alone is none."""
    assert len(bad_reasons([{"run_id": "tiny", "status": "FAILED", "reason": reason}])) == 1
    assert bad_reasons([{"run_id": "tiny", "status": "FAILED", "reason": "rank 1 was killed"}]) == []


def test_wrong_weights_and_losses_are_told(tmp_path: Path) -> None:
    """One bit of one weight suffices, and one step; published weights are compared with the run's own."""
    (tmp_path / "model").mkdir()
    save_file({"w": numpy.array([1.0, 2.0])}, tmp_path / "model/model.safetensors")
    true = weights_of(tmp_path / "model")
    assert wrong_weights(tmp_path, true) == []
    branches = {"ours": {"model.safetensors": (tmp_path / "model/model.safetensors").read_bytes()}}
    write(tmp_path / "revision.json", {"revision": "ours"})
    assert wrong_publication(tmp_path, branches) == []
    save_file({"w": numpy.array([1.0, numpy.nextafter(2.0, 3.0)])}, tmp_path / "model/model.safetensors")
    assert len(wrong_weights(tmp_path, true)) == len(wrong_publication(tmp_path, branches)) == 1
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 0.5}\n{"step": 2, "lo')
    assert wrong_losses(tmp_path, {1: 0.5}) == []
    assert len(wrong_losses(tmp_path, {1: 0.5, 2: 0.25})) == 1
