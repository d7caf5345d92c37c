"""A user whom no directory knows, as in a container that is given a bare uid: the whole way on one machine."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import clean_environment
from slurm_cluster import open_folder
from waiting import LONGEST_WAIT, eventually

UID = 61235
# Python may lie below root's own folder: whoever may not read there could not even start it.
_READS = "-all,+dac_read_search"
NOBODY = ("setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", f"--inh-caps={_READS}",
          f"--ambient-caps={_READS}", f"--bounding-set={_READS}")  # fmt: skip
SMOKE = ("-m", "+sweeps=smoke", "loss_type=sigmoid", "beta=0.1", "evaluation=none", "hub=off", "cluster=local")

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None, reason="only root can become such a user"
)


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder that is theirs, and to which they have a way."""
    with pytest.raises(KeyError):
        pwd.getpwuid(UID)
    with open_folder() as above:
        folder = above / "home"
        folder.mkdir()
        os.chown(folder, UID, UID)
        yield folder


def start(home: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = clean_environment(HOME=str(home), HF_HOME=str(home / "hub"), PREFSWEEP_CACHE=str(home / "cache"))
    for name in ("USER", "LOGNAME", "LNAME", "USERNAME"):
        environment.pop(name, None)
    return subprocess.Popen(
        [*NOBODY, sys.executable, "-m", "launcher", *arguments],
        cwd=home,
        env={**environment, "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def said(process: subprocess.Popen[str], code: int = 0) -> str:
    output, _ = process.communicate(timeout=LONGEST_WAIT)
    assert process.returncode == code, output
    return output


def status(home: Path) -> list[str]:
    return [run["status"] for run in json.loads(said(start(home, "status", "smoke", "--json")))["runs"]]


def test_a_user_without_a_passwd_entry_launches_looks_and_cancels(home: Path) -> None:
    """A run that is at work is seen, and ends when it is asked to; all that is written is theirs."""
    launched = start(home, *SMOKE, "trainer.max_steps=100000", "checkpoint.every=50000")
    assert eventually(lambda: launched.poll() is not None or list(home.glob("outputs/runs/*/metrics.jsonl")))
    assert launched.poll() is None, said(launched)
    assert status(home) == ["RUNNING"]
    assert "cancelled" in said(start(home, "cancel", "smoke"))
    said(launched, 1)
    assert eventually(lambda: status(home) == ["CANCELLED"])
    assert "hard links and locks work" in said(start(home, "doctor"))
    assert {path.stat().st_uid for path in home.rglob("*")} == {UID}


def test_a_user_without_a_passwd_entry_trains_to_the_end(home: Path) -> None:
    """As anybody."""
    assert "1 of 1 runs done" in said(start(home, *SMOKE))
    assert status(home) == ["TRAINED"]
