"""Runs like others of a sweep, but for some keys -> the one command line that launches them.

Owns: how such a command is put together. Must not know: why these runs. Writes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from launcher.planning.as_typed import POINTS
from launcher.planning.overrides import as_text, parse
from launcher.store.facts import RunRecord

_OF_THE_LAUNCH = ("sweep", "output_dir", "dry_run", "retrain")  # said anew, or not at all


@dataclass(frozen=True)
class Further:
    """A run like that of a record, but for the values of `changed`, by key."""

    like: RunRecord
    changed: Mapping[str, Any]

    @property
    def overrides(self) -> dict[str, str]:
        """What gives this run alone, by key as it stands on a command line."""
        kept = {_key(each): each for each in self.like.overrides}
        replaced = {key: next((name for name in kept if name.lstrip("+~") == key), key) for key in self.changed}
        new = {replaced[key]: f"{replaced[key]}={as_text(value)}" for key, value in self.changed.items()}
        return {key: each for key, each in (kept | new).items() if key.lstrip("+") not in _OF_THE_LAUNCH}


def words_for(runs: Sequence[Further], sweep: str, output_dir: str | None) -> list[str]:
    """The words of a launch of these runs, which join the sweep; those that all have come first.

    `output_dir`: where the sweep lies, None where a launch would look for it anyway.
    """
    every = [run.overrides for run in runs]
    common = {key: each for key, each in every[0].items() if all(own.get(key) == each for own in every)}
    own = [{key: each for key, each in one.items() if key not in common} for one in every]
    where = [] if output_dir is None else [f"output_dir={as_text(output_dir)}"]
    words = [*common.values(), *_varying(own), f"sweep={as_text(sweep)}", *where]
    return [*(["-m"] if len(runs) > 1 else []), *words]


def _varying(own: Sequence[Mapping[str, str]]) -> list[str]:
    """The words for what differs: an axis where that is one key, else points."""
    keys = dict.fromkeys(key for one in own for key in one)
    if not keys:
        return []
    if len(keys) == 1:
        (key,) = keys
        return [f"{key}={','.join(_value(one[key]) for one in own)}"] if all(own) else [_points(own)]
    return [_points(own)]


def _points(own: Sequence[Mapping[str, str]]) -> str:
    points = [",".join(f"{key}:{_value(each)}" for key, each in one.items()) for one in own]
    return f"{POINTS}={','.join(f'{{{point}}}' for point in points)}"


def _value(override: str) -> str:
    return as_text(parse(override).value())


def _key(override: str) -> str:
    return override.partition("=")[0]
