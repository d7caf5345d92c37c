"""What a model writes, and how far that is from what the reference would write.

Owns: sampling, the KL estimate.
Must not know: how a prompt is rendered (`model.text`), losses, pairs, runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase

from launcher.config import Evaluation
from launcher.worker.model.text import Prompt, rendered


@dataclass(frozen=True)
class Batch:
    """Prompts padded on the left, and what the policy wrote after them up to its end token."""

    prompts: list[Prompt]
    ids: torch.Tensor
    attention: torch.Tensor
    written: torch.Tensor  # which of the new tokens count: up to the end token, that included
    log_probs: torch.Tensor  # of every possible next token at each new place: text x place x vocabulary
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


@torch.no_grad()
def _sample_batch(
    model: Any, tokenizer: PreTrainedTokenizerBase, prompts: list[Prompt], settings: Evaluation, seed: int
) -> Batch:
    device = next(model.parameters()).device
    texts = [rendered(prompt, tokenizer) for prompt in prompts]
    whole = not all(isinstance(prompt, str) for prompt in prompts)  # a chat template brings its own special tokens
    encoded = tokenizer(texts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=not whole).to(
        device
    )
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        made = model.generate(
            input_ids=encoded["input_ids"],
            attention_mask=encoded["attention_mask"],
            generation_config=_generation_config(tokenizer, settings),
        )
    new = made.sequences[:, encoded["input_ids"].shape[1] :]
    written = until_end(new, tokenizer.eos_token_id)
    attention = torch.cat([encoded["attention_mask"], written.long()], dim=1)
    log_probs = torch.log_softmax(torch.stack(made.logits, dim=1).float() / settings.temperature, dim=-1)
    return Batch(prompts, made.sequences, attention, written, log_probs, _texts(new, written, tokenizer))


def _generation_config(tokenizer: PreTrainedTokenizerBase, settings: Evaluation) -> GenerationConfig:
    """Plain sampling from the model's whole distribution: a cut one (top_k, top_p) would have another KL."""
    return GenerationConfig(
        do_sample=True,
        temperature=settings.temperature,
        top_k=0,
        top_p=1.0,
        max_new_tokens=settings.max_new_tokens,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        return_dict_in_generate=True,
        output_logits=True,
    )


def until_end(new: torch.Tensor, end: int) -> torch.Tensor:
    """True up to each row's first end token, that included."""
    ended_before = (new == end).long().cumsum(dim=1) - (new == end).long()
    return ended_before == 0


def _texts(new: torch.Tensor, written: torch.Tensor, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    return [
        tokenizer.decode(row[count], skip_special_tokens=True).strip() for row, count in zip(new, written, strict=True)
    ]


def kl_to_reference(reference: torch.nn.Module, batch: Batch, temperature: float) -> list[float]:
    """KL(policy || reference) of each generation in nats, an unbiased estimate on the policy's own samples.

    The plain estimate sums log pi - log pi_ref over the tokens that were sampled. Here each term is replaced by its
    mean over what could have been sampled there, the KL of the two next-token distributions behind the same words:

        sum over t of  sum over v of  pi(v | y_<t) (log pi(v | y_<t) - log pi_ref(v | y_<t))

    Its mean is the same, its variance is never larger, and it cannot be negative (Rao-Blackwell; Amini, Vieira and
    Cotterell, "Better Estimation of the KL Divergence Between Language Models", 2025). Both distributions are taken
    at the sampling temperature.
    """
    theirs = next_log_probs(reference, batch, temperature)
    per_token = (batch.log_probs.exp() * (batch.log_probs - theirs)).sum(dim=-1)
    per_text: list[float] = (per_token * batch.written).sum(dim=1).tolist()
    return per_text


@torch.no_grad()
def next_log_probs(model: torch.nn.Module, batch: Batch, temperature: float) -> torch.Tensor:
    """What `model` thinks of every possible next token at each place where the policy wrote one."""
    device = next(model.parameters()).device
    attention = batch.attention.to(device)
    places = (attention.cumsum(dim=1) - 1).clamp(min=0)
    new = batch.written.shape[1]
    arguments: dict[str, Any] = {"attention_mask": attention, "position_ids": places, "use_cache": False}
    logits = model(input_ids=batch.ids.to(device), **arguments, logits_to_keep=new + 1).logits[:, :-1]
    return torch.log_softmax(logits.float() / temperature, dim=-1)
