"""SLURM as a process on a node sees it: which task of which job it is, and going back into the queue.

Owns: the variables that SLURM sets in a job, `scontrol requeue`. Must not know: runs, signals.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass

ANSWER_SECONDS = 60


@dataclass(frozen=True)
class SlurmJob:
    """The SLURM job that this process is a task of."""

    job_id: str
    rank: int

    @classmethod
    def here(cls) -> SlurmJob | None:
        """The job of this process; None where it is of another executor, or of none."""
        names = ("SLURM_JOB_ID", "SLURM_PROCID")
        if os.environ.get("SUBMITIT_EXECUTOR") == "local" or not all(os.environ.get(name) for name in names):
            return None
        array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
        job_id = f"{array}_{task}" if array and task else os.environ["SLURM_JOB_ID"]
        return cls(job_id, int(os.environ["SLURM_PROCID"]))


def requeue(job: SlurmJob) -> str | None:
    """Put the job back into the queue, which ends this process; what SLURM complained of, where it refused."""
    return _complaint_of(["scontrol", "requeue", job.job_id])


def _complaint_of(command: list[str]) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return done.stderr.strip() or f"exit code {done.returncode}" if done.returncode else None
