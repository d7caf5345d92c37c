"""Whose a file of a run is: the run, or the milestone of one, that it names.

Owns: the comparison, and what is said of a file that is another's. Must not know: what else it says, where it lies.

A folder that was copied over another run's, whole or in part, would tell that one's numbers for this one's. A file of
an older version names nobody.
"""

from __future__ import annotations

from pathlib import Path

from launcher.errors import Foreign


def check(file: Path, said: str | None, own: str, otherwise: str | None = None) -> None:
    """Look whether a file that says whose it is is this one's; `said`, `own`: RUN or RUN@STEP.

    `otherwise`: what to do where there is none of its own; by default the run is made anew.

    Raises:
        Foreign: it is another's.
    """
    if said is not None and said != own:
        run = own.partition("@")[0]
        remedy = otherwise or f"move the whole folder of {run} away and launch again"
        raise Foreign(f"{file}: is of {said}, not of {own}; put its own there, or {remedy}")
