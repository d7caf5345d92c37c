"""launcher.worker.outcome: what follows from each way in which an attempt and its process can end."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path
from typing import Any, NoReturn
from unittest.mock import ANY

import pytest
from ranks import new_attempt
from worker_fixtures import make_config

from launcher.errors import StoreError
from launcher.store.attempt_config import read_config
from launcher.store.facts import Attempt, Failure
from launcher.store.files import append_line, read_fact, read_lines
from launcher.store.output_folder import PreparingDir, Store
from launcher.store.run_folder import AttemptDir
from launcher.worker import attempt as making
from launcher.worker import job, outcome
from launcher.worker.distributed import ranks
from launcher.worker.distributed.liveness import Kind as Gone
from launcher.worker.distributed.liveness import Loss
from launcher.worker.distributed.ranks import End
from launcher.worker.interruption import StopRequest
from launcher.worker.outcome import Kind, Outcome, reason_of, settle, settle_table

FULL = "rank 1: OutOfMemoryError: CUDA out of memory"


class Exited(BaseException):
    """The process has ended, without a word to those who wait for it."""


@pytest.fixture
def attempt(store: Store, tmp_path: Path) -> AttemptDir:
    """An attempt that may be requeued once."""
    return new_attempt(make_config(tmp_path / "pairs", cluster__max_requeues=1), store.run("r"))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """We are the first task of SLURM's job 12; what scontrol is asked for."""
    monkeypatch.delenv("SUBMITIT_EXECUTOR", raising=False)
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setattr(outcome, "PATIENCE_SECONDS", 0.1)
    scontrol(monkeypatch, tmp_path, f'echo "$@" >>{tmp_path}/asked')
    return tmp_path / "asked"


def scontrol(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> None:
    (folder / "scontrol").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    local = {"SUBMITIT_EXECUTOR": "local", "SUBMITIT_LOCAL_JOB_ID": "99", "SUBMITIT_LOCAL_NTASKS": "1"}
    for key, value in (local | {"SUBMITIT_LOCAL_GLOBALID": "0", "SUBMITIT_LOCAL_LOCALID": "0"}).items():
        monkeypatch.setenv(key, value)


def two_ranks(monkeypatch: pytest.MonkeyPatch, index: int = 0) -> None:
    def leave(code: int) -> NoReturn:
        raise Exited(code)

    monkeypatch.setattr(ranks, "size", lambda: 2)
    monkeypatch.setattr(ranks, "index", lambda: index)
    monkeypatch.setattr(os, "_exit", leave)


def failure(attempt: AttemptDir) -> dict[str, Any]:
    fact = read_fact(attempt.failure_file) or {}
    fact.pop("time", None)
    return fact


@pytest.mark.parametrize(
    ("reason", "cause"),
    [
        ("RuntimeError: CUDA_ERROR_OUT_OF_MEMORY", {"cause": "out of memory"}),
        ("OutOfMemoryError: CUDA out of memory", {}),  # of the accelerator: more of the node's would not help
    ],
)
def test_the_cause_is_recorded(attempt: AttemptDir, reason: str, cause: dict[str, str]) -> None:
    """In a word of ours, by who knows the reason, where something follows from it."""
    settle(Outcome(Kind.FAILED, reason), attempt)
    assert failure(attempt) == {"reason": reason, "status": "FAILED", "traceback": "", **cause}


def test_no_reference_table_is_a_failure_of_its_job(tmp_path: Path) -> None:
    """Rank 0 says so in the folder of the job, with the trace."""
    settle_table(PreparingDir(tmp_path), "KeyError: 'prompt'", "where it was")
    assert read_fact(tmp_path / "failure.json", Failure) == Failure(
        "KeyError: 'prompt'", traceback="where it was", time=ANY
    )


def test_what_is_done_leaves_nothing(attempt: AttemptDir, asked: Path) -> None:
    """The run has its own facts; the process goes on."""
    settle(Outcome(Kind.DONE), attempt)
    assert not attempt.path.exists()
    assert not asked.exists()


@pytest.mark.parametrize("kind", [Kind.FAILED, Kind.CANCELLED])
def test_a_failure_is_recorded_with_its_reason_and_traceback(
    attempt: AttemptDir, kind: Kind, capfd: pytest.CaptureFixture[str]
) -> None:
    """Neither is longer than somebody reads, of the traceback the end is kept; the next run goes on."""
    settle(Outcome(kind, "ValueError: " + "x" * 3000, "Traceback" + "y" * 8000), attempt)
    expected = {"reason": "ValueError: " + "x" * 1988, "status": kind.name, "traceback": "y" * 8000}
    assert failure(attempt) == expected
    assert list(failure(attempt)) == ["reason", "status", "traceback"]
    assert capfd.readouterr().out == ""


def test_a_failure_that_takes_ranks_apart_ends_the_process(
    attempt: AttemptDir, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """After it is recorded: the others wait for this one in a collective that will never be."""
    two_ranks(monkeypatch)
    with pytest.raises(Exited) as exited:
        settle(Outcome(Kind.FAILED, "rank 1: MemoryError", together=False), attempt)
    assert exited.value.args == (1,)
    assert failure(attempt) == {"reason": "rank 1: MemoryError", "status": "FAILED", "traceback": ""}
    assert capfd.readouterr().out == "leaving the other ranks: rank 1: MemoryError\n"


def test_rank_0_alone_records(attempt: AttemptDir, monkeypatch: pytest.MonkeyPatch, asked: Path) -> None:
    """The others end as well where they are apart, and neither halve nor requeue."""
    two_ranks(monkeypatch, index=1)
    settle(Outcome(Kind.FAILED, "x"), attempt)
    with pytest.raises(Exited):
        settle(Outcome(Kind.FAILED, FULL, together=False), attempt)
    assert not attempt.failure_file.exists()
    assert not attempt.run.memory_log.exists()
    assert not asked.exists()


def test_several_ranks_without_memory_go_back_with_half(
    attempt: AttemptDir, monkeypatch: pytest.MonkeyPatch, asked: Path
) -> None:
    """That is no failure: SLURM starts the job again."""
    two_ranks(monkeypatch)
    with pytest.raises(Exited):
        settle(Outcome(Kind.FAILED, FULL, together=False), attempt)
    assert asked.read_text() == "requeue 12\n"
    assert not attempt.failure_file.exists()
    assert read_config(attempt).trainer.micro_batch_size == 2


def test_without_a_queue_a_lack_of_memory_is_a_failure(
    attempt: AttemptDir, monkeypatch: pytest.MonkeyPatch, asked: Path, tmp_path: Path
) -> None:
    """Where SLURM refuses, and where there is none; whoever resumes begins with half."""
    two_ranks(monkeypatch)
    scontrol(monkeypatch, tmp_path, "exit 1")
    settle(Outcome(Kind.FAILED, FULL), attempt)
    assert failure(attempt)["reason"] == FULL
    on_this_machine(monkeypatch)
    attempt.failure_file.unlink()
    settle(Outcome(Kind.FAILED, FULL), attempt)
    assert failure(attempt)["reason"] == FULL
    assert [line["micro_batch_size"] for line in read_lines(attempt.run.memory_log)] == [2, 1]
    assert not asked.exists()


def test_one_rank_without_memory_has_tried_all(attempt: AttemptDir, asked: Path) -> None:
    """It halves in its process; what is left to be settled is a failure."""
    settle(Outcome(Kind.FAILED, "OutOfMemoryError: CUDA out of memory"), attempt)
    assert failure(attempt)["status"] == "FAILED"
    assert not attempt.run.memory_log.exists()
    assert not asked.exists()


def test_the_warning_of_the_time_limit_puts_the_job_back(attempt: AttemptDir, asked: Path) -> None:
    """As often as cluster.max_requeues of the attempt allows; then it has timed out."""
    settle(Outcome(Kind.STOPPED, signal=signal.SIGUSR2), attempt)
    assert asked.read_text() == "requeue 12\n"
    assert not attempt.failure_file.exists()
    settle(Outcome(Kind.STOPPED, signal=signal.SIGUSR2), attempt)
    assert asked.read_text() == "requeue 12\n"
    reason = "the time limit, after 1 requeues (cluster.max_requeues)"
    assert failure(attempt) == {"reason": reason, "status": "TIMEOUT", "traceback": ""}


def test_ctrl_c_cancels_all_that_is_left(attempt: AttemptDir, store: Store, asked: Path) -> None:
    """Also under SLURM, where somebody sits at a terminal of an allocation; what had begun says how far it came."""
    append_line(attempt.started_file, {})
    after = store.run("s").new_attempt(Attempt())
    settle(Outcome(Kind.STOPPED, signal=signal.SIGINT), attempt, after)
    at_step, before = "stopped by SIGINT at step 0", "stopped by SIGINT before it was started"
    assert failure(attempt) == {"reason": at_step, "status": "CANCELLED", "traceback": ""}
    assert failure(after) == {"reason": before, "status": "CANCELLED", "traceback": ""}
    assert not asked.exists()


def test_sigterm_under_slurm_waits_to_be_ended(
    attempt: AttemptDir, asked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is recorded meanwhile: SLURM starts a job that was preempted again, and knows what it has cancelled."""
    seen: list[tuple[float, bool]] = []
    monkeypatch.setattr(outcome.time, "sleep", lambda seconds: seen.append((seconds, attempt.failure_file.exists())))
    settle(Outcome(Kind.STOPPED, signal=signal.SIGTERM), attempt)
    assert seen == [(0.1, False)]
    assert failure(attempt)["status"] == "CANCELLED"
    assert not asked.exists()


@pytest.mark.usefixtures("asked")
def test_a_slurm_job_whose_runs_have_all_failed_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that what waits for it is not started; elsewhere nothing waits."""
    with pytest.raises(SystemExit) as exited:
        settle(Outcome(Kind.ALL_FAILED))
    assert exited.value.code == 1
    on_this_machine(monkeypatch)
    settle(Outcome(Kind.ALL_FAILED))


def test_the_reason_is_one_line() -> None:
    """Our errors say what they are; of others the type is told."""
    assert reason_of(StoreError("config.yaml:\n is missing")) == "config.yaml: is missing"
    assert reason_of(ValueError("a\n  b")) == "ValueError: a b"


# ------------------------------------------------------------------------------------------------ what an attempt tells


def broken(attempt: AttemptDir) -> AttemptDir:
    attempt.run.config_file.unlink()
    return attempt


@pytest.mark.parametrize(
    ("end", "cancelled", "kind"),
    [
        (End(together=True, cause="c"), False, Kind.FAILED),
        (End(together=False, cause="c"), False, Kind.FAILED),
        (End(together=True, cause="c", signal=15), False, Kind.STOPPED),
        (End(together=False, cause="c", signal=15), False, Kind.STOPPED),
        (End(together=True, cause="c", signal=15), True, Kind.CANCELLED),
        (End(together=False, cause="c"), True, Kind.CANCELLED),
    ],
)
def test_an_attempt_tells_how_it_ended(
    attempt: AttemptDir, store: Store, monkeypatch: pytest.MonkeyPatch, end: End, cancelled: bool, kind: Kind
) -> None:
    """Of a failure that a signal has caused, the signal is told, unless the run was cancelled; nothing is recorded."""
    monkeypatch.setattr(ranks, "failed", lambda *_: end)
    if cancelled:
        append_line(attempt.cancel_file, {})
    made = making.make_attempt(broken(attempt), store, StopRequest())
    stopped = kind is Kind.STOPPED
    assert (made.kind, made.reason, made.signal) == (kind, "c", 15 if stopped else None)
    assert made.together is (stopped or end.together)
    assert made.trace.startswith("Traceback")
    assert not attempt.failure_file.exists()


@pytest.mark.usefixtures("asked")
def test_a_signal_to_another_rank_is_settled_when_the_process_ends(
    attempt: AttemptDir, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is this process's as well from then on; what else has happened is settled at once."""
    stop = StopRequest()
    monkeypatch.setattr(job, "make_attempt", lambda *_: Outcome(Kind.STOPPED, "Stopped", signal=signal.SIGINT))
    job.make_and_settle(attempt, store, stop)
    assert stop.signal == signal.SIGINT
    assert not attempt.failure_file.exists()
    job.settle_what_is_left([attempt], stop)
    assert failure(attempt)["reason"].startswith("stopped by SIGINT")


def test_a_rank_that_is_gone_is_a_failure(
    attempt: AttemptDir, store: Store, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """What `ranks` calls before it ends the process says so, and records it, without a traceback of ours."""
    begun: list[partial[None]] = []
    monkeypatch.setattr(ranks, "begin", lambda _, lost: begun.append(lost))
    made = making.make_attempt(broken(attempt), store, StopRequest())
    assert (made.kind, made.reason.partition(": ")[0]) == (Kind.FAILED, str(attempt.run.config_file))
    attempt.run.config_file.write_text("")
    capfd.readouterr()
    begun[0](Loss("rank 1 was killed", Gone.GONE, 1, "n3"))
    reason = "rank 1 was killed; see rank1.log"
    assert failure(attempt) == {"reason": reason, "status": "FAILED", "traceback": "", "node": "n3"}
    assert capfd.readouterr().out == "leaving the other ranks: rank 1 was killed\n"


def test_a_process_that_lost_a_rank_ends_though_it_cannot_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk keeps no process and no GPU."""

    def full(_loss: Loss) -> None:
        raise OSError(28, "No space left on device")

    def leave(code: int) -> NoReturn:
        raise Exited(code)

    monkeypatch.setattr(ranks, "_lost", full)
    monkeypatch.setattr(os, "_exit", leave)
    with pytest.raises(Exited):
        ranks._lose(Loss("rank 1 was killed", Gone.GONE, 1))
