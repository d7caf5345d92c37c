"""slurm/dev-cluster gives a real SLURM: jobs, arrays, requeues, dead nodes, and nothing left behind."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from slurm_cluster import (
    QUICK,
    SCRIPT,
    DevCluster,
    dev_cluster_fixture,  # noqa: F401 - the fixture dev_cluster
    dev_cluster_script,
    needs_slurm,
    open_folder,
    processes_naming,
    running_cluster,
)
from waiting import eventually

pytestmark = needs_slurm
# A job that tells what reached it: one line for each start, one for each signal.
LISTENER = """
    trap 'echo got TERM' TERM
    trap 'echo got USR2; exit 0' USR2
    echo start ${SLURM_RESTART_COUNT:-0}
    sleep 600 & while kill -0 $! 2>/dev/null; do wait; done
"""


@pytest.fixture(scope="module")
def warned_job(dev_cluster: DevCluster) -> str:
    """A job that is to get a signal before its time limit: submitted early, since SLURM takes up to 30 s."""
    return dev_cluster.sbatch(LISTENER, "--time=1", "--signal=B:USR2@50")


def test_a_job_on_two_nodes_sees_its_gpus_and_is_recorded_as_completed(
    dev_cluster: DevCluster,
    warned_job: str,
) -> None:
    """An srun step runs once on each node with eight GPUs visible, and sacct knows job, state and GPUs."""
    job = dev_cluster.sbatch("srun bash -c 'echo $SLURMD_NODENAME $CUDA_VISIBLE_DEVICES'", "-N2", "--gres=gpu:8")

    assert eventually(lambda: dev_cluster.recorded(job) == ["COMPLETED"])
    assert sorted(dev_cluster.output(job).splitlines()) == ["n1 0,1,2,3,4,5,6,7", "n2 0,1,2,3,4,5,6,7"]
    assert "gres/gpu=16" in dev_cluster.recorded(job, "alloctres")[0]
    assert warned_job != job


def test_an_array_never_runs_more_tasks_than_its_throttle_allows(dev_cluster: DevCluster) -> None:
    """--array=0-5%2 has at most two tasks running at any look, and all six complete."""
    array = dev_cluster.sbatch("sleep 2", "--array=0-5%2")
    most = 0

    def is_done() -> bool:
        nonlocal most
        most = max(most, len(dev_cluster.slurm("squeue", "-h", "-r", "-t", "running", "-j", array).splitlines()))
        return dev_cluster.recorded(array) == ["COMPLETED"] * 6

    assert eventually(is_done)
    assert most == 2


def test_a_requeued_job_starts_again_under_its_id_after_the_delay(dev_cluster: DevCluster) -> None:
    """`scontrol requeue` ends the job and starts it again within seconds, and sacct keeps both lives."""
    job = dev_cluster.sbatch(LISTENER)
    assert eventually(lambda: "start 0" in dev_cluster.output(job))

    dev_cluster.slurm("scontrol", "requeue", job)

    assert eventually(lambda: "start 1" in dev_cluster.output(job))
    assert dev_cluster.field(job, "Restarts") == "1"
    assert dev_cluster.recorded(job) == ["REQUEUED", "RUNNING"]
    dev_cluster.slurm("scancel", "--signal=KILL", job)


def test_the_urgent_partition_preempts_and_slurm_requeues_by_itself(dev_cluster: DevCluster) -> None:
    """A job in `urgent` pushes one out of `main`, which gets SIGTERM, waits, and starts again."""
    job = dev_cluster.sbatch(LISTENER, "-w", "n4", "--exclusive")
    assert eventually(lambda: "start 0" in dev_cluster.output(job))

    urgent = dev_cluster.sbatch("sleep 1", "-w", "n4", "--exclusive", "-p", "urgent")

    assert eventually(lambda: dev_cluster.recorded(urgent) == ["COMPLETED"])
    assert eventually(lambda: dev_cluster.recorded(job) == ["PREEMPTED", "RUNNING"])
    assert eventually(lambda: dev_cluster.output(job).splitlines()[-1:] == ["start 1"])
    dev_cluster.slurm("scancel", "--signal=KILL", job)


def test_a_killed_node_fails_its_job_and_comes_back(dev_cluster: DevCluster) -> None:
    """kill-node ends the node's processes, SLURM says NODE_FAIL; start-node makes the node idle again."""
    job = dev_cluster.sbatch("sleep 4711", "--no-requeue", "-w", "n2")
    assert eventually(lambda: dev_cluster.processes_of(job))

    assert dev_cluster.script("kill-node", "n2").returncode == 0

    assert not dev_cluster.processes_of(job)
    assert dev_cluster.script("status").returncode == 1
    assert eventually(lambda: dev_cluster.recorded(job) == ["NODE_FAIL"])
    assert dev_cluster.script("start-node", "n2").returncode == 0
    assert eventually(lambda: dev_cluster.slurm("sinfo", "-h", "-n", "n2", "-o", "%T") == "idle")


def test_a_restarted_controller_keeps_the_jobs(dev_cluster: DevCluster) -> None:
    """After `restart ctld` another slurmctld knows the running job, and new jobs run at once."""
    job = dev_cluster.sbatch(LISTENER)
    assert eventually(lambda: "start 0" in dev_cluster.output(job))
    before = (dev_cluster.root / "run/ctld.pid").read_text()

    assert dev_cluster.script("restart", "ctld").returncode == 0

    assert (dev_cluster.root / "run/ctld.pid").read_text() != before
    assert dev_cluster.field(job, "JobState") == "RUNNING"
    after = dev_cluster.sbatch("true")
    assert eventually(lambda: dev_cluster.recorded(after) == ["COMPLETED"])
    dev_cluster.slurm("scancel", "--signal=KILL", job)


@pytest.mark.parametrize("daemon", ["dbd", "n3"])
def test_other_daemons_restart_too(dev_cluster: DevCluster, daemon: str) -> None:
    """The accounting daemon and a node's slurmd restart in place, and every daemon runs afterwards."""
    assert dev_cluster.script("restart", daemon).returncode == 0
    status = dev_cluster.script("status")
    assert (status.returncode, status.stdout.count("running  pid")) == (0, 8)


def test_a_signal_before_the_time_limit_reaches_the_job(
    dev_cluster: DevCluster,
    warned_job: str,
) -> None:
    """--signal=B:USR2@50 with a limit of one minute arrives, and the job that heeds it completes."""
    assert eventually(lambda: dev_cluster.recorded(warned_job) == ["COMPLETED"])
    assert "got USR2" in dev_cluster.output(warned_job).splitlines()


def test_a_second_up_changes_nothing(dev_cluster: DevCluster) -> None:
    """The same options: a line and exit code 0. Other options: a line and exit code 2. Never a new daemon."""
    before = pids_on_record(dev_cluster.root)

    same = dev_cluster.script("up", *QUICK)
    other = dev_cluster.script("up", "--nodes", "2")

    assert (same.returncode, same.stdout) == (0, f"dev-cluster: already up below {dev_cluster.root}\n")
    assert (other.returncode, len(other.stderr.splitlines())) == (2, 1)
    assert pids_on_record(dev_cluster.root) == before


def test_a_small_cluster_beside_the_first_ends_without_a_trace(dev_cluster: DevCluster) -> None:
    """Without accounting sacct fails, MaxArraySize 11 bars index 11, and `down` ends even detached jobs."""
    with running_cluster("--nodes", "1", "--no-accounting", "--max-array-size", "11") as small:
        array = small.sbatch("true", "--array=0-10")
        with pytest.raises(AssertionError, match="Invalid job array specification"):
            small.sbatch("true", "--array=0-11")
        with pytest.raises(AssertionError, match="accounting storage is disabled"):
            small.recorded(array)
        job = small.sbatch("trap '' TERM; (setsid sleep 4712 &); sleep 4713")
        assert eventually(lambda: len(small.processes_of(job)) == 3)
        everything = pids_on_record(small.root) | processes_naming(str(small.root))

        down = small.script("down")

        assert (down.returncode, small.root.exists()) == (0, False)
        assert eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in everything))
    assert dev_cluster.script("status").returncode == 0


def test_an_up_that_fails_names_its_log_and_leaves_no_process() -> None:
    """Where slurmctld dies at once: exit code 1, one line with the log file, the log there, nothing running."""
    with open_folder() as folder:
        options = ("--root", f"{folder}/c", "--nodes", "1", "--no-accounting")

        up = dev_cluster_script("up", *options, "--conf", "SelectType=select/none_such")

        assert (up.returncode, len(up.stderr.splitlines())) == (1, 1), up.stderr
        assert f"{folder}/c/log/ctld.log" in up.stderr
        assert "none_such" in (folder / "c/log/ctld.log").read_text()
        assert eventually(lambda: not processes_naming(str(folder)), seconds=30)


def test_a_shell_that_pointed_at_another_cluster_finds_its_commands_no_more() -> None:
    """Those of another version would not understand this one; all else of the PATH stays, in its order."""
    with open_folder() as folder:
        for name, brings in (("old", True), ("new", True), ("own", False)):
            (folder / name / ("bin" if brings else "etc")).mkdir(parents=True)
            (folder / name / "etc").mkdir(exist_ok=True)
            (folder / name / "etc" / "slurm.conf").write_text(f"ClusterName={name}\n")
            (folder / name / "dev-cluster.options").write_text("slurm=own \n")
        (folder / "mine" / "bin").mkdir(parents=True)
        ours = f"{folder}/mine/bin:/usr/bin:/bin"
        lines = [f'eval "$({SCRIPT} env --root {folder / name} --cluster {name})"' for name in ("old", "new", "own")]
        for commands, begins in ((lines[:1], f"{folder}/old/bin:"), (lines[:2], f"{folder}/new/bin:"), (lines, "")):
            words = ["/bin/bash", "-ec", "\n".join([*commands, 'echo "$PATH"', 'echo "$SLURM_CONF"'])]
            environment = {**os.environ, "PATH": ours}
            done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
            path, conf = done.stdout.splitlines()
            assert path == begins + ours
            assert Path(conf).exists()


def test_commands_without_a_cluster_say_so(tmp_path: Path) -> None:
    """`down` has nothing to do and succeeds; what needs a cluster fails with a line that says how to start one."""
    root = ("--root", "/nonexistent/cluster")
    assert dev_cluster_script("down", *root).returncode == 0
    for command in (["env"], ["status"], ["restart", "ctld"], ["kill-node", "n1"]):
        done = dev_cluster_script(*command, *root)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.endswith("start one with: up --root /nonexistent/cluster\n")
    (tmp_path / "precious").touch()
    assert dev_cluster_script("down", "--root", str(tmp_path)).returncode == 2
    assert dev_cluster_script("up", "--root", str(tmp_path)).returncode == 2
    assert (tmp_path / "precious").exists()


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        ("", "no command"),
        ("frob", "unknown command 'frob'"),
        ("up now", "up takes no argument, not 'now'"),
        ("up --frob 1", "unknown option --frob"),
        ("up --nodes", "--nodes needs a value"),
        ("up --nodes 0", "--nodes must be a whole number from 1 to 64, not '0'"),
        ("up --gpus-per-node=-1", "--gpus-per-node must be a whole number"),
        ("up --max-array-size 1", "--max-array-size must be a whole number"),
        ("up --root /", "--root must not be /"),
        ("up --root a;b", "--root must be a path of letters"),
        (f"up --root /{'x' * 70}", "socket paths below it do not fit"),
        ("up --conf MaxJobCount", "--conf must be KEY=VALUE"),
        ("up --conf SlurmctldPort=1", "--conf must not set SlurmctldPort"),
        ("up --root /nonexistent/c --conf Frob=1", "Parsing error at unrecognized key: Frob"),
        ("kill-node", "kill-node takes exactly one argument"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(command: str, complaint: str) -> None:
    """A wrong command names the option and the value in one line, and touches nothing."""
    done = dev_cluster_script(*command.split())
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1), done.stderr
    assert complaint in done.stderr


def test_help_lists_every_command_with_examples() -> None:
    """--help exits 0 and shows each command and a way to try it."""
    done = dev_cluster_script("--help")
    assert done.returncode == 0
    for word in ("up", "env", "status", "restart", "kill-node", "start-node", "down", "examples:"):
        assert f"\n  {word} " in done.stdout or f"\n{word}" in done.stdout


def test_shellcheck_finds_nothing() -> None:
    """The script is free of what shellcheck knows to be mistakes."""
    shellcheck = shutil.which("shellcheck")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed")
    done = subprocess.run([shellcheck, SCRIPT], capture_output=True, text=True, check=False)
    assert done.stdout == ""


def pids_on_record(root: Path) -> set[int]:
    return {int(path.read_text().split()[0]) for path in root.glob("run/*.pid")}
