"""argv -> resolved configs: overrides, axes, sweep files. The only importer of hydra.

Owns: Hydra's grammar and composition, and what Hydra lacks: axes that vary together, excluded combinations.
Must not know: run ids, the run directory, schedulers. Writes nothing.

Hydra needs some 50 ms to compose a config, so it composes once for each distinct choice of config groups; the other
overrides are applied to a copy by Hydra's own function, which gives what composing every point would give.
"""

from __future__ import annotations

import copy
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.errors import HydraException
from omegaconf import DictConfig, Node, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from launcher.config import OBJECTIVE, ConfigError, RunConfig, canonical, suggestion
from launcher.resources import data_dir

Plain = dict[str, Any]
Overrides = tuple[str, ...]
SHORTHANDS = ("model", "dataset")  # groups whose value may be a Hub id or a folder
BLANK = {"custom", "mixture"}  # files of conf/ that say nothing until the user does
TEMPLATE = "model.chat_template"


@dataclass(frozen=True)
class Axis:
    """One dimension of the grid: its keys (several vary together), and each of its values: the overrides per key."""

    keys: tuple[str, ...]
    values: tuple[tuple[Overrides, ...], ...]


@dataclass(frozen=True)
class Grid:
    """The axes (one value: fixed), the combinations that are left out, and the sweep file that it came from."""

    axes: tuple[Axis, ...]
    exclude: tuple[frozenset[tuple[str, str]], ...] = ()
    name: str | None = None

    @property
    def varied(self) -> list[str]:
        """The keys that really vary, in order."""
        return [key for axis in self.axes if len(axis.values) > 1 for key in axis.keys]

    def points(self) -> Iterator[Overrides]:
        """Each combination's overrides, in the order of the axes, the last axis fastest."""
        for combination in itertools.product(*(axis.values for axis in self.axes)):
            overrides = tuple(override for value in combination for of_key in value for override in of_key)
            if not any(excluded <= set(map(_meaning, overrides)) for excluded in self.exclude):
                yield overrides


@dataclass(frozen=True)
class Composed:
    """One grid point: its overrides, the resolved config, and the values of the axes that vary."""

    overrides: Overrides
    config: Plain
    axes: Plain


def compose(argv: Sequence[str], *, multirun: bool) -> tuple[Grid, list[Composed]]:
    """All grid points of a command line.

    Args:
        argv: Hydra overrides, and at most one `+sweeps=NAME`.
        multirun: whether commas, range(), choice() and glob() are axes (Hydra's -m).

    Raises:
        ConfigError: an override, a sweep file or a value is wrong, or the grid is empty.
    """
    with initialize_config_dir(config_dir=str(data_dir("conf").absolute()), version_base="1.3"):
        grid = read_grid(argv, multirun=multirun)
        points = [compose_point(overrides, grid.varied) for overrides in grid.points()]
        _composer.cache_clear()
    if not points:
        raise ConfigError("the grid is empty: every combination is excluded or an axis has no value")
    return grid, points


# ------------------------------------------------------------------------------------------------ one point


class _Composer:
    """Composes the points that share one choice of config groups, one after another.

    What the overrides of one point changed is restored before the next, so that a point costs what it touches:
    copying and resolving the whole config for each would take 4 ms.
    """

    def __init__(self, groups: Overrides) -> None:
        ConfigStore.instance().store(name="schema", node=RunConfig)
        self.base = hydra_compose("config", overrides=list(groups))
        OmegaConf.set_struct(self.base.cluster.extra, value=False)  # sbatch knows what keys it has
        OmegaConf.set_struct(self.base.deepspeed.config, value=False)  # DeepSpeed its own
        self.work = copy.deepcopy(self.base)
        self.touched: set[str] = set()
        unresolved = cast(Plain, OmegaConf.to_container(self.base, resolve=False))
        # Sections without interpolation or missing value are the same in every point that does not touch them.
        self.constant = {
            key: value for key, value in unresolved.items() if not re.search(r"\$\{|'\?\?\?'", repr(value))
        }

    def point(self, overrides: Sequence[Override]) -> Plain:
        """The base with these overrides applied by Hydra's own function, resolved."""
        self._restore()
        self.touched = {override.key_or_group.split(".")[0].split("[")[0] for override in overrides}
        ConfigLoaderImpl._apply_overrides_to_config(list(overrides), self.work)
        return {str(key): self._resolved(str(key)) for key in self.work}

    def _resolved(self, key: str) -> Any:
        if key in self.constant and key not in self.touched:
            return self.constant[key]
        node = self.work._get_node(key)
        if OmegaConf.is_config(node):
            return OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
        return self.work[key]

    def _restore(self) -> None:
        content = cast(dict[Any, Any], self.work.__dict__["_content"])
        for key in self.touched:
            content.pop(key, None)
            if key in self.base:
                content[key] = node = cast(Node, copy.deepcopy(self.base._get_node(key)))
                node._set_parent(self.work)


def compose_point(overrides: Overrides, varied: Sequence[str] = ()) -> Composed:
    """Compose one grid point; equals `hydra.compose(overrides)`, resolved, at a fraction of the time."""
    parsed = [_parse(override) for override in overrides]
    try:
        composer = _composer(tuple(o.input_line or "" for o in parsed if _chooses_group(o)))
        config = composer.point([o for o in parsed if not _chooses_group(o)])
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_explain(error, overrides)) from error
    return Composed(overrides, config, {key: _axis_value(config, key) for key in varied})


@cache
def _composer(groups: Overrides) -> _Composer:
    return _Composer(groups)


def _axis_value(config: Plain, key: str) -> Any:
    """What a config holds for an axis: the value of a key, or the name of a chosen group member."""
    value: Any = config
    for part in key.lstrip("+~").split("@")[0].replace("/", ".").split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value["name"] if isinstance(value, Mapping) and "name" in value else value


def change_settings(settings: Plain, overrides: Sequence[str]) -> Plain:
    """A run's recorded settings with these overrides, `cluster.time=4:00:00` for one.

    Raises:
        ConfigError: an override is wrong, or would change what is trained.
    """
    parsed = [_parse(override) for override in overrides]
    for override in parsed:
        section = override.key_or_group.split(".")[0]
        if section in OBJECTIVE:
            raise ConfigError(f"{override.input_line}: {section} says what is trained; another value is another run")
        if override.is_sweep_override() or _chooses_group(override):
            raise ConfigError(f"{override.input_line}: give one value of one key, such as cluster.time=4:00:00")
        if override.key_or_group not in (known := sorted(_keys(settings))) and not override.is_add():
            raise ConfigError(f"{override.key_or_group}: no such key{suggestion(override.key_or_group, known)}")
    config = cast(DictConfig, OmegaConf.merge(OmegaConf.structured(RunConfig), settings))
    OmegaConf.set_struct(config.cluster.extra, value=False)
    try:
        ConfigLoaderImpl._apply_overrides_to_config(parsed, config)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(f"{' '.join(overrides)}: {_first_line(error.__cause__ or error)}") from error
    return {key: OmegaConf.to_container(v) if OmegaConf.is_config(v := config[key]) else v for key in settings}


# ------------------------------------------------------------------------------------------------ the grid


def read_grid(argv: Sequence[str], *, multirun: bool) -> Grid:
    """The grid of a command line: the sweep file's axes, each replaced by the command line where that names it too."""
    parsed = [_parse(argument) for argument in argv]
    names = [o for o in parsed if o.key_or_group == "sweeps"]
    if len(names) > 1:
        raise ConfigError("sweeps: give one sweep file at a time")
    given = {o.get_key_element(): _axis_of(o, multirun=multirun) for o in parsed if o not in names}
    if not names:
        return Grid(tuple(given.values()))
    name = str(names[0].value())
    file = _read_sweep_file(name)
    replaced = {key.lstrip("+~") for key in given}
    axes = [axis for axis in (_without(axis, replaced) for axis in file.axes) if axis.keys]
    return Grid((*axes, *given.values()), file.exclude, name)


def _without(axis: Axis, keys: set[str]) -> Axis:
    """The axis less the keys that the command line gives; equal values that remain become one."""
    kept = [i for i, key in enumerate(axis.keys) if key not in keys]
    values = (tuple(value[i] for i in kept) for value in axis.values)
    return Axis(tuple(axis.keys[i] for i in kept), tuple(dict.fromkeys(values)))


def _axis_of(override: Override, *, multirun: bool) -> Axis:
    """The values of one override: several where it sweeps."""
    key = override.get_key_element()
    if not override.is_sweep_override():
        return _axis(key, [override.input_line or ""])
    if not multirun:
        raise ConfigError(f"{override.input_line}: several values for {key}; add -m to run all of them")
    if not override.is_discrete_sweep():
        raise ConfigError(f"{override.input_line}: interval() has no definite values; use range() or a list")
    return _axis(key, [f"{key}={value}" for value in _values(override)])


def _axis(key: str, overrides: Sequence[str]) -> Axis:
    return Axis((key,), tuple((_expand(override),) for override in overrides))


def _values(override: Override) -> list[str]:
    """The values of a sweep override, as text that Hydra can parse again."""
    value = override.value()
    if isinstance(value, Glob):
        return value.filter(sorted(_options(override.key_or_group) - BLANK))
    return list(override.sweep_string_iterator())


def _expand(override: str) -> Overrides:
    """`model=ORG/NAME@REVISION` or `model=./FOLDER` -> the overrides of conf/model/custom.yaml that say so.

    `model.chat_template=FILE.jinja` -> its text, so that a run is known by what the template says.
    """
    key = override.partition("=")[0]
    if key == TEMPLATE:
        return (_with_template(override),)
    value = _parse(override).value() if key in SHORTHANDS else None
    if not isinstance(value, str) or not re.search(r"[/@]", value) or value in _options(key):
        return (override,)
    path, _, revision = value.partition("@")
    if path.startswith((".", "~")) or Path(path).exists():
        path = str(Path(path).expanduser().resolve())  # a run must not depend on where it was launched from
    name = re.sub(r"[^a-z0-9.]+", "-", Path(path).name.lower()).strip("-.")
    if not name:
        raise ConfigError(f"{override}: is neither a file of conf/{key}, nor ORG/NAME@REVISION, nor a folder")
    values = {"name": name, "path": path, "revision": revision or None}
    return (f"{key}=custom", *(f"{key}.{part}={_text(value)}" for part, value in values.items()))


def _with_template(override: str) -> str:
    value = str(_parse(override).value())
    if not value.endswith((".jinja", ".jinja2")):
        return override
    try:
        return f"{TEMPLATE}={_text(Path(value).expanduser().read_text(encoding='utf-8'))}"
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{override}: cannot be read ({error}); give a file with a chat template, or Jinja"
        ) from error


# ------------------------------------------------------------------------------------------------ sweep files


def _read_sweep_file(name: str) -> Grid:
    """`sweeps/NAME.yaml`: overrides, grid, zip and exclude, each optional."""
    path = data_dir("sweeps") / f"{name}.yaml"
    if not re.fullmatch(r"[\w-]+", name) or not path.is_file():
        known = sorted(file.stem for file in data_dir("sweeps").glob("*.yaml"))
        raise ConfigError(f"sweeps={name}: no such sweep file{suggestion(name, known)}; there are: {', '.join(known)}")
    try:
        content = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except (YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"sweeps={name}: {path} is not readable as YAML: {_first_line(error)}") from error
    if not isinstance(content, dict) or not set(content) <= {"overrides", "grid", "zip", "exclude"}:
        raise ConfigError(f"sweeps={name}: {path} may hold the keys overrides, grid, zip and exclude, and no others")
    axes = [_axis(key, [f"{key}={_text(value)}"]) for key, value in _section(content, "overrides", dict)]
    axes += [_file_axis(key, value) for key, value in _section(content, "grid", dict)]
    axes += [_zipped(path, group) for group in content.get("zip") or []]
    exclude = tuple(frozenset(map(_meaning, _point(item))) for item in content.get("exclude") or [])
    return Grid(tuple(axes), exclude)


def _section(content: Mapping[Any, Any], key: str, kind: type) -> list[tuple[str, Any]]:
    section = content.get(key) or {}
    if not isinstance(section, kind):
        raise ConfigError(f"{key}: a sweep file needs `key: value` lines below it, found {section!r}")
    return list(cast(dict[str, Any], section).items())


def _point(item: Mapping[str, Any]) -> list[str]:
    return [override for key, value in item.items() for override in _expand(f"{key}={_text(value)}")]


def _file_axis(key: str, value: Any) -> Axis:
    """An axis in a sweep file: a YAML list, or Hydra's sweep grammar as text."""
    if isinstance(value, list):
        return _axis(key, [f"{key}={_text(item)}" for item in value])
    return _axis_of(_parse(f"{key}={value}"), multirun=True)


def _zipped(path: Path, group: Mapping[str, Any]) -> Axis:
    """Axes that vary together, as one."""
    axes = [_file_axis(key, value) for key, value in group.items()]
    lengths = {axis.keys[0]: len(axis.values) for axis in axes}
    if len(set(lengths.values())) != 1:
        raise ConfigError(f"{path}: axes that vary together need equally many values, found {lengths}")
    rows = zip(*(axis.values for axis in axes), strict=True)
    return Axis(tuple(group), tuple(tuple(of_key for (of_key,) in row) for row in rows))


def _text(value: Any) -> str:
    """A YAML value as Hydra's grammar writes it."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_text(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_text, value)) + "]"
    text = str(value)
    plain = re.fullmatch(r"[\w./@+-]+", text) or not isinstance(value, str)
    return text if plain else "'" + re.sub(r"(\\*)('|\Z)", _escaped, text) + "'"


def _escaped(end: re.Match[str]) -> str:
    """In quotes Hydra takes backslashes as they are, but for those before a quote."""
    return end[1] * 2 + ("\\'" if end[2] else "")


# ------------------------------------------------------------------------------------------------ Hydra's words


@cache
def _parse(override: str) -> Override:
    try:
        return OverridesParser.create().parse_override(override)
    except HydraException as error:
        raise ConfigError(f"{override}: not a valid override, expected key=value ({_first_line(error)})") from error


@cache
def _options(group: str) -> frozenset[str]:
    return frozenset(file.stem for file in (data_dir("conf") / group).glob("*.yaml"))


def _chooses_group(override: Override) -> bool:
    """Whether an override picks a file of conf/ rather than setting a value (Hydra's own rule)."""
    folder = data_dir("conf") / override.key_or_group
    return (folder.is_dir() and not isinstance(override.value(), dict)) or override.is_hydra_override()


def _meaning(override: str) -> tuple[str, str]:
    """Key and value of an override, the same for every way to write a number."""
    parsed = _parse(override)
    return parsed.key_or_group, json.dumps(canonical(parsed.value()), default=str)


def _explain(error: BaseException, overrides: Overrides) -> str:
    """One line that names the key, the value and what would be right."""
    words = " ".join(str(part) for part in (error, error.__cause__, error.__context__) if part)
    if missing := re.search(r"Missing mandatory value: (\S+)", words):
        return f"{missing[1]}: has no value; give {missing[1]}=..."
    if choice := re.search(r"Could not find '([\w-]+)/(.*?)'", words):
        options = sorted(_options(choice[1]) - {"custom"})
        also = ", ORG/NAME@REVISION or ./FOLDER" if choice[1] in SHORTHANDS else ""
        near = suggestion(choice[2], options)
        return f"{choice[1]}={choice[2]}: no such file in conf/{choice[1]}{near}; there are: {', '.join(options)}{also}"
    for override in overrides:
        key = _parse(override).key_or_group
        if re.search(rf"(override|append to config|override group) '?{re.escape(key)}'?|{re.escape(override)}", words):
            return _explain_value(override, key, words)
    return _first_line(error)


def _explain_value(override: str, key: str, words: str) -> str:
    if converted := re.search(
        r"Value '(.*?)'(?: of type '\w+')? (?:could not be|is not) (.*?)(?:\n|$| full_key)", words
    ):
        return f"{override}: {converted[1]!r} {'cannot be' if 'could' in words else 'is not'} {converted[2]}"
    known = sorted(_keys(OmegaConf.to_container(_composer(()).base, resolve=False)))
    return f"{key.lstrip('+~')}: no such key ({override}){suggestion(key, known)}; see conf/config.yaml"


def _keys(config: Any, prefix: str = "") -> Iterator[str]:
    for key, value in config.items() if isinstance(config, dict) else ():
        yield prefix + key
        yield from _keys(value, f"{prefix}{key}.")


def _first_line(error: BaseException) -> str:
    """The beginning of a library's message, on one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2]) or type(error).__name__
