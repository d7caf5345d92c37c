"""What of a row a chat template shows: which keys of messages, and what it is given beside them.

Owns: that nothing which is said in a row is lost in its rendering without a word.
Must not know: tokenizers, files, torch.

A template is Jinja text, so a key that is not a word of it cannot be shown. Whether one that is a word of it is shown
in every case is not known here.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

from launcher.dataset.messages import SPOKEN
from launcher.errors import UNSAID, ConfigError

GIVEN = ("tools", "chat_template_kwargs")  # what a template is given beside the messages

Values = dict[str, Any]


def words_of(template: str | dict[str, str] | None) -> set[str]:
    """All words of a template, or of several by name: what is not among them, they cannot show."""
    texts = template.values() if isinstance(template, dict) else [template or ""]
    return {"role", "content", *(word for text in texts for word in re.findall(r"\w+", text))}


def check_template(rows: list[Values], template: str | dict[str, str] | None, model: str) -> None:
    """Whether there is a template where the rows are messages, and whether it shows all that they say.

    Raises:
        ConfigError: there is none, or it does not name calls of tools, reasoning or tools that a row has.
    """
    if not rows or isinstance(rows[0]["prompt"], str):
        return
    if not template:
        raise ConfigError(
            "model.chat_template",
            UNSAID,
            f"the tokenizer of {model} has none and the data are messages{_why(rows[0])}; "
            "give model.chat_template=FILE.jinja",
        )
    known = words_of(template)
    for number, row in enumerate(rows, 1):
        if lost := [name for name in _names(row) if name not in known and (name in SPOKEN or name in _given(row))]:
            raise ConfigError(
                "model.chat_template",
                UNSAID,
                f"row {number} of those that can be used has {', '.join(dict.fromkeys(lost))}, which the chat template "
                f"of {model} does not show; give one that does (model.chat_template=FILE.jinja), or rows without",
            )


def _why(row: Values) -> str:
    return " (they have a system message)" if row["prompt"][0]["role"] == "system" else ""


def not_shown(rows: Iterable[Values], template: str | dict[str, str] | None) -> Counter[str]:
    """How many messages have a key that the template does not show, by key."""
    known = words_of(template)
    return Counter(name for row in rows for name in _names(row) if name not in known)


def _names(row: Values) -> list[str]:
    columns = [said for said in row.values() if isinstance(said, list) and said is not row.get("tools")]
    return [*(key for said in columns for message in said for key in message), *_given(row)]


def _given(row: Values) -> list[str]:
    return [*(["tools"] if "tools" in row else []), *row.get("chat_template_kwargs", {})]


def shown(said: Any, known: set[str]) -> Any:
    """A text as it is; messages, or a row of them, with those of their keys alone that a template names."""
    if isinstance(said, dict):
        return {name: value if name in GIVEN else shown(value, known) for name, value in said.items()}
    if not isinstance(said, list):
        return said
    return [{key: value for key, value in message.items() if key in known} for message in said]
