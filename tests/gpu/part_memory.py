"""A run for whose micro-batch the GPU's memory is too small: it goes on with half of it, as often as it takes.

Owns: filling the memory, what has to hold. Must not know: how a run is launched.
"""

from __future__ import annotations

from functools import partial

import torch
from machine import GIB, Machine
from product import Product
from results import Results

from launcher.store.files import read_fact, read_lines
from launcher.store.results import Result

OUTPUT = "filled"
ROOM = 12 * GIB  # for weights, their states and some of the activations
PAIRS, STEPS = 32, 4


def run(machine: Machine, results: Results) -> None:
    """Fill the memory, and train."""
    if not machine.is_gpu:
        results.skip("out of memory", "a CPU's memory has no limit that may be tried; tests/test_smaller.py pretends")
        return
    results.attempt("out of memory", 70, partial(_fill, Product(machine, results)))


def _fill(product: Product) -> None:
    free, _ = torch.cuda.mem_get_info(product.machine.device)
    filling = torch.empty(max(0, free - ROOM), dtype=torch.uint8, device=product.machine.device)
    sizes = {"trainer.batch_size": PAIRS, "trainer.micro_batch_size": PAIRS}
    lengths = {"trainer.max_length": 1024, "trainer.max_steps": STEPS}
    code = product.launched(product.words(OUTPUT, product.of_one_run | sizes | lengths, pairs="long"))
    del filling
    (run,) = product.runs(OUTPUT)
    result = read_fact(run.result_file, Result)
    tried = [line["micro_batch_size"] for line in read_lines(run.memory_log)]
    steps = [line["step"] for line in read_lines(run.metrics_file)]
    right = code == 0 and result is not None and steps == list(range(1, STEPS + 1))
    halved = bool(tried) and tried == [PAIRS // 2**number for number in range(1, len(tried) + 1)]
    product.results.check("it ends with a micro-batch that has room", right=right and halved, exit_code=code,
                          micro_batches=[PAIRS, *tried], room_gib=min(free, ROOM) / GIB)  # fmt: skip
