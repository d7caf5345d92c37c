"""Whether a chat template can be trained with.

Owns: which keys of messages a template shows; that a rendered prompt is the beginning of the rendered prompt + answer.
Must not know: where templates come from, losses.

TRL only warns once where it is not, cuts the prompt where the two differ, and trains on a context that the model never
sees when it is used. Here it is an error, before the reference pass.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase
from trl.data_utils import common_prefix_length

from launcher.config import Model
from launcher.dataset.messages import SPOKEN, Said
from launcher.dataset.shapes import PAIR
from launcher.errors import UNSAID, ConfigError

LOG = logging.getLogger(__name__)
Row = dict[str, Any]

CHECKED_PAIRS = 256  # a template's fault shows in every pair, or with a role that data sets use from the start
SHOWN = 40  # characters


def understood(
    rows: list[Row], tokens: PreTrainedTokenizerBase, model: Model, columns: Sequence[str] = PAIR
) -> list[Row]:
    """The rows with those keys of their messages alone that the template names; what is left out is told and counted.

    Raises:
        ConfigError: the template names nothing of what a row says besides contents: calls of tools, reasoning.
    """
    left: Counter[str] = Counter()
    known = names_in(tokens.chat_template)
    for number, row in enumerate(rows, 1):
        unknown = [name for column in columns for name in _keys(row[column]) if name not in known]
        unknown += [name for name in _given(row) if name not in known]
        if spoken := [name for name in unknown if name in SPOKEN or name in _given(row)]:
            raise ConfigError(
                "model.chat_template",
                UNSAID,
                f"row {number} has {', '.join(spoken)}, which the chat template of {model.name} does not show; "
                "give a template that does (model.chat_template=FILE.jinja), or rows without",
            )
        left.update(unknown)
    for name, count in left.items():
        LOG.warning("the chat template shows no %s; %d messages have one", name, count)
    if not left:
        return rows
    return [row | {column: shown(row[column], known) for column in columns} for row in rows]


def names_in(template: str | dict[str, str] | None) -> set[str]:
    """All words of a template: what is not among them, it cannot show."""
    texts = template.values() if isinstance(template, dict) else [template or ""]
    return {"role", "content", *(word for text in texts for word in re.findall(r"\w+", text))}


def _keys(said: Said) -> list[str]:
    return [key for message in said for key in message] if isinstance(said, list) else []


def _given(row: Row) -> list[str]:
    return [*(["tools"] if "tools" in row else []), *row.get("chat_template_kwargs", {})]


def shown(said: Any, known: set[str]) -> Any:
    """A text as it is, messages with the keys alone that a template names."""
    if isinstance(said, dict):
        return said | {"messages": shown(said["messages"], known)}
    if not isinstance(said, list):
        return said
    return [{key: value for key, value in message.items() if key in known} for message in said]


def check_template(
    pairs: list[Row], tokens: PreTrainedTokenizerBase, model: Model, answers: Sequence[str] = ("chosen", "rejected")
) -> None:
    """Check the first rows of a data set of messages; plain text has no template. `answers` are its columns.

    Raises:
        ConfigError: the tokenizer has no template, or it renders a prompt otherwise when an answer follows.
    """
    if isinstance(pairs[0]["prompt"], str):
        return
    if tokens.chat_template is None:
        raise ConfigError(
            "model.chat_template",
            UNSAID,
            f"the tokenizer of {model.name} has none and the data are messages; give model.chat_template=FILE.jinja",
        )
    for number in range(min(CHECKED_PAIRS, len(pairs))):
        for answer in answers:
            _check_prefix(number, pairs[number], answer, tokens)


def _check_prefix(number: int, pair: Row, answer: str, tokens: PreTrainedTokenizerBase) -> None:
    given = {"tools": pair.get("tools"), **pair.get("chat_template_kwargs", {})}
    try:
        alone = str(tokens.apply_chat_template(pair["prompt"], tokenize=False, add_generation_prompt=True, **given))
        whole = str(tokens.apply_chat_template(pair["prompt"] + pair[answer], tokenize=False, **given))
    except Exception as error:  # Jinja's own errors, and what a template raises about roles
        raise ConfigError("model.chat_template", UNSAID, f"cannot render pair {number}: {error}") from error
    if not whole.startswith(alone):
        same = common_prefix_length(alone, whole)
        raise ConfigError(
            "model.chat_template",
            UNSAID,
            f"pair {number}: the rendered prompt is not the beginning of prompt + answer; it goes "
            f"on with {alone[same : same + SHOWN]!r} where the other has {whole[same : same + SHOWN]!r}; give a "
            "template that renders a prompt alike with and without an answer (model.chat_template=FILE.jinja)",
        )
