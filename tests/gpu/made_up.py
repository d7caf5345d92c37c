"""Pairs of random tokens, as TRL's collator makes batches of them. Owns nothing else."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from trl.trainer.dpo_trainer import DataCollatorForPreference

from launcher.worker.dataset.pairs import IDS
from launcher.worker.scoring.rows import UNSCORED

Rows = list[dict[str, Any]]


def made_up(lengths: Iterable[Sequence[int]], vocabulary: int) -> Rows:
    """Pairs of these many tokens each: of the prompt, the chosen and the rejected completion."""
    draw = random.Random(3)  # noqa: S311 - made-up tokens
    return [
        {
            name: [draw.randrange(2, vocabulary) for _ in range(count)]
            for name, count in zip(IDS, each, strict=True)
        }
        for each in lengths
    ]  # fmt: skip


def collated(rows: Rows) -> dict[str, torch.Tensor]:
    """What a model's forward is given, with labels."""
    batch = DataCollatorForPreference(pad_token_id=0)(rows)
    labels = batch["input_ids"].masked_fill(batch.pop("completion_mask") == 0, UNSCORED)
    return {**batch, "labels": labels}
