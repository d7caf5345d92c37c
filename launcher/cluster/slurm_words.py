"""SLURM's words: its options, states and output, from and to plain values. Pure.

Owns: what sbatch is told, what squeue, sacct and scontrol say.
Must not know: processes, files, submitit's objects; `slurm.py` makes the calls.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from functools import partial
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import Any

from launcher.cluster.batch import Batch
from launcher.cluster.job_state import SUSPENDED, JobState, Phase
from launcher.cluster.notation import minutes, minutes_passed
from launcher.cluster.slurm_identity import marks
from launcher.cluster.slurm_ids import JOB_ID, task_ids
from launcher.cluster.slurm_node import REQUEST
from launcher.config import Cluster
from launcher.machine.installed import data_dir
from launcher.store.facts import Cause

PENDING = {
    "PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD", "PREEMPTED", "EXPEDITING",
}  # fmt: skip
RUNNING = {
    "RUNNING", "CONFIGURING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING",
    "POWER_UP_NODE", "UPDATE_DB",
}  # fmt: skip
WORKING = {"RUNNING": None, "COMPLETING": None, "SUSPENDED": SUSPENDED, "STOPPED": SUSPENDED}  # other words stay
ENDS = {
    "COMPLETED": Phase.COMPLETED,
    "CANCELLED": Phase.CANCELLED,
    "TIMEOUT": Phase.TIMEOUT,
    "DEADLINE": Phase.TIMEOUT,
}  # and every other word is a failure: FAILED, OUT_OF_MEMORY, NODE_FAIL, BOOT_FAIL, REVOKED, ...
# From the queue by a user, by an administrator, and by SLURM itself, which could not start it.
HELD = ("JobHeldUser", "JobHeldAdmin", "job requeued in held state", "launch failed requeued held")
CAUSES = {"Dependency": Cause.DEPENDENCY, "DependencyNeverSatisfied": Cause.IN_VAIN,
          "OUT_OF_MEMORY": Cause.OUT_OF_MEMORY, "NODE_FAIL": Cause.NODE_FAILED,
          **dict.fromkeys(HELD, Cause.HELD)}  # fmt: skip
NOTHING = frozenset({"", "None", "(null)", "None assigned", "N/A"})
SAYS_LITTLE = NOTHING | {"NonZeroExitCode", "TimeLimit", "NodeDown", "OutOfMemory"}  # the state says as much
Names = Mapping[str, str | None]  # of jobs, by id; None: an older version recorded none
SETTINGS_COMMAND = ["scontrol", "show", "config"]
# Of all clusters that one slurmdbd knows: the name, and the port of the controller, 0 where that is down or gone.
CLUSTERS_COMMAND = ["sacctmgr", "-nP", "show", "cluster", "format=cluster,controlport"]
CLUSTER = re.compile(r"([\w.@+-]+)\|([0-9]+)")  # what that answers
COLUMNS = 4  # behind an id: state, reason or exit code, nodes, name, which squeue's script is said with
SIGNAL = re.compile(r"RaisedSignal:([0-9]+)\(.*\)")  # of a script that a signal has ended; not in 22.05
# Squeue's last columns, which sacct's answer has not: for how long it has run, and when it starts.
# Answers that were recorded earlier lack the second.
RAN = re.compile(r"\|([\d:-]+)(?:\|([^|]*))?$")
WARNED_EARLY_SECONDS = 60  # man sbatch, --signal: "may be sent up to 60 seconds earlier than specified"
# Options on which the launcher counts, so that `cluster.extra` may not change them, and the key that says it instead.
KEPT_OPTIONS = {
    "job-name": "sweep and cluster.job_name",
    "array": "cluster.runs_per_job and max_parallel",
    "nodes": "cluster.nodes",
    "cpus-per-task": "cluster.cpus_per_gpu",
    "signal": "cluster.warning_seconds",
    **dict.fromkeys(("ntasks", "ntasks-per-node"), "cluster.gpus_per_node"),
    **dict.fromkeys(("output", "error"), "output_dir"),
    **dict.fromkeys(("clusters", "M"), "cluster.clusters"),
    **dict.fromkeys(("parsable", "test-only", "wait", "wrap"), None),
}
# Options that sbatch takes without a value; of any other it would take the next option for one.
SWITCHES = frozenset({
    "contiguous", "exclusive", "get-user-env", "hold", "ignore-pbs", "nice", "no-kill", "no-requeue", "overcommit",
    "oversubscribe", "propagate", "quiet", "reboot", "requeue", "spread-job", "stepmgr", "use-min-nodes", "verbose",
})  # fmt: skip
# A type may begin with a digit, as 2080ti and 3g.20gb do; the number is what comes last.
TYPE = r"(?!\d+(?![^,]))[\w.+-]+"
GPU = re.compile(rf"(?<![^,])((?:gres/)?gpu(?::{TYPE})?)(?::\d+)?(?![^,])")  # of a list of --gres
GPUS = re.compile(rf"(?<![^,])(?:({TYPE})(?::\d+)?|\d+)(?![^,])")  # of a list of --gpus-per-node or --gpus
MEMORY = ("mem", "mem-per-cpu", "mem-per-gpu")  # sbatch takes one of them
# Options of `cluster.extra` that stand in the place of a key of `cluster`.
REPLACES = {
    **{name: name for name in ("account", "constraint", "exclude", "partition", "qos", "time")},
    **dict.fromkeys(MEMORY, "mem"),
}
# An id as squeue and sacct print it: of a job, of a task or several tasks of an array, of a component of a job.
STATE = re.compile(r"[A-Z_]+")
EXIT_CODE = re.compile(r"[0-9]+:[0-9]+")
NO_ANSWER = re.compile(r"connect|refused|timed out|timeout|unable to contact|talking to the database", re.IGNORECASE)
NODES = re.compile(r"[\w.,\[\]-]*|\(null\)|None assigned|N/A", re.ASCII)


# ------------------------------------------------------------------------------------------------ what sbatch is told


def parameters(batch: Batch) -> dict[str, Any]:
    """The batch in submitit's words."""
    cluster, options = batch.resources, _options(batch)
    tasks = max(1, cluster.gpus_per_node)
    ours = {
        "job_name": batch.name,
        "partition": cluster.partition,
        "account": cluster.account,
        "qos": cluster.qos,
        "constraint": cluster.constraint,
        "exclude": cluster.exclude,
        "time": minutes(cluster.time),  # none of its own as long as `auto` knows nothing
        "mem": cluster.mem,
        "nodes": cluster.nodes,
        "ntasks_per_node": tasks,  # one for each GPU
        "gpus_per_node": cluster.gpus_per_node or None,
        "cpus_per_task": cluster.cpus_per_gpu,
        "signal_delay_s": cluster.warning_seconds,
        "array_parallelism": batch.at_once or batch.size,
        "stderr_to_stdout": True,
        "wckey": None,  # submitit's default is refused where wckeys are tracked
        "setup": [*setup_lines(batch), *way_back(batch)],
        "srun_args": srun_arguments(batch),
    }
    # Of an option that both name, submitit would write two lines, and sbatch heed the last, which is ours. None, since
    # submitit has defaults of its own for what it is not told.
    said = extra_of(cluster).keys() | options.keys() | replaced(cluster).keys()  # null too, which leaves an option out
    said |= {"gpus-per-node"} if "gres" in gpus_of(cluster) else set()  # a node's GPUs, asked for twice
    ours = {key: None if key.replace("_", "-") in said else value for key, value in ours.items()}
    return {**ours, "additional_parameters": options}


def _options(batch: Batch) -> dict[str, Any]:
    cluster = batch.resources
    options: dict[str, Any] = {"clusters": cluster.clusters, "requeue": True, "kill-on-invalid-dep": "yes"}
    if cluster.mail:
        options |= {"mail-user": cluster.mail, "mail-type": "END,FAIL"}
    extra = extra_of(cluster)
    extra |= gpus_of(cluster)
    if ours := list(_dependencies(batch)):
        extra["dependency"] = ",".join(filter(None, [*ours, extra.get("dependency")]))
    if extra.get("requeue") is False:
        options["no-requeue"] = True
    return {key: value for key, value in (options | extra).items() if value is not None and value is not False}


def extra_of(cluster: Cluster) -> dict[str, Any]:
    """`cluster.extra` by the names that sbatch has."""
    return {key.replace("_", "-"): value for key, value in cluster.extra.items()}


def replaced(cluster: Cluster) -> dict[str, list[str]]:
    """The keys of `cluster` in whose place options of `cluster.extra` stand, each with these.

    null leaves out the option itself, and stands in the place of no other.
    """
    found: dict[str, list[str]] = {}
    for option, value in extra_of(cluster).items():
        key = REPLACES.get(option)
        if key is not None and (value is not None or option == key):
            found.setdefault(key, []).append(option)
    return found


def gpus_of(cluster: Cluster) -> dict[str, str | None]:
    """The options of `cluster.extra` that ask for GPUs, with as many as the job has; of several types as they are.

    A job that evaluates needs another number than the one that trains. null: of none, the option is left out.
    """
    extra, gpus = extra_of(cluster), cluster.gpus_per_node
    found: dict[str, str | None] = {}
    for option, number in {"gres": gpus, "gpus-per-node": gpus, "gpus": gpus * cluster.nodes}.items():
        asked, pattern = extra.get(option), _pattern(option)
        if isinstance(asked, str) and pattern.search(asked):
            given = pattern.sub(partial(_so_many, number), asked)
            found[option] = asked if are_several(option, asked) else given
            if number == 0 and option != "gres":  # which may ask for other things, too
                found[option] = None
    return found


def _pattern(option: str) -> re.Pattern[str]:
    return GPU if option == "gres" else GPUS


def _so_many(number: int, found: re.Match[str]) -> str:
    return ":".join(filter(None, [found[1], str(number)]))


def are_several(option: str, asked: str) -> bool:
    """Whether an option asks for GPUs of several types, whose numbers nobody can know from how many there are to be."""
    return len(_pattern(option).findall(asked)) > 1


def _dependencies(batch: Batch) -> Iterator[str]:
    """What to wait for: a job, or in an array of the same size the task of the same number; all must come true."""
    if batch.after and batch.in_step:
        yield f"aftercorr:{batch.after.job_id.partition('_')[0]}"
    elif batch.after:
        yield f"afterok:{batch.after.job_id}"
    if batch.behind:
        yield "afterany:" + ":".join(job.job_id for job in batch.behind)


def setup_lines(batch: Batch) -> list[str]:
    """What a job's script runs before srun: our code first, then the site's settings."""
    lines = []
    if batch.code is not None:
        lines.append(f"export PYTHONPATH={shlex.quote(str(batch.code))}${{PYTHONPATH:+:$PYTHONPATH}}")
        lines.append(f"source {shlex.quote(str(batch.code / 'slurm' / 'setup.sh'))}")
    return [*lines, *batch.resources.setup]


def way_back(batch: Batch) -> list[str]:
    """Lines by which the script asks at its end for the requeue that a task could not ask for.

    They come after the site's settings, whose own words for the end of the script, if any, stay behind ours.
    """
    shell = data_dir("slurm") if batch.code is None else batch.code / "slurm"
    at_end = shlex.quote(f"source {shlex.quote(str(shell / 'requeue.sh'))} || true; ")
    return [
        "unset SLURM_CLUSTERS",  # by which srun, and the way back, would look for the job on another cluster
        f"export {REQUEST}={shlex.quote(str(batch.folder))}/requeue.${{SLURM_JOB_ID:-}}.${{SLURM_RESTART_COUNT:-0}}",
        'eval "set -- $(trap -p EXIT)"',
        f'trap {at_end}"${{3-}}" EXIT',
    ]


def srun_arguments(batch: Batch) -> list[str]:
    """Options of srun: cores, which it no longer takes over from sbatch, and the container.

    A task that was killed ends the step, and so lets SLURM say why: by its defaults the others go on without it. Tasks
    have what the script has set, the way to our code for one, also where the job itself is to get nothing.
    """
    cluster = batch.resources
    arguments = ["--kill-on-bad-exit=1", "--export=ALL"]
    arguments += [] if cluster.cpus_per_gpu is None else [f"--cpus-per-task={cluster.cpus_per_gpu}"]
    if cluster.container and cluster.container_runtime == "pyxis":
        arguments.append(f"--container-image={cluster.container}")
        arguments.append("--container-mounts=" + ",".join(_mounts(batch)))
    return arguments


def python_command(batch: Batch) -> str:
    """The shell words that start Python; -P, since a checkout in the working folder must not win over the snapshot."""
    cluster = batch.resources
    words = [cluster.python or ("python3" if cluster.container else sys.executable), "-P"]
    if cluster.container and cluster.container_runtime == "apptainer":
        gpus = ["--nv"] if cluster.gpus_per_node else []
        words = ["apptainer", "exec", *gpus, "--bind", ",".join(_mounts(batch)), cluster.container, *words]
    return shlex.join(words)


def task_command(batch: Batch) -> str:
    """The shell words that start Python for a batch's work, which the time limit's warning may reach at any moment."""
    return f"{python_command(batch)} -m launcher.worker.shielded"


def _mounts(batch: Batch) -> list[str]:
    return [f"{batch.root}:{batch.root}", *batch.resources.container_mounts]


def complaint(message: str) -> str:
    """What a command complained of, in one line, each thing once and without its prefix."""
    lines = [re.sub(r"^\w+: (error|fatal): ", "", line.strip()) for line in message.splitlines()]
    return "; ".join(dict.fromkeys(line for line in lines if line)) or "no word of explanation"


# ------------------------------------------------------------------------------------------------ what SLURM is asked


def at(command: list[str], cluster: str | None) -> list[str]:
    """A command about another cluster than the one that answers here; sacctmgr is of all of them."""
    if cluster is None or command[0] == "sacctmgr":
        return command
    return [command[0], f"--clusters={cluster}", *command[1:]]


def queue_command(ids: Iterable[str]) -> list[str]:
    """Ask squeue for these jobs, those included that ended a short time ago; a line for each task of an array."""
    return ["squeue", "-h", "-a", "-r", "-t", "all", "-o", "%i|%T|%r|%N|%j|%o|%M|%S", "-j", ",".join(_parents(ids))]


def accounting_command(ids: Iterable[str]) -> list[str]:
    """Ask sacct for these jobs."""
    return ["sacct", "-n", "-P", "-X", "-o", "JobID,State,ExitCode,NodeList,JobName", "-j", ",".join(_parents(ids))]


def named_queue_command(name: str) -> list[str]:
    """Ask squeue for the id of the job, or array, of that name."""
    return ["squeue", "-h", "-a", "-r", "-t", "all", "-o", "%F|%j", "-n", name]


def named_accounting_command(name: str) -> list[str]:
    """Ask sacct for the id of the job, or array, of that name."""
    return ["sacct", "-n", "-P", "-X", "-o", "JobID,JobName", f"--name={name}", "--starttime=now-14days"]


def _parents(ids: Iterable[str]) -> list[str]:
    """An array is asked for as one."""
    return list(dict.fromkeys(job_id.partition("_")[0] for job_id in ids))


# ------------------------------------------------------------------------------------------------ what SLURM says


def read_queue(text: str, names: Names | None = None, scripts: Names = MappingProxyType({})) -> dict[str, JobState]:
    """What squeue answered of the jobs with these names or scripts, or of all: each by id."""
    states: dict[str, JobState] = {}
    place = count(1)  # squeue sorts by priority
    for ids, (word, reason, node, ran, start) in _lines(text, names, scripts):
        if STATE.fullmatch(word):
            why = "" if reason in NOTHING or _is_stale(word, reason) else SIGNAL.sub(r"signal \1", reason)
            state = replace(_state(word, why, node), minutes=minutes_passed(ran))
            for each in ids:
                waits = state.phase is Phase.PENDING
                states[each] = replace(state, place=next(place), start=_time(start)) if waits else state
    return states


def _time(text: str) -> float | None:
    """A time as squeue prints it, in seconds since 1970; None where it says none."""
    with suppress(ValueError, OverflowError):
        return datetime.fromisoformat(text).timestamp()
    return None


def _is_stale(word: str, reason: str) -> bool:
    """Whether it is why a job that was cancelled had waited, which squeue goes on to show."""
    return word == "CANCELLED" and reason != "DependencyNeverSatisfied"


def read_accounting(text: str, names: Names | None = None) -> dict[str, JobState]:
    """What sacct answered, likewise."""
    states: dict[str, JobState] = {}
    for ids, (words, code, node, *_) in _lines(text, names):
        word = words.partition(" ")[0]  # "CANCELLED by 1000"
        if STATE.fullmatch(word) and EXIT_CODE.fullmatch(code):
            state = _state(word, exit_words(code) if word == "FAILED" else "", node)
            states |= dict.fromkeys(ids, state)
    return states


def _lines(
    text: str, names: Names | None, scripts: Names = MappingProxyType({})
) -> Iterator[tuple[list[str], list[str]]]:
    """The whole lines of an answer, each with the ids that it is about; what a site prints beside them is passed over.

    A job of another name that runs another script is not the one that we know by that id: another cluster's, or one of
    a later count.
    """
    for line in text.splitlines():
        job, *columns = line.strip().split("|", COLUMNS)
        if len(columns) < COLUMNS - 1 or not NODES.fullmatch(columns[2]):
            continue
        mark, ran, start = _last(columns[3]) if len(columns) == COLUMNS else (None, "", "")
        ids = [each for each in task_ids(job) if names is None or _is_meant(each, mark, names, scripts)]
        if ids:
            yield ids, [*columns[:3], ran, start]


def _last(text: str) -> tuple[str, str, str]:
    """Name and script, for how long it has run, and when it starts: the end of a line of squeue."""
    found = RAN.search(text)
    return (text[: found.start()], found[1], found[2] or "") if found else (text, "", "")


def _is_meant(job_id: str, mark: str | None, names: Names, scripts: Names) -> bool:
    name = names.get(job_id)
    return job_id in names and (mark is None or name is None or marks(mark, name, scripts.get(job_id)))


def read_named(text: str, name: str) -> str | None:
    """The id of the job, or array, of that name; None where the answer of `named_..._command` has none."""
    found = (line.strip().partition("|") for line in text.splitlines())
    jobs = (JOB_ID.fullmatch(job) for job, _, its_name in found if its_name == name)
    return next((job["job"] for job in jobs if job), None)


def _state(word: str, reason: str, node: str) -> JobState:
    where = None if node in NOTHING else node
    if word in PENDING:
        return JobState(Phase.PENDING, reason or (None if word == "PENDING" else word), where, CAUSES.get(reason))
    if word in RUNNING:
        return JobState(Phase.RUNNING, WORKING.get(word, word), where)
    if word == "COMPLETED":
        return JobState(Phase.COMPLETED, None, where)
    more = [where] if word == "NODE_FAIL" and where else [reason] if reason and reason not in SAYS_LITTLE else []
    return JobState(ENDS.get(word, Phase.FAILED), " ".join([word, *more]), where, CAUSES.get(word))


def exit_words(code: str) -> str:
    """The `code:signal` of sacct, in words."""
    status, _, number = code.partition(":")
    return f"signal {number}" if number.isdigit() and int(number) else f"exit code {status}"


def combined(queue: Mapping[str, JobState], accounting: Mapping[str, JobState]) -> dict[str, JobState]:
    """One answer from both: squeue knows what is in flight, sacct better how it ended.

    Of a job that squeue does not list and that has not ended for sacct, neither knows.
    """
    states = dict(queue)
    for job_id, state in accounting.items():
        ended = state.phase not in (Phase.PENDING, Phase.RUNNING)
        if job_id in queue:
            if ended and job_id in ended_in(queue):
                states[job_id] = state
        elif ended:
            states[job_id] = state
        elif state.reason == "PREEMPTED":  # and not put back into the queue
            states[job_id] = JobState(Phase.FAILED, state.reason, state.node)
    return states


def in_flight(states: Mapping[str, JobState]) -> list[str]:
    """The jobs that have not ended."""
    return [job_id for job_id, state in states.items() if state.phase in (Phase.PENDING, Phase.RUNNING)]


def ended_in(queue: Mapping[str, JobState]) -> set[str]:
    """The jobs that squeue still lists though they have ended."""
    return queue.keys() - in_flight(queue)


def open_ids(wanted: Collection[str], queue: Mapping[str, JobState]) -> list[str]:
    """The jobs that sacct is needed for."""
    over = ended_in(queue)
    return [job_id for job_id in wanted if job_id not in queue or job_id in over]


def read_settings(text: str) -> dict[str, str]:
    """`scontrol show config` as a mapping."""
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line)
    return {key.strip(): value.strip() for key, _, value in pairs}


def read_clusters(text: str) -> dict[str, bool]:
    """What CLUSTERS_COMMAND answers: each cluster, and whether its controller is known to be up."""
    found = (CLUSTER.fullmatch(line.strip()) for line in text.splitlines())
    return {each[1]: each[2] != "0" for each in found if each}


# ------------------------------------------------------------------------------------------------ names


def job_id(parent: str, index: int, size: int) -> str:
    """The id of one job of a batch: submitit makes no array of a single job."""
    return parent if size == 1 else f"{parent}_{index}"


def log_file(folder: Path, identity: str) -> Path:
    """Where submitit has srun write what the first task prints."""
    return folder / f"{identity}_0_log.out"
