"""Jobs that a SLURM does not show though they may be there. Pure.

Owns: when that is so, by whose a job is, which cluster answers, how long that has been up, and what accounts say.
Must not know: processes, files, what follows for a run.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from launcher.cluster.job_state import JobState, Phase
from launcher.store.facts import Job

BOOT_SECONDS = 300.0  # after its start, a controller may not know all of its jobs yet


def hidden_by(job: Job, user: str, settings: Mapping[str, str], now: float) -> str | None:
    """Why a job that squeue and sacct do not list may be there all the same; None where nothing says so.

    Args:
        job: as it was recorded.
        user: who asks.
        settings: `scontrol show config` of the cluster that was asked.
        now: seconds since 1970.
    """
    here = settings.get("ClusterName")
    if job.cluster and here and job.cluster != here:
        return f"runs elsewhere: job {job.job_id} is on cluster {job.cluster}, and this is {here}; ask there"
    if is_private(job.user, user, settings):
        return f"runs elsewhere: job {job.job_id} is {job.user}'s, and shown to nobody else here; ask as {job.user}"
    up = _seconds_up(settings.get("BOOT_TIME", ""), now)
    if up is not None and abs(up) < BOOT_SECONDS:
        return f"SLURM's controller started {max(0.0, up):.0f} s ago, and does not know the job, or not yet"
    return None


def is_private(owner: str | None, user: str, settings: Mapping[str, str]) -> bool:
    """Whether SLURM shows the jobs of `owner` to nobody else, and thus not to `user`."""
    return owner not in (None, user) and "jobs" in settings.get("PrivateData", "")


def unlisted(job: Job, accounts: Mapping[str, JobState]) -> str | None:
    """That sacct says of a job which squeue does not list, asked twice, that it has not ended; None where it does not.

    squeue's answers may be cut short, and accounts may never have heard of an end: nobody but the user knows which.
    """
    state = accounts.get(job.job_id)
    if state is None or state.phase not in (Phase.PENDING, Phase.RUNNING):
        return None
    said = f"squeue does not list job {job.job_id}, sacct says {state.phase.upper()}"
    return f"{said}; if it is gone: `cancel`, then launch again"


def _seconds_up(boot: str, now: float) -> float | None:
    try:
        return now - datetime.fromisoformat(boot).timestamp()
    except ValueError:
        return None
