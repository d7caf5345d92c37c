"""What a cluster offers, from SLURM's words to plain values, and to lines and a file for the user. Pure.

Owns: partitions, accounts, limits (MaxArraySize and the like); what of them is worth saying.
Must not know: processes, files.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from launcher.cluster.notation import minutes
from launcher.cluster.offer import Offer
from launcher.cluster.slurm_trial import Trial
from launcher.config import Cluster

DAY = "1-00:00:00"
DEFAULT_QOS = "normal"  # of an association that names none
QOS_COMMAND = ["sacctmgr", "-nP", "show", "qos",
               "format=name,grpsubmitjobs,maxsubmitjobsperuser,maxsubmitjobsperaccount"]  # fmt: skip
PARTITION_QOS_COMMAND = ["scontrol", "-o", "show", "partition"]
PARTITIONS_COMMAND = ["sinfo", "-h", "-o", "%P|%a|%l|%D|%G|%c|%m"]
LIMITS_COMMAND = ["sinfo", "-h", "-o", "%P|%l|%L|%D"]
LIMITS = re.compile(r"([^|]+)\|([^|]*)\|([^|]*)\|([0-9]+)")  # what that answers: `infinite`, `n/a` or a time
NODE_KIND = re.compile(r"([^|]+)\|(\w+)\|([^|]*)\|([0-9]+)\|([^|]*)\|([0-9]+)\+?\|([0-9]+)\+?")  # what that answers
ACCOUNT = re.compile(r"[\w.@+-]+")


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
    others: tuple[str, ...]
    version: str
    partitions: tuple[Partition, ...]
    accounts: tuple[str, ...]
    accounting: bool
    silence: str | None
    batch_size: int
    requeue: bool
    kill_wait: str
    trial: Trial = field(default_factory=Trial)


@dataclass(frozen=True)
class Limits:
    """What bounds the number of jobs that are handed over at once, in SLURM's words.

    Attributes:
        settings: `scontrol show config`.
        associations: what `associations_command` says; nothing where limits are not enforced.
        qos: what QOS_COMMAND says, likewise.
        partitions: what PARTITION_QOS_COMMAND says, likewise.
        parents: what `parents_command` says, likewise.
    """

    settings: Mapping[str, str]
    associations: str = ""
    qos: str = ""
    partitions: str = ""
    parents: str = ""

    def batch_size(self, cluster: Cluster) -> int:
        """How many jobs one array of these resources may have: by MaxArraySize, MaxJobCount and the submit limits.

        MaxArraySize is the first index that is too high; 0 forbids arrays. Of what may be submitted at a time, one is
        left for the job that makes the reference table.
        """
        named = (self.settings.get(key, "") for key in ("MaxArraySize", "MaxJobCount"))
        sizes = [int(size) for size in named if size.isdecimal()]
        return max(1, min([*sizes, *(limit - 1 for limit in self._submit_limits(cluster))], default=1))

    def _submit_limits(self, cluster: Cluster) -> Iterator[int]:
        """Those of the user's associations, of the accounts above, of the job's QOS, and of its partitions' QOS."""
        asked, defaults = cluster.extra.get("qos") or cluster.qos, set()
        for line in self.associations.splitlines():
            account, default, *limits = [*line.split("|"), ""]
            if "|" in line and cluster.account in (None, account):
                defaults.add(default or DEFAULT_QOS)
                yield from _numbers(*limits, *self._limits_above(account))
        names = ({str(asked)} if asked else defaults) | set(self._partition_qos(cluster))
        for line in self.qos.splitlines():
            name, *limits = line.split("|")
            if name in names:
                yield from _numbers(*limits)

    def _limits_above(self, account: str) -> Iterator[str]:
        """What the account, the one that holds it, and so on, allow all their users together."""
        lines = (line.split("|") for line in self.parents.splitlines() if line.count("|") == 3)  # noqa: PLR2004 - columns
        known = {name: (parent, limit) for user, name, parent, limit in lines if not user}
        while account in known:
            account, limit = known.pop(account)
            yield limit

    def _partition_qos(self, cluster: Cluster) -> Iterator[str]:
        wanted = (cluster.partition or "").split(",")
        for line in self.partitions.splitlines():
            words = dict(word.partition("=")[::2] for word in line.split())
            if words.get("PartitionName") in wanted or (cluster.partition is None and words.get("Default") == "YES"):
                yield words.get("QoS", "N/A")


def _numbers(*limits: str) -> Iterator[int]:
    """Those that are set."""
    return (int(limit) for limit in limits if limit.isdecimal())


def accounts_command(user: str, cluster: str | None) -> list[str]:
    """Ask for the accounts that a user may charge."""
    return _associations_command(user, cluster, "account")


def associations_command(user: str, cluster: str | None) -> list[str]:
    """Ask what a user may submit under each account."""
    return _associations_command(user, cluster, "account,defaultqos,maxsubmitjobs,grpsubmitjobs")


def parents_command(cluster: str | None) -> list[str]:
    """Ask of no user, that is of the accounts themselves: what one allows all its users together is told of no user."""
    return _associations_command("", cluster, "user,account,parentname,grpsubmitjobs")


def _associations_command(user: str, cluster: str | None, columns: str) -> list[str]:
    """`cluster`: sacctmgr tells of all that one slurmdbd knows; None: the name is not known."""
    where = [f"cluster={cluster}"] if cluster else []
    return ["sacctmgr", "-nP", "show", "associations", f"user={user}", *where, f"format={columns}"]


def enforces_limits(settings: Mapping[str, str]) -> bool:
    """Whether SLURM holds to what accounts and QOS limit."""
    return "limits" in settings.get("AccountingStorageEnforce", "")


def read_partitions(text: str) -> list[Partition]:
    """What sinfo says: a line for each kind of node of a partition; the one with most GPUs speaks for it."""
    kinds = [_partition(*found.groups()) for line in text.splitlines() if (found := NODE_KIND.fullmatch(line.strip()))]
    names = dict.fromkeys(kind.name for kind in kinds)
    return [max((kind for kind in kinds if kind.name == name), key=lambda kind: kind.gpus) for name in names]


def read_offer(text: str, partition: str | None) -> Offer:
    """What LIMITS_COMMAND says of a partition, or the least of several with commas; None: the default one."""
    wanted = (partition or "").split(",")
    lines = [found.groups() for line in text.splitlines() if (found := LIMITS.fullmatch(line.strip()))]
    mine = [line for line in lines if line[0].rstrip("*") in wanted or (partition is None and line[0].endswith("*"))]
    listed = {line[0].rstrip("*") for line in lines}
    unlisted = tuple(name for name in wanted if name not in listed) if partition and lines else ()
    if not mine:
        return Offer(unlisted=unlisted)
    most, default = ([given for line in mine if (given := minutes(line[column]))] for column in (1, 2))
    nodes = sum(int(line[3]) for line in mine)
    return Offer(nodes, min(default, default=None), min(most, default=None), unlisted)


def _partition(name: str, state: str, limit: str, nodes: str, gres: str, cpus: str, memory: str) -> Partition:
    gpu = re.search(r"\bgpu:([^,(]+)", gres)  # gpu:8, gpu:a100:4(S:0-1)
    kind, _, count = gpu[1].rpartition(":") if gpu else ("", "", "0")
    sizes = int(cpus), int(memory) / 1000
    gpus = int(count) if count.isdecimal() else 1
    return Partition(name.rstrip("*"), name.endswith("*"), state == "up", limit, int(nodes), gpus, kind, *sizes)


def survey(
    settings: Mapping[str, str],
    partitions: str,
    accounts: str | None,
    batch_size: int,
    clusters: Iterable[str] = (),
    silence: str | None = None,
) -> Survey:
    """All of it.

    Args:
        settings: `scontrol show config`.
        partitions: what PARTITIONS_COMMAND says.
        accounts: what `accounts_command` says; None where sacct does not answer.
        batch_size: the most jobs of an array.
        clusters: those that can be reached from here.
        silence: why there is no answer, where the cluster keeps accounts.
    """
    name = settings.get("ClusterName", "?")
    return Survey(
        cluster=name,
        others=tuple(each for each in clusters if each != name),
        version=settings.get("SLURM_VERSION", "?"),
        partitions=tuple(read_partitions(partitions)),
        accounts=tuple(dict.fromkeys(filter(ACCOUNT.fullmatch, (accounts or "").splitlines()))),
        accounting=accounts is not None,
        silence=silence,
        batch_size=batch_size,
        requeue=settings.get("JobRequeue") == "1",
        kill_wait=settings.get("KillWait", "?"),
    )


# ------------------------------------------------------------------------------------------------ for the user


def findings(survey: Survey) -> Iterator[tuple[str, str]]:
    """What there is, for the user, each with its name."""
    yield "SLURM", f"{survey.version}, cluster {survey.cluster}"
    if survey.others:
        yield "other clusters", f"{', '.join(survey.others)}: cluster.clusters=NAME"
    for partition in survey.partitions:
        yield "partition", _described(partition)
    yield "accounting", _of_accounting(survey)
    if survey.accounts:
        yield "accounts", ", ".join(survey.accounts)
    yield "array", _of_arrays(survey)
    if survey.trial.plain:
        yield "a job", f"refused as it stands: {survey.trial.plain}"
    if survey.trial.wants_gres:
        words = f"cluster.extra.gpus-per-node=null cluster.extra.gres={_gres(survey)}"
        yield "GPUs", f"--gpus-per-node is refused ({survey.trial.gpus_per_node}), and --gres is not: {words}"
    requeue = "as ever" if survey.requeue else "for jobs that ask for it, which ours do (JobRequeue=0)"
    yield "requeue", requeue
    yield "grace", f"{survey.kill_wait} between SIGTERM and SIGKILL"


def _of_accounting(survey: Survey) -> str:
    if survey.accounting:
        return "sacct answers"
    return f"not now: {survey.silence}" if survey.silence else "none: a run's files say how it ended"


def _of_arrays(survey: Survey) -> str:
    if survey.trial.refuses_arrays:
        return f"refused ({survey.trial.array}): cluster.arrays=false submits each job by itself"
    if survey.batch_size == 1:
        return "of one run: each job is submitted by itself"
    return f"at most {survey.batch_size} runs; longer sweeps become several"


def _gres(survey: Survey) -> str:
    best = _best_partition(survey)
    return ":".join(filter(None, ["gpu", best.gpu_type if best else "", "1"]))


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


def proposal(survey: Survey, name: str | None = None) -> str:
    """A file for conf/cluster that fits this cluster; the rest is as in conf/cluster/slurm.yaml.

    `name`: the cluster's, where another one answers here.
    """
    best = _best_partition(survey)
    limited = best is not None and best.time_limit != "infinite"
    lines = [
        f"# {survey.cluster}, as found by `python -m launcher doctor`. slurm.yaml has the other keys.",
        "defaults:\n  - slurm\n  - _self_",
        *(["# The cluster, of those under one slurmdbd.", f"clusters: {name}"] if name else []),
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
        *_peculiar(survey),
    ]
    return "\n".join(lines) + "\n"


def _peculiar(survey: Survey) -> Iterator[str]:
    """What slurm.yaml would say otherwise."""
    best = _best_partition(survey)
    if survey.trial.refuses_arrays:
        yield "# Job arrays are refused here.\narrays: false"
    if survey.trial.wants_gres:
        yield f"# GPUs are asked for by --gres alone here.\nextra: {{gpus-per-node: null, gres: {_gres(survey)}}}"
    elif best and best.gpu_type:
        yield f"# To ask for these GPUs and no others:\n# extra: {{gpus-per-node: {best.gpu_type}:1}}"


def where_to_try(survey: Survey) -> tuple[list[str], bool]:
    """The options by which a job goes where the proposed file sends it, and whether there are GPUs."""
    best = _best_partition(survey)
    options = [f"--partition={best.name}"] if best else []
    return options + [f"--account={name}" for name in survey.accounts[:1]], bool(best and best.gpus)


def _best_partition(survey: Survey) -> Partition | None:
    """Where a job would go: the one with GPUs that is the default, else the first with GPUs, else the default."""
    usable = [partition for partition in survey.partitions if partition.up]
    return max(usable, key=lambda partition: (partition.gpus > 0, partition.default), default=None)
