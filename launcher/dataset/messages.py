"""What a column says: a text, or messages, in whatever form they are written -> a text, or messages in one form.

Owns: the forms of messages (role and content, from and value, one alone, parts of a content) and their roles' names.
Must not know: pairs, files, chat templates.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

Message = dict[str, Any]
Said = str | list[Message] | None  # None where nothing is said

ROLE, CONTENT = ("role", "from"), ("content", "value")
# ShareGPT's names of who speaks.
ROLES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "observation": "tool",
    "function_response": "tool",
}
CALLS = "function_call"  # ShareGPT's name of an assistant that calls a tool, in a text of its own
# Keys of a message that are a part of what it says.
SPOKEN = ("tool_calls", "function_call", "reasoning_content", "reasoning", "thinking")
SPOKEN_IN = (*CONTENT, *SPOKEN)


# How messages begin that were written into a text, as JSON or by Python (in an array of numpy too), and who speaks.
WRITTEN = re.compile(
    r"""\s*(?:array\()?\[?\s*\{\s*(?P<quote>['"])(?:role|from|content|value|tool_calls)(?P=quote)\s*:"""
)
SPEAKS = re.compile(r"""['"](?:role|from)['"]\s*:\s*['"](?:system|user|assistant|tool|human|gpt)['"]""")


class Misshapen(Exception):
    """What was found where something else would be right, and what."""


def said(value: Any, role: str = "assistant") -> Said:
    """A text, or messages with `role`, `content` and whatever else they have that is not empty.

    Raises:
        Misshapen: the value is neither.
    """
    if isinstance(value, str) and (written := written_messages(value)) is not None:
        return said(written, role)
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return [message(value, role)]
    if isinstance(value, list):
        return [message(each, role) for each in value]
    raise Misshapen(f"{kind(value)}; give a text (in quotes), or a list of messages")


def written_messages(text: str) -> Any:
    """The messages that a text holds as JSON, and nothing else; None where it is a text.

    Raises:
        Misshapen: they are written as Python writes them.
    """
    begins = WRITTEN.match(text)
    if begins is None or not SPEAKS.search(text):
        return None
    if begins["quote"] == "'":
        if not text.rstrip().endswith(("]", "}", ")")):
            return None
        raise Misshapen(
            f"messages as Python writes them ({text[:30]!r}); write them as a list, or as JSON (json.dumps)"
        )
    try:
        value = json.loads(text)
    except ValueError:
        return None
    each = value if isinstance(value, list) else [value]
    return value if all(map(_is_message, each)) else None


def _is_message(value: Any) -> bool:
    return isinstance(value, Mapping) and not any(map(value.keys().isdisjoint, (ROLE, SPOKEN_IN)))


def message(value: Any, role: str) -> Message:
    """A message in our form; `role` is whose it is where it does not say so."""
    if not isinstance(value, Mapping):
        raise Misshapen(f"{kind(value)} in a list of messages; each is an object with role and content")
    named = {name: next((key for key in keys if key in value), None) for name, keys in _KEYS.items()}
    if named["role"] is None and named["content"] is None:
        raise Misshapen(f"a message with the keys {', '.join(map(str, value)) or 'none'}; give role and content")
    speaker = role if named["role"] is None else value[named["role"]]
    if not isinstance(speaker, str) or speaker == CALLS:
        right = "give a text" if speaker != CALLS else "write the call as tool_calls of an assistant's message"
        raise Misshapen(f"a message whose role is {speaker!r}; {right}")
    words = None if named["content"] is None else value[named["content"]]
    rest = {key: said for key, said in value.items() if key not in named.values() and said not in (None, "", [], {})}
    return {"role": ROLES.get(speaker, speaker), "content": _content(words), **rest}


_KEYS = {"role": ROLE, "content": CONTENT}


def _content(value: Any) -> str:
    """The text of a content; the text parts of one that comes in parts."""
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, list):
        return "".join(map(_part, value))
    raise Misshapen(f"a message whose content is {kind(value)}; give a text, or a list of text parts")


def _part(part: Any) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, Mapping) or part.get("type", "text") != "text":
        name = repr(part["type"]) if isinstance(part, Mapping) else kind(part)
        raise Misshapen(f"a part of a message that is {name}; only parts of type 'text' can be trained on")
    text, others = part.get("text"), [key for key, value in part.items() if key not in ("type", "text") and value]
    if text is None and not others:  # as a typed table fills what lacks it
        return ""
    if isinstance(text, str):
        return text
    found = f"whose text is {kind(text)}" if text is not None else f"without text, with {', '.join(map(str, others))}"
    raise Misshapen(f"a part of a message {found}; give its text as text")


_KINDS = {bool: "true or false", int: "a number", float: "a number", str: "a text", list: "a list", type(None): "null"}


def bare_kind(value: Any) -> str:
    """What a value is, in words."""
    return "an object" if isinstance(value, Mapping) else _KINDS.get(type(value), type(value).__name__)


def kind(value: Any) -> str:
    """What a value is, in words, with its beginning where that is short."""
    return bare_kind(value) + ("" if isinstance(value, Mapping | list) else f" ({str(value)[:30]!r})")


def as_messages(value: Said, role: str) -> list[Message]:
    """A text as a message of `role`; messages as they are."""
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    return value or []


def text_of(value: Said) -> str:
    """All that is said in a text, or in messages, calls of tools too; nothing where there is none."""
    if value is None or isinstance(value, str):
        return value or ""
    return "\n".join(" ".join([each["content"], *(str(each[key]) for key in SPOKEN if key in each)]) for each in value)
