"""What a run's evaluation costs beside its training: python tests/benchmarks/evaluation.py.

    --repeats N        so many trainings, each evaluated both ways in turn
    --model PATH       a model's folder, in place of the Llama of `workload`
    --json FILE        a line of JSON for each repeat, added at once

A run of the demo's size, in one process with one thread: 16 steps of 8 pairs, then 64 held-out pairs, and 64 texts of
24 tokens in batches of 16, with their KL to the reference. Batch by batch is how all of it went once, and how texts are
written in bfloat16: each batch by itself, which the policy then reads once more; and before held-out pairs the trained
model is tried, which the end of its training has just done. Both ways must find the same texts and scores.

Seconds are those of the CPU. The untrained model's own evaluation, which a sweep makes once, is not among them.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))  # worker_fixtures
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import datasets
import torch
from measured import in_words, parser, record, table
from rich.console import Console
from worker_fixtures import make_config
from workload import LEARNING_RATE, LONGEST, ratios, typical_pairs, word, write_model, write_pairs

from launcher.config import Dataset, Evaluation, Model, RunConfig
from launcher.store.files import read_fact
from launcher.store.output_folder import Store
from launcher.store.results import Evaluation as Found
from launcher.store.run_folder import RunDir
from launcher.worker.evaluation import generations, preference
from launcher.worker.evaluation.preference import evaluate
from launcher.worker.training.reference_table import prepare
from launcher.worker.training.train import load_trained, train

PAIRS, HELD_OUT, MICRO_BATCH = 128, 64, 8
PROMPTS = [" ".join(map(word, range(10 * number, 10 * number + 2 + number % 4))) for number in range(8)]
WAYS = ("evaluation", "batch by batch")


def config_in(folder: Path, model: Path) -> RunConfig:
    """The demo's run, on pairs as long as the demo's."""
    pairs = write_pairs(folder / "pairs", typical_pairs("demo", PAIRS + HELD_OUT, MICRO_BATCH))
    rows = (pairs / "train.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    for split, lines in (("train", rows[:PAIRS]), ("test", rows[PAIRS:])):
        (pairs / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    return make_config(
        pairs,
        model=Model(name="model", path=str(model), dtype="float32"),
        dataset=Dataset(name="pairs", path=str(pairs), prompts=PROMPTS, golden_reward="vader"),
        trainer__learning_rate=LEARNING_RATE[False],
        trainer__micro_batch_size=MICRO_BATCH,
        trainer__batch_size=MICRO_BATCH,
        trainer__max_steps=PAIRS // MICRO_BATCH,
        trainer__max_length=LONGEST["demo"],
        checkpoint__every=1000,
        evaluation=Evaluation(batch_size=16, generations=64, max_new_tokens=24),
    )


def seconds_of(work: Callable[[], object]) -> float:
    """CPU seconds that it takes; what it tells of its progress is not shown."""
    began = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        work()
    return time.process_time() - began


def evaluated(way: str, config: RunConfig, run: RunDir, store: Store) -> tuple[float, Found]:
    """What it costs to evaluate a run that has just been trained, and what is found."""
    trainer = load_trained(config, run, store)
    kept = trainer.way, generations.AT_ONCE, preference.own_log_probs
    if way != "evaluation":
        trainer.way, generations.AT_ONCE = replace(trainer.way, is_tried=False), 0
        preference.own_log_probs = preference.next_log_probs
    try:
        seconds = seconds_of(lambda: evaluate(config, run, store))
    finally:
        trainer.way, generations.AT_ONCE, preference.own_log_probs = kept
    found = read_fact(run.evaluation_file, Found)
    assert found is not None
    run.evaluation_file.unlink()
    return seconds, found


def check(one: Found, other: Found) -> None:
    """The same texts and rewards to the last bit; of the rest, what rounding leaves the same."""
    assert one.samples == other.samples
    assert one.golden_rewards == other.golden_rewards
    for name in ("loss", "reward_accuracy", "reward_margin", "kl", "kl_stderr"):
        ours, theirs = getattr(one, name), getattr(other, name)
        assert math.isclose(ours, theirs, rel_tol=1e-4, abs_tol=1e-6), (name, ours, theirs)


def main() -> None:
    """Measure and print."""
    options = parser(__doc__)
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--model", type=Path)
    asked = options.parse_args()
    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    seconds: dict[str, list[float]] = {name: [] for name in ("training", *WAYS)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        datasets.config.HF_DATASETS_CACHE = str(folder / "datasets")
        config, store = config_in(folder, asked.model or write_model(folder / "model")), Store(folder / "outputs")
        seconds_of(lambda: prepare(config, store))
        for number in range(asked.repeats):
            run = store.run(f"r{number}")
            taken = {"training": seconds_of(lambda: train(config, run, store, lambda: False))}  # noqa: B023
            found = {}
            for way in WAYS if number % 2 else WAYS[::-1]:
                taken[way], found[way] = evaluated(way, config, run, store)
            check(*found.values())
            for each, value in taken.items():
                seconds[each].append(value)
            record(asked.json, "evaluation", seconds=taken)
    made = table("CPU seconds of one run", "", "seconds", "of the training", numbers=("seconds", "of the training"))
    for each, values in seconds.items():
        made.add_row(each, in_words(values), in_words(ratios(values, seconds["training"])))
    Console(width=120).print(made)
    Console(width=120).print(f"batch by batch / evaluation: {in_words(ratios(*(seconds[way] for way in WAYS[::-1])))}")


if __name__ == "__main__":
    main()
