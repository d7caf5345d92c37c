"""tracking=tensorboard: event files.

Owns: TensorBoard's writer. Must not know: runs, when anything is told.
"""

from __future__ import annotations

import shutil
import time
from typing import Any

from launcher.tracking.tracker import Subject, Values, library


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
