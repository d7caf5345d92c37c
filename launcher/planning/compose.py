"""argv -> resolved configs. With `asked`, and what both stand on, the only importer of hydra.

Owns: Hydra's composition, and what its errors mean to the user.
Must not know: run ids, the run directory, schedulers. Writes nothing.

Hydra needs some 50 ms to compose a config, so it composes once for each distinct choice of config groups; the other
overrides are applied to a copy by Hydra's own function, which gives what composing every point would give.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, Node, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, MissingMandatoryValue, OmegaConfBaseException

from launcher.config import MISSING, PRESET, RunConfig
from launcher.errors import UNSAID, ConfigError, UsageError, suggestion
from launcher.machine.terminal import Say, silent
from launcher.planning import names
from launcher.planning.as_typed import GROUPS_ONLY, read_conf_as_typed, read_yaml
from launcher.planning.asked import read_grids
from launcher.planning.conf_places import conf_dirs, conf_file, config_name, own_dirs
from launcher.planning.grid import Grids, section_of
from launcher.planning.kinds import FREE, names_below, wanted_of
from launcher.planning.overrides import (
    SPELT,
    Overrides,
    as_text,
    check_choice,
    chooses_group,
    first_line,
    parse,
    wrong,
)
from launcher.store.files import Plain


def _in_a_name(value: Any) -> str:
    """`${number:${beta}}` in conf/: 3, where beta is the float 3.0, as run ids have it; of a list, all of them.

    What is no number stays as YAML has it: null, true, a word.
    """
    if isinstance(value, ListConfig):
        return "-".join(map(_in_a_name, value))
    if value is None or isinstance(value, bool):
        return as_text(value)
    return f"{value:.12g}" if isinstance(value, int | float) else str(value)


OmegaConf.register_new_resolver("number", _in_a_name, replace=True)

# OmegaConf's words for what stands in braces and is no key, `${HOME}` or `${HOME:-x}`.
_UNKNOWN = re.compile(r"(?:Interpolation key '|Unsupported interpolation type )[#!]?([A-Za-z_]\w*)")


@dataclass(frozen=True)
class Composed:
    """One grid point: its overrides, the resolved config, and the values of the axes that vary."""

    overrides: Overrides
    config: Plain
    axes: Plain


def compose(
    argv: Sequence[str], *, multirun: bool, tell: Say = silent, may_be_open: Collection[str] = ()
) -> tuple[Grids, list[Composed]]:
    """All grid points of a command line, and the grids that they are of.

    Args:
        argv: Hydra overrides, and at most one `+sweeps=NAME`.
        multirun: whether commas, range(), choice() and glob() are axes (Hydra's -m).
        tell: is told how far it is.
        may_be_open: keys that are null where a chosen file leaves them to the user (`???`), and the user has not said.

    Raises:
        UsageError: an override, a sweep file or a value is wrong, or the grid is empty.
    """
    with hydra_at_conf():
        grids = read_grids(argv, multirun=multirun)
        varied, fixed = grids.varied, frozenset(grids.fixed)
        points = []
        for number, overrides in enumerate(grids.points(), 1):
            tell(f"composing run {number:,}")
            points.append(compose_point(overrides, varied, fixed, frozenset(may_be_open)))
        longer = names.told_apart([point.config for point in points])
        points = [_named_apart(point, longer, varied, may_be_open) for point in points] if longer else points
    if not points:
        raise UsageError("the grid is empty: every combination is excluded or an axis has no value")
    return grids, points


@contextmanager
def hydra_at_conf() -> Iterator[ConfigLoaderImpl]:
    """Hydra, looking for files where we do, and reading them as we do; gives its loader."""
    read_conf_as_typed()
    *own, ours = conf_dirs()
    with initialize_config_dir(config_dir=str(ours), version_base="1.3"):
        loader = cast(ConfigLoaderImpl, GlobalHydra.instance().config_loader())
        path = create_config_search_path(str(ours))
        for folder in reversed(own):
            path.prepend(GROUPS_ONLY if folder in own_dirs() else "command line", str(folder))
        loader.repository.initialize_sources(path)
        try:
            yield loader
        finally:
            _composer.cache_clear()


def _named_apart(
    point: Composed, longer: names.Renamed, varied: Sequence[str], may_be_open: Collection[str]
) -> Composed:
    """The point, with a longer name for what shares the name that an override gave it; a file of `conf/` keeps its."""
    given = {override.partition("=")[0] for override in point.overrides}
    found = {
        section: longer.get((section, point.config[section]["name"], names.place_in(point.config, section)))
        for section in names.NAMED
        if f"{section}.name" in given
    }
    more = tuple(f"{section}.name={as_text(name)}" for section, name in found.items() if name)
    return compose_point((*point.overrides, *more), varied, (), frozenset(may_be_open)) if more else point


class _Composer:
    """Composes the points that share one choice of config groups, one after another.

    What the overrides of one point changed is restored before the next, and what none of them reaches is the same in
    every point, so that a point costs what it touches: copying and resolving the whole config for each would take 4 ms.
    """

    def __init__(self, groups: Overrides, fixed: Overrides, may_be_open: frozenset[str]) -> None:
        ConfigStore.instance().store(name="schema", node=RunConfig)
        self.base = hydra_compose(config_name(), overrides=list(groups))
        free_mappings(self.base)
        for key in _left_open(groups):
            OmegaConf.update(self.base, key, None if key in may_be_open else MISSING)
        for override in fixed:
            apply_override(parse(override), self.base)
        self.work = copy.deepcopy(self.base)
        self.touched: frozenset[str] = frozenset()
        self.known: dict[str, Any] = {}
        self.reaches = _reaches(cast(Plain, OmegaConf.to_container(self.base, resolve=False)))

    def point(self, overrides: Sequence[Override]) -> Plain:
        """The base with these overrides applied by Hydra's own function, resolved."""
        self._restore()
        self.touched = frozenset(section_of(override.key_or_group) for override in overrides)
        for override in overrides:
            apply_override(override, self.work)
        return {str(key): self._resolved(str(key)) for key in self.work}

    def _resolved(self, key: str) -> Any:
        if not self.touched.isdisjoint(self.reaches.get(key, {key})):
            return self._resolve(key)
        if key not in self.known:
            self.known[key] = self._resolve(key)
        return self.known[key]

    def _resolve(self, key: str) -> Any:
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


def _left_open(groups: Overrides) -> Iterator[str]:
    """What chosen files that stand on others leave to the user: a merge passes `???` over where there is a value."""
    for group, _, name in (choice.partition("=") for choice in groups):
        file = conf_file(group.lstrip("+"), name)
        content = {} if file is None else read_yaml(file.read_text(encoding="utf-8"), lambda _: str)
        yield from (f"{group}.{key}" for key in _missing(content) if "defaults" in content)


def _reaches(unresolved: Plain) -> dict[str, frozenset[str]]:
    """By section those whose values may stand in it: itself, what its interpolations name, and what those reach."""
    named = {key: _named_in(repr(value), unresolved) for key, value in unresolved.items()}
    found = {key: {key, *others} for key, others in named.items()}
    for _ in found:  # one step further each time
        for reached in found.values():
            reached.update(*(found[each] for each in tuple(reached)))
    return {key: frozenset(reached) for key, reached in found.items()}


def _named_in(text: str, sections: Iterable[str]) -> set[str]:
    """The sections that a text's interpolations name; all where a relative one, or a resolver, may read any."""
    if re.search(r"\$\{(\s*\.|(?!number:)[^{}]*:)", text):
        return set(sections)
    return set(re.findall(r"\$\{\s*(\w+)", text)) & set(sections)


def compose_point(
    overrides: Overrides,
    varied: Sequence[str] = (),
    fixed: Collection[str] = (),
    may_be_open: frozenset[str] = frozenset(),
) -> Composed:
    """Compose one grid point; equals `hydra.compose(overrides)`, resolved, at a fraction of the time.

    `fixed`: those of the overrides that are applied once for all points, since no other changes the same section.
    """
    parsed = [parse(override) for override in overrides]
    chosen = [override for override in parsed if chooses_group(override)]
    groups = groups_of(overrides)
    once = tuple(
        override for override, o in zip(overrides, parsed, strict=True) if override in fixed and o not in chosen
    )
    try:
        composer = _composer(groups, once, may_be_open)
    except HydraException as error:
        raise _wrong_in_a_file(error) or UsageError(f"{' '.join(groups)}: {first_line(error)}") from error
    try:
        config = composer.point([o for o in parsed if o not in chosen and o.input_line not in once])
    except (MissingMandatoryValue, InterpolationToMissingValueError) as error:
        missing = list(_missing(OmegaConf.to_container(composer.work)))
        given = " ".join(f"{key}=..." for key in missing)
        raise ConfigError(", ".join(missing), UNSAID, f"no value; give {given}") from error
    except OmegaConfBaseException as error:
        key, what = str(error.full_key), str(error).splitlines()[0]
        raise ConfigError(key, UNSAID, what + _for_a_variable(key, what)) from error
    members = {override.get_key_element(): override.value() for override in chosen}
    return Composed(overrides, config, {key: _axis_value(config, key, members) for key in varied})


def _wrong_in_a_file(error: HydraException) -> UsageError | None:
    """What is wrong with a key of a file of `conf/`, with the file; None where the error is another."""
    place = re.match(r"In '(.+?)': \w+ raised while composing config:", str(error))
    found = re.search(r"full_key: (\S+)", str(error))
    if place is None or found is None:
        return None
    key, (group, _, name) = found[1], place[1].rpartition("/")
    section, _, last = key.rpartition(".")
    there = names_below(section)
    near = suggestion(last, there) or f"; there are: {', '.join(there)}"
    what = f"no such key{near}" if wanted_of(key) is None else f"must be {wanted_of(key)}"
    return UsageError(f"{conf_file(group, name) or place[1]}: {key}: {what}")


def groups_of(overrides: Overrides) -> Overrides:
    """Those of the overrides that choose files of `conf/`, as Hydra has to be told of them.

    Raises:
        ConfigError: there is no such file.
    """
    chosen = [override for override in map(parse, overrides) if chooses_group(override)]
    for override in chosen:
        check_choice(override)
    return tuple(f"{_group(override)}={as_text(override.value())}" for override in chosen)


def _for_a_variable(key: str, what: str) -> str:
    """How a variable is written there, where braces may have been meant for one: ours name other keys."""
    found = _UNKNOWN.match(what)
    if found and ".setup[" in key:
        return f"; for a variable of the shell, ${found[1]} or \\${{...}}"
    return f"; for a variable of the environment, ${{oc.env:{found[1]}}}" if found and found[1].isupper() else ""


def _group(override: Override) -> str:
    """A group as Hydra has to be told of it: that of presets stands in no list of defaults."""
    return f"+{PRESET}" if override.key_or_group == PRESET else str(override.get_key_element())


@cache
def _composer(groups: Overrides, fixed: Overrides, may_be_open: frozenset[str]) -> _Composer:
    return _Composer(groups, fixed, may_be_open)


def _axis_value(config: Plain, key: str, members: Mapping[str, Any]) -> Any:
    """What a config holds for an axis: the value of a key, or a chosen group member's name, its own or its file's."""
    value: Any = config
    for part in key.lstrip("+~").split("@")[0].replace("/", ".").split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    if not isinstance(value, Mapping):
        return members.get(key) if value is None else value
    return value.get("name") or members.get(key, value)


def apply_override(override: Override, config: DictConfig) -> None:
    """Change the config by one override, with Hydra's own function.

    Raises:
        ConfigError: the key, the value and what would be right.
    """
    section, _, last = override.key_or_group.rpartition(".")
    try:
        if isinstance(override.value(), dict) and _is_null(config, section, last):
            OmegaConf.update(config, section, {last: override.value()}, force_add=True)  # a merge into null would fail
        else:
            ConfigLoaderImpl._apply_overrides_to_config([override], config)
    except (HydraException, OmegaConfBaseException, AssertionError, ValueError) as error:
        raise wrong(override, _remedy(override, config)) from error


def free_mappings(config: DictConfig) -> None:
    """Have the mappings whose keys are not the schema's take any, without a sign that they are new."""
    for key in FREE:
        if OmegaConf.is_missing(config, key.partition(".")[0]):  # of what is trained, when settings are changed
            continue
        mapping = OmegaConf.select(config, key, throw_on_missing=False)
        if isinstance(mapping, DictConfig):
            OmegaConf.set_struct(mapping, value=False)


def _is_null(config: DictConfig, section: str, last: str) -> bool:
    holder = OmegaConf.select(config, section, throw_on_missing=False) if section else None
    return isinstance(holder, DictConfig) and last in holder and cast(Node, holder._get_node(last))._is_none()


def _remedy(override: Override, config: DictConfig) -> str:
    """What would be right in place of an override that cannot be applied."""
    key = override.key_or_group
    section, _, last = key.rpartition(".")
    wanted = wanted_of(key)
    if wanted is None:
        known = sorted(full_keys(OmegaConf.to_container(config)))
        near = f"; it is {SPELT[key]} here" if key in SPELT else suggestion(key, known)
        return f"no such key{near}; see conf/config.yaml"
    if section and OmegaConf.select(config, section, throw_on_missing=False) is None:
        group = section.partition(".")[0]
        return f"{section} is null; choose a file of conf/{group} that has it, or give all: {section}={{{last}: ...}}"
    there = OmegaConf.select(config, key, throw_on_missing=False) is not None
    if override.is_delete():
        return f"{key} cannot be left out; give {key}=..." if there else f"{key} is not there"
    if override.is_add() and there:
        return f"{key} is there; leave out the +"
    return f"must be {wanted}"


def _missing(node: Any, key: str = "") -> Iterator[str]:
    """The full keys of what the user must give and has not given."""
    if node == MISSING:
        yield key
    for name, item in node.items() if isinstance(node, dict) else ():
        yield from _missing(item, f"{key}.{name}" if key else name)
    for number, item in enumerate(node if isinstance(node, list) else ()):
        yield from _missing(item, f"{key}[{number}]")


def full_keys(config: Any, prefix: str = "") -> Iterator[str]:
    """Every key of a nested mapping with the keys above it, `trainer.lora.r`."""
    for key, value in config.items() if isinstance(config, dict) else ():
        yield prefix + key
        yield from full_keys(value, f"{prefix}{key}.")
