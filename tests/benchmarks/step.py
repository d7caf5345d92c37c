"""What a training step and the reference pass cost, the product's and TRL's: python tests/benchmarks/step.py.

    --only uf-full       one table's row, or several with commas: {uf,orca,demo}-{full,lora}
    --micro-batch 4,8    pairs of a step
    --rounds N           each way so often, in turn
    --no-growth          without the growth
    --json FILE          a line of JSON for each row, added at once

All ways have one process, one thread, one model, one optimizer and the same pairs, and take turns:

    packed   the product, as it is: each micro-batch one row
    padded   the product with trainer.packed=false
    TRL      DPOTrainer, which is told the reference values in the step, since a pass alone has a row of its own

A step is forward, loss, backward, clipping and AdamW, on one micro-batch that is typical of its data set. The reference
pass goes over as many pairs as two micro-batches, with the batches that each way makes of them. Seconds are the CPU's.

Two gains of the product are TRL's here too, since they are the process's: freed memory is kept (`memory`), and the
base model is loaded once. Growth is the slope of log seconds over log size: 1 is linear; of the micro-batch, that of
the seconds a pair.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import math
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))  # worker_fixtures
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import datasets
import numpy
import torch
from measured import in_words, parser, record
from rich.console import Console
from rich.table import Table
from trl import DPOTrainer
from trl.trainer import utils
from worker_fixtures import make_config
from workload import (
    DATA,
    LEARNING_RATE,
    LONGEST,
    LORA,
    SPECIAL,
    VOCABULARY,
    costs,
    ratios,
    typical_pairs,
    write_model,
    write_pairs,
)

from launcher.config import Lora, Model, RunConfig
from launcher.store.output_folder import Store
from launcher.worker.dataset.lengths import Lengths
from launcher.worker.dataset.pairs import collator, load_pairs
from launcher.worker.dataset.prepared_rows import row_of
from launcher.worker.model import weights
from launcher.worker.model.memory import keep_freed_memory
from launcher.worker.scoring import head
from launcher.worker.training.reference_table import measure, prepare
from launcher.worker.training.trainer import arguments, build_trainer, lora_config

WAYS = ("packed", "padded", "TRL")
COLUMNS = ("prompt_ids", "chosen_ids", "rejected_ids")
Rows = list[dict[str, Any]]
HEAP = 2**29  # numbers of 4 bytes
Seconds = dict[str, list[float]]


@dataclass(frozen=True)
class Bench:
    """A model that is trained wholly or by adapters, and a trainer for each way."""

    config: RunConfig
    store: Store
    trainers: dict[str, Any]

    def step(self, way: str, batches: Sequence[dict[str, Any]]) -> float:
        """Train on each batch, and return the last one's loss."""
        trainer, loss = self.trainers[way], math.nan
        with as_trl() if way == "TRL" else contextlib.nullcontext():
            for batch in batches:
                loss = float(trainer.training_step(trainer.model, dict(batch)))
                trainer.accelerator.clip_grad_norm_(trainer.model.parameters(), trainer.args.max_grad_norm)
                trainer.optimizer.step()
                trainer.optimizer.zero_grad()
        return loss

    def reference(self, way: str, rows: Rows) -> list[float]:
        """The log-probs of the chosen completions by the reference model."""
        if way != "TRL":
            facts = measure(self.set_to(packed=way == "packed"), self.store, rows)
            found = {fact["row"]: fact["chosen"] for fact in facts}
            return [found[row_of(row)] for row in rows]
        trainer, collate, size = self.trainers["TRL"], collator(self.config, self.store), self.micro_batch
        with as_trl():
            made = [
                trainer.compute_ref_log_probs(trainer.ref_model or trainer.model, collate(rows[start : start + size]))
                for start in range(0, len(rows), size)
            ]
        return [value for chosen, _ in made for value in chosen.tolist()]

    def batches(self, rows: Rows, size: int) -> list[dict[str, Any]]:
        """Micro-batches of so many pairs, with their reference values."""
        with quiet():
            facts = {fact["row"]: fact for fact in measure(self.config, self.store, rows)}
        found = [facts[row_of(row)] for row in rows]
        told_rows = [
            row | {"ref_chosen_logps": fact["chosen"], "ref_rejected_logps": fact["rejected"]}
            for row, fact in zip(rows, found, strict=True)
        ]
        collate = collator(self.config, self.store)
        return [collate(told_rows[start : start + size]) for start in range(0, len(rows), size)]

    def set_to(self, *, packed: bool) -> RunConfig:
        """The configuration of one of the product's ways."""
        return replace(self.config, trainer=replace(self.config.trainer, packed="auto" if packed else False))

    @property
    def micro_batch(self) -> int:
        """Pairs of a micro-batch."""
        return self.config.trainer.micro_batch_size


@contextlib.contextmanager
def as_trl() -> Iterator[None]:
    """Within, TRL's head scores what it scores by itself, not what `scoring.head` has it score in this process."""
    ours, utils._use_triton = utils._use_triton, head._leaves_out_prompts
    try:
        yield
    finally:
        utils._use_triton = ours


def quiet() -> contextlib.redirect_stdout[io.StringIO]:
    """Within, what the product tells of its progress is not shown."""
    return contextlib.redirect_stdout(io.StringIO())


def bench(folder: Path, data: str, *, lora: bool, micro_batch: int) -> Bench:
    """The trainers of the model in `folder`; they have a few short pairs of their own: batches are given to them."""
    own = Path(tempfile.mkdtemp(dir=folder))
    config = make_config(
        write_pairs(own / "pairs", Lengths(*(numpy.full(micro_batch, 4) for _ in COLUMNS))),
        model=Model(name="model", path=str(folder / "model"), dtype="float32"),
        trainer__learning_rate=LEARNING_RATE[lora],
        trainer__micro_batch_size=micro_batch,
        trainer__batch_size=micro_batch,
        trainer__max_length=LONGEST[data],
        trainer__lora=Lora(**LORA) if lora else None,
        evaluation__benchmarks=[],
    )
    made = Bench(config, Store(own / "outputs"), {})
    with quiet():
        for way in WAYS:
            made.trainers[way] = trainer = plain(made) if way == "TRL" else product(made, packed=way == "packed")
            trainer.create_optimizer()
            trainer.current_gradient_accumulation_steps = 1
            trainer.state.global_step = 1  # the first one would be looked at as well
            trainer.model.train()
    return made


def product(made: Bench, *, packed: bool) -> Any:
    """The trainer that a run of the product has, as it is once training has begun."""
    config, store = made.set_to(packed=packed), made.store
    trainer = build_trainer(config, store.run(f"packed-{packed}"), store, prepare(config, store), [])
    trainer._turn(trainer.model)
    assert trainer.way.packed == packed, trainer.way.why
    return trainer


def plain(made: Bench) -> Any:
    """TRL's own trainer, on the same model, told what the product is told."""
    config, store = made.config, made.store
    said = arguments(config, store.run("trl"))
    said.precompute_ref_log_probs = False  # its constructor would make a pass of its own
    trainer = DPOTrainer(
        model=weights.load_policy(config.model, store),
        ref_model=None if config.trainer.lora else weights.load_policy(config.model, store),
        args=said,
        train_dataset=load_pairs(config.dataset, store)[0],
        processing_class=weights.tokenizer(config.model, store),
        peft_config=None if config.trainer.lora is None else lora_config(config.trainer.lora),
    )
    trainer.precompute_ref_logps = True  # the batches have the values
    return trainer


def token_rows(lengths: Lengths) -> Rows:
    """Tokenised pairs of such lengths, their tokens drawn."""
    draw = random.Random(0)  # noqa: S311 - made-up text
    tokens = range(len(SPECIAL), VOCABULARY)
    return [
        {name: draw.choices(tokens, k=count) for name, count in zip(COLUMNS, each, strict=True)}
        for each in zip(*(counts.tolist() for counts in astuple(lengths)), strict=True)
    ]


# ------------------------------------------------------------------------------------------------ measuring


def in_turn(rounds: int, ways: Sequence[str], work: Callable[[str], Any]) -> tuple[Seconds, dict[str, Any]]:
    """CPU seconds of each way in each round, and what each has returned in the first."""
    seconds: Seconds = {way: [] for way in ways}
    first: dict[str, Any] = {}
    for number in range(rounds):
        for way in (*ways[number % len(ways) :], *ways[: number % len(ways)]):
            began = time.process_time()
            with quiet():
                answer = work(way)
            seconds[way].append(time.process_time() - began)
            first.setdefault(way, answer)
    return seconds, first


def steps(made: Bench, data: str, rounds: int) -> tuple[Seconds, Lengths]:
    """A step, on one micro-batch; all ways must find the same loss."""
    lengths = typical_pairs(data, made.micro_batch, made.micro_batch)
    batches = made.batches(token_rows(lengths), made.micro_batch)
    seconds, losses = in_turn(rounds, WAYS, lambda way: made.step(way, batches))
    assert all(math.isclose(loss, losses["TRL"], rel_tol=1e-4) for loss in losses.values()), losses
    return seconds, lengths


def passes(made: Bench, data: str, rounds: int) -> tuple[Seconds, Lengths]:
    """A reference pass; all ways must find the same values."""
    lengths = typical_pairs(data, 2 * made.micro_batch, made.micro_batch)
    rows = token_rows(lengths)
    seconds, values = in_turn(rounds, WAYS, lambda way: made.reference(way, rows))
    for found in values.values():
        numpy.testing.assert_allclose(found, values["TRL"], rtol=1e-5)
    return seconds, lengths


def growth(made: Bench, rounds: int) -> Iterator[tuple[str, dict[str, list[float]]]]:
    """Of steps and of the pass, by what grows; the pairs are UltraFeedback-like, but a fraction as long."""

    def trained(rows: Rows, size: int) -> Callable[[str], Any]:
        batches = made.batches(rows, size)
        return lambda way: made.step(way, batches)

    def scored(rows: Rows) -> Callable[[str], Any]:
        return lambda way: made.reference(way, rows)

    counts, parts, sizes = (4, 8, 16), (16, 8, 4, 2), (1, 2, 4, 8)
    yield "pairs, steps", slopes(rounds, counts, [trained(shorter(count, 8), 4) for count in counts])
    yield "pairs, pass", slopes(rounds, counts, [scored(shorter(count, 8)) for count in counts])
    yield "length, step", slopes(rounds, [1 / part for part in parts], [trained(shorter(4, part), 4) for part in parts])
    yield "micro-batch, a pair", slopes(rounds, sizes, [trained(shorter(8, 8), size) for size in sizes])


def shorter(count: int, part: int) -> Rows:
    """So many UltraFeedback-like pairs, cut to a part of their length."""
    lengths = typical_pairs("uf", count, min(count, 4))
    return token_rows(Lengths(*(numpy.maximum(2, each // part) for each in astuple(lengths))))


def slopes(rounds: int, sizes: Sequence[float], works: Sequence[Callable[[str], Any]]) -> dict[str, list[float]]:
    """The log-log slope of each way's seconds, of each round."""
    ways = ("packed", "TRL")
    seconds = [in_turn(rounds, ways, work)[0] for work in works]
    return {
        way: [
            float(numpy.polyfit(numpy.log(sizes), numpy.log([each[way][number] for each in seconds]), 1)[0])
            for number in range(rounds)
        ]
        for way in ways
    }


# ------------------------------------------------------------------------------------------------ printing


def row(name: str, found: tuple[Seconds, Lengths], micro_batch: int) -> tuple[list[str], dict[str, Any]]:
    """A row of the table, and its line of JSON."""
    seconds, lengths = found
    places = costs(lengths, micro_batch)
    gains = {way: ratios(seconds["TRL"], seconds[way]) for way in ("packed", "padded")}
    cells = [name, f"{places['padded'] / places['packed']:.2f}", *(f"{median(seconds[way]):.2f}" for way in WAYS)]
    return [*cells, *(in_words(gains[way]) for way in gains)], {"row": name, "places": places, "seconds": seconds}


def main() -> None:
    """Measure and print."""
    options = parser(__doc__)
    names = [f"{data}-{kind}" for data in DATA for kind in ("full", "lora")]
    options.add_argument("--only", type=lambda text: text.split(","), default=names)
    options.add_argument("--micro-batch", type=lambda text: [int(word) for word in text.split(",")], default=[4])
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--no-growth", action="store_true")
    asked = options.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    torch.ones(HEAP)  # else the way that is first in the first round would be the one that has the kernel zero pages
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as folder:
        datasets.config.HF_DATASETS_CACHE = str(Path(folder) / "datasets")
        write_model(Path(folder) / "model")
        Console(width=140).print(costs_table(asked, Path(folder)))
        if not asked.no_growth:
            Console(width=140).print(growth_table(asked, Path(folder)))


def costs_table(asked: argparse.Namespace, folder: Path) -> Table:
    """The rows that were asked for; the pass, which trains nothing, with those of all weights."""
    table = Table(title="CPU seconds, and how many times as many TRL takes", title_justify="left", box=None)
    for column in ("", "tokens", *WAYS, "TRL / packed", "TRL / padded"):
        table.add_column(column, justify="right" if column else "left")
    for name in asked.only:
        data, _, kind = name.partition("-")
        for size in asked.micro_batch:
            made = bench(folder, data, lora=kind == "lora", micro_batch=size)
            works = {"step": steps} if kind == "lora" else {"step": steps, "pass": passes}
            for what, work in works.items():
                cells, line = row(f"{name}, micro-batch {size}: {what}", work(made, data, asked.rounds), size)
                table.add_row(*cells)
                record(asked.json, "step", **line)
                Console(stderr=True, width=140).print(*cells)
    return table


def growth_table(asked: argparse.Namespace, folder: Path) -> Table:
    """The slopes, with all weights trained."""
    table = Table(title="growth: slopes of log seconds over log size", title_justify="left", box=None)
    for column in ("", "packed", "TRL"):
        table.add_column(column, justify="right" if column else "left")
    for what, found in growth(bench(folder, "uf", lora=False, micro_batch=4), asked.rounds):
        table.add_row(what, *map(in_words, found.values()))
        record(asked.json, "growth", row=what, slopes=found)
    return table


if __name__ == "__main__":
    main()
