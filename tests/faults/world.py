"""What a fault run happens in: a cluster, a Hub, the code that is launched, the shims, and the scenes that are alive.

Owns: setting all that up and taking it down; the environment of whoever launches; the files that shims obey.
Must not know: when what is struck, what must hold.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from conftest import REPOSITORY, clean_environment
from hub_server import HubServer, serving
from living import ranks_below
from ranks import EXTENSIONS
from scenes import UNMOUNT, Length, Scene, Shape
from slurm_cluster import DevCluster, dev_cluster_script, environment_of, processes_naming
from worker_fixtures import write_pairs

HERE = Path(__file__).parent
COMMANDS = ("sbatch", "squeue", "sacct", "scancel", "scontrol")
NODES = 6
DISK_MEGABYTES = 64
# A node that answers late, on a machine that is busy, is not dead; a job that has ended can be asked about for long.
CLUSTER = ("--nodes", str(NODES), "--requeue-delay", "5", "--conf", "MessageTimeout=10", "--conf", "SlurmdTimeout=20",
           "--conf", "KillWait=10", "--conf", "MinJobAge=3600")  # fmt: skip
ORDER = struct.Struct("iiii1008s")  # as in shims/disk.c
COMMON = ("model=tiny", "trainer=full", "trainer.learning_rate=1e-3", "trainer.batch_size=8",
          "trainer.micro_batch_size=4", "checkpoint.every=5", "checkpoint.keep=2", "evaluation.generations=2",
          "evaluation.max_new_tokens=4", "cluster.hang_seconds=30")  # fmt: skip
ON_SLURM = ("cluster=slurm", "cluster.gpus_per_node=0", "cluster.cpus_per_gpu=20", "cluster.warning_seconds=20",
            "cluster.max_requeues=50", "cluster.max_attempts=50")  # fmt: skip
STORES = {
    "folder": ("hub=folder",),
    "huggingface": ("hub=huggingface", "hub.org=us", "hub.timeout=3", "hub.patience=40"),
}


@dataclass
class World:
    """What there is, below `folder`."""

    folder: Path
    cluster: DevCluster
    hub: HubServer
    length: Length
    scenes: list[Scene] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    away_until: float = 0.0  # when the code came back; what was started before then may have found none

    @property
    def moods(self) -> Path:
        """The files that shims obey."""
        return self.folder / "moods"

    @property
    def code(self) -> Path:
        """The checkout that is launched from; jobs run a snapshot of it."""
        return self.folder / "code"

    def environment(self, *, slow: bool = True) -> dict[str, str]:
        """Whoever launches, with shims; `slow`: steps last."""
        python = f"{self.folder / 'shims'}:{self.code}"
        variables = {
            "PYTHONPATH": python, "PYTHONDONTWRITEBYTECODE": "1", "TORCHDYNAMO_DISABLE": "1", "NETRC": os.devnull,
            "CXX": str(HERE.parent / "cxx"), "TORCH_EXTENSIONS_DIR": str(EXTENSIONS),
            "PREFSWEEP_CACHE": str(self.folder / "user"),
            "PATH": f"{self.folder / 'bin'}:{self.cluster.environment['PATH']}", "FAULTS_MOODS": str(self.moods),
            "FAULTS_DISK": str(self.moods / "disk"), "LD_PRELOAD": str(self.folder / "disk.so"),
            **self.hub.environment(str(self.folder / "hf")),
        }  # fmt: skip
        if slow:
            variables["STEP_SECONDS"] = str(self.length.step_seconds)
        return clean_environment(**{**self.cluster.environment, **variables})

    def new_scene(self, shape: Shape, *, slow: bool = True) -> Scene:
        """A sweep that is not launched yet."""
        name = f"{shape.name}{next(self.numbers):03d}"
        folder = self.folder / name
        folder.mkdir()
        disk = _own_disk(folder) if shape.own_disk else None
        where = ON_SLURM if shape.executor == "slurm" else ("cluster=local",)
        setup = (f"cluster.setup=['source {self.folder}/setup.sh']",) if shape.executor == "slurm" else ()
        words = (*COMMON, f"dataset={self.folder}/pairs", f"trainer.max_steps={self.length.steps}", *where, *setup,
                 *STORES[shape.store], f"tracking={shape.tracker}", *shape.words, f"sweep={name}")  # fmt: skip
        return Scene(name, shape, folder, self.environment(slow=slow), words, disk=disk)

    def jobs_of(self, scene: Scene) -> set[str] | None:
        """The jobs of a scene that SLURM has in its queue; None where it does not say."""
        command = ("squeue", "-h", "-r", "-t", "RUNNING,PENDING,COMPLETING", "-o", "%i %j")
        done = subprocess.run(
            command, env=self.cluster.environment, capture_output=True, text=True, timeout=120, check=False
        )
        words = [line.split(maxsplit=1) for line in done.stdout.splitlines()]
        return None if done.returncode else {job for job, name in words if name.startswith(f"{scene.name}.")}

    def spoil(self, command: str, way: str, calls: int) -> None:
        """Let the next calls of a SLURM command go wrong."""
        for number in range(calls):
            (self.moods / f"{command}.{time.monotonic_ns()}{number}").write_text(way)

    def unspoil(self, command: str) -> None:
        """Let it go right again."""
        for token in self.moods.glob(f"{command}.*"):
            token.unlink(missing_ok=True)

    def fail_disk(self, error: int, calls: int, folder: Path, *, skip: int = 0, pid: int = 0) -> None:
        """Let so many of the next calls that write below a folder fail, or with a negative number get that signal.

        `skip`: so many are let through before; `pid`: those of this process alone.
        """
        with (self.moods / "disk").open("r+b") as file:  # in place: the file is mapped
            file.write(ORDER.pack(error, calls, skip, pid, os.fsencode(folder)))

    def mend_disk(self) -> None:
        """No call fails any more."""
        with (self.moods / "disk").open("r+b") as file:
            file.write(ORDER.pack(0, 0, 0, 0, b""))

    def tell(self, pid: int, word: str) -> None:
        """Order a rank to do something to itself at its next step."""
        aside = self.moods / "orders" / f".{pid}"
        aside.write_text(word)
        aside.rename(self.moods / "orders" / str(pid))


@contextmanager
def opened(folder: Path, length: Length) -> Iterator[World]:
    """A world below `folder`, which stays; its processes do not."""
    root = folder / "cluster"
    try:
        up = dev_cluster_script("up", "--root", str(root), *CLUSTER)
        if up.returncode:
            raise RuntimeError(up.stderr)
        with serving() as hub:
            world = World(folder, DevCluster(root, environment_of(root)), hub, length)
            _furnish(world)
            yield world
    finally:
        _end_jobs(folder)
        for disk in [path for path in folder.glob("*") if path.is_mount()]:
            subprocess.run([*UNMOUNT, disk], check=False)
        dev_cluster_script("down", "--root", str(root))


def _own_disk(folder: Path) -> Path:
    """A disk in memory, so small that it can be filled."""
    mount = ("mount", "-t", "tmpfs", "-o", f"size={DISK_MEGABYTES}m", "none", folder)
    subprocess.run(mount, check=True)
    return folder


def _furnish(world: World) -> None:
    for name in ("launcher", "conf", "sweeps", "slurm"):
        shutil.copytree(REPOSITORY / name, world.code / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("moods/orders", "moods/taken", "bin", "shims"):
        (world.folder / name).mkdir(parents=True)
    for name in COMMANDS:
        shutil.copy(HERE / "shims" / "command", world.folder / "bin" / name)
    shutil.copy(HERE / "shims" / "sitecustomize.py", world.folder / "shims")
    (world.moods / "disk").write_bytes(ORDER.pack(0, 0, 0, 0, b""))
    (world.folder / "setup.sh").write_text(f'[ ! -e "{world.moods}/black.$SLURMD_NODENAME" ] || exit 3\n')
    compile_ = (
        "gcc",
        "-shared",
        "-fPIC",
        "-O1",
        str(HERE / "shims/disk.c"),
        "-o",
        str(world.folder / "disk.so"),
        "-ldl",
    )
    subprocess.run(compile_, check=True)
    write_pairs(world.folder / "pairs")


def _end_jobs(folder: Path) -> None:
    """Those of this machine, which the cluster's end does not end, and the launchers."""
    for pid in [*(rank.pid for rank in ranks_below(folder)), *processes_naming(f"FAULTS_MOODS={folder}/")]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
