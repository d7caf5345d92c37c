"""Processes that end with the one that started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from conftest import REPOSITORY, clean_environment
from waiting import eventually

CHILD = "import sys, time; from launcher.machine.processes import end_with; end_with(int(sys.argv[1])); time.sleep(600)"
PARENT = f"""
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", {CHILD!r}, str(os.getpid())])
time.sleep(2)
print(child.pid, flush=True)
time.sleep(600)
"""


def test_a_child_ends_with_its_parent_however_that_ends() -> None:
    """Also with one that was killed, which can tell nobody."""
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], env=clean_environment(), cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        try:
            child = Path(f"/proc/{parent.stdout.readline().strip()}")
            assert ") Z " not in (child / "stat").read_text()
        finally:
            parent.send_signal(signal.SIGKILL)
    assert eventually(lambda: not child.exists() or ") Z " in (child / "stat").read_text())


def test_a_child_whose_parent_has_ended_already_ends_too() -> None:
    """It was given the id of a process that is not its parent any more."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(os.getppid())],
        env=clean_environment(),
        cwd=REPOSITORY,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
