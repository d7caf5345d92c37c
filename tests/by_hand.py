"""What scores should be, from plain logits of a model: the tests' own computation."""

from __future__ import annotations

import statistics
from typing import Any

import torch

from launcher.config import RunConfig
from launcher.store.output_folder import Store
from launcher.worker.dataset.prompts import prompts
from launcher.worker.evaluation.generations import sample
from launcher.worker.model import weights


def kl_by_hand(config: RunConfig, model: Any, base: Any, store: Store) -> float:
    """The mean KL of what `model` writes, from plain logits of one text after another, without padding."""
    tokens, found = weights.tokenizer(config.model, store), []
    for batch in sample(model, tokens, prompts(config, store), config.evaluation):
        for ids, attention, written in zip(batch.ids, batch.attention, batch.written, strict=True):
            count = int(written.sum())
            text = ids[attention.bool()][None]
            with torch.no_grad():
                ours, theirs = (each(input_ids=text).logits[0, -count - 1 : -1].double() for each in (model, base))
            ours, theirs = (each.div(config.evaluation.temperature).log_softmax(-1) for each in (ours, theirs))
            found.append(float((ours.exp() * (ours - theirs)).sum()))
    return statistics.fmean(found)
