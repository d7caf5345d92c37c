"""What became of the jobs that were to make a reference table and have not.

Owns: how often that was in vain, and the nodes on which such a job has ended for no reason of its own.
Must not know: what follows from that, how such a job is submitted.

One job makes a table for many runs, of several sweeps, and no run says where the earlier ones have ended. So their
folders are read, and their scheduler is asked. One end is enough to keep the next job away from a node: there is no
other job beside it to compare with, and where it is not the node, `cluster.max_attempts` ends it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from launcher.cluster.job_state import BAD_ENDS, LAG_SECONDS, UNKNOWN, JobState, Phase
from launcher.cluster.scheduler import Scheduler, key_of, states
from launcher.errors import StoreError
from launcher.runs.black_holes import single
from launcher.runs.copies import original_of
from launcher.runs.moved import has_moved, log_and_words
from launcher.runs.run_state import AT_WORK, RunState
from launcher.runs.signs import last_words
from launcher.runs.status import why_no_table
from launcher.store.age import age, written
from launcher.store.facts import BatchRecord, Cause, Failure, Job
from launcher.store.files import read_fact
from launcher.store.output_folder import PreparingDir, Store
from launcher.store.run_folder import BATCH_PARTS
from launcher.submission.kept_away import HOLDS_SECONDS, SEVERAL, is_set_up_alike
from launcher.submission.reference_job import Preparation, preparation_of
from launcher.sweep import Run


@dataclass(frozen=True)
class Try:
    """One job that was to make a table: its folder, its record, and what its scheduler says."""

    folder: PreparingDir
    job: Job
    said: JobState

    @cached_property
    def failure(self) -> str | None:
        """Why it has made none, as it has recorded itself."""
        try:
            fact = read_fact(self.folder.failure_file, Failure)
        except StoreError as error:
            return str(error)
        return None if fact is None else fact.reason

    @property
    def has_failed(self) -> bool:
        """Whether it has ended without the table, and nobody has wanted that."""
        if self.failure is not None:
            return True
        is_young = self.said.phase is Phase.UNKNOWN and (age(self.folder.job_file) or 0.0) < LAG_SECONDS
        is_cancelled = self.said.phase is Phase.CANCELLED or self.folder.cancel_file.exists()
        return not (is_young or is_cancelled or self.said.phase in AT_WORK)

    @property
    def node(self) -> str | None:
        """The node on which it has ended, within a week, for no reason of its own that is known."""
        is_recent = (age(self.folder.batch_file) or 0.0) < HOLDS_SECONDS
        unexplained = self.failure is None and self.said.cause in (None, Cause.NODE_FAILED)
        unexplained = unexplained and not has_moved(self.job, self._root)
        return single(self.said.node) if self.said.phase is Phase.FAILED and unexplained and is_recent else None

    @property
    def reason(self) -> str:
        """Why it has made none."""
        failed = self.said.phase is Phase.FAILED
        job, words = log_and_words(self.job, self._root, last_words) if failed else (self.job, None)
        return why_no_table(job, self.failure, self.said, words, "nobody knows how it ended")

    @property
    def _root(self) -> Path:
        return self.folder.path.parents[BATCH_PARTS - 1]


@dataclass(frozen=True)
class Tries:
    """The jobs that were to make one table since there was one, or ever, oldest first."""

    all: tuple[Try, ...] = ()

    @cached_property
    def failed(self) -> int:
        """How many have failed; none where another is at work."""
        open_ = bool(self.all) and self.all[-1].said.phase in AT_WORK
        return 0 if open_ else sum(each.has_failed for each in self.all)

    @cached_property
    def reason(self) -> str:
        """Why the last of those has."""
        return next((each.reason for each in reversed(self.all) if each.has_failed), "")

    @cached_property
    def nodes(self) -> list[str]:
        """On which nodes they have ended for no reason of their own."""
        return [each.node for each in self.all if each.node]


@dataclass(frozen=True)
class Tables:
    """The same of all tables that the runs of a sweep need and that are not there; by the key of a preparation."""

    store: Store
    by_key: Mapping[str, Tries]

    def tries(self, run: Run) -> Tries:
        """Those for the table of this run."""
        preparation = preparation_of(run, self.store) if self.by_key else None
        return self.by_key.get(preparation.key, Tries()) if preparation else Tries()

    def away(self, run: Run) -> dict[str, str]:
        """The nodes from which the run, and the job that makes its table, are to keep away, each with the reason."""
        own = "the job for its reference table ended there before it was made"
        return {**dict.fromkeys(self.tries(run).nodes, own), **self._holes}

    @cached_property
    def _holes(self) -> dict[str, str]:
        """The nodes on which several of all these jobs have ended."""
        times = Counter(node for tries in self.by_key.values() for node in tries.nodes)
        return {node: f"{n} jobs for reference tables ended there" for node, n in times.items() if n >= SEVERAL}


def tables_of(runs: Sequence[Run], states_: Sequence[RunState], store: Store, scheduler: Scheduler) -> Tables:
    """What became of the jobs for these runs' tables; `states_`: how the runs are."""
    if not scheduler.detached:
        return Tables(store, {})
    made: dict[Preparation, float] = {}
    needing: dict[Preparation, Run] = {}
    for run, state in zip(runs, states_, strict=True):
        if (needed := preparation_of(run, store)) is not None:
            made[needed] = max(made.get(needed, 0.0), _had_table(state))
            needing.setdefault(needed, run)
    found = {
        preparation: _jobs_for(preparation, run, made[preparation])
        for preparation, run in needing.items()
        if preparation.jobs() and not preparation.is_done
    }
    asked = {key_of(job): job for jobs in found.values() for _, job in jobs}
    said = states(list(asked.values()), scheduler) if asked else {}
    return Tables(
        store,
        {
            preparation.key: Tries(tuple(Try(folder, job, said.get(key_of(job), UNKNOWN)) for folder, job in jobs))
            for preparation, jobs in found.items()
        },
    )


def _had_table(state: RunState) -> float:
    """When the run's last attempt was made, if that had its table: what was tried before is of no account; else 0.

    It had if it has made steps, or if its job began, having waited for another to make the table.
    """
    facts = state.facts
    job_began = facts.started or state.job.phase in (Phase.RUNNING, *BAD_ENDS - {Phase.CANCELLED})
    has = facts.trained or (facts.started and facts.step) or (facts.table and job_began)
    return facts.submitted if has else 0.0


def _jobs_for(preparation: Preparation, run: Run, after: float) -> list[tuple[PreparingDir, Job]]:
    """Those submitted since, to begin as the next one will."""
    since = max(after, written(preparation.done_file))
    own = [folder for folder in preparation.jobs() if original_of(folder.path) is None]
    folders = [folder for folder in own if written(folder.batch_file) > since]
    found = ((folder, _job_in(folder, run)) for folder in folders)
    return [(folder, job) for folder, job in found if job]


def _job_in(folder: PreparingDir, run: Run) -> Job | None:
    """Its job; None where there was none, it was set up otherwise, or a record cannot be read."""
    try:
        batch, job = read_fact(folder.batch_file, BatchRecord), read_fact(folder.job_file, Job)
    except StoreError:  # told where the next one is submitted
        return None
    return job if batch and is_set_up_alike(run, batch.resources) else None
