"""What planning, the verbs and shared work cost, beside what one would run instead, in one run on one machine.

    make bench
    python tests/benchmarks/bench.py [--json FILE]

Prints seconds (the median of repeats in turn, with the least and the most) and their ratio; and how many calls of the
system name a file, which on a network file system are what an import and a verb wait for. Nothing here is a test:
machines differ.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from measured import in_turn, in_words, parser, ratio, record, seconds_of, table
from rich.console import Console

from launcher.cluster.local import ALSO_OF_WAITING, WAITING
from launcher.config import RunConfig
from launcher.machine.installed import data_dir, trl_losses
from launcher.planning.compose import compose
from launcher.planning.planned_runs import plan, plan_run

RUNS = 1000
HYDRA_RUNS = 50  # of the same grid; the row says so
REPEATS = 3
# Sixty runs that are done, for `status`.
SIXTY = ("-m", "launcher", "-m", "+sweeps=smoke", "seed=range(0,10)", "trainer.max_steps=1", "evaluation=none")
HELP, STATUS = ("-m", "launcher", "--help"), ("-m", "launcher", "status")
TRL = ("-c", "import trl; trl.DPOTrainer")
INSTEAD = "a script that imports trl first"
PRODUCT_SECONDS = 3.0
# Seconds for one product of two matrices by two threads.
PRODUCTS = f"""
import time, torch
torch.set_num_threads(2)
matrix, made, began = torch.rand(256, 256), 0, time.perf_counter()
while time.perf_counter() - began < {PRODUCT_SECONDS}:
    matrix @ matrix
    made += 1
print((time.perf_counter() - began) / made)
"""


@dataclass(frozen=True)
class Row:
    """Two that do the same, and what each repeat of it took."""

    ours: str
    taken: Sequence[float]
    instead: str
    others: Sequence[float]


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


def process(*arguments: str, folder: str | None = None, under: Sequence[str] = ()) -> Callable[[], object]:
    """One command of Python as a process of its own; `under`: what is to start it."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [*under, sys.executable, *arguments]
    return lambda: subprocess.run(command, cwd=folder, capture_output=True, check=True, env=environment)


def smoke(runs_per_job: int) -> float:
    """Seconds of the smoke sweep with so many runs in one process."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["-m", "launcher", "-m", "+sweeps=smoke", f"cluster.runs_per_job={runs_per_job}"]
        return seconds_of(process(*arguments, folder=folder))


def product(busy: int, waiting: Mapping[str, str]) -> float:
    """Seconds for a product beside so many busy loops, with threads that wait in that manner for each other."""
    environment = {name: value for name, value in os.environ.items() if name not in (*WAITING, *ALSO_OF_WAITING)}
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
    try:
        command = [sys.executable, "-c", PRODUCTS]
        told = subprocess.run(command, env=environment | waiting, capture_output=True, text=True, check=True)
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()
    return float(told.stdout)


def threads() -> Iterator[Row]:
    """How the threads of a job without a GPU wait for each other, and how they do by default."""
    for busy, where in ((0, "alone"), (2, "beside two busy loops")):
        ours, spinning = ([1000 * product(busy, waiting)] for waiting in (WAITING, {}))
        yield Row(f"1,000 products {where}", ours, "threads that spin", spinning)


def seconds(folder: str) -> Iterator[Row]:
    """What takes how long; `folder` has a sweep of sixty runs."""
    planned = in_turn({"ours": plan_by_us, "hydra": compose_by_hydra}, REPEATS)
    times = RUNS // HYDRA_RUNS
    hydra = [times * taken for taken in planned["hydra"]]
    yield Row(f"plan {RUNS:,} runs", planned["ours"], f"Hydra composes {HYDRA_RUNS} of them, x {times}", hydra)
    commands = {"help": HELP, "status": STATUS, "trl": TRL}
    verbs = in_turn({name: process(*command, folder=folder) for name, command in commands.items()}, REPEATS)
    yield Row("--help", verbs["help"], INSTEAD, verbs["trl"])
    yield Row("status, 60 runs", verbs["status"], INSTEAD, verbs["trl"])
    yield Row("smoke sweep, one process", [smoke(100)], "a process for each of 6 runs", [smoke(1)])
    yield from threads()


def file_calls(*arguments: str, folder: str) -> list[float]:
    """How many system calls that name a file a command makes, with the processes that it starts."""
    with tempfile.NamedTemporaryFile("r") as told:
        strace = ("strace", "-f", "-c", "-e", "trace=%file", "-o", told.name)
        process(*arguments, folder=folder, under=strace)()
        lines = [line.split() for line in told.read().splitlines()]
    # % time, seconds, usecs/call, calls, errors where there are some, syscall
    return [sum(int(line[3]) for line in lines if line and line[0][0].isdigit() and line[-1] != "total")]


def calls(folder: str) -> Iterator[Row]:
    """What calls the system how often with the name of a file; each is in Python's own caches by now."""
    instead = file_calls(*TRL, folder=folder)
    yield Row("--help", file_calls(*HELP, folder=folder), INSTEAD, instead)
    yield Row("status, 60 runs", file_calls(*STATUS, folder=folder), INSTEAD, instead)


def show(what: str, unit: str, rows: Iterator[Row], json: Path | None, *, digits: int) -> None:
    """Print and record what was measured."""
    shown = table(what, "ours", unit, "instead", f"{unit} ", "ratio", numbers=(unit, f"{unit} ", "ratio"))
    for row in rows:
        words, others = (in_words(values, digits) for values in (row.taken, row.others))
        shown.add_row(row.ours, words, row.instead, others, ratio(row.others, row.taken))
        record(json, "bench", what=what, **asdict(row))
    Console().print(shown)


def main(json: Path | None) -> None:
    """Measure and print."""
    assert Path("conf").is_dir(), "run from the repository's root"
    with tempfile.TemporaryDirectory() as folder:
        process(*SIXTY, folder=folder)()
        show("seconds", "s", seconds(folder), json, digits=2)
        if shutil.which("strace"):
            show("calls of the system that name a file", "calls", calls(folder), json, digits=0)
        else:
            Console().print("calls of the system that name a file: not measured, there is no strace here")


if __name__ == "__main__":
    main(parser(__doc__).parse_args().json)
