"""Completions of a batch of prompts, each by random numbers of its own.

Owns: sampling that does not depend on a text's neighbours, what ends a text, which prompts leave no room for one.
Must not know: where prompts come from, what completions are for.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import LogitsProcessor, PreTrainedTokenizerBase

from launcher.config import WeakRejects
from launcher.store.files import Plain, content_key
from launcher.worker.model.sampling import continued
from launcher.worker.model.text import end_tokens, ended_text, rendered

NO_ROOM = "no room"

Messages = list[dict[str, str]]


class OwnNumbers(LogitsProcessor):
    """Leaves each text of a batch one possible next token: the one that its own random number chooses.

    Inverse transform sampling from softmax(logits / temperature): the first token up to which the probabilities add up
    to more than u. So a text depends on its own numbers alone, and not on how many others are written beside it.
    """

    def __init__(self, uniforms: torch.Tensor, begin: int, temperature: float) -> None:
        """`uniforms` are numbers from [0, 1), text x place; the texts begin at place `begin` of the sequence."""
        self.uniforms, self.begin, self.temperature = uniforms, begin, temperature

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """0 for the token that is chosen, -inf for the others."""
        u = self.uniforms[:, input_ids.shape[1] - self.begin].to(scores.device).unsqueeze(1)
        sums = torch.softmax(scores.double() / self.temperature, dim=-1).cumsum(dim=-1)
        chosen = torch.searchsorted(sums, u * sums[:, -1:], right=True).clamp(max=scores.shape[1] - 1)
        return torch.full_like(scores, float("-inf")).scatter(1, chosen, 0.0)


def complete(
    module: Any, tokenizer: PreTrainedTokenizerBase, prompts: list[Messages], settings: WeakRejects
) -> list[Plain]:
    """Each prompt's completion, and what ended it: stop, length, or "no room" behind the prompt."""
    texts = [rendered(prompt, tokenizer) for prompt in prompts]
    context = getattr(module.config, "max_position_embeddings", None) or 2**31
    lengths = [len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]
    fitting = [number for number, length in enumerate(lengths) if length + settings.max_new_tokens <= context]
    facts: list[Plain] = [{"completion": "", "finish": NO_ROOM} for _ in prompts]
    if fitting:
        numbers = torch.stack([_uniforms(prompts[number], settings) for number in fitting])
        own = (lambda begin: OwnNumbers(numbers, begin, settings.temperature)) if settings.temperature > 0 else None
        ends, going_on = end_tokens(module.generation_config, tokenizer), [texts[number] for number in fitting]
        asked: dict[str, Any] = {"temperature": 0.0, "max_new_tokens": settings.max_new_tokens, "processor": own}
        _, _, made = continued(module, tokenizer, going_on, ends, **asked)
        for number, tokens in zip(fitting, made.tolist(), strict=True):
            completion, finish = ended_text(tokens, ends, tokenizer)
            facts[number] = {"completion": completion, "finish": finish}
    return facts


def _uniforms(prompt: Messages, settings: WeakRejects) -> torch.Tensor:
    """The random numbers of a prompt: the same on every device, in every batch."""
    seed = int(content_key([settings.seed, prompt], 15), 16)
    return torch.rand(settings.max_new_tokens, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
