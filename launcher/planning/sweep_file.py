"""A file of `sweeps/`: a grid under a name, or several.

Owns: the form of a sweep file, and what is wrong with one.
Must not know: what the command line says on top, how a config is composed. Writes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from yaml import YAMLError

from launcher.errors import UNSAID, ConfigError, UsageError, suggestion
from launcher.planning.as_typed import read_yaml
from launcher.planning.axes import Axis, axis, axis_of
from launcher.planning.conf_places import looked_in, sweep_dirs, sweep_file, sweep_names
from launcher.planning.grid import Grid
from launcher.planning.kinds import kind_at
from launcher.planning.overrides import as_text, expand, first_line, meaning, parse

_OF_A_GRID = ("zip", "exclude")  # what may stand beside axes in an entry of `grids`
_OF_A_FILE = ("overrides", "grid", *_OF_A_GRID, "grids")


def read_sweep_file(name: str) -> tuple[Grid, ...]:
    """The grids of `sweeps/NAME.yaml`, or of a file: one, or those of its `grids`, each with what stands beside them.

    Raises:
        UsageError: there is no such file, or it has not that form.
    """
    path = sweep_file(name)
    if path is None:
        known = sweep_names()
        there = f"there are: {', '.join(known)}{looked_in(sweep_dirs())}"
        raise ConfigError("sweeps", name, f"no such sweep file{suggestion(name, known)}; {there}")
    if not re.fullmatch(r"[\w-]+", path.stem):
        raise ConfigError("sweeps", name, "names the sweep after its file; call that by letters, digits, _ and -")
    try:
        content = read_yaml(path.read_text(encoding="utf-8"), _kind_in_file)
    except (YAMLError, UnicodeDecodeError) as error:
        raise ConfigError("sweeps", name, f"{path} is not readable as YAML: {first_line(error)}") from error
    try:
        return _grids_of(content, name, path)
    except ConfigError as error:
        raise ConfigError(error.key, error.value, _in_file(error.remedy, path)) from error
    except UsageError as error:
        raise UsageError(_in_file(str(error), path)) from error


def _in_file(said: str, path: Path) -> str:
    return said if str(path) in said else f"{said} (in {path})"


def _grids_of(content: Any, name: str, path: Path) -> tuple[Grid, ...]:
    if not isinstance(content, dict) or not set(content) <= set(_OF_A_FILE):
        keys = f"{', '.join(_OF_A_FILE[:-1])} and {_OF_A_FILE[-1]}"
        wrong = [str(key) for key in content if key not in _OF_A_FILE] if isinstance(content, dict) else []
        found = f": {wrong[0]!r} is none{suggestion(wrong[0], _OF_A_FILE)}" if wrong else ""
        raise ConfigError("sweeps", name, f"{path} may hold the keys {keys}, and no others{found}")
    fixed = [axis(key, [_assigned(key, value)]) for key, value in _section(content, "overrides")]
    all_of_it = _grid(dict(_section(content, "grid")), content)
    whole = replace(all_of_it, axes=(*fixed, *all_of_it.axes))
    return tuple(whole.under(own) for own in _entries(content)) if "grids" in content else (whole,)


def _entries(content: Mapping[str, Any]) -> list[Grid]:
    """The grids below `grids`: in each the axes as they are, and beside them what is its own of zip and exclude."""
    entries = content["grids"]
    if not isinstance(entries, list) or not entries:
        raise ConfigError("grids", UNSAID, f"needs a list of grids, each with its axes, found {entries!r}")
    found = []
    for number, entry in enumerate(entries):
        place = f"grids[{number}]"
        if not isinstance(entry, dict) or not entry:
            raise ConfigError(place, UNSAID, f"says nothing of a run; give its axes, found {entry!r}")
        if wrong := [key for key in entry if key in _OF_A_FILE and key not in _OF_A_GRID]:
            raise ConfigError(f"{place}.{wrong[0]}", UNSAID, "the axes of a grid stand in it as they are, key: values")
        axes = {key: value for key, value in entry.items() if key not in _OF_A_GRID}
        found.append(replace(_grid(axes, entry, f"{place}."), place=place))
    return found


def _grid(axes: Mapping[str, Any], beside: Mapping[str, Any], above: str = "") -> Grid:
    """A grid of these axes, with the zip and exclude that stand beside them, at a place of the file."""
    found = [_file_axis(key, value) for key, value in axes.items()]
    found += [_zipped(place, group) for place, group in _mappings(beside, "zip", above)]
    exclude = [_point(item) for _, item in _mappings(beside, "exclude", above)]
    return Grid(tuple(found), tuple(frozenset(map(meaning, each)) for each in exclude))


def _kind_in_file(place: tuple[str, ...]) -> Any:
    """The type of what is wanted at a place of a sweep file; a word in place of an axis' list is in Hydra's grammar."""
    section, *rest = place or ("",)
    if section == "grids":
        own = rest[1:]
        return _kind_in_file(tuple(own if own[:1] and own[0] in _OF_A_GRID else ["grid", *own]))
    below = rest[1:] if section in _OF_A_GRID else rest  # each a list of mappings
    if not below:
        return None
    key, *inner = below
    is_axis = section in {"grid", "zip"}
    parts = (*key.lstrip("+~").split("."), *(inner[1:] if is_axis else inner))
    return str if (is_axis and not inner) or parts == ("sweeps",) else kind_at(parts)


def _assigned(key: str, value: Any) -> str:
    """The override that gives a key a value of a sweep file."""
    return f"{key}={as_text(value)}"


def _section(content: Mapping[str, Any], key: str) -> list[tuple[str, Any]]:
    section = content.get(key) or {}
    if not isinstance(section, dict):
        raise ConfigError(key, UNSAID, f"a sweep file needs `key: value` lines below it, found {section!r}")
    return list(cast(dict[str, Any], section).items())


def _mappings(content: Mapping[str, Any], key: str, above: str) -> list[tuple[str, dict[str, Any]]]:
    """Each mapping of a list of them, with its place."""
    items = content.get(key) or []
    whole = isinstance(items, list) and all(isinstance(item, dict) and item for item in items)
    if not whole:
        raise ConfigError(f"{above}{key}", UNSAID, f"needs a list of mappings, `- {{key: value}}`, found {items!r}")
    return [(f"{above}{key}[{number}]", item) for number, item in enumerate(items)]


def _point(item: Mapping[str, Any]) -> list[str]:
    return [override for key, value in item.items() for override in expand(_assigned(key, value))]


def _file_axis(key: str, value: Any) -> Axis:
    """An axis in a sweep file: a YAML list, or Hydra's sweep grammar as text."""
    if isinstance(value, list):
        return axis(key, [_assigned(key, item) for item in value])
    if isinstance(value, str) and value.count("(") > value.count(")"):
        raise ConfigError(key, value, "ends at the comma, where YAML's braces end a value; give it in quotes")
    return axis_of(parse(f"{key}={value}" if isinstance(value, str) else _assigned(key, value)), multirun=True)


def _zipped(place: str, group: Mapping[str, Any]) -> Axis:
    """Axes that vary together, as one."""
    axes = [_file_axis(key, value) for key, value in group.items()]
    lengths = {each.keys[0]: len(each.values) for each in axes}
    if len(set(lengths.values())) != 1:
        raise UsageError(f"{place}: axes that vary together need equally many values, found {lengths}")
    rows = zip(*(each.values for each in axes), strict=True)
    return Axis(
        tuple(key for each in axes for key in each.keys),
        tuple(tuple(of_key for (of_key,) in row) for row in rows),
        tuple(alias for each in axes for alias in each.aliases),
    )
