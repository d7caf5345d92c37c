"""Models on the way: the weights of a training after so many steps, kept as points of their own.

Owns: how what makes a model is kept of a checkpoint.
Must not know: torch, which files that is (`model_files`), when checkpoints are made, what becomes of the models.

One training serves as many points as it has milestones, in place of one training for each number of steps. That is
only sound where the learning rate does not depend on the end: under a cosine, a model half way is no model of half the
steps (`config` refuses that).
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from launcher.model.files import model_files


def keep(checkpoint: Path, folder: Path) -> None:
    """Make `folder` the model that a sealed checkpoint holds, whole or not at all; one that is there stays."""
    if folder.exists():
        return
    aside = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    for name, path in model_files(checkpoint).items():
        (aside / name).parent.mkdir(parents=True, exist_ok=True)
        _link(path, aside / name)
    aside.rename(folder)


def _link(path: Path, target: Path) -> None:
    """The same file under a second name, which stays when the checkpoint goes; a copy where there are no links."""
    try:
        os.link(path, target)
    except OSError:
        shutil.copyfile(path, target)
