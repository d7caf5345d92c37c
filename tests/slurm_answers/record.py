"""Record what a SLURM of slurm/dev-cluster answers to the launcher's questions, for `test_slurm_answers`.

    PYTHONPATH=. python tests/slurm_answers/record.py 22.05=own 24.11 26.05

Owns: jobs in many a state on one small cluster, and what is true of each, whatever its SLURM says. A file a version and
command is written beside this one; its format is described in the test.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER.parent))
from slurm_cluster import OTHER_SLURM, SCRIPT, DevCluster, running_cluster  # noqa: E402
from test_slurm_answers import states  # noqa: E402
from waiting import eventually  # noqa: E402

from launcher.cluster import slurm_cancel, slurm_survey  # noqa: E402
from launcher.cluster import slurm_words as words  # noqa: E402
from launcher.store.facts import Job  # noqa: E402

NOBODY = "65534"
CLUSTER = ("--nodes", "2", "--requeue-delay", "3600", "--conf", "MessageTimeout=3", "--conf", "SlurmdTimeout=6",
           "--conf", "MinJobAge=3600")  # fmt: skip
# What of `scontrol show config` is true of the cluster.
CONFIG = ["MaxArraySize=1001", "MaxJobCount=10000", "JobRequeue=1", "PrivateData=none", "ClusterName=c2",
          "AccountingStorageEnforce=none", "KillWait=5 sec"]  # fmt: skip
BY_SIGNAL = {"22.05": "JobLaunchFailure"}  # which is no word for it; sacct knows better
# Options and script that sbatch refuses, in words of each its own.
REFUSED = (
    ["--partition=none"], ["--nodes=9"], ["--qos=none"], ["--constraint=none"], ["--gpus-per-node=9"], ["--mem=9000G"],
    ["--array=0-5000"], ["--dependency=afterok:4711"], ["--time=soon"], ["--no-such-option"], ["--reservation=none"],
    ["--nodelist=n9"], ["--gres=tape:1"], ["--mem=much"], ["--begin=never"], ["--licenses=matlab"],
)  # fmt: skip
Stanza = tuple[str, str, list[str], str]  # command, exit code, what is true, text


class Scene:
    """Jobs in many a state; `queue` and `accounts` say by id what is true of each."""

    def __init__(self, cluster: DevCluster, entering: list[str], by_signal: str) -> None:
        self.cluster = cluster
        self.by_signal = by_signal  # why a script has ended that was killed, for squeue
        self.entering = entering  # what a command that others are to run begins with
        self.queue: dict[str, str] = {}
        self.accounts: dict[str, str] = {}
        self.jobs: dict[str, str] = {}

    def submit(self, name: str, script: str, *options: str, queue: str, accounts: str) -> str:
        """Submit a job of which squeue and sacct are to say so, of each task with its number."""
        where = () if any("nodelist" in option for option in options) else ("--nodelist=n1",)
        job = self.cluster.sbatch(script, f"--job-name={name}", *where, *options)
        self.jobs[name] = job
        self.queue[job], self.accounts[job] = queue, accounts
        return job

    def state(self, name: str) -> str:
        return self.cluster.slurm("squeue", "-h", "-t", "all", "-o", "%T", "-j", self.jobs[name]).split("\n")[0]

    def reach(self, name: str, state: str) -> None:
        assert eventually(lambda: self.state(name) == state), f"{name} is {self.state(name)}, not {state}"


def play(scene: Scene) -> None:
    """Each state that does not take long to reach."""
    cluster, submit = scene.cluster, scene.submit
    submit("limit", "sleep 600", "--time=1", queue="timeout TIMEOUT @n1", accounts="timeout TIMEOUT @n1")
    submit("ok", "true", queue="completed @n1", accounts="completed @n1")
    submit("fails", "exit 3", queue="failed FAILED @n1", accounts="failed FAILED exit code 3 @n1")
    submit("killed", "kill -9 $$", queue=f"failed FAILED {scene.by_signal} @n1", accounts="failed FAILED signal 9 @n1")
    submit("cancelled", "sleep 600", queue="cancelled CANCELLED @n1", accounts="cancelled CANCELLED @n1")
    submit("stopped", "sleep 600", queue="running suspended @n1", accounts="running suspended @n1")
    submit("again", "sleep 600", queue="pending BeginTime", accounts="pending")
    submit("held", "true", "--hold", queue="pending JobHeldUser", accounts="pending")
    after = f"--dependency=afterok:{scene.jobs['held']}"
    submit("waits", "true", after, queue="pending Dependency", accounts="pending")
    scene.reach("fails", "FAILED")
    vain = (f"--dependency=afterok:{scene.jobs['fails']}", "--kill-on-invalid-dep=no")
    submit("vain", "true", *vain, queue="pending DependencyNeverSatisfied", accounts="pending")
    submit("dies", "sleep 600", "--nodelist=n2", "--no-requeue", queue="failed NODE_FAIL n2 @n2",
           accounts="failed NODE_FAIL n2 @n2")  # fmt: skip
    submit("array", "sleep 600", "--array=0-3%2", "--time=60", queue="", accounts="")
    for name in ("cancelled", "stopped", "again", "dies", "array"):
        assert eventually(
            lambda name=name: "RUNNING" in cluster.slurm("squeue", "-h", "-o", "%T", "-j", scene.jobs[name])
        )
    cluster.slurm("scancel", scene.jobs["cancelled"])
    cluster.slurm("scontrol", "suspend", scene.jobs["stopped"])
    cluster.slurm("scontrol", "requeue", scene.jobs["again"])
    assert cluster.script("kill-node", "n2").returncode == 0
    for name, state in (("ok", "COMPLETED"), ("killed", "FAILED"), ("cancelled", "CANCELLED"), ("dies", "NODE_FAIL"),
                        ("limit", "TIMEOUT"), ("again", "PENDING"), ("stopped", "SUSPENDED")):  # fmt: skip
        scene.reach(name, state)


def know_the_array(scene: Scene) -> None:
    """What is true of each of its tasks."""
    array = scene.jobs["array"]
    del scene.queue[array], scene.accounts[array]
    for index in range(4):
        runs = index < 2
        scene.queue[f"{array}_{index}"] = "running @n1" if runs else "pending JobArrayTaskLimit"
        scene.accounts[f"{array}_{index}"] = "running @n1" if runs else "pending"


# ------------------------------------------------------------------------------------------------ what is asked


def said(scene: Scene, command: list[str], *, true: list[str]) -> Stanza:
    """A command's answer: what it prints, or what it complains of."""
    environment = {**scene.cluster.environment, "SLURM_BITSTR_LEN": "0"}
    done = subprocess.run(
        command, env=environment, cwd=scene.cluster.work, capture_output=True, text=True, timeout=120, check=False
    )
    return (
        shlex.join(command),
        str(done.returncode),
        true,
        done.stderr if done.returncode else done.stdout or done.stderr,
    )


def questions(scene: Scene) -> Iterator[Stanza]:
    """While all daemons answer."""
    ids, array = list(scene.jobs.values()), scene.jobs["array"]
    yield said(scene, words.queue_command(ids), true=lines(scene.queue))
    command = words.accounting_command(ids)
    eventually(lambda: accounts_are(scene, scene.cluster.slurm(*command)), seconds=60)  # if ever: the test says it
    yield said(scene, command, true=lines(scene.accounts))
    yield said(scene, words.named_queue_command("array"), true=[array])
    yield said(scene, words.named_accounting_command("array"), true=[array])
    yield said(scene, slurm_cancel.names_command([Job(scene.jobs["ok"], "slurm")]), true=[f"{scene.jobs['ok']}: ok"])
    yield said(scene, words.queue_command(["4711"]), true=["unknown"])
    yield said(scene, ["scontrol", "show", "config"], true=CONFIG)
    ends = scene.cluster.slurm("squeue", "-h", "-o", "%e", "-j", f"{array}_0")
    yield said(scene, ["scontrol", "show", "job", "-o", f"{array}_0"], true=[f"end: {ends}"])
    yield said(scene, slurm_survey.PARTITION_QOS_COMMAND, true=["QOS of the default: N/A"])
    yield said(
        scene,
        slurm_survey.PARTITIONS_COMMAND,
        true=["main* 2 nodes, 8 GPUs, 64 cores", "urgent 2 nodes, 8 GPUs, 64 cores"],
    )
    yield said(scene, slurm_survey.LIMITS_COMMAND, true=["2 nodes, at most None minutes"])
    yield said(scene, ["scancel", "4711"], true=["over"])
    yield said(scene, ["scancel", scene.jobs["ok"]], true=["over"])
    denied = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "scancel", scene.jobs["held"]]
    yield said(scene, [*scene.entering, *denied], true=[f"denied: {scene.jobs['held']}"])


def submissions(scene: Scene) -> Iterator[Stanza]:
    """What sbatch says of a job that it takes, and of many that it does not."""
    name = scene.cluster.slurm("scontrol", "show", "config").split("ClusterName")[1].split()[1]
    for options in ([], ["--parsable"], ["-M", name], ["-M", name, "--parsable"]):
        command, code, _, text = said(scene, ["sbatch", "--hold", *options, "--wrap", "true"], true=[])
        job = re.search(r"[0-9]+", text)
        assert job, text
        where = f" on {name}" if "-M" in options else ""
        yield command, code, [f"accepted {job[0]}{where}"], text
    yield said(
        scene,
        ["squeue", "-M", name, *words.queue_command([scene.jobs["held"]])[2:]],
        true=lines({scene.jobs["held"]: scene.queue[scene.jobs["held"]]}),
    )
    for options in REFUSED:
        stanza = said(scene, ["sbatch", *options, "--wrap", "true"], true=["refused"])
        if stanza[1] != "0":
            yield stanza
    yield said(scene, ["sbatch", "none.sh"], true=["refused"])


def silences(scene: Scene) -> Iterator[Stanza]:
    """What is said of daemons that are gone."""
    end(scene.cluster, "dbd")
    yield said(scene, words.accounting_command(["1"]), true=["no answer"])
    end(scene.cluster, "ctld")
    yield said(scene, ["sbatch", "--wrap", "true"], true=["open"])
    yield said(scene, words.queue_command(["1"]), true=["no answer"])
    yield said(scene, ["scontrol", "show", "config"], true=["no answer"])
    yield said(scene, ["scancel", "1"], true=["no answer"])


def end(cluster: DevCluster, daemon: str) -> None:
    os.kill(int((cluster.root / f"run/{daemon}.pid").read_text().split()[0]), signal.SIGKILL)
    assert eventually(lambda: cluster.script("status").returncode == 1)


def lines(facts: dict[str, str]) -> list[str]:
    return [f"{job}: {fact}" for job, fact in facts.items()]


def accounts_are(scene: Scene, text: str) -> bool:
    return sorted(states(words.read_accounting(text))) == sorted(lines(scene.accounts))


# ------------------------------------------------------------------------------------------------ files


def write(folder: Path, scene: Scene, stanzas: list[Stanza], version: str) -> None:
    """A file a command; names of this machine and of the cluster become some that say nothing."""
    folder.mkdir(exist_ok=True)
    cluster = scene.cluster
    texts: dict[str, str] = {}
    for command, code, true, text in stanzas:
        head = [f"# source: SLURM {version}, recorded by record.py", f"# command: {command}", f"# exit code: {code}",
                *(f"# true: {each}" for each in true)]  # fmt: skip
        name = next(word for word in shlex.split(command) if re.fullmatch(r"s[a-z]+", word) and word != "setpriv")
        texts[name] = texts.get(name, "") + "\n".join([*head, text.rstrip("\n"), "", ""])
    for name, text in texts.items():
        plain = text.replace(str(cluster.root), "/shared/cluster").replace(str(cluster.work), "/shared")
        plain = re.sub(r"\bdev[0-9]{6,}\b", "c2", plain)
        plain = re.sub(rf"\b{socket.gethostname()}\b", "login", plain).replace(f"{SCRIPT.parent}/", "")
        (folder / f"{name}.txt").write_text(plain)


def main(versions: list[str]) -> None:
    for version in versions:
        number, _, own = version.partition("=")
        options = () if own else ("--slurm", number)
        with running_cluster(*CLUSTER, *options) as cluster:
            scene = Scene(
                cluster, [] if own else [str(OTHER_SLURM), "enter", number], BY_SIGNAL.get(number, "signal 9")
            )
            play(scene)
            know_the_array(scene)
            stanzas = [*questions(scene), *submissions(scene)]
            version_of_it = cluster.slurm("scontrol", "--version").split()[-1]
            write(FOLDER / number, scene, [*stanzas, *silences(scene)], version_of_it)


if __name__ == "__main__":
    main(sys.argv[1:])
