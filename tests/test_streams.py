"""Streams that are closed, or whose reader has gone: no traceback, and the exit code of what was done."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import clean_environment

PLAN = "-m launcher -m dry_run=true"
MANY = f"{PLAN} loss_type=sigmoid,ipo beta='range(0.01,1,0.02)'"  # more than a pipe holds, as JSON


def ended(words: str, how: str, folder: Path, **variables: str) -> tuple[int, str]:
    """How `python WORDS HOW` ends in a shell, and what it complains of."""
    line = f"set -o pipefail; {sys.executable} {words} {how}"
    environment = clean_environment(**{"PYTHONUNBUFFERED": "", **variables})
    done = subprocess.run(
        ["/bin/bash", "-c", line], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("words", "how", "code"),
    [
        (PLAN, ">&-", 0),
        (f"{PLAN} --json", ">&- 2>&-", 0),
        (PLAN, "| true", 0),
        (f"{MANY} --json", "| head -1", 0),
        (PLAN, "> /dev/full", 1),
        ("-m launcher --help", "| true", 0),
        ("-m launcher status", "<&- >&- 2>&-", 2),
        ("-m launcher status", "2>&1 | true", 2),
        ("-m analysis nowhere", ">&-", 2),
        ("-m analysis nowhere", "2>&-", 2),
        ("-m analysis nowhere", "2>&1 | true", 2),
        ("-m analysis --help", "| true", 0),
    ],
)
def test_no_stream_ends_a_program_with_a_traceback(words: str, how: str, code: int, tmp_path: Path) -> None:
    """Closed, unread or full; also a wrong command keeps its exit code."""
    found, complaints = ended(words, how, tmp_path)
    assert found == code, complaints
    assert "Traceback" not in complaints
    assert "Exception ignored" not in complaints
    assert "is full" in complaints or "No space" in complaints or "/dev/full" not in how


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_an_output_that_is_refused_is_no_full_disk(tmp_path: Path, unbuffered: str) -> None:
    """Whichever folder for temporary files there is has room."""
    code, complaints = ended(PLAN, "> /dev/full", tmp_path, PYTHONUNBUFFERED=unbuffered)
    assert (code, complaints) == (1, "prefsweep: cannot write the output (No space left on device)\n")


def test_a_file_does_not_take_the_place_of_a_closed_stream(tmp_path: Path) -> None:
    """What a program writes to such a stream is lost, rather than in the file that it opened first."""
    script = (
        "import os; from launcher.machine.terminal import prepare_streams, say\n"
        "prepare_streams(); file = open('it', 'w'); say('lost'); os.system('echo lost'); file.write('kept')\n"
    )
    (tmp_path / "script.py").write_text(script)
    code, complaints = ended("script.py", ">&- 2>&- <&-", tmp_path)
    assert (code, complaints) == (0, "")
    assert (tmp_path / "it").read_text() == "kept"
    assert set(os.listdir(tmp_path)) == {"it", "script.py"}


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_the_job_of_a_dry_run_may_be_pasted(encoding: str, tmp_path: Path) -> None:
    """The shell hands on the folder that was given, whatever its name holds and the terminal can show."""
    name, environment = "a\tb\nc\x1bd it's ö", clean_environment(PYTHONIOENCODING=encoding)
    words = [sys.executable, "-m", "launcher", "-m", "dry_run=true", "--output-dir", str(tmp_path / name)]
    shown = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, check=False)
    line = next(each for each in shown.stdout.splitlines() if b"submitit.core._submit" in each)
    found = subprocess.run(["/bin/sh", "-c", b"printf '%s|' " + line], capture_output=True, check=True).stdout
    assert f"|{tmp_path / name}/sweeps/".encode() in found
