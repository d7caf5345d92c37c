"""One task of a job, as its own process sees it, in words that all schedulers share.

Owns: those words. Must not know: any scheduler's own, runs.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """One task of a job.

    Attributes:
        executor: the one that has the job, as its facts name it.
        job_id: the id under which that one is asked for the job.
        rank: 0 to size - 1, over all nodes.
        size: the job's tasks.
        local: 0 to local_size - 1, on this node.
        local_size: the job's tasks on this node.
        start: names this start of the job: one that comes back has another.
        node: this node's name.
        index: the job's place in its batch.
        origin: the address of the node from which the tasks were started; None where nobody says.
        cores: CPU cores of this task; None where nobody says.
        restart: how often the job has come back from the queue.
        cluster: the name of the one that has the job; None where nobody says.
    """

    executor: str
    job_id: str
    rank: int
    size: int
    local: int
    local_size: int
    start: str
    node: str
    index: int = 0
    origin: str | None = None
    cores: int | None = None
    restart: int = 0
    cluster: str | None = None
