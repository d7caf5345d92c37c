"""Whose column is which of ours, and which of them rows lack.

Owns: our names of columns; that a name with dots leads into a column (`data.prompt`), and that a column which is named
as null (`input: null`) is not wanted.
Must not know: what a column says, known data sets, files.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from launcher.config import Dataset
from launcher.errors import UNSAID, ConfigError
from launcher.losses import UNPAIRED_LOSSES

Row = Mapping[str, Any]
Rows = Sequence[Row]

PAIR = ("prompt", "chosen", "rejected")
UNPAIRED = ("prompt", "completion", "label")
SYSTEM = "system"
COMPARED = ("first", "second", "better")  # two answers, and what says which of them is chosen
RANKED = "ranked"  # answers with their ranks in one column
JOINED = ("input", "history")  # what belongs to a prompt in text: what follows it, and earlier turns


def named(columns: Mapping[str, str | None]) -> dict[str, str]:
    """Our names of columns with theirs, without what is not wanted."""
    return {ours: theirs for ours, theirs in columns.items() if theirs is not None}


def wanted(rows: Rows, dataset: Dataset) -> tuple[Rows, Dataset]:
    """The rows without the columns that are not wanted, and the data set with the names of the others."""
    names = named(dataset.columns)
    if unwanted := dataset.columns.keys() - names.keys():
        rows = [{name: value for name, value in row.items() if name not in unwanted} for row in rows]
    return rows, replace(dataset, columns={**names})


def columns_of(rows: Rows) -> list[str]:
    """The columns that any of the rows has, in their order."""
    return list(dict.fromkeys(name for row in rows for name in row))


def outer(name: str) -> str:
    """The column in which a name with dots lies."""
    return name.partition(".")[0]


def is_there(name: str, found: Collection[str]) -> bool:
    """Whether rows with the columns `found` have that column, or the one that a name with dots leads into."""
    return name in found or outer(name) in found


def value_of(row: Row, name: str) -> Any:
    """What a row has in a column, or in one within it; None where it has nothing there."""
    if name in row or "." not in name:
        return row.get(name)
    first, _, rest = name.partition(".")
    inner = row.get(first)
    return value_of(inner, rest) if isinstance(inner, Mapping) else None


def missing_columns(found: Collection[str], dataset: Dataset, *, paired: bool) -> list[str]:
    """The columns, by their own names, that rows with the columns `found` lack."""
    labelled = not paired and is_there((dataset.columns.get("completion") or "completion"), found)  # pairs are split
    return [name for name in needed(UNPAIRED if labelled else PAIR, dataset) if not is_there(name, found)]


def absent(place: str, missing: Sequence[str], found: Collection[str], dataset: Dataset) -> ConfigError:
    """That columns are missing among those that a place has, and how the first of them is named."""
    ours = next((ours for ours, theirs in dataset.columns.items() if theirs == missing[0]), missing[0])
    return ConfigError(
        "dataset.columns",
        UNSAID,
        f"{place} has no column {', '.join(missing)}; it has {', '.join(sorted(found)) or 'no rows'}; "
        f"map ours to its own with +dataset.columns.{ours}=NAME",
    )


def needed(columns: tuple[str, ...], dataset: Dataset) -> list[str]:
    """What must be there: of a pair the answers in one of three forms, and the prompt if it is named."""
    theirs = named(dataset.columns)
    names, parts = columns, [name for name in JOINED if name in theirs]
    if columns is PAIR:
        compared = any(name in theirs for name in COMPARED)
        answers = COMPARED if compared else (RANKED,) if RANKED in theirs else PAIR[1:]
        names = ("prompt", *answers) if "prompt" in theirs or parts else answers
    return [theirs.get(ours, ours) for ours in (*names, *parts)]


def check_columns(columns: tuple[str, ...], found: list[str], dataset: Dataset, where: str) -> None:
    """Whether rows with the columns `found` have what pairs, or labelled completions, must have; `where` names them.

    Raises:
        ConfigError: they do not.
    """
    missing = [name for name in needed(columns, dataset) if not is_there(name, found)]
    if missing:
        labelled = "chosen" in missing and "completion" in found
        more = f"; completions with a label train with loss_type={' or '.join(UNPAIRED_LOSSES)}" if labelled else ""
        raise ConfigError(
            "dataset.name",
            dataset.name,
            f"no column {', '.join(missing)}; found {', '.join(found)} in {where}; see dataset.columns{more}",
        )
