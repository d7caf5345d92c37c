"""What a model writes, and how far that is from what the reference would write.

Owns: sampling, the estimate of the KL divergence between policy and reference.
Must not know: how a prompt is rendered (`model.text`), losses, pairs, runs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from launcher.config import Evaluation
from launcher.worker.model.sampling import continued, seeded
from launcher.worker.model.text import Prompt, end_tokens, rendered


@dataclass(frozen=True)
class Batch:
    """Prompts padded on the left, and what the policy wrote after them up to the first token that ends a message."""

    prompts: list[Prompt]
    ids: torch.Tensor
    attention: torch.Tensor
    written: torch.Tensor  # which of the new tokens count: up to the end token, that included
    texts: list[str]


def sample(
    model: Any, tokenizer: PreTrainedTokenizerBase, prompts: list[Prompt], settings: Evaluation
) -> Iterator[Batch]:
    """`settings.generations` texts, dealt to the prompts in turn; the same random numbers for every model.

    Each batch starts from its own seed, so that a model that ends its texts early meets the same numbers later on.
    """
    asked = [prompts[number % len(prompts)] for number in range(settings.generations)]
    for start in range(0, len(asked), settings.batch_size):
        batch = asked[start : start + settings.batch_size]
        yield _sample_batch(model, tokenizer, batch, settings, settings.seed + start)


def _sample_batch(
    model: Any, tokenizer: PreTrainedTokenizerBase, prompts: list[Prompt], settings: Evaluation, seed: int
) -> Batch:
    texts = [rendered(prompt, tokenizer) for prompt in prompts]
    whole = not all(isinstance(prompt, str) for prompt in prompts)  # a chat template brings its own special tokens
    limits: dict[str, Any] = {"temperature": settings.temperature, "max_new_tokens": settings.max_new_tokens}
    ends = end_tokens(model.generation_config, tokenizer)
    with seeded(model, seed):
        given, attention, new = continued(model, tokenizer, texts, ends, **limits, special_tokens=not whole)
    written = until_end(new, ends)
    attention = torch.cat([attention, written.long()], dim=1)
    return Batch(prompts, torch.cat([given, new], dim=1), attention, written, _texts(new, written, tokenizer))


def until_end(new: torch.Tensor, ends: Collection[int]) -> torch.Tensor:
    """True up to each row's first end token, that included."""
    is_end = torch.isin(new, torch.tensor(list(ends), device=new.device)).long()
    return is_end.cumsum(dim=1) - is_end == 0


def _texts(new: torch.Tensor, written: torch.Tensor, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    return [
        tokenizer.decode(row[count], skip_special_tokens=True).strip() for row, count in zip(new, written, strict=True)
    ]


def kl_to_reference(ours: torch.Tensor, theirs: torch.Tensor, batch: Batch) -> list[float]:
    """KL(policy || reference) of each generation in nats, an unbiased estimate on the policy's own samples.

    `ours` and `theirs` are their `next_log_probs`: one forward each over the same texts. Log-probs kept while writing
    come from other products in another order, which in bfloat16 puts a model at 0.1 nats from itself.

    The plain estimate sums log pi - log pi_ref over the tokens that were sampled. Here each term is replaced by its
    mean over what could have been sampled there, the KL of the two next-token distributions behind the same words:

        sum over t of  sum over v of  pi(v | y_<t) (log pi(v | y_<t) - log pi_ref(v | y_<t))

    Its mean is the same, its variance is never larger, and it cannot be negative (Rao-Blackwell; Amini, Vieira and
    Cotterell, "Better Estimation of the KL Divergence Between Language Models", 2025). Both distributions are taken
    at the sampling temperature.
    """
    per_token = (ours.exp() * (ours - theirs)).sum(dim=-1)
    per_text: list[float] = (per_token * batch.written).sum(dim=1).tolist()
    return per_text


@torch.no_grad()
def next_log_probs(model: torch.nn.Module, batch: Batch, temperature: float) -> torch.Tensor:
    """Log-probs of every possible next token at each place where the policy wrote one: text x place x vocabulary."""
    device = next(model.parameters()).device
    attention = batch.attention.to(device)
    places = (attention.cumsum(dim=1) - 1).clamp(min=0)
    new = batch.written.shape[1]
    arguments: dict[str, Any] = {"attention_mask": attention, "position_ids": places, "use_cache": False}
    logits = model(input_ids=batch.ids.to(device), **arguments, logits_to_keep=new + 1).logits[:, :-1]
    return torch.log_softmax(logits.float() / temperature, dim=-1)
