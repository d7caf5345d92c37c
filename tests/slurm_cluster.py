"""A real SLURM for tests: `slurm/dev-cluster`, driven from Python.

A module that needs one imports the fixture and marks itself:

    from slurm_cluster import DevCluster, dev_cluster_fixture, needs_slurm  # noqa: F401 - the fixture dev_cluster
    pytestmark = needs_slurm

The cluster lives as long as the module. Other clusters of the machine, and other tests, go on beside it. With
PREFSWEEP_TEST_SLURM=24.11, or what else `dev-cluster up --slurm` knows, all of them are of that version.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from waiting import LONGEST_WAIT, eventually

SCRIPT = Path(__file__).parent.parent / "slurm" / "dev-cluster"
OTHER_SLURM = SCRIPT.with_name("dev-cluster-root")
VERSION = os.environ.get("PREFSWEEP_TEST_SLURM") or None
# What status says of a job whose process has got kill -9; without accounting, squeue alone is asked, which knows less.
LAST_PRINTED = r"(: last printed: .*)?"
KILLED = rf"FAILED (exit code (9|137)|signal 9){LAST_PRINTED}"
KILLED_WITHOUT_ACCOUNTING = rf"FAILED{LAST_PRINTED}"
# Shorter than the defaults, at the price of false alarms on a machine that is very busy.
QUICK = ("--requeue-delay", "5", "--conf", "MessageTimeout=3", "--conf", "SlurmdTimeout=6")
# For runs that train in earnest and keep the machine busy: a node that answers late is not dead, a run that is pushed
# out has time to save, and a job that has ended can be asked about for as long as the tests may take.
PATIENT = ("--requeue-delay", "5", "--conf", "MessageTimeout=30", "--conf", "SlurmdTimeout=300",
           "--conf", "KillWait=15", "--conf", "MinJobAge=3600")  # fmt: skip


def why_not_here() -> str | None:
    """Why this machine cannot run a dev cluster; None if it can."""
    if os.geteuid() != 0:
        return "slurm/dev-cluster must run as root"
    if not Path("/etc/debian_version").exists():
        return "slurm/dev-cluster knows only Debian's packages, and this is no Debian"
    if not (shutil.which("apt-get") or (shutil.which("slurmctld") and shutil.which("munged"))):
        return "SLURM is not installed and there is no apt-get to install it with"
    return None


needs_slurm = [
    pytest.mark.slurm,
    pytest.mark.skipif(why_not_here() is not None, reason=why_not_here() or "a dev cluster can run here"),
]


def why_no_other_slurm(version: str) -> str | None:
    """Why this machine cannot run that version, which is fetched if it is not here; None if it can."""
    try:
        done = subprocess.run(
            [OTHER_SLURM, "make", version], capture_output=True, text=True, timeout=LONGEST_WAIT, check=False
        )
    except subprocess.TimeoutExpired:
        return f"SLURM {version} could not be fetched within {LONGEST_WAIT:g} s"
    return done.stderr.strip() if done.returncode else None


def dev_cluster_script(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run slurm/dev-cluster; its exit code is the caller's business."""
    if VERSION and arguments[:1] == ("up",) and "--slurm" not in arguments:
        arguments = ("up", "--slurm", VERSION, *arguments[1:])
    return subprocess.run([SCRIPT, *arguments], capture_output=True, text=True, timeout=LONGEST_WAIT, check=False)


@dataclass(frozen=True)
class DevCluster:
    """A running cluster below `root`; `environment` points SLURM's commands at it."""

    root: Path
    environment: dict[str, str]

    def script(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run slurm/dev-cluster on this cluster."""
        return dev_cluster_script(*arguments, "--root", str(self.root))

    def slurm(self, *command: str) -> str:
        """What a SLURM command prints; its failure is an error."""
        done = subprocess.run(
            command,
            env=self.environment,
            cwd=self.work,
            capture_output=True,
            text=True,
            timeout=LONGEST_WAIT,
            check=False,
        )
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
        return done.stdout.strip()

    def sbatch(self, script: str, *options: str) -> str:
        """Submit a shell script; its job id."""
        return self.slurm("sbatch", "--parsable", *options, "--wrap", script)

    def field(self, job: str, name: str) -> str:
        """One field of `scontrol show job`, such as JobState or Restarts."""
        words = self.slurm("scontrol", "show", "job", job).split()
        return next(word.split("=", 1)[1] for word in words if word.startswith(f"{name}="))

    def recorded(self, job: str, fields: str = "state") -> list[str]:
        """What sacct has on record of a job: a line an allocation, requeued ones included."""
        options = ("--noheader", "--parsable2", "--allocations", "--duplicates")
        return self.slurm("sacct", *options, f"--format={fields}", f"--jobs={job}").splitlines()

    def processes_of(self, job: str) -> set[int]:
        """The job's own processes, without SLURM's."""
        return processes_naming(f"SLURM_CONF={self.root}/", f"SLURM_JOB_ID={job}\0")

    def output(self, job: str) -> str:
        """What the job has printed so far; a requeued job starts anew."""
        path = self.work / f"slurm-{job}.out"
        return path.read_text() if path.exists() else ""

    @property
    def work(self) -> Path:
        """The folder that jobs are submitted from."""
        return self.root.parent


@contextmanager
def open_folder() -> Iterator[Path]:
    """A temporary folder that munged, which is not root, can reach: pytest's own tmp_path is closed to it."""
    with tempfile.TemporaryDirectory(prefix="prefsweep-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


@contextmanager
def running_cluster(*options: str) -> Iterator[DevCluster]:
    """A cluster with these options of `up`; it is gone afterwards, or the test fails."""
    with open_folder() as folder:
        root = folder / "cluster"
        try:
            up = dev_cluster_script("up", "--root", str(root), *options)
            assert up.returncode == 0, up.stderr
            yield DevCluster(root, environment_of(root))
        finally:
            down = dev_cluster_script("down", "--root", str(root))
        assert (down.returncode, root.exists()) == (0, False), down.stderr
        assert eventually(lambda: not processes_naming(str(root)), seconds=120), processes_naming(str(root))


def environment_of(root: Path) -> dict[str, str]:
    """This process's environment after `eval "$(slurm/dev-cluster env)"`, without the SLURM_* of an outer job."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")}
    command = f'eval "$({SCRIPT} env --root {root})" && env -0'
    done = subprocess.run(
        ["/bin/bash", "-c", command], env=clean, capture_output=True, text=True, timeout=LONGEST_WAIT, check=True
    )
    return dict(line.split("=", 1) for line in done.stdout.split("\0") if line)


def processes_naming(*names: str) -> set[int]:
    """The pid of every live process that has all of `names` in its command, environment or open files."""
    return {
        int(process.name)
        for process in Path("/proc").glob("[0-9]*")
        if all(name.encode() in words_of(process) for name in names)
    }


def words_of(process: Path) -> bytes:
    try:
        files = b" ".join(bytes(link.readlink()) for link in (process / "fd").iterdir())
        return (process / "cmdline").read_bytes() + (process / "environ").read_bytes() + files
    except OSError:  # it has ended meanwhile
        return b""


@pytest.fixture(scope="module", name="dev_cluster")
def dev_cluster_fixture() -> Iterator[DevCluster]:
    """Four nodes of eight GPUs with accounting, quick to requeue and to notice a dead node."""
    with running_cluster(*QUICK) as cluster:
        yield cluster
