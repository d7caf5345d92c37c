"""A launch's runs as they stand in its file: what all of them have in common once, in each what is its own.

Owns: dividing settings into the two, and putting them together. Must not know: where the file lies, what a setting is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from launcher.store.facts import Launch, RunRecord
from launcher.store.files import Plain


def divided(launch: Launch) -> Launch:
    """The launch as it is written."""
    if not launch.runs:
        return launch
    common = _common([record.settings for record in launch.runs])
    return replace(
        launch, runs=[replace(each, settings=_own(each.settings, common)) for each in launch.runs], common=common
    )


def whole(launch: Launch) -> Launch:
    """The launch as it was; one of an older version has all in each run."""
    common = launch.common
    return (
        launch
        if common is None
        else replace(launch, runs=[_whole(record, common) for record in launch.runs], common=None)
    )


def _whole(record: RunRecord, common: Plain) -> RunRecord:
    own = record.settings
    sections = {
        key: {**value, **own[key]} if key in own and isinstance(value, dict) else value for key, value in common.items()
    }
    return replace(record, settings={**sections, **{key: value for key, value in own.items() if key not in common}})


def _common(settings: Sequence[Plain]) -> Plain:
    """What is the same in all: whole sections, and of others those of their keys."""
    first, *others = settings
    return {
        key: shared
        for key, value in first.items()
        if (shared := _shared(value, [of.get(key, _NONE) for of in others])) is not _NONE
    }


_NONE: Any = object()


def _shared(value: Any, others: Sequence[Any]) -> Any:
    if all(_is_same(other, value) for other in others):
        return value
    if not all(isinstance(other, dict) for other in (value, *others)):
        return _NONE
    return {
        key: item for key, item in value.items() if all(key in other and _is_same(other[key], item) for other in others)
    }


def _is_same(one: Any, other: Any) -> bool:
    """Whether a file has the same for both: 1, 1.0 and true are equal, and three texts."""
    return one is other or (one == other and repr(one) == repr(other))


def _own(settings: Plain, common: Plain) -> Plain:
    """What of a run's settings is not common."""
    found = {}
    for key, value in settings.items():
        if key not in common:
            found[key] = value
        elif not _is_same(value, common[key]):
            found[key] = {name: item for name, item in value.items() if name not in common[key]}
    return found
