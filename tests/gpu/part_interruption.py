"""A run that is stopped twice on its way, as the machine's owner and as SLURM do it, and ends as if it had not been.

Owns: what has to hold of it. Must not know: how signals are sent.

Kernels may add up in any order, so that two runs that are left in peace may differ too. Then the one that was stopped
may be as far from them as they are from each other, and that is said.
"""

from __future__ import annotations

import signal
from functools import partial

import torch
from machine import Machine
from product import JOB_ID, STEPS, Product
from results import Results
from safetensors.torch import load_file

from launcher.store.files import read_lines
from launcher.store.run_folder import RunDir

OUTPUT = "stopped"
TIMES = 3  # the distance of two runs in peace


def run(machine: Machine, results: Results) -> None:
    """Stop it, let it go on, and compare."""
    results.attempt("a run that is stopped twice", 90, partial(_stop_twice, Product(machine, results)))


def _stop_twice(product: Product) -> None:
    check = product.results.check
    code = product.interrupted(product.start(product.words(OUTPUT, product.of_one_run)), OUTPUT, signal.SIGTERM)
    (state,), (run,) = product.states(OUTPUT), product.runs(OUTPUT)
    said = state["status"] == "CANCELLED" and "SIGTERM" in state["reason"]
    check("SIGTERM: it has saved, and is cancelled", right=said and code == 1, step=state["step"], said=state["reason"])
    batch, attempt = product.new_job(run)
    code = product.interrupted(product.as_slurm(batch, 0), OUTPUT, signal.SIGUSR2)
    asked, lives = product.asked.read_text().splitlines(), read_lines(attempt.requeue_log)
    check("the signal before the time limit: it has saved, and asked to be requeued",
          right=code == 0 and f"requeue {JOB_ID}" in asked and len(lives) == 1, asked=asked, lives=lives)  # fmt: skip
    code = product.finish(product.as_slurm(batch, 1))
    steps = [line["step"] for line in read_lines(run.metrics_file)]
    check("it has made each step once", right=code == 0 and steps == list(range(1, STEPS + 1)), exit_code=code)
    _compare(product, run)


def _compare(product: Product, run: RunDir) -> None:
    peaceful = product.in_peace(run)
    apart = _apart(run, peaceful)
    if not apart:
        product.results.check("its weights are those of a run in peace, bit for bit", right=True)
        return
    spread = _apart(product.alone("again"), peaceful)
    product.results.check("its weights are as far from a run in peace as another one is",
                          right=apart <= TIMES * spread, apart=apart, spread=spread)  # fmt: skip


def _apart(run: RunDir, other: RunDir) -> float:
    """The norm of the difference of their weights; 0 where all bits are the same."""
    ours, theirs = (load_file(each.model / "model.safetensors") for each in (run, other))
    different = [name for name in theirs if not torch.equal(ours[name], theirs[name])]
    return float(sum((ours[name].double() - theirs[name].double()).square().sum() for name in different)) ** 0.5
