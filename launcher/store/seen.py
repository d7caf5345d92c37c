"""A run's folders at one moment: which of many files there are, from one listing of each folder.

Owns: the listings, and that a folder is listed once. Must not know: what a file is for.
"""

from __future__ import annotations

import os
from pathlib import Path

from launcher.store.facts import Job
from launcher.store.reading import unread


class Seen:
    """A run's folders as they were when each was first looked at: one listing tells which of many files there are.

    `batches`: the jobs of each batch, read once for all runs that are looked at together.
    """

    def __init__(self, root: Path, batches: dict[str, list[Job] | None]) -> None:
        self.batches = batches
        self._root = str(root)
        self._names: dict[str, frozenset[str]] = {}

    def has(self, path: Path) -> bool:
        """Whether a file or folder below the run's folder was there."""
        folder, name = os.path.split(path)
        return name in self.names(folder)

    def names(self, folder: str | Path) -> frozenset[str]:
        """What was in a folder; nothing where it was not there."""
        folder = str(folder)
        if folder not in self._names:
            top = folder[len(self._root) + 1 :].partition("/")[0]
            hidden = top and top not in self.names(self._root)
            self._names[folder] = frozenset() if hidden else frozenset(names_in(folder))
        return self._names[folder]


def names_in(folder: str | Path) -> list[str]:
    """What is in a folder; nothing where it is not there.

    Raises:
        Unread: the system does not tell.
    """
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (OSError, ValueError) as error:
        raise unread(Path(folder), error) from error
