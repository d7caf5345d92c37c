"""What planning, the verbs and shared work cost, beside what one would run instead, in one run on one machine.

    make bench

Prints seconds (the least of several repeats) and their ratio. Nothing here is a test: machines differ.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from rich.console import Console
from rich.table import Table

from launcher.config import RunConfig
from launcher.machine.installed import data_dir, trl_losses
from launcher.planning.compose import compose
from launcher.planning.planned_runs import plan, plan_run

RUNS = 1000
HYDRA_RUNS = 50  # of the same grid; Hydra's time is proportional to their number
REPEATS = 3


def least(work: Callable[[], object], repeats: int = REPEATS) -> float:
    """Seconds of the quickest of several repeats."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


def plan_by_us() -> None:
    """The whole plan of a grid of RUNS: compose, check, ids, duplicates."""
    grid, points = compose(["trainer.learning_rate=1e-5,2e-5", f"seed=range(0,{RUNS // 2})"], multirun=True)
    runs = [plan_run(point.config, point.axes, point.overrides, trl_losses()) for point in points]
    assert len(plan(runs, grid.varied, None).runs) == RUNS


def compose_by_hydra() -> None:
    """Hydra composing HYDRA_RUNS points of that grid, which is what its own sweeper does."""
    ConfigStore.instance().store(name="schema", node=RunConfig)
    with initialize_config_dir(config_dir=str(data_dir("conf").absolute()), version_base="1.3"):
        for seed in range(HYDRA_RUNS):
            hydra_compose("config", overrides=["trainer.learning_rate=1e-5", f"seed={seed}"])


def process(*arguments: str, folder: str | None = None) -> Callable[[], object]:
    """One command as a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return lambda: subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, check=False, env=environment
    )


def smoke(runs_per_job: int) -> float:
    """Seconds of the smoke sweep with so many runs in one process."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["-m", "launcher", "-m", "+sweeps=smoke", f"cluster.runs_per_job={runs_per_job}"]
        return least(process(*arguments, folder=folder), repeats=1)


def rows() -> Sequence[tuple[str, float, str, float]]:
    """What is measured, ours and the other."""
    help_seconds = least(process("-m", "launcher", "--help"))
    with tempfile.TemporaryDirectory() as folder:
        process("-m", "launcher", "-m", "+sweeps=smoke", folder=folder)()
        status_seconds = least(process("-m", "launcher", "status", folder=folder))
    trl_seconds = least(process("-c", "import trl, transformers; trl.DPOTrainer"))
    hydra_seconds = least(compose_by_hydra, 1) / HYDRA_RUNS * RUNS
    return [
        (f"plan {RUNS} runs", least(plan_by_us), "Hydra composes each", hydra_seconds),
        ("--help", help_seconds, "a script that imports trl first", trl_seconds),
        ("status, 6 runs", status_seconds, "a script that imports trl first", trl_seconds),
        ("smoke sweep, one process", smoke(100), "a process for each of 6 runs", smoke(1)),
    ]


def main() -> None:
    """Measure and print."""
    assert Path("conf").is_dir(), "run from the repository's root"
    table = Table(title="seconds", title_justify="left", box=None)
    for column in ("ours", "s", "instead", "s", "ratio"):
        table.add_column(column, justify="right" if column in ("s", "ratio") else "left")
    for ours, seconds, other, others in rows():
        table.add_row(ours, f"{seconds:.2f}", other, f"{others:.2f}", f"{others / seconds:.1f}x")
    Console().print(table)


if __name__ == "__main__":
    main()
