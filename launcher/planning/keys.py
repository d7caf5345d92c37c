"""Every key that a configuration may have, and what is to be known of it, read from where it stands.

Owns: the list of keys: type (`config`), meaning (the comment above it in `conf/`), default (the files of `conf/` that
`config.yaml` names), choices and range (the tables of the rules).
Must not know: Hydra, how a configuration is composed, the form in which keys are shown.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import yaml
from omegaconf._utils import get_yaml_loader

from launcher.config import PACKED_AUTO, PRESET, WEAK_REJECTS, RunConfig
from launcher.dataset.builders import BUILDERS
from launcher.losses import ALIASES, LOSSES
from launcher.machine.installed import data_dir
from launcher.planning.comments import ITEM, comments_in
from launcher.planning.kinds import FINER, options_of
from launcher.planning.loss_rules import DIVERGENCES, RANGES
from launcher.planning.rules import CHOICES, LEAST, SEED_KEYS, SEEDS, TRACKING_MODES
from launcher.planning.trainer_rules import POSITIVE, SHARES
from launcher.store.results import BENCHMARKS

GROUPS = ("model", "dataset", "trainer", "deepspeed", "cluster", "hub", "tracking", "evaluation")  # folders of conf/
NOT_TYPED = ("pins",)  # a launch gives it
# Sections with the keys of another one, and so with its comments, choices and ranges.
_LIKE = {"dataset.mixture": "dataset", f"dataset.{WEAK_REJECTS}.model": "model", "evaluation.cluster": "cluster"}
_CHOICES: dict[str, tuple[Any, ...]] = {
    **CHOICES,
    "tracking.mode": tuple(mode for mode in TRACKING_MODES if mode is not None),
    "loss.f_divergence": DIVERGENCES,
    "dataset.builder": (*BUILDERS, WEAK_REJECTS),
    "trainer.packed": (PACKED_AUTO, False),
}
# Words that a key of text may well have, though not these alone.
_WELL_KNOWN: dict[str, tuple[str, ...]] = {"loss_type": (*(loss.name for loss in LOSSES), *ALIASES)}
_OF_ITEMS: dict[str, tuple[str, ...]] = {"evaluation.benchmarks": tuple(BENCHMARKS)}


@dataclass(frozen=True)
class Bounds:
    """Between which numbers a value lies; infinite where there is no bound."""

    least: float = -math.inf
    above: float = -math.inf
    most: float = math.inf
    below: float = math.inf


@dataclass(frozen=True)
class Key:
    """One key, or one section.

    Attributes:
        name: with the sections above it, `trainer.lora.r`.
        kind: its type.
        about: the comment above it in `conf/`, on one line.
        default: the value of a run for which nothing is said; `???` where the user has to give one.
        choices: all words that it may have; empty where there are others.
        well_known: some of the words that it may have.
        bounds: those of a number.
        of_items: the words that the items of a list may have.
        below: the keys of a section.
    """

    name: str
    kind: Any
    about: str
    default: Any = None
    choices: tuple[Any, ...] = ()
    well_known: tuple[str, ...] = ()
    bounds: Bounds = Bounds()
    of_items: tuple[str, ...] = ()
    below: tuple[Key, ...] = field(default=(), repr=False)

    @property
    def last(self) -> str:
        """The name without the sections above it."""
        return self.name.rpartition(".")[2]

    def all(self) -> Iterator[Key]:
        """The key, and all below it."""
        yield self
        for key in self.below:
            yield from key.all()


@cache
def keys() -> tuple[Key, ...]:
    """The keys of a configuration, sections with those below them, in the order of the schema."""
    defaults = _defaults("config", data_dir("conf"))
    return tuple(_keys(RunConfig, "", defaults, _comments(), _ranges()))


def choices_of(group: str) -> list[str]:
    """The names of the files of a group, such as `examples/no_arrays_frontera` of the cluster's."""
    folder = data_dir("conf") / group
    return sorted(str(file.relative_to(folder).with_suffix("")) for file in folder.rglob("*.yaml"))


def _keys(
    kind: type, above: str, defaults: Mapping[str, Any], comments: Mapping[str, str], ranges: Mapping[str, Bounds]
) -> Iterator[Key]:
    typed = get_type_hints(kind)
    for each in fields(kind):
        name, below = f"{above}{each.name}", FINER.get((kind, each.name), typed[each.name])
        if name in NOT_TYPED:
            continue
        same = _same(name)
        default = defaults.get(each.name, _default(each))
        section = section_of(below)
        inner = default if isinstance(default, Mapping) else {}
        yield Key(
            name=name,
            kind=below,
            about=comments.get(name) or comments.get(same) or comments.get(above[:-1]) or comments[_same(above[:-1])],
            default=default,
            choices=_CHOICES.get(same, ()),
            well_known=_WELL_KNOWN.get(same, ()),
            bounds=ranges.get(name, ranges.get(same, Bounds())),
            of_items=_OF_ITEMS.get(same, ()),
            below=() if section is None else tuple(_keys(section, f"{name}.", inner, comments, ranges)),
        )


def section_of(kind: Any) -> type | None:
    """The section that a value of this type is, or each item of it; None where it is none."""
    for option in options_of(kind):
        inner = get_args(option)[0] if get_origin(option) is list else option
        if isinstance(inner, type) and is_dataclass(inner):
            return inner
    return None


def _same(name: str) -> str:
    """The key whose comment, choices and range a key has, where it has none of its own."""
    like = next((section for section in _LIKE if name.startswith(f"{section}.")), None)
    return name if like is None else f"{_LIKE[like]}{name.removeprefix(like)}"


def _default(each: Any) -> Any:
    if callable(each.default_factory):
        made = each.default_factory()
        return None if is_dataclass(made) else made
    return each.default


def _defaults(name: str, folder: Path) -> dict[str, Any]:
    """What a file of `conf/` says with the files that it stands on: those of its folder, or one of each group."""
    content = yaml.load((folder / f"{name}.yaml").read_text(encoding="utf-8"), get_yaml_loader()) or {}  # noqa: S506 - a safe one
    found: dict[str, Any] = {}
    for entry in content.pop("defaults", []):
        if isinstance(entry, dict):
            for group, member in entry.items():
                found[group] = _defaults(member, folder / group)
        elif (folder / f"{entry}.yaml").is_file():
            found = _merged(found, _defaults(entry, folder))
    return _merged(found, content)


def _merged(below: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    both = {key: _merged(below[key], value) for key, value in above.items() if _both_map(below.get(key), value)}
    return {**below, **above, **both}


def _both_map(one: Any, other: Any) -> bool:
    return isinstance(one, dict) and isinstance(other, dict)


def _comments() -> dict[str, str]:
    """By key its comment: in `config.yaml`, else in the file of its group that explains most, `custom` before all."""
    conf = data_dir("conf")
    found = {key.removeprefix(f"defaults{ITEM}."): text for key, text in _about(conf / "config.yaml").items()}
    for group in (*GROUPS, PRESET):
        above = "" if group == PRESET else f"{group}."
        files = [_about(conf / group / f"{name}.yaml") for name in _most_telling(group)]
        for told in files:
            found = {**{f"{above}{key}": text for key, text in told.items()}, **found}
    return found


def _most_telling(group: str) -> list[str]:
    told = {name: len(_about(data_dir("conf") / group / f"{name}.yaml")) for name in choices_of(group)}
    return sorted(told, key=lambda name: (name != "custom", -told[name], name))


@cache
def _about(file: Path) -> dict[str, str]:
    found = comments_in(file.read_text(encoding="utf-8")).about()
    return {key if key.startswith("defaults") else key.replace(ITEM, ""): text for key, text in found.items()}


def _ranges() -> dict[str, Bounds]:
    """By key the range that every value lies in, whatever else the configuration says."""
    found = {
        f"{section}.{key}": Bounds(least=least)
        for least, sections in LEAST.items()
        for section, names in sections.items()
        for key in names
    }
    found |= {f"trainer.{key}": Bounds(above=0) for key in POSITIVE}
    found |= {f"trainer.{key}": Bounds(least=0, below=1) for key in SHARES}
    found |= dict.fromkeys(SEED_KEYS, Bounds(least=0, below=SEEDS))
    for key, of_losses in RANGES.items():
        each = of_losses.values()
        found[key] = Bounds(
            least=min(one.least for one in each),
            above=min(one.above for one in each),
            below=max(one.below for one in each),
        )
    return {**found, "beta": Bounds(above=0)}
