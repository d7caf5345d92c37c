"""What a model writes, and how far that is from what the reference would write.

Owns: sampling, the estimate of the KL divergence between policy and reference.
Must not know: how a prompt is rendered (`model.text`), losses, pairs, runs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import LogitsProcessor, PreTrainedTokenizerBase

from launcher.config import Evaluation
from launcher.worker.model.sampling import continued
from launcher.worker.model.text import Prompt, end_tokens, rendered
from launcher.worker.scoring.rounding import precision_of_products

AT_ONCE = 2048  # tokens at most, padding included, of batches that are written together


@dataclass(frozen=True)
class Batch:
    """Prompts padded on the left, and what the policy wrote after them up to the first token that ends a message."""

    prompts: list[Prompt]
    ids: torch.Tensor
    attention: torch.Tensor
    written: torch.Tensor  # which of the new tokens count: up to the end token, that included
    texts: list[str]
    logits: torch.Tensor | None = None  # from which the new tokens were drawn: text x place x vocabulary


def sample(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[Prompt],
    settings: Evaluation,
    *,
    keep_logits: bool = False,
) -> Iterator[Batch]:
    """`settings.generations` texts, dealt to the prompts in turn; the same random numbers for every model.

    Each batch has a seed of its own, so that a model that ends its texts early meets the same numbers later on. Where
    products are exact enough that the rows beside a text do not change it, short batches are written together, which
    takes fewer forwards: in bfloat16 they would, now and then, have another token drawn.

    Args:
        model: what writes.
        tokenizer: its tokenizer.
        prompts: what is continued.
        settings: how many texts, how long, in which batches.
        keep_logits: whether batches have the logits from which they were drawn, where these are as exact.
    """
    asked = [prompts[number % len(prompts)] for number in range(settings.generations)]
    exact, size = precision_of_products(model.dtype) == torch.float32, settings.batch_size
    at_once = size * _batches_at_once(tokenizer, prompts, settings) if exact else size
    for start in range(0, len(asked), at_once):
        seeds = range(settings.seed + start, settings.seed + min(start + at_once, len(asked)), size)
        drawn = _Drawn(seeds, size, settings.temperature, keep=keep_logits and exact)
        yield from _write(model, tokenizer, asked[start : start + at_once], settings, drawn)


def _batches_at_once(tokenizer: PreTrainedTokenizerBase, prompts: list[Prompt], settings: Evaluation) -> int:
    longest = max(len(ids) for ids in tokenizer([rendered(prompt, tokenizer) for prompt in prompts])["input_ids"])
    return max(1, AT_ONCE // (settings.batch_size * (longest + settings.max_new_tokens)))


class _Drawn(LogitsProcessor):
    """Draws the next tokens of each batch by the random numbers of its own seed, whatever is written beside it."""

    def __init__(self, seeds: Sequence[int], size: int, temperature: float, *, keep: bool) -> None:
        """A seed for each `size` texts; `keep`: the logits, in `logits`, place by place."""
        self.seeds, self.size, self.temperature, self.keep = seeds, size, temperature, keep
        self.generators: list[torch.Generator] = []
        self.logits: list[torch.Tensor] = []

    def __call__(self, _ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """0 for the token that is drawn, -inf for the others."""
        if not self.generators:
            self.generators = [torch.Generator(scores.device).manual_seed(seed) for seed in self.seeds]
        if self.keep:
            self.logits.append(scores)
        batches = torch.softmax(scores / self.temperature, dim=-1).split(self.size)
        drawn = [torch.multinomial(each, 1, generator=own) for each, own in zip(batches, self.generators, strict=True)]
        return torch.full_like(scores, float("-inf")).scatter(1, torch.cat(drawn), 0.0)


def _write(
    model: Any, tokenizer: PreTrainedTokenizerBase, prompts: list[Prompt], settings: Evaluation, drawn: _Drawn
) -> Iterator[Batch]:
    """Batches that are written together, each without the padding that it has for the others' sake."""
    texts = [rendered(prompt, tokenizer) for prompt in prompts]
    whole = not all(isinstance(prompt, str) for prompt in prompts)  # a chat template brings its own special tokens
    asked: dict[str, Any] = {"temperature": 0.0, "max_new_tokens": settings.max_new_tokens, "special_tokens": not whole}
    ends = end_tokens(model.generation_config, tokenizer)
    given, attention, new = continued(model, tokenizer, texts, ends, **asked, processor=lambda _: drawn)
    written = until_end(new, ends)
    for start in range(0, len(prompts), drawn.size):
        rows = slice(start, start + drawn.size)
        begin, count = int((attention[rows].sum(dim=0) == 0).sum()), int(written[rows].any(dim=0).sum())
        of_prompt, own, counted = attention[rows, begin:], new[rows, :count], written[rows, :count]
        yield Batch(
            prompts[rows],
            torch.cat([given[rows, begin:], own], dim=1),
            torch.cat([of_prompt, counted.long()], dim=1),
            counted,
            _texts(own, counted, tokenizer),
            torch.stack([each[rows] for each in drawn.logits[:count]], dim=1) if drawn.keep else None,
        )


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

    `ours` and `theirs` are their `next_log_probs`: one forward each over the same texts, or in float32 what the policy
    had computed as it wrote. Those come from other products in another order, which in bfloat16 would put a model at
    0.1 nats from itself.

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


def own_log_probs(model: torch.nn.Module, batch: Batch, temperature: float) -> torch.Tensor:
    """The `next_log_probs` of the model that has written the batch."""
    if batch.logits is None:
        return next_log_probs(model, batch, temperature)
    return torch.log_softmax(batch.logits / temperature, dim=-1)


@torch.no_grad()
def next_log_probs(model: torch.nn.Module, batch: Batch, temperature: float) -> torch.Tensor:
    """Log-probs of every possible next token at each place where the policy wrote one: text x place x vocabulary."""
    device = next(model.parameters()).device
    attention = batch.attention[:, :-1].to(device)  # from the last token nothing is predicted
    places = (attention.cumsum(dim=1) - 1).clamp(min=0)
    arguments: dict[str, Any] = {"attention_mask": attention, "position_ids": places, "use_cache": False}
    # By their places: a slice of the hidden states torch multiplies text by text, reading the head's weights each time.
    kept = torch.arange(attention.shape[1] - batch.written.shape[1], attention.shape[1], device=device)
    logits = model(input_ids=batch.ids[:, :-1].to(device), **arguments, logits_to_keep=kept).logits
    return torch.log_softmax(logits.float() / temperature, dim=-1)
