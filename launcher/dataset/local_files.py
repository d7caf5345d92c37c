"""Data sets that lie in files, as the login node sees them: the files of a split, its rows, its prompts' lengths.

Owns: how much of such a file the login node looks at, and what it says of it.
Must not know: what a sweep is, where models come from, how files are read (`rows`) and rows understood (`shapes`).
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from launcher.config import WEAK_REJECTS, Dataset, Model, Part, RunConfig, WeakRejects
from launcher.dataset import schemas, shapes, shown
from launcher.dataset.columns import absent, columns_of, missing_columns, wanted
from launcher.dataset.layouts import Listing, is_whole_table, split_files
from launcher.dataset.naming import is_cut, naming_of
from launcher.dataset.rows import Row, read_all
from launcher.errors import ConfigError, number_of
from launcher.machine.imports import NOTHING_COMPILED
from launcher.machine.locate import place_of
from launcher.model.template import Template, template_here

# The keys of instructions that a weaker model answers, which are read as a data set: what takes the place of what.
SOURCE_KEYS = ("path", "revision", "config", "data_dir", "data_files")
INSTRUCTION_KEYS = {f"dataset.{key}": f"dataset.{WEAK_REJECTS}.{key}" for key in SOURCE_KEYS}
HELD_OUT = 0.1  # of a data set that is one file
CHECKED_ROWS, CHECKED_SECONDS = 20_000, 5.0  # of a data file, on the login node
PROMPTS = 2000  # in which a prompt that fits is looked for
TOKEN_COUNT_SECONDS = 120
_MARK = re.compile(r"<\|?\w+\|?>|\[/?INST\]")  # sets off turns in a template, hence stands in a text that was rendered


def parts_of(dataset: Dataset) -> list[Dataset]:
    """The data set, or each part of a mixture as one; what a part does not say, it has from the mixture."""
    return [
        replace(
            dataset,
            **_source_of(part),
            train_split=part.train_split or dataset.train_split,
            test_split=part.test_split or dataset.test_split,
            columns=dataset.columns if part.columns is None else part.columns,
            train_pairs=None,
            test_pairs=None,
            mixture=None,
        )
        for part in dataset.mixture or []
    ] or [dataset]


def sources_in(dataset: Dataset) -> list[tuple[str, Dataset]]:
    """What the rows come from, each as a data set, with the section of the configuration that names it."""
    if dataset.mixture is not None:
        return [(f"dataset.mixture[{number}]", part) for number, part in enumerate(parts_of(dataset))]
    if (weak := dataset.weak_rejects) is not None:
        return [(f"dataset.{WEAK_REJECTS}", instructions_of(dataset, weak))]
    return [("dataset", dataset)]


def instructions_of(dataset: Dataset, weak: WeakRejects) -> Dataset:
    """The instructions that a weaker model answers, as a data set."""
    return replace(dataset, builder=None, weak_rejects=None, **_source_of(weak))


def _source_of(named: Part | WeakRejects) -> dict[str, Any]:
    return {key: getattr(named, key) for key in SOURCE_KEYS}


def local_files(dataset: Dataset, key: str) -> list[Path]:
    """The files of a split of a local data set, in order; none for one on the Hub, or one that we build.

    Args:
        dataset: the data set.
        key: whose value the split is: train_split or test_split.

    Raises:
        ConfigError: the path is neither there nor of a Hub data set's form, or has no such split, or not all of it.
    """
    path = None if dataset.path is None else on_disk("dataset.path", dataset.path, dataset.revision)
    if path is None or path.is_file():
        return [] if path is None else [path]
    return split_of(path, dataset, key)


def split_of(folder: Path, dataset: Dataset, key: str) -> list[Path]:
    """The files of a folder that are a split, in order; of one table without splits all of them."""
    names = split_files(listing_of(folder), naming_of(dataset), f"dataset.{key}", getattr(dataset, key))
    return [folder / name for name in names]


def has_splits(path: Path, dataset: Dataset) -> bool:
    """Whether a file or folder has splits, rather than being one table."""
    return path.is_dir() and not is_whole_table(listing_of(path), naming_of(dataset))


def check_pieces(dataset: Dataset) -> None:
    """That of one table without splits either both splits are pieces, or none is.

    Raises:
        ConfigError: one of them is.
    """
    place = None if dataset.path is None else place_of(dataset.path).path
    cut = [is_cut(split) for split in (dataset.train_split, dataset.test_split)]
    if place is not None and place.exists() and any(cut) and not all(cut) and not has_splits(place, dataset):
        key = "dataset.test_split" if cut[0] else "dataset.train_split"
        remedy = f"{place} is one table without splits; give a piece here too, such as train[90%:], or none at all"
        raise ConfigError(key, getattr(dataset, key.rpartition(".")[2]), remedy)


def listing_of(folder: Path) -> Listing:
    """What a folder holds, less what is hidden."""
    found = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()]
    names = [name.as_posix() for name in found if not any(part.startswith(".") for part in name.parts)]

    def read(name: str) -> str | None:
        file = folder / name
        return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else None

    return Listing(str(folder), names, read)


def held_out_of(count: int, test_pairs: int | None) -> int:
    """How many of a file's `count` rows are held out, where the file is all of the data.

    Raises:
        ConfigError: none would be left to train on.
    """
    held_out = test_pairs or max(1, int(count * HELD_OUT))
    if held_out >= count:
        raise ConfigError(
            "dataset.test_pairs", held_out, f"the file has only {number_of(count, 'pair')}, none is left to train"
        )
    return held_out


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


def check_rows(dataset: Dataset, model: Model, *files: Path, paired: bool) -> list[str]:
    """Whether the rows of a split can be trained on: all of them, or of a large one those that are read in a moment.

    Returns:
        What is to be known: how many rows are left out and why, and that more of them are in the file.

    Raises:
        ConfigError: a file cannot be read, a column is missing, what is in a row cannot be trained on, or the
            model's chat template does not show it.
    """
    rows, whole = first_rows(*files)
    file = files[0] if len(files) == 1 else f"{files[0].parent} ({len(files)} files)"
    named = _split_of(files, dataset)
    if whole and rows and named[0] == "dataset.path" and not is_cut(dataset.train_split):
        held_out_of(len(rows), dataset.test_pairs)
    if not rows:
        raise ConfigError(*named, f"{file} has no rows; give a file with rows")
    rows_wanted, dataset = wanted(rows, dataset)
    found = columns_of(rows_wanted)
    known, how = schemas.recognised(rows_wanted, found, dataset)
    if missing := missing_columns(found, known, paired=paired):
        raise absent(str(file), missing, found, dataset)
    examples = (shapes.pairs if paired else shapes.unpaired)(rows_wanted, dataset, str(file))
    faults = Counter(example.fault for example in examples if example.fault)
    counted = ", ".join(f"{count} {fault}" for fault, count in faults.items())
    if whole and faults.total() == len(rows):
        raise ConfigError(*named, f"{file}: none of its rows can be used: {counted}")
    usable = [each.values for each in examples if each.fault is None]
    if template := template_here(model):
        shown.check_template(usable, template.text, model.name)
    told = [*([how] if how else []), *_notes(examples, how, len(rows)), *_untemplated(usable, model, template)]
    told += [f"{faults.total()} of {len(rows)} rows are left out: {counted}"] if faults else []
    more = [] if whole else [f"its first {len(rows)} rows have been looked at; a job looks at the others"]
    return [f"{file}: {note}" for note in (*told, *more)]


def _untemplated(usable: Iterable[Mapping[str, Any]], model: Model, template: Template | None) -> list[str]:
    """A word where a model that has a chat template is to be trained on plain text that nobody has rendered with it."""
    if model.architecture is not None or template is None or template.text is None:
        return []
    marks = set(_MARK.findall(str(template.text)))
    prompts = [values["prompt"] for values in usable]
    if not all(isinstance(prompt, str) and marks.isdisjoint(_MARK.findall(prompt)) for prompt in prompts):
        return []
    remedy = 'give messages, [{"role": "user", "content": ...}], to train it as it is talked to'
    return [f"its prompts are plain text, which {model.name}'s chat template does not render; {remedy}"]


def _notes(examples: Iterable[shapes.Example], how: str | None, count: int) -> list[str]:
    """What has been made of rows that is not plain, and which columns are not used."""
    notes = Counter(note for example in examples for note in example.notes if note != how)
    unused = [
        note.removeprefix("column ").removesuffix(shapes.NOT_USED) for note in notes if note.endswith(shapes.NOT_USED)
    ]
    made = [f"{number} of {count} rows: {note}" for note, number in notes.items() if not note.endswith(shapes.NOT_USED)]
    return [*made, *([f"columns not used: {', '.join(unused)}"] if unused else [])]


def _split_of(files: Sequence[Path], dataset: Dataset) -> tuple[str, str | None]:
    """The key that names these files, and its value: that of their split, or the path of what holds both."""
    train, test = (local_files(dataset, key) for key in ("train_split", "test_split"))
    if train == test:
        return "dataset.path", dataset.path
    key = "train_split" if list(files) == train else "test_split"
    return f"dataset.{key}", getattr(dataset, key)


def first_rows(*files: Path) -> tuple[list[Row], bool]:
    """The rows of a split that can be read in a moment, and whether they are all of them."""
    rows: list[Row] = []
    until = time.monotonic() + CHECKED_SECONDS
    for row in read_all(files):
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
        prompts = [prompt for prompt in _prompts(config.dataset, key) if isinstance(prompt, str)]
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


def _prompts(dataset: Dataset, key: str) -> Iterable[Any]:
    files = local_files(dataset, key)
    if not files:
        return dataset.prompts
    column = dataset.columns.get("prompt") or "prompt"
    return [row.get(column) for row, _ in zip(read_all(files), range(PROMPTS), strict=False)]


def _count_tokens(model: Model, text: str) -> int:
    """Tokens of a text, counted by the model's tokenizer in a process of its own, as that imports transformers.

    Raises:
        ConfigError: the tokenizer cannot be loaded.
    """
    question = json.dumps({"model": asdict(model), "text": text})
    command = [sys.executable, "-m", "launcher.worker.tokens"]
    done = subprocess.run(
        command,
        input=question,
        env={**os.environ, **NOTHING_COMPILED},
        capture_output=True,
        text=True,
        timeout=TOKEN_COUNT_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise ConfigError("model.path", model.path, f"its tokenizer cannot be loaded ({last[0]})")
    return int(done.stdout.split()[-1])
