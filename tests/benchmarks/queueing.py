"""How long from a command until all of its runs are queued (held) on a real SLURM, and how often that is asked.

    make bench
    python tests/benchmarks/queueing.py [RUNS...] [--json FILE]

Three ways, in turn, each into a queue that is empty:

prefsweep        the launch, until it returns; it makes one job more than there are runs, for the reference values
hydra-submitit   a Hydra app with one key and hydra-submitit-launcher, until its sbatch has returned; it would wait for
                 the jobs' ends then, and is killed
a loop of bash   one sbatch after another

Who is not done after LIMIT_SECONDS is ended, and what is in the queue by then is told; nothing is extrapolated. The
calls are those of SLURM's commands until then. hydra-submitit-launcher is installed into a folder of its own, which is
gone afterwards. Three repeats up to a hundred runs, one of more.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from measured import in_words, parser, ratio, record, table
from rich.console import Console
from scale import CLUSTER, GRID

sys.path.insert(0, str(Path(__file__).parent.parent))

from slurm_cluster import DevCluster, running_cluster, why_not_here
from worker_fixtures import write_pairs

RUNS = (60, 1_000, 10_000)
FEW, REPEATS = 100, 3  # up to so many runs, so many repeats
LIMIT_SECONDS = 180.0
POLL_SECONDS = 0.01
INSTALL_SECONDS = 300.0
PACKAGES = ("hydra-core", "hydra-submitit-launcher")
OURS, HYDRA, BASH = "prefsweep", "hydra-submitit", "a loop of bash"

COMMANDS = ("sbatch", "squeue", "scontrol", "scancel", "sinfo", "sacct", "sacctmgr", "sdiag", "sprio")
CALLS = "calls"  # the file with the name of each command that has been called, a line each
COUNTED = f"""#!/bin/sh
{{command}} "$@"
code=$?
echo {{name}} >>"$QUEUEING_FOLDER/{CALLS}"
exit $code
"""
# It notes its calls itself: a script around each would make it a third slower.
LOOP = f"""
for seed in $(seq {{runs}}); do
    sbatch --hold --output=/dev/null --wrap "python train.py --seed=$seed" && echo sbatch >>{CALLS} || exit
done
"""
APP = """
import hydra

@hydra.main(version_base="1.3", config_path=None)
def train(config):
    print(config.seed)

train()
"""


@dataclass(frozen=True)
class Way:
    """A way to queue runs.

    Attributes:
        command: what is typed, of so many runs.
        path: where it finds commands before all other places; None: it notes its own calls.
        stays: whether it goes on when all is queued, which is when its first sbatch has returned.
    """

    name: str
    command: Callable[[int], Sequence[str]]
    path: Path | None
    stays: bool = False


@dataclass(frozen=True)
class Queued:
    """What one way came to: after so many seconds so many jobs were in the queue, with so many calls by command.

    `how`: it is "done", was "ended" at the limit, or has "failed".
    """

    how: str
    seconds: float
    jobs: int
    calls: dict[str, int]


Found = Mapping[tuple[int, str], Sequence[Queued]]


def main(runs: Sequence[int], json: Path | None) -> None:
    """Measure and print."""
    if (why := why_not_here()) is not None:
        Console().print(f"queueing: not measured, {why}")
        return
    with running_cluster(*CLUSTER) as cluster:
        ways = list(ways_to_queue(cluster))
        found: dict[tuple[int, str], list[Queued]] = {(count, way.name): [] for count in runs for way in ways}
        for count in runs:
            for _ in range(REPEATS if count <= FEW else 1):
                for way in ways:
                    one = queued(cluster, way, count)
                    record(json, "queueing", runs=count, way=way.name, **asdict(one))
                    found[count, way.name].append(one)
    show(found)


def ways_to_queue(cluster: DevCluster) -> Iterator[Way]:
    """The three; two where hydra-submitit-launcher cannot be had."""
    counting = counting_commands(cluster)
    yield Way(OURS, lambda runs: (sys.executable, "-m", "launcher", *GRID, f"seed=range(0,{runs})"), counting)
    if (python := installed(cluster.work / "venv")) is not None:
        (app := cluster.work / "app.py").write_text(APP, encoding="utf-8")
        hydra = (
            str(python),
            str(app),
            "-m",
            "hydra/launcher=submitit_slurm",
            "+hydra.launcher.additional_parameters.hold=true",
        )
        yield Way(HYDRA, lambda runs: (*hydra, f"+seed=range(0,{runs})"), counting, stays=True)
    yield Way(BASH, lambda runs: ("bash", "-c", LOOP.format(runs=runs)), None)


def counting_commands(cluster: DevCluster) -> Path:
    """A folder with SLURM's commands, which note that they were called."""
    folder = cluster.work / "bin"
    folder.mkdir()
    for name in COMMANDS:
        if command := shutil.which(name, path=cluster.environment["PATH"]):
            (folder / name).write_text(COUNTED.format(command=command, name=name), encoding="utf-8")
            (folder / name).chmod(0o755)
    return folder


def installed(folder: Path) -> Path | None:
    """The Python of a new environment with PACKAGES; None where they cannot be had."""
    pip = (str(folder / "bin" / "pip"), "--disable-pip-version-check", "install", "--quiet", *PACKAGES)
    for command in ((sys.executable, "-m", "venv", str(folder)), pip):
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False)
        if done.returncode:
            Console(stderr=True).print(f"{HYDRA}: not installed: {done.stderr.strip()[-300:]}", markup=False)
            return None
    return folder / "bin" / "python"


def queued(cluster: DevCluster, way: Way, count: int) -> Queued:
    """Queue so many runs in this way, look what is there, and empty the queue."""
    folder = Path(tempfile.mkdtemp(dir=cluster.work))
    write_pairs(folder / "pairs")
    environment = {**cluster.environment, "PYTHONPATH": str(Path.cwd()), "OMP_NUM_THREADS": "1"}
    if way.path is not None:
        environment |= {"PATH": f"{way.path}:{environment['PATH']}", "QUEUEING_FOLDER": str(folder)}
    (folder / CALLS).touch()
    began = time.perf_counter()
    with (folder / "said.log").open("wb") as said:
        process = subprocess.Popen(
            way.command(count), cwd=folder, env=environment, stdout=said, stderr=said, start_new_session=True
        )
    while not (over := process.poll() is not None or has_queued(way, folder)):
        if time.perf_counter() - began > LIMIT_SECONDS:
            break
        time.sleep(POLL_SECONDS)
    seconds = time.perf_counter() - began
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    jobs = len(cluster.slurm("squeue", "--noheader", "--array", "--format=%i").splitlines())
    cluster.slurm("scancel", f"--user={os.getuid()}")
    how = "ended" if not over else "done" if jobs >= count else "failed"
    if how == "failed":
        Console(stderr=True).print((folder / "said.log").read_text(encoding="utf-8")[-1000:], markup=False)
    calls = Counter((folder / CALLS).read_text(encoding="utf-8").split())
    return Queued(how, seconds, jobs, dict(calls.most_common()))


def has_queued(way: Way, folder: Path) -> bool:
    """Whether a way that goes on has queued all that it will."""
    return way.stays and "sbatch" in (folder / CALLS).read_text(encoding="utf-8")


def show(found: Found) -> None:
    """A row for each way of each number of runs."""
    numbers = ("runs", "seconds", "in the queue", "ratio")
    shown = table(
        "from a command to all jobs queued", "runs", "", "seconds", "in the queue", "ratio", "calls", numbers=numbers
    )
    for count in dict.fromkeys(count for count, _ in found):
        for name in (OURS, HYDRA, BASH):
            shown.add_row(f"{count:,}", name, *cells(found, count, name))
    Console(width=120).print(shown)


def cells(found: Found, count: int, name: str) -> Iterator[str]:
    """Seconds, jobs, how many times as long as ours it takes, and the calls; of one that was ended, what it came to."""
    if (count, name) not in found:
        yield "not installed"
        return
    each, seconds = found[count, name], {way: [one.seconds for one in found[count, way]] for way in (OURS, name)}
    jobs, calls = min(one.jobs for one in each), each[-1].calls
    how = next((one.how for one in each if one.how != "done"), None)
    yield in_words(seconds[name], 1) if how is None else f"{how} after {in_words(seconds[name], 0)}"
    yield f"{jobs:,}" if how is None else f"{jobs:,} of {count:,}"
    yield "" if how == "failed" else f"{'> ' if how else ''}{ratio(seconds[name], seconds[OURS])}"
    yield f"{sum(calls.values()):,} ({', '.join(f'{command} {times:,}' for command, times in calls.items())})"


if __name__ == "__main__":
    arguments = parser(__doc__)
    arguments.add_argument("runs", nargs="*", type=int, default=RUNS, metavar="RUNS")
    given = arguments.parse_args()
    main(given.runs, given.json)
