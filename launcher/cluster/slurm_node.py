"""SLURM as a process on a node sees it: which task of which job it is, and going back into the queue.

Owns: the variables that SLURM sets in a job, `scontrol requeue`. Must not know: runs, signals.

A batch script has SLURM_JOB_ID and SLURM_PROCID too; srun alone sets SLURM_STEP_*, and so makes several tasks.
"""

from __future__ import annotations

import re
import socket
import subprocess
import time
from collections.abc import Mapping

from launcher.cluster.task import Task

ANSWER_SECONDS = 60
AVOID_TIMES = 5
_START = ("SLURM_JOB_ID", "SLURM_RESTART_COUNT", "SLURM_STEP_ID")  # these name a start of a job


def task(environment: Mapping[str, str]) -> Task | None:
    """The task that a process with these variables is; None where SLURM has not started it."""
    if not (environment.get("SLURM_JOB_ID") and environment.get("SLURM_PROCID")):
        return None
    size = int(environment.get("SLURM_STEP_NUM_TASKS", "1"))
    return Task(
        executor="slurm",
        job_id=_job_id(environment),
        rank=int(environment["SLURM_PROCID"]),
        size=size,
        local=int(environment.get("SLURM_LOCALID", "0")),
        local_size=_tasks_on_node(environment, size),
        start="-".join(["slurm", *(environment.get(name) or "0" for name in _START)]),
        node=environment.get("SLURMD_NODENAME") or socket.gethostname(),
        origin=environment.get("SLURM_LAUNCH_NODE_IPADDR") or None,
        cores=int(environment.get("SLURM_CPUS_PER_TASK") or 0) or None,
        restart=int(environment.get("SLURM_RESTART_COUNT") or 0),
    )


def _job_id(environment: Mapping[str, str]) -> str:
    array, index = environment.get("SLURM_ARRAY_JOB_ID"), environment.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{index}" if array and index else environment["SLURM_JOB_ID"]


def _tasks_on_node(environment: Mapping[str, str], size: int) -> int:
    """This node's entry in SLURM's `4(x2),3`: four tasks on each of two nodes, then three on one."""
    parts = re.findall(r"(\d+)(?:\(x(\d+)\))?", environment.get("SLURM_STEP_TASKS_PER_NODE", str(size)))
    tasks = [int(count) for count, nodes in parts for _ in range(int(nodes or 1))]
    return tasks[int(environment.get("SLURM_NODEID", "0"))]


def requeue(job_id: str, without: str | None = None) -> str | None:
    """Put the job back into the queue, which ends this process; what SLURM complained of, where it refused.

    The nodes to avoid can be changed of a job that waits, and of no other: so they are once it is back, in the seconds
    that it is given to end. Where that fails, it may start where it was.
    """
    complaint = _complaint(["scontrol", "requeue", job_id])
    if complaint is None and without is not None:
        _avoid(job_id, without)
    return complaint


def _avoid(job_id: str, node: str) -> None:
    avoided = re.search(r"ExcNodeList=(\S+)", _answer(["scontrol", "show", "job", job_id]).stdout)
    nodes = ",".join(name for name in (avoided and avoided[1], node) if name and name != "(null)")
    for _ in range(AVOID_TIMES):  # the end of the job step reaches what we start, too
        if _complaint(["scontrol", "update", f"JobId={job_id}", f"ExcNodeList={nodes}"]) is None:
            return
        time.sleep(1)


def _complaint(command: list[str]) -> str | None:
    try:
        done = _answer(command)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return done.stderr.strip() or f"exit code {done.returncode}" if done.returncode else None


def _answer(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_SECONDS, check=False)
