"""Six runs by one command: trained packed, evaluated, published to a folder.

Owns: what has to hold of them. Must not know: how they are launched.

Half of the runs learn at a rate that changes no weight: their models are the untrained one, at no distance from it.
"""

from __future__ import annotations

import filecmp
import math
from functools import partial
from pathlib import Path

from machine import Machine
from product import STEPS, Product
from results import Results

from launcher.store.facts import Revision
from launcher.store.files import plain, read_fact, read_lines
from launcher.store.results import Evaluation, Result
from launcher.store.run_folder import RunDir

START = {"sigmoid": math.log(2), "ipo": 25.0, "kto_pair": 0.5}  # the loss at beta 0.1 of a policy that is the reference
NO_RATE = 1e-30
NEAR = 0.02  # of a loss at the start: rounding of bfloat16
NATS = 1e-6


def run(machine: Machine, results: Results) -> None:
    """Launch them, and look at each."""
    results.attempt("six runs", 100, partial(_sweep, Product(machine, results)))


def _sweep(product: Product) -> None:
    grid = {"loss_type": ",".join(START), "trainer.learning_rate": f"{product.rate:g},{NO_RATE:g}"}
    evaluated = {"evaluation.generations": 8, "evaluation.max_new_tokens": 8}
    published = {"hub": "folder", "hub.revision": "'${loss_type}-${trainer.learning_rate}'"}
    code = product.launched(product.words("sweep", grid | evaluated | published))
    states = product.states("sweep")
    trained = [state for state in states if state["status"] == "TRAINED"]
    product.results.check("six runs are trained", right=(code, len(trained)) == (0, 6), exit_code=code,
                          reasons=[state["reason"] for state in states if state["reason"]])  # fmt: skip
    for each in product.runs("sweep"):
        _look_at(each, product.results)


def _look_at(run: RunDir, results: Results) -> None:
    config = run.read_config()
    loss, rate = config["loss_type"], config["trainer"]["learning_rate"]
    result, evaluation = read_fact(run.result_file, Result), read_fact(run.evaluation_file, Evaluation)
    revision = read_fact(run.revision_file, Revision)
    if result is None or evaluation is None or revision is None:
        results.check(run.run_id, right=False, why="its result, its evaluation or its revision is missing")
        return
    name, first = f"{loss} at {rate:g}", read_lines(run.metrics_file)[0]["loss"]
    starts = abs(first - START[loss]) <= NEAR * START[loss]
    results.check(f"{name}: trained packed, from where it must start",
                  right=starts and result.packing == "packed" and result.steps == STEPS,
                  loss=first, packing=result.packing, steps=result.steps)  # fmt: skip
    kl = math.nan if evaluation.kl is None else evaluation.kl
    apart = abs(kl) <= NATS if rate == NO_RATE else 0 < kl < math.inf
    results.check(f"{name}: evaluated, and as far from the untrained model as it must be",
                  right=apart and evaluation.loss is not None, kl=kl, loss=evaluation.loss)  # fmt: skip
    files = [folder / "model.safetensors" for folder in (Path(revision.address), run.model)]
    results.check(f"{name}: published", right=filecmp.cmp(*files, shallow=False), revision=revision.revision)
    results.say(f"{name}: throughput", **plain(result.throughput))
