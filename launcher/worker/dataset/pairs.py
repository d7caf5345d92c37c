"""Preference pairs: from wherever the config says, to token ids.

Owns: tokenising (TRL's own code), which pairs are left out and why, what is told of the data.
Must not know: reference values, losses, files (`reading`), columns (`dataset.shapes`).
"""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pyarrow
import pyarrow.parquet
from datasets import Dataset, IterableDataset
from datasets.io.generator import GeneratorDatasetInputStream
from transformers import PreTrainedTokenizerBase
from trl import DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from launcher.config import Dataset as DatasetConfig
from launcher.config import RunConfig
from launcher.dataset import shapes
from launcher.dataset.answers import DIFFERING
from launcher.dataset.messages import text_of
from launcher.dataset.shapes import Example
from launcher.dataset.shown import GIVEN
from launcher.errors import ConfigError
from launcher.store.counts import DataCounts
from launcher.store.entries import making
from launcher.store.files import content_key
from launcher.store.output_folder import Store
from launcher.worker.dataset import counts, reading
from launcher.worker.dataset.counts import EXAMPLES, Usable
from launcher.worker.model import base_model
from launcher.worker.model.templates import check_rendering, shown_rows
from launcher.worker.model.weights import tokenizer

LOG = logging.getLogger(__name__)
TOLD = logging.getLogger("launcher.data")
SPOILT = (DIFFERING, shapes.BROKEN)  # also as the prompts of an evaluation
IDS = ("prompt_ids", "chosen_ids", "rejected_ids")
ANSWERS = {"chosen": "chosen_ids", "rejected": "rejected_ids"}
NAME_HELD_OUT = "name a split with other rows"
TOO_LONG, SAME_WHEN_CUT = "prompt too long", "chosen == rejected within max_length"


@dataclass(frozen=True)
class Pairs:
    """Tokenised pairs, and what is to be known of them.

    Attributes:
        train: the pairs to train on, as token ids.
        test: the held-out pairs.
        counts: the numbers of both splits, and the first pairs as they are trained on.
        dropped: how many training pairs were left out, for each reason.
        repeated: training pairs that stand there before, but for case, spacing and punctuation; they stay.
        leaked: held-out pairs that also stand in the training pairs, compared in the same way; they stay.
        table: the key of the reference table whose values stand beside them; empty without any.
        rows: the hash of each pair of both splits, by which the table has it; None: not computed.
    """

    train: Dataset
    test: Dataset
    counts: DataCounts
    dropped: dict[str, int] = field(default_factory=dict)
    repeated: int = 0
    leaked: int = 0
    table: str = ""
    rows: tuple[list[str], list[str]] | None = None


def load_pairs(dataset: DatasetConfig, store: Store) -> tuple[Dataset, Dataset]:
    """The training and the held-out pairs, with columns prompt, chosen and rejected: text, or lists of messages.

    Raises:
        ConfigError: the data set is not there, or lacks a column.
    """
    train, test = reading.read(dataset, store, shapes.pairs)
    return Dataset.from_list(sound(train)), Dataset.from_list(sound(test))


def load_prompts(dataset: DatasetConfig, store: Store) -> list[Any]:
    """The prompts of the held-out rows, pairs or labelled completions, with what else the chat template is given."""
    rows = [
        example.values for example in reading.read(dataset, store, shapes.unpaired)[1] if example.fault not in SPOILT
    ]
    rows = [row for row in rows if text_of(row["prompt"])]
    given = [{name: row[name] for name in GIVEN if name in row} for row in rows]
    prompts = zip((row["prompt"] for row in rows), given, strict=True)
    return [{"messages": prompt, **more} if more else prompt for prompt, more in prompts]


def sound(examples: Iterable[Example]) -> list[dict[str, Any]]:
    """Those from which something can be learnt."""
    return [example.values for example in examples if example.fault is None]


def tokenise(config: RunConfig, store: Store, *, keep: bool = True, examples: int = EXAMPLES) -> Pairs:
    """The pairs as token ids, without those from which nothing can be learnt.

    Left out are pairs without a prompt or whose prompt alone fills `max_length`, with an empty completion, or with
    twice the same, be it only up to `max_length`.

    Args:
        config: the run.
        store: holds what is built of data and models.
        keep: whether the token ids are kept there for other runs, under the hashes of the model's files.
        examples: how many pairs are shown among the counts.

    Raises:
        ConfigError: no pair is left, or the chat template cannot be trained with.
    """
    train, test = reading.read(config.dataset, store, shapes.pairs)
    of_train, of_test = _usable(train, config, store, keep=keep), _held_out(test, config, store, keep=keep)
    overlaps = shapes.overlaps(sound(train), sound(test))
    numbers = counts.of_splits(config, of_train, of_test, tokenizer(config.model, store), examples, overlaps[1])
    pairs = Pairs(of_train.fitting, of_test.fitting, numbers, of_train.left_out, *overlaps)
    return told(pairs, train, test)


def _held_out(pairs: list[Example], config: RunConfig, store: Store, *, keep: bool) -> Usable:
    """The same of the held-out pairs; what is wrong with all of them is said of their split."""
    try:
        return _usable(pairs, config, store, keep=keep)
    except ConfigError as error:
        words = f"the held-out pairs of {config.dataset.name} cannot be used: {error}; {NAME_HELD_OUT}"
        raise ConfigError("dataset.test_split", config.dataset.test_split, words) from error


def _usable(pairs: list[Example], config: RunConfig, store: Store, *, keep: bool) -> Usable:
    """The token ids of the pairs, which of them can be used, and how many cannot, for each reason."""
    dropped = Counter(pair.fault for pair in pairs if pair.fault is not None)
    if not (rows := sound(pairs)):
        raise ConfigError("dataset.name", config.dataset.name, f"none of its pairs can be used: {sentence(dropped)}")
    tokens = tokenizer(config.model, store)
    rows = shown_rows(rows, tokens, config.model)
    check_rendering(rows, tokens)
    ids = shared_token_ids(rows, config, store, token_ids) if keep else token_ids(rows, tokens)
    fitting, too_long = _fitting(ids, config.trainer.max_length)
    return Usable(ids, fitting, dict(dropped + too_long), ANSWERS)


def sentence(counts: dict[str, int]) -> str:
    """Counts in words."""
    return ", ".join(f"{count} {reason}" for reason, count in counts.items())


def told(pairs: Pairs, train: list[Example], test: list[Example], what: str = "pairs") -> Pairs:
    """The pairs, after the log was told what is to be known of them and of the rows that they were made from."""
    count, held_out = len(train), len(test)
    for note, number in Counter(note for example in train for note in example.notes).items():
        TOLD.warning("of %d of %d training %s: %s", number, count, what, note)
    if pairs.dropped:
        gone = sum(pairs.dropped.values())
        TOLD.warning("%d of %d training %s dropped: %s", gone, count, what, sentence(pairs.dropped))
    if len(pairs.test) < held_out:
        gone, reasons = held_out - len(pairs.test), sentence(pairs.counts.splits["test"].left_out)
        TOLD.warning("%d of %d held-out %s dropped: %s (of dataset.test_split)", gone, held_out, what, reasons)
    for line in counts.sentences(pairs.counts, what):
        TOLD.warning("%s", line)
    if pairs.repeated:
        TOLD.warning("%d of %d training %s repeat another's text; they stay", pairs.repeated, count, what)
    if pairs.leaked:
        TOLD.warning("%d of %d held-out %s also stand in the training %s", pairs.leaked, held_out, what, what)
    return pairs


Texts = list[dict[str, Any]]
Tokenise = Callable[[Texts, PreTrainedTokenizerBase], Dataset]


def shared_token_ids(texts: Texts, config: RunConfig, store: Store, tokenise: Tokenise) -> Dataset:
    """The texts' token ids: made once, by whoever is first, for all runs of the same text, tokenizer and template.

    The columns of pairs and of labelled completions differ, and so do their keys.
    """
    made_from = [base_model.fingerprint(config.model, store), config.model.chat_template, _content(texts)]
    key = content_key(made_from)
    folder = store.cache("tokens", key)
    file = folder / "rows.parquet"
    with making(folder) as empty:
        if empty is not None:
            if folder.is_dir():  # which has lost something
                LOG.warning("%s: tokenising again", folder)
            ids = tokenise(texts, tokenizer(config.model, store))
            pyarrow.parquet.write_table(ids.data.table.combine_chunks(), empty / file.name)
    try:
        rows = Dataset(pyarrow.parquet.read_table(file))
    except (OSError, pyarrow.ArrowException) as error:
        LOG.warning("%s cannot be read (%s); tokenising again", file, error)
        return tokenise(texts, tokenizer(config.model, store))
    return rows


def _content(texts: Texts) -> str:
    """The hash of the rows' text, in their order."""
    digest = hashlib.sha256()
    for row in texts:
        digest.update(json.dumps(row, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


def token_ids(pairs: Texts, tokens: PreTrainedTokenizerBase) -> Dataset:
    """Tokenise exactly as DPOTrainer does: by its own method, which needs nothing of a trainer but its tokenizer."""
    trainer = SimpleNamespace(_tokenizer=tokens)
    arguments = SimpleNamespace(dataset_num_proc=None, max_length=None)
    tokenised_pairs = DPOTrainer._prepare_dataset(  # noqa: SLF001 - see above
        trainer, untyped(pairs), tokens, arguments, ""
    )
    return Dataset.from_list(list(tokenised_pairs.select_columns(list(IDS))))


def untyped(rows: Texts) -> IterableDataset:
    """Rows that go to the tokenizer as they are: a typed table would give each call of a tool all tools' arguments."""
    # `IterableDataset.from_generator`, but for the folder that it would make in a home, which may not be to be written.
    with tempfile.TemporaryDirectory() as nothing:
        made = GeneratorDatasetInputStream(lambda: (dict(row) for row in rows), cache_dir=nothing, streaming=True)
        return made.read()


def _fitting(pairs: Dataset, max_length: int) -> tuple[Dataset, Counter[str]]:
    """The pairs that teach something within `max_length`, and how many do not, for each reason."""
    faults = [_fault(pair, max_length) for pair in pairs]
    fitting = [index for index, fault in enumerate(faults) if fault is None]
    if not fitting:
        lengths = [len(ids) for ids in pairs["prompt_ids"]]
        if min(lengths) < max_length:
            raise ConfigError("trainer.max_length", max_length, "no pair's completions differ within it; give more")
        raise ConfigError(
            "trainer.max_length", max_length, f"every prompt fills it; the shortest has {min(lengths)} tokens"
        )
    return pairs.select(fitting) if len(fitting) < len(pairs) else pairs, Counter(filter(None, faults))


def _fault(pair: dict[str, list[int]], max_length: int) -> str | None:
    """Why the token ids teach nothing, or None."""
    prompt, chosen, rejected = (pair[name] for name in IDS)
    if not prompt:  # the first token of a completion has no probability then
        return shapes.NO_PROMPT
    room = max_length - len(prompt)
    return TOO_LONG if room < 1 else SAME_WHEN_CUT if chosen[:room] == rejected[:room] else None


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
