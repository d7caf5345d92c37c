"""Whether a chat template can be trained with.

Owns: which keys of messages a template shows; that a rendered prompt is the beginning of the rendered prompt + answer.
Must not know: where templates come from, losses.

TRL only warns once where it is not, cuts the prompt where the two differ, and trains on a context that the model never
sees when it is used. Here it is an error, before the reference pass.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase
from trl.data_utils import common_prefix_length

from launcher.config import Model
from launcher.dataset import shown
from launcher.errors import UNSAID, ConfigError

TOLD = logging.getLogger("launcher.data")
Row = dict[str, Any]

SHOWN = 40  # characters


def shown_rows(rows: list[Row], tokens: PreTrainedTokenizerBase, model: Model) -> list[Row]:
    """The rows with those keys of their messages alone that the template shows; what is left out is told and counted.

    Raises:
        ConfigError: there is no template, or it does not show calls of tools, reasoning or tools that a row has.
    """
    shown.check_template(rows, tokens.chat_template, model.name)
    left = shown.not_shown(rows, tokens.chat_template)
    for name, count in left.items():
        TOLD.warning("the chat template does not show %s, which %d messages have", name, count)
    known = shown.words_of(tokens.chat_template)
    return [shown.shown(row, known) for row in rows] if left else rows


def check_rendering(
    pairs: list[Row], tokens: PreTrainedTokenizerBase, answers: Sequence[str] = ("chosen", "rejected")
) -> None:
    """Check every row of a data set of messages; plain text has no template. `answers` are its columns.

    Raises:
        ConfigError: the template renders a prompt otherwise when an answer follows, or cannot render it; names the row.
    """
    if isinstance(pairs[0]["prompt"], str):
        return
    for number, pair in enumerate(pairs, 1):
        try:
            alone, *whole = _renderings(pair, answers, tokens)
        except Exception as error:  # Jinja's own errors, and what a template raises about roles
            raise _wrong(number, f"cannot be rendered: {error}") from error
        for text in whole:
            _check_prefix(number, alone, text)


def _renderings(pair: Row, answers: Sequence[str], tokens: PreTrainedTokenizerBase) -> list[str]:
    """The prompt as it is when the model is to answer, then with each answer."""
    given = {"tools": pair.get("tools"), "tokenize": False, **pair.get("chat_template_kwargs", {})}
    texts = [tokens.apply_chat_template(pair["prompt"], add_generation_prompt=True, **given)]
    texts += [tokens.apply_chat_template(pair["prompt"] + pair[answer], **given) for answer in answers]
    return [str(text) for text in texts]


def _check_prefix(number: int, alone: str, whole: str) -> None:
    if not whole.startswith(alone):
        same = common_prefix_length(alone, whole)
        raise _wrong(
            number,
            f"the rendered prompt is not the beginning of prompt + answer; it goes on with "
            f"{alone[same : same + SHOWN]!r} where the other has {whole[same : same + SHOWN]!r}; give a "
            "template that renders a prompt alike with and without an answer (model.chat_template=FILE.jinja)",
        )


def _wrong(number: int, what: str) -> ConfigError:
    return ConfigError("model.chat_template", UNSAID, f"row {number} of those that can be used: {what}")
