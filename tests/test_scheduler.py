"""The local executor, with real processes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from fakes import FakeScheduler
from waiting import eventually

from launcher.cli.arguments import DONE, FAILED, WRONG
from launcher.cli.main import main
from launcher.cluster import node, slurm_words
from launcher.cluster import scheduler as executors
from launcher.cluster.batch import Batch, Work
from launcher.cluster.job_state import Phase
from launcher.cluster.local import LocalScheduler, process_start, this_process
from launcher.cluster.scheduler import scheduler_for
from launcher.config import Cluster
from launcher.errors import ConfigError, SchedulerError
from launcher.planning import rules
from launcher.store.facts import Cause, Job


@pytest.fixture
def sleeper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Batch:
    """A job whose work is to write its pid and sleep: `launcher.worker.job` replaced by a stand-in on the path."""
    package = tmp_path / "stand_in"
    package.mkdir()
    (package / "sitecustomize.py").write_text(
        "import sys, types, os, time\n"
        "def work(folder):\n"
        "    folder.mkdir()\n"
        "    (folder / 'pid').write_text(str(os.getpid()))\n"
        "    time.sleep(600)\n"
        "stand_in = types.ModuleType('launcher.worker.job')\n"
        "stand_in.work = work\n"
        "sys.modules['launcher.worker.job'] = stand_in\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{package}:{Path(__file__).parent.parent}")
    folder = tmp_path / "job with a space"
    folder.mkdir()
    return Batch("name", folder, 1, Cluster(), tmp_path)


def phase(scheduler: LocalScheduler, job: Job) -> Phase:
    return scheduler.states([job])[job.job_id].phase


def test_a_job_runs_until_it_is_killed(sleeper: Batch) -> None:
    """A job is a process of its own; killed with -9, it is no longer running."""
    scheduler = LocalScheduler()
    (job,) = scheduler.submit(sleeper)
    assert eventually((sleeper.folder / "0" / "pid").exists)
    assert phase(scheduler, job) is Phase.RUNNING
    assert scheduler.find(sleeper) == [job]
    os.kill(int((sleeper.folder / "0" / "pid").read_text()), signal.SIGKILL)
    assert eventually(lambda: phase(scheduler, job) is Phase.FAILED)


def test_jobs_outlive_ctrl_c_and_the_terminal(sleeper: Batch) -> None:
    """What is meant for the launcher does not reach its jobs: they ignore SIGINT and SIGHUP."""
    scheduler = LocalScheduler()
    (job,) = scheduler.submit(sleeper)
    assert eventually((sleeper.folder / "0" / "pid").exists)
    for number in (signal.SIGINT, signal.SIGHUP):
        os.kill(int(job.job_id), number)
    time.sleep(1.5)
    assert phase(scheduler, job) is Phase.RUNNING
    assert process_start(int((sleeper.folder / "0" / "pid").read_text())) is not None
    os.kill(int((sleeper.folder / "0" / "pid").read_text()), signal.SIGKILL)


def test_a_later_process_with_the_same_pid_is_not_the_job() -> None:
    """Pids are used again; a job is a pid and a start time."""
    job = this_process()
    assert phase(LocalScheduler(), job) is Phase.RUNNING
    assert phase(LocalScheduler(), replace(job, process_start=1)) is Phase.FAILED


def test_a_job_of_another_machine_is_left_alone() -> None:
    """On a shared file system, a job of another host is not called dead because its pid is not here."""
    job = replace(this_process(), host="elsewhere", process_start=1)
    state = LocalScheduler().states([job])[job.job_id]
    assert state.phase is Phase.RUNNING
    assert "elsewhere" in (state.reason or "")
    LocalScheduler().cancel([job])  # would end this test's own process


def test_the_pickle_holds_one_path() -> None:
    """The configuration on disk is the record: a pickle that carries state replays stale state."""
    assert vars(Work("/x")) == {"folder": "/x"}


def test_no_executor_is_promised_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without sbatch, `slurm` is refused with what to use instead, not taken for `local`; `auto` is local."""
    monkeypatch.setenv("PATH", "/nonexistent")
    assert scheduler_for("auto").name == "local"
    with pytest.raises(ConfigError, match="cluster=local"):
        scheduler_for("slurm")


def test_an_executor_is_a_row_of_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another one is launched to and asked by its name, its causes are heeded, and `auto` finds it where it is here."""
    other = FakeScheduler(batch_size=10)
    other.name = "other"
    words = ["-m", "model=tiny", "loss_type=sigmoid,ipo", "sweep=s", "cluster.mem=8G"]
    monkeypatch.chdir(tmp_path)
    assert main([*words, "cluster.executor=other"]) == WRONG
    assert "cluster.executor=other: must be one of auto, local, slurm" in capsys.readouterr().err
    monkeypatch.setattr(executors, "EXECUTORS", {"other": lambda: other, "local": LocalScheduler})
    monkeypatch.setitem(rules.CHOICES, "cluster.executor", (executors.AUTO, *executors.EXECUTORS))
    assert main([*words, "cluster.executor=other"]) == DONE
    other.end("2", Phase.FAILED, "TERM_MEMLIMIT", Cause.OUT_OF_MEMORY)
    other.end("3", Phase.PENDING, "held")  # the first makes the table
    capsys.readouterr()
    assert main(["status", "s", "--json"]) == DONE
    found = [(run["status"], run["reason"]) for run in json.loads(capsys.readouterr().out)["runs"]]
    assert found == [("FAILED", "its job ended before it came to this run: TERM_MEMLIMIT"), ("PENDING", "held")]
    assert main([*words, "cluster.executor=auto"]) == DONE
    assert [batch.resources.mem for batch in other.submitted] == ["8G", "12288M"]


def test_who_resumes_one_run_keeps_to_the_limit_of_the_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Jobs that no array limits wait for those of runs that were not named, too, in the order of submission."""
    other = FakeScheduler()
    other.name = "other"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(executors, "EXECUTORS", {"other": lambda: other, "local": LocalScheduler})
    monkeypatch.setitem(rules.CHOICES, "cluster.executor", (executors.AUTO, *executors.EXECUTORS))
    words = ["-m", "model=tiny", "seed=range(0,4)", "sweep=s", "cluster.executor=other", "cluster.arrays=false"]
    assert main([*words, "cluster.max_parallel=2"]) == DONE
    capsys.readouterr()
    assert main(["status", "s", "--json"]) == DONE
    ids = {run["job_id"]: run["run_id"] for run in json.loads(capsys.readouterr().out)["runs"]}
    first, second, third, fourth = sorted(ids, key=int)
    for ended, behind in ((first, [third]), (second, [fourth])):
        other.end(ended)
        assert main(["resume", "s", ids[ended]]) == DONE
        assert behind == [job.job_id for job in other.submitted[-1].behind][:1]


@pytest.mark.parametrize("typed", ["cluster.mem=2G", "+cluster.extra.mem=2G"])
def test_what_is_typed_to_resume_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: str) -> None:
    """Whatever the last attempt had and died of, be it typed as a key or as the option that replaces it."""
    other = FakeScheduler(batch_size=10)
    other.name, other.replaced = "other", slurm_words.replaced  # type: ignore[method-assign]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(executors, "EXECUTORS", {"other": lambda: other, "local": LocalScheduler})
    monkeypatch.setitem(rules.CHOICES, "cluster.executor", (executors.AUTO, *executors.EXECUTORS))
    words = ["-m", "model=tiny", "sweep=s", "cluster.executor=other"]
    for command in ([*words, "+cluster.extra.mem=8G"], ["resume", "s"]):
        assert main(command) == DONE
        (job,) = other.jobs[other.submitted[-1].name]
        other.end(job.job_id, Phase.FAILED, "TERM_MEMLIMIT", Cause.OUT_OF_MEMORY)
    assert main(["resume", "s", typed]) == DONE
    assert [batch.resources.mem for batch in other.submitted] == ["8G", "12288M", "2G"]
    assert other.submitted[-1].resources.extra == {}


def test_an_executor_names_its_own_options(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that `cluster.extra` may not change, and how early it may warn; of `auto` and of this machine, all do."""
    other = FakeScheduler()
    other.kept_options, other.warned_early_seconds = {"q": "cluster.partition"}, 5
    monkeypatch.setattr(executors, "EXECUTORS", {**executors.EXECUTORS, "other": lambda: other})
    assert executors.kept_options("other") == {"q": "cluster.partition"}
    assert "q" not in executors.kept_options("slurm")
    assert {"q", "array"} <= set(executors.kept_options("auto")) & set(executors.kept_options("local"))
    assert [executors.warned_early_seconds(name) for name in ("other", "slurm", "auto", "local")] == [5, 60, 60, 60]


@pytest.mark.parametrize("words", [[], ["cluster=slurm"], ["--probe"]])
def test_doctor_shows_what_is_known_where_a_cluster_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    """The reason comes last, and the exit code says it too."""
    for name in ("sbatch", "scontrol", "sinfo"):
        (tmp_path / name).write_text("#!/bin/sh\necho 'slurm error: Unable to contact slurm controller' >&2; exit 1\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    assert main(["doctor", *words]) == FAILED
    told = capsys.readouterr()
    assert re.search(r"^SLURM +does not answer *$", told.out, re.MULTILINE)
    assert re.search(r"^output_dir +/", told.out, re.MULTILINE)
    assert told.err.splitlines()[-1].endswith("Unable to contact slurm controller")


def test_doctor_asks_the_executor_that_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not whichever is here; who names this machine is told nothing of clusters."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/nonexistent")
    assert main(["doctor", "cluster=slurm"]) == WRONG
    assert "there is no sbatch on the PATH" in capsys.readouterr().err
    assert main(["doctor", "cluster=local"]) == DONE
    assert "SLURM" not in capsys.readouterr().out
    assert main(["doctor"]) == DONE
    assert "SLURM" in capsys.readouterr().out


def test_verbs_import_nothing_heavy() -> None:
    """--help and status answer at once on a slow disk: no torch & co., and no Hydra for verbs."""
    code = (
        "import sys, json; from launcher.cli.main import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})), file=sys.stderr)"
    )
    for arguments in (["--help"], ["status", "--help"], ["status"]):
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
        loaded = set(json.loads(done.stderr.splitlines()[-1]))
        assert not loaded & {
            "torch",
            "transformers",
            "trl",
            "datasets",
            "peft",
            "accelerate",
            "numpy",
            "hydra",
            "submitit",
            "psutil",
            "wandb",
            "trackio",
            "tensorboard",
        }


def test_a_job_of_an_executor_that_is_not_known_here_is_taken_to_be_at_work() -> None:
    """A colleague's newer version has submitted it: its run is not trained beside it, and the others are told of."""
    theirs, ours = Job("5", "lsf"), Job("not-a-pid", "local", host=os.uname().nodename)
    states = executors.states([theirs, ours], LocalScheduler())
    assert states[executors.key_of(theirs)].phase is Phase.RUNNING
    assert "lsf, which this version does not know" in str(states[executors.key_of(theirs)].reason)
    assert states[executors.key_of(ours)].phase is Phase.FAILED
    fake = FakeScheduler()
    with pytest.raises(SchedulerError, match="lsf, which this version does not know"):
        executors.cancel([theirs, Job("1", "fake")], fake)
    assert fake.cancelled == ["1"]  # first those that can be


def test_a_process_that_only_says_that_it_is_submitits_is_nobodys_task() -> None:
    """Where the rest of what submitit sets is missing, it is as if nothing had been set."""
    assert node.here({"SUBMITIT_EXECUTOR": "local"}) is None


def test_a_dry_run_needs_no_answer_of_the_scheduler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Which jobs there would be is then not known; all else is shown, and --json is whole."""

    class Silent(FakeScheduler):
        def batch_size(self, cluster: Cluster) -> int:  # noqa: ARG002 - the protocol's
            raise SchedulerError("scontrol: no answer within 60 s")

    monkeypatch.setitem(executors.EXECUTORS, "other", Silent)
    monkeypatch.setitem(rules.CHOICES, "cluster.executor", (executors.AUTO, *executors.EXECUTORS))
    argv = ["-m", "model=tiny", "hub=off", "tracking=off", "cluster.executor=other", f"output_dir={tmp_path}/o"]
    assert main([*argv, "dry_run=true"]) == DONE
    assert "only the scheduler can tell: scontrol: no answer within 60 s" in " ".join(capsys.readouterr().out.split())
    assert main([*argv, "dry_run=true", "--json"]) == DONE
    assert json.loads(capsys.readouterr().out)["runs"]
    assert main(argv) == FAILED
    assert not (tmp_path / "o" / "runs").exists()
