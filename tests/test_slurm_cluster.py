"""Sweeps on a real SLURM (slurm/dev-cluster): arrays, crashes, preemption, time limits, with and without accounting.

Where it does not matter what a run does, its worker is a stand-in that takes a moment and leaves the facts of a run
that is done: importing torch for each of a hundred jobs would take minutes.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from slurm_cluster import KILLED, KILLED_WITHOUT_ACCOUNTING, QUICK, needs_slurm, running_cluster
from slurm_site import TINY, Site, checkout
from waiting import LONGEST_WAIT, eventually

pytestmark = needs_slurm


@pytest.fixture(scope="module", params=["accounting", pytest.param("no-accounting", marks=pytest.mark.long)])
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Two clusters, one after the other; the one without accounting has MaxArraySize 7."""
    folder = tmp_path_factory.mktemp(request.param)
    accounts = ("--conf", "AccountingStorageEnforce=limits")
    options = accounts if request.param == "accounting" else ("--no-accounting", "--max-array-size", "7")
    with running_cluster(*QUICK, "--nodes", "2", *options) as cluster:
        yield Site(cluster, folder / "none", checkout(folder / "code"))


# ------------------------------------------------------------------------------------------------ submission


def test_a_long_sweep_becomes_arrays_without_gaps(site: Site, record_testsuite_property: Callable[..., None]) -> None:
    """Eighteen runs are one array, or three where MaxArraySize is 7; each runs once, and the terminal is free."""
    here = site.at("long")
    began = time.monotonic()
    output = here.launch(*TINY, "seed=range(0,18)", "sweep=long")
    record_testsuite_property("launcher returned after seconds", time.monotonic() - began)
    assert "18 runs submitted" in output
    assert {run["status"] for run in here.status("long")} <= {"PENDING", "RUNNING", "TRAINED"}
    here.wait("long", "TRAINED", 18)
    jobs = here.recorded()
    arrays = {job.partition("_")[0] for job in jobs}
    assert len(arrays) == (1 if site.max_array_size == 1001 else 3)
    assert sorted(jobs) == sorted(here.jobs("long"))
    assert len(set(jobs)) == 18
    assert "18 skip" in here.launch(*TINY, "seed=range(0,18)", "sweep=long")


def test_a_sweep_larger_than_its_qos_allows_is_launched_in_pieces(site: Site) -> None:
    """A QOS of five jobs gets arrays of four beside the table's job; launching again submits the rest, each run once.

    What a refusal leaves is told in one line, with what to do.
    """
    if site.max_array_size == 7:
        pytest.skip("without accounting there is no QOS")
    site.cluster.slurm("sacctmgr", "-i", "add", "qos", "few", "MaxSubmitJobsPerUser=5")
    site.cluster.slurm("sacctmgr", "-i", "modify", "user", "root", "set", "qos+=few")
    here, command = site.at("few"), (*TINY, "seed=range(0,7)", "sweep=few", "cluster.qos=few")
    refused = here.launch(*command, code=1).splitlines()[-1]
    assert "QOSMaxSubmitJobPerUserLimit" in refused
    assert "launch again when some jobs have ended" in refused
    here.wait("few", "TRAINED", 4)
    assert eventually(lambda: not here.cluster.slurm("squeue", "-h", "--qos=few"))
    assert "3 runs submitted" in here.launch(*command)
    here.wait("few", "TRAINED", 7)
    assert len(here.jobs("few")) == 7
    assert len({job.partition("_")[0] for job in here.recorded()}) == 2


def test_what_an_account_allows_all_its_users_bounds_a_launch(site: Site) -> None:
    """Five jobs of the account above the user's: an array of four beside the table's job; then the rest."""
    if site.max_array_size == 7:
        pytest.skip("without accounting there are no accounts")
    site.cluster.slurm("sacctmgr", "-i", "add", "account", "dept", "GrpSubmitJobs=5")
    site.cluster.slurm("sacctmgr", "-i", "add", "account", "team", "parent=dept")
    site.cluster.slurm("sacctmgr", "-i", "add", "user", "root", "account=team")
    here, command = site.at("dept"), (*TINY, "seed=range(0,7)", "sweep=dept", "cluster.account=team")
    assert "AssocGrpSubmitJobsLimit" in here.launch(*command, code=1).splitlines()[-1]
    here.wait("dept", "TRAINED", 4)
    assert eventually(lambda: not here.cluster.slurm("squeue", "-h", "--account=team"))
    assert "3 runs submitted" in here.launch(*command)
    here.wait("dept", "TRAINED", 7)
    assert len(here.jobs("dept")) == 7
    site.cluster.slurm("sacctmgr", "-i", "delete", "user", "root", "account=team")  # it would bound every later launch


@pytest.mark.long
def test_sbatchs_variables_count_where_the_configuration_says_nothing(site: Site) -> None:
    """What is taken is in the plan and in SLURM; what would break our jobs changes nothing; resume keeps it."""
    said = {"SBATCH_COMMENT": "mine", "SBATCH_TIMELIMIT": "1-00:00:00", "SBATCH_EXPORT": "NONE",
            "SBATCH_JOB_NAME": "x", "SBATCH_ARRAY_INX": "0-9", "SBATCH_OUTPUT": "/dev/null"}  # fmt: skip
    here = site.at("ambient", **said)
    output = here.launch(*TINY, "sweep=ambient", "seed=1,2", "cluster.extra.comment=ours", "+cluster.extra.hold=true")
    assert "from the environment: time 1-00:00:00 from SBATCH_TIMELIMIT" in output
    assert "SBATCH_COMMENT=mine does not count: cluster.extra.comment=ours" in output
    assert "SBATCH_EXPORT=NONE does not count" in output
    jobs = here.jobs("ambient")
    assert sorted(jobs) == sorted(here.recorded())
    for job in jobs:
        assert here.cluster.slurm("squeue", "-h", "-r", "-o", "%l %k", "-j", job).split() == ["1-00:00:00", "ours"]
    plain = replace(here, variables=())
    plain.launch("cancel", "ambient")
    plain.launch("resume", "ambient", "cluster.extra.hold=null")
    plain.wait("ambient", "TRAINED", 2)
    limits = here.cluster.slurm("squeue", "-h", "-r", "-t", "COMPLETED", "-o", "%l", "-j", ",".join(here.recorded()))
    assert set(limits.split()) == {"1-00:00:00"}


def test_jobs_run_the_code_of_their_submission(site: Site) -> None:
    """Files edited after submission, and the variables of a job around the launcher, do not reach the runs."""
    code = checkout(site.folder.parent / "edited")
    leaked = {"SLURM_JOB_ID": "1", "SLURM_CPU_BIND": "quiet,mask_cpu:0x1", "SLURM_NTASKS": "7", "WORLD_SIZE": "7"}
    here = replace(site, code=code).at("snapshot", **leaked)
    here.launch(*TINY, "sweep=snapshot", "+cluster.extra.hold=true", "cluster.setup=['export SITE=\"a b\"']")
    (job,) = here.recorded()
    for path in (code / "launcher").rglob("*.py"):
        path.write_text("raise SystemExit('edited')\n")
    site.cluster.slurm("scontrol", "release", job)
    replace(here, code=site.code).wait("snapshot", "TRAINED", 1)
    started = json.loads((here.run() / "attempts/001/started.json").read_text())
    environment = started["environment"]
    assert started["version"] == 1
    assert environment["SITE"] == "a b"
    assert environment["SLURM_JOB_ID"] == job
    assert environment["SLURM_NTASKS"] == "1"
    assert environment.get("SLURM_CPU_BIND") != leaked["SLURM_CPU_BIND"]
    assert "WORLD_SIZE" not in environment


def test_values_with_spaces_and_quotes(site: Site) -> None:
    """What the config says is what SLURM has, whatever characters it holds."""
    here = site.at("quotes")
    comment = 'it\'s "beta" & $HOME; `x`'
    here.launch(*TINY, "sweep=quotes", "+cluster.extra.hold=true", f"+cluster.extra.comment={json.dumps(comment)}")
    (job,) = here.recorded()
    assert f"Comment={comment}" in site.cluster.slurm("scontrol", "show", "job", job)
    here.launch("cancel", "quotes")


def test_runs_are_grouped_by_what_they_need(site: Site) -> None:
    """A value that depends on the run makes arrays of their own; packed runs share a job."""
    here = site.at("classes")
    here.launch(*TINY, "sweep=classes", "+cluster.extra.hold=true", "cluster.runs_per_job=2", "seed=1,2,3,4",
                "loss_type=sigmoid,ipo", "+cluster.extra.comment=${loss_type}")  # fmt: skip
    jobs = here.jobs("classes")
    assert len(jobs) == 4
    assert len({job.partition("_")[0] for job in jobs}) == 2
    here.launch("cancel", "classes")
    assert here.counts("classes") == {"CANCELLED": 8}


def test_what_sbatch_refuses_is_told_and_can_be_launched_again(site: Site) -> None:
    """One line with SLURM's words, nothing submitted, and the same command with a right value submits at once."""
    here = site.at("refused")
    output = here.launch(*TINY, "sweep=refused", "cluster.partition=none-such", code=1)
    assert output.splitlines()[-1].startswith("prefsweep: sbatch: ")
    assert "partition" in output.splitlines()[-1]
    assert here.counts("refused") == {"FAILED": 1}
    here.launch(*TINY, "sweep=refused")
    here.wait("refused", "TRAINED", 1)


# ------------------------------------------------------------------------------------------------ exactly once


def wrapped(site: Site, name: str, script: str) -> str:
    """A PATH on which the command `name` is a shell script; in it, REAL is the command itself."""
    folder, found_on = site.folder / "bin", site.cluster.environment["PATH"]
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/bash\nREAL={shutil.which(name, path=found_on)}\n{script}\n")
    (folder / name).chmod(0o755)
    return f"{folder}:{found_on}"


def test_an_accepted_job_is_found_though_sbatch_failed(site: Site) -> None:
    """sbatch times out after SLURM has taken the array: it is found by its name, recorded, and runs once."""
    here = site.at("timeout")
    complaint = "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"
    path = wrapped(here, "sbatch", f'$REAL "$@" >/dev/null; echo "{complaint}" >&2; exit 1')
    here = replace(here, variables=(("PATH", path),))
    assert "3 runs submitted" in here.launch(*TINY, "sweep=timeout", "seed=1,2,3")
    here.wait("timeout", "TRAINED", 3)
    assert sorted(here.recorded()) == sorted(here.jobs("timeout"))
    assert len(here.recorded()) == 3


def test_banners_and_signals_double_nothing(site: Site) -> None:
    """A site's own lines around every answer of SLURM, and an sbatch that is killed once SLURM has taken its jobs."""
    here = site.at("banner")
    note = r'printf "\377 NOTE: job 1|RUNNING|None|n1|all\n\n7|x\n"'
    banner = f'{note}; $REAL "$@"; code=$?; echo "bye job 2"; exit $code'
    for name in ("squeue", "sacct", "scontrol", "sinfo"):
        wrapped(here, name, banner)
    taken = 'grep -q array= "$1" && { $REAL "$@" >/dev/null; kill -9 $$; }'
    path = wrapped(here, "sbatch", f'echo "today: job 1"; {taken}; $REAL "$@"; echo "see job 3"')
    here = replace(here, variables=(("PATH", path),))
    assert "3 runs submitted" in here.launch(*TINY, "sweep=banner", "seed=1,2,3")
    here.wait("banner", "TRAINED", 3)
    assert "3 skip" in here.launch(*TINY, "sweep=banner", "seed=1,2,3")
    assert sorted(here.recorded()) == sorted(site.jobs("banner"))
    assert len(here.recorded()) == 3


@pytest.mark.parametrize(("kind", "again"), [("job-name=.*prepare", "3 submit"), ("array=", "3 skip")])
def test_a_launcher_killed_while_sbatch_is_under_way(site: Site, kind: str, again: str) -> None:
    """sbatch goes on without the launcher; launching again waits until it is known what has become of it."""
    if site.max_array_size == 7:
        pytest.skip("its 15 s of waiting are the same with and without accounting")
    sweep = "orphan-array" if "array" in kind else "orphan-table"
    here = site.at(sweep)
    begins = f'for script; do :; done; grep -q "SBATCH --{kind}" $script && {{ touch {here.folder}/begun; sleep 2; }}'
    path = wrapped(here, "sbatch", f'{begins}; exec $REAL "$@"')
    slow = replace(here, variables=(("PATH", path),))
    launcher = slow.start(*TINY, f"sweep={sweep}", "seed=1,2,3", "+cluster.extra.hold=true")
    assert eventually((here.folder / "begun").exists)
    launcher.kill()
    launcher.communicate()
    assert again in here.launch(*TINY, f"sweep={sweep}", "seed=1,2,3", "+cluster.extra.hold=true")
    assert sorted(here.recorded()) == sorted(here.jobs(sweep))
    assert (len(here.recorded()), len(here.tables(sweep))) == (3, 1)
    here.launch("cancel", sweep)


CRASHES = """
import io, json, os, signal, sys
import launcher.cli.launch, launcher.planning.compose, launcher.planning.planned_runs, launcher.planning.prerequisites
import launcher.cli.main, launcher.runs.status, launcher.submission.adopt, launcher.submission.reference_job
import submitit.slurm.slurm

STEPS = {"os.link", "os.rename", "os.mkdir", "os.symlink", "subprocess.Popen"}
for module in (launcher.submission.adopt, launcher.submission.reference_job, launcher.runs.status):
    module.LAG_SECONDS = 0.3

def launch(folder, die_at):
    os.chdir(folder)
    os.dup2(os.open("launcher.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 1)
    os.dup2(1, 2)
    seen = 0
    def step(event, arguments):
        nonlocal seen
        if event in STEPS and "/code/" not in str(arguments):
            seen += 1
            if seen == die_at:
                os.kill(os.getpid(), signal.SIGKILL)
    if die_at:
        sys.addaudithook(step)
    return launcher.cli.main.main(sys.argv[2:] + ["sweep=" + os.path.basename(folder)])

def forked(folder, die_at=0):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = launch(folder, die_at)
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

root, number = sys.argv[1], 0
while True:
    number += 1
    folder = os.path.join(root, f"crash{number}")
    os.mkdir(folder)
    first = forked(folder, number)
    if first not in (0, -signal.SIGKILL) or forked(folder) != 0:
        raise SystemExit(open(os.path.join(folder, "launcher.log")).read())
    if first == 0:
        break
print(number)
"""


@pytest.mark.long
def test_a_launcher_killed_at_any_step_loses_and_doubles_nothing(site: Site) -> None:
    """Killed with -9 before each of its visible steps in turn, it is launched again: every run is submitted once."""
    if site.max_array_size == 7:
        pytest.skip("the steps are the same with and without accounting")
    here = site.at("crashes")
    (here.folder / "driver.py").write_text(CRASHES)
    pairs = [word.replace("./pairs", str(here.folder / "pairs")) for word in TINY]
    command = [*pairs, "loss_type=sigmoid,ipo", "cluster.extra.comment=${loss_type}", "cluster.extra.hold=true"]
    done = subprocess.run(
        [sys.executable, here.folder / "driver.py", here.folder, *command],
        env=here.environment, capture_output=True, text=True, timeout=LONGEST_WAIT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    steps = int(done.stdout)
    assert steps > 30
    for number in range(1, steps + 1):
        sweep = f"crash{number}"
        one = replace(here, folder=here.folder / sweep)
        assert len(one.jobs(sweep)) == 2, f"killed before step {number}: {one.jobs(sweep)}"
        assert set(one.recorded()) == set(one.jobs(sweep)), f"killed before step {number}"
        assert len(one.tables(sweep)) == 1, f"killed before step {number}: {one.tables(sweep)}"
    site.cluster.slurm("scancel", "--state=pending", "--me")


def test_three_launchers_of_one_user_at_the_same_moment(site: Site) -> None:
    """Each run is submitted by one of them. That two users can share an output folder is not tried here."""
    here = site.at("together")
    arguments = (*TINY, "sweep=together", "seed=range(0,8)", "+cluster.extra.hold=true")
    outputs = [launcher.communicate(timeout=LONGEST_WAIT)[0] for launcher in [here.start(*arguments) for _ in range(3)]]
    assert sum("8 runs submitted" in output for output in outputs) == 1, outputs
    assert sorted(here.recorded()) == sorted(here.jobs("together"))
    assert len(here.recorded()) == 8
    here.launch("cancel", "together")


# ------------------------------------------------------------------------------------------------ while it runs


def test_cancel_and_resume_on_arrays(site: Site) -> None:
    """One run, those in one state, all of them: the others go on, and resume submits what was cancelled."""
    here = site.at("cancel", STAND_IN_SECONDS="600")
    here.launch(*TINY, "sweep=cancel", "seed=range(0,6)", "cluster.max_parallel=2")
    here.wait("cancel", "RUNNING", 2)
    first, *_ = [run["run_id"] for run in here.status("cancel")]
    assert "1 run of cancel cancelled" in here.launch("cancel", "cancel", str(first))
    here.wait("cancel", "CANCELLED", 1)
    here.launch("cancel", "cancel", "--state", "pending")
    here.wait("cancel", "RUNNING", 2)
    assert here.counts("cancel") == {"RUNNING": 2, "CANCELLED": 4}
    here.launch("cancel", "cancel")
    here.wait("cancel", "CANCELLED", 6)
    quick = replace(here, variables=())
    assert "6 runs submitted" in quick.launch("resume", "cancel")
    quick.wait("cancel", "TRAINED", 6)


def test_a_killed_process_is_a_failure(site: Site) -> None:
    """kill -9 of a job's process: FAILED, with what SLURM says of it, with and without accounting; resume mends it."""
    here = site.at("killed", STAND_IN_SECONDS="600")
    here.launch(*TINY, "sweep=killed")
    here.wait("killed", "RUNNING", 1)
    os.kill(json.loads((here.run() / "attempts/001/started.json").read_text())["pid"], signal.SIGKILL)
    here.wait("killed", "FAILED", 1)
    said = KILLED_WITHOUT_ACCOUNTING if site.max_array_size == 7 else KILLED
    # slurmdbd learns of the end some seconds after slurmctld.
    assert eventually(lambda: re.fullmatch(said, str(here.status("killed")[0]["reason"])))
    assert here.status("killed")[0]["node"] in {"n1", "n2"}
    quick = replace(here, variables=())
    quick.launch("resume", "killed")
    quick.wait("killed", "TRAINED", 1)


def test_a_node_that_dies(site: Site) -> None:
    """Its runs go back into the queue by themselves; where that is forbidden they fail, and the node is named."""
    here = site.at("node", STAND_IN_SECONDS="600")
    there = "cluster.extra={nodelist: n2}"
    here.launch(*TINY, "sweep=again", there)
    here.launch(*TINY, "sweep=never", "seed=7", "cluster.extra={nodelist: n2, requeue: false}")
    here.wait("again", "RUNNING", 1)
    here.wait("never", "RUNNING", 1)
    site.cluster.script("kill-node", "n2")
    here.wait("never", "FAILED", 1)
    assert here.status("never")[0]["reason"] == "NODE_FAIL n2"
    here.wait("again", "PENDING", 1)
    assert str(here.status("again")[0]["reason"]).startswith("requeued")
    site.cluster.script("start-node", "n2")
    here.wait("again", "RUNNING", 1)
    here.launch("cancel", "again")


def test_a_node_that_ends_runs_before_they_begin_is_left_alone(site: Site) -> None:
    """Its setup fails: the runs that it drew say where and why, and the same command makes them elsewhere."""
    here = site.at("hole", STAND_IN_SECONDS="2")
    fails = "if [[ $SLURMD_NODENAME = n2 && $SLURM_JOB_NAME != *prepare* ]]; then echo no such module; exit 1; fi"
    command = (*TINY, "sweep=hole", "seed=range(0,8)", "cluster.extra.exclusive=true", f"cluster.setup=['{fails}']")
    here.launch(*command)
    assert eventually(lambda: not here.counts("hole").keys() & {"PENDING", "RUNNING"})
    code = "" if site.max_array_size == 7 else "exit code 1: "

    def ended() -> list[object]:
        return [run["reason"] for run in here.status("hole") if run["status"] != "TRAINED"]

    # slurmdbd learns of the end, and of its exit code, some seconds after slurmctld.
    assert eventually(lambda: set(ended()) == {f"ended on n2 before it began: {code}no such module"})
    assert len(ended()) > 1
    assert f"n2: {len(ended())} runs ended there before they began" in here.launch("status", "hole")
    assert re.search(r"exclude\s+(\w+\s+)?n2;", here.launch(*command))  # in a column, beside the time that it takes
    here.wait("hole", "TRAINED", 8)


def test_a_node_that_ends_a_tables_job_is_left_alone(site: Site) -> None:
    """Though SLURM would give the next one the same node while others are idle; no run's attempt counts for it."""
    here = site.at("table-hole")
    fails = "if [[ $SLURMD_NODENAME = n1 ]]; then echo no such module; exit 3; fi"
    command = (*TINY, "sweep=table-hole", "seed=range(0,4)", f"cluster.setup=['{fails}']")
    here.launch(*command, "cluster.max_attempts=2")
    here.wait("table-hole", "FAILED", 4)
    (table,) = here.tables("table-hole")
    code = "" if site.max_array_size == 7 else " exit code 3"
    told = f"no reference table: job {table}: FAILED{code} on n1: no such module; its log is "
    assert eventually(lambda: all(str(run["reason"]).startswith(told) for run in here.status("table-hole")))
    (reason,) = {str(run["reason"]) for run in here.status("table-hole")}
    assert "no such module" in Path(reason.removeprefix(told)).read_text()
    assert "its reference table was not made 1 times in a row" in here.launch(*command, "cluster.max_attempts=1")
    assert re.search(r"exclude\s+(\w+\s+)?n1;", here.launch(*command, "cluster.max_attempts=2"))
    here.wait("table-hole", "TRAINED", 4)


def test_why_a_table_does_not_come(site: Site) -> None:
    """SLURM's reason for its job; where a site leaves jobs in the queue that wait in vain, what to do."""
    here = site.at("no-table", PREPARE_FAILS="raises")
    command = (*TINY, "sweep=no-table", "seed=1,2,3", "+cluster.extra={kill-on-invalid-dep: no}")
    partition = next(each for each in site.cluster.slurm("sinfo", "-h", "-o", "%P").split() if each[-1] == "*")[:-1]
    site.cluster.slurm("scontrol", "update", f"PartitionName={partition}", "State=DOWN")
    try:
        here.launch(*command)
        (table,) = here.tables("no-table")
        waits = f"waits for its reference table, job {table}: PartitionDown"
        assert eventually(lambda: {run["reason"] for run in here.status("no-table")} == {waits})
    finally:
        site.cluster.slurm("scontrol", "update", f"PartitionName={partition}", "State=UP")
    remedy = "waits in vain: `cancel` it, then launch again"
    assert eventually(lambda: all(str(run["reason"]).endswith(remedy) for run in here.status("no-table")))
    for run in here.status("no-table"):
        assert str(run["reason"]).startswith(f"no reference table: job {table}: the weights are torn; its log is ")
    here.launch("cancel", "no-table")
    quick = replace(here, variables=())
    assert "3 runs submitted" in quick.launch(*command)
    quick.wait("no-table", "TRAINED", 3)


@pytest.mark.parametrize(
    ("how", "reason"),
    [("raises", ": the weights are torn"), ("is killed", ": FAILED")],
)
def test_a_reference_table_that_is_not_made(site: Site, how: str, reason: str) -> None:
    """The runs that waited for it do not wait for ever: they have FAILED, with the reason, and resume makes it anew."""
    sweep = f"table-{how.replace(' ', '-')}"
    here = site.at(sweep, PREPARE_FAILS=how)
    here.launch(*TINY, f"sweep={sweep}", "seed=1,2,3")
    here.wait(sweep, "FAILED", 3)
    (table,) = here.tables(sweep)
    for run in here.status(sweep):
        assert str(run["reason"]).startswith(f"no reference table: job {table}{reason}")
        assert "srun: error" in here.launch("logs", str(run["run_id"]))  # of the job that was to make it
    quick = replace(here, variables=())
    assert "3 runs submitted" in quick.launch("resume", sweep)
    quick.wait(sweep, "TRAINED", 3)


def test_status_asks_once(site: Site) -> None:
    """One squeue for the whole sweep, and one sacct where a job has left the queue."""
    here = site.at("once")
    here.launch(*TINY, "sweep=once", "seed=range(0,12)", "+cluster.extra.hold=true")
    for name in ("squeue", "sacct", "scontrol"):
        path = wrapped(here, name, f'echo {name} "$@" >>{here.folder}/asked; exec $REAL "$@"')
    here = replace(here, variables=(("PATH", path),))
    assert here.counts("once") == {"PENDING": 12}
    asked = [line.split()[0] for line in (here.folder / "asked").read_text().splitlines()]
    assert Counter(asked) == {"scontrol": 1, "squeue": 1}
    here.launch("cancel", "once")
