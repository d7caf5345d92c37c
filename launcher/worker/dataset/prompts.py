"""The openings that models continue when they are evaluated.

Owns: which they are, and where they are kept: to find sixteen, a whole data set has to be read.
Must not know: how they are rendered, what is measured.
"""

from __future__ import annotations

from launcher.config import RunConfig
from launcher.dataset.shown import shown, words_of
from launcher.store.entries import making
from launcher.store.files import content_key, read_fact, write_once
from launcher.store.output_folder import Store
from launcher.worker.dataset.pairs import first_distinct, load_prompts
from launcher.worker.dataset.prepared_rows import text_identity
from launcher.worker.model import weights
from launcher.worker.model.memory import Latest
from launcher.worker.model.text import Prompt

PROMPTS = 16  # taken from the test split where the data set names none

_prompts: Latest[list[Prompt]] = Latest()


def prompts(config: RunConfig, store: Store) -> list[Prompt]:
    """The openings that the models continue: the data set's own choice, else the first of its test split."""

    def read() -> list[Prompt]:
        if config.dataset.prompts:
            return list(config.dataset.prompts)
        folder = store.cache("prompts", content_key(text_identity(config, store)))
        with making(folder) as empty:
            if empty is not None:
                write_once(empty / "prompts.json", {"prompts": _first_of_test_split(config, store)})
        found: list[Prompt] = (read_fact(folder / "prompts.json") or {})["prompts"]
        return found

    return _prompts.get(repr((config.dataset, config.model, store.root)), read)


def _first_of_test_split(config: RunConfig, store: Store) -> list[Prompt]:
    known = words_of(weights.tokenizer(config.model, store).chat_template)
    return first_distinct((shown(prompt, known) for prompt in load_prompts(config.dataset, store)), PROMPTS)
