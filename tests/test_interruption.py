"""Signals to a job's process, and what becomes of its work."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import NoReturn

import pytest
from conftest import clean_environment
from ranks import new_attempt
from waiting import LONGEST_WAIT
from worker_fixtures import Configure

from launcher.cluster import node, slurm_node
from launcher.cluster import slurm_words as words
from launcher.cluster.batch import Batch
from launcher.config import Cluster
from launcher.store.facts import Attempt, Cancel, Failure, FailureStatus
from launcher.store.files import append_line, plain, read_fact, read_lines, write_once
from launcher.store.output_folder import Store
from launcher.store.run_folder import AttemptDir
from launcher.worker import deadline, headway, interruption, outcome
from launcher.worker.attempt import make_attempt
from launcher.worker.interruption import Interrupted, StopRequest, locked
from launcher.worker.outcome import Kind, _leave

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


@pytest.mark.parametrize("script_knows", [True, False])
def test_where_no_task_can_ask_the_script_is_asked(
    attempt: AttemptDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script_knows: bool
) -> None:
    """As in a container: the process leaves the facts of a refusal and ends with 250; elsewhere it has timed out."""
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv(slurm_node.REQUEST, raising=False)
    if script_knows:
        monkeypatch.setenv(slurm_node.REQUEST, str(tmp_path / "request"))
        monkeypatch.setattr(os, "_exit", exited)
        with pytest.raises(Exited) as ended:
            _leave([attempt], signal.SIGUSR2, max_requeues=1)
        assert ended.value.args == (250,)
        path, fact = (tmp_path / "request").read_text().splitlines()
        assert path == str(attempt.failure_file)
        assert json.loads(fact)["reason"] == "the time limit; it could not be requeued: @COMPLAINT@"
        assert not attempt.failure_file.exists()
    else:
        _leave([attempt], signal.SIGUSR2, max_requeues=1)
        assert "No such file or directory: 'scontrol'" in (read_fact(attempt.failure_file) or {})["reason"]


@pytest.mark.parametrize(
    ("code", "request_left", "requeued"),
    [
        (250, False, True),
        (250, True, True),
        (137, True, True),
        (137, False, False),
        (1, False, False),
        (0, False, False),
    ],
)
def test_the_script_requeues_where_it_was_asked(tmp_path: Path, code: int, request_left: bool, requeued: bool) -> None:
    """By the exit code, or by the file, as a task that a signal has killed hides the code of the others."""
    assert end_of_script(tmp_path, code, "", request_left=request_left) == (code, "theirs\n")
    asked = tmp_path / "asked"
    assert (asked.read_text() if asked.exists() else "") == ("requeue 9_3\n" if requeued else "")
    assert not (tmp_path / "request").exists()


def test_the_script_records_what_slurm_refuses(tmp_path: Path) -> None:
    """Where the process has said, in its words, once, and whole; with what SLURM said, whatever letters that has."""
    refused = r"""printf '%s\n' 'not "allowed" on a\b & c' >&2; exit 1"""
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "failure.json").write_text("an earlier one")
    assert end_of_script(tmp_path, 250, refused, request_left=True) == (250, "theirs\n")
    fact = read_fact(tmp_path / "failure.json", Failure)
    assert fact == Failure("it could not: not allowed on ab & c", FailureStatus.TIMEOUT)
    assert (tmp_path / "b" / "failure.json").read_text() == "an earlier one"
    assert sorted(path.name for path in tmp_path.glob("*failure*")) == ["failure.json"]


def end_of_script(folder: Path, code: int, scontrol_does: str, *, request_left: bool) -> tuple[int, str]:
    """The exit code and the output of a job's script, with settings of a site, whose srun returns `code`."""
    scontrol(folder, scontrol_does or f'echo "$@" >>{folder}/asked')
    for name, does in {"srun": f"exit {code}", "sleep": "exit 0"}.items():
        (folder / name).write_text(f"#!/bin/sh\n{does}\n")
        (folder / name).chmod(0o755)
    batch = Batch("b", folder, 1, Cluster(setup=["set -eu", "trap 'echo theirs' EXIT"]), folder)
    setup = words.parameters(batch)["setup"]
    if request_left:
        fact = json.dumps(plain(Failure(f"it could not: {slurm_node.COMPLAINT}", FailureStatus.TIMEOUT)))
        left = [f"{folder}/{name}\n{fact}\n" for name in ("failure.json", "b/failure.json")]
        (folder / "requeue.12.0").write_text("".join(left))
    environment = {"PATH": f"{folder}:/usr/bin:/bin", "SLURM_JOB_ID": "12", "SLURM_ARRAY_JOB_ID": "9"}
    done = subprocess.run(
        ["/bin/bash", "-c", "\n".join([*setup, "srun"])],
        env={**environment, "SLURM_ARRAY_TASK_ID": "3"},
        capture_output=True,
        text=True,
        timeout=LONGEST_WAIT,
        check=False,
    )
    return done.returncode, done.stdout


# ------------------------------------------------------------------------------------------------ the limit itself


class Exited(BaseException):
    """The process has ended."""


def exited(code: int) -> NoReturn:
    raise Exited(code)


@pytest.mark.parametrize(
    ("ends_in", "told", "left"),
    [
        (90.0, None, 90),  # as SLURM says, be it more or less than was configured
        (175.0, None, 175),
        (-5.0, None, 0),
        (None, 100.0, 100),  # as newer versions tell the job
        (None, None, 90),  # the warning may come 30 s late
        (7200.0, None, 90),  # clocks that differ by hours
        (-7200.0, None, 90),
    ],
)
def test_how_long_there_is_until_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends_in: float | None, told: float | None, left: float
) -> None:
    """Of a job that was to be warned 120 s before: what SLURM says, where that can be."""
    end = "Unknown" if ends_in is None else f"{datetime.fromtimestamp(time.time() + ends_in):%Y-%m-%dT%H:%M:%S}"  # noqa: DTZ006 - as scontrol prints it
    scontrol(tmp_path, f"echo JobId=12 StartTime=2020-01-01T00:00:00 EndTime={end} Deadline=N/A")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    environment = {} if told is None else {"SLURM_JOB_END_TIME": str(int(time.time() + told))}
    assert slurm_node.seconds_left("12", 120, environment) == pytest.approx(left, abs=3)


@pytest.mark.parametrize(("rank", "is_ready"), [("0", False), ("0", True), ("1", False)])
def test_who_is_not_ready_before_the_limit_leaves(
    attempt: AttemptDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: str, is_ready: bool
) -> None:
    """Whatever the main thread waits for; rank 0 has the job put back. Who leaves by himself is left alone."""
    monkeypatch.setenv("SLURM_PROCID", rank)
    monkeypatch.setattr(deadline, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(deadline, "LAST_SECONDS", 0.01)
    monkeypatch.setattr(node, "seconds_left", lambda *_: deadline.MARGIN_SECONDS + (60.0 if is_ready else 0.1))
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    stop = StopRequest()
    watch = deadline.Deadline(stop, 120, lambda: _leave([attempt], signal.SIGUSR2, max_requeues=1))
    watch.start()
    stop.signal = int(node.WARNING)
    if is_ready:
        time.sleep(0.1)
        watch.end()
    watch.join(LONGEST_WAIT)
    assert codes == ([] if is_ready else [0])
    assert (tmp_path / "asked").exists() is (rank == "0" and not is_ready)
    assert not attempt.failure_file.exists()


def test_who_leaves_at_the_last_moment_is_not_cut_short(attempt: AttemptDir, monkeypatch: pytest.MonkeyPatch) -> None:
    """The main thread has begun to leave when the watch's time has come: it alone settles what follows."""
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    watch = deadline.Deadline(StopRequest(), 120, lambda: _leave([attempt], signal.SIGUSR2, max_requeues=1))
    watch.end()
    for first in (True, False):
        watch._leave_at_once(first=first)
    assert codes == []
    assert not attempt.requeue_log.exists()


def test_a_run_that_makes_no_progress_is_not_put_back_for_ever(
    attempt: AttemptDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three lives in a row with nothing done are the last; one with progress in between counts them anew."""
    made = iter([False, False, True, False, False, False])
    monkeypatch.setattr(headway, "was_made", lambda: next(made))
    for _ in range(6):
        assert not attempt.failure_file.exists()
        _leave([attempt], signal.SIGUSR2, max_requeues=100)
    fact = read_fact(attempt.failure_file) or {}
    assert fact["status"] == "TIMEOUT"
    assert fact["reason"].startswith(
        "the time limit, 3 times in a row before a checkpoint or a benchmark was done: raise"
    )
    assert (tmp_path / "asked").read_text() == "requeue 9_3\n" * 5


def test_a_later_checkpoint_is_progress(attempt: AttemptDir, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a training that is longer than its limit, as often as max_requeues allows; an older version's lines count."""
    monkeypatch.setattr(headway, "was_made", lambda: False)
    append_line(attempt.requeue_log, {"step": None, "time": 1.0})
    for step in range(10, 50, 10):
        append_line(attempt.run.checkpoints / f"checkpoint-{step}" / "complete.json", {})
        _leave([attempt], signal.SIGUSR2, max_requeues=100)
    assert not attempt.failure_file.exists()
    assert [line.get("progress") for line in read_lines(attempt.requeue_log)] == [None, True, True, True, True]


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


def test_a_wish_that_was_withdrawn_has_ended_the_run_all_the_same(
    configure: Configure, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who cancels while SLURM is silent is told that the run goes on; one that had seen the wish has not failed."""
    attempt = new_attempt(configure(), store.run("r"))

    def train(*given: Callable[[], bool]) -> NoReturn:
        write_once(attempt.cancel_file, Cancel(1.0))
        assert given[-1]()
        attempt.cancel_file.unlink()
        raise Interrupted("stopped on request")

    monkeypatch.setattr("launcher.worker.training.train.train", train)
    assert make_attempt(attempt, store, StopRequest()).kind is Kind.CANCELLED
