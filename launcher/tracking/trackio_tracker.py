"""tracking=trackio: a local dashboard.

Owns: trackio's calls and environment. Must not know: runs, when anything is told.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from launcher.tracking.tracker import Subject, Values, library


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
