"""Jobs on this machine, as processes.

Owns: finding, starting, asking and ending them. Must not know: what a job does.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from launcher.cluster import node
from launcher.cluster.ambient import Ambient
from launcher.cluster.batch import Batch
from launcher.cluster.job_state import JobState, Phase
from launcher.cluster.offer import Offer
from launcher.config import Cluster
from launcher.machine.gpus import visible_gpus
from launcher.machine.processes import process_start
from launcher.machine.terminal import command
from launcher.store.facts import Job

NO_LIMIT_MINUTES = 60 * 24 * 365


class LocalScheduler:
    """Jobs on this machine, each a process of its own that outlives the launcher.

    All start at once; the worker's slots make them a queue.
    """

    name = "local"
    detached = False
    poll_seconds = 2.0
    runs_per_job = 100  # which pay imports and base weights once
    warned_early_seconds = 0  # nothing ends its jobs
    kept_options: Mapping[str, str | None] = {}
    signs_in_paths = ""
    cluster: str | None = None

    def missing(self) -> str | None:
        return None

    def is_here(self) -> bool:
        return True

    def batch_size(self, cluster: Cluster) -> int:  # noqa: ARG002 - the protocol's
        return 1

    def offer(self, cluster: Cluster) -> Offer:  # noqa: ARG002 - the protocol's
        return Offer()

    def ambient(self, cluster: Cluster) -> Ambient:  # noqa: ARG002 - the protocol's
        return Ambient()

    def script(self, batch: Batch) -> str:
        return command(sys.executable, "-u", "-m", "submitit.core._submit", batch.folder)

    def submit(self, batch: Batch) -> list[Job]:
        import submitit  # here, since asking for states and cancelling need none of it

        executor = submitit.LocalExecutor(folder=batch.folder)
        gpus = visible_gpus()[:1]
        executor.update_parameters(
            timeout_min=NO_LIMIT_MINUTES, stderr_to_stdout=True, gpus_per_node=len(gpus), visible_gpus=gpus
        )
        with _children_ignore_terminal():
            processes = [executor.submit(work) for work in batch.work]
        return [_record(batch, int(process.job_id)) for process in processes]

    def find(self, batch: Batch) -> list[Job] | None:
        import psutil  # here, since only a launcher that died makes this needed

        processes = psutil.process_iter(["cmdline"])
        controllers = [each.pid for each in processes if str(batch.folder) in (each.info["cmdline"] or [])[1:]]
        return [_record(batch, min(controllers))] if controllers else None  # the others are its children

    def states(self, jobs: Sequence[Job]) -> dict[str, JobState]:
        return {job.job_id: self._state(job) for job in jobs}

    def _state(self, job: Job) -> JobState:
        if job.host not in (None, socket.gethostname()):
            return JobState(Phase.RUNNING, f"was started on {job.host}; ask there", job.host, only_there=True)
        return JobState(Phase.RUNNING if _is_alive(job) else Phase.FAILED, None, job.host)

    def cancel(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            if job.host == socket.gethostname() and _is_alive(job):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(job.job_id), signal.SIGTERM)  # submitit's controller passes it on to the run


def _record(batch: Batch, pid: int) -> Job:
    return replace(_process_record(pid), log=str(batch.folder / f"{pid}_0_log.out"))


def _process_record(pid: int) -> Job:
    return Job(str(pid), LocalScheduler.name, host=socket.gethostname(), process_start=process_start(pid))


def this_process() -> Job:
    """This process as a job: a queue's, where it is a task of one, else a local one."""
    task = node.queued()
    return Job(task.job_id, task.executor) if task else _process_record(os.getpid())


def _is_alive(job: Job) -> bool:
    start = process_start(int(job.job_id)) if job.job_id.isdigit() else None
    return start is not None and start == job.process_start


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
