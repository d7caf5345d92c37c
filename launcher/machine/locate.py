"""What a path of the configuration means: something on this machine, an installed package, or a name on the Hub.

Owns: telling one from the other by the text alone, so that a launcher and a job in another folder agree.
Must not know: whether it is there, what it holds.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from launcher.machine.installed import package_dir

PACKAGE = "package:"  # of a path, in front of a module: the folder of that installed package
DATA_SUFFIXES = (".jsonl", ".json", ".parquet", ".jsonl.gz", ".json.gz", ".jsonl.zst", ".json.zst")
DEFAULT_REVISION = "main"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
HUB_URL = re.compile(r"hf://(dataset|space)s/([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Place:
    """What a path means.

    Attributes:
        kind: a repository of the Hub, an installed package, or a file or folder of this machine.
        name: ORG/NAME, the package's module, or the path as it was given; empty where none was given.
    """

    kind: Literal["hub", "package", "disk"]
    name: str

    @property
    def path(self) -> Path | None:
        """Where it lies on this machine, be it there or not; None on the Hub, and of what is not installed or given."""
        if self.kind == "package":
            return package_dir(self.name)
        return Path(self.name).expanduser() if self.kind == "disk" and self.name else None

    @property
    def is_relative(self) -> bool:
        """Whether its text says that it depends on a folder, or on whose home it is: `./x`, `~/x`."""
        return self.kind == "disk" and self.name.startswith((".", "~"))


def place_of(path: str | None) -> Place:
    """What a path means, by its text; ORG/NAME is never a folder of this machine, whose path is absolute or `./x/y`."""
    text = path or ""
    if text.startswith(PACKAGE):
        return Place("package", text.removeprefix(PACKAGE))
    on_hub = HUB_ID.fullmatch(text) and not text.endswith(DATA_SUFFIXES)
    return Place("hub" if on_hub else "disk", text)


def is_hub_id(path: str | None) -> bool:
    """Whether a path is the name of a repository of the Hub, ORG/NAME."""
    return place_of(path).kind == "hub"


def spelled_from(path: str | Path, folder: Path) -> str:
    """A path of this machine as a copy of the folder would have it too: `./x` within the folder, else absolute."""
    place = Path(path).expanduser()
    for whole in dict.fromkeys((folder, folder.resolve())):
        if place.is_relative_to(whole):
            return f"./{place.relative_to(whole).as_posix()}"
    return str(place)


def split_revision(named: str) -> tuple[str, str]:
    """`ORG/NAME@REVISION` -> ORG/NAME and the revision, empty where none is given."""
    path, _, revision = named.partition("@")
    return path, revision


def is_commit(revision: str | None) -> bool:
    """Whether a revision is a whole commit, which cannot come to mean something else."""
    return revision is not None and COMMIT.fullmatch(revision) is not None
