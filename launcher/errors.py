"""Every error of ours, and the hint for a mistyped word. The message is one line for the user.

Owns: the tree of errors and what each names. Must not know: anything of ours.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from enum import Enum


class PrefsweepError(Exception):
    """Root of our errors: the message is one line for the user, never a traceback.

    PrefsweepError
    |- UsageError     the command is wrong, nothing was done (exit code 2)
    |  `- ConfigError what is wrong is the value of a key
    |- StoreError     a file of the run directory is missing, torn or foreign (exit code 1)
    |- FetchError     what is on the Hub could not be fetched (exit code 1)
    |- PublishError   a revision was not taken, or is another run's (exit code 1)
    `- SchedulerError the scheduler did not answer (exit code 1)
       `- Refused     it answered, and took nothing
    """


class UsageError(PrefsweepError):
    """Names the word of the command, or the sweep or run that it is about, and what would be right."""


class _Unsaid(Enum):
    UNSAID = "not repeated"


UNSAID = _Unsaid.UNSAID  # in place of a value that may be a secret, or where the key alone says it


class ConfigError(UsageError):
    """A key whose value is not right, in one line: `key=value: remedy`, or `key: remedy` where the value is UNSAID.

    Attributes:
        key: dotted, as it is typed, with a sign before it too; several, with commas, where all of them lack a value.
        value: what it is, or UNSAID.
        remedy: what is wrong with it, and what would be right.
    """

    def __init__(self, key: str, value: object, remedy: str) -> None:
        super().__init__(key, value, remedy)
        self.key, self.value, self.remedy = key, value, remedy

    def __str__(self) -> str:
        said = self.key if self.value is UNSAID else f"{self.key}={self.value}"
        return f"{said}: {self.remedy}"

    def under(self, section: str) -> ConfigError:
        """The same, said of the key in a section that has the same keys."""
        return ConfigError(f"{section}.{self.key}", self.value, self.remedy)

    def renamed(self, keys: Mapping[str, str]) -> ConfigError:
        """The same, said of the key that takes the place of this one, if one does."""
        return ConfigError(keys.get(self.key, self.key), self.value, self.remedy)


class StoreError(PrefsweepError):
    """Names the run and the file."""


class FetchError(PrefsweepError):
    """Names the model or data set, and why it is not here."""


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
