"""Data sets that lie in files, as the login node sees them: which file is a split, its columns, its prompts' lengths.

Owns: reading such files without the libraries of the compute node, and no more of them than is needed.
Must not know: what a sweep is, where models come from.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from launcher.config import WEAK_REJECTS, Dataset, Model, RunConfig
from launcher.errors import UNSAID, ConfigError
from launcher.machine.locate import DATA_SUFFIXES, place_of

COLUMNS = {True: ("chosen", "rejected"), False: ("prompt", "completion", "label")}  # whether paired
# The keys of instructions that a weaker model answers, which are read as a data set: what takes the place of what.
INSTRUCTION_KEYS = {f"dataset.{key}": f"dataset.{WEAK_REJECTS}.{key}" for key in ("path", "revision")}
CHECKED_ROWS = 2000  # of a data file, when looking for a prompt that fits
TOKEN_COUNT_SECONDS = 120


def parts_of(dataset: Dataset) -> list[Dataset]:
    """The data set, or each part of a mixture as one; what a part does not say, it has from the mixture."""
    return [
        replace(
            dataset,
            path=part.path,
            revision=part.revision,
            train_split=part.train_split or dataset.train_split,
            test_split=part.test_split or dataset.test_split,
            columns=dataset.columns if part.columns is None else part.columns,
            train_pairs=None,
            test_pairs=None,
            mixture=None,
        )
        for part in dataset.mixture or []
    ] or [dataset]


def local_file(dataset: Dataset, split: str) -> Path | None:
    """The file of a split of a local data set; None for one on the Hub, or one that we build.

    Raises:
        ConfigError: the path is neither there nor of a Hub data set's form, or has no file of that split.
    """
    path = None if dataset.path is None else on_disk("dataset.path", dataset.path, dataset.revision)
    if path is None or path.is_file():
        return path
    files = [path / f"{split}{suffix}" for suffix in DATA_SUFFIXES if (path / f"{split}{suffix}").is_file()]
    if not files:
        raise ConfigError("dataset.path", dataset.path, f"has no {split}.jsonl or {split}.parquet")
    return files[0]


def on_disk(key: str, path: str, revision: str | None, kind: str = "file or folder") -> Path | None:
    """Where on this machine lies what a path means, of a kind that is named in errors; None for a name on the Hub.

    Raises:
        ConfigError: it is not there, or its path does not say from where.
    """
    place = place_of(path)
    if place.kind == "hub":
        if revision is None:
            check_absolute(key, Path(path))  # a folder of that name here may be what is meant
        return None
    if place.path is None or not place.path.exists():
        raise ConfigError(key, path, f"no such {kind}, nor of the form ORG/NAME of the Hub")
    check_absolute(key, place.path)
    return place.path


def check_absolute(key: str, path: Path) -> None:
    """Whether what a path names does not depend on the folder in which the launcher, or a job, was started.

    Raises:
        ConfigError: it does, and what to give instead.
    """
    if path.exists() and not path.is_absolute():
        raise ConfigError(key, path, f"what is on disk needs its absolute path; give {key}={path.resolve()}")


def check_columns(dataset: Dataset, file: Path, *, paired: bool) -> None:
    """Whether the file's first row has the columns that training needs, under the names that are mapped to ours.

    Raises:
        ConfigError: what is missing, and what there is.
    """
    found = next((set(row) for row in read_rows(file)), set())
    paired = paired or dataset.columns.get("completion", "completion") not in found  # pairs are split for kto
    named = dataset.columns.keys() & {"prompt"}  # else it may be the beginning of both completions
    needed = [dataset.columns.get(column, column) for column in (*(named if paired else ()), *COLUMNS[paired])]
    missing = [column for column in needed if column not in found]
    if missing:
        raise ConfigError(
            "dataset.columns",
            UNSAID,
            f"{file} has no column {', '.join(missing)}; it has "
            f"{', '.join(sorted(found)) or 'no rows'}; map ours to its own with +dataset.columns.chosen=NAME",
        )


def read_rows(file: Path) -> Iterator[dict[str, Any]]:
    """The rows of a jsonl or parquet file, read as they are asked for.

    Raises:
        ConfigError: a line is not JSON.
    """
    if file.suffix == ".parquet":
        parquet = importlib.import_module("pyarrow.parquet")
        for batch in parquet.ParquetFile(file).iter_batches(CHECKED_ROWS):
            yield from batch.to_pylist()
        return
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                yield json.loads(line)
            except ValueError as error:
                raise ConfigError("dataset.path", file, f"line {number} is not JSON ({error})") from error


def check_length(config: RunConfig) -> None:
    """Whether at least one prompt of the training split leaves room for an answer.

    Raises:
        ConfigError: none does.
    """
    prompts = [prompt for prompt in _prompts(config.dataset) if isinstance(prompt, str)]
    if not prompts:
        return
    shortest = min(prompts, key=lambda prompt: len(prompt.encode()))
    limit = config.trainer.max_length
    if len(shortest.encode()) < limit:  # a token is at least a byte
        return
    tokens = _count_tokens(config.model, shortest)
    if tokens >= limit:
        raise ConfigError(
            "trainer.max_length",
            limit,
            f"the shortest prompt has {tokens} tokens, which leaves no room for an answer; give more than {tokens}",
        )


def _prompts(dataset: Dataset) -> Iterable[Any]:
    file = local_file(dataset, dataset.train_split)
    if file is None:
        return dataset.prompts
    column = dataset.columns.get("prompt", "prompt")
    return [row.get(column) for row, _ in zip(read_rows(file), range(CHECKED_ROWS), strict=False)]


def _count_tokens(model: Model, text: str) -> int:
    """Tokens of a text, counted by the model's tokenizer in a process of its own, as that imports transformers.

    Raises:
        ConfigError: the tokenizer cannot be loaded.
    """
    question = json.dumps({"model": asdict(model), "text": text})
    command = [sys.executable, "-m", "launcher.worker.tokens"]
    done = subprocess.run(
        command, input=question, capture_output=True, text=True, timeout=TOKEN_COUNT_SECONDS, check=False
    )
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise ConfigError("model.path", model.path, f"its tokenizer cannot be loaded ({last[0]})")
    return int(done.stdout.split()[-1])
