"""Waiting for a lock: said, safe to interrupt, ended by a request to stop."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from filelock import FileLock
from waiting import LONGEST_WAIT, eventually

from launcher.cli.arguments import FAILED
from launcher.cli.main import main
from launcher.errors import StoreError
from launcher.store import locks
from launcher.store.files import building
from launcher.store.output_folder import Store


def hold(lock: Path, ready: Path, done: Path) -> None:
    """Hold a lock until a file is there."""
    with locks.turn(lock):
        ready.touch()
        while not done.exists():
            time.sleep(0.02)


@contextmanager
def held(lock: Path, tmp_path: Path) -> Iterator[multiprocessing.process.BaseProcess]:
    """Another process holds it meanwhile."""
    ready, done = tmp_path / "ready", tmp_path / "done"
    process = multiprocessing.get_context("spawn").Process(target=hold, args=(lock, ready, done))
    process.start()
    assert eventually(ready.exists, LONGEST_WAIT)
    try:
        yield process
    finally:
        done.touch()
        process.join()


def test_a_launch_that_waits_says_for_whom(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Process, machine, and since when; after a while again, with what to do where that machine is gone."""
    monkeypatch.setattr(locks, "AGAIN_SECONDS", 1.0)
    monkeypatch.setattr(locks, "SILENT_SECONDS", 0.5)
    monkeypatch.setattr(locks, "LONG_SECONDS", 1.0)
    lock = store.root / ".submit.lock"
    with held(lock, tmp_path) as other:
        threading.Timer(3.0, (tmp_path / "done").touch).start()
        with store.submitting():
            assert f"pid {os.getpid()} on" in lock.with_name(".submit.lock.holder").read_text()
    said = capsys.readouterr().err.splitlines()
    host = re.escape(socket.gethostname())
    whom = rf"waiting for another launch, pid {other.pid} on {host} since 20\d\d-.*; Ctrl-C is safe"
    assert re.search(whom, said[0])
    assert "If its machine is down" not in said[0]
    assert f"remove {lock}" in said[-1]
    assert not list(store.root.glob("*.holder"))


def test_a_lock_of_somebody_who_is_no_launcher_is_named(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """He has not said who he is: the file is named, and how to find him."""
    monkeypatch.setattr(locks, "SILENT_SECONDS", 0.5)
    lock = store.root / ".submit.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    other = FileLock(lock, thread_local=False)
    other.acquire()
    threading.Timer(2.0, other.release).start()
    with store.submitting():
        pass
    said = capsys.readouterr().err
    assert f"it holds {lock}, and has not said who it is: `fuser -v {lock}`" in said


def test_who_need_not_wait_says_nothing(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    """The ordinary case is quiet."""
    with store.submitting():
        pass
    assert capsys.readouterr().err == ""


def test_ctrl_c_ends_a_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With one line, exit code 1 and nothing submitted."""
    monkeypatch.chdir(tmp_path)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a run in this process may have taken it
    with held(tmp_path / "outputs" / ".submit.lock", tmp_path):
        threading.Timer(4.0, os.kill, (os.getpid(), signal.SIGINT)).start()
        assert main(["-m", "model=tiny", "cluster=local", "sweep=s"]) == FAILED
    signal.signal(signal.SIGINT, before)
    assert "interrupted" in capsys.readouterr().err
    assert not (tmp_path / "outputs" / "sweeps").exists()


def test_a_request_to_stop_ends_the_wait_for_a_cache_entry(tmp_path: Path) -> None:
    """A job that was told of its time limit does not wait for another one's hours of work."""
    said = pytest.raises(StoreError, match="stopped on request while waiting for another process that makes")
    with held(tmp_path / ".entry.lock", tmp_path), locks.ended_by(lambda: True), said:
        building(tmp_path / "entry").__enter__()
    with locks.ended_by(lambda: True), building(tmp_path / "entry") as empty:  # nobody is waited for
        assert empty


def test_the_lock_of_a_dead_process_is_free(store: Store, tmp_path: Path) -> None:
    """What it said of itself stays until the next one says who that is."""
    with held(store.root / ".submit.lock", tmp_path) as other:
        os.kill(other.pid or 0, signal.SIGKILL)
        with store.submitting():
            assert f"pid {os.getpid()} " in (store.root / ".submit.lock.holder").read_text()
