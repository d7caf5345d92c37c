"""`progress.json` of an attempt: what its process is doing, as it was some seconds ago.

Owns: its keys, how it is written. Must not know: what a phase does, when one counts as a hang.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from launcher.store.files import Count, Seconds, fact_text, write_derived


@dataclass(frozen=True)
class Progress:
    """What a process is doing.

    Attributes:
        phase: in words that fit behind a run's name.
        done, of: what is countable in it, such as steps; None: nobody knows how many there will be.
        expected_seconds: how long it may take at most from one sign of progress to the next.
        since: when the phase began, in seconds since 1970.
        time: when this was written.
    """

    phase: str
    done: Count = 0
    of: Count | None = None
    expected_seconds: float = 0.0  # Infinity, where somebody judges himself
    since: Seconds = 0.0
    time: Seconds = 0.0


def write_progress(path: Path, progress: Progress) -> None:
    """Replace the attempt's progress."""
    write_derived(path, fact_text(progress))
