"""What this machine and its cluster offer, and what is missing: lines for the user, and a file for conf/cluster.

Owns: what is worth saying. Must not know: SLURM's output (`slurm_survey`), runs. Never shows a token, only whether.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from launcher.cluster.batch import Batch
from launcher.cluster.slurm_survey import Partition, Survey
from launcher.config import Cluster
from launcher.machine import disk, snapshot
from launcher.machine.accounts import has_login, has_token
from launcher.machine.gpus import visible_gpus
from launcher.machine.installed import package_dir
from launcher.store.files import Fact, read_fact

WORKER_PACKAGES = ("torch", "transformers", "trl", "peft", "datasets", "accelerate")
DAY = "1-00:00:00"

Finding = tuple[str, str]  # what, and what is so


def findings(survey: Survey | None, output_dir: Path, environment: Mapping[str, str]) -> list[Finding]:
    """What there is, each with its name."""
    return [*_of_cluster(survey), *_of_machine(output_dir), *_of_tokens(environment)]


def _of_cluster(survey: Survey | None) -> Iterator[Finding]:
    if survey is None:
        yield "SLURM", "none here: cluster=auto means this machine"
        return
    yield "SLURM", f"{survey.version}, cluster {survey.cluster}"
    for partition in survey.partitions:
        yield "partition", _described(partition)
    yield "accounting", "sacct answers" if survey.accounting else "none: a run's files say how it ended"
    if survey.accounts:
        yield "accounts", ", ".join(survey.accounts)
    yield "array", f"at most {survey.batch_size} runs; longer sweeps become several"
    requeue = "allowed" if survey.requeue else "forbidden: after a preemption or a time limit, use `resume`"
    yield "requeue", requeue
    yield "grace", f"{survey.kill_wait} between SIGTERM and SIGKILL"


def _described(partition: Partition) -> str:
    gpus = (
        f"{partition.gpus} GPUs{' ' + partition.gpu_type if partition.gpu_type else ''}" if partition.gpus else "no GPU"
    )
    default = " (default)" if partition.default else ""
    down = "" if partition.up else ", not up"
    return (
        f"{partition.name}{default}: {partition.nodes} nodes with {gpus}, {partition.cpus} cores, "
        f"{partition.memory_gb:.0f} GB; time limit {partition.time_limit}{down}"
    )


def _of_machine(output_dir: Path) -> Iterator[Finding]:
    writable = os.access(disk.existing(output_dir), os.W_OK)
    free = disk.in_words(disk.free_bytes(output_dir))
    yield "output_dir", f"{output_dir}: {free} free, {'writable' if writable else 'NOT writable'}"
    missing = [name for name in WORKER_PACKAGES if package_dir(name) is None]
    yield "this Python", "has all that a run needs" if not missing else f"lacks {', '.join(missing)}"
    yield "this machine", f"{len(visible_gpus())} GPUs, {os.cpu_count()} cores"


def _of_tokens(environment: Mapping[str, str]) -> Iterator[Finding]:
    yield "Hugging Face token", _present(has_token(environment))
    yield "W&B key", _present(has_login(environment))


# ------------------------------------------------------------------------------------------------ a node


def question(cluster: Cluster, output_dir: Path) -> Batch:
    """The job that looks at a node, and the folder in which it finds a word from here."""
    name = f"prefsweep-doctor.{uuid.uuid4().hex[:10]}"
    folder = output_dir / "doctor" / name
    folder.mkdir(parents=True)
    (folder / "question").write_text(name, encoding="utf-8")
    gpus = min(1, cluster.gpus_per_node)
    resources = replace(
        cluster, nodes=1, gpus_per_node=gpus, time="5", warning_seconds=1
    )  # it would not hear a warning
    return Batch(name, folder, 1, resources, output_dir, snapshot.take(folder / "code"))


def answer(batch: Batch, *, ended_well: bool) -> Iterator[Finding]:
    """What the job found on its node; the folder goes where that was all well."""
    fact = read_fact(batch.folder / "answer.json")
    if fact is None:
        logs = ", ".join(str(path) for path in sorted(batch.folder.glob("*.out"))) or "no log"
        what = "ended, but what it wrote is not here: the folder is NOT shared" if ended_well else "failed"
        yield "probe job", f"{what} ({logs})"
        return
    yield "probe job", f"ran on {fact['node']}"
    seen = "shared and writable" if fact["word"] == batch.name else "writable, but NOT the same folder as here"
    yield f"{batch.root} on {fact['node']}", f"{seen}, {disk.in_words(fact['free_gb'] * 1e9)} free"
    found = [f"{name} {number}" for name, number in fact["packages"].items() if number]
    yield f"Python on {fact['node']}", ", ".join([fact["python"], *found])
    lacking = [name for name, number in fact["packages"].items() if not number]
    if lacking:
        yield f"not on {fact['node']}", ", ".join(lacking)
    yield f"GPU on {fact['node']}", fact.get("torch_error") or _gpus(fact)
    shutil.rmtree(batch.folder)


def _gpus(fact: Fact) -> str:
    if not fact["gpus"]:
        return f"none; torch is built for {'CUDA ' + fact['cuda'] if fact['cuda'] else 'the CPU alone'}"
    return f"{', '.join(fact['gpus'])}; CUDA {fact['cuda']}, NCCL {fact['nccl']}"


def _present(present: bool) -> str:
    return "present" if present else "none"


def proposal(survey: Survey) -> str:
    """A file for conf/cluster that fits this cluster; the rest is as in conf/cluster/slurm.yaml."""
    best = _best_partition(survey)
    limited = best is not None and best.time_limit != "infinite"
    lines = [
        f"# {survey.cluster}, as found by `python -m launcher doctor`. slurm.yaml has the other keys.",
        "defaults:\n  - slurm\n  - _self_",
        "# Partition.",
        f"partition: {best.name if best else 'null'}",
        "# Account that pays.",
        f"account: {survey.accounts[0] if survey.accounts else 'null'}",
        "# Time limit of a job; runs that need longer are requeued." + ("" if survey.requeue else " (Not here.)"),
        f'time: "{best.time_limit if best and limited else DAY}"',
        "# GPUs of each node.",
        f"gpus_per_node: {1 if best and best.gpus else 0}",
        "# CPU cores for each GPU: a node's share.",
        f"cpus_per_gpu: {best.cpus // best.gpus if best and best.gpus else 'null'}",
    ]
    return "\n".join(lines) + "\n"


def _best_partition(survey: Survey) -> Partition | None:
    """The one with GPUs that is the default, else the first with GPUs, else the default."""
    usable = [partition for partition in survey.partitions if partition.up]
    return max(usable, key=lambda partition: (partition.gpus > 0, partition.default), default=None)
