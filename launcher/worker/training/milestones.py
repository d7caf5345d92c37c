"""Models on the way: the weights of a training after so many steps, kept as points of their own.

Owns: how the model that a checkpoint holds is kept.
Must not know: torch, which files that is (`model.files`), when checkpoints are made, what becomes of the models.

One training serves as many points as it has milestones, in place of one training for each number of steps. That is
only sound where the learning rate does not depend on the end: under a cosine, a model half way is no model of half the
steps (`planning.rules` refuses that).
"""

from __future__ import annotations

from pathlib import Path

from launcher.model.files import model_files
from launcher.store import model_marker
from launcher.store.files import link
from launcher.store.run_folder import RunDir
from launcher.worker import fence
from launcher.worker.training import checkpoints


def keep(checkpoint: Path, folder: Path, owner: RunDir | None = None) -> None:
    """Make `folder` the model that a sealed checkpoint holds, whole or not at all; one that is there stays.

    `owner`: the milestone that it is to say that it is of.
    """
    if folder.exists():
        return
    aside = fence.aside(folder)
    aside.mkdir(parents=True)
    files = model_files(checkpoint)
    for name, path in files.items():
        (aside / name).parent.mkdir(parents=True, exist_ok=True)
        link(path, aside / name)  # which stays when the checkpoint goes
    if owner is not None:
        model_marker.mark(aside, owner, files, checkpoints.sums_in(checkpoint))
    fence.put_in_place(aside, folder)
