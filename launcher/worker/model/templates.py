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

LOG = logging.getLogger(__name__)
Row = dict[str, Any]

CHECKED_PAIRS = 256  # a template's fault shows in every pair, or with a role that data sets use from the start
SHOWN = 40  # characters


def shown_rows(rows: list[Row], tokens: PreTrainedTokenizerBase, model: Model) -> list[Row]:
    """The rows with those keys of their messages alone that the template shows; what is left out is told and counted.

    Raises:
        ConfigError: there is no template, or it does not show calls of tools, reasoning or tools that a row has.
    """
    shown.check_template(rows, tokens.chat_template, model.name)
    left = shown.not_shown(rows, tokens.chat_template)
    for name, count in left.items():
        LOG.warning("the chat template does not show %s, which %d messages have", name, count)
    known = shown.words_of(tokens.chat_template)
    return [shown.shown(row, known) for row in rows] if left else rows


def check_rendering(
    pairs: list[Row], tokens: PreTrainedTokenizerBase, answers: Sequence[str] = ("chosen", "rejected")
) -> None:
    """Check the first rows of a data set of messages; plain text has no template. `answers` are its columns.

    Raises:
        ConfigError: the template renders a prompt otherwise when an answer follows, or cannot render it.
    """
    if isinstance(pairs[0]["prompt"], str):
        return
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
