"""SLURM as a process on a node sees it: which task of which job it is, how long it has, going back into the queue.

Owns: the variables that SLURM sets in a job, `scontrol requeue`, what the job's script is asked for. Must not know:
runs, signals.

Within a container there is no scontrol, and a controller may be away for a while. So the script that has started the
tasks, outside, asks once more where a task could not (slurm/requeue.sh): the task leaves it a request, in the file that
the script has named, and ends with REQUEST_CODE. Either will do: on a full disk there is no file, and a task that a
signal has killed hides the code of the others.

A batch script has SLURM_JOB_ID and SLURM_PROCID too; srun alone sets SLURM_STEP_*, and so makes several tasks.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from launcher.cluster.node_list import members, names
from launcher.cluster.offer import Offer
from launcher.cluster.task import Task
from launcher.store.facts import Failure
from launcher.store.files import plain

ANSWER_SECONDS = 60
AVOID_TIMES = 5
END_ANSWER_SECONDS = 10  # to be told how much time is left: it passes meanwhile
WARNED_LATE_SECONDS = 30  # SLURM looks at its jobs' limits that often
PLAUSIBLE_SECONDS = (-60, 120)  # what is left where two clocks agree: before the limit, and above what was warned of
REQUEST = "PREFSWEEP_REQUEST"  # set by the job's script: the file by which a task asks it to put the job back
REQUEST_CODE = 250  # above what shells make of signals (128 to 192), below 255, which ssh and apptainer use
COMPLAINT = "@COMPLAINT@"  # stands in a request for what SLURM will have complained of
END_TIME = re.compile(r"\bEndTime=(\d+-\d+-\d+T\d+:\d+:\d+)")  # in an answer of `scontrol show job`
NODES_COMMAND = ["scontrol", "show", "node", "-o"]
NODE = re.compile(r"^NodeName=(\S+).*?\bState=(\S+).*?\bPartitions=(\S+)", re.MULTILINE)  # in its answer
# In a node's state: no job begins there for now, and may never. The star is that of one that does not respond.
NOT_TO_BE_HAD = re.compile(
    r"\*|\b(DOWN|DRAIN\w*|FAIL\w*|MAINT\w*|NOT_RESPONDING|NO_RESPOND|RESERVED|INVAL\w*|UNKNOWN)\b"
)
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
        index=int(environment.get("SLURM_ARRAY_TASK_ID") or 0),
        node=environment.get("SLURMD_NODENAME") or socket.gethostname(),
        origin=environment.get("SLURM_LAUNCH_NODE_IPADDR") or None,
        cores=int(environment.get("SLURM_CPUS_PER_TASK") or 0) or None,
        restart=int(environment.get("SLURM_RESTART_COUNT") or 0),
        cluster=environment.get("SLURM_CLUSTER_NAME") or None,
    )


def _job_id(environment: Mapping[str, str]) -> str:
    array, index = environment.get("SLURM_ARRAY_JOB_ID"), environment.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{index}" if array and index else environment["SLURM_JOB_ID"]


def _tasks_on_node(environment: Mapping[str, str], size: int) -> int:
    """This node's entry in SLURM's `4(x2),3`: four tasks on each of two nodes, then three on one."""
    parts = re.findall(r"(\d+)(?:\(x(\d+)\))?", environment.get("SLURM_STEP_TASKS_PER_NODE", str(size)))
    tasks = [int(count) for count, nodes in parts for _ in range(int(nodes or 1))]
    return tasks[int(environment.get("SLURM_NODEID", "0"))]


def requeue(job_id: str, refused: Mapping[Path, Failure], without: str | None) -> str | None:
    """Put the job back into the queue, which ends this process; what SLURM complained of, where it refused.

    Args:
        job_id: the job.
        refused: what is to be recorded, and where, by the job's script, should SLURM refuse it as well.
        without: a node on which it is not to start again. That can be said of a job that waits, and of no other: so it
            is once the job is back, in the seconds that this process is given to end; else it may start where it was.
    """
    said = _complaint(["scontrol", "requeue", job_id])
    if said is None and without is not None:
        _avoid(job_id, without)
    if said is not None and REQUEST in os.environ:
        _ask_the_script(Path(os.environ[REQUEST]), refused)
        os._exit(REQUEST_CODE)
    return said


def spares(job_id: str, node: str) -> bool:
    """Whether enough nodes are left to the job without that one; where SLURM does not say, it is thought so.

    Those count that a job can have now: one that is drained may stay so for weeks, while the job waits.
    """
    try:
        job, there = (_answer(command).stdout for command in (_show(job_id), NODES_COMMAND))
    except (OSError, subprocess.TimeoutExpired):
        return True
    partition, nodes = re.search(r"\bPartition=(\S+)", job), re.search(r"\bNumNodes=(\d+)", job)
    if partition is None or nodes is None:
        return True
    avoided = {*members(_avoided(job)), node}
    usable = [
        {name for name, state, of in NODE.findall(there) if each in of.split(",") and not NOT_TO_BE_HAD.search(state)}
        for each in partition[1].split(",")
    ]
    return all(Offer(len(each)).has_enough(int(nodes[1]), each & avoided) for each in usable if each)


def _show(job_id: str) -> list[str]:
    return ["scontrol", "show", "job", job_id]


def _avoided(job: str) -> list[str]:
    found = re.search(r"\bExcNodeList=(\S+)", job)
    return names(found[1]) if found and found[1] != "(null)" else []


def _avoid(job_id: str, node: str) -> None:
    nodes = ",".join([*_avoided(_answer(_show(job_id)).stdout), node])
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


def _answer(command: list[str], seconds: float = ANSWER_SECONDS) -> subprocess.CompletedProcess[str]:
    """What this node's own cluster answers, whichever one the variable means that a user has set elsewhere."""
    own = {name: value for name, value in os.environ.items() if name != "SLURM_CLUSTERS"}
    return subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False, env=own)


def _ask_the_script(request: Path, refused: Mapping[Path, Failure]) -> None:
    """Leave the request: for each fact its file's path in a line, and its JSON in the next."""
    lines = [line for path, fact in refused.items() for line in (str(path), json.dumps(plain(fact)))]
    with contextlib.suppress(OSError):  # the exit code says it too
        request.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def seconds_left(job_id: str, warned: int, environment: Mapping[str, str]) -> float:
    """How long a job has until its time limit, of which it was told that it would be warned `warned` seconds before.

    The controller is asked, since a limit may be changed; then the environment, which newer versions tell it. An answer
    that cannot be, as where clocks differ, is none.
    """
    end = _end_asked(job_id) or float(environment.get("SLURM_JOB_END_TIME") or 0)
    left, (least, more) = end - time.time(), PLAUSIBLE_SECONDS
    return max(0.0, left if least < left < warned + more else warned - WARNED_LATE_SECONDS)


def _end_asked(job_id: str) -> float | None:
    """The job's end as scontrol tells it, in this node's time zone; None where it tells none."""
    command = ["scontrol", "show", "job", "-o", job_id]
    try:
        done = _answer(command, END_ANSWER_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return None
    told = END_TIME.search(done.stdout)
    return datetime.fromisoformat(told[1]).timestamp() if told else None
