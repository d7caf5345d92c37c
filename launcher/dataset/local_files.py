"""Data sets that lie in files, as the login node sees them: which file is a split, its rows, its prompts' lengths.

Owns: how much of such a file the login node looks at, and what it says of it.
Must not know: what a sweep is, where models come from, how files are read (`rows`) and rows understood (`shapes`).
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from launcher.config import WEAK_REJECTS, Dataset, Model, RunConfig
from launcher.dataset import shapes, shown
from launcher.dataset.rows import Row, read_rows
from launcher.errors import UNSAID, ConfigError
from launcher.machine.locate import DATA_SUFFIXES, place_of
from launcher.model.template import template_here

# The keys of instructions that a weaker model answers, which are read as a data set: what takes the place of what.
INSTRUCTION_KEYS = {f"dataset.{key}": f"dataset.{WEAK_REJECTS}.{key}" for key in ("path", "revision")}
NAME_SPLIT = "name a file without its ending, or give one file as dataset.path, whose last tenth is held out"
HELD_OUT = 0.1  # of a data set that is one file
CHECKED_ROWS, CHECKED_SECONDS = 20_000, 5.0  # of a data file, on the login node
PROMPTS = 2000  # in which a prompt that fits is looked for
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
    file = split_file(path, split)
    if file is None:
        there = ", ".join(sorted(each.name for each in path.iterdir())) or "nothing"
        key = "train_split" if split == dataset.train_split else "test_split"
        words = f"no {split}.jsonl, .json or .parquet in {path}; found {there}"
        raise ConfigError(f"dataset.{key}", split, f"{words}; {NAME_SPLIT}")
    return file


def held_out_of(count: int, test_pairs: int | None) -> int:
    """How many of a file's `count` rows are held out, where the file is all of the data.

    Raises:
        ConfigError: none would be left to train on.
    """
    held_out = test_pairs or max(1, int(count * HELD_OUT))
    if held_out >= count:
        raise ConfigError("dataset.test_pairs", held_out, f"the file has only {count} pairs, none is left to train")
    return held_out


def split_file(folder: Path, split: str) -> Path | None:
    """The file of a folder that is named by a split; None without one."""
    files = (folder / f"{split}{suffix}" for suffix in DATA_SUFFIXES)
    return next((file for file in files if file.is_file()), None)


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


def check_rows(dataset: Dataset, model: Model, file: Path, *, paired: bool) -> list[str]:
    """Whether the rows of a file can be trained on: all of them, or of a large file those that are read in a moment.

    Returns:
        What is to be known: how many rows are left out and why, and that more of them are in the file.

    Raises:
        ConfigError: the file cannot be read, a column is missing, what is in a row cannot be trained on, or the
            model's chat template does not show it.
    """
    rows, whole = first_rows(file)
    if whole and rows and _split_of(file, dataset)[0] == "dataset.path":
        held_out_of(len(rows), dataset.test_pairs)
    if not rows:
        raise ConfigError(*_split_of(file, dataset), f"{file} has no rows; give a file with rows")
    found = shapes.columns_of(rows)
    if missing := shapes.missing_columns(found, dataset, paired=paired):
        raise ConfigError(
            "dataset.columns",
            UNSAID,
            f"{file} has no column {', '.join(missing)}; it has {', '.join(sorted(found)) or 'no rows'}; "
            "map ours to its own with +dataset.columns.chosen=NAME",
        )
    examples = (shapes.pairs if paired else shapes.unpaired)(rows, dataset, str(file))
    faults = Counter(example.fault for example in examples if example.fault)
    counted = ", ".join(f"{count} {fault}" for fault, count in faults.items())
    if whole and faults.total() == len(rows):
        raise ConfigError(*_split_of(file, dataset), f"{file}: none of its rows can be used: {counted}")
    if template := template_here(model):
        shown.check_template([each.values for each in examples if each.fault is None], template.text, model.name)
    told = [f"{faults.total()} of {len(rows)} rows are left out: {counted}"] if faults else []
    more = [] if whole else [f"its first {len(rows)} rows have been looked at; a job looks at the others"]
    return [f"{file}: {note}" for note in (*told, *more)]


def _split_of(file: Path, dataset: Dataset) -> tuple[str, str | None]:
    """The key that names a file, and its value: that of its split, or the path of a file that holds both."""
    train, test = (local_file(dataset, split) for split in (dataset.train_split, dataset.test_split))
    if train == test:
        return "dataset.path", dataset.path
    return ("dataset.train_split", dataset.train_split) if file == train else ("dataset.test_split", dataset.test_split)


def first_rows(file: Path) -> tuple[list[Row], bool]:
    """The rows of a file that can be read in a moment, and whether they are all of them."""
    rows: list[Row] = []
    until = time.monotonic() + CHECKED_SECONDS
    for row in read_rows(file):
        if len(rows) == CHECKED_ROWS or time.monotonic() > until:
            return rows, False
        rows.append(row)
    return rows, True


def check_length(config: RunConfig) -> None:
    """Whether at least one prompt of each split leaves room for an answer.

    Raises:
        ConfigError: none does.
    """
    for key in ("train_split", "test_split"):
        split = getattr(config.dataset, key)
        prompts = [prompt for prompt in _prompts(config.dataset, split) if isinstance(prompt, str)]
        if prompts:
            of_split = "" if key == "train_split" else f" of dataset.{key}={split}"
            _check_shortest(min(prompts, key=lambda prompt: len(prompt.encode())), of_split, config)


def _check_shortest(prompt: str, of_split: str, config: RunConfig) -> None:
    limit = config.trainer.max_length
    if len(prompt.encode()) < limit:  # a token is at least a byte
        return
    tokens = _count_tokens(config.model, prompt)
    if tokens >= limit:
        raise ConfigError(
            "trainer.max_length",
            limit,
            f"the shortest prompt{of_split} has {tokens} tokens, which leaves no room for an answer; "
            f"give more than {tokens}",
        )


def _prompts(dataset: Dataset, split: str) -> Iterable[Any]:
    file = local_file(dataset, split)
    if file is None:
        return dataset.prompts
    column = dataset.columns.get("prompt", "prompt")
    return [row.get(column) for row, _ in zip(read_rows(file), range(PROMPTS), strict=False)]


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
