"""Every error of ours, and the hint for a mistyped word. The message is one line for the user.

Owns: the tree of errors and what each names. Must not know: anything of ours.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection


class PrefsweepError(Exception):
    """Root of our errors: the message is one line for the user, never a traceback.

    PrefsweepError
    |- ConfigError    the command or the config is wrong; nothing was done (exit code 2)
    |- StoreError     a file of the run directory is missing, torn or foreign (exit code 1)
    |- PublishError   a revision was not taken, or is another run's (exit code 1)
    `- SchedulerError the scheduler did not answer (exit code 1)
       `- Refused     it answered, and took nothing
    """


class ConfigError(PrefsweepError):
    """Names the key, the value and what would be right."""


class StoreError(PrefsweepError):
    """Names the run and the file."""


class PublishError(PrefsweepError):
    """Names the revision and why it is not there; the run stays TRAINED."""


class SchedulerError(PrefsweepError):
    """Names the scheduler's own words."""


class Refused(SchedulerError):
    """The scheduler said no: it has taken nothing of what it was handed."""


def suggestion(wrong: str, known: Collection[str]) -> str:
    """`; did you mean ...?`, or nothing where no known word is near."""
    near = difflib.get_close_matches(wrong, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


class JudgeError(PrefsweepError):
    """The judge cannot be reached, or refuses; what it said before is kept. Names the endpoint and its words."""


class RankFailedError(PrefsweepError):
    """Another rank cannot go on, so this one cannot either; says which and why."""
