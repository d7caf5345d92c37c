"""Messages and tokens: how a prompt is rendered, where a message ends.

Owns: those two. Must not know: sampling, data sets.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from transformers import GenerationConfig, PreTrainedTokenizerBase

# A text, messages, or {"messages": ..., "tools": ..., "chat_template_kwargs": ...}.
Prompt = str | list[dict[str, Any]] | dict[str, Any]
_ANSWER = "prefsweep"  # no template writes it of its own accord


def rendered(prompt: Prompt, tokenizer: PreTrainedTokenizerBase) -> str:
    """The text that the model continues: a plain prompt as it is, messages through the model's own template."""
    if isinstance(prompt, str):
        return prompt
    given: dict[str, Any] = prompt if isinstance(prompt, dict) else {"messages": prompt}
    more = {"tools": given.get("tools"), **given.get("chat_template_kwargs", {})}
    return str(tokenizer.apply_chat_template(given["messages"], tokenize=False, add_generation_prompt=True, **more))


def end_tokens(own: GenerationConfig, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that end a message, in order: as the model was made (`listed_ends`), and as the template has it."""
    turn = _turn_end(tokenizer)
    return sorted(listed_ends(own, tokenizer) | (set() if turn is None else {turn}))


def listed_ends(own: GenerationConfig, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The tokenizer's end token, with which plain text is trained to end, and those of the model's `own` settings."""
    given = own.eos_token_id
    listed = given if isinstance(given, list) else [given]
    return {int(token) for token in (tokenizer.eos_token_id, *listed) if token is not None}


def _turn_end(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The special token that the template puts behind an answer, with which conversations are trained to end."""
    if tokenizer.chat_template is None:
        return None
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _ANSWER}]
    try:
        whole = str(tokenizer.apply_chat_template(messages, tokenize=False))
    except Exception:  # noqa: BLE001 - Jinja's own errors; `templates.check_template` tells of them where it matters
        return None
    behind = whole.rpartition(_ANSWER)[2].strip()
    tokens = tokenizer(behind, add_special_tokens=False)["input_ids"]
    known = {*tokenizer.added_tokens_decoder, *tokenizer.all_special_ids}
    return tokens[0] if tokens and tokens[0] in known else None


def ended_text(tokens: list[int], ends: Collection[int], tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """The text of a message's new tokens, and what ended it: stop or length."""
    length = next((place for place, token in enumerate(tokens) if token in ends), None)
    text = tokenizer.decode(tokens[:length], skip_special_tokens=True).strip()
    return text, "length" if length is None else "stop"
