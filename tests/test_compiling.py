"""Operators that are compiled on a node: a job that is killed meanwhile is in nobody's way."""

from __future__ import annotations

import inspect
import subprocess
import sys
import time
from pathlib import Path

from conftest import clean_environment
from torch.utils import cpp_extension
from waiting import LONGEST_WAIT

COMPILE = """
import os, signal, sys, time
from torch.utils import cpp_extension
from launcher.worker.distributed import compiling

compiling.take_turns()
baton = cpp_extension.FileBaton(os.path.join(sys.argv[1], "lock"))
assert baton.try_acquire()
print("compiles", flush=True)
if sys.argv[2:] == ["dies"]:
    os.kill(os.getpid(), signal.SIGKILL)
time.sleep(float(sys.argv[2]))
baton.release()
"""


def start(folder: Path, how: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", COMPILE, str(folder), how]
    return subprocess.Popen(command, env=clean_environment(), stdout=subprocess.PIPE, text=True)


def test_who_is_killed_while_he_compiles_holds_up_nobody(tmp_path: Path) -> None:
    """Neither does a lock of torch's own that an earlier one has left."""
    (tmp_path / "lock").touch()
    start(tmp_path, "dies").communicate(timeout=LONGEST_WAIT)
    output, _ = start(tmp_path, "0").communicate(timeout=LONGEST_WAIT)
    assert output == "compiles\n"


def test_one_compiles_at_a_time(tmp_path: Path) -> None:
    """The second one begins when the first one has ended."""
    first = start(tmp_path, "3")
    assert first.stdout is not None
    first.stdout.readline()
    began, second = time.monotonic(), start(tmp_path, "0")
    assert first.poll() is None
    assert second.communicate(timeout=LONGEST_WAIT)[0] == "compiles\n"
    first.communicate(timeout=LONGEST_WAIT)
    assert time.monotonic() - began > 2


def test_torch_asks_for_its_lock_by_that_name() -> None:
    """Else ours would take nobody's place."""
    assert "FileBaton(" in inspect.getsource(cpp_extension._jit_compile)
