"""What a tracker is: one small protocol, and trackio and TensorBoard behind it (`wandb_tracker` has the third).

Owns: what is told of a run, never the environment, paths or the cluster's settings; these libraries' words for it.
Must not know: the trainer; where the numbers come from. Runs in the process that `tracking` starts, so that it may be
slow and may raise.

trackio and TensorBoard are told a run's curve from its beginning at each attempt, in place of what they had: it is all
in metrics.jsonl, and so no step is ever doubled or missing.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from launcher.config import OBJECTIVE, RunConfig, Tracking
from launcher.store import RunDir, Store

FINISH_SECONDS = 30.0  # what a tracker has to deliver the rest when the run is over
Values = Mapping[str, float]


def say(message: str) -> None:
    """One line in the run's log, without the key should a library have quoted it."""
    for name in ("WANDB_API_KEY", "HF_TOKEN"):
        if secret := os.environ.get(name):
            message = message.replace(secret, "***")
    print(f"tracking: {' '.join(message.split())}", flush=True)


@dataclass(frozen=True)
class Subject:
    """What is tracked, and where its data may lie.

    Attributes:
        run_id: the run's id.
        sweep: the name of the sweep that this attempt belongs to.
        attempt: its number.
        config: what is trained and how it is evaluated, plain.
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
        plain = {key: value for key, value in asdict(config).items() if key in (*OBJECTIVE, "evaluation", "checkpoint")}
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
        raise RuntimeError(f"{error}; pip install 'prefsweep[{extra}]'") from error


class TrackioTracker:
    """A row of a trackio project per step; the sweep's project is one SQLite file in the sweep's folder."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._run: Any = None

    def start(self) -> int:
        """In place of what the project has of the run."""
        os.environ.update(trackio_environment(self._subject.shared))
        trackio, subject = library("trackio", "trackio"), self._subject
        project = subject.tracking.project or subject.sweep
        with _quiet():
            with contextlib.suppress(ValueError):  # there is no such project yet
                for run in list(trackio.Api().runs(project)):
                    if run.name == subject.run_id:
                        run.delete()
            self._run = trackio.init(
                project=project,
                name=subject.run_id,
                group=str(subject.named["loss_type"]),
                config={**subject.named, "attempt": subject.attempt},
                embed=False,
                auto_log_cpu=False,
                auto_log_gpu=False,
            )
        return 0

    def log(self, step: int, at: float, values: Values) -> None:  # noqa: ARG002 - trackio takes no time
        """A row of the project."""
        self._run.log(dict(values), step=step)

    def finish(self, step: int, summary: Values, *, succeeded: bool) -> None:  # noqa: ARG002 - nor an outcome
        """The final numbers are a last row: there is no summary."""
        with _quiet():
            if summary:
                self._run.log(dict(summary), step=step)
            self._run.finish()


def trackio_environment(shared: Path) -> dict[str, str]:
    """Where trackio keeps a sweep's data; its journal mode for a file system that several nodes share."""
    return {"TRACKIO_DIR": str(shared / "trackio"), "TRACKIO_SQLITE_JOURNAL_MODE": "delete"}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with Path(os.devnull).open("w", encoding="utf-8") as nothing, contextlib.redirect_stdout(nothing):
        yield


class TensorBoardTracker:
    """One event file per run, below one folder per sweep, with what TensorBoard's HParams page needs."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._writer: Any = None

    def start(self) -> int:
        """A new event file, with the values that HParams shows."""
        writers = library("tensorboard.summary.writer.event_file_writer", "tensorboard")
        hparams = library("tensorboard.plugins.hparams.summary_v2", "tensorboard")
        folder = self._subject.shared / "tensorboard" / self._subject.run_id
        shutil.rmtree(folder, ignore_errors=True)
        self._writer = writers.EventFileWriter(str(folder))
        self._write(0, time.time(), hparams.hparams_pb(self._subject.named, trial_id=self._subject.run_id))
        return 0

    def log(self, step: int, at: float, values: Values) -> None:
        """One scalar each."""
        summaries = library("tensorboard.compat.proto.summary_pb2", "tensorboard")
        scalars = [summaries.Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._write(step, at, summaries.Summary(value=scalars))

    def _write(self, step: int, at: float, summary: Any) -> None:
        events = library("tensorboard.compat.proto.event_pb2", "tensorboard")
        self._writer.add_event(events.Event(step=step, wall_time=at, summary=summary))
        self._writer.flush()

    def finish(self, step: int, summary: Values, *, succeeded: bool) -> None:  # noqa: ARG002 - it knows no outcome
        """The final numbers are scalars of the last step."""
        if summary:
            self.log(step, time.time(), summary)
        self._writer.close()
