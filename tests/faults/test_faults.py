"""A short form of `make faults`: some kinds of every sort, on sweeps of one rank, in about three minutes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from slurm_cluster import needs_slurm
from waiting import LONGEST_WAIT

pytestmark = needs_slurm

HERE = Path(__file__).parent
KINDS = ("rank gets SIGKILL", "rank raises", "main thread holds", "while it loads", "killed at a write of a checkpoint",
         "slurmctld restarts", "scancel of a task", "preemption", "squeue has a banner", "sbatch does it and fails",
         "launcher gets SIGKILL", "result.json is torn", "checkpoint has other bytes", "ESTALE under")  # fmt: skip
SHORT = ("--seed", "1", "--faults", "14", "--alive", "2", "--steps", "40", "--step-seconds", "0.3",
         "--shapes", "array", "disk", "--only", *KINDS)  # fmt: skip


def faults(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(HERE), *arguments], capture_output=True, text=True, timeout=LONGEST_WAIT, check=False
    )


def test_nothing_is_lost_under_faults() -> None:
    """Each run ends with the weights that it has in peace, and status never says what is false."""
    done = faults(*SHORT)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]


def test_every_kind_is_named() -> None:
    """--list names them; a word that is in none of the names is refused."""
    assert len(set(faults("--list").stdout.splitlines())) > 100
    assert faults("--only", "no such fault").returncode == 2
