"""What is said of several values where a run has one: those of a key that is no part of what is trained.

Owns: these words, and how a text that has commas is given. Must not know: how a grid is made, run ids. Writes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from launcher.config import LOSS, OBJECTIVE
from launcher.errors import UNSAID, ConfigError, UsageError
from launcher.machine.terminal import command
from launcher.planning.kinds import is_text, kind_of
from launcher.planning.overrides import as_text, may_be_secret, quoted
from launcher.sweep import Run

_OF_THE_SHELL = set('$`\\"!\t\n')  # what it takes for something else, between double quotes too

_WITHOUT_COMMAS = {  # the last words of keys that take one of a few words, or names of another form
    "sweep", "executor", "container_runtime", "time", "mem", "store", "when", "org", "repo", "revision", "backend",
    "mode", "project", "entity", "batch_size",
}  # fmt: skip


def one_value(key: str, given: str, such_as: str = "") -> str:
    """What would be right in place of several values for a key, which were given as this text."""
    name = key.lstrip("+~")
    may_have_commas = "cluster.extra." in name or name.rpartition(".")[2] not in _WITHOUT_COMMAS
    if not (is_text(kind_of(name)) and may_have_commas) or may_be_secret(name, given):
        return f"give one value{such_as}"
    word = f"{key}={quoted(given)}"
    pasted = command(word) if set(word) & _OF_THE_SHELL else f'"{word}"'
    return f"give one value{such_as}, or the text with its commas: {pasted}"


def unlike(first: Run, second: Run, runs: Sequence[Run]) -> UsageError:
    """Of two runs of a grid that train the same, and differ in something else: which axis is none."""
    keys = [key for key, value in second.axes.items() if value != first.axes.get(key)]
    keys.sort(key=lambda key: key.lstrip("+~").partition(".")[0] in (*OBJECTIVE, LOSS))
    if not keys:
        apart = ", ".join(sorted(_differing(first, second)))
        remedy = "it is no part of what is trained: give both the same, or launch them by two commands"
        return UsageError(f"{first.run_id}: two runs of the sweep have this id and differ in {apart}; {remedy}")
    return no_axis(keys[0], runs)


def _differing(first: Run, second: Run) -> list[str]:
    """The keys in which two runs differ, as they are typed."""
    before, now = (dict(_leaves(asdict(run.config))) for run in (first, second))
    return [key for key in before.keys() | now.keys() if before.get(key) != now.get(key)]


def _leaves(section: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in section.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def no_axis(key: str, runs: Sequence[Run]) -> ConfigError:
    """Of a key that cannot be an axis, with the values that it was given."""
    given = ",".join(dict.fromkeys(_in_words(run.axes.get(key)) for run in runs))
    said = UNSAID if may_be_secret(key.lstrip("+~"), given) else given
    right = one_value(key, given)
    return ConfigError(key, said, f"is no part of what is trained, so its values make no runs of their own; {right}")


def _in_words(value: object) -> str:
    return value if isinstance(value, str) else as_text(value)
