"""What is left of a training whose result was removed, so that the run is trained again: none of it is the new one's.

Owns: how such a training is known from one that was only interrupted, and what of it goes.
Must not know: torch; how a run is trained.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from launcher.machine.terminal import say
from launcher.store.checkpoint_folders import remove_all
from launcher.store.metrics_log import read_metrics
from launcher.store.run_folder import RunDir


def discard_remains(run: RunDir) -> None:
    """Remove what a finished training has left, where its result is gone, and say so."""
    if run.result_file.exists() or not _was_finished(run):
        return
    logs = (run.metrics_file, run.memory_log, run.damage_log, run.saves_log)
    left = (*logs, run.milestone(0).path.parent)
    names = [path.name for path in (*left, run.checkpoints) if path.exists()]
    for path in left:
        _remove(path)
    remove_all(run.checkpoints, run.run_id)
    if names:
        say(f"{run.run_id}: its result was removed, so that training goes too: {', '.join(names)}")


def _was_finished(run: RunDir) -> bool:
    """Only what is trained to its end is measured or published; and none that goes on has a model without checkpoints.

    An interrupted training has checkpoints; one that was cut off before the first begins anew in any case.
    """
    models = [run, *(milestone for _, milestone in run.milestones())]
    measured = any(model.evaluation_file.exists() or model.revision_file.exists() for model in models)
    lines = read_metrics(run.metrics_file)[-1:]
    at_end = run.model.is_dir() or any(line["step"] >= line["max_steps"] for line in lines if "max_steps" in line)
    return measured or run.evaluations.path.exists() or (at_end and run.last_checkpoint_step() is None)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
