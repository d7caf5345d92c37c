"""What of a row belongs to its prompt: what is put to it by name, and what would be lost beside it.

Owns: how `input` and `history` are joined to a prompt; the names by which a column says that it is a part of one.
Must not know: answers, files, known data sets.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from launcher.dataset.columns import Row
from launcher.dataset.messages import Message, Misshapen, Said, kind, said

# Names of columns that others put into the prompt, in lower case; those of a system message with the column of ours.
SYSTEMS = ("system_prompt", "system_message", "system_instruction")
PARTS = (
    "prompt", "input", "inputs", "instruction", "instructions", "question", "query", "user", "context", "contexts",
    "passage", "article", "document", "background", "premise", "history", "chat_history", "dialogue_history",
    "previous_turns", "system", *SYSTEMS,
)  # fmt: skip
TURN = 2  # a question and its answer


def joined(prompt: Said, following: Any, history: Any) -> Said:
    """A prompt in text, behind it what follows in a line of its own, before it the turns of a history as messages.

    Raises:
        Misshapen: the prompt is messages, or what is to be joined has another form.
    """
    turns = _turns(history)
    if not following and not turns:
        return prompt
    if isinstance(prompt, list):
        raise Misshapen("columns input and history go with a prompt in text, and this one is messages")
    if following is not None and not isinstance(following, str):
        raise Misshapen(f"column input: {kind(following)}; give a text")
    text = "\n".join(each for each in (prompt, following) if each)
    return [*turns, {"role": "user", "content": text}] if turns and text else text


def _turns(history: Any) -> list[Message]:
    """Earlier turns: a list of [question, answer], or messages, or one of these as JSON text."""
    try:
        history = json.loads(history) if isinstance(history, str) and history else history
    except ValueError:
        raise Misshapen(f"column history: {kind(history)}; {_RIGHT}") from None
    if not history:
        return []
    if isinstance(history, list) and all(isinstance(each, list) for each in history):
        return [message for turn in history for message in _turn(turn)]
    turns = said(history, "user")
    if not isinstance(turns, list):
        raise Misshapen(f"column history: {kind(history)}; {_RIGHT}")
    return turns


_RIGHT = "give a list of turns, each [question, answer], or messages"


def _turn(turn: list[Any]) -> list[Message]:
    if len(turn) != TURN or not all(isinstance(each, str) for each in turn):
        raise Misshapen(f"column history: a turn that is not two texts; {_RIGHT}")
    return [{"role": role, "content": text} for role, text in zip(("user", "assistant"), turn, strict=True)]


def not_used(row: Row, names: Sequence[str], used: Sequence[str]) -> dict[str, Any]:
    """What of a row has content and is not used; of a column into which a name with dots leads, what lies beside."""
    left: dict[str, Any] = {}
    for name in names:
        within = [each for each in used if each.startswith(f"{name}.")]
        if name in used:
            continue
        if within and isinstance(row.get(name), Mapping):
            inner = {f"{name}.{key}": value for key, value in row[name].items()}
            left |= {
                key: value
                for key, value in inner.items()
                if not any(f"{each}.".startswith(f"{key}.") for each in within)
            }
        else:
            left[name] = row.get(name)
    return {name: value for name, value in left.items() if value not in (None, "", [], {})}


def check_lost(unused: Mapping[str, Any], held: str) -> None:
    """Whether what is not used is named like a part of the prompt, and says what the row's text, `held`, does not.

    Raises:
        Misshapen: it is, and what to do.
    """
    text = _spaced(held)
    for name, value in unused.items():
        if name.casefold() in PARTS and (
            lost := next((one for one in _texts(value) if _spaced(one) not in text), None)
        ):
            ours = (
                "system"
                if name.casefold() in ("system", *SYSTEMS)
                else "history"
                if isinstance(value, list)
                else "input"
            )
            raise Misshapen(
                f"column {name}: {lost[:30]!r} would be lost beside the prompt, which does not hold it; put it there "
                f"by +dataset.columns.{ours}={name}, or give +dataset.columns.{name}=null if it is not wanted"
            )


def _spaced(text: str) -> str:
    return " ".join(text.split())


def _texts(value: Any) -> Iterator[str]:
    """All texts in a value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | Mapping):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(each)
