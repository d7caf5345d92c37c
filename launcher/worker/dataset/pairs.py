"""Preference pairs: from wherever the config says, to token ids.

Owns: tokenising (TRL's own code), which pairs are left out and why, what is told of the data.
Must not know: reference values, losses, files (`reading`), columns (`shapes`).
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
from datasets import Dataset
from transformers import PreTrainedTokenizerBase
from trl import DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from launcher.config import Dataset as DatasetConfig
from launcher.config import RunConfig
from launcher.errors import ConfigError
from launcher.store.files import building, content_key
from launcher.store.output_folder import Store
from launcher.worker.dataset import reading, shapes
from launcher.worker.model import base_model
from launcher.worker.model.templates import check_template
from launcher.worker.model.weights import tokenizer

LOG = logging.getLogger(__name__)
IDS = ("prompt_ids", "chosen_ids", "rejected_ids")
TOO_LONG = "prompt too long"


@dataclass(frozen=True)
class Pairs:
    """Tokenised pairs, and what is to be known of them.

    Attributes:
        train: the pairs to train on, as token ids.
        test: the held-out pairs.
        dropped: how many training pairs were left out, for each reason.
        repeated: training pairs that stand there before, but for case, spacing and punctuation; they stay.
        leaked: held-out pairs that also stand in the training pairs, compared in the same way; they stay.
    """

    train: Dataset
    test: Dataset
    dropped: dict[str, int] = field(default_factory=dict)
    repeated: int = 0
    leaked: int = 0


def load_pairs(dataset: DatasetConfig, store: Store) -> tuple[Dataset, Dataset]:
    """The training and the held-out pairs, with columns prompt, chosen and rejected: text, or lists of messages.

    Raises:
        ConfigError: the data set is not there, or lacks a column.
    """
    return reading.read(dataset, store, shapes.pairs)


def load_prompts(dataset: DatasetConfig, store: Store) -> list[Any]:
    """The prompts of the held-out rows, whether they are pairs or labelled completions."""
    prompts: list[Any] = reading.read(dataset, store, shapes.unpaired)[1]["prompt"][:]
    return [prompt for prompt in prompts if prompt not in (None, [])]


def tokenise(config: RunConfig, store: Store) -> Pairs:
    """The pairs as token ids, without those from which nothing can be learnt.

    Left out are pairs whose prompt alone fills `max_length`, with an empty completion, or with twice the same.

    Raises:
        ConfigError: no pair is left, or the chat template cannot be trained with.
    """
    train, test = load_pairs(config.dataset, store)
    fitting_train, dropped = _usable(train, config, store)
    fitting_test, _ = _usable(test, config, store)
    return told(Pairs(fitting_train, fitting_test, dropped, *shapes.overlaps(train, test)), len(train), len(test))


def _usable(pairs: Dataset, config: RunConfig, store: Store) -> tuple[Dataset, dict[str, int]]:
    """The token ids of the pairs that can be used, and how many cannot, for each reason."""
    faults = list(shapes.faults(pairs))
    sound = [index for index, fault in enumerate(faults) if fault is None]
    dropped = Counter(fault for fault in faults if fault is not None)
    if not sound:
        raise ConfigError("dataset.name", config.dataset.name, f"none of its pairs can be used: {_sentence(dropped)}")
    if dropped:
        pairs = pairs.select(sound)
    check_template(pairs, tokenizer(config.model, store), config.model)
    ids = shared_token_ids(pairs, config, store, token_ids)
    fitting = _fitting(ids, config.trainer.max_length)
    if len(fitting) < len(ids):
        dropped[TOO_LONG] = len(ids) - len(fitting)
    return fitting, dict(dropped)


def _sentence(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in counts.items())


def told(pairs: Pairs, train: int, test: int, what: str = "pairs") -> Pairs:
    """The pairs, after the log was told what is to be known of them; `train` and `test` is how many there were."""
    if pairs.dropped:
        gone = sum(pairs.dropped.values())
        LOG.warning("%d of %d training %s dropped: %s", gone, train, what, _sentence(pairs.dropped))
    if len(pairs.test) < test:
        LOG.warning("%d of %d held-out %s dropped for the same reasons", test - len(pairs.test), test, what)
    if pairs.repeated:
        LOG.warning("%d of %d training %s repeat another's text; they stay", pairs.repeated, train, what)
    if pairs.leaked:
        LOG.warning("%d of %d held-out %s also stand in the training %s", pairs.leaked, test, what, what)
    return pairs


Tokenise = Callable[[Dataset, PreTrainedTokenizerBase], Dataset]


def shared_token_ids(texts: Dataset, config: RunConfig, store: Store, tokenise: Tokenise) -> Dataset:
    """The texts' token ids: made once, by whoever is first, for all runs of the same text, tokenizer and template.

    The columns of pairs and of labelled completions differ, and so do their keys.
    """
    made_from = [base_model.fingerprint(config.model, store), config.model.chat_template, _content(texts)]
    key = content_key(made_from)
    folder = store.cache("tokens", key)
    file = folder / "rows.parquet"
    with building(folder) as empty:
        if empty is not None:
            ids = tokenise(texts, tokenizer(config.model, store))
            pyarrow.parquet.write_table(ids.data.table.combine_chunks(), empty / file.name)
    try:
        rows = Dataset(pyarrow.parquet.read_table(file))
    except (OSError, pyarrow.ArrowException) as error:
        LOG.warning("%s cannot be read (%s); tokenising again", file, error)
        return tokenise(texts, tokenizer(config.model, store))
    return rows


def _content(texts: Dataset) -> str:
    """The hash of the rows' text, in their order."""
    digest = hashlib.sha256()
    for row in texts:
        digest.update(json.dumps(row, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


def token_ids(pairs: Dataset, tokens: PreTrainedTokenizerBase) -> Dataset:
    """Tokenise exactly as DPOTrainer does: by its own method, which needs nothing of a trainer but its tokenizer."""
    datasets.disable_progress_bars()
    trainer = SimpleNamespace(_tokenizer=tokens)
    arguments = SimpleNamespace(dataset_num_proc=None, max_length=None)
    tokenised_pairs = DPOTrainer._prepare_dataset(trainer, pairs, tokens, arguments, "")  # noqa: SLF001 - see above
    return tokenised_pairs.select_columns(list(IDS))


def _fitting(pairs: Dataset, max_length: int) -> Dataset:
    lengths = [len(ids) for ids in pairs["prompt_ids"]]
    fitting = [index for index, length in enumerate(lengths) if length < max_length]
    if not fitting:
        shortest = min(lengths)
        raise ConfigError(
            "trainer.max_length", max_length, f"every prompt fills it; the shortest has {shortest} tokens"
        )
    return pairs.select(fitting) if len(fitting) < len(lengths) else pairs


def collator(config: RunConfig, store: Store) -> DataCollatorForPreference:
    """How a batch is cut and padded, for the reference pass as for training."""
    pad_token_id = tokenizer(config.model, store).pad_token_id
    return DataCollatorForPreference(pad_token_id=pad_token_id, max_length=config.trainer.max_length)


def first_distinct(prompts: Iterable[Any], limit: int) -> list[Any]:
    """The first `limit` different prompts, in order."""
    found: dict[str, Any] = {}
    for prompt in prompts:
        found.setdefault(json.dumps(prompt, sort_keys=True), prompt)
        if len(found) == limit:
            break
    return list(found.values())
