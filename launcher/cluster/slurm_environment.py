"""What the environment of whoever launches says to SLURM's commands: what of it counts, and what never does. Pure.

Owns: the variables that sbatch reads, each with what becomes of it. Must not know: processes, files, what a run is.

sbatch heeds its variables before what a script says, so that a line in somebody's `.bashrc` would win over the
configuration, in silence. Here the configuration wins; what it leaves open the environment says, and the plan names
what was taken; what the launcher counts on, no variable changes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from launcher.cluster.ambient import Ambient
from launcher.config import Cluster

PREFIX = "SBATCH_"
# By the ending of their names: the key of `cluster` that says the same.
KEYS = {"ACCOUNT": "account", "CONSTRAINT": "constraint", "MEM_PER_NODE": "mem", "PARTITION": "partition",
        "QOS": "qos", "TIMELIMIT": "time"}  # fmt: skip
# The option that says the same, and so the key of `cluster.extra`.
OPTIONS = {"COMMENT": "comment", "EXCLUSIVE": "exclusive", "MEM_PER_CPU": "mem-per-cpu", "MEM_PER_GPU": "mem-per-gpu",
           "RESERVATION": "reservation", "WCKEY": "wckey"}  # fmt: skip
MEMORY = ("mem", "mem-per-cpu", "mem-per-gpu")  # sbatch takes one of them
# A job of ours could not work with these, or would not be found again.
NEVER = {
    "ARRAY_INX", "CLUSTERS", "CPUS_PER_GPU", "ERROR", "EXPORT", "GET_USER_ENV", "GPUS", "GPUS_PER_NODE",
    "GPUS_PER_TASK", "INPUT", "JOB_NAME", "NO_REQUEUE", "OPEN_MODE", "OUTPUT", "REQUEUE", "SIGNAL", "WAIT",
}  # fmt: skip
# What an enclosing job set for itself; a nested one must find its own.
_OF_A_JOB = re.compile(
    r"SLURM_.*|SLURMD_.*|SRUN_.*|SUBMITIT_.*|PMI_.*|PMIX_.*|RANK|LOCAL_RANK|WORLD_SIZE|LOCAL_WORLD_SIZE"
    r"|MASTER_ADDR|MASTER_PORT|CUDA_VISIBLE_DEVICES|ROCR_VISIBLE_DEVICES|GPU_DEVICE_ORDINAL"
)
# By these a user narrows what such a command shows or ends: our questions are about all of our jobs.
_FILTERS = re.compile(r"(SQUEUE|SACCT|SACCTMGR|SCANCEL|SCONTROL|SINFO)_.*")
_CLUSTER = {"SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT"}  # where the cluster is, who we are


def clean_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment less what an enclosing job set for itself, and what would change our script or our questions."""
    return {name: value for name, value in environment.items() if name in _CLUSTER or not _is_in_the_way(name)}


def _is_in_the_way(name: str) -> bool:
    ending = name.removeprefix(PREFIX) if name.startswith(PREFIX) else ""
    heeded = ending in KEYS or ending in OPTIONS or ending in NEVER
    return bool(heeded or _OF_A_JOB.fullmatch(name) or _FILTERS.fullmatch(name))


def ambient(cluster: Cluster, environment: Mapping[str, str]) -> Ambient:
    """What of the environment counts for jobs of these resources."""
    said = {name.removeprefix(PREFIX): value for name, value in environment.items() if name.startswith(PREFIX)}
    said = {ending: value for ending, value in sorted(said.items()) if value}
    instead = {ending: _said_by(ending, cluster) for ending in said if ending in KEYS or ending in OPTIONS}
    open_ = [ending for ending, other in instead.items() if other is None]
    keys = {KEYS[ending]: said[ending] for ending in open_ if ending in KEYS}
    extra = {OPTIONS[ending]: _option(said[ending]) for ending in open_ if ending in OPTIONS}
    taken = [f"{_name(ending)} {said[ending]} from {PREFIX}{ending}" for ending in open_]
    words = [f"from the environment: {', '.join(taken)}"] if taken else []
    if clusters := environment.get("SLURM_CLUSTERS"):
        words.append(f"SLURM_CLUSTERS={clusters} does not count: jobs go to the cluster that answers here")
    return Ambient(keys, extra, (*words, *_left_out(said, instead), *_passed_on(said)))


def _name(ending: str) -> str:
    return KEYS.get(ending) or OPTIONS[ending]


def _option(value: str) -> Any:
    """As `cluster.extra` has it: an option that is only switched on is `true`."""
    return True if value in ("yes", "1") else value


def _said_by(ending: str, cluster: Cluster) -> str | None:
    """What the configuration says instead, `KEY=VALUE`; null in `cluster.extra` is a word, too."""
    name = _name(ending)
    said = {f"cluster.{key}": vars(cluster)[key] for key in KEYS.values() if vars(cluster)[key] is not None}
    said |= {f"cluster.extra.{key}": value for key, value in cluster.extra.items()}
    alike = MEMORY if name in MEMORY else (name,)
    found = (f"{key}={value}" for key, value in said.items() if key.rpartition(".")[2].replace("_", "-") in alike)
    return next(found, None)


def _left_out(said: Mapping[str, str], instead: Mapping[str, str | None]) -> Iterator[str]:
    for ending, value in said.items():
        other = instead.get(ending)
        if other is not None and other.partition("=")[2] != value:
            yield f"{PREFIX}{ending}={value} does not count: {other}"
        elif ending in NEVER:
            yield f"{PREFIX}{ending}={value} does not count: prefsweep says that itself"


def _passed_on(said: Mapping[str, str]) -> Iterator[str]:
    rest = [f"{PREFIX}{ending}={said[ending]}" for ending in said if not _is_in_the_way(PREFIX + ending)]
    if rest:
        yield f"left to sbatch: {', '.join(rest)}"
