"""`cluster.max_parallel` for jobs that are handed over one by one, and so by no array that would limit them.

Owns: which job waits for which. Must not know: how an executor makes a job wait.

Of N lanes each holds a job behind the one that came N places before it, and those before that, until they have ended,
well or not: one that is cancelled as it waits has ended. A lane may be empty while another is long; but nobody has to
stay to look after them, and a job that is requeued keeps its lane. Those of an earlier launch that are in flight, whose
launcher has died for one, come first.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import replace

from launcher.cluster.scheduler import Scheduler, can_wait_for
from launcher.store.facts import Job
from launcher.submission.decide import Decision
from launcher.submission.plan import PlannedBatch

DEPTH = 10  # so many before it in its lane may be cancelled in a row, and it still waits for those before them


def _count(job: Job) -> tuple[int, str]:
    """By which jobs of one queue are in the order in which they came, whichever run each is for."""
    return len(job.job_id), job.job_id


class Lanes:
    """Those of a sweep: of the jobs that train, and of those that evaluate."""

    def __init__(self, decisions: Iterable[Decision], scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._jobs: dict[bool, list[Job]] = {False: [], True: []}
        for decision in decisions:
            if decision.job is not None and not decision.run.config.cluster.arrays:
                self._jobs[decision.trained].append(decision.job)
        for jobs in self._jobs.values():
            jobs.sort(key=_count)

    def placed(self, planned: PlannedBatch) -> PlannedBatch:
        """The batch, behind the job whose end it is to wait for."""
        resources = planned.batch.resources
        limit = resources.max_parallel
        if planned.batch.size > 1 or not limit:
            return planned
        latest_first = reversed(self._jobs[planned.evaluates])
        before = (job for job in latest_first if can_wait_for(job, resources, self._scheduler))
        lane = itertools.islice(before, limit - 1, limit * DEPTH, limit)  # and looks at no more of thousands
        return replace(planned, batch=replace(planned.batch, behind=tuple(lane)))

    def add(self, planned: PlannedBatch, jobs: Sequence[Job]) -> None:
        """What was handed over for a batch."""
        if planned.batch.size == 1:
            self._jobs[planned.evaluates] += jobs
