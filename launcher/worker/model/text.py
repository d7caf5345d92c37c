"""Messages and tokens: how a prompt is rendered, where a message ends.

Owns: those two. Must not know: sampling, data sets.
"""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedTokenizerBase

# A text, messages, or {"messages": ..., "tools": ..., "chat_template_kwargs": ...}.
Prompt = str | list[dict[str, Any]] | dict[str, Any]


def rendered(prompt: Prompt, tokenizer: PreTrainedTokenizerBase) -> str:
    """The text that the model continues: a plain prompt as it is, messages through the model's own template."""
    if isinstance(prompt, str):
        return prompt
    given: dict[str, Any] = prompt if isinstance(prompt, dict) else {"messages": prompt}
    more = {"tools": given.get("tools"), **given.get("chat_template_kwargs", {})}
    return str(tokenizer.apply_chat_template(given["messages"], tokenize=False, add_generation_prompt=True, **more))


def end_tokens(module: Any, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The tokens that end a message: the tokenizer's, and what the model's own settings say beside it."""
    own = getattr(module.generation_config, "eos_token_id", None)
    listed = own if isinstance(own, list) else [own]
    return {int(token) for token in (tokenizer.eos_token_id, *listed) if token is not None}


def ended_text(tokens: list[int], module: Any, tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """The text of a message's new tokens, and what ended it: stop or length."""
    ends = end_tokens(module, tokenizer)
    length = next((place for place, token in enumerate(tokens) if token in ends), None)
    text = tokenizer.decode(tokens[:length], skip_special_tokens=True).strip()
    return text, "length" if length is None else "stop"
