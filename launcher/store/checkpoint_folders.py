"""Where a run's checkpoints lie, whole or not: `checkpoints/<start>/checkpoint-N`.

Owns: which folders are checkpoints, their order, the marker's name, whose one is. Must not know: what else is in one.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Collection
from pathlib import Path

from launcher.errors import StoreError
from launcher.store.files import read_fact
from launcher.store.names import order_of, step_in
from launcher.store.node_facts import CheckpointMarker
from launcher.store.seen import names_in

MARKER = "complete.json"  # written last
ARGUMENTS = "training_args.bin"
ARGUMENTS_BYTES = 1 << 20  # it has a hundredth of that
_OUTPUT_DIR = re.compile(rb"/runs/([^/\x00-\x1f]+)/checkpoints")


def step_of(checkpoint: Path) -> int:
    """The optimizer step at which it was written.

    Raises:
        ValueError: the folder is no checkpoint's.
    """
    step = step_in(checkpoint.name)
    if step is None:
        raise ValueError(f"{checkpoint} is no checkpoint folder")
    return step


def newest_first(root: Path) -> list[Path]:
    """Every checkpoint below `checkpoints/`, by step; of one step that of the latest start first.

    Those that lie in `checkpoints/` itself are an older version's.
    """
    folders = [root, *(root / name for name in names_in(root) if order_of(name) != (0, 0))]
    named = [folder / name for folder in folders for name in names_in(folder) if step_in(name) is not None]
    found = [path for path in named if path.is_dir()]
    return sorted(found, key=lambda path: (step_of(path), order_of(path.parent.name)), reverse=True)


def run_of(checkpoint: Path) -> str | None:
    """The run of which a checkpoint says that it is; None where it does not.

    Raises:
        StoreError: its marker cannot be read.
    """
    marker = read_fact(checkpoint / MARKER, CheckpointMarker)
    return None if marker is None else marker.run or _run_in(checkpoint)


def _run_in(checkpoint: Path) -> str | None:
    """The run into whose folder the trainer wrote, as its arguments say; an older version noted it nowhere else.

    They are a pickle, which would run what is in it: it is only looked through for that folder.
    """
    try:
        with (checkpoint / ARGUMENTS).open("rb") as file:
            runs = set(_OUTPUT_DIR.findall(file.read(ARGUMENTS_BYTES)))
    except OSError:
        return None
    return runs.pop().decode(errors="replace") if len(runs) == 1 else None


def remove_all(root: Path, run_id: str) -> None:
    """Remove `checkpoints/` of a run; of a link it alone, and what is another run's stays: it may be all that has."""
    _remove_but([path for path in newest_first(root) if _is_of_another(path, run_id)], root)


def _remove_but(kept: Collection[Path], path: Path) -> None:
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    elif not any(each.is_relative_to(path) for each in kept):
        shutil.rmtree(path)
    elif path not in kept:
        for each in path.iterdir():
            _remove_but(kept, each)


def _is_of_another(checkpoint: Path, run_id: str) -> bool:
    with contextlib.suppress(StoreError):  # what cannot be read names nobody
        return run_of(checkpoint) not in (None, run_id)
    return False
