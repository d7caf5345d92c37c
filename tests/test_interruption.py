"""Signals to a job's process, and what becomes of its work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import clean_environment
from waiting import LONGEST_WAIT

from launcher.cluster import node
from launcher.store.facts import Attempt
from launcher.store.files import append_line, read_fact, read_lines
from launcher.store.output_folder import Store
from launcher.store.run_folder import AttemptDir
from launcher.worker import interruption, outcome
from launcher.worker.interruption import Interrupted, locked
from launcher.worker.outcome import _leave

# Says when it has begun; its child is one that executes another program, its thread one that was there before.
PROCESS = """
import subprocess, sys, threading, time
early = threading.Thread(target=time.sleep, args=(300,), daemon=True)
early.start()
from launcher.worker.interruption import StopRequest
stop = StopRequest()
stop.listen()
child = subprocess.Popen([sys.executable, "-c", "import time; print('child', flush=True); time.sleep(300)"])
print(child.pid, flush=True)
while not stop():
    time.sleep(0.01)
time.sleep(0.2)
print(stop.signal, child.poll(), flush=True)
child.kill()
"""


@pytest.mark.parametrize("name", ["SIGUSR2", "SIGTERM"])
def test_signals_are_noted_and_usr2_hurts_no_child(name: str) -> None:
    """The warning of a time limit goes to every process of a step; ours takes note, and no child dies of it."""
    number = getattr(signal, name)
    process = subprocess.Popen(
        [sys.executable, "-c", PROCESS], stdout=subprocess.PIPE, text=True, env=clean_environment()
    )
    assert process.stdout is not None
    lines = sorted(process.stdout.readline().strip() for _ in range(2))
    child = int(lines[0])
    if number == signal.SIGUSR2:
        os.kill(child, number)
    os.kill(process.pid, number)
    output, _ = process.communicate(timeout=LONGEST_WAIT)
    assert output.split() == [str(int(number)), "None"]


# Its signal comes before it has imported anything of ours; then it says whether it has heard it.
EARLY = """
import os, signal, sys
os.kill(os.getpid(), signal.SIGUSR2)
from launcher.worker.interruption import StopRequest
stop = StopRequest()
stop.listen()
print(stop(), sys.flags.safe_path, sys.argv)
"""


def test_a_warning_before_the_first_import_is_kept() -> None:
    """The time limit may be near before a process has begun to listen: it is not ended by the signal, and hears it.

    What runs is the command as it was given, options of Python included.
    """
    words = ["-P", "-m", "launcher.worker.shielded", "-c", EARLY, "a b"]
    done = subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        text=True,
        timeout=LONGEST_WAIT,
        check=False,
        env=clean_environment(),
    )
    assert (done.returncode, done.stdout) == (0, "True True ['-c', 'a b']\n"), done.stderr


@pytest.fixture
def attempt(store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AttemptDir:
    """An attempt in task 3 of an array, on a machine whose scontrol takes notes."""
    for key, value in {"SLURM_JOB_ID": "12", "SLURM_PROCID": "0", "SLURM_ARRAY_JOB_ID": "9"}.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    monkeypatch.delenv("SUBMITIT_EXECUTOR", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    scontrol(tmp_path, f'echo "$@" >>{tmp_path}/asked')
    monkeypatch.setattr(outcome, "PATIENCE_SECONDS", 0.1)
    return store.run("r").new_attempt(Attempt())


def scontrol(folder: Path, script: str) -> None:
    (folder / "scontrol").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "scontrol").chmod(0o755)


def test_the_time_limit_requeues(attempt: AttemptDir, tmp_path: Path) -> None:
    """The array's task goes back into the queue under its own id; that is no failure."""
    _leave([attempt], signal.SIGUSR2, max_requeues=1)
    assert (tmp_path / "asked").read_text() == "requeue 9_3\n"
    assert not attempt.failure_file.exists()
    assert len(read_lines(attempt.requeue_log)) == 1


def test_requeues_are_counted(attempt: AttemptDir, tmp_path: Path) -> None:
    """A run that never ends is not requeued for ever."""
    append_line(attempt.requeue_log, {"step": 1})
    _leave([attempt], signal.SIGUSR2, max_requeues=1)
    assert not (tmp_path / "asked").exists()
    fact = read_fact(attempt.failure_file) or {}
    assert fact["status"] == "TIMEOUT"
    assert "max_requeues" in fact["reason"]


def test_a_run_that_is_left_behind_takes_no_other_along(attempt: AttemptDir, store: Store, tmp_path: Path) -> None:
    """Of several runs in a job, the one with no requeue left has timed out, and the job goes on with the next."""
    append_line(attempt.requeue_log, {"step": 1})
    after = store.run("s").new_attempt(Attempt())
    _leave([attempt, after], signal.SIGUSR2, max_requeues=1)
    assert (read_fact(attempt.failure_file) or {})["status"] == "TIMEOUT"
    assert not after.failure_file.exists()
    assert (tmp_path / "asked").read_text() == "requeue 9_3\n"
    assert [len(read_lines(each.requeue_log)) for each in (attempt, after)] == [1, 1]


def test_a_site_that_forbids_requeueing(attempt: AttemptDir, tmp_path: Path) -> None:
    """Where SLURM refuses, the run has timed out, and says what SLURM said; resume is left."""
    scontrol(tmp_path, "echo 'Requested operation is presently disabled for job 12' >&2; exit 1")
    _leave([attempt], signal.SIGUSR2, max_requeues=1)
    fact = read_fact(attempt.failure_file) or {}
    assert fact["status"] == "TIMEOUT"
    assert "presently disabled" in fact["reason"]


def test_preemption_waits_for_slurm(attempt: AttemptDir, tmp_path: Path) -> None:
    """After SIGTERM we do not requeue, which SLURM does, and do not leave, which would count as completed."""
    began = time.monotonic()
    _leave([attempt], signal.SIGTERM, max_requeues=1)
    assert time.monotonic() - began >= 0.1
    assert not (tmp_path / "asked").exists()


def test_only_the_first_task_acts(attempt: AttemptDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the tasks of one run, one requeues."""
    monkeypatch.setenv("SLURM_PROCID", "1")
    _leave([attempt], signal.SIGUSR2, max_requeues=1)
    assert not (tmp_path / "asked").exists()


def test_on_one_machine_a_signal_is_a_stop(attempt: AttemptDir, monkeypatch: pytest.MonkeyPatch) -> None:
    """A local job inside an allocation is not SLURM's to requeue: it is cancelled, and resume goes on."""
    names = ("SUBMITIT_LOCAL_GLOBALID", "SUBMITIT_LOCAL_LOCALID")
    local = {"SUBMITIT_EXECUTOR": "local", "SUBMITIT_LOCAL_JOB_ID": "99", "SUBMITIT_LOCAL_NTASKS": "1"}
    for key, value in (local | dict.fromkeys(names, "0")).items():
        monkeypatch.setenv(key, value)
    assert node.queued() is None
    _leave([attempt], signal.SIGTERM, max_requeues=1)
    fact = read_fact(attempt.failure_file) or {}
    assert (fact["status"], fact["reason"]) == ("CANCELLED", "stopped by SIGTERM before it was started")


def test_waiting_for_another_job_ends_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One at a time makes a folder; who waits for it can still be stopped, and gets it when it is free."""
    monkeypatch.setattr(interruption, "LOCK_POLL_SECONDS", 0.01)
    asked: list[bool] = []

    def stop() -> bool:
        asked.append(True)
        return len(asked) > 3

    with locked(tmp_path / "a", lambda: False), pytest.raises(Interrupted, match="while another job was making"):  # noqa: SIM117
        with locked(tmp_path / "a", stop):
            pass
    assert len(asked) == 4
    with locked(tmp_path / "a", lambda: False):
        assert not (tmp_path / "a").exists()
