"""What srun says of a job's ranks, in the job's log: SLURM itself keeps only how the whole job ended.

Owns: those lines. Must not know: how SLURM is asked, what follows from an end.
"""

from __future__ import annotations

import contextlib
import re
import signal
from dataclasses import replace
from pathlib import Path

from launcher.cluster.job_state import JobState, Phase
from launcher.errors import StoreError
from launcher.store.facts import Job
from launcher.store.files import END_BYTES, tail

SIGNALS = {signal.strsignal(number): number for number in signal.valid_signals()}  # by srun's words for them


def explained(state: JobState, job: Job) -> JobState:
    """What SLURM says of a job that failed, with the rank that was the first to go, where there are several."""
    if state.phase is not Phase.FAILED or not job.log:
        return state
    with contextlib.suppress(OSError, StoreError):
        log = tail(Path(job.log), END_BYTES).decode(errors="replace")
        rank, number = first_rank(log), lone_signal(log)
        if rank:
            return replace(state, reason=f"{state.reason}; {rank}", rank_told=True)
        if number and state.reason in (f"FAILED exit code {number}", f"FAILED exit code {number + 128}"):
            return replace(state, reason=f"FAILED signal {number}")
    return state


def lone_signal(log: str) -> int | None:
    """What has killed the only rank; srun then ends with that number, which SLURM takes for an exit code."""
    ends = _ends(log)
    return SIGNALS.get(ends[0][2].removesuffix(" (core dumped)")) if len(ends) == 1 else None


def _ends(log: str) -> list[tuple[str, str, str]]:
    """Of each rank that has ended badly in the last life of a job, in order: its node, its number, how."""
    life = log.rpartition("Starting with JobEnvironment")[2]
    return re.findall(r"^srun: error: (\S+): tasks? (\d+)\S*: (.+)$", life, re.MULTILINE)


def first_rank(log: str) -> str | None:
    """Which of several ranks ended first and badly in the last life of a job, as srun says in its log."""
    ends = _ends(log)
    if all(task == "0" for _, task, _ in ends) or "exit code" in ends[0][2]:
        return None
    node, task, end = ends[0]
    return f"rank {task} was killed on {node}" if end == "Killed" else f"rank {task} on {node}: {end}"
