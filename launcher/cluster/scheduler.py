"""Where jobs go: the Scheduler protocol, the table of executors, which to use, and which one to ask about a job.

Owns: what an executor must do, their names, and the choice. Must not know: how one does it (`local`, `slurm`), what a
run is; a job is a folder with a list of work in it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol, runtime_checkable

from launcher.cluster.ambient import Ambient
from launcher.cluster.batch import Batch
from launcher.cluster.job_state import JobState, Phase
from launcher.cluster.local import LocalScheduler
from launcher.cluster.offer import Offer
from launcher.cluster.slurm import SlurmScheduler
from launcher.config import Cluster
from launcher.errors import ConfigError, NotCancelled, SchedulerError
from launcher.store.facts import Job

JobKey = tuple[str, str | None, str]  # executor, cluster, job id
AUTO = "auto"  # the first executor that is here


class Scheduler(Protocol):
    """What an executor must do. `tests/fakes.py` has one that runs nothing."""

    name: str
    detached: bool  # whether jobs outlive the machine on which they were submitted
    poll_seconds: float  # how long to wait between two questions
    runs_per_job: int  # where the config says nothing
    warned_early_seconds: int  # how much earlier than it was told it may send `node.WARNING`
    signs_in_paths: str  # characters that it would take for something else in the path of a log
    kept_options: Mapping[str, str | None]  # that `cluster.extra` may not change, and the key that says it
    switches: Collection[str] | None  # the options of `cluster.extra` that take no value; None: it has no options

    @property
    def cluster(self) -> str | None:
        """The name of the cluster that answers here; None where it does not say, or where there is none."""
        ...

    def missing(self) -> str | None:
        """What this machine lacks to hand over jobs; None where nothing."""
        ...

    def is_here(self) -> bool:
        """Whether `auto` is this one.

        Raises:
            SchedulerError: that is not known.
        """
        ...

    def reaches(self, cluster: str) -> bool:
        """Whether jobs of the cluster of that name can be asked for and cancelled from here."""
        ...

    def destination(self, cluster: Cluster) -> str | None:
        """The name of the cluster to which jobs of these resources go; None where there is none, or nobody says.

        Raises:
            ConfigError: there is no cluster of the name that these give.
            SchedulerError: there is, and it does not answer.
        """
        ...

    def batch_size(self, cluster: Cluster) -> int:
        """How many jobs of these resources may be handed over in one piece."""
        ...

    def at_once(self, cluster: Cluster) -> int | None:
        """How many jobs of these resources work at a time at most; None: nothing here limits them."""
        ...

    def slots(self, cluster: Cluster) -> int | None:
        """How many jobs of an output folder may work at a time, to which they see themselves; None: nobody need."""
        ...

    def offer(self, cluster: Cluster) -> Offer:
        """What a job of these resources may have; nothing is known where the executor does not answer."""
        ...

    def ambient(self, cluster: Cluster) -> Ambient:
        """What the environment says of jobs of these resources, beside the configuration."""
        ...

    def replaced(self, cluster: Cluster) -> Mapping[str, Sequence[str]]:
        """The keys of `cluster` in whose place options of `cluster.extra` stand, each with these; a job has one."""
        ...

    def script(self, batch: Batch) -> str:
        """What will be executed, for the eyes of the user."""
        ...

    def submit(self, batch: Batch) -> list[Job]:
        """Submit; of each job, what is needed to find it again.

        Raises:
            Refused: nothing was submitted.
            SchedulerError: nobody knows.
        """
        ...

    def find(self, batch: Batch) -> list[Job] | None:
        """What `submit` would have returned for a batch that was handed over; None where there is none."""
        ...

    def states(self, jobs: Sequence[Job]) -> dict[str, JobState]:
        """The state of each of these jobs of one cluster that is known, by job id, in one question for all."""
        ...

    def cancel(self, jobs: Sequence[Job]) -> None:
        """Ask these jobs of one cluster to stop; those that have ended are left alone."""
        ...


@runtime_checkable
class ClusterScheduler(Scheduler, Protocol):
    """An executor of other machines than this one, at which `doctor` can look."""

    def survey(self, cluster: Cluster) -> tuple[list[tuple[str, str]], str]:
        """What the cluster offers to which such jobs go: lines for the user, each with its name, and a file that fits.

        The file is one for conf/cluster.
        """
        ...

    def run_and_wait(self, batch: Batch, module: str, seconds: float) -> str | None:
        """Run `python -m MODULE FOLDER` as a job of the batch's resources; its id, or None where it did not end well.

        Raises:
            SchedulerError: it was refused, or had not ended after so many seconds; it is cancelled then.
        """
        ...


EXECUTORS: dict[str, Callable[[], Scheduler]] = {"slurm": SlurmScheduler, "local": LocalScheduler}
"""By name; `auto` asks them in this order, and this machine is always here."""


def scheduler_for(executor: str, *, may_lack: bool = False) -> Scheduler:
    """The executor of that name, or for `auto` the first that is here: a cluster's, else this machine.

    `may_lack`: also one that is named and is not here, for a plan of what is launched elsewhere.

    Raises:
        ConfigError: there is no such executor here.
        SchedulerError: for `auto`, whether a cluster is here is not known.
    """
    if executor == AUTO:
        return next(found for make in EXECUTORS.values() if (found := make()).is_here())
    if executor not in EXECUTORS:
        raise ConfigError("cluster.executor", executor, f"must be one of {', '.join((AUTO, *sorted(EXECUTORS)))}")
    scheduler = EXECUTORS[executor]()
    missing = scheduler.missing()
    if missing is not None and not may_lack:
        raise ConfigError("cluster.executor", executor, f"{missing}; on one machine use cluster=local")
    return scheduler


def scheduler_to_ask() -> Scheduler:
    """The executor of `auto` for what submits nothing: a cluster's where nobody says whether it is here."""
    with contextlib.suppress(SchedulerError):
        return scheduler_for(AUTO)
    return next(found for make in EXECUTORS.values() if (found := make()).missing() is None)


def _meant(executor: str) -> list[Scheduler]:
    """The cluster's executor of that name; else all, since the same configuration may yet go to any of them."""
    every = {name: make() for name, make in EXECUTORS.items()}
    named = every.get(executor)
    return [named] if named is not None and named.detached else list(every.values())


def warned_early_seconds(executor: str) -> int:
    """How much earlier than configured a job of that executor may be warned of its time limit, at most."""
    return max(each.warned_early_seconds for each in _meant(executor))


def kept_options(executor: str) -> dict[str, str | None]:
    """The options of that executor on which the launcher counts, each with the key that says it, if one does."""
    return {option: home for each in _meant(executor) for option, home in each.kept_options.items()}


def switches(executor: str) -> frozenset[str] | None:
    """The options of that executor that take no value; None where it has no options."""
    found = [each.switches for each in _meant(executor) if each.switches is not None]
    return frozenset().union(*found) if found else None


def said_by_environment() -> frozenset[str]:
    """The keys, `cluster.KEY`, that the environment says to some executor where the configuration leaves them open."""
    return frozenset(f"cluster.{key}" for make in EXECUTORS.values() for key in make().ambient(Cluster()).keys)


def replaced(cluster: Cluster) -> dict[str, Sequence[str]]:
    """The keys of `cluster` in whose place options of `cluster.extra` stand, each with these."""
    return {key: options for each in _meant(cluster.executor) for key, options in each.replaced(cluster).items()}


def key_of(job: Job) -> JobKey:
    """What tells a job from all others: a process may have the number of a cluster's job, and another's job too."""
    return job.executor, job.cluster, job.job_id


def is_elsewhere(cluster: str | None, scheduler: Scheduler) -> bool:
    """Whether what is there, if it is a cluster, cannot be found by way of `scheduler`."""
    return cluster is not None and scheduler.cluster is not None and not scheduler.reaches(cluster)


def can_wait_for(job: Job, resources: Cluster, scheduler: Scheduler) -> bool:
    """Whether jobs of these resources can wait for that one: it is on the cluster to which they go."""
    where = scheduler.destination(resources)
    return job.executor == scheduler.name and (where is None or job.cluster in (None, where))


def _is_known(executor: str, scheduler: Scheduler) -> bool:
    return executor in (scheduler.name, *EXECUTORS)


def recorded(executor: str, scheduler: Scheduler) -> Scheduler:
    """The executor that a fact names: `scheduler`, or another.

    Raises:
        SchedulerError: another version has written the fact, and this one does not know the executor.
    """
    if not _is_known(executor, scheduler):
        raise SchedulerError(f"a job cannot be reached: {_unknown(executor)}")
    return scheduler if executor == scheduler.name else scheduler_for(executor)


def _unknown(executor: str) -> str:
    return f"its executor is {executor}, which this version does not know"


def _by_place(jobs: Sequence[Job]) -> dict[tuple[str, str | None], list[Job]]:
    """The jobs of each executor and cluster: within one, an id is that of one job."""
    places: dict[tuple[str, str | None], list[Job]] = {}
    for job in jobs:
        places.setdefault((job.executor, job.cluster), []).append(job)
    return places


def states(jobs: Sequence[Job], scheduler: Scheduler) -> dict[JobKey, JobState]:
    """The state of each job, asked of the executor that has it: `scheduler`, or another.

    A job that another version has submitted is taken to be at work, so that nobody trains its run beside it.
    """
    answers: dict[JobKey, JobState] = {}
    for (name, cluster), mine in _by_place(jobs).items():
        if _is_known(name, scheduler):
            told = recorded(name, scheduler).states(mine)
            answers |= {(name, cluster, job_id): state for job_id, state in told.items()}
        else:
            answers |= {key_of(job): JobState(Phase.RUNNING, _unknown(name), job.host) for job in mine}
    return answers


class Unreached(SchedulerError):
    """Jobs that could not be asked to stop; they may go on."""

    def __init__(self, said: Sequence[str], jobs: Collection[JobKey]) -> None:
        super().__init__("; ".join(dict.fromkeys(said)))
        self.jobs = frozenset(jobs)


def cancel(jobs: Sequence[Job], scheduler: Scheduler) -> None:
    """Ask these jobs to stop, each through the executor that has it.

    Where an executor does not say which jobs it has reached, none of that user on that cluster or machine was.

    Raises:
        Unreached: names those that were not reached, and why; the others have been asked.
    """
    places: dict[tuple[str | None, ...], list[Job]] = {}
    for job in jobs:
        places.setdefault((job.executor, job.cluster, job.user, job.host), []).append(job)
    said: list[str] = []
    missed: list[JobKey] = []
    for (name, *_), mine in places.items():
        try:
            recorded(str(name), scheduler).cancel(mine)
        except (SchedulerError, ConfigError) as error:
            left = [each for each in mine if not isinstance(error, NotCancelled) or each.job_id in error.jobs]
            missed += map(key_of, left)
            said.append(str(error))
    if said:
        raise Unreached(said, missed)
