"""The schedulers as a process on a node sees them: which task of which job it is, on which node, and the way back.

Owns: whom to ask, and what this machine's executor says. Must not know: runs, any other scheduler's words.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from launcher.cluster import slurm_node
from launcher.cluster.task import Task
from launcher.store.facts import Failure

WARNING = signal.SIGUSR2  # what a scheduler is told to send before a time limit; `worker.shielded` awaits it too


COMPLAINT = slurm_node.COMPLAINT  # stands in a fact for what a scheduler will have complained of


class Queue(Protocol):
    """What a module must tell of a scheduler whose jobs wait in a queue."""

    def task(self, environment: Mapping[str, str]) -> Task | None:
        """The task that a process with these variables is; None where this scheduler has not started it."""
        ...

    def requeue(self, job_id: str, refused: Mapping[Path, Failure], without: str | None) -> str | None:
        """Put a job back into the queue, which ends this process; what was complained of, where that is refused.

        `refused`: what is to be recorded, and where, if that turns out only when this process has ended.
        `without`: a node on which it is not to start again, where the scheduler grants that.
        """
        ...

    def spares(self, job_id: str, node: str) -> bool:
        """Whether enough nodes are left to a job without that one."""
        ...

    def seconds_left(self, job_id: str, warned: int, environment: Mapping[str, str]) -> float:
        """How long a job has until its limit, of which it was told that it would be warned `warned` seconds before."""
        ...


QUEUES: dict[str, Queue] = {"slurm": slurm_node}  # by the executor's name


def here(environment: Mapping[str, str] = os.environ) -> Task | None:
    """The task that this process is; None where no executor of ours has started it."""
    if environment.get("SUBMITIT_EXECUTOR") == "local":  # also within a job of another's
        return _of_this_machine(environment) if "SUBMITIT_LOCAL_GLOBALID" in environment else None
    tasks = (queue.task(environment) for queue in QUEUES.values())
    return next((task for task in tasks if task is not None), None)


def _of_this_machine(environment: Mapping[str, str]) -> Task:
    rank, size, local = (int(environment[f"SUBMITIT_LOCAL_{name}"]) for name in ("GLOBALID", "NTASKS", "LOCALID"))
    job_id = environment["SUBMITIT_LOCAL_JOB_ID"]
    return Task("local", job_id, rank, size, local, size, f"local-{job_id}", socket.gethostname())


def queued(environment: Mapping[str, str] = os.environ) -> Task | None:
    """This process's task, where its job has a queue: into which it can go back, and which ends it for others' sake."""
    task = here(environment)
    return task if task is not None and task.executor in QUEUES else None


def requeue(
    task: Task, refused: Mapping[Path, Failure] = MappingProxyType({}), without: str | None = None
) -> str | None:
    """Put a queued task's job back, which ends this process; what its scheduler complained of, where it refused.

    Args:
        task: this process's.
        refused: facts by their files, for whoever is asked after this process's end, and refused; COMPLAINT in them
            stands for the words.
        without: a node on which it is not to start again.
    """
    return QUEUES[task.executor].requeue(task.job_id, refused, without)


def spares(task: Task, node: str) -> bool:
    """Whether a queued task's job has enough nodes without that one."""
    return QUEUES[task.executor].spares(task.job_id, node)


def seconds_left(task: Task, warned: int) -> float:
    """How long a queued task's job has until its limit; `warned`: how long before it was to be warned."""
    return QUEUES[task.executor].seconds_left(task.job_id, warned, os.environ)


def name() -> str:
    """This node's name, as its scheduler has it."""
    task = here()
    return socket.gethostname() if task is None else task.node
