"""NCCL and ZeRO-3 with one rank: what several GPUs would do, as far as one shows it.

Owns: what has to hold. Must not know: how several ranks compare with one (tests/test_distributed.py, on CPUs).
"""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from importlib.util import find_spec
from itertools import pairwise
from statistics import fmean

from machine import Machine
from product import PATIENCE, STEPS, Product, environment_with
from results import Results

from launcher.store.files import read_fact, read_lines
from launcher.store.results import Result
from launcher.store.run_folder import RunDir

# What ranks do together in a training that nothing divides.
TOGETHER = """
import sys
from pathlib import Path
import torch
from launcher.worker.distributed import ranks
from launcher.worker.training.meter import Counts, Meter
from launcher.worker.training.trainer import agree_to_stop
with ranks.joined(Path(sys.argv[1]), always=True):
    meter = Meter()
    meter.add(Counts(2, 30, 40, 10))
    said = [torch.distributed.get_backend(), agree_to_stop(False), agree_to_stop(True), ranks.gather([7])]
    print(*said, meter.window(1.0).computed_tokens)
"""
OUTPUT = "divided"
NEAR = 0.02  # of the first loss: how far the curves may be apart, on average; gradients are added up otherwise


def run(machine: Machine, results: Results) -> None:
    """Both."""
    if not machine.is_gpu:
        results.skip("NCCL and ZeRO-3", "on CPUs tests/test_distributed.py has them, with two ranks")
        return
    results.attempt("NCCL", 20, partial(_together, machine, results))
    if find_spec("deepspeed") is None:
        results.skip("ZeRO-3", "DeepSpeed is not installed")
        return
    results.attempt("ZeRO-3", 60, partial(_divided, Product(machine, results)))


def _together(machine: Machine, results: Results) -> None:
    done = subprocess.run(
        [sys.executable, "-c", TOGETHER, str(machine.folder / "together")],
        env=environment_with(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    said = done.stdout.splitlines()[-1:]
    right = said == ["nccl False True [7] 40"]
    results.check("ranks agree by NCCL", right=right, said=said, stderr="" if right else done.stderr[-1000:])


def _divided(product: Product) -> None:
    code = product.launched(product.words(OUTPUT, product.of_one_run | {"deepspeed": "zero3"}))
    (run,) = product.runs(OUTPUT)
    result = read_fact(run.result_file, Result)
    right = code == 0 and result is not None and (result.steps, result.packing) == (STEPS, "packed")
    product.results.check("a run with divided weights is trained, packed", right=right, exit_code=code)
    ours, theirs = (_losses(each) for each in (run, product.in_peace(run)))
    apart = fmean(abs(one - other) for one, other in zip(ours, theirs, strict=True)) / theirs[0]
    told = {"first": [ours[0], theirs[0]], "last": [ours[-1], theirs[-1]]}
    product.results.check("its losses are those of a run that is not divided", right=apart <= NEAR, apart=apart, **told)
    product.results.say("seconds a step", divided=_pace(run), whole=_pace(product.in_peace(run)))


def _losses(run: RunDir) -> list[float]:
    return [line["loss"] for line in read_lines(run.metrics_file)]


def _pace(run: RunDir) -> float:
    """The median, without the first steps."""
    times = sorted(later["time"] - earlier["time"] for earlier, later in pairwise(read_lines(run.metrics_file)[4:]))
    return float(times[len(times) // 2])
