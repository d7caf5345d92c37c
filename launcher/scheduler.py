"""Where jobs go: the Scheduler protocol and its executors. The only importer of submitit and subprocess.

Owns: turning a JobSpec into a running process, and the executor's words into `status.Phase`.
Must not know: what a run is, what a fact means; a job is a folder with a list of work in it.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import shlex
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from launcher.config import Cluster, ConfigError
from launcher.status import JobState, Phase
from launcher.store import Fact

NO_LIMIT_MINUTES = 60 * 24 * 365


@dataclass(frozen=True)
class JobSpec:
    """One job: its name, the folder that lists its work and takes its logs, and what it needs."""

    name: str
    folder: Path
    resources: Cluster


@dataclass(frozen=True)
class Work:
    """What is pickled: one path. The configuration on disk is the record, so that a job never replays stale state."""

    folder: str

    def __call__(self) -> None:
        importlib.import_module("launcher.worker.job").work(Path(self.folder))


class Scheduler(Protocol):
    """What an executor must do. `tests/fakes.py` has one that runs nothing."""

    name: str
    detached: bool  # whether jobs outlive the machine on which they were submitted

    def script(self, job: JobSpec) -> str:
        """What will be executed, for the eyes of the user."""
        ...

    def submit(self, job: JobSpec) -> Fact:
        """Submit and return what is needed to find the job again: `executor`, `job_id` and the executor's own."""
        ...

    def states(self, jobs: Sequence[Fact]) -> dict[str, JobState]:
        """The state of each job, by job id, in one question for all."""
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

    def script(self, job: JobSpec) -> str:
        return shlex.join([sys.executable, "-u", "-m", "submitit.core._submit", str(job.folder)])

    def submit(self, job: JobSpec) -> Fact:
        import submitit  # here, since asking for states and cancelling need none of it

        executor = submitit.LocalExecutor(folder=job.folder)
        gpus = visible_gpus()[:1]
        executor.update_parameters(
            timeout_min=NO_LIMIT_MINUTES, stderr_to_stdout=True, gpus_per_node=len(gpus), visible_gpus=gpus
        )
        with _children_ignore_terminal():
            process = executor.submit(Work(str(job.folder)))
        return _process_record(int(process.job_id))

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


def _process_record(pid: int) -> Fact:
    return {
        "executor": LocalScheduler.name,
        "job_id": str(pid),
        "host": socket.gethostname(),
        "process_start": process_start(pid),
    }


def this_process() -> Fact:
    """This process as a local job."""
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
    """The executor of that name; `auto` is the best that there is here.

    Raises:
        ConfigError: there is no such executor.
    """
    if executor == "slurm":
        raise ConfigError("cluster.executor=slurm: not supported yet; use cluster=local")
    return LocalScheduler()
