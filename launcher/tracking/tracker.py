"""What a tracker is: one small protocol; each library behind it has a module of its own, `wandb_tracker` for one.

Owns: what is told of a run, never the environment, paths or the cluster's settings.
Must not know: any library, the trainer, where the numbers come from. A tracker runs in the process that `process`
starts, so that it may be slow and may raise.

trackio and TensorBoard are told a run's curve from its beginning at each attempt, in place of what they had: it is all
in metrics.jsonl, and so no step is ever doubled or missing.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from launcher.config import RunConfig, Tracking, objective_in
from launcher.errors import UsageError
from launcher.machine import terminal
from launcher.store.output_folder import Store
from launcher.store.run_folder import RunDir

FINISH_SECONDS = 30.0  # what a tracker has to deliver the rest when the run is over
Values = Mapping[str, float]


def say(message: str) -> None:
    """One line in the run's log, without the key should a library have quoted it."""
    for name in ("WANDB_API_KEY", "HF_TOKEN"):
        if secret := os.environ.get(name):
            message = message.replace(secret, "***")
    terminal.say(f"tracking: {' '.join(message.split())}")


def set_aside(meant: re.Pattern[str]) -> str | None:
    """Take the variables of such names out of this process's environment, before a library reads them.

    Returns:
        A line that names those that were set; None where there were none.
    """
    if not (names := sorted(name for name in os.environ if meant.fullmatch(name))):
        return None
    for name in names:
        del os.environ[name]
    return f"{', '.join(names)} {'does' if len(names) == 1 else 'do'} not count"


@dataclass(frozen=True)
class Subject:
    """What is tracked, and where its data may lie.

    Attributes:
        run_id: the run's id.
        sweep: the name of the sweep that this attempt belongs to.
        attempt: its number.
        config: what is trained and how it is evaluated, plain; no command lines, which everybody of the project would
            read.
        tracking: the section of the config.
        folder: for data of this run alone.
        shared: for data of the whole sweep.
    """

    run_id: str
    sweep: str
    attempt: int
    config: dict[str, Any]
    tracking: Tracking
    folder: Path
    shared: Path

    @classmethod
    def of(cls, config: RunConfig, run: RunDir, attempt: int) -> Subject:
        """The subject of an attempt."""
        sweep = config.sweep or f"{config.model.name}-{config.dataset.name}"
        whole = asdict(config)
        plain = {**objective_in(whole), "evaluation": whole["evaluation"], "checkpoint": whole["checkpoint"]}
        del plain["evaluation"]["command"]["argv"], plain["evaluation"]["cluster"]
        shared = Store(run.path.parent.parent).sweep(sweep).tracking
        return cls(run.run_id, sweep, attempt, {**plain, "sweep": sweep}, config.tracking, run.tracking, shared)

    @property
    def named(self) -> dict[str, Any]:
        """What tells the runs of a sweep apart at a glance."""
        config = self.config
        return {
            "model": config["model"]["name"],
            "dataset": config["dataset"]["name"],
            "loss_type": config["loss_type"],
            "beta": config["beta"],
            "seed": config["seed"],
            "learning_rate": config["trainer"]["learning_rate"],
        }


class Tracker(Protocol):
    """What a tracker must do; each method may take its time and may raise."""

    def start(self) -> int:
        """Begin, or go on with, the run; the last step that it knows already, 0 for none."""
        ...

    def log(self, step: int, at: float, values: Values) -> None:
        """Take the numbers of a step, logged `at` so many seconds since 1970; steps only ever rise."""
        ...

    def finish(self, step: int, summary: Values, *, succeeded: bool) -> None:
        """Take the final numbers, and deliver everything; `step` is the last one logged."""
        ...


def library(name: str, extra: str) -> Any:
    """A tracker's library, which is not installed everywhere."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UsageError(f"{error}; pip install 'prefsweep[{extra}]'") from error
