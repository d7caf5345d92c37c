"""What a sweep of 100, 1,000 and 10,000 runs costs on a real SLURM once it is there.

    make bench
    python tests/benchmarks/scale.py [RUNS...] [--json FILE]

Of each: seconds to plan it, and when it was launched (its jobs are held, see `queueing`) to show its status and to
cancel it; the memory of `status`, and the files and folders that a run has before it starts. Growth is the exponent of
the seconds from one number of runs to the next: 1 is linear. Everything is at work on this machine at once, the
controller too.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path

from measured import parser, record, table
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parent.parent))

from slurm_cluster import DevCluster, running_cluster, why_not_here
from worker_fixtures import write_pairs

RUNS = (100, 1_000, 10_000)
CLUSTER = ("--max-array-size", "1001", "--conf", "MaxJobCount=50000", "--conf", "MessageTimeout=60")
GRID = ("-m", "model=tiny", "dataset=./pairs", "trainer=full", "cluster=slurm", "cluster.gpus_per_node=0",
        "sweep=scale", "+cluster.extra.hold=true")  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """Of one sweep: seconds, MB of 10^6 bytes, and files and folders for each run."""

    runs: int
    dry_run: float
    status: float
    status_mb: float
    cancel: float
    files: float


def main(runs: Sequence[int], json: Path | None) -> None:
    """Measure and print."""
    if (why := why_not_here()) is not None:
        Console().print(f"scale: not measured, {why}")
        return
    with running_cluster(*CLUSTER) as cluster:
        found = []
        for each in measured(cluster, runs):
            record(json, "scale", **asdict(each))
            found.append(each)
    show(found)


def measured(cluster: DevCluster, runs: Sequence[int]) -> Iterator[Measured]:
    """One sweep after another, each in a folder of its own."""
    for count in runs:
        folder = cluster.work / f"scale{count}"
        folder.mkdir()
        write_pairs(folder / "pairs")
        grid = (*GRID, f"seed=range(0,{count})")
        dry_run, _ = launcher(cluster, folder, *grid, "dry_run=true")
        launcher(cluster, folder, *grid)
        outputs = folder / "outputs"
        files = sum(1 for path in outputs.rglob("*") if "code" not in path.relative_to(outputs).parts) / count
        status, memory = launcher(cluster, folder, "status", "scale")
        cancel, _ = launcher(cluster, folder, "cancel", "scale")
        yield Measured(count, dry_run, status, memory, cancel, files)


def launcher(cluster: DevCluster, folder: Path, *arguments: str) -> tuple[float, float]:
    """Run one command line; its seconds, and the most memory that it had, in MB."""
    environment = {**cluster.environment, "PYTHONPATH": str(Path.cwd()), "OMP_NUM_THREADS": "1"}
    began = time.perf_counter()
    with (folder / "said.log").open("ab") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "launcher", *arguments], cwd=folder, env=environment, stdout=said, stderr=said
        )
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, (folder / "said.log").read_text()[-3000:]
    return time.perf_counter() - began, usage.ru_maxrss * 1024 / 1e6


def show(found: Sequence[Measured]) -> None:
    """A row for each number of runs, and the growth between the last two."""
    columns = ("runs", "dry run", "status", "status MB", "cancel", "files a run")
    shown = table("seconds on a real SLURM", *columns, numbers=columns)
    for each in found:
        shown.add_row(f"{each.runs:,}", *(f"{value:.2f}" for value in astuple(each)[1:]))
    if len(found) > 1:
        before, after = found[-2:]
        step = math.log(after.runs / before.runs)
        ratios = (math.log(b / a) / step for a, b in zip(astuple(before)[1:], astuple(after)[1:], strict=True))
        shown.add_row("growth", *(f"{ratio:.2f}" for ratio in ratios))
    Console().print(shown)


if __name__ == "__main__":
    arguments = parser(__doc__)
    arguments.add_argument("runs", nargs="*", type=int, default=RUNS, metavar="RUNS")
    given = arguments.parse_args()
    main(given.runs, given.json)
