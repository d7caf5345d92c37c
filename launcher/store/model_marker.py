"""`model/.trained.json`: which run's model it is, and of which step.

Owns: that file. Must not know: what a model is made of, who asks.

A restore by hand may put a model into another run's folder, and what was measured or published of it would be taken for
that run's. A folder without the file is an older version's, or a copy; a hidden one is no part of what is published.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from launcher.errors import StoreError
from launcher.store.files import read_fact, write_once
from launcher.store.names import milestone_in
from launcher.store.run_folder import RunDir, name_of

_NAME = ".trained.json"


@dataclass(frozen=True)
class Trained:
    """`.trained.json`. `model`: RUN or RUN@STEP."""

    model: str


def mark(folder: Path, run: RunDir) -> None:
    """Note in a model's folder that it is this run's, or milestone's."""
    write_once(folder / _NAME, Trained(model_name(run)))


def other_owner(run: RunDir) -> str | None:
    """RUN or RUN@STEP of whom the model of a run, or milestone, says that it is, where that is another."""
    trained = read_fact(run.model / _NAME, Trained)
    return None if trained is None or trained.model == model_name(run) else trained.model


def model_name(run: RunDir) -> str:
    """RUN or RUN@STEP of a run, or milestone of one."""
    step, whole = milestone_in(run.path.name), RunDir(run.path.parents[1])
    return run.run_id if step is None or whole.milestone(step) != run else name_of(whole.run_id, step)


def check(run: RunDir) -> None:
    """Look whether the model in a run's folder is its own.

    Raises:
        StoreError: it says that it is another's.
    """
    if whose := other_owner(run):
        raise StoreError(
            f"{run.model} is the model of {whose}, not of {model_name(run)}; put its own there, or remove the run's "
            f"{run.result_file.name} to train it again"
        )
