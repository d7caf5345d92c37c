"""How a model continues texts: by what it is asked for here, and by nothing that its folder says beside it.

Owns: the call of `generate`, what keeps the model's own generation settings out of it, and what it depends on besides the model.
Must not know: how prompts are rendered, what the texts are for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedTokenizerBase

from launcher.config import Model
from launcher.store.files import Plain
from launcher.store.output_folder import Store
from launcher.worker.model.text import end_tokens, listed_ends
from launcher.worker.model.weights import generation_settings, tokenizer

# Of a model's own settings, those that every call here replaces.
REPLACED = frozenset(
    ("do_sample", "temperature", "top_k", "top_p", "max_new_tokens", "max_length", "eos_token_id", "pad_token_id")
)
WITHOUT_EFFECT = frozenset(("bos_token_id", "decoder_start_token_id", "transformers_version", "_from_model_config"))


@torch.no_grad()
def continued(
    module: Any,
    tokens: PreTrainedTokenizerBase,
    texts: Sequence[str],
    ends: Sequence[int],
    *,
    temperature: float,
    max_new_tokens: int,
    special_tokens: bool = False,
    processor: Callable[[int], LogitsProcessor] | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sample from the whole distribution, which a top_k or top_p would cut; greedily at temperature 0.

    Args:
        module: what writes.
        tokens: its tokenizer.
        texts: what is continued.
        ends: the tokens behind which a text is padding.
        temperature: of the sampling.
        max_new_tokens: how many each text gets at most.
        special_tokens: whether the tokenizer adds its own to the texts; a chat template has brought them.
        processor: made for the place at which the new tokens begin, and applied to the logits of each.

    Returns:
        The texts as token ids, padded on the left; their attention mask; the new token ids of each.
    """
    encoded = tokens(
        list(texts), return_tensors="pt", padding=True, padding_side="left", add_special_tokens=special_tokens
    ).to(next(module.parameters()).device)
    given, attention = encoded["input_ids"], encoded["attention_mask"]
    sampled = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    settings = GenerationConfig(
        **(sampled if temperature > 0 else {"do_sample": False}),
        max_new_tokens=max_new_tokens,
        eos_token_id=list(ends),
        pad_token_id=tokens.pad_token_id,
    )
    with _without_own_settings(module):
        made = module.generate(
            input_ids=given,
            attention_mask=attention,
            generation_config=settings,
            logits_processor=LogitsProcessorList([processor(given.shape[1])] if processor else []),
        )
    return given, attention, made[:, given.shape[1] :]


@contextmanager
def _without_own_settings(module: torch.nn.Module) -> Iterator[None]:
    """`generate` takes from the model's own settings all that it is not told: penalties, beams, tokens to suppress."""
    held = {part: part.generation_config for part in module.modules() if "generation_config" in vars(part)}
    for part in held:
        part.generation_config = GenerationConfig()
    try:
        yield
    finally:
        for part, own in held.items():
            part.generation_config = own


@contextmanager
def seeded(module: torch.nn.Module, seed: int) -> Iterator[None]:
    """Within, the random numbers are those of this seed; the process's own go on behind it as if nothing had been."""
    device = next(module.parameters()).device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def identity(model: Model, store: Store, *, listed: bool) -> Plain:
    """What a model's texts depend on besides its weights and its tokenizer; nothing where there is no choice to make.

    So the names of what was written before these were asked for stay as they were, for models for which it is the same:
    those whose only end is the tokenizer's, or one of their own list where that was asked for (`listed`), and those
    whose own settings say nothing of how to sample.
    """
    own, tokens = generation_settings(model, store), tokenizer(model, store)
    known = listed_ends(own, tokens) if listed else {tokens.eos_token_id}
    ends = end_tokens(own, tokens)
    said = {name for name, value in own.to_diff_dict().items() if value is not None}
    facts: Plain = {} if set(ends) == known else {"ends": ends}
    return facts | ({"own_settings": "left out"} if said - REPLACED - WITHOUT_EFFECT else {})
