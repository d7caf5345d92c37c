"""What a cluster offers, from SLURM's words to plain values. Pure.

Owns: partitions, accounts, limits. Must not know: processes, files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Partition:
    """One partition: its nodes, and what each of them has at least."""

    name: str
    default: bool
    up: bool
    time_limit: str
    nodes: int
    gpus: int
    gpu_type: str
    cpus: int
    memory_gb: float


@dataclass(frozen=True)
class Survey:
    """What a cluster offers."""

    cluster: str
    version: str
    partitions: tuple[Partition, ...]
    accounts: tuple[str, ...]
    accounting: bool
    batch_size: int
    requeue: bool
    kill_wait: str


PARTITIONS_COMMAND = ["sinfo", "-h", "-o", "%P|%a|%l|%D|%G|%c|%m"]


def accounts_command(user: str) -> list[str]:
    """Ask for the accounts that a user may charge."""
    return ["sacctmgr", "-nP", "show", "associations", f"user={user}", "format=account"]


def read_partitions(text: str) -> list[Partition]:
    """What sinfo says: a line for each kind of node of a partition; the one with most GPUs speaks for it."""
    kinds = [_partition(*line.split("|")[:7]) for line in text.splitlines()]
    names = dict.fromkeys(kind.name for kind in kinds)
    return [max((kind for kind in kinds if kind.name == name), key=lambda kind: kind.gpus) for name in names]


def _partition(name: str, state: str, limit: str, nodes: str, gres: str, cpus: str, memory: str) -> Partition:
    gpu = re.search(r"\bgpu:([^,(]+)", gres)  # gpu:8, gpu:a100:4(S:0-1)
    kind, _, count = gpu[1].rpartition(":") if gpu else ("", "", "0")
    sizes = int(cpus.rstrip("+")), int(memory.rstrip("+")) / 1000
    return Partition(name.rstrip("*"), name.endswith("*"), state == "up", limit, int(nodes), int(count), kind, *sizes)


def survey(settings: Mapping[str, str], partitions: str, accounts: str | None, batch_size: int) -> Survey:
    """All of it; `accounts` is None where the cluster keeps none."""
    return Survey(
        cluster=settings.get("ClusterName", "?"),
        version=settings.get("SLURM_VERSION", "?"),
        partitions=tuple(read_partitions(partitions)),
        accounts=tuple(dict.fromkeys((accounts or "").split())),
        accounting=accounts is not None,
        batch_size=batch_size,
        requeue=settings.get("JobRequeue") == "1",
        kill_wait=settings.get("KillWait", "?"),
    )
