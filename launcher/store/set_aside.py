"""A training that is set aside, so that its run can be trained anew without a trace of it.

Owns: what of a run's folder is of its training, and the order in which it goes. Must not know: why it is set aside.
"""

from __future__ import annotations

import itertools
from pathlib import Path

from launcher.store.checkpoint_folders import remove_all
from launcher.store.measurements import kept
from launcher.store.run_folder import RunDir


def set_aside(run: RunDir) -> None:
    """Move what a training has left into `before/NNN`, but for its checkpoints, which go.

    The result goes first: a run that was cut off here is not taken for one that is trained.
    """
    target = _free(run.before)
    target.mkdir(parents=True)
    _move(run.result_file, target)
    remove_all(run.checkpoints, run.run_id)
    scores = (run.evaluation_file, *kept(run.evaluation_file), run.evaluations.path)
    logs = (run.metrics_file, run.memory_log, run.damage_log, run.saves_log)
    for path in (*scores, *logs, run.sources_file, run.revision_file, run.model, run.path / "milestones"):
        _move(path, target)


def _move(path: Path, folder: Path) -> None:
    if path.exists():
        path.rename(folder / path.name)


def _free(folder: Path) -> Path:
    numbers = (folder / f"{number:03d}" for number in itertools.count(1))
    return next(each for each in numbers if not each.exists())
