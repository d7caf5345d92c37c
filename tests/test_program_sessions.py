"""launcher.worker.evaluation.session: nothing of a program outlives the process that measures, nor loses its GPU."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY, clean_environment
from waiting import eventually

from launcher.machine import dealing
from launcher.machine.processes import session_members
from launcher.worker.evaluation import session as sessions
from launcher.worker.evaluation.session import session

# Works on whatever it is asked, like a program that saves first.
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(600)"
RANK = """
import pathlib, sys, time
from launcher.machine import dealing
from launcher.worker.evaluation.session import session
gpu, output, *argv = sys.argv[1:]
dealing.hold({gpu: gpu})
with open(output, "wb") as file, session(argv, file) as process:
    print(process.pid, flush=True)
    time.sleep(600)
"""


def test_a_program_ends_with_who_measures_however_that_ends(tmp_path: Path) -> None:
    """A rank is killed: the program's whole session goes, by force in the end, and till then its GPU is not free."""
    gpu, output = f"tests-{os.getpid()}", tmp_path / "out"
    argv = ["sh", "-c", f"{sys.executable} -c '{STUBBORN}' & wait"]
    command = [sys.executable, "-c", RANK, gpu, str(output), *argv]
    with subprocess.Popen(command, env=clean_environment(), cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as rank:
        assert rank.stdout is not None
        leader = int(rank.stdout.readline())
        assert eventually(output.read_text)
        assert len(session_members(leader)) == 2
        rank.send_signal(signal.SIGKILL)
    assert gpu in dealing.held()
    assert eventually(lambda: not session_members(leader))
    assert eventually(lambda: gpu not in dealing.held())


@pytest.mark.parametrize("ended", ["exit 0", "wait"])
def test_nothing_of_a_session_remains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ended: str) -> None:
    """Neither what a program leaves when it ends by itself, nor what does not end with it when it is stopped."""
    monkeypatch.setattr(sessions, "GRACE_SECONDS", 1)
    out = tmp_path / "out"
    argv = ["sh", "-c", f"{sys.executable} -c '{STUBBORN}' & while ! test -s {out}; do sleep 0.1; done; {ended}"]
    with out.open("wb") as file, session(argv, file) as process:
        assert eventually(out.read_text)
        if ended == "exit 0":
            assert process.wait(60) == 0
        assert session_members(process.pid)
    assert not session_members(process.pid)
    assert process.returncode is not None


def test_a_program_that_cannot_be_started_leaves_nobody_beside(tmp_path: Path) -> None:
    """The error is the system's; whoever was to watch it has ended."""
    before = children()
    with (tmp_path / "out").open("wb") as file, pytest.raises(FileNotFoundError), session(["/no/such"], file):
        pass
    assert children() <= before


def children() -> set[int]:
    """Our children, of other tests too."""
    return {int(word) for word in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()}
