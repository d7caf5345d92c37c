"""Jobs on this machine, as processes.

Owns: finding, starting, asking and ending them. Must not know: what a job does.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from launcher.cluster import node
from launcher.cluster.ambient import Ambient
from launcher.cluster.batch import Batch
from launcher.cluster.job_state import JobState, Phase
from launcher.cluster.offer import Offer
from launcher.config import Cluster
from launcher.errors import NotCancelled
from launcher.machine import rights
from launcher.machine.dealing import WAITS, WANTED
from launcher.machine.gpus import VISIBLE, visible_gpus
from launcher.machine.processes import process_start
from launcher.machine.terminal import command
from launcher.machine.users import called
from launcher.store.facts import Job

# What says how threads of OpenMP wait for each other. By default they spin, which beside other work takes the time that
# it needs; none of these changes what is computed.
WAITING = {"OMP_WAIT_POLICY": "passive"}
ALSO_OF_WAITING = ("GOMP_SPINCOUNT", "KMP_BLOCKTIME")
THREADS = "OMP_NUM_THREADS"
LAST_BYTES = 4096  # of a log, for its last line


class LocalScheduler:
    """Jobs on this machine, each a process of its own that outlives the launcher.

    All start at once; that the worker waits for a slot, and for free GPUs, makes them a queue.
    """

    name = "local"
    detached = False
    poll_seconds = 2.0
    runs_per_job = 100  # which pay imports and base weights once
    warned_early_seconds = 0  # nothing ends its jobs
    kept_options: Mapping[str, str | None] = {}
    switches: Collection[str] | None = None
    signs_in_paths = ""
    cluster: str | None = None

    def missing(self) -> str | None:
        return None

    def is_here(self) -> bool:
        return True

    def reaches(self, cluster: str) -> bool:  # noqa: ARG002 - the protocol's
        return False

    def destination(self, cluster: Cluster) -> str | None:  # noqa: ARG002 - the protocol's
        return None

    def batch_size(self, cluster: Cluster) -> int:  # noqa: ARG002 - the protocol's
        return 1

    def at_once(self, cluster: Cluster) -> int | None:
        return _at_once(cluster)

    def slots(self, cluster: Cluster) -> int | None:
        return cluster.max_parallel or (None if _gpus_of(cluster) else 1)

    def offer(self, cluster: Cluster) -> Offer:  # noqa: ARG002 - the protocol's
        return Offer()

    def ambient(self, cluster: Cluster) -> Ambient:  # noqa: ARG002 - the protocol's
        return Ambient()

    def replaced(self, cluster: Cluster) -> Mapping[str, Sequence[str]]:  # noqa: ARG002 - the protocol's
        return {}

    def script(self, batch: Batch) -> str:
        return command(sys.executable, "-u", "-m", "submitit.core._submit", batch.folder)

    def submit(self, batch: Batch) -> list[Job]:
        from launcher.cluster.local_job import Executor  # here: asking for states and cancelling need no submitit

        executor = Executor(batch.folder, max(1, _gpus_of(batch.resources)), job_environment(batch.resources))
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
        return (
            JobState(Phase.RUNNING, _waits_for(job), job.host)
            if _is_alive(job)
            else JobState(Phase.FAILED, None, job.host)
        )

    def cancel(self, jobs: Sequence[Job]) -> None:
        anothers = []
        for job in jobs:
            if job.host == socket.gethostname() and _is_alive(job):
                try:
                    os.kill(int(job.job_id), signal.SIGTERM)  # which is passed on to its ranks
                except ProcessLookupError:
                    continue
                except PermissionError:
                    anothers.append(job.job_id)
        if anothers:
            whose = ", ".join(f"process {pid} is {rights.owner_of(Path('/proc', pid))}'s" for pid in anothers)
            raise NotCancelled(f"{whose}, who alone can end it", anothers)


def _gpus_of(cluster: Cluster) -> int:
    """How many GPUs each job takes; none on a machine without, where it computes on the cores."""
    return cluster.gpus_per_node if visible_gpus() else 0


def _at_once(cluster: Cluster) -> int:
    """How many jobs are at work at the same time, at most."""
    gpus = _gpus_of(cluster)
    here = max(1, len(visible_gpus()) // gpus) if gpus else cluster.max_parallel or 1
    return min(here, cluster.max_parallel or here)


def job_environment(cluster: Cluster, ours: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables of a job: its share of the cores, and the GPUs of which it takes some, or how its threads wait.

    A GPU that we do not see (of AMD's, say) is hidden only from who wants none: torch may find it.
    """
    wanted, jobs = _gpus_of(cluster), _at_once(cluster)
    share = max(1, len(os.sched_getaffinity(0)) // (jobs * max(1, wanted)))
    threads = {THREADS: str(share)} if jobs > 1 and THREADS not in ours else {}  # more than cores slow all of them
    if wanted:
        return {**ours, **threads, VISIBLE: ",".join(visible_gpus()), WANTED: str(wanted)}
    waiting = {} if {*WAITING, *ALSO_OF_WAITING} & set(ours) else WAITING
    hidden = {VISIBLE: ""} if VISIBLE in ours or not cluster.gpus_per_node or visible_gpus() else {}
    return {**{name: value for name, value in ours.items() if name != WANTED}, **threads, **hidden, **waiting}


def _record(batch: Batch, pid: int) -> Job:
    return replace(_process_record(pid), log=str(batch.folder / f"{pid}_0_log.out"))


def _process_record(pid: int) -> Job:
    start, owner = process_start(pid), os.getuid()
    with contextlib.suppress(FileNotFoundError):
        owner = Path("/proc", str(pid)).stat().st_uid
    return Job(str(pid), LocalScheduler.name, host=socket.gethostname(), process_start=start, user=called(owner))


def this_process() -> Job:
    """This process as a job: a queue's, where it is a task of one, else a local one."""
    task = node.queued()
    mine = _process_record(os.getpid())
    return Job(task.job_id, task.executor, user=mine.user, cluster=task.cluster) if task else mine


def _is_alive(job: Job) -> bool:
    start = process_start(int(job.job_id)) if job.job_id.isdigit() else None
    return start is not None and start == job.process_start


def _waits_for(job: Job) -> str | None:
    """The GPUs for which a job waits, as the last line of its log says; None once it has them."""
    try:
        with Path(job.log or os.devnull).open("rb") as log:
            log.seek(max(0, os.fstat(log.fileno()).st_size - LAST_BYTES))
            last = log.read().decode("utf-8", "replace").rstrip().rpartition("\n")[2]
    except OSError:
        return None
    begins, *_, ends = WAITS.split("{}")
    return last if last.startswith(begins) and last.endswith(ends) else None


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
