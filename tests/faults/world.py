"""What a fault run happens in: a cluster, a Hub, the code that is launched, the shims, and the scenes that are alive.

Owns: setting all that up and taking it down; the environment of whoever launches; the files that shims obey.
Must not know: when what is struck, what must hold.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import signal
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

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
ROOT, OTHER_ROOT = "cluster", "other"  # folders, which hold a cluster each
DISK_MEGABYTES = 64
# A node that answers late, on a machine that is busy, is not dead; a job that has ended can be asked about for long.
CLUSTER = ("--nodes", str(NODES), "--requeue-delay", "5", "--conf", "MessageTimeout=10", "--conf", "SlurmdTimeout=20",
           "--conf", "KillWait=10", "--conf", "MinJobAge=3600")  # fmt: skip
OTHER = ("--nodes", "2", "--no-accounting", *CLUSTER[2:])
MOST_ALIVE = 5  # sweeps, where a fault begins one of its own
COUNTED = re.compile(r"kill_at: (\d+) calls")  # as in shims/kill_at.c
COUNTING_SECONDS = 180
GUEST_UID = 61234
# Another user: one who may read what others have, and write nothing of theirs, nor end their processes. Python lies
# below root's own folder here, so that one who may not read there could not even start it.
_READS = "-all,+dac_read_search"
GUEST = ("setpriv", f"--reuid={GUEST_UID}", f"--regid={GUEST_UID}", "--clear-groups", f"--inh-caps={_READS}",
         f"--ambient-caps={_READS}", f"--bounding-set={_READS}")  # fmt: skip
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
    calls: int = 0  # system calls of a launch that submits; 0: nobody has counted them yet
    calls_of_cancel: int = 0  # likewise
    other: DevCluster | None = None  # another cluster, once somebody has asked for one

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

    def has_room(self) -> bool:
        """Whether a fault may begin a sweep of its own."""
        return len(self.scenes) < MOST_ALIVE

    def a_call(self, draw: Random) -> int | None:
        """A system call of a launch, but for the first ones, which import. None where they cannot be counted now.

        They are counted once, of the launch of a sweep that then goes on as any other.
        """
        shape = next((scene.shape for scene in self.scenes if scene.shape.executor == "slurm"), None)
        if not self.calls and shape is not None and self.has_room():
            scene = self.new_scene(shape)
            scene.deaths = [0]
            self.scenes.append(scene)
            scene.launch()
            self.calls = counted(scene, scene.launcher) if scene.launcher else 0
        return late(draw, self.calls) if self.calls else None

    def clusters(self) -> dict[str, DevCluster]:
        """Those that there are, by the names that they have for SLURM."""
        return {name_of(each): each for each in (self.cluster, self.other) if each is not None}

    def login_elsewhere(self) -> dict[str, str]:
        """What is another in the environment of another cluster's login node; that is up from now on."""
        if self.other is None:
            self.other = _up(self.folder / OTHER_ROOT, *OTHER)
        return login_of(self.other)

    def guest(self) -> dict[str, str]:
        """What is another in the environment of another user, who has folders of their own."""
        home = self.folder / "guest"
        home.mkdir(exist_ok=True)
        os.chown(home, GUEST_UID, GUEST_UID)
        return {"HOME": str(home), "PREFSWEEP_CACHE": str(home / "user"), "HF_HOME": str(home / "hf")}

    def jobs_of(self, scene: Scene) -> set[str] | None:
        """The jobs of a scene that a SLURM has in its queue, as CLUSTER/ID; None where one does not say."""
        found: set[str] = set()
        for cluster, each in self.clusters().items():
            command = ("squeue", "-h", "-r", "-t", "RUNNING,PENDING,COMPLETING", "-o", "%i %j")
            done = subprocess.run(
                command, env=each.environment, capture_output=True, text=True, timeout=120, check=False
            )
            if done.returncode:
                return None
            words = [line.split(maxsplit=1) for line in done.stdout.splitlines()]
            found |= {f"{cluster}/{job}" for job, name in words if name.startswith(f"{scene.name}.")}
        return found

    def release(self, scene: Scene, job: str) -> None:
        """Let a held job go on, as the scene's user would."""
        command, there = ("scontrol", "release", job), {**self.cluster.environment, **scene.login}
        subprocess.run(command, env=there, capture_output=True, timeout=120, check=False)

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
    try:
        with serving() as hub:
            world = World(folder, _up(folder / ROOT, *CLUSTER), hub, length)
            _furnish(world)
            yield world
    finally:
        _end_jobs(folder)
        for disk in [path for path in folder.glob("*") if path.is_mount()]:
            subprocess.run([*UNMOUNT, disk], check=False)
        for root in (ROOT, OTHER_ROOT):
            dev_cluster_script("down", "--root", str(folder / root))


def _up(root: Path, *options: str) -> DevCluster:
    up = dev_cluster_script("up", "--root", str(root), *options)
    if up.returncode:
        raise RuntimeError(up.stderr)
    return DevCluster(root, environment_of(root))


def name_of(cluster: DevCluster) -> str:
    """As SLURM calls it."""
    lines = (cluster.root / "etc" / "slurm.conf").read_text().splitlines()
    return next(line for line in lines if line.startswith("ClusterName=")).partition("=")[2]


def login_of(cluster: DevCluster) -> dict[str, str]:
    """What tells its login node from another's."""
    return {"SLURM_CONF": cluster.environment["SLURM_CONF"]}


def late(draw: Random, calls: int) -> int:
    """One of so many system calls of a command: its first ones import."""
    return draw.randint(calls // 3, calls)


def counted(scene: Scene, process: subprocess.Popen[str]) -> int:
    """How many system calls a command has made, when it has ended; 0 where it has not ended well."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(COUNTING_SECONDS)
        said = COUNTED.findall(scene.answer_of(process, scene.launched).errors)
        return int(said[-1]) if said and process.returncode == 0 else 0
    return 0


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
    shims = HERE / "shims"
    preloaded = ("gcc", "-O1", "-shared", "-fPIC", shims / "disk.c", "-o", world.folder / "disk.so", "-ldl")
    traces = ("gcc", "-O1", shims / "kill_at.c", "-o", world.folder / "kill_at")
    for compile_ in (preloaded, traces):
        subprocess.run(compile_, check=True)
    write_pairs(world.folder / "pairs")


def _end_jobs(folder: Path) -> None:
    """Those of this machine, which the cluster's end does not end, and the launchers."""
    for pid in [*(rank.pid for rank in ranks_below(folder)), *processes_naming(f"FAULTS_MOODS={folder}/")]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
