"""The state of each run: its facts, what the scheduler says of its job, and the status that follows from both.

Owns: asking the scheduler once for all runs, and only for jobs that may still do something.
Must not know: what a status leads to, how an executor answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from launcher import scheduler as executors
from launcher.facts import read_facts
from launcher.files import Fact
from launcher.scheduler import Scheduler
from launcher.status import IN_FLIGHT, UNKNOWN, JobState, Phase, RunFacts, Status, status_of
from launcher.store import RunDir


@dataclass(frozen=True)
class RunState:
    """A run's facts, its status and its job's."""

    run: RunDir
    facts: RunFacts
    status: Status
    reason: str | None
    job: JobState

    @property
    def in_flight(self) -> bool:
        """Whether a job has this run in its hands: also one that is trained, and about to be evaluated or published."""
        if self.facts.failure is not None or self.facts.finished:
            return False
        return self.status in IN_FLIGHT or (self.facts.trained and self.job.phase in (Phase.PENDING, Phase.RUNNING))


def states_of(runs: Sequence[RunDir], scheduler: Scheduler) -> list[RunState]:
    """The state of each run, with one question to the scheduler for all of them."""
    facts = [read_facts(run) for run in runs]
    jobs = [fact.job if _has_open_job(fact) else None for fact in facts]
    tables = [fact.table if job and not fact.started else None for job, fact in zip(jobs, facts, strict=True)]
    wanted = {executors.key_of(job): job for job in (*jobs, *tables) if job}
    answers = executors.states(list(wanted.values()), scheduler)

    def answer(job: Fact | None) -> JobState:
        return answers.get(executors.key_of(job), UNKNOWN) if job else UNKNOWN

    asked = zip(runs, facts, map(answer, jobs), map(answer, tables), strict=True)
    return [RunState(run, fact, *status_of(fact, job, table), job) for run, fact, job, table in asked]


def _has_open_job(facts: RunFacts) -> bool:
    return facts.job_id is not None and facts.failure is None and not facts.finished
