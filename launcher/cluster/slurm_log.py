"""What srun says of a job's ranks, in the job's log: SLURM itself keeps only how the whole job ended.

Owns: those lines. Must not know: how SLURM is asked, what follows from an end.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import replace
from pathlib import Path

from launcher.cluster.job_state import JobState, Phase
from launcher.errors import StoreError
from launcher.store.facts import Job
from launcher.store.files import tail

END_BYTES = 65536  # of the log: srun complains of a rank when it ends, and of each that it then kills


def explained(state: JobState, job: Job) -> JobState:
    """What SLURM says of a job that failed, with the rank that was the first to go, where there are several."""
    if state.phase is not Phase.FAILED or not job.log:
        return state
    with contextlib.suppress(OSError, StoreError):
        rank = first_rank(tail(Path(job.log), END_BYTES).decode(errors="replace"))
        return replace(state, reason=f"{state.reason}; {rank}", rank_told=True) if rank else state
    return state


def first_rank(log: str) -> str | None:
    """Which of several ranks ended first and badly in the last life of a job, as srun says in its log."""
    life = log.rpartition("Starting with JobEnvironment")[2]
    ends = re.findall(r"^srun: error: (\S+): tasks? (\d+)\S*: (.+)$", life, re.MULTILINE)
    if all(task == "0" for _, task, _ in ends) or "exit code" in ends[0][2]:
        return None
    node, task, end = ends[0]
    return f"rank {task} was killed on {node}" if end == "Killed" else f"rank {task} on {node}: {end}"
