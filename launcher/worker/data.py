"""Preference pairs: from wherever the config says, to token ids.

Owns: reading and checking a data set, its three columns, tokenising (TRL's own code) and the length filter.
Must not know: reference values, losses.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import pyarrow.parquet
from datasets import Dataset
from transformers import PreTrainedTokenizerBase
from trl import DPOTrainer, extract_prompt
from trl.trainer.dpo_trainer import DataCollatorForPreference

from launcher import movie_reviews
from launcher.config import ConfigError, RunConfig
from launcher.config import Dataset as DatasetConfig
from launcher.store import Store
from launcher.worker.models import tokenizer

LOG = logging.getLogger(__name__)
PAIR = ("prompt", "chosen", "rejected")
IDS = ("prompt_ids", "chosen_ids", "rejected_ids")
SUFFIXES = (".jsonl", ".json", ".parquet")
BUILDERS = {"movie_reviews": movie_reviews.pairs_folder}
HELD_OUT = 0.1  # of a data set that is one file


@dataclass(frozen=True)
class Pairs:
    """Tokenised pairs, and how many training pairs were too long to be used."""

    train: Dataset
    test: Dataset
    dropped: int


def load_pairs(dataset: DatasetConfig, store: Store) -> tuple[Dataset, Dataset]:
    """The training and the held-out pairs, with columns prompt, chosen and rejected: text, or lists of messages.

    Limits take the first pairs of a split, in its own order: the trainer shuffles, and a longer limit then holds
    what a shorter one held.

    Raises:
        ConfigError: the data set is not there, or lacks a column.
    """
    train, test = _read_splits(dataset, store)
    for key, rows in (("train_split", train), ("test_split", test)):
        if not len(rows):
            raise ConfigError(f"dataset.{key}: {dataset.path or dataset.builder} holds no pairs there")
    first_train, first_test = _first(train, dataset.train_pairs), _first(test, dataset.test_pairs)
    return _normal(first_train, dataset), _normal(first_test, dataset)


def _first(rows: Dataset, limit: int | None) -> Dataset:
    return rows if limit is None else rows.select(range(min(limit, len(rows))))


def _read_splits(dataset: DatasetConfig, store: Store) -> tuple[Dataset, Dataset]:
    if dataset.builder is not None:
        if dataset.builder not in BUILDERS:
            raise ConfigError(f"dataset.builder={dataset.builder}: unknown; there is {', '.join(BUILDERS)}")
        folder = BUILDERS[dataset.builder](store)
        return _read_folder(folder, dataset)
    if not dataset.path:
        raise ConfigError("dataset.path: neither a path nor a builder is given; give a Hub id, a folder or a file")
    path = Path(dataset.path).expanduser()
    if path.is_dir():
        return _read_folder(path, dataset)
    if path.is_file():
        return _divided(_read_file(path), dataset.test_pairs)
    if dataset.path.startswith((".", "/", "~")) or path.suffix in SUFFIXES:
        raise ConfigError(f"dataset.path={dataset.path}: there is no such folder or file on this machine")
    return _read_hub(dataset, dataset.train_split), _read_hub(dataset, dataset.test_split)


def _read_folder(folder: Path, dataset: DatasetConfig) -> tuple[Dataset, Dataset]:
    def read(key: str, split: str) -> Dataset:
        found = [folder / f"{split}{suffix}" for suffix in SUFFIXES if (folder / f"{split}{suffix}").is_file()]
        if not found:
            there = ", ".join(sorted(path.name for path in folder.iterdir())) or "nothing"
            raise ConfigError(f"dataset.{key}={split}: no {split}.jsonl, .json or .parquet in {folder}; found {there}")
        return _read_file(found[0])

    return read("train_split", dataset.train_split), read("test_split", dataset.test_split)


def _read_file(path: Path) -> Dataset:
    try:
        if path.suffix == ".parquet":
            return Dataset(pyarrow.parquet.read_table(path))
        text = path.read_text(encoding="utf-8")
        documents = [line for line in text.splitlines() if line.strip()] if path.suffix == ".jsonl" else [text]
        parsed = [json.loads(document) for document in documents]
        return Dataset.from_list(parsed if path.suffix == ".jsonl" else parsed[0])
    except (ValueError, TypeError, AttributeError, OSError) as error:
        raise ConfigError(f"dataset.path: {path} is not readable as {path.suffix[1:]}: {error}") from error


def _divided(rows: Dataset, test_pairs: int | None) -> tuple[Dataset, Dataset]:
    """One file holds no split: its last rows are held out."""
    held_out = test_pairs or max(1, int(len(rows) * HELD_OUT))
    first = len(rows) - held_out
    if first < 1:
        raise ConfigError(f"dataset.test_pairs={held_out}: the file has only {len(rows)} pairs, none is left to train")
    return rows.select(range(first)), rows.select(range(first, len(rows)))


def _read_hub(dataset: DatasetConfig, split: str) -> Dataset:
    try:
        return datasets.load_dataset(dataset.path, revision=dataset.revision, split=split)
    except Exception as error:  # the Hub client, fsspec and datasets each have their own family of errors
        why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConfigError(f"dataset.path={dataset.path} (split {split}): cannot be loaded: {why}") from error


def hub_commit(dataset: DatasetConfig) -> str | None:
    """The commit of a Hub data set, as it was loaded: asked of the cache, since the Hub may have moved on.

    None where it is no Hub data set, or the cache does not say.
    """
    path = Path(dataset.path or "").expanduser()
    if not dataset.path or path.exists() or path.suffix in SUFFIXES:
        return None
    files = _read_hub(dataset, dataset.train_split).info.download_checksums or {}
    commits = {found[1] for url in files if (found := re.search(r"@([0-9a-f]{40})/", url))}
    return commits.pop() if len(commits) == 1 else None


def _normal(rows: Dataset, dataset: DatasetConfig) -> Dataset:
    """Our three columns only, under our names, with the prompt apart from the completions."""
    theirs = {ours: dataset.columns.get(ours, ours) for ours in PAIR}
    conversational = theirs["chosen"] in rows.column_names and isinstance(rows[0][theirs["chosen"]], list)
    needed = PAIR[1:] if conversational else PAIR
    missing = [theirs[ours] for ours in needed if theirs[ours] not in rows.column_names]
    if missing:
        found = ", ".join(rows.column_names)
        raise ConfigError(f"dataset {dataset.name}: no column {', '.join(missing)}; found {found}; see dataset.columns")
    present = {ours: name for ours, name in theirs.items() if name in rows.column_names}
    rows = rows.select_columns(list(present.values())).rename_columns({b: a for a, b in present.items() if a != b})
    return Dataset.from_list([_conversation(row) for row in rows]) if conversational else rows


def _conversation(row: dict[str, Any]) -> dict[str, Any]:
    """Messages with the prompt apart. Data sets such as UltraFeedback repeat it in both completions."""
    if isinstance(row.get("prompt"), list):
        return row
    apart = extract_prompt({"chosen": row["chosen"], "rejected": row["rejected"]})
    if not apart["prompt"] and row.get("prompt"):
        apart["prompt"] = [{"role": "user", "content": row["prompt"]}]
    return {name: apart[name] for name in PAIR}


def tokenised(config: RunConfig, store: Store) -> Pairs:
    """The pairs as token ids, without those whose prompt alone fills `max_length`.

    Raises:
        ConfigError: no pair is left.
    """
    tokens = tokenizer(config.model, store)
    train, test = (token_ids(pairs, tokens) for pairs in load_pairs(config.dataset, store))
    fitting_train, fitting_test = (_fitting(pairs, config.trainer.max_length) for pairs in (train, test))
    dropped = len(train) - len(fitting_train)
    if dropped:
        LOG.warning("%d of %d training pairs dropped: their prompt alone fills max_length", dropped, len(train))
    return Pairs(fitting_train, fitting_test, dropped)


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
        raise ConfigError(f"trainer.max_length={max_length}: every prompt fills it; the shortest has {shortest} tokens")
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
