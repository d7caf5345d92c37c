"""Whether a chat template can be trained with.

Owns: the check that a rendered prompt is the beginning of the rendered prompt + answer.
Must not know: where templates come from, losses.

TRL only warns once where it is not, cuts the prompt where the two differ, and trains on a context that the model never
sees when it is used. Here it is an error, before the reference pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase
from trl.data_utils import common_prefix_length

from launcher.config import Model
from launcher.errors import UNSAID, ConfigError

CHECKED_PAIRS = 256  # a template's fault shows in every pair, or with a role that data sets use from the start
SHOWN = 40  # characters


def check_template(
    pairs: Dataset, tokens: PreTrainedTokenizerBase, model: Model, answers: Sequence[str] = ("chosen", "rejected")
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
            _check_prefix(number, pairs[number]["prompt"], pairs[number][answer], tokens)


def _check_prefix(number: int, prompt: list[Any], answer: list[Any], tokens: PreTrainedTokenizerBase) -> None:
    try:
        alone = str(tokens.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True))
        whole = str(tokens.apply_chat_template(prompt + answer, tokenize=False))
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
