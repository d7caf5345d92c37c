"""Where jobs go: the Scheduler protocol, this machine as an executor, and which executor to use.

Owns: turning a batch into running processes, and the executor's words into `status.Phase`. With `slurm`, the only
importer of submitit.
Must not know: what a run is, what a fact means; a job is a folder with a list of work in it.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from launcher.config import Cluster, ConfigError
from launcher.files import Fact
from launcher.jobs import Batch
from launcher.status import JobState, Phase

NO_LIMIT_MINUTES = 60 * 24 * 365
JobKey = tuple[str, str]  # executor, job id


class Scheduler(Protocol):
    """What an executor must do. `tests/fakes.py` has one that runs nothing."""

    name: str
    detached: bool  # whether jobs outlive the machine on which they were submitted
    poll_seconds: float  # how long to wait between two questions
    runs_per_job: int  # where the config says nothing

    def batch_size(self, cluster: Cluster) -> int:
        """How many jobs of these resources may be handed over in one piece."""
        ...

    def script(self, batch: Batch) -> str:
        """What will be executed, for the eyes of the user."""
        ...

    def submit(self, batch: Batch) -> list[Fact]:
        """Submit; of each job, what is needed to find it again: `executor`, `job_id` and the executor's own.

        Raises:
            Refused: nothing was submitted.
            SchedulerError: nobody knows.
        """
        ...

    def find(self, batch: Batch) -> list[Fact] | None:
        """What `submit` would have returned for a batch that was handed over; None where there is none."""
        ...

    def states(self, jobs: Sequence[Fact]) -> dict[str, JobState]:
        """The state of each job that is known, by job id, in one question for all."""
        ...

    def cancel(self, jobs: Sequence[Fact]) -> None:
        """Ask these jobs to stop; those that have ended are left alone."""
        ...


class LocalScheduler:
    """Jobs on this machine, each a process of its own that outlives the launcher.

    All start at once; the worker's slots make them a queue.
    """

    name = "local"
    detached = False
    poll_seconds = 2.0
    runs_per_job = 100  # which pay imports and base weights once

    def batch_size(self, cluster: Cluster) -> int:  # noqa: ARG002 - the protocol's
        return 1

    def script(self, batch: Batch) -> str:
        return shlex.join([sys.executable, "-u", "-m", "submitit.core._submit", str(batch.folder)])

    def submit(self, batch: Batch) -> list[Fact]:
        import submitit  # here, since asking for states and cancelling need none of it

        executor = submitit.LocalExecutor(folder=batch.folder)
        gpus = visible_gpus()[:1]
        executor.update_parameters(
            timeout_min=NO_LIMIT_MINUTES, stderr_to_stdout=True, gpus_per_node=len(gpus), visible_gpus=gpus
        )
        with _children_ignore_terminal():
            processes = [executor.submit(work) for work in batch.work]
        return [_record(batch, int(process.job_id)) for process in processes]

    def find(self, batch: Batch) -> list[Fact] | None:
        controllers = [pid for pid in _processes() if str(batch.folder) in _command(pid)[1:]]
        return [_record(batch, min(controllers))] if controllers else None  # the others are its children

    def states(self, jobs: Sequence[Fact]) -> dict[str, JobState]:
        return {job["job_id"]: self._state(job) for job in jobs}

    def _state(self, job: Fact) -> JobState:
        node = str(job["host"])
        if node != socket.gethostname():
            return JobState(Phase.RUNNING, f"was started on {node}; ask there", node)
        return JobState(Phase.RUNNING if _is_alive(job) else Phase.FAILED, None, node)

    def cancel(self, jobs: Sequence[Fact]) -> None:
        for job in jobs:
            if job["host"] == socket.gethostname() and _is_alive(job):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(job["job_id"]), signal.SIGTERM)  # submitit's controller passes it on to the run


def _record(batch: Batch, pid: int) -> Fact:
    return {**_process_record(pid), "log": str(batch.folder / f"{pid}_0_log.out")}


def _process_record(pid: int) -> Fact:
    return {
        "executor": LocalScheduler.name,
        "job_id": str(pid),
        "host": socket.gethostname(),
        "process_start": process_start(pid),
    }


def this_process() -> Fact:
    """This process as a job: of SLURM, where it is a task of one, else a local one."""
    job_id = os.environ.get("SLURM_JOB_ID")
    if job_id and os.environ.get("SLURM_PROCID"):
        return {"executor": "slurm", "job_id": job_id}
    return _process_record(os.getpid())


def visible_gpus() -> list[int]:
    """The indices of this machine's NVIDIA GPUs, less those that CUDA_VISIBLE_DEVICES hides."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [int(index) for index in named.split(",") if index.strip().isdigit()]
    return sorted(int(file.name[6:]) for file in Path("/dev").glob("nvidia[0-9]*") if file.name[6:].isdigit())


def process_start(pid: int) -> int | None:
    """When a process started, in clock ticks since boot: tells it from a later one with the same pid."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[19])


def _processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _command(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8", errors="replace").split("\0")
    except OSError:
        return []


def _is_alive(job: Fact) -> bool:
    start = process_start(int(job["job_id"]))
    return start is not None and start == job["process_start"]


@contextlib.contextmanager
def _children_ignore_terminal() -> Iterator[None]:
    """Processes started within ignore Ctrl-C and a closed terminal, which are meant for the launcher alone."""
    signals = (signal.SIGINT, signal.SIGHUP)
    before = [signal.signal(number, signal.SIG_IGN) for number in signals]
    try:
        yield
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)


def scheduler_for(executor: str) -> Scheduler:
    """The executor of that name; `auto` is SLURM where this machine knows of a cluster, else this machine.

    Raises:
        ConfigError: there is no such executor here.
    """
    from launcher import slurm

    if executor == "slurm" and shutil.which("sbatch") is None:
        raise ConfigError("cluster.executor=slurm: there is no sbatch on the PATH; on one machine use cluster=local")
    if executor == "slurm" or (executor == "auto" and shutil.which("sbatch") and slurm.is_here()):
        return slurm.SlurmScheduler()
    return LocalScheduler()


def key_of(job: Fact) -> JobKey:
    """What tells a job from all others: a process may have the number of a SLURM job."""
    return str(job["executor"]), str(job["job_id"])


def _by_executor(jobs: Sequence[Fact], scheduler: Scheduler) -> Iterator[tuple[Scheduler, list[Fact]]]:
    for name in dict.fromkeys(str(job["executor"]) for job in jobs):
        mine = [job for job in jobs if job["executor"] == name]
        yield (scheduler if scheduler.name == name else scheduler_for(name)), mine


def states(jobs: Sequence[Fact], scheduler: Scheduler) -> dict[JobKey, JobState]:
    """The state of each job, asked of the executor that has it: `scheduler`, or another."""
    answers: dict[JobKey, JobState] = {}
    for executor, mine in _by_executor(jobs, scheduler):
        answers |= {(executor.name, job_id): state for job_id, state in executor.states(mine).items()}
    return answers


def cancel(jobs: Sequence[Fact], scheduler: Scheduler) -> None:
    """Ask these jobs to stop, each through the executor that has it."""
    for executor, mine in _by_executor(jobs, scheduler):
        executor.cancel(mine)
