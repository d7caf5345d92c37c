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
from launcher.cluster.slurm_words import MEMORY, are_several, extra_of, gpus_of, replaced
from launcher.config import Cluster

PREFIX = "SBATCH_"
# By the ending of their names: the key of `cluster` that says the same.
KEYS = {"ACCOUNT": "account", "CLUSTERS": "clusters", "CONSTRAINT": "constraint", "MEM_PER_NODE": "mem",
        "PARTITION": "partition", "QOS": "qos", "TIMELIMIT": "time"}  # fmt: skip
CLUSTERS = "SLURM_CLUSTERS"  # which sbatch takes for SBATCH_CLUSTERS, and over that
# The option that says the same, and so the key of `cluster.extra`.
OPTIONS = {"COMMENT": "comment", "EXCLUSIVE": "exclusive", "GRES": "gres", "MEM_PER_CPU": "mem-per-cpu",
           "MEM_PER_GPU": "mem-per-gpu", "RESERVATION": "reservation", "WCKEY": "wckey"}  # fmt: skip
# Of those that sbatch alone reads, options whose names are not theirs.
OTHERS = {"BURST_BUFFER": "bb", "CPU_FREQ_REQ": "cpu-freq", "DEBUG": "verbose", "REQ_SWITCH": "switches",
          "WAIT4SWITCH": "switches"}  # fmt: skip
# Options that say the same thing in different words.
ALIKE = (MEMORY, ("exclusive", "oversubscribe"), ("core-spec", "thread-spec"), ("bb", "bbf"))
# A job of ours could not work with these, or would not be found again.
NEVER = {
    "ARRAY_INX", "CPUS_PER_GPU", "ERROR", "EXPORT", "GET_USER_ENV", "GPUS", "GPUS_PER_NODE",
    "GPUS_PER_SOCKET", "GPUS_PER_TASK", "INPUT", "JOB_NAME", "NO_REQUEUE", "OPEN_MODE", "OUTPUT", "REQUEUE", "SIGNAL",
    "TRES_PER_TASK", "WAIT",
}  # fmt: skip
# What an enclosing job set for itself; a nested one must find its own.
_OF_A_JOB = re.compile(
    r"SLURM_.*|SLURMD_.*|SRUN_.*|SUBMITIT_.*|PMI_.*|PMIX_.*|RANK|LOCAL_RANK|WORLD_SIZE|LOCAL_WORLD_SIZE"
    r"|MASTER_ADDR|MASTER_PORT|CUDA_VISIBLE_DEVICES|ROCR_VISIBLE_DEVICES|GPU_DEVICE_ORDINAL"
    r"|PREFSWEEP_GPUS|PREFSWEEP_PARENT"
)
# By these a user narrows what such a command shows or ends: our questions are about all of our jobs.
_FILTERS = re.compile(r"(SQUEUE|SACCT|SACCTMGR|SCANCEL|SCONTROL|SINFO)_.*")
_SRUNS = re.compile(r"(SLURM|SRUN)_.*")
_OURS = {"SLURM_BITSTR_LEN", "SLURM_CLUSTERS", "SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT", "SLURM_TIME_FORMAT"}
_CLUSTER = {"SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT"}  # where the cluster is, who we are


def clean_environment(environment: Mapping[str, str], cluster: Cluster | None = None) -> dict[str, str]:
    """The environment less what an enclosing job set for itself, and what would change our script or our questions.

    `cluster`: the resources of the jobs that are submitted; what says something else of them goes too.
    """
    return {name: value for name, value in environment.items() if name in _CLUSTER or not _is_in_the_way(name, cluster)}


def _is_in_the_way(name: str, cluster: Cluster | None) -> bool:
    ending = name.removeprefix(PREFIX) if name.startswith(PREFIX) else ""
    heeded = ending in KEYS or ending in OPTIONS or ending in NEVER
    is_said = bool(ending) and cluster is not None and _said_by(ending, cluster) is not None
    return bool(heeded or is_said or _OF_A_JOB.fullmatch(name) or _FILTERS.fullmatch(name))


def ambient(cluster: Cluster, environment: Mapping[str, str]) -> Ambient:
    """What of the environment counts for jobs of these resources."""
    said = {name.removeprefix(PREFIX): value for name, value in environment.items() if name.startswith(PREFIX)}
    said["CLUSTERS"] = environment.get(CLUSTERS) or said.get("CLUSTERS", "")
    said = {ending: value for ending, value in sorted(said.items()) if value}
    instead = {ending: _said_by(ending, cluster, value) for ending, value in said.items() if ending not in NEVER}
    open_ = [ending for ending, other in instead.items() if other is None and (ending in KEYS or ending in OPTIONS)]
    keys = {KEYS[ending]: said[ending] for ending in open_ if ending in KEYS}
    extra = {OPTIONS[ending]: _option(OPTIONS[ending], said[ending]) for ending in open_ if ending in OPTIONS}
    taken = [f"{_in_words(ending)} {said[ending]} from {_variable(ending, environment)}" for ending in open_]
    words = [f"from the environment: {', '.join(taken)}"] if taken else []
    words += [*_left_out(said, instead, environment), *_passed_on(said, instead), *_of_srun(environment)]
    return Ambient(keys, extra, (*words, *_of_gpus(cluster), *_replaced(cluster)))


def _of_srun(environment: Mapping[str, str]) -> Iterator[str]:
    """Of variables that srun would read in a job: those of a job around the launcher are no wish."""
    if "SLURM_JOB_ID" in environment:
        return
    if names := sorted(name for name in environment if _SRUNS.fullmatch(name) and name not in _OURS):
        yield f"{', '.join(names)} {'does' if len(names) == 1 else 'do'} not reach srun: set them in cluster.setup"


def _of_gpus(cluster: Cluster) -> Iterator[str]:
    """Of options that ask for GPUs, whose number is that of the ranks."""
    asked = extra_of(cluster)
    for option, given in gpus_of(cluster).items():
        said, why = f"cluster.extra.{option}={asked[option]}", f"cluster.gpus_per_node={cluster.gpus_per_node}"
        why += f" on cluster.nodes={cluster.nodes}" if option == "gpus" else ""
        if given is None:
            yield f"{said} does not count: {why}"
        elif are_several(option, given):
            yield f"{said} keeps its numbers, since it has several types: {why}"
        elif given != str(asked[option]):
            yield f"{said} becomes {given}: {why}"


def _replaced(cluster: Cluster) -> Iterator[str]:
    """Of keys in whose place an option stands that says something else."""
    asked = extra_of(cluster)
    for key, (option, *_) in replaced(cluster).items():
        if vars(cluster)[key] not in (None, asked[option]):
            yield f"cluster.{key}={vars(cluster)[key]} does not count: cluster.extra.{option}={_plain(asked[option])}"


def _plain(value: object) -> str:
    return "null" if value is None else str(value)


def _variable(ending: str, environment: Mapping[str, str]) -> str:
    return CLUSTERS if ending == "CLUSTERS" and environment.get(CLUSTERS) else PREFIX + ending


def _in_words(ending: str) -> str:
    return "cluster" if ending == "CLUSTERS" else _name(ending)


def _name(ending: str) -> str:
    return KEYS.get(ending) or OPTIONS.get(ending) or OTHERS.get(ending) or ending.lower().replace("_", "-")


def _option(name: str, value: str) -> Any:
    """As `cluster.extra` has it: an option that is only switched on is `true`."""
    return True if name == OPTIONS["EXCLUSIVE"] and value in ("yes", "1") else value


def _said_by(ending: str, cluster: Cluster, value: str = "") -> str | None:
    """What the configuration says instead, `KEY=VALUE`; null in `cluster.extra` is a word, too."""
    name = _name(ending)
    if ending == "GRES" and "gpu" in value and not {name, "gpus-per-node"} & extra_of(cluster).keys():
        return f"cluster.gpus_per_node={cluster.gpus_per_node}"
    alike = next((options for options in ALIKE if name in options), (name,))
    ours = {key: vars(cluster)[key] for key in KEYS.values() if key in alike}
    said = {f"cluster.{key}": value for key, value in ours.items() if value is not None}
    extra = {key: value for key, value in extra_of(cluster).items() if key in alike}
    said |= {f"cluster.extra.{key}": value for key, value in extra.items() if value is not None or key == name}
    return next((f"{key}={_plain(value)}" for key, value in said.items()), None)


def _left_out(
    said: Mapping[str, str], instead: Mapping[str, str | None], environment: Mapping[str, str]
) -> Iterator[str]:
    for ending, value in said.items():
        other, variable = instead.get(ending), _variable(ending, environment)
        if other is not None and other.partition("=")[2] != value:
            yield f"{variable}={value} does not count: {other}"
        elif ending == "CLUSTERS" and environment.get(PREFIX + ending) not in (None, "", value):
            yield f"{PREFIX}{ending}={environment[PREFIX + ending]} does not count: {variable}={value}"
        elif ending in NEVER:
            yield f"{PREFIX}{ending}={value} does not count: prefsweep says that itself"


def _passed_on(said: Mapping[str, str], instead: Mapping[str, str | None]) -> Iterator[str]:
    known = {*KEYS, *OPTIONS, *NEVER}
    rest = [f"{PREFIX}{ending}={said[ending]}" for ending in said if ending not in known and instead[ending] is None]
    if rest:
        yield f"left to sbatch: {', '.join(rest)}"
