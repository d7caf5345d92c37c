"""The rows of a data set: a builder's, a file's, a folder's, the Hub's, or a mixture of several.

Owns: finding and reading the training and the held-out split, limits, and how the parts of a mixture are put together.
Must not know: tokens, models, losses.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import datasets
import pyarrow.parquet
from datasets import Dataset

from launcher.config import Dataset as DatasetConfig
from launcher.config import Part
from launcher.dataset.builders import BUILDERS
from launcher.dataset.local_files import INSTRUCTION_KEYS, parts_of
from launcher.errors import UNSAID, ConfigError
from launcher.hub.sources import commit_of, dataset_sources
from launcher.machine.locate import DATA_SUFFIXES, place_of
from launcher.store.output_folder import Store
from launcher.worker.dataset import hub_rows, weak_rejects

HELD_OUT = 0.1  # of a data set that is one file
MIXING_SEED = 0  # the same order in every run, so that a smaller train_pairs is the beginning of a larger one

Shape = Callable[[Dataset, DatasetConfig], Dataset]


def read(dataset: DatasetConfig, store: Store, shape: Shape) -> tuple[Dataset, Dataset]:
    """The training and the held-out rows, each part brought into one shape.

    Limits take the first rows of a split, in its own order: the trainer shuffles, and a longer limit then holds
    what a shorter one held. Of a mixture's part, `fraction` takes the first rows of its training split in the same
    way; its held-out rows are all there, whatever the fraction. The training rows of a mixture are shuffled once.

    Args:
        dataset: what to read.
        store: where builders keep what they built.
        shape: gives the rows of one source our columns (see `shapes`).

    Raises:
        ConfigError: the data set is not there, or `shape` cannot use its columns.
    """
    if dataset.mixture is None:
        train, test = read_source(dataset, store)
        first_train, first_test = _first(train, dataset.train_pairs), _first(test, dataset.test_pairs)
        return shape(first_train, dataset), shape(first_test, dataset)
    each = zip(dataset.mixture, sources_of(dataset), strict=True)
    parts = [_read_part(part, source, store, shape) for part, source in each]
    train = _concatenated([train for train, _ in parts], dataset).shuffle(seed=MIXING_SEED)
    test = _concatenated([test for _, test in parts], dataset)
    return _first(train, dataset.train_pairs), _first(test, dataset.test_pairs)


def sources_of(dataset: DatasetConfig) -> list[DatasetConfig]:
    """What the rows come from: the data set, a mixture's parts, or the instructions that a weaker model answers."""
    if dataset.mixture is not None:
        return parts_of(dataset)
    if (weak := dataset.weak_rejects) is not None:
        return [replace(dataset, builder=None, weak_rejects=None, path=weak.path, revision=weak.revision)]
    return [dataset]


def _read_part(part: Part, dataset: DatasetConfig, store: Store, shape: Shape) -> tuple[Dataset, Dataset]:
    train, test = read_source(dataset, store)
    return shape(_first(train, max(1, int(part.fraction * len(train)))), dataset), shape(test, dataset)


def _concatenated(parts: list[Dataset], dataset: DatasetConfig) -> Dataset:
    kinds = {part.features.arrow_schema.field("prompt").type for part in parts}
    if len(kinds) > 1:
        raise ConfigError(
            "dataset.mixture",
            UNSAID,
            f"the parts of {dataset.name} are plain text in one and messages in another; mix data sets of one kind",
        )
    return datasets.concatenate_datasets(parts)


def _first(rows: Dataset, limit: int | None) -> Dataset:
    return rows if limit is None else rows.select(range(min(limit, len(rows))))


def read_source(dataset: DatasetConfig, store: Store) -> tuple[Dataset, Dataset]:
    """The two splits of one source as they are there, as many rows as are asked for."""
    train, test = _read_splits(dataset, store)
    for key, rows in (("train_split", train), ("test_split", test)):
        if not len(rows):
            raise ConfigError(f"dataset.{key}", UNSAID, f"{dataset.path or dataset.builder} holds no pairs there")
    return train, test


def _read_splits(dataset: DatasetConfig, store: Store) -> tuple[Dataset, Dataset]:
    if dataset.weak_rejects is not None:
        folder = weak_rejects.ensure_pairs(dataset.weak_rejects, store, *_instructions(dataset, store))
        return _read_folder(folder, replace(dataset, train_split="train", test_split="test"))
    if dataset.builder is not None:
        if dataset.builder not in BUILDERS:
            raise ConfigError("dataset.builder", dataset.builder, f"unknown; there is {', '.join(BUILDERS)}")
        return _read_folder(BUILDERS[dataset.builder](store), dataset)
    if not dataset.path:
        raise ConfigError(
            "dataset.path", UNSAID, "neither a path nor a builder is given; give a Hub id, a folder or a file"
        )
    place = place_of(dataset.path)
    if place.kind == "hub":  # whatever folder of that name the job may have been started beside
        return _read_hub(dataset, "train_split", store), _read_hub(dataset, "test_split", store)
    if place.path is not None and place.path.is_dir():
        return _read_folder(place.path, dataset)
    if place.path is not None and place.path.is_file():
        return _divided(_read_file(place.path), dataset.test_pairs)
    raise ConfigError("dataset.path", dataset.path, "there is no such folder or file on this machine")


def _instructions(dataset: DatasetConfig, store: Store) -> tuple[Dataset, Dataset]:
    """The rows that a weaker model is to complete, from their own source, no more of them than are wanted."""
    (source,) = sources_of(dataset)
    try:
        train, test = read_source(source, store)
    except ConfigError as error:
        raise error.renamed(INSTRUCTION_KEYS) from error
    return _first(train, dataset.train_pairs), _first(test, dataset.test_pairs)


def _read_folder(folder: Path, dataset: DatasetConfig) -> tuple[Dataset, Dataset]:
    def read_split(key: str, split: str) -> Dataset:
        found = [folder / f"{split}{suffix}" for suffix in DATA_SUFFIXES if (folder / f"{split}{suffix}").is_file()]
        if not found:
            there = ", ".join(sorted(path.name for path in folder.iterdir())) or "nothing"
            raise ConfigError(
                f"dataset.{key}", split, f"no {split}.jsonl, .json or .parquet in {folder}; found {there}"
            )
        return _read_file(found[0])

    return read_split("train_split", dataset.train_split), read_split("test_split", dataset.test_split)


def _read_file(path: Path) -> Dataset:
    try:
        if path.suffix == ".parquet":
            return Dataset(pyarrow.parquet.read_table(path))
        text = path.read_text(encoding="utf-8")
        # splitlines() would also split at U+2028, which a text may hold
        documents = [line for line in text.split("\n") if line.strip()] if path.suffix == ".jsonl" else [text]
        parsed = [json.loads(document) for document in documents]
        return Dataset.from_list(parsed if path.suffix == ".jsonl" else parsed[0])
    except (ValueError, TypeError, AttributeError, OSError) as error:
        raise ConfigError("dataset.path", UNSAID, f"{path} is not readable as {path.suffix[1:]}: {error}") from error


def _divided(rows: Dataset, test_pairs: int | None) -> tuple[Dataset, Dataset]:
    """One file holds no split: its last rows are held out."""
    held_out = test_pairs or max(1, int(len(rows) * HELD_OUT))
    first = len(rows) - held_out
    if first < 1:
        raise ConfigError("dataset.test_pairs", held_out, f"the file has only {len(rows)} pairs, none is left to train")
    return rows.select(range(first)), rows.select(range(first, len(rows)))


def _read_hub(dataset: DatasetConfig, key: str, store: Store) -> Dataset:
    (source,) = dataset_sources(dataset)
    return hub_rows.read(source, commit_of(source, store), f"dataset.{key}", getattr(dataset, key))


def hub_commits(dataset: DatasetConfig, store: Store) -> dict[str, str]:
    """The commits of the Hub data sets that the rows come from, by Hub id, with its revision where there are two."""
    sources = dataset_sources(dataset)
    paths = Counter(source.path for source in sources)
    return {source.path if paths[source.path] == 1 else str(source): commit_of(source, store) for source in sources}
