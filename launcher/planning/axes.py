"""One axis of a grid: the keys that vary together, and what each of its values says of them.

Owns: how several values are given, in Hydra's grammar or as a list, and how many there may be.
Must not know: which axes make a grid, how a config is composed. Writes nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from hydra.core.override_parser.types import Glob, Override, Transformer

from launcher.config import LOSS, OBJECTIVE, PRESET
from launcher.errors import UsageError
from launcher.planning.as_typed import POINTS
from launcher.planning.one_run import one_value
from launcher.planning.overrides import BLANK, Overrides, aliased, as_text, expand, options, wrong

MAX_POINTS = 100_000  # planning so many takes minutes; more is a slip of the pen


@dataclass(frozen=True)
class Axis:
    """One dimension of the grid: its keys (several vary together), and each of its values: the overrides per key."""

    keys: tuple[str, ...]
    values: tuple[tuple[Overrides, ...], ...]
    aliases: tuple[str, ...] = ()  # what was given under another name, as it was

    def of(self, key: str) -> tuple[Overrides, ...]:
        """What each value says of one of its keys."""
        place = self.keys.index(key)
        return tuple(value[place] for value in self.values)

    def without(self, keys: Collection[str]) -> Axis:
        """The axis less these keys; equal values that remain become one."""
        kept = [i for i, key in enumerate(self.keys) if key.lstrip("+~") not in keys]
        values = (tuple(value[i] for i in kept) for value in self.values)
        return Axis(
            tuple(self.keys[i] for i in kept),
            tuple(dict.fromkeys(values)),
            tuple(each for each in self.aliases if each.partition("=")[0] not in keys),
        )


def axis(key: str, overrides: Sequence[str]) -> Axis:
    """The axis of one key with these values, each an override of it."""
    aliases = tuple(override for override in overrides if aliased(override) is not None)
    key = PRESET if key == f"+{PRESET}" else key
    return Axis((key,), tuple((expand(override),) for override in overrides), aliases)


def axis_of(override: Override, *, multirun: bool) -> Axis:
    """The values of one override: several where it sweeps."""
    key = override.get_key_element()
    if override.key_or_group == POINTS:
        return _points(override, multirun=multirun)
    if not override.is_sweep_override():
        return axis(key, [override.input_line or ""])
    if not multirun:
        raise wrong(override, _without_multirun(override))
    if not override.is_discrete_sweep():
        raise wrong(override, "interval() has no definite values; use range() or a list")
    return axis(key, [f"{key}={value}" for value in _values(override)])


def _points(override: Override, *, multirun: bool) -> Axis:
    """`points={loss_type:ipo,beta:0.1},{loss_type:sigmoid,beta:0.3}`: whole grid points, as one axis.

    A key that a point does not name is left to its default there.
    """
    if override.get_key_element() != POINTS:
        raise wrong(override, f"give {POINTS}={{key:value,...}}")
    if override.is_sweep_override() and not multirun:
        raise wrong(override, "several points; add -m to run all of them")
    several = override.is_discrete_sweep() and not isinstance(override.value(), Glob)
    given = list(override.sweep_iterator(Transformer.identity)) if several else [override.value()]
    points = [point for point in given if isinstance(point, dict) and point]
    if len(points) < len(given):
        raise wrong(override, "give each point as {key:value,...}, with commas between points")
    texts = [{str(key): f"{key}={as_text(value)}" for key, value in point.items()} for point in points]
    keys = tuple(dict.fromkeys(key for point in texts for key in point))
    values = (tuple(expand(point[key]) if key in point else () for key in keys) for point in texts)
    aliases = (text for point in texts for text in point.values() if aliased(text) is not None)
    return Axis(keys, tuple(values), tuple(aliases))


def _without_multirun(override: Override) -> str:
    """What would be right in place of several values of a single run."""
    if override.key_or_group.partition(".")[0] in (*OBJECTIVE, LOSS):
        return f"several values for {override.get_key_element()}; add -m to run all of them"
    return one_value(override.get_key_element(), (override.input_line or "").partition("=")[2])


def _values(override: Override) -> list[str]:
    """The values of a sweep override, as text that Hydra can parse again."""
    value = override.value()
    if isinstance(value, Glob):
        return value.filter(sorted(options(override.key_or_group) - BLANK))
    try:
        values = list(itertools.islice(map(as_text, override.sweep_iterator()), MAX_POINTS + 1))
    except ValueError as error:
        raise wrong(override, str(error)) from error
    check_size(len(values))
    return values


def check_size(points: int) -> None:
    """Refuse a grid of more combinations than anybody means.

    Raises:
        UsageError: there are so many.
    """
    if points > MAX_POINTS:
        raise UsageError(f"the grid has more than {MAX_POINTS:,} combinations; divide it into several sweeps")
