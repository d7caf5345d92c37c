"""The step of a 1B Llama with random weights beside TRL's own, in one process, in turn.

Owns: the cells, what is measured, how. Must not know: how a step is computed.

A step here is what a trainer does with a micro-batch, `training_step`: forward, loss with its metrics, backward;
without the optimizer's part, which packing does not change. Weights are in bfloat16, and stay as they are. TRL's
DPOTrainer is told what ours is told, reference values beside the pairs too: so neither computes a reference model.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import torch
from datasets import Dataset
from drawn_pairs import drawn_pairs
from machine import GIB, Machine
from made_up import Rows, made_up
from peft import LoraConfig
from results import Results
from transformers import LlamaConfig, LlamaForCausalLM
from trl import DPOConfig, DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from launcher.model.operations import peak_tflops, per_token, share_of_peak
from launcher.worker.dataset.lengths import Lengths
from launcher.worker.model.size import multiplied
from launcher.worker.model.tiny import byte_tokenizer
from launcher.worker.training.losses import REFERENCE_COLUMNS, Objective
from launcher.worker.training.trainer import RECOMPUTES, RunTrainer

REAL = {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
        "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128256}  # fmt: skip
TINY = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 512}  # fmt: skip
BATCHES, ROUNDS = 6, 3
LORA = {"r": 16, "lora_alpha": 32, "lora_dropout": 0.0, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
OURS, THEIRS = "prefsweep", "TRL"
BETA = 0.1
NATS = 0.05  # between two losses of the same pairs, near log 2: rounding of bfloat16


@dataclass(frozen=True)
class Cell:
    """What is trained on what. `recomputes`: activations, in the backward."""

    data: str
    size: int
    lora: bool
    recomputes: bool

    @property
    def name(self) -> str:
        """In words."""
        how = ("LoRA" if self.lora else "full") + (", checkpointing" if self.recomputes else "")
        return f"{how}, {self.data}, micro-batch {self.size}"


# In the order of their worth.
CELLS = [
    Cell(data, size, lora=lora, recomputes=not lora)
    for size in (4, 8)
    for lora in (False, True)
    for data in ("ultrafeedback", "orca")
]


class Plain(DPOTrainer):
    """TRL's, for tokenised pairs that carry their reference values."""

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        return dataset

    def _precompute_ref_logps(self, dataset: Dataset, *_: Any) -> Dataset:
        return dataset


def run(machine: Machine, results: Results) -> None:
    """Measure each cell."""
    for cell in CELLS:
        results.attempt(cell.name, 20, partial(_measure, machine, results, cell))
        machine.empty()


def _measure(machine: Machine, results: Results, cell: Cell) -> None:
    count = 1 if machine.tiny else BATCHES
    drawn = drawn_pairs(cell.data, cell.size * count)
    counts = (drawn.prompt, drawn.chosen, drawn.rejected)
    lengths = Lengths(*(each // 8 + 1 for each in counts)) if machine.tiny else drawn
    rows = _rows(lengths, (TINY if machine.tiny else REAL)["vocab_size"])
    model = _model(machine)
    product = partial(RunTrainer, objective=Objective("sigmoid", BETA))
    trainers = {THEIRS: _trainer(Plain, copy.deepcopy(model), cell, machine, rows),
                OURS: _trainer(product, model, cell, machine, rows)}  # fmt: skip
    collate = DataCollatorForPreference(pad_token_id=0)
    batches = [collate(rows[start : start + cell.size]) for start in range(0, len(rows), cell.size)]
    losses, seconds, peaks = {}, {name: [] for name in trainers}, dict.fromkeys(trainers, 0)
    try:
        for name, trainer in trainers.items():  # what is compiled, chosen and compared once
            losses[name] = [_step(trainer, batch) for batch in batches]
        for _ in range(1 if machine.tiny else ROUNDS):
            for name, trainer in trainers.items():
                took, peak = _timed(machine, trainer, batches)
                seconds[name].append(took)
                peaks[name] = max(peaks[name], peak)
    except torch.OutOfMemoryError as error:
        results.skip(cell.name, f"out of memory: {error}"[:200])
        return
    ours, theirs = losses[OURS], losses[THEIRS]
    apart = max(abs(one - other) for one, other in zip(ours, theirs, strict=True))
    packed = trainers[OURS].way.packed
    results.check(f"{cell.name}: packed, and the losses are TRL's", right=packed and apart <= NATS, apart=apart)
    others = {OURS: THEIRS, THEIRS: OURS}
    held = {name: sum(each.nbytes for each in trainer.model.parameters()) for name, trainer in trainers.items()}
    told = {
        name: _rates(machine, trainers[name], lengths, median(times))
        | {"peak_gib": (peaks[name] - held[others[name]]) / GIB if machine.is_gpu else None}
        for name, times in seconds.items()
    }
    ratios = sorted(one / other for one, other in zip(seconds[THEIRS], seconds[OURS], strict=True))
    padded = float(sum(batch["input_ids"].numel() for batch in batches))
    results.say(cell.name, times_as_fast=median(ratios), least=ratios[0], most=ratios[-1],
                tokens_padded_to_packed=padded / float(lengths.packed.sum()), **told)  # fmt: skip


def _rows(lengths: Lengths, vocabulary: int) -> Rows:
    """With reference values near those of a model that knows nothing."""
    each = zip(lengths.prompt.tolist(), lengths.chosen.tolist(), lengths.rejected.tolist(), strict=True)
    rows, nats = made_up(each, vocabulary), -math.log(vocabulary)
    for row in rows:
        sums = (nats * len(row[answer]) for answer in ("chosen_ids", "rejected_ids"))
        row |= dict(zip(REFERENCE_COLUMNS, sums, strict=True))
    return rows


def _model(machine: Machine) -> Any:
    torch.manual_seed(0)
    size = TINY if machine.tiny else REAL
    config = LlamaConfig(**size, max_position_embeddings=2048, tie_word_embeddings=True, pad_token_id=0)
    with machine.device:
        return LlamaForCausalLM(config).to(torch.bfloat16 if machine.is_gpu else torch.float32)


def _trainer(kind: Any, model: Any, cell: Cell, machine: Machine, rows: Rows) -> Any:
    told = DPOConfig(
        output_dir=str(machine.folder / "speed"),
        beta=BETA,
        per_device_train_batch_size=cell.size,
        precompute_ref_log_probs=not cell.lora,
        max_steps=1,
        bf16=False,
        use_cpu=not machine.is_gpu,
        dataloader_pin_memory=False,
        disable_tqdm=True,
        report_to="none",
        **{RECOMPUTES: cell.recomputes, f"{RECOMPUTES}_kwargs": {"use_reentrant": False}},
    )
    trainer = kind(
        model=model,
        args=told,
        train_dataset=Dataset.from_list(rows),
        processing_class=byte_tokenizer(),
        data_collator=DataCollatorForPreference(pad_token_id=0),
        peft_config=LoraConfig(**LORA) if cell.lora else None,
    )
    trainer.precompute_ref_logps = True
    trainer.current_gradient_accumulation_steps = 1
    trainer.state.global_step = 1  # in the first one ours looks whether it starts at the reference model
    if cell.recomputes:
        getattr(trainer.model, f"{RECOMPUTES}_enable")({"use_reentrant": False})
    return trainer


def _step(trainer: Any, batch: dict[str, Any]) -> float:
    loss = float(trainer.training_step(trainer.model, batch))
    trainer.model.zero_grad(set_to_none=True)
    return loss


def _timed(machine: Machine, trainer: Any, batches: Iterable[dict[str, Any]]) -> tuple[float, int]:
    """Seconds for all batches, and the most memory that there was in use."""
    if machine.is_gpu:
        torch.cuda.reset_peak_memory_stats()
    machine.wait()
    began = time.perf_counter()
    for batch in batches:
        trainer.training_step(trainer.model, batch)
        trainer.model.zero_grad(set_to_none=True)
    machine.wait()
    return time.perf_counter() - began, torch.cuda.max_memory_allocated() if machine.is_gpu else 0


def _rates(machine: Machine, trainer: Any, lengths: Lengths, seconds: float) -> dict[str, Any]:
    """Of all batches in so many seconds: a micro-batch, useful tokens, the share of the peak."""
    tokens, found = int(lengths.once.sum()), multiplied(trainer.model)
    batches = len(lengths.prompt) // trainer.args.per_device_train_batch_size
    operations = per_token(found.weights, found.trained) * tokens
    peak = peak_tflops(machine.name)
    return {
        "seconds": seconds / batches,
        "tokens_per_second": tokens / seconds,
        "share_of_peak": share_of_peak(operations, seconds, 1, peak),
    }
