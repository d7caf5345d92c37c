"""What is wrong with where the pairs come from.

Owns: the rules of `dataset`: its columns, a mixture's parts, a weaker model's completions.
Must not know: files, which `local_files` and `prerequisites` look at; whatever else a configuration has.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from launcher.config import WEAK_REJECTS, Dataset, Part, WeakRejects
from launcher.dataset.columns import COMPARED, JOINED, PAIR, RANKED, SYSTEM, UNPAIRED, named
from launcher.dataset.naming import piece_of
from launcher.dataset.shown import GIVEN
from launcher.errors import UNSAID, ConfigError, suggestion
from launcher.machine.locate import place_of

COLUMNS = (*dict.fromkeys((*PAIR, *UNPAIRED)), *COMPARED, RANKED, SYSTEM, *JOINED, *GIVEN)
DTYPES = ("auto", "float32", "bfloat16")  # not float16: small gradients become 0
QUANTIZATIONS = ("4bit",)


def dataset_problems(dataset: Dataset) -> Iterator[ConfigError]:
    """Each in one line, with key, value and remedy."""
    yield from _column_problems("dataset.columns", named(dataset.columns), COLUMNS)
    yield from _mixture_problems(dataset)
    yield from _weak_rejects_problems(dataset)
    yield from _revision_problems(dataset)
    yield from _naming_problems(dataset)
    if sum(source is not None for source in (dataset.path, dataset.builder, dataset.mixture)) != 1:
        yield ConfigError(
            "dataset.path",
            dataset.path,
            "give one of dataset.path (a Hub id, folder or file), dataset.builder and dataset.mixture",
        )


def _revision_problems(dataset: Dataset) -> Iterator[ConfigError]:
    if dataset.revision is not None and dataset.path is None:
        yield ConfigError(
            "dataset.revision", dataset.revision, "goes with dataset.path alone; a part of a mixture has its own"
        )
    named = {"dataset": dataset.revision}
    named |= {f"dataset.mixture[{number}]": part.revision for number, part in enumerate(dataset.mixture or [])}
    for key, revision in named.items():
        if not isinstance(revision, str | None):
            yield ConfigError(f"{key}.revision", revision, "must be text; write it in quotes")


def _naming_problems(dataset: Dataset) -> Iterator[ConfigError]:
    """Of the keys that say which files of a repository or folder are meant, and of the splits' names."""
    named: list[tuple[str, Dataset | Part | WeakRejects]] = [("dataset", dataset)]
    named += [(f"dataset.mixture[{number}]", part) for number, part in enumerate(dataset.mixture or [])]
    named += [] if dataset.weak_rejects is None else [("dataset.weak_rejects", dataset.weak_rejects)]
    for key, each in named:
        given = [name for name in ("config", "data_dir", "data_files") if getattr(each, name) is not None]
        if given and each.path is None:
            remedy = "goes with dataset.path alone; a part of a mixture, or instructions, have their own"
            yield ConfigError(f"{key}.{given[0]}", getattr(each, given[0]), remedy)
        if given[:1] == ["config"] and given[1:]:
            remedy = f"says which files are meant, as {key}.config does; give one of the two"
            yield ConfigError(f"{key}.{given[1]}", getattr(each, given[1]), remedy)
        yield from _pattern_problems(f"{key}.data_files", each.data_files)
        for name in ("train_split", "test_split"):
            split = getattr(each, name, None)
            if split is not None and piece_of(split) is None:
                yield ConfigError(
                    f"{key}.{name}", split, "must be the name of a split, or a piece of one such as train[:1000] or "
                    "train[10%:90%]; several splits are put together as the parts of dataset.mixture"
                )  # fmt: skip


def _pattern_problems(key: str, data_files: Mapping[str, Any] | None) -> Iterator[ConfigError]:
    for split, patterns in (data_files or {}).items():
        each = [patterns] if isinstance(patterns, str) else patterns
        if not isinstance(each, list) or not each or not all(isinstance(pattern, str) for pattern in each):
            yield ConfigError(
                f"{key}.{split}", patterns, "must be a path in the data set, a pattern, or a list of them"
            )


def _column_problems(key: str, columns: Collection[str], known: Collection[str]) -> Iterator[ConfigError]:
    for name in columns:
        if name not in known:
            near = suggestion(name, known)
            yield ConfigError(f"{key}.{name}", UNSAID, f"no column of ours{near}; there are: {', '.join(known)}")


def _mixture_problems(dataset: Dataset) -> Iterator[ConfigError]:
    if dataset.mixture == []:
        yield ConfigError("dataset.mixture", dataset.mixture, "holds no part; give at least one {path, fraction}")
    for number, part in enumerate(dataset.mixture or []):
        if not 0 < part.fraction <= 1:
            yield ConfigError(
                f"dataset.mixture[{number}].fraction", part.fraction, "must be greater than 0 and at most 1"
            )
        yield from _column_problems(f"dataset.mixture[{number}].columns", named(part.columns or {}), COLUMNS)
        if place_of(part.path).is_relative:
            yield ConfigError(f"dataset.mixture[{number}].path", part.path, "a part on disk needs its absolute path")


def _weak_rejects_problems(dataset: Dataset) -> Iterator[ConfigError]:
    weak, key = dataset.weak_rejects, "dataset.weak_rejects"
    if (dataset.builder == WEAK_REJECTS) != (weak is not None):
        yield ConfigError(
            "dataset.builder", dataset.builder, f"{key} goes with {WEAK_REJECTS} alone; choose dataset={WEAK_REJECTS}"
        )
    if weak is None:
        return
    yield from _column_problems(f"{key}.columns", weak.columns, weak.named())
    if (weak.model.path is None) == (weak.model.architecture is None):
        yield ConfigError(
            f"{key}.model.path", weak.model.path, "give either a path (a Hub id or a folder) or an architecture"
        )
    if weak.model.quantization not in (None, *QUANTIZATIONS):
        yield ConfigError(
            f"{key}.model.quantization", weak.model.quantization, f"must be one of {', '.join(QUANTIZATIONS)}, or null"
        )
    if weak.model.dtype not in DTYPES:
        yield ConfigError(f"{key}.model.dtype", weak.model.dtype, f"must be one of {', '.join(DTYPES)}")
    if not (weak.temperature >= 0 and math.isfinite(weak.temperature)):
        yield ConfigError(
            f"{key}.temperature", weak.temperature, "must be a number of at least 0; 0: always the likeliest token"
        )
    for name, path in (("path", weak.path), ("model.path", weak.model.path)):
        if place_of(path).is_relative:
            yield ConfigError(f"{key}.{name}", path, "what is on disk needs its absolute path")
