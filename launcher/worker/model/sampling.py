"""How a model continues texts: by what it is asked for here, and by nothing that its folder says beside it.

Owns: the call of `generate`, what keeps a model's own generation settings out of it, what texts depend on besides
the model.
Must not know: how prompts are rendered, what the texts are for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)

from launcher.config import Model
from launcher.store.files import Plain
from launcher.store.output_folder import Store
from launcher.worker import progress
from launcher.worker.model.text import end_tokens, listed_ends
from launcher.worker.model.weights import generation_settings, tokenizer

# What of a model's own settings is asked for in every call here, and what has no part in which token comes next.
REPLACED = {"do_sample", "temperature", "top_k", "top_p", "max_new_tokens", "max_length", "eos_token_id"}
WITHOUT_PART = {"pad_token_id", "bos_token_id", "decoder_start_token_id", "use_cache", "cache_implementation",
                "output_attentions", "output_hidden_states", "output_scores", "output_logits",
                "return_dict_in_generate", "transformers_version", "_from_model_config"}  # fmt: skip


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
    with _without_own_settings(module):
        made = module.generate(
            input_ids=given,
            attention_mask=attention,
            generation_config=_asked(ends, tokens.pad_token_id, temperature, max_new_tokens),
            logits_processor=LogitsProcessorList([processor(given.shape[1])] if processor else []),
        )
    progress.bump()
    return given, attention, made[:, given.shape[1] :]


def _asked(ends: Sequence[int], pad: int, temperature: float, max_new_tokens: int) -> GenerationConfig:
    sampled = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    how = sampled if temperature > 0 else {"do_sample": False}
    return GenerationConfig(**how, max_new_tokens=max_new_tokens, eos_token_id=list(ends), pad_token_id=pad)


@contextmanager
def _without_own_settings(module: torch.nn.Module) -> Iterator[None]:
    """`generate` takes from the model's own settings all that it is not told: penalties, beams, tokens to suppress.

    Nor does it need a loss of the experts' balance, whose mask would be that of the whole text at each new token.
    """
    held = {part: part.generation_config for part in module.modules() if "generation_config" in vars(part)}
    routed: Any = [config for config in _configs(module) if getattr(config, "output_router_logits", False)]
    for part in held:
        part.generation_config = GenerationConfig()
    for config in routed:
        config.output_router_logits = False
    try:
        yield
    finally:
        for part, own in held.items():
            part.generation_config = own
        for config in routed:
            config.output_router_logits = True


def _configs(module: torch.nn.Module) -> list[Any]:
    parts: Any = module.modules()
    found = [part.config for part in parts if isinstance(getattr(part, "config", None), PreTrainedConfig)]
    return list({id(config): config for config in found}.values())


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
    facts: Plain = {} if set(ends) == known else {"ends": ends}
    return facts | ({"own_settings": "left out"} if _says_how_to_sample(own) else {})


def _says_how_to_sample(own: GenerationConfig) -> bool:
    usual = own._get_default_generation_params()  # noqa: SLF001 - what an absent value means is written nowhere else
    said = {name for name, value in own.to_diff_dict().items() if value is not None and value != usual.get(name)}
    return bool(said - REPLACED - WITHOUT_PART)
