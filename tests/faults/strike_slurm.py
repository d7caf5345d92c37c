"""Faults of the cluster: its daemons, its nodes, and what operators and time limits do to jobs.

Owns: those injections. Must not know: other kinds.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from random import Random

from scenes import Scene
from slurm_cluster import DevCluster
from strike import Injection, Kind, Struck, a_rank, name_of, one_of
from world import World


def _asked(cluster: DevCluster, *command: str) -> str:
    """What a SLURM command answers, failed or not: what was to be struck may be gone already."""
    done = subprocess.run(
        command, env=cluster.environment, capture_output=True, text=True, timeout=120, check=False, cwd=cluster.work
    )
    return done.stdout


def _jobs(world: World, states: str) -> list[tuple[Scene, str]]:
    """Jobs of the scenes in these states, by their ids."""
    lines = _asked(world.cluster, "squeue", "-h", "-r", "-t", states, "-o", "%i %j").splitlines()
    names = [line.split(maxsplit=1) for line in lines]
    return [(scene, job) for job, name in names for scene in world.scenes if name.startswith(f"{scene.name}.")]


def _restart(daemon: str) -> Injection:
    def inject(world: World, _: Random) -> Struck | None:
        done = world.cluster.script("restart", daemon)
        return Struck(f"rc {done.returncode}")

    return inject


def _daemon_down(daemon: str, seconds: float) -> Injection:
    """Killed with -9; it comes back after a while."""

    def inject(world: World, _: Random) -> Struck | None:
        pid = int((world.cluster.root / "run" / f"{daemon}.pid").read_text().split()[0])
        with suppress(ProcessLookupError):
            os.kill(pid, 9)
        return Struck(f"pid {pid}", None, lambda: _back(world, daemon), seconds)

    return inject


def _back(world: World, daemon: str) -> None:
    """Start it again; the controller too, which another fault, lifted after this one, may have ended."""
    for _ in range(3):
        done = world.cluster.script("restart", daemon)
        if not done.returncode:
            return
        world.cluster.script("restart", "ctld")
    raise RuntimeError(f"{daemon} does not come back: {done.stderr}")


def _busy_node(world: World, draw: Random) -> str | None:
    found = a_rank(world, draw, training=False, slurm=True)
    return found[1].node if found else None


def _on_node(strike: Callable[[World, str], None], lift: Callable[[World, str], None], seconds: float) -> Injection:
    """Of a node on which something runs."""

    def inject(world: World, draw: Random) -> Struck | None:
        if (node := _busy_node(world, draw)) is None:
            return None
        strike(world, node)
        return Struck(node, None, lambda: lift(world, node), seconds)

    return inject


def _kill_slurmd(world: World, node: str) -> None:
    """Only the daemon: what it has started lives on, as on a node that hangs for SLURM alone."""
    pid = int((world.cluster.root / "run" / f"{node}.pid").read_text().split()[0])
    with suppress(ProcessLookupError):
        os.kill(pid, 9)


def _set_state(state: str) -> Callable[[World, str], None]:
    def strike(world: World, node: str) -> None:
        _asked(world.cluster, "scontrol", "update", f"NodeName={node}", f"State={state}", "Reason=trouble")

    return strike


def _kill_node(world: World, node: str) -> None:
    world.cluster.script("kill-node", node)


def _blacken(world: World, node: str) -> None:
    """Whatever starts there ends at once; what runs there by now is put back into the queue."""
    (world.moods / f"black.{node}").touch()


def _whiten(world: World, node: str) -> None:
    (world.moods / f"black.{node}").unlink(missing_ok=True)


def _preempt(world: World, draw: Random) -> Struck | None:
    if (node := _busy_node(world, draw)) is None:
        return None
    options = ("-w", node, "--exclusive", "-p", "urgent", "-o", "/dev/null", "--wrap", "sleep 2")
    _asked(world.cluster, "sbatch", "--parsable", *options)
    return Struck(node)


def _on_job(states: str, *command: str) -> Injection:
    """A command of an operator's on one job; JOB stands for its id, ARRAY for that of its array."""

    def inject(world: World, draw: Random) -> Struck | None:
        if (found := one_of(draw, _jobs(world, states))) is None:
            return None
        scene, job = found
        words = [word.replace("JOB", job).replace("ARRAY", job.partition("_")[0]) for word in command]
        _asked(world.cluster, *words)
        return Struck(job, scene)

    return inject


def _hold(world: World, draw: Random) -> Struck | None:
    """Put back into the queue and held; then released."""
    if (found := one_of(draw, _jobs(world, "RUNNING"))) is None:
        return None
    scene, job = found
    _asked(world.cluster, "scontrol", "requeuehold", job)
    return Struck(job, scene, lambda: _release(world, job), 12)


def _release(world: World, job: str) -> None:
    """Let it go on once it has ended: a release that comes before that is forgotten."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and "COMPLETING" in _asked(world.cluster, "squeue", "-h", "-j", job, "-o", "%T"):
        time.sleep(0.5)
    _asked(world.cluster, "scontrol", "release", job)


def _limit(world: World, draw: Random) -> Struck | None:
    """The time limit of a running job is near from now on, whatever it does."""
    if (found := a_rank(world, draw, training=False, slurm=True)) is None:
        return None
    scene, rank = found
    _asked(world.cluster, "scontrol", "update", f"JobId={rank.job}", "TimeLimit=1")
    return Struck(name_of(rank), scene)


KINDS = (
    Kind("slurmctld restarts", _restart("ctld")),
    Kind("slurmctld is down for a while", _daemon_down("ctld", 15)),
    Kind("slurmdbd is down for a while", _daemon_down("dbd", 20)),
    Kind("slurmd dies, its processes live", _on_node(_kill_slurmd, _back, 60)),
    Kind("slurmd restarts", _on_node(_kill_slurmd, _back, 3)),
    Kind("node dies", _on_node(_kill_node, _back, 40)),
    Kind("node is drained", _on_node(_set_state("drain"), _set_state("resume"), 20)),
    Kind("node is set down", _on_node(_set_state("down"), _set_state("resume"), 20)),
    Kind("node swallows what it is given", _on_node(_blacken, _whiten, 40)),
    Kind("preemption", _preempt),
    Kind("time limit", _limit),
    Kind("scancel of a task", _on_job("RUNNING,PENDING", "scancel", "JOB")),
    Kind("scancel of an array", _on_job("RUNNING,PENDING", "scancel", "ARRAY")),
    Kind("scancel with SIGKILL", _on_job("RUNNING", "scancel", "--signal=KILL", "--full", "JOB")),
    Kind("requeue by an operator", _on_job("RUNNING", "scontrol", "requeue", "JOB")),
    Kind("hold and release", _hold),
)
