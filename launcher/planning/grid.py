"""What a sweep consists of before it is composed: a grid, or several one after another.

Owns: which overrides each grid point has, in which order, and which keys vary.
Must not know: the form in which grids are given (`sweep_file`, `asked`), how a config is composed. Writes nothing.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from launcher.config import LOSS, OBJECTIVE, PRESET
from launcher.errors import UNSAID, ConfigError
from launcher.planning.axes import Axis, check_size
from launcher.planning.overrides import Overrides, aliased, meaning, parse

_TRAINED = (*OBJECTIVE, LOSS, PRESET)  # sections whose values make runs; another value of others makes none


@dataclass(frozen=True)
class Grid:
    """Axes (one value: fixed) of which every combination is a point, but for those that are left out.

    `place` is where it stands in its file, `grids[0]`, where that has several.
    """

    axes: tuple[Axis, ...]
    exclude: tuple[frozenset[tuple[str, str]], ...] = ()
    place: str = ""

    @property
    def size(self) -> int:
        """How many combinations there are, with those that are left out."""
        return math.prod(len(axis.values) for axis in self.axes)

    @property
    def keys(self) -> list[str]:
        """What its axes say something of, in order."""
        return [key for axis in self.axes for key in axis.keys]

    def values_of(self, key: str) -> tuple[Overrides, ...]:
        """What it says of a key in turn; nothing where it leaves it as it is."""
        return tuple(value for axis in self.axes if key in axis.keys for value in axis.of(key))

    def points(self) -> Iterator[Overrides]:
        """Each combination's overrides, in the order of the axes, the last axis fastest."""
        for combination in itertools.product(*(axis.values for axis in self.axes)):
            overrides = tuple(override for value in combination for of_key in value for override in of_key)
            if not any(excluded <= set(map(meaning, overrides)) for excluded in self.exclude):
                yield overrides

    def has(self, excluded: frozenset[tuple[str, str]]) -> bool:
        """Whether one of its combinations is left out by this."""
        rest = set(excluded)
        for axis in self.axes:
            keys = {key.lstrip("+~") for key in axis.keys}
            own = {each for each in excluded if each[0] in keys}
            said = ({meaning(override) for of_key in value for override in of_key} for value in axis.values)
            if own and not any(own <= value for value in said):
                return False
            rest -= own
        return not rest

    def under(self, top: Grid) -> Grid:
        """This grid with another's axes behind its own, in place of those of the same keys, and what both leave out."""
        replaced = {key.lstrip("+~") for key in top.keys}
        axes = [axis for axis in (axis.without(replaced) for axis in self.axes) if axis.keys]
        exclude = (*self.exclude, *top.exclude)
        return Grid((*axes, *top.axes), exclude, top.place or self.place)


@dataclass(frozen=True)
class Grids:
    """All that one command asks for: grids in order, and the sweep file that they come from."""

    grids: tuple[Grid, ...]
    name: str | None = None
    remarks: tuple[str, ...] = ()  # on how it was asked for

    @property
    def varied(self) -> list[str]:
        """The axes in order: what varies within a grid, and of what is trained what varies from one to the next."""
        keys = dict.fromkeys(key for grid in self.grids for key in grid.keys)
        moving = self._moving
        return [key for key in keys if key in moving or (section_of(key) in _TRAINED and differ(self.grids, key))]

    @property
    def _moving(self) -> set[str]:
        """The keys that vary within a grid."""
        return {key for grid in self.grids for axis in grid.axes if len(axis.values) > 1 for key in axis.keys}

    @property
    def fixed(self) -> list[str]:
        """The overrides that all points have, of sections of the configuration in which nothing varies."""
        keys, moving = {key for grid in self.grids for key in grid.keys}, self._moving
        varied = {section_of(key) for key in keys if key in moving or differ(self.grids, key)}
        first = self.grids[0].axes if self.grids else ()
        values = (axis.values[0] for axis in first if len(axis.values) == 1)
        found = [override for value in values for of_key in value for override in of_key]
        return [override for override in found if section_of(parse(override).key_or_group) not in varied]

    @property
    def notes(self) -> list[str]:
        """What is worth a word: names that stand for others, or may be meant for something else."""
        given = dict.fromkeys(alias for grid in self.grids for axis in grid.axes for alias in axis.aliases)
        meant = (f"{alias} is loss_type={aliased(alias)}, as TRL calls it" for alias in given)
        return [*self.remarks, *meant]

    def points(self) -> Iterator[Overrides]:
        """Each grid's points, one grid after another.

        Raises:
            UsageError: there are more than anybody means.
            ConfigError: one of several grids has none.
        """
        check_size(sum(grid.size for grid in self.grids))
        for grid in self.grids:
            has_any = False
            for point in grid.points():
                has_any = True
                yield point
            if grid.place and not has_any:
                raise ConfigError(grid.place, UNSAID, "has no run: every combination is excluded or an axis is empty")


def differ(grids: tuple[Grid, ...], key: str) -> bool:
    """Whether grids say different things of a key; one that says nothing of it leaves it as it is elsewhere."""
    return len({frozenset(grid.values_of(key)) for grid in grids}) > 1


def idle_excludes(grids: Sequence[Grid]) -> list[str]:
    """What is to be left out of grids that none of them has, each in a line."""
    excluded = dict.fromkeys(each for grid in grids for each in grid.exclude)
    idle = (each for each in excluded if not any(grid.has(each) for grid in grids))
    return [f"exclude: {_in_words(each)} leaves out no run: no combination has it" for each in idle]


def _in_words(excluded: frozenset[tuple[str, str]]) -> str:
    return "{" + ", ".join(f"{key}: {value}" for key, value in sorted(excluded)) + "}"


def section_of(key: str) -> str:
    """The section of the configuration that a key, or a group's choice, is of."""
    return re.split(r"[.\[@/]", key.lstrip("+~"))[0]
