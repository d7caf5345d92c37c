"""What a path of the configuration means: something on this machine, an installed package, or a name on the Hub.

Owns: telling one from the other by the text alone, so that a launcher and a job in another folder agree.
Must not know: whether it is there.
"""

from __future__ import annotations

import re

PACKAGE = "package:"  # of a path, in front of a module: the folder of that installed package
DATA_SUFFIXES = (".jsonl", ".json", ".parquet")
DEFAULT_REVISION = "main"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
COMMIT = re.compile(r"[0-9a-f]{40}")


def is_hub_id(path: str | None) -> bool:
    """Whether a path is ORG/NAME, which a file or a folder of this machine never is: its path is absolute."""
    return path is not None and HUB_ID.fullmatch(path) is not None and not path.endswith(DATA_SUFFIXES)


def is_commit(revision: str | None) -> bool:
    """Whether a revision is a whole commit, which cannot come to mean something else."""
    return revision is not None and COMMIT.fullmatch(revision) is not None
