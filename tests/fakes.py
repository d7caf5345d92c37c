"""A scheduler that runs nothing: it takes jobs, and answers what a test tells it; and a launch to it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from launcher.cluster.ambient import Ambient
from launcher.cluster.batch import Batch
from launcher.cluster.job_state import JobState, Phase
from launcher.cluster.offer import Offer
from launcher.cluster.scheduler import is_elsewhere
from launcher.config import Cluster
from launcher.errors import ConfigError
from launcher.store.facts import Cause, Job
from launcher.store.output_folder import Store
from launcher.submission.decide import Decision, decide
from launcher.submission.plan import plan_batches
from launcher.submission.submit import act
from launcher.sweep import Sweep


class FakeScheduler:
    """Jobs are numbered from 1 and stay in the phase that they were put in.

    `submitted` are the batches that train runs, `tables` those that make a reference table, `evaluations` those that
    evaluate. `cluster` answers here, and `others` can be reached. With `dies_before` or
    `dies_after`, the launcher dies as it hands over the batch of that number, before or after it was taken.
    """

    name = "fake"
    detached = True
    poll_seconds = 0.0
    runs_per_job = 1
    warned_early_seconds = 0
    kept_options: Mapping[str, str | None] = {}
    switches: Collection[str] | None = None
    signs_in_paths = ""

    def __init__(self, batch_size: int = 1, cluster: str | None = None, others: Collection[str] = ()) -> None:
        self._batch_size, self.cluster, self.others = batch_size, cluster, others
        self.submitted: list[Batch] = []
        self.tables: list[Batch] = []
        self.evaluations: list[Batch] = []
        self.jobs: dict[str, list[Job]] = {}
        self.phases: dict[str, JobState] = {}
        self.cancelled: list[str] = []
        self.offers = Offer()
        self.questions = 0
        self.dies_before: int | None = None
        self.dies_after: int | None = None

    def missing(self) -> str | None:
        return None

    def is_here(self) -> bool:
        return True

    def reaches(self, cluster: str) -> bool:
        return cluster in (self.cluster, *self.others)

    def destination(self, cluster: Cluster) -> str | None:
        if cluster.clusters not in (None, self.cluster, *self.others):
            raise ConfigError("cluster.clusters", cluster.clusters, "is gone")
        return cluster.clusters or self.cluster

    def batch_size(self, cluster: Cluster) -> int:  # noqa: ARG002 - the protocol's
        return self._batch_size

    def at_once(self, cluster: Cluster) -> int | None:
        return cluster.max_parallel

    def slots(self, cluster: Cluster) -> int | None:  # noqa: ARG002 - the protocol's
        return None

    def offer(self, cluster: Cluster) -> Offer:  # noqa: ARG002 - the protocol's
        return self.offers

    def ambient(self, cluster: Cluster) -> Ambient:  # noqa: ARG002 - the protocol's
        return Ambient()

    def replaced(self, cluster: Cluster) -> Mapping[str, Sequence[str]]:  # noqa: ARG002 - the protocol's
        return {}

    def script(self, batch: Batch) -> str:
        return f"run {batch.name}"

    def submit(self, batch: Batch) -> list[Job]:
        number = len(self.submitted) + len(self.tables) + len(self.evaluations) + 1
        if self.dies_before == number:
            raise KeyboardInterrupt
        kinds = {".prepare.": self.tables, ".evaluate.": self.evaluations}
        next((kept for kind, kept in kinds.items() if kind in batch.name), self.submitted).append(batch)
        ids = [str(len(self.phases) + 1 + index) for index in range(batch.size)]
        self.phases |= dict.fromkeys(ids, JobState(Phase.RUNNING))
        there = self.destination(batch.resources)
        self.jobs[batch.name] = [Job(job_id, self.name, cluster=there) for job_id in ids]
        if self.dies_after == number:
            raise KeyboardInterrupt
        return self.jobs[batch.name]

    def find(self, batch: Batch) -> list[Job] | None:
        return self.jobs.get(batch.name)

    def states(self, jobs: Sequence[Job]) -> dict[str, JobState]:
        self.questions += 1
        hidden = {job.job_id: JobState(Phase.HIDDEN, "elsewhere") for job in jobs if is_elsewhere(job.cluster, self)}
        return {job.job_id: self.phases.get(job.job_id, JobState(Phase.UNKNOWN)) for job in jobs} | hidden

    def cancel(self, jobs: Sequence[Job]) -> None:
        self.cancelled += [job.job_id for job in jobs]

    def end(
        self,
        job_id: str,
        phase: Phase = Phase.FAILED,
        reason: str | None = None,
        cause: Cause | None = None,
        node: str | None = None,
    ) -> None:
        self.phases[job_id] = JobState(phase, reason, node, cause)


def submit(
    sweep: Sweep, store: Store, scheduler: FakeScheduler, argv: Sequence[str] | None, given: Collection[str] = ()
) -> list[Decision]:
    """Decide, plan and act, as the launcher does; returns what was decided. For the last two: see `act`, `decide`."""
    decisions = decide(sweep, store, scheduler, given)
    act(plan_batches(sweep, decisions, store, scheduler), store, scheduler, argv)
    return decisions
