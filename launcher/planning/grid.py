"""The grid of a command line: its axes, a sweep file's axes, axes that vary together, excluded combinations.

Owns: the form of a sweep file, and which overrides each grid point has.
Must not know: how a config is composed, run ids, the run directory. Writes nothing.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from hydra.core.override_parser.types import Glob, Override, Transformer
from yaml import YAMLError

from launcher.config import OBJECTIVE
from launcher.errors import UNSAID, ConfigError, UsageError, suggestion
from launcher.machine.installed import data_dir
from launcher.planning.as_typed import POINTS, read_yaml
from launcher.planning.kinds import kind_at
from launcher.planning.one_run import one_value
from launcher.planning.overrides import (
    BLANK,
    Overrides,
    aliased,
    as_text,
    expand,
    first_line,
    meaning,
    options,
    parse,
    wrong,
)

MAX_POINTS = 100_000  # planning so many takes minutes; more is a slip of the pen


@dataclass(frozen=True)
class Axis:
    """One dimension of the grid: its keys (several vary together), and each of its values: the overrides per key."""

    keys: tuple[str, ...]
    values: tuple[tuple[Overrides, ...], ...]
    aliases: tuple[str, ...] = ()  # what was given under another name, as it was


@dataclass(frozen=True)
class Grid:
    """The axes (one value: fixed), the combinations that are left out, and the sweep file that it came from."""

    axes: tuple[Axis, ...]
    exclude: tuple[frozenset[tuple[str, str]], ...] = ()
    name: str | None = None
    remarks: tuple[str, ...] = ()  # on how it was asked for

    @property
    def varied(self) -> list[str]:
        """The keys that really vary, in order."""
        return [key for axis in self.axes if len(axis.values) > 1 for key in axis.keys]

    @property
    def fixed(self) -> list[str]:
        """The overrides that all points have, of sections of the configuration in which nothing varies."""
        varied = {section_of(key) for key in self.varied}
        values = (axis.values[0] for axis in self.axes if len(axis.values) == 1)
        every = [override for value in values for of_key in value for override in of_key]
        return [override for override in every if section_of(parse(override).key_or_group) not in varied]

    @property
    def notes(self) -> list[str]:
        """What is worth a word: names that stand for others, or may be meant for something else."""
        given = dict.fromkeys(alias for axis in self.axes for alias in axis.aliases)
        return [*self.remarks, *(f"{alias} is loss_type={aliased(alias)}, as TRL calls it" for alias in given)]

    def points(self) -> Iterator[Overrides]:
        """Each combination's overrides, in the order of the axes, the last axis fastest.

        Raises:
            UsageError: there are more than anybody means.
        """
        _check_size(math.prod(len(axis.values) for axis in self.axes))
        for combination in itertools.product(*(axis.values for axis in self.axes)):
            overrides = tuple(override for value in combination for of_key in value for override in of_key)
            if not any(excluded <= set(map(meaning, overrides)) for excluded in self.exclude):
                yield overrides


def section_of(key: str) -> str:
    """The section of the configuration that a key, or a group's choice, is of."""
    return re.split(r"[.\[@/]", key.lstrip("+~"))[0]


def read_grid(argv: Sequence[str], *, multirun: bool) -> Grid:
    """The grid of a command line: the sweep file's axes, each replaced by the command line where that names it too."""
    parsed = [parse(argument) for argument in argv]
    names = [o for o in parsed if o.key_or_group == "sweeps"]
    if len(names) > 1 or any(o.is_sweep_override() for o in names):
        raise ConfigError("sweeps", UNSAID, "give one sweep file at a time")
    given = {o.get_key_element(): _axis_of(o, multirun=multirun) for o in parsed if o not in names}
    _check_given_once(given)
    if not names:
        return Grid(tuple(given.values()), remarks=_remarks(parsed))
    name = str(names[0].value())
    file = _read_sweep_file(name)
    replaced = {key.lstrip("+~") for axis in given.values() for key in axis.keys}
    axes = [axis for axis in (_without(axis, replaced) for axis in file.axes) if axis.keys]
    return Grid((*axes, *given.values()), file.exclude, name)


def _remarks(parsed: Sequence[Override]) -> tuple[str, ...]:
    """A word on a sweep's name that is a sweep file's, where no file is given.

    Raises:
        ConfigError: it is given as a file would be.
    """
    for override in parsed:
        name = str(override.value())
        if override.key_or_group == "sweep" and name in _sweep_files():
            if override.is_add():
                raise wrong(override, f"only names the sweep; for the file sweeps/{name}.yaml give +sweeps={name}")
            return (f"sweep={name} only names the sweep; for the file sweeps/{name}.yaml give +sweeps={name}",)
    return ()


def _sweep_files() -> list[str]:
    return sorted(file.stem for file in data_dir("sweeps").glob("*.yaml"))


def _without(axis: Axis, keys: set[str]) -> Axis:
    """The axis less the keys that the command line gives; equal values that remain become one."""
    kept = [i for i, key in enumerate(axis.keys) if key not in keys]
    values = (tuple(value[i] for i in kept) for value in axis.values)
    return Axis(
        tuple(axis.keys[i] for i in kept),
        tuple(dict.fromkeys(values)),
        tuple(each for each in axis.aliases if each.partition("=")[0] not in keys),
    )


def _axis_of(override: Override, *, multirun: bool) -> Axis:
    """The values of one override: several where it sweeps."""
    key = override.get_key_element()
    if override.key_or_group == POINTS:
        return _points(override, multirun=multirun)
    if not override.is_sweep_override():
        return _axis(key, [override.input_line or ""])
    if not multirun:
        raise wrong(override, _without_multirun(override))
    if not override.is_discrete_sweep():
        raise wrong(override, "interval() has no definite values; use range() or a list")
    return _axis(key, [f"{key}={value}" for value in _values(override)])


def _check_given_once(given: Mapping[str, Axis]) -> None:
    """Check that no key is given both by itself and in `points`, where it would have two values."""
    inside = given[POINTS].keys if POINTS in given else ()
    for key in inside:
        if key.lstrip("+~") in {each.lstrip("+~") for each in given}:
            raise ConfigError(POINTS, UNSAID, f"{key} is given in it and by itself; leave out one of the two")


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
    texts = [{str(key): _assigned(key, value) for key, value in point.items()} for point in points]
    keys = tuple(dict.fromkeys(key for point in texts for key in point))
    values = (tuple(expand(point[key]) if key in point else () for key in keys) for point in texts)
    aliases = (text for point in texts for text in point.values() if aliased(text) is not None)
    return Axis(keys, tuple(values), tuple(aliases))


def _without_multirun(override: Override) -> str:
    """What would be right in place of several values of a single run."""
    if override.key_or_group.partition(".")[0] in OBJECTIVE:
        return f"several values for {override.get_key_element()}; add -m to run all of them"
    return one_value(override.get_key_element(), (override.input_line or "").partition("=")[2])


def _axis(key: str, overrides: Sequence[str]) -> Axis:
    aliases = tuple(override for override in overrides if aliased(override) is not None)
    return Axis((key,), tuple((expand(override),) for override in overrides), aliases)


def _values(override: Override) -> list[str]:
    """The values of a sweep override, as text that Hydra can parse again."""
    value = override.value()
    if isinstance(value, Glob):
        return value.filter(sorted(options(override.key_or_group) - BLANK))
    try:
        values = list(itertools.islice(map(as_text, override.sweep_iterator()), MAX_POINTS + 1))
    except ValueError as error:
        raise wrong(override, str(error)) from error
    _check_size(len(values))
    return values


def _check_size(points: int) -> None:
    if points > MAX_POINTS:
        raise UsageError(f"the grid has more than {MAX_POINTS:,} combinations; divide it into several sweeps")


def _read_sweep_file(name: str) -> Grid:
    """`sweeps/NAME.yaml`: overrides, grid, zip and exclude, each optional."""
    path = data_dir("sweeps") / f"{name}.yaml"
    if not re.fullmatch(r"[\w-]+", name) or not path.is_file():
        known = _sweep_files()
        raise ConfigError("sweeps", name, f"no such sweep file{suggestion(name, known)}; there are: {', '.join(known)}")
    try:
        content = read_yaml(path.read_text(encoding="utf-8"), _kind_in_file)
    except (YAMLError, UnicodeDecodeError) as error:
        raise ConfigError("sweeps", name, f"{path} is not readable as YAML: {first_line(error)}") from error
    if not isinstance(content, dict) or not set(content) <= {"overrides", "grid", "zip", "exclude"}:
        raise ConfigError("sweeps", name, f"{path} may hold the keys overrides, grid, zip and exclude, and no others")
    axes = [_axis(key, [_assigned(key, value)]) for key, value in _section(content, "overrides", dict)]
    axes += [_file_axis(key, value) for key, value in _section(content, "grid", dict)]
    axes += [_zipped(path, group) for group in content.get("zip") or []]
    exclude = tuple(frozenset(map(meaning, _point(item))) for item in content.get("exclude") or [])
    return Grid(tuple(axes), exclude)


def _kind_in_file(place: tuple[str, ...]) -> Any:
    """The type of what is wanted at a place of a sweep file; a word in place of an axis' list is in Hydra's grammar."""
    section, *rest = place or ("",)
    below = rest[1:] if section in {"zip", "exclude"} else rest  # each a list of mappings
    if not below:
        return None
    key, *inner = below
    is_axis = section in {"grid", "zip"}
    parts = (*key.lstrip("+~").split("."), *(inner[1:] if is_axis else inner))
    return str if (is_axis and not inner) or parts == ("sweeps",) else kind_at(parts)


def _assigned(key: str, value: Any) -> str:
    """The override that gives a key a value of a sweep file."""
    return f"{key}={as_text(value)}"


def _section(content: Mapping[Any, Any], key: str, kind: type) -> list[tuple[str, Any]]:
    section = content.get(key) or {}
    if not isinstance(section, kind):
        raise ConfigError(key, UNSAID, f"a sweep file needs `key: value` lines below it, found {section!r}")
    return list(cast(dict[str, Any], section).items())


def _point(item: Mapping[str, Any]) -> list[str]:
    return [override for key, value in item.items() for override in expand(_assigned(key, value))]


def _file_axis(key: str, value: Any) -> Axis:
    """An axis in a sweep file: a YAML list, or Hydra's sweep grammar as text."""
    if isinstance(value, list):
        return _axis(key, [_assigned(key, item) for item in value])
    return _axis_of(parse(f"{key}={value}" if isinstance(value, str) else _assigned(key, value)), multirun=True)


def _zipped(path: Path, group: Mapping[str, Any]) -> Axis:
    """Axes that vary together, as one."""
    axes = [_file_axis(key, value) for key, value in group.items()]
    lengths = {axis.keys[0]: len(axis.values) for axis in axes}
    if len(set(lengths.values())) != 1:
        raise UsageError(f"{path}: axes that vary together need equally many values, found {lengths}")
    rows = zip(*(axis.values for axis in axes), strict=True)
    return Axis(
        tuple(group),
        tuple(tuple(of_key for (of_key,) in row) for row in rows),
        tuple(each for axis in axes for each in axis.aliases),
    )
