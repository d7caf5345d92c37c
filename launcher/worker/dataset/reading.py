"""The rows of a data set: a builder's, a file's, a folder's, the Hub's, or a mixture of several.

Owns: finding and reading the training and the held-out split, limits, and how the parts of a mixture are put together.
Must not know: tokens, models, losses.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import overload

import numpy
from datasets import Dataset

from launcher.config import Dataset as DatasetConfig
from launcher.config import Part
from launcher.dataset import shapes
from launcher.dataset.builders import BUILDERS
from launcher.dataset.columns import Row, Rows
from launcher.dataset.local_files import INSTRUCTION_KEYS, has_splits, held_out_of, sources_in, split_of
from launcher.dataset.naming import base_of, is_cut, naming_of, piece_of
from launcher.dataset.rows import read_all, without_nulls
from launcher.dataset.shapes import Example
from launcher.errors import UNSAID, ConfigError
from launcher.hub.sources import commit_of, dataset_sources
from launcher.machine.locate import place_of
from launcher.store.output_folder import Store
from launcher.worker.dataset import hub_rows, weak_rejects

MIXING_SEED = 0  # the same order in every run, so that a smaller train_pairs is the beginning of a larger one

Shape = Callable[[Rows, DatasetConfig, str], list[Example]]


def read(dataset: DatasetConfig, store: Store, shape: Shape) -> tuple[list[Example], list[Example]]:
    """The training and the held-out rows, each part brought into one shape.

    Limits take the first rows of a split, in its own order: the trainer shuffles, and a longer limit then holds
    what a shorter one held. Of a mixture's part, `fraction` takes the first rows of its training split in the same
    way; its held-out rows are all there, whatever the fraction. The training rows of a mixture are shuffled once.

    Args:
        dataset: what to read.
        store: where builders keep what they built.
        shape: gives the rows of one source our columns (see `dataset.shapes`).

    Raises:
        ConfigError: the data set is not there, or `shape` cannot use its columns.
    """
    if dataset.mixture is None:
        train, test = read_source(dataset, store)
        return _shaped(shape, dataset, train[: dataset.train_pairs], test[: dataset.test_pairs])
    each = zip(dataset.mixture, sources_of(dataset), strict=True)
    parts = [_read_part(part, source, store, shape) for part, source in each]
    joined = _joined([of_part for of_part, _ in parts], dataset)
    held_out = _joined([of_part for _, of_part in parts], dataset)
    mixed = [joined[place] for place in numpy.random.default_rng(MIXING_SEED).permutation(len(joined))]
    return mixed[: dataset.train_pairs], held_out[: dataset.test_pairs]


def sources_of(dataset: DatasetConfig) -> list[DatasetConfig]:
    """What the rows come from: the data set, a mixture's parts, or the instructions that a weaker model answers."""
    return [each for _, each in sources_in(dataset)]


def _read_part(part: Part, dataset: DatasetConfig, store: Store, shape: Shape) -> tuple[list[Example], list[Example]]:
    train, test = read_source(dataset, store)
    return _shaped(shape, dataset, train[: max(1, int(part.fraction * len(train)))], test)


def _shaped(shape: Shape, dataset: DatasetConfig, train: Rows, test: Rows) -> tuple[list[Example], list[Example]]:
    source = dataset.path or dataset.builder
    return shapes.of_one_kind(
        shape(train, dataset, f"{source}, training split"), shape(test, dataset, f"{source}, held-out split")
    )


def _joined(parts: list[list[Example]], dataset: DatasetConfig) -> list[Example]:
    joined = [example for part in parts for example in part]
    if len({type(example.values["prompt"]) for example in joined if example.fault is None}) > 1:
        raise ConfigError(
            "dataset.mixture",
            UNSAID,
            f"the parts of {dataset.name} are plain text in one and messages in another; mix data sets of one kind",
        )
    return joined


def read_source(dataset: DatasetConfig, store: Store) -> tuple[Rows, Rows]:
    """The two splits of one source as they are there, as many rows as are asked for."""
    train, test = _read_splits(dataset, store)
    for key, rows in (("train_split", train), ("test_split", test)):
        if not len(rows):
            words = f"{dataset.path or dataset.builder} holds no pairs there, in {getattr(dataset, key)}"
            raise ConfigError(f"dataset.{key}", UNSAID, f"{words}; name a split with rows")
    return train, test


def _read_splits(dataset: DatasetConfig, store: Store) -> tuple[Rows, Rows]:
    if dataset.weak_rejects is not None:
        folder = weak_rejects.ensure_pairs(dataset.weak_rejects, store, *_instructions(dataset, store))
        return _read_folder(folder, replace(dataset, path=str(folder), train_split="train", test_split="test"))
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
        return _both(dataset, lambda key: _read_hub(dataset, key, store))
    if place.path is None or not place.path.exists():
        raise ConfigError("dataset.path", dataset.path, "there is no such folder or file on this machine")
    if has_splits(place.path, dataset):
        return _read_folder(place.path, dataset)
    files = [place.path] if place.path.is_file() else split_of(place.path, dataset, "train_split")
    return _divided(list(read_all(files)), dataset)


def _instructions(dataset: DatasetConfig, store: Store) -> tuple[Rows, Rows]:
    """The rows that a weaker model is to complete, from their own source, no more of them than are wanted."""
    (source,) = sources_of(dataset)
    try:
        train, test = read_source(source, store)
    except ConfigError as error:
        raise error.renamed(INSTRUCTION_KEYS) from error
    return train[: dataset.train_pairs], test[: dataset.test_pairs]


def _read_folder(folder: Path, dataset: DatasetConfig) -> tuple[Rows, Rows]:
    return _both(dataset, lambda key: list(read_all(split_of(folder, dataset, key))))


def _both(dataset: DatasetConfig, read_split: Callable[[str], Rows]) -> tuple[Rows, Rows]:
    """The two splits, each read by the key that names it, and of each the piece that is asked for."""
    return _cut(dataset.train_split, read_split("train_split")), _cut(dataset.test_split, read_split("test_split"))


def _cut(split: str, rows: Rows) -> Rows:
    piece = piece_of(split)
    return rows if piece is None or not piece.is_cut else rows[piece.rows(len(rows))]


def _divided(rows: Rows, dataset: DatasetConfig) -> tuple[Rows, Rows]:
    """One table holds no split: its last rows are held out, or the pieces that are asked for are taken."""
    if is_cut(dataset.train_split):
        return _cut(dataset.train_split, rows), _cut(dataset.test_split, rows)
    first = len(rows) - held_out_of(len(rows), dataset.test_pairs)
    return rows[:first], rows[first:]


def _read_hub(dataset: DatasetConfig, key: str, store: Store) -> Rows:
    (source,) = dataset_sources(dataset)
    commit, split = commit_of(source, store), base_of(getattr(dataset, key))
    rows = hub_rows.read(source, commit, f"dataset.{key}", split, naming_of(dataset))
    return TypedRows(rows) if isinstance(rows, Dataset) else rows


@dataclass(frozen=True)
class TypedRows(Sequence[Row]):
    """The rows of a typed table, which stay on disk, without the nulls that the type has put in."""

    table: Dataset

    def __len__(self) -> int:
        return len(self.table)

    @overload
    def __getitem__(self, place: int) -> Row: ...
    @overload
    def __getitem__(self, place: slice) -> TypedRows: ...
    def __getitem__(self, place: int | slice) -> Row | TypedRows:
        if isinstance(place, slice):
            return TypedRows(self.table.select(range(len(self))[place]))
        row: Row = without_nulls(self.table[place])
        return row

    def __iter__(self) -> Iterator[Row]:
        return map(without_nulls, self.table)


def hub_commits(dataset: DatasetConfig, store: Store) -> dict[str, str]:
    """The commits of the Hub data sets that the rows come from, by Hub id, with its revision where there are two."""
    sources = dataset_sources(dataset)
    paths = Counter(source.path for source in sources)
    return {source.path if paths[source.path] == 1 else str(source): commit_of(source, store) for source in sources}
