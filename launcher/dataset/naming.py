"""How a data set names its parts: configurations, folders and files of a repository, and pieces of a split.

Owns: the forms that the Hub and `datasets` know for this, as values.
Must not know: which files there are (`layouts`), rows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from launcher.config import Dataset

PIECE = re.compile(r"(?P<name>[^\[\]+]+)(?:\[(?P<start>-?\d+%?)?:(?P<stop>-?\d+%?)?\])?")
HUNDRED = 100


@dataclass(frozen=True)
class Naming:
    """What tells the data sets of one repository or folder apart; None: whatever its card says.

    Attributes:
        config: the name of a configuration, which some call a subset.
        data_dir: the folder in it.
        data_files: the files of each split, as patterns.
    """

    config: str | None = None
    data_dir: str | None = None
    data_files: Mapping[str, Any] | None = None

    @property
    def names_files(self) -> bool:
        """Whether it says where the files are, rather than leave that to the card."""
        return self.data_dir is not None or self.data_files is not None


def naming_of(dataset: Dataset) -> Naming:
    """What a data set's keys say."""
    return Naming(dataset.config, dataset.data_dir, dataset.data_files)


def patterns_in(data_files: Any) -> dict[str, list[str]]:
    """The patterns of each split, from any of the forms that cards have."""
    if isinstance(data_files, Mapping):
        return {str(split): _listed(each) for split, each in data_files.items()}
    listed: list[Any] = [data_files] if isinstance(data_files, str) else list(data_files or [])
    if all(isinstance(entry, Mapping) for entry in listed):
        return patterns_in({entry.get("split", "train"): entry.get("path", []) for entry in listed})
    return {"train": _listed(listed)}


def _listed(patterns: Any) -> list[str]:
    return [patterns] if isinstance(patterns, str) else list(map(str, patterns))


# ------------------------------------------------------------------------------------------------ pieces of a split


@dataclass(frozen=True)
class Piece:
    """A split, or the rows of it from `start` to before `stop`: numbers, or shares such as `10%`."""

    name: str
    start: str | None = None
    stop: str | None = None
    is_cut: bool = False

    def rows(self, count: int) -> slice:
        """Its rows, of so many."""
        return slice(_place(self.start, count), _place(self.stop, count))


def piece_of(split: str) -> Piece | None:
    """What the text of a split means; None where it is in none of the forms."""
    found = PIECE.fullmatch(split)
    return None if found is None else Piece(found["name"], found["start"], found["stop"], "[" in split)


def is_cut(split: str) -> bool:
    """Whether a piece of the split is meant."""
    piece = piece_of(split)
    return piece is not None and piece.is_cut


def base_of(split: str) -> str:
    """The name of the split without its brackets."""
    return split.partition("[")[0]


def _place(text: str | None, count: int) -> int | None:
    """A place among so many rows, rounded as `datasets` does."""
    if text is None or not text.endswith("%"):
        return None if text is None else int(text)
    share = int(text[:-1])
    return round(min(max(share, -HUNDRED), HUNDRED) * count / HUNDRED)
