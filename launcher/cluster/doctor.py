"""What this machine has and a node of its cluster, and what is missing: lines for the user.

Owns: what is worth saying of them. Must not know: what a cluster offers (its scheduler tells), runs. Never shows a
token, only whether.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from launcher.cluster.batch import Batch
from launcher.cluster.local import LocalScheduler
from launcher.cluster.scheduler import EXECUTORS
from launcher.config import Cluster
from launcher.errors import number_of
from launcher.machine import disk, rights, snapshot
from launcher.machine.accounts import has_token
from launcher.machine.gpus import visible_gpus
from launcher.machine.installed import package_dir
from launcher.store import locks
from launcher.store.file_system import lacks_in
from launcher.store.files import read_fact
from launcher.store.node_facts import Probe

ALL_WORKS = "hard links and locks work"
LOCK = "lock"  # beside the question: held here while a node looks whether it sees that
WORKER_PACKAGES = ("torch", "transformers", "trl", "peft", "datasets", "accelerate")

Finding = tuple[str, str]  # what, and what is so


def findings(offered: list[Finding] | None, output_dir: Path, environment: Mapping[str, str]) -> list[Finding]:
    """What there is, each with its name: what a cluster offers (None: there is none), and what this machine has."""
    token = ("Hugging Face token", "present" if has_token(environment) else "none")
    return [*(_without_cluster() if offered is None else offered), *_of_machine(output_dir), token]


def _without_cluster() -> Iterator[Finding]:
    for name in EXECUTORS:
        if name != LocalScheduler.name:
            yield name.upper(), "none here: cluster=auto means this machine"


def _of_machine(output_dir: Path) -> Iterator[Finding]:
    place = disk.existing(output_dir)
    access = "writable" if rights.may_write(place) else f"NOT writable; {rights.remedy(place, 'write')}"
    free = disk.in_words(disk.free_bytes(output_dir))
    yield "output_dir", f"{output_dir}: {free} free, {access}"
    if rights.may_write(place):
        yield "its file system", _abilities(place)
    missing = [name for name in WORKER_PACKAGES if package_dir(name) is None]
    yield "this Python", "has all that a run needs" if not missing else f"lacks {', '.join(missing)}"
    yield "this machine", f"{number_of(len(visible_gpus()), 'GPU')}, {number_of(os.cpu_count() or 1, 'core')}"


def _abilities(folder: Path) -> str:
    if locks.is_leased():
        return f"{locks.CHOICE}={locks.LEASE}: {locks.INSTEAD}"
    try:
        return "; ".join(lacks_in(folder)) or ALL_WORKS
    except OSError as error:
        return f"cannot be tried: {error}"


# ------------------------------------------------------------------------------------------------ a node


def write_question(cluster: Cluster, output_dir: Path) -> Batch:
    """The job that looks at a node, and the folder in which it finds a word from here; nobody else's is in it."""
    name = f"{cluster.job_name or ''}prefsweep-doctor.{uuid.uuid4().hex[:10]}"
    folder = output_dir / name
    rights.make_open(output_dir)
    folder.mkdir()
    (folder / "question").write_text(name, encoding="utf-8")
    gpus = min(1, cluster.gpus_per_node)
    resources = replace(
        cluster, nodes=1, gpus_per_node=gpus, time="5", warning_seconds=1
    )  # it would not hear a warning
    return Batch(name, folder, 1, resources, output_dir, snapshot.take(folder / "code"))


def read_answer(batch: Batch, *, ended_well: bool) -> Iterator[Finding]:
    """What the job found on its node; the folder goes where that was all well."""
    fact = read_fact(batch.folder / "answer.json", Probe)
    if fact is None:
        logs = ", ".join(str(path) for path in sorted(batch.folder.glob("*.out"))) or "no log"
        what = "ended, but what it wrote is not here: the folder is NOT shared" if ended_well else "failed"
        yield "probe job", f"{what} ({logs})"
        return
    yield "probe job", f"ran on {fact.node}"
    seen = "shared and writable" if fact.word == batch.name else "writable, but NOT the same folder as here"
    yield f"{batch.root} on {fact.node}", f"{seen}, {disk.in_words(fact.free_gb * 1e9)} free"
    yield f"its file system on {fact.node}", "; ".join([*fact.lacks, *_of_locks(fact)]) or ALL_WORKS
    found = [f"{name} {number}" for name, number in fact.packages.items() if number]
    yield f"Python on {fact.node}", ", ".join([fact.python, *found])
    lacking = [name for name, number in fact.packages.items() if not number]
    if lacking:
        yield f"not on {fact.node}", ", ".join(lacking)
    yield f"GPU on {fact.node}", fact.torch_error or _gpus(fact)
    yield f"Hub from {fact.node}", _hub(fact)
    shutil.rmtree(batch.folder)


@contextlib.contextmanager
def locked_here(batch: Batch) -> Iterator[None]:
    """Hold the lock that the job is to see on its node."""
    with locks.held(batch.folder / LOCK):
        yield


def _of_locks(fact: Probe) -> Iterator[str]:
    if fact.lock_seen is False and not locks.is_leased():
        remedy = f"export {locks.CHOICE}={locks.LEASE} wherever you launch, and {locks.INSTEAD}"
        yield f"a lock that is held here does NOT hold there: {remedy}"


def _hub(fact: Probe) -> str:
    if fact.hub_silence is None:
        return f"{fact.hub} answers"
    return f"{fact.hub} does not answer ({fact.hub_silence}): `fetch` on this machine what runs need"


def _gpus(fact: Probe) -> str:
    if not fact.gpus:
        return f"none; torch is built for {'CUDA ' + fact.cuda if fact.cuda else 'the CPU alone'}"
    return f"{', '.join(fact.gpus)}; CUDA {fact.cuda}, NCCL {fact.nccl}"
