"""Where a run's checkpoints lie, whole or not: `checkpoints/<start>/checkpoint-N`.

Owns: which folders are checkpoints, their order, the marker's name. Must not know: what is in one.
"""

from __future__ import annotations

from pathlib import Path

from launcher.store.names import order_of, step_in
from launcher.store.seen import names_in

MARKER = "complete.json"  # written last


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
