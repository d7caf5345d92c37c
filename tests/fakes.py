"""A scheduler that runs nothing: it takes jobs, and answers what a test tells it."""

from __future__ import annotations

import os
from collections.abc import Sequence

from launcher.scheduler import JobSpec
from launcher.status import JobState, Phase
from launcher.store import Fact


class FakeScheduler:
    """Jobs are numbered from 1 and stay in the phase that they were put in.

    With `die_at`, the process that submits the job of that number dies before (`"submit"`) or after (`"submitted"`)
    the scheduler takes it.
    """

    name = "fake"
    detached = True

    def __init__(self) -> None:
        self.submitted: list[JobSpec] = []
        self.phases: dict[str, JobState] = {}
        self.cancelled: list[str] = []
        self.questions = 0
        self.dies_before: int | None = None

    def script(self, job: JobSpec) -> str:
        return f"run {job.name}"

    def submit(self, job: JobSpec) -> Fact:
        if self.dies_before == len(self.submitted) + 1:
            raise KeyboardInterrupt
        self.submitted.append(job)
        job_id = str(len(self.submitted))
        self.phases[job_id] = JobState(Phase.RUNNING)
        return {"executor": self.name, "job_id": job_id, "host": "here", "process_start": os.getpid()}

    def states(self, jobs: Sequence[Fact]) -> dict[str, JobState]:
        self.questions += 1
        return {job["job_id"]: self.phases.get(job["job_id"], JobState(Phase.UNKNOWN)) for job in jobs}

    def cancel(self, jobs: Sequence[Fact]) -> None:
        self.cancelled += [job["job_id"] for job in jobs]

    def end(self, job_id: str, phase: Phase = Phase.FAILED, reason: str | None = None) -> None:
        self.phases[job_id] = JobState(phase, reason)
