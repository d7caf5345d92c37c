"""SLURM's words to plain values and back; the recorded answers are those of a SLURM 22.05 (slurm/dev-cluster)."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from launcher.cli.doctor import tracking_here
from launcher.cluster import doctor, slurm, slurm_calls, slurm_sbatch, slurm_survey
from launcher.cluster import slurm_words as words
from launcher.cluster.batch import Batch
from launcher.cluster.job_state import JobState, Phase
from launcher.cluster.local import this_process
from launcher.cluster.offer import Offer
from launcher.cluster.scheduler import AUTO, scheduler_for, scheduler_to_ask
from launcher.cluster.slurm import SlurmScheduler
from launcher.cluster.slurm_environment import clean_environment
from launcher.cluster.slurm_ids import task_ids
from launcher.cluster.slurm_log import explained, first_rank
from launcher.cluster.slurm_sbatch import Verdict
from launcher.cluster.slurm_survey import Limits
from launcher.config import Cluster
from launcher.errors import ConfigError, NotCancelled, QueueFull, Refused, SchedulerError
from launcher.machine.gpus import gpu_names
from launcher.machine.users import our_name
from launcher.store.facts import Cause, Job
from launcher.store.files import write_once

QUEUE = """\
10|CANCELLED|DependencyNeverSatisfied|
8|COMPLETED|None|n1
7|COMPLETING|None|n1
2|FAILED|NonZeroExitCode|n1
1_2|PENDING|JobArrayTaskLimit|
4|PENDING|DependencyNeverSatisfied|
12|PENDING|Dependency|
6|PENDING|BeginTime|
1_0|RUNNING|None|n1
13|FAILED|BadConstraints|
5|NODE_FAIL|NodeDown|n3
9|TIMEOUT|TimeLimit|n1
"""
ACCOUNTING = """\
2|FAILED|3:0|n1
3|FAILED|0:9|n1
5|NODE_FAIL|0:0|n3
7|CANCELLED by 0|0:0|n1
8|COMPLETED|0:0|n1
9|TIMEOUT|0:0|n1
14|OUT_OF_MEMORY|0:125|n2
202_[0-2,7%8]|PENDING|0:0|None assigned
28|PREEMPTED|0:0|n4
"""
CONFIG = """\
Configuration data as of 2026-11-21T04:30:02
AccountingStorageType   = accounting_storage/slurmdbd
MaxArraySize            = 1001
MaxJobCount             = 10000
MinJobAge               = 300 sec
"""


def a_batch(tmp_path: Path, size: int = 3, **cluster: object) -> Batch:
    resources = Cluster(executor="slurm", **cluster)  # type: ignore[arg-type]
    return Batch("sweep.0123", tmp_path / "a folder" / "sweep.0123", size, resources, tmp_path, tmp_path / "co de", 2)


def options_of(script: str) -> dict[str, str]:
    """What sbatch reads of a script: it splits such a line as a shell does."""
    lines = [line for line in script.splitlines() if line.startswith("#SBATCH ")]
    words_of = [shlex.split(line.removeprefix("#SBATCH "))[0].removeprefix("--").partition("=") for line in lines]
    return {name: value for name, _, value in words_of}


# ------------------------------------------------------------------------------------------------ answers


def test_what_squeue_says() -> None:
    """Each job has a phase, a reason where there is one, and its node; COMPLETING is no end."""
    states = words.read_queue(QUEUE)
    assert states["1_0"] == JobState(Phase.RUNNING, None, "n1")
    assert states["1_2"] == JobState(Phase.PENDING, "JobArrayTaskLimit")
    assert states["4"] == JobState(Phase.PENDING, "DependencyNeverSatisfied", None, Cause.IN_VAIN)
    assert states["12"] == JobState(Phase.PENDING, "Dependency", None, Cause.DEPENDENCY)
    assert states["7"] == JobState(Phase.RUNNING, None, "n1")
    assert states["8"].phase is Phase.COMPLETED
    assert states["9"] == JobState(Phase.TIMEOUT, "TIMEOUT", "n1")
    assert states["5"] == JobState(Phase.FAILED, "NODE_FAIL n3", "n3", Cause.NODE_FAILED)
    assert states["13"] == JobState(Phase.FAILED, "FAILED BadConstraints")
    assert states["10"] == JobState(Phase.CANCELLED, "CANCELLED DependencyNeverSatisfied")


def test_squeue_says_how_long_a_job_has_run_and_that_it_is_suspended() -> None:
    """Whole minutes, as many as have passed; a line without that, of whatever site, says as much as it did."""
    assert words.read_queue("7|RUNNING|None|n1|s|1-00:13:05")["7"] == JobState(Phase.RUNNING, None, "n1", minutes=1453)
    assert words.read_queue("7|RUNNING|None|n1|s|1:59", {"7": "s"})["7"].minutes == 1
    assert words.read_queue("7|RUNNING|None|n1|s", {"7": "s"})["7"].minutes is None
    assert words.read_queue("7|RUNNING|None|n1|s|INVALID", {"7": "t"}) == {}
    for word in ("SUSPENDED", "STOPPED"):
        assert words.read_queue(f"7|{word}|None|n1|s|1:13")["7"] == JobState(
            Phase.RUNNING, "suspended", "n1", minutes=1
        )


@pytest.mark.parametrize("waited", ["JobHeldUser", "Priority", "Dependency", "Resources"])
def test_a_job_that_was_cancelled_says_no_more_why_it_had_waited(waited: str) -> None:
    """Which squeue goes on to show."""
    assert words.read_queue(f"7|CANCELLED|{waited}||s")["7"] == JobState(Phase.CANCELLED, "CANCELLED")


def test_what_sacct_says() -> None:
    """How a job ended: exit code, signal, node; a pending array is one line with its indices in brackets."""
    states = words.read_accounting(ACCOUNTING)
    assert states["2"].reason == "FAILED exit code 3"
    assert states["3"].reason == "FAILED signal 9"
    assert states["5"].reason == "NODE_FAIL n3"
    assert states["7"].phase is Phase.CANCELLED
    assert states["14"] == JobState(Phase.FAILED, "OUT_OF_MEMORY", "n2", Cause.OUT_OF_MEMORY)
    assert [job for job in states if job.startswith("202")] == ["202_0", "202_1", "202_2", "202_7"]


@pytest.mark.parametrize(
    ("text", "tasks"),
    [
        ("7", ["7"]),
        ("7_1", ["7_1"]),
        ("7_[3]", ["7_3"]),
        ("7_[0-2%1]", ["7_0", "7_1", "7_2"]),
        ("7_[1,4-5,9]", ["7_1", "7_4", "7_5", "7_9"]),
        ("7_[0-6:3]", ["7_0", "7_3", "7_6"]),
        ("7_[1,3,...]", ["7_1", "7_3"]),
    ],
)
def test_brackets(text: str, tasks: list[str]) -> None:
    """One column may mean several tasks of an array, with a throttle or cut short."""
    assert task_ids(text) == tasks


@pytest.mark.parametrize("word", ["PREEMPTED", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT"])
def test_words_that_are_no_end(word: str) -> None:
    """A job that SLURM puts back into its queue is pending."""
    assert words.read_queue(f"1|{word}|None|")["1"].phase is Phase.PENDING


def test_both_answers_together() -> None:
    """The queue knows what is in flight, sacct better how it ended, and what the queue lacks is over."""
    queue = {
        "1": JobState(Phase.RUNNING),
        "2": JobState(Phase.FAILED, "FAILED"),
        "3": JobState(Phase.PENDING, "BeginTime"),
    }
    accounting = {
        "1": JobState(Phase.FAILED, "FAILED exit code 1"),  # its life before a requeue
        "2": JobState(Phase.FAILED, "FAILED signal 9"),
        "3": JobState(Phase.PENDING, "REQUEUED"),
        "4": JobState(Phase.COMPLETED),
        "5": JobState(Phase.RUNNING),  # sacct lags behind
        "6": JobState(Phase.PENDING, "PREEMPTED"),  # PreemptMode=CANCEL
    }
    both = words.combined(queue, accounting)
    assert both == {
        **queue,
        "2": JobState(Phase.FAILED, "FAILED signal 9"),
        "4": JobState(Phase.COMPLETED),
        "6": JobState(Phase.FAILED, "PREEMPTED"),
    }
    assert words.open_ids(["1", "2", "3", "4"], queue) == ["2", "4"]


def test_array_size_is_bounded_by_the_cluster() -> None:
    """MaxArraySize is the first index that is too high, so that many tasks fit, unless MaxJobCount is smaller."""
    assert Limits(words.read_settings(CONFIG)).batch_size(Cluster()) == 1001
    assert Limits({"MaxArraySize": "1001", "MaxJobCount": "20"}).batch_size(Cluster()) == 20
    assert Limits({"MaxArraySize": "0"}).batch_size(Cluster()) == 1
    assert slurm_survey.enforces_limits({"AccountingStorageEnforce": "associations,limits"})
    assert not slurm_survey.enforces_limits({"AccountingStorageEnforce": "none"})


@pytest.mark.parametrize(
    ("asked", "size"),
    [
        ({}, 24),  # the default QOS of every account, the partition's, and what the associations say
        ({"account": "other"}, 39),
        ({"account": "lab"}, 99),
        ({"account": "lab", "qos": "few"}, 4),
        ({"account": "lab", "extra": {"qos": "few"}}, 4),
        ({"account": "lab", "partition": "gpu"}, 11),
        ({"account": "lab", "partition": "gpu,main", "qos": "one"}, 1),
        ({"account": "team"}, 29),  # the account's own parent's
        ({"account": "club"}, 24),  # the user's own share of it
    ],
)
def test_array_size_is_bounded_by_what_may_be_submitted(asked: dict[str, Any], size: int) -> None:
    """The least of what account, QOS and partition's QOS allow, less the one that makes the reference table."""
    partitions = "PartitionName=main Default=YES QoS=N/A\nPartitionName=gpu Default=NO QoS=gpus Nodes=n[1-4]\n"
    qos = "normal|200||100\nfew||5|\ngpus|12||\none|1||\n"
    users = "lab|||\nother|long|40|\nteam||50|\nclub|||25\n"
    parents = "|root||\n|lab|root|\n|dept|root|30\n|team|dept|35\n|club|team|\nme|team||1\n"
    limits = Limits(words.read_settings(CONFIG), users, qos, partitions, parents)
    assert limits.batch_size(Cluster(**asked)) == size


# ------------------------------------------------------------------------------------------------ questions


def test_an_array_is_asked_for_as_one() -> None:
    """Sixty tasks of an array make one word of the command."""
    command = words.queue_command([f"202_{index}" for index in range(60)] + ["7"])
    assert command[-1] == "202,7"


# ------------------------------------------------------------------------------------------------ scripts


def test_every_option_reaches_sbatch(tmp_path: Path) -> None:
    """Each key of the config is an option, whatever characters its value has; `extra` wins over our own."""
    batch = a_batch(
        tmp_path,
        partition="gpu,long",
        account='it\'s "ours" & theirs',
        qos="high",
        constraint="a100|h100",
        exclude="n[1-3]",
        time="1-02:30:00",
        mem="64G",
        gpus_per_node=1,
        cpus_per_gpu=6,
        mail="me@example.org",
        warning_seconds=90,
        extra={"reservation": "fri day", "exclusive": True, "mail_type": "ALL", "hint": None, "gpus_per_node": "a:1"},
    )
    options = options_of(SlurmScheduler().script(batch))
    assert options == {
        "job-name": "sweep.0123",
        "partition": "gpu,long",
        "account": 'it\'s "ours" & theirs',
        "qos": "high",
        "constraint": "a100|h100",
        "exclude": "n[1-3]",
        "time": "1590",
        "mem": "64G",
        "nodes": "1",
        "ntasks-per-node": "1",
        "gpus-per-node": "a:1",
        "cpus-per-task": "6",
        "mail-user": "me@example.org",
        "mail-type": "ALL",
        "array": "0-2%2",
        "signal": "USR2@90",
        "reservation": "fri day",
        "exclusive": "",
        "requeue": "",
        "kill-on-invalid-dep": "yes",
        "open-mode": "append",
        "output": str(batch.folder / "%A_%a_0_log.out"),
    }


def test_what_is_not_given_is_left_to_the_cluster(tmp_path: Path) -> None:
    """No time limit, memory or partition of ours where the config says nothing."""
    options = options_of(SlurmScheduler().script(a_batch(tmp_path)))
    assert not {"time", "mem", "partition", "account", "gpus-per-node", "wckey", "mail-user"} & set(options)


def test_one_task_for_each_gpu(tmp_path: Path) -> None:
    """Nodes x GPUs tasks, each with its cores, which srun must be told again."""
    script = SlurmScheduler().script(a_batch(tmp_path, nodes=2, gpus_per_node=8, cpus_per_gpu=4))
    options = options_of(script)
    assert (options["nodes"], options["ntasks-per-node"], options["gpus-per-node"]) == ("2", "8", "8")
    assert "--cpus-per-task=4" in script.splitlines()[-1]


def test_the_snapshot_comes_first(tmp_path: Path) -> None:
    """The script puts the snapshot before the user's PYTHONPATH and Python's working folder, then the site's lines."""
    batch = a_batch(tmp_path, setup=["module load cuda/12"])
    script = SlurmScheduler().script(batch)
    setup = script.partition("# setup\n")[2].partition("\n\n")[0]
    (tmp_path / "co de" / "slurm").mkdir(parents=True)
    (tmp_path / "co de" / "slurm" / "setup.sh").write_text("module() { echo module $*; }\n")
    done = subprocess.run(
        ["/bin/bash", "-euc", setup + "\necho $PYTHONPATH"],
        env={"PYTHONPATH": "/mine"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == ["module load cuda/12", f"{tmp_path}/co de:/mine"]
    assert " -P -m launcher.worker.shielded -u -m launcher.worker.start " in script


def test_containers(tmp_path: Path) -> None:
    """pyxis is an option of srun, apptainer a word before Python; both see the output folder at its own path."""
    mounts = [f"{tmp_path}:{tmp_path}", "/data:/data"]
    pyxis = a_batch(tmp_path, container="nvcr.io#nvidia/pytorch", container_mounts=["/data:/data"])
    assert words.srun_arguments(pyxis) == [
        "--kill-on-bad-exit=1",
        "--export=ALL",
        "--container-image=nvcr.io#nvidia/pytorch",
        "--container-mounts=" + ",".join(mounts),
    ]
    assert words.python_command(pyxis) == "python3 -P"
    apptainer = a_batch(
        tmp_path, container="/my image.sif", container_runtime="apptainer", container_mounts=["/data:/data"]
    )
    assert words.srun_arguments(apptainer) == ["--kill-on-bad-exit=1", "--export=ALL"]
    expected = ["apptainer", "exec", "--bind", ",".join(mounts), "/my image.sif", "python3", "-P"]
    assert shlex.split(words.python_command(apptainer)) == expected


def test_an_enclosing_job_does_not_leak() -> None:
    """What a job sets for itself stays behind; where the cluster is, and what is nobody's, goes on."""
    outer = {
        "SLURM_JOB_ID": "1", "SLURM_CPU_BIND": "quiet,mask_cpu:0x1", "SLURMD_NODENAME": "n1", "SRUN_DEBUG": "3",
        "SBATCH_PARTITION": "theirs", "SUBMITIT_EXECUTOR": "slurm", "WORLD_SIZE": "8", "RANK": "3",
        "CUDA_VISIBLE_DEVICES": "0", "PREFSWEEP_GPUS": "1", "PREFSWEEP_PARENT": "2",
    }  # fmt: skip
    kept = {"SLURM_CONF": "/etc/slurm.conf", "PATH": "/bin", "HF_HOME": "/hf", "SBATCH_IGNORE_PBS": "1"}
    assert clean_environment(outer | kept) == kept


def test_a_users_filters_do_not_narrow_our_questions(
    commands: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """SLURM's commands would heed them: a job of another partition would read LOST, and its run begin anew."""
    for filtered in ("SQUEUE_PARTITION", "SQUEUE_STATES", "SACCT_FORMAT", "SCANCEL_STATE", "SINFO_PARTITION"):
        monkeypatch.setenv(filtered, "urgent")
    commands(squeue='test -z "$SQUEUE_PARTITION$SQUEUE_STATES" && echo "7|RUNNING|None|n1|s"', scontrol="exit 1")
    assert SlurmScheduler().states([Job("7", "slurm", name="s")])["7"].phase is Phase.RUNNING
    assert not [name for name in clean_environment(os.environ) if name.partition("_")[2] in ("STATE", "FORMAT")]
    assert clean_environment({"SCONTROL_ALL": "1", "SINFO_ALL": "1", "SQUEUEZE": "2"}) == {"SQUEUEZE": "2"}


# ------------------------------------------------------------------------------------------------ what there is


def test_what_a_cluster_offers() -> None:
    """Partitions with their GPUs, from sinfo; of several kinds of node the one with most GPUs speaks for the rest."""
    kinds = "main*|up|infinite|4|gpu:8|64|512000\nlong|up|7-00:00:00|9|(null)|32+|128000+\nlong|up|7-00:00:00|2|"
    kinds += "gpu:a100:4(S:0-1),lustre:1|64|1024000\nold|down|1:00:00|1|gpu:2080:2|8|32000\n"
    main, long, old = slurm_survey.read_partitions(kinds)
    assert (main.name, main.default, main.gpus, main.gpu_type, main.cpus, main.memory_gb) == (
        "main", True, 8, "", 64, 512,
    )  # fmt: skip
    assert (long.default, long.gpus, long.gpu_type, long.nodes, long.time_limit) == (False, 4, "a100", 2, "7-00:00:00")
    assert (old.up, old.gpus) == (False, 2)


@pytest.mark.parametrize(
    ("partition", "expected"),
    [
        (None, Offer(4, None, 90)),
        ("long", Offer(11, 60, 10080)),
        ("main,long", Offer(15, 60, 90)),
        ("old", Offer(1, None, None)),
        ("none", Offer(unlisted=("none",))),
        ("long,none", Offer(11, 60, 10080, ("none",))),
    ],
)
def test_what_a_partition_gives(partition: str | None, expected: Offer) -> None:
    """Its nodes, the limit of a job that names none, and the longest; of several the least; a site's lines are none."""
    text = (
        "NOTE | hello\nmain*|1:30:00|n/a|4\nlong|7-00:00:00|1:00:00|9\nlong|7-00:00:00|1:00:00|2\nold|infinite|n/a|1\n"
    )
    assert slurm_survey.read_offer(text, partition) == expected


@pytest.mark.parametrize(
    ("accounts", "silence", "said"),
    [
        ("lab\n", None, "sacct answers"),
        (None, None, "none: a run's files say how it ended"),
        (None, "sacctmgr does not answer: refused", "not now: sacctmgr does not answer: refused"),
    ],
)
def test_doctor_tells_no_accounts_from_silent_ones(accounts: str | None, silence: str | None, said: str) -> None:
    """A slurmdbd that is down for a while is not a cluster without one."""
    offered = slurm_survey.survey({}, "", accounts, 1, silence=silence)
    assert dict(slurm_survey.findings(offered))["accounting"] == said


@pytest.mark.parametrize(
    ("does", "answers", "silence"),
    [
        ("sleep 60", False, "sacct: no answer within 0.5 s"),
        ("echo 'sacct: error: Problem talking to the database: x' >&2; exit 1", False,
         "sacct does not answer: Problem talking to the database: x"),
        ("echo 'Slurm accounting storage is disabled' >&2; exit 1", False, None),
        ("exit 0", True, None),
    ],
)  # fmt: skip
def test_an_sacct_that_hangs_is_told_from_one_that_keeps_no_accounts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, does: str, answers: bool, silence: str | None
) -> None:
    """`doctor` shows the rest all the same."""
    (tmp_path / "sacct").write_text(f"#!/bin/sh\n{does}\n")
    (tmp_path / "sacct").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    class Impatient(slurm_calls.Controller):
        def ask(self, command: list[str], seconds: float = 0.5) -> subprocess.CompletedProcess[str]:
            return super().ask(command, min(seconds, 0.5 if "sleep" in does else 60))

    assert slurm._keeps_accounts(Impatient()) == (answers, silence)


def test_doctor_goes_on_where_sacct_does_not_answer(
    commands: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where slurmdbd's machine is down: partitions and all that is known without it are told."""
    commands(scontrol="echo ClusterName = here", sinfo="echo 'gpu*|up|infinite|4|gpu:8|96|1000000'", sbatch="exit 1")
    commands(sacct="exec sleep 100", sacctmgr="exec sleep 100")
    ask = slurm_calls.Controller.ask
    monkeypatch.setattr(slurm_calls.Controller, "ask", lambda self, command, _seconds=0: ask(self, command, 2))
    found, proposal = SlurmScheduler().survey(Cluster())
    assert dict(found)["accounting"] == "not now: sacct: no answer within 2 s"
    assert "partition" in dict(found)
    assert "partition: gpu" in proposal


def test_the_proposed_file_can_be_composed() -> None:
    """doctor's file names the best partition that is up, and every key in it is one of the schema."""
    offered = slurm_survey.survey(words.read_settings(CONFIG), "cpu*|up|infinite|9|(null)|64|512000\n"
                           "gpu|up|2-00:00:00|4|gpu:h100:8|96|1000000\n", "lab\nlab\nother\n", 1001)  # fmt: skip
    plain = yaml.safe_load(slurm_survey.proposal(offered))
    assert plain.pop("defaults") == ["slurm", "_self_"]
    cluster = Cluster(**plain)
    assert (cluster.partition, cluster.account, cluster.time) == ("gpu", "lab", "2-00:00:00")
    assert (cluster.gpus_per_node, cluster.cpus_per_gpu) == (1, 12)


def test_doctor_never_shows_a_token(tmp_path: Path) -> None:
    """Whether there is one, not what it is."""
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password verysecret")
    home = {"HOME": str(tmp_path)}
    found = doctor.findings(None, tmp_path / "outputs", {**home, "HF_TOKEN": "hf_verysecret"})
    assert dict(found)["Hugging Face token"] == "present"
    assert "verysecret" not in str([*found, tracking_here("auto", home)])
    assert dict(doctor.findings(None, tmp_path, home))["Hugging Face token"] == "none"


# ------------------------------------------------------------------------------------------------ refusals


FAILED = "sbatch: error: Batch job submission failed:"


@pytest.mark.parametrize(
    ("code", "message", "expected"),
    [
        (1, f"{FAILED} Invalid partition name specified", Verdict.REFUSED),
        (1, f"{FAILED} Requested node configuration is not available", Verdict.REFUSED),
        (1, "sbatch: unrecognized option '--frobnicate'", Verdict.REFUSED),
        (1, f"sbatch: error: lua: no account\n{FAILED} Unspecified error", Verdict.REFUSED),
        (1, f"{FAILED} Socket timed out on send/recv operation", Verdict.OPEN),
        (1, f"{FAILED} Unable to contact slurm controller (connect failure)", Verdict.OPEN),
        (-9, "", Verdict.OPEN),
        (137, "Killed", Verdict.OPEN),
        (0, "", Verdict.OPEN),
        (0, f"{FAILED} Invalid partition name specified", Verdict.OPEN),
        (1, "", Verdict.SAID_NO),
        (1, "Welcome to cluster! Invalid logins are recorded.", Verdict.SAID_NO),
        (1, f"{FAILED} Moon phase", Verdict.SAID_NO),
        (1, f"sbatch: error: QOSMaxSubmitJobPerUserLimit\n{FAILED} Job violates", Verdict.FULL),
        (1, "sbatch: error: AssocMaxSubmitJobLimit", Verdict.FULL),
    ],
)  # fmt: skip
def test_whether_a_refusal_is_one(code: int, message: str, expected: Verdict) -> None:
    """Only SLURM's own words are; a signal, a time-out, success or a foreign text leave it open."""
    assert slurm_sbatch.verdict(code, message) is expected


@pytest.mark.parametrize(
    ("answer", "job", "cluster"),
    [
        ("Submitted batch job 44\n", "44", None),
        ("Submitted batch job 44 on cluster c1\n", "44", "c1"),
        ("Maintenance: job 1 of 3 on Monday\nSubmitted batch job 44\nhave a nice day\n", "44", None),
        ("Submitted batch job 1\nSubmitted batch job 44\n", "44", None),
        ("123;cluster1\n", "123", "cluster1"),
        ("NOTE: 5 jobs\n123\n", "123", None),
        ("you have Submitted batch job 7 times\n", None, None),
        ("NOTE:\n", None, None),
        ("\ufffd\ufffd job 3", None, None),
        ("", None, None),
    ],
)
def test_the_job_that_sbatch_has_made(answer: str, job: str | None, cluster: str | None) -> None:
    """The one that it names last, in one of its two forms; what a site prints beside it is none."""
    made = slurm_sbatch.accepted(answer)
    assert (made.job_id, made.cluster) == (job, cluster) if made else job is None


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Stand-ins for SLURM's commands: shell scripts on the PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def make(**scripts: str) -> None:
        for name, script in scripts.items():
            (folder / name).write_text(f"#!/bin/sh\n{script}\n")
            (folder / name).chmod(0o755)

    return make


def test_a_refusal_says_why_and_no_more(
    commands: Callable[..., None], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """What sbatch says is the message; nothing is printed besides."""
    commands(srun="", sbatch="echo 'sbatch: error: Batch job submission failed: Invalid qos specification' >&2; exit 1")
    with pytest.raises(Refused, match=r"^sbatch: Batch job submission failed: Invalid qos specification$"):
        SlurmScheduler().submit(a_batch(tmp_path))
    assert capfd.readouterr() == ("", "")


TIMED_OUT = "echo 'sbatch: error: Batch job submission failed: Socket timed out on send/recv operation' >&2; exit 1"


@pytest.mark.parametrize(
    "sbatch", [TIMED_OUT, "kill -9 $$", "echo thank you", "echo no >&2; exit 1", "printf '\\377\\376\\n'; exit 1"]
)
def test_an_unclear_answer_is_looked_into(
    commands: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sbatch: str
) -> None:
    """After a time-out, a signal, no answer or unknown words the array is looked for by its name: found, it is taken.

    Whose it is is recorded, so that another user or cluster knows; lines of a site are passed over.
    """
    monkeypatch.setattr(slurm, "LAG_SECONDS", 0.0)
    named = 'echo "$*" | grep -q -- "-n sweep.0123" && printf "NOTE: closed\\n7|sweep.01\\n%s%s%s" '
    commands(sbatch=sbatch, squeue=named + "'44|sweep.0123\n' '44|sweep.0123\n' '44|sweep.0123\n'")
    commands(scontrol="echo NOTE; echo ClusterName = here")
    batch = a_batch(tmp_path)
    jobs = SlurmScheduler().submit(batch)
    assert [job.job_id for job in jobs] == ["44_0", "44_1", "44_2"]
    assert {(job.name, job.cluster, job.user) for job in jobs} == {("sweep.0123", "here", our_name())}


def test_what_is_not_found_is_refused_only_where_sbatch_has_said_no(
    commands: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unknown words are one once SLURM has no such job; after a time-out, or with a silent queue, nobody knows."""
    monkeypatch.setattr(slurm, "LAG_SECONDS", 0.0)
    commands(squeue="", sacct="exit 1", sbatch=TIMED_OUT)
    with pytest.raises(SchedulerError, match="launch again") as unknown:
        SlurmScheduler().submit(a_batch(tmp_path))
    assert not isinstance(unknown.value, Refused)
    commands(sbatch="echo 'sbatch: error: the moon is full' >&2; exit 1")
    with pytest.raises(Refused, match=r"^sbatch: the moon is full$"):
        SlurmScheduler().submit(a_batch(tmp_path))
    commands(squeue="echo slurm_load_jobs error: Unable to contact slurm controller >&2; exit 1")
    with pytest.raises(SchedulerError, match="launch again") as unknown:
        SlurmScheduler().submit(a_batch(tmp_path))
    assert not isinstance(unknown.value, Refused)


def test_a_banner_of_sbatch_makes_no_job(commands: Callable[..., None], tmp_path: Path) -> None:
    """The id is that of the line with which SLURM answers, whatever the exit code of a site's own sbatch."""
    commands(sbatch="echo Today: job 1 of 9; echo Submitted batch job 44; echo bye; exit 3", scontrol="exit 1")
    assert [job.job_id for job in SlurmScheduler().submit(a_batch(tmp_path, size=1))] == ["44"]
    refusal = "sbatch: error: Batch job submission failed: Invalid feature specification"
    commands(sbatch=f"echo 'Service units left:'; echo ' 4711'; echo '{refusal}' >&2; exit 1", scontrol="exit 1")
    with pytest.raises(Refused, match="Invalid feature specification"):
        SlurmScheduler().submit(a_batch(tmp_path, size=1))


def test_a_command_that_hangs_is_waited_for_aloud(
    commands: Callable[..., None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And not for ever."""
    monkeypatch.setattr(slurm_calls, "SILENT_SECONDS", 0.1)
    commands(squeue="exec sleep 60")
    with pytest.raises(SchedulerError, match="squeue: no answer within 1 s"):
        slurm_calls.ask(["squeue"], 1)
    assert "squeue has not answered for 0.1 s; waiting for up to 1 s" in capsys.readouterr().err


def test_a_full_queue_says_that_it_takes_more_later(commands: Callable[..., None], tmp_path: Path) -> None:
    """It is a refusal of its own kind, with what to do."""
    commands(sbatch="echo 'sbatch: error: AssocMaxSubmitJobLimit' >&2; exit 1")
    with pytest.raises(QueueFull, match="launch again when some jobs have ended"):
        SlurmScheduler().submit(a_batch(tmp_path))


NAMES = {"1_0": "ours", "1_1": "ours", "7": "ours", "8": None}
BANNER = "*** NOTE: maintenance on Monday | all | day | n1 ***\n\n7\n|||\n7|RUNNING\n9_0|RUNNING|None|n1|ours\n"


def test_lines_of_a_site_are_passed_over() -> None:
    """So are those of other jobs, cut ones, and a job of another name under an id of ours."""
    queue = f"{BANNER}1_0|RUNNING|None|n1|ours\r\n8|PENDING|None||whatever\n7|RUNNING|None|n1|theirs\nbye | bye\n"
    assert words.read_queue(queue, NAMES) == {"1_0": JobState(Phase.RUNNING, None, "n1"), "8": JobState(Phase.PENDING)}
    accounting = (
        f"{BANNER}1_[0-1]|FAILED|1:0|n2|ours\n7|COMPLETED|0:0|n1|theirs\n8|CANCELLED by 0|0:0|n1|x\n8||0:0|n1\n"
    )
    states = words.read_accounting(accounting, NAMES)
    assert {job: state.phase for job, state in states.items()} == {
        "1_0": Phase.FAILED, "1_1": Phase.FAILED, "8": Phase.CANCELLED,
    }  # fmt: skip
    assert words.read_accounting("8|HALF_DONE|0:0|n1|x\n", NAMES)["8"].phase is Phase.FAILED  # of a later version
    assert task_ids("NOTE:") == task_ids("7_[0-99999999999]") == task_ids("") == []


FOREIGN = st.text(st.characters(blacklist_characters="\n\r"), max_size=40)
WHOLE = [line + "|ours" for line in QUEUE.splitlines()]
OURS = dict.fromkeys(words.read_queue(QUEUE), "ours")


@given(st.data())
def test_no_mutation_of_an_answer_is_another_state(data: st.DataObject) -> None:
    """Inserted, cut and damaged lines never raise; no id is read that was not asked for, and no state is another."""
    lines = [line for line in WHOLE if data.draw(st.booleans())]
    for _ in range(data.draw(st.integers(0, 4))):
        lines.insert(data.draw(st.integers(0, len(lines))), data.draw(FOREIGN))
    for index in range(len(lines)):
        cut = data.draw(st.integers(0, len(lines[index]) * 2))
        if "|" in lines[index] and cut < lines[index].rfind("|"):  # within what is needed
            lines[index] = lines[index][:cut]
    found = words.read_queue("\n".join(lines), OURS)
    expected = words.read_queue(QUEUE)
    assert found.keys() <= OURS.keys()
    assert all((state.phase, state.cause) == (expected[job].phase, expected[job].cause) for job, state in found.items())


@given(st.text())
def test_no_text_makes_a_reader_raise(text: str) -> None:
    """Whatever a site prints, be it damaged or of another encoding."""
    for read in (words.read_queue, words.read_accounting, words.read_settings, slurm_survey.read_partitions):
        read(text)
    words.read_named(text, "ours")
    slurm_sbatch.accepted(text)
    slurm_sbatch.verdict(1, text)
    Limits(words.read_settings(text), text, text, text, text).batch_size(Cluster(partition="gpu"))
    assert slurm_survey.survey({}, text, text, 1).batch_size == 1


def test_bytes_of_any_encoding_are_read(commands: Callable[..., None]) -> None:
    """A banner in Latin-1 is passed over, and the job is found."""
    commands(squeue="printf 'Gr\\374\\337e|\\n7|RUNNING|None|n1|s\\n'")
    assert SlurmScheduler().states([Job("7", "slurm", name="s")])["7"].phase is Phase.RUNNING


BOOTED = "echo PrivateData = {private}; echo ClusterName = here; echo BOOT_TIME = {boot}"


@pytest.mark.parametrize(
    ("job", "private", "boot", "sacct", "said"),
    [
        (Job("7", "slurm", user="ann", cluster="here"), "jobs,usage", "2026-01-01T00:00:00", "", "ann's"),
        (Job("7", "slurm", user="ann", cluster="here"), "none", "2026-01-01T00:00:00", "", None),
        (Job("7", "slurm", cluster="there"), "none", "2026-01-01T00:00:00", "", "on cluster there, and this is here"),
        (Job("7", "slurm", cluster="here"), "jobs", "2026-01-01T00:00:00", "", None),
        (Job("7", "slurm"), "none", "now", "", "controller started"),
        (Job("7", "slurm"), "none", "2026-01-01T00:00:00", "echo Connection refused >&2; exit 1", "sacct does not"),
        (Job("7", "slurm"), "none", "(null)", "echo Slurm accounting storage is disabled >&2; exit 1", None),
    ],
)  # fmt: skip
def test_what_slurm_does_not_show_may_be_there(
    commands: Callable[..., None], job: Job, private: str, boot: str, sacct: str, said: str | None
) -> None:
    """Another user's where jobs are private, another cluster's, what a new controller, or accounts, would know."""
    boot = datetime.now().isoformat(timespec="seconds") if boot == "now" else boot  # noqa: DTZ005 - as SLURM says it
    commands(squeue="echo NOTE: hello", sacct=sacct, scontrol=BOOTED.format(private=private, boot=boot))
    found = SlurmScheduler().states([job])
    if said is None:
        assert found == {}
    else:
        assert found["7"].phase is Phase.HIDDEN
        assert said in str(found["7"].reason)


def test_a_job_of_another_cluster_is_not_cancelled_by_its_number(commands: Callable[..., None], tmp_path: Path) -> None:
    """That number is somebody else's here; the others are cancelled, and the command says where to go."""
    commands(scancel=f"echo $* >> {tmp_path}/cancelled", scontrol="echo ClusterName = here")
    with pytest.raises(SchedulerError, match="job 7 is on cluster there"):
        SlurmScheduler().cancel(
            [Job("7", "slurm", cluster="there"), Job("8", "slurm", cluster="here"), Job("9", "slurm")]
        )
    assert (tmp_path / "cancelled").read_text().split() == ["8", "9"]


KNOWN = "echo NOTE: hello; echo 'here|6817'; echo 'there|6817'; echo 'down|0'"
THERE = Job("7", "slurm", cluster="there", user=our_name(), name="ours", log="/jobs/ours/7_0_log.out")


@pytest.fixture
def two(commands: Callable[..., None], tmp_path: Path) -> Path:
    """Two clusters with a job 7, which is ours there; the file to which the questions about jobs are written."""
    asked = tmp_path / "asked"
    note = f'echo "$(basename $0) $*" >> {asked}'
    there = "case $* in --clusters=there*) echo CLUSTER: there;"
    lines = "echo '7|RUNNING|None|n1|ours|1:02'; echo '7|ours|RUNNING';; *) echo '7|RUNNING|None|n9|theirs|1:02';; esac"
    commands(sacctmgr=KNOWN, scontrol="echo ClusterName = here", squeue=f"{note}; {there} {lines}")
    commands(scancel=note, sacct=note)
    return asked


def test_a_job_of_a_cluster_that_can_be_reached_is_asked_for_and_cancelled_there(two: Path) -> None:
    """By that cluster's name, which heads the answer; a job of its number here is another."""
    scheduler = SlurmScheduler()
    assert scheduler.states([THERE]) == {"7": JobState(Phase.RUNNING, None, "n1", minutes=1, cluster="there")}
    assert scheduler.states([replace(THERE, cluster="here")]) == {}
    two.unlink()
    scheduler.cancel([THERE])
    asked, cancelled = two.read_text().splitlines()
    assert asked.startswith("squeue --clusters=there -h")
    assert cancelled == "scancel --clusters=there 7"


def test_a_cluster_that_does_not_answer_hides_its_jobs(two: Path, commands: Callable[..., None]) -> None:
    """They are in flight, with the reason; what slurmdbd does not know is elsewhere."""
    commands(squeue="case $* in --clusters*) echo squeue: error: munged is away >&2; exit 1;; esac")
    told = SlurmScheduler().states([THERE])["7"]
    assert (told.phase, told.reason) == (Phase.HIDDEN, "cluster there does not answer: squeue: munged is away")
    for name, why, remedy in (
        (
            "gone",
            "runs elsewhere: job 7 is on cluster gone, and this is here; ask there",
            "and this is here; cancel there",
        ),
        (
            "down",
            "cluster down: its controller is not up, for slurmdbd (sacctmgr show cluster)",
            "is not up, .*; try again",
        ),
    ):
        job = replace(THERE, cluster=name)
        assert SlurmScheduler().states([job])["7"].reason == why
        with pytest.raises(NotCancelled, match=f"job 7 is on cluster {name}.*{remedy}"):
            SlurmScheduler().cancel([job])
    assert "scancel" not in two.read_text()


def test_a_silent_slurmdbd_hides_the_jobs_of_other_clusters(two: Path, commands: Callable[..., None]) -> None:
    """Nobody knows then whether they can be reached from here, and whoever asks is told so, not sent elsewhere."""
    down = "sacctmgr: error: _open_persist_conn: failed to open persistent connection to host:db:6819: refused"
    commands(sacctmgr=f"echo '{down}' >&2; exit 1")
    told = SlurmScheduler().states([THERE])["7"]
    assert told.phase is Phase.HIDDEN
    assert str(told.reason).startswith("cluster there: sacctmgr does not answer: _open_persist_conn")
    with pytest.raises(SchedulerError, match=r"cluster there: sacctmgr does not answer: .*; try again"):
        SlurmScheduler().destination(Cluster(clusters="there"))
    with pytest.raises(NotCancelled, match=r"job 7 is on cluster there: sacctmgr does not answer: .*; try again"):
        SlurmScheduler().cancel([THERE])
    assert not two.exists()


@pytest.mark.usefixtures("two")
def test_where_jobs_are_to_go_is_known_before() -> None:
    """A name that is none is refused with those that there are; one whose controller is down cannot be had now."""
    scheduler = SlurmScheduler()
    assert [scheduler.destination(Cluster(clusters=name)) for name in (None, "here", "there")] == [
        "here", "here", "there",
    ]  # fmt: skip
    with pytest.raises(ConfigError, match=r"^cluster\.clusters=hree: must be one of here, there, down$"):
        scheduler.destination(Cluster(clusters="hree"))
    with pytest.raises(SchedulerError, match="cluster down: its controller is not up"):
        scheduler.destination(Cluster(clusters="down"))


@pytest.mark.usefixtures("two")
def test_the_script_names_another_cluster_alone(tmp_path: Path) -> None:
    """The one that answers here needs no slurmdbd that knows it; srun looks for the job on its own."""
    script = SlurmScheduler().script(a_batch(tmp_path, clusters="there"))
    assert options_of(script)["clusters"] == "there"
    assert "\nunset SLURM_CLUSTERS\n" in script
    assert "clusters" not in options_of(SlurmScheduler().script(a_batch(tmp_path, clusters="here")))


@pytest.mark.usefixtures("two")
def test_a_job_that_was_submitted_there_is_recorded_there(tmp_path: Path, commands: Callable[..., None]) -> None:
    """Whether sbatch names the cluster or not, and where it says nothing and the queue there has the job."""
    for said in ("Submitted batch job 44 on cluster there", "Submitted batch job 44"):
        commands(sbatch=f"echo {said}", squeue="case $* in --clusters=there*) echo '44|sweep.0123';; esac")
        (job,) = SlurmScheduler().submit(a_batch(tmp_path, size=1, clusters="there"))
        assert (job.job_id, job.cluster) == ("44", "there")
    commands(sbatch="echo sbatch: error: timed out >&2; exit 1")
    (job,) = SlurmScheduler().submit(a_batch(tmp_path, size=1, clusters="there"))
    assert (job.job_id, job.cluster) == ("44", "there")


def test_answers_of_another_cluster_are_headed_by_its_name() -> None:
    """As `-M` has squeue, sinfo and scontrol print it (SLURM 22.05)."""
    assert words.read_queue("CLUSTER: there\n" + QUEUE) == words.read_queue(QUEUE)
    assert words.read_named("CLUSTER: there\n7|ours\n", "ours") == "7"
    assert slurm_survey.read_offer("CLUSTER: there\nmain*|infinite|n/a|2\n", None) == Offer(nodes=2)
    assert words.read_settings("CLUSTER: there\n" + CONFIG) == words.read_settings(CONFIG)
    assert words.at(["squeue", "-h"], "there") == ["squeue", "--clusters=there", "-h"]
    assert words.at(["squeue", "-h"], None) == ["squeue", "-h"]


def test_a_job_by_hand_is_recorded_on_its_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """As run.sbatch submits one, to whichever: its number is another job's elsewhere."""
    monkeypatch.delenv("SUBMITIT_EXECUTOR", raising=False)
    for name, value in {"JOB_ID": "5", "PROCID": "0", "CLUSTER_NAME": "there"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert this_process() == Job("5", "slurm", user=our_name(), cluster="there")


MINE = {"cluster": "here", "user": our_name(), "name": "ours"}
IN_QUEUE = "echo '7_0|ours|RUNNING'; echo '7_1|ours|PENDING'; echo '8|theirs|RUNNING'; echo '9|ou'"


def test_only_jobs_of_our_name_are_cancelled(commands: Callable[..., None], tmp_path: Path) -> None:
    """An id that is another's by now is left alone, and said; of one that squeue does not list, sacct is asked."""
    accounts = "echo '5|PENDING|0:0|None assigned|ours'; echo '6|RUNNING|0:0|n1|theirs'"
    commands(scancel=f"echo $* >> {tmp_path}/cancelled", scontrol="echo ClusterName = here", sacct=accounts)
    commands(squeue=IN_QUEUE)
    jobs = [Job(job_id, "slurm", **MINE) for job_id in ("7_0", "7_1", "8", "9", "5", "6")]  # type: ignore[arg-type]
    with pytest.raises(SchedulerError, match="3 of 6 jobs cancelled; job 8 is another's by now"):
        SlurmScheduler().cancel(jobs)
    assert (tmp_path / "cancelled").read_text().split() == ["7_[0-1]", "5"]
    SlurmScheduler().cancel(jobs[:2])
    commands(squeue="echo slurm_load_jobs error: Unable to contact slurm controller >&2; exit 1")
    with pytest.raises(SchedulerError, match="Unable to contact"):
        SlurmScheduler().cancel(jobs)
    assert len((tmp_path / "cancelled").read_text().splitlines()) == 2


def test_what_scancel_denies_is_said_beside_what_it_does(commands: Callable[..., None]) -> None:
    """How many were cancelled, and which were not, also where others have ended by now."""
    says = "scancel: error: Kill job error on job id"
    denied = f"echo '{says} 7_1: Access/permission denied' >&2; echo '{says} 3: Invalid job id specified' >&2; exit 1"
    commands(scancel=denied, scontrol="echo ClusterName = here", squeue=IN_QUEUE, sacct="exit 1")
    jobs = [Job(job_id, "slurm", **MINE) for job_id in ("7_0", "7_1")]  # type: ignore[arg-type]
    said = r"1 of 2 jobs cancelled; denied: job 7_1 \(Access/permission denied\)$"
    with pytest.raises(NotCancelled, match=said) as raised:
        SlurmScheduler().cancel(jobs)
    assert raised.value.jobs == {"7_1"}
    commands(scancel=f"echo '{says} 7_0: Invalid job id specified' >&2; exit 1")
    SlurmScheduler().cancel(jobs)
    commands(scancel="echo 'scancel: error: Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(SchedulerError, match=r"^scancel: Unable to contact"):
        SlurmScheduler().cancel(jobs)


def test_a_job_that_squeue_leaves_out_is_not_lost(commands: Callable[..., None], tmp_path: Path) -> None:
    """Its answer may be cut at a line's end: while sacct says that the job has not ended, it is asked for once more."""
    accounts = "echo '7_[0-1]|PENDING|0:0|None assigned|s'; echo '8|REQUEUED|0:0|n1|s'; echo '9|FAILED|1:0|n1|s'"
    commands(scontrol=BOOTED.format(private="none", boot="2026-01-01T00:00:00"), sacct=accounts)
    once = (
        f"echo '7_0|PENDING|None||s'; test -e {tmp_path}/asked && echo '7_1|RUNNING|None|n1|s'; touch {tmp_path}/asked"
    )
    commands(squeue=once)
    states = SlurmScheduler().states([Job(each, "slurm", name="s") for each in ("7_0", "7_1", "8", "9")])
    assert {job_id: state.phase for job_id, state in states.items()} == {
        "7_0": Phase.PENDING, "7_1": Phase.RUNNING, "8": Phase.HIDDEN, "9": Phase.FAILED,
    }  # fmt: skip
    said = "squeue does not list job 8, sacct says PENDING; if it is gone: `cancel`, then launch again"
    assert states["8"].reason == said
    (tmp_path / "asked").unlink()
    commands(sacct="echo Slurm accounting storage is disabled >&2; exit 1")
    assert SlurmScheduler().states([Job("7_1", "slurm", name="s")])["7_1"].phase is Phase.RUNNING


@pytest.mark.parametrize(
    ("answer", "queue", "expected"),
    [
        ("Submitted batch job 144\nSubmitted batch job 1", "144|sweep.0123", "144"),  # a site's line behind
        ("Submitted batch job 14", "144|sweep.0123", "144"),  # cut
        ("Submitted batch job 144", "144|sweep.0123", "144"),
        ("Submitted batch job 144", "9|sweep.012", "144"),  # another's
    ],
)
def test_the_queue_knows_better_which_job_was_made(
    commands: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    answer: str,
    queue: str,
    expected: str,
) -> None:
    """The batch's name is unique: an id under which SLURM has it wins over the one that sbatch's answer names."""
    monkeypatch.setattr(slurm, "SEEN_SECONDS", 0.2)
    commands(scontrol="exit 1", sbatch=f"printf '{answer}\n'", squeue=f"echo '{queue}'")
    assert [job.job_id for job in SlurmScheduler().submit(a_batch(tmp_path, size=1))] == [expected]
    commands(squeue="exit 1")
    made = slurm_sbatch.accepted(answer)
    assert [job.job_id for job in SlurmScheduler().submit(a_batch(tmp_path, size=1))] == [made and made.job_id]


def test_a_cluster_that_does_not_answer_is_not_this_machine(
    commands: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`auto` does not train on a login node; questions about jobs that are recorded go on."""
    ask = slurm_calls.ask
    monkeypatch.setattr(slurm_calls, "ask", lambda command, _: ask(command, 0.3))
    commands(sbatch="", scontrol="exec sleep 20")
    with pytest.raises(SchedulerError, match="not known; choose cluster=slurm or cluster=local"):
        scheduler_for(AUTO)
    assert scheduler_to_ask().name == "slurm"
    commands(scontrol="echo configuration source >&2; exit 1")
    assert scheduler_for(AUTO).name == scheduler_to_ask().name == "local"


def test_a_controller_that_does_not_answer_is_no_answer(commands: Callable[..., None]) -> None:
    """Where squeue fails, no job is called lost; where it knows none of them, that is an answer."""
    commands(squeue="echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1", sacct="exit 1")
    with pytest.raises(SchedulerError, match="Unable to contact"):
        SlurmScheduler().states([Job("1", "slurm")])
    commands(squeue="echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    assert SlurmScheduler().states([Job("1", "slurm")]) == {}


def test_a_folder_that_the_node_does_not_share_is_named(tmp_path: Path) -> None:
    """The probe job ended well and left nothing here, or found another folder of the same name."""
    batch = doctor.write_question(Cluster(), tmp_path)
    assert "NOT shared" in dict(doctor.read_answer(batch, ended_well=True))["probe job"]
    assert dict(doctor.read_answer(batch, ended_well=False))["probe job"].startswith("failed")
    fact = {"word": None, "node": "n1", "free_gb": 9.0, "python": "3.11", "packages": {"torch": "2.13.0", "trl": None}}
    write_once(batch.folder / "answer.json", {**fact, "cuda": "12.8", "nccl": "2.27", "gpus": ["H100"]})
    found = dict(doctor.read_answer(batch, ended_well=True))
    assert found[f"{tmp_path} on n1"] == "writable, but NOT the same folder as here, 9 GB free"
    assert found["not on n1"] == "trl"
    assert found["GPU on n1"] == "H100; CUDA 12.8, NCCL 2.27"


def test_the_gpus_of_a_machine_are_named(tmp_path: Path) -> None:
    """As the driver's files tell them, without a library of it; an attempt's started.json holds them."""
    for slot in ("0000:01:00.0", "0000:81:00.0"):
        (tmp_path / slot).mkdir()
        (tmp_path / slot / "information").write_text("Model: \t\t NVIDIA H100 80GB HBM3\nIRQ:   \t\t 17\n")
    assert gpu_names(tmp_path) == ["NVIDIA H100 80GB HBM3"] * 2
    assert gpu_names(tmp_path / "none") == []


KILLED = """
submitit INFO (2026-11-28 15:33:28,172) - Starting with JobEnvironment(job_id=3, global_rank=0(2))
srun: error: n2: task 1: Killed
srun: launch/slurm: _step_signal: Terminating StepId=3.0
slurmstepd-n1: error: *** STEP 3.0 ON n1 CANCELLED AT 2026-11-28T15:34:20 ***
srun: error: n1: task 0: Killed
srun: Force Terminated StepId=3.0
"""


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        (KILLED, "rank 1 was killed on n2"),
        (KILLED + "x Starting with JobEnvironment(job_id=3)\n", None),  # of a life before
        (KILLED.replace("task 1: Killed", "tasks 4-7: Out Of Memory"), "rank 4 on n2: Out Of Memory"),
        (KILLED.replace("n2: task 1: Killed", "n2: task 1: Exited with exit code 1"), None),  # it says why itself
        ("x Starting with JobEnvironment()\nsrun: error: n1: task 0: Killed\n", None),  # there is but one
        ("", None),
    ],
)
def test_srun_says_which_rank_was_the_first_to_go(log: str, expected: str | None) -> None:
    """As SLURM 22.05 prints it into the job's log when a task of a step was killed."""
    assert first_rank(log) == expected


@pytest.mark.parametrize(
    ("said", "end", "expected"),
    [
        ("FAILED exit code 9", "Killed", "FAILED signal 9"),
        ("FAILED exit code 137", "Killed", "FAILED signal 9"),
        ("FAILED exit code 11", "Segmentation fault (core dumped)", "FAILED signal 11"),
        ("FAILED exit code 9", "Exited with exit code 9", "FAILED exit code 9"),
        ("FAILED exit code 1", "Killed", "FAILED exit code 1"),  # the script went on behind it
        ("OUT_OF_MEMORY", "Killed", "OUT_OF_MEMORY"),
    ],
)
def test_a_signal_is_no_exit_code(tmp_path: Path, said: str, end: str, expected: str) -> None:
    """srun ends with the number of the one that has killed its task, and names it in the job's log."""
    (tmp_path / "log").write_text(f"x Starting with JobEnvironment()\nsrun: error: n1: task 0: {end}\n")
    found = explained(JobState(Phase.FAILED, said), Job("3", "slurm", log=str(tmp_path / "log")))
    assert found == JobState(Phase.FAILED, expected)


def test_however_long_a_log_is_its_end_is_read(tmp_path: Path) -> None:
    """All of this one, 8 TB that are not there, would fit into no memory."""
    log = tmp_path / "log"
    with log.open("w") as file:
        file.truncate(1 << 43)
        file.seek(0, os.SEEK_END)
        file.write(KILLED)
    failed = JobState(Phase.FAILED, "FAILED")
    assert explained(failed, Job("3", "slurm", log=str(log))).reason == "FAILED; rank 1 was killed on n2"
