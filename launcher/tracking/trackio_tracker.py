"""tracking=trackio: a local dashboard.

Owns: trackio's calls and environment. Must not know: runs, when anything is told.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from launcher.tracking.tracker import Subject, Values, library, say, set_aside

# All but how SQLite works here and how the page looks: they lead elsewhere (a Space, a server, a bucket, a webhook), or
# keep rows back. trackio has more of them with each version, so that those are named which may stay.
ELSEWHERE = re.compile(
    r"TRACKIO_(?!SQLITE_|STORAGE_MODE$|COLOR_PALETTE$|LOGO_|PLOT_ORDER$|TABLE_TRUNCATE_LENGTH$|THEME$)\w+"
)


class TrackioTracker:
    """A row of a trackio project per step; the sweep's project is one SQLite file in the sweep's folder."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._run: Any = None

    def start(self) -> int:
        """In place of what the project has of the run."""
        if left_out := set_trackio_environment(self._subject.shared / "trackio"):
            say(left_out)
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


def set_trackio_environment(folder: Path) -> str | None:
    """Set where trackio keeps a sweep's data, and its journal mode for a file system that several nodes share.

    Before it is imported, which reads them.

    Returns:
        A line on the user's variables that would lead elsewhere, and so were taken out; None: there were none.
    """
    left_out = set_aside(ELSEWHERE)
    os.environ.update({"TRACKIO_DIR": str(folder), "TRACKIO_SQLITE_JOURNAL_MODE": "delete"})
    return left_out and f"{left_out}: tracking=trackio is of this machine, in {folder}"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with Path(os.devnull).open("w", encoding="utf-8") as nothing, contextlib.redirect_stdout(nothing):
        yield
