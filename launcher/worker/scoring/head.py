"""TRL's fused head, with less to do: only what is scored, and only what is logged.

Owns: which positions and which outputs it computes.
Must not know: attention, losses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from peft import PeftModel
from trl.trainer import utils
from trl.trainer.utils import add_fused_lm_head

LOGGED = ("log_probs", "entropy")
# The other outputs that TRL's trainers make metrics of, and those metrics.
UNLOGGED = {"mean_logits": torch.float32, "is_top1": torch.bool}
METRICS = ("logits/chosen", "logits/rejected", "mean_token_accuracy")

_leaves_out_prompts = utils._use_triton  # noqa: SLF001 - see below


def _scores_completions_only(device: torch.device) -> bool:
    return device.type == "cpu" or bool(_leaves_out_prompts(device))


# Where there is no Triton the head scores every position, and masks the prompts' afterwards: so that a compiler for
# accelerators like Neuron's meets the same shapes at each step. On a CPU that is half of a small model's step.
utils._use_triton = _scores_completions_only  # noqa: SLF001 - TRL has no other way


def of_training(model: Any, *, weighted: bool = False) -> None:
    """Put a head on a trainer's model that computes what is logged, in place of TRL's.

    `weighted`: and what the policy would give itself, which weighs pairs (WPO).
    """
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    del base.forward
    add_fused_lm_head(base, outputs=(*LOGGED, *(("log_sum_sq_probs",) if weighted else ())))


def forget_unlogged(trainer: Any) -> None:
    """Take the metrics of what the head leaves out from those that a TRL trainer is about to log."""
    for metrics in trainer._metrics.values():  # noqa: SLF001 - as above
        for name in METRICS:
            metrics.pop(name, None)


class Filled:
    """A model whose outputs have zeros where TRL makes metrics of what the head did not compute."""

    def __init__(self, model: Callable[..., Any]) -> None:
        self.model = model

    def __call__(self, **inputs: Any) -> Any:
        """The model's answer."""
        outputs = self.model(**inputs)
        lacking = [name for name in UNLOGGED if getattr(outputs, name, torch.empty(0)) is None]
        if not lacking:
            return outputs
        zeros = {name: torch.zeros_like(outputs.log_probs, dtype=UNLOGGED[name]).detach() for name in lacking}
        return replace(outputs, **zeros)
