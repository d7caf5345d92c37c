"""JSON schemas of our YAML files, for editors: a sweep file, config.yaml or a preset, a file of each group of `conf/`.

Owns: the form of these files as JSON Schema (draft 7, which yaml-language-server takes).
Must not know: Hydra; which keys there are and what they mean (`keys`); rules between keys, which a launch checks.

An editor reads YAML 1.2, where 1.10 is a number; a launch keeps it as text where text is wanted. So a key of text takes
a number and a switch, too. Values that are known later stand as text anywhere: `${trainer.batch_size}`, `???`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from types import NoneType
from typing import Any, get_args, get_origin

from launcher.config import MISSING, PRESET
from launcher.planning.keys import GROUPS, Bounds, Key, choices_of, keys, section_of
from launcher.planning.kinds import FREE, options_of

Schema = dict[str, Any]
SWEEP, CONFIG = "sweep", "config"
KINDS = (SWEEP, CONFIG, *GROUPS)
_DRAFT = "http://json-schema.org/draft-07/schema#"
_LATER = {"type": "string", "pattern": rf"\$\{{|^{re.escape(MISSING)}$"}
_GRAMMAR = {
    "type": "string",
    "pattern": r"[,(]|\$\{",
    "description": "values in Hydra's grammar: 0.1,0.2 or range(1,4)",
}
_TEXT = {"type": ["string", "number", "boolean"]}
_NULL = {"type": "null"}
_LIST_OF_NAMES = {"type": "array", "items": {"type": ["string", "object"]}}


def schema_of(kind: str) -> Schema:
    """The schema of a kind of file, one of KINDS."""
    found: Schema = {"$schema": _DRAFT, "title": _TITLES.get(kind, f"A file of conf/{kind}")}
    if kind == SWEEP:
        return {**found, **_sweep()}
    if kind == CONFIG:
        return {**found, **_file(keys()), "definitions": _values(keys())}
    [section] = [key for key in keys() if key.name == kind]
    return {**found, **_file(section.below), "definitions": _values(section.below)}


_TITLES = {SWEEP: "A sweep file", CONFIG: "conf/config.yaml, or a file of conf/preset"}


def _file(below: Sequence[Key]) -> Schema:
    """Of a file with these keys, nested; a value of it may be that of a file below it (`defaults`)."""
    defaults = {**_LIST_OF_NAMES, "description": "The files that this one stands on; _self_: its own place among them."}
    return _mapping({"defaults": defaults, **_by_last_name(below)})


def _sweep() -> Schema:
    """Of a sweep file. Its keys have the sections before them, `trainer.lora.r`; a section alone chooses a file."""
    every = (*_all(keys()), _PRESET_KEY)
    groups = {f"group {name}": _choice(name) for name in GROUPS}
    axes = {f"axis {key.name}": _axis(key) for key in every}
    zipped = _list_of("axes", "Groups of axes that vary together: their first values, their second ones, and so on.")
    excluded = _list_of("axes", "Combinations to leave out; several values of a key name them all.")
    grid = {"description": "Axes: a run for each combination of their values.", **_dotted(every, "axis ")}
    definitions = {**_values((*keys(), _PRESET_KEY)), **groups, **axes, "axes": grid}
    one_of_several = _dotted(every, "axis ", {"zip": zipped, "exclude": excluded})
    described = {
        "overrides": {"description": "What is the same in every run.", **_dotted(every, "")},
        "grid": _ref("axes"),
        "zip": zipped,
        "exclude": excluded,
        "grids": {
            "description": "Several grids, one after another; what stands beside them multiplies each.",
            "type": "array",
            "minItems": 1,
            "items": {**one_of_several, "minProperties": 1},
        },
    }
    return {**_mapping(described), "definitions": definitions}


def _all(below: Iterable[Key]) -> Iterator[Key]:
    for key in below:
        yield from key.all()


def _values(below: Iterable[Key]) -> dict[str, Schema]:
    """By key what may stand as its value."""
    return {key.name: _value(key) for key in _all(below)}


def _dotted(every: Iterable[Key], kind: str, beside: dict[str, Schema] | None = None) -> Schema:
    """A mapping whose keys have the sections before them; what is the user's own to name has any key below it."""
    named = {key.name: _ref(f"{kind}{key.name}") for key in every}
    if not kind:
        named |= {name: {"anyOf": [_ref(f"group {name}"), _ref(name)]} for name in GROUPS}
    named[f"+{PRESET}"] = named[PRESET]
    free = sorted({*FREE, *(key.name for key in every if _is_open(key))})
    return _mapping({**named, **(beside or {})}, {rf"^\+?({'|'.join(map(re.escape, free))})\.": {}})


_PRESET_KEY = Key(PRESET, str, "Published settings to start from.", well_known=tuple(choices_of(PRESET)))


def _is_open(key: Key) -> bool:
    """Whether the keys below a key are not ours to name."""
    return not key.below and any(option is Any or get_origin(option) is dict for option in options_of(key.kind))


def _axis(key: Key) -> Schema:
    """The values of an axis: a list, one alone, or text in Hydra's grammar."""
    one = [_ref(key.name)] if key.name not in GROUPS else [_ref(f"group {key.name}"), _ref(key.name)]
    items = {"type": "array", "items": {"anyOf": one}, "minItems": 1}
    return {"description": key.about, "anyOf": [*one, items, _GRAMMAR]}


def _value(key: Key) -> Schema:
    """What may stand as the value of a key: of its type, or text that becomes so later."""
    simple = key.default is None or isinstance(key.default, str | int | float | bool)
    default = {"default": key.default} if simple and not key.below and key.default != MISSING else {}
    return {"description": key.about, **default, "anyOf": [*_of_kinds(key), _LATER]}


def _of_kinds(key: Key) -> Iterator[Schema]:
    if known := key.choices or key.well_known:
        yield {"enum": list(known)}
    for option in options_of(key.kind):
        if option is NoneType:
            yield _NULL
        elif option is Any:
            yield {}
        elif section_of(option) is not None:
            inner = _mapping(_by_last_name(key.below))
            yield {"type": "array", "items": inner} if get_origin(option) is list else inner
        elif not (key.choices and option in (str, bool)):
            yield _plain(option, key)


def _by_last_name(below: Iterable[Key]) -> dict[str, Schema]:
    return {key.last: _ref(key.name) for key in below}


def _plain(kind: Any, key: Key) -> Schema:
    """Of a type without sections."""
    if get_origin(kind) is list:
        words = {"enum": list(key.of_items)} if key.of_items else _plain(get_args(kind)[0], key)
        return {"type": "array", "items": {"anyOf": [words, _LATER]}}
    if get_origin(kind) is dict:
        return {"type": "object"}
    if kind is str:
        return _TEXT
    numbers = {int: "integer", float: "number"}
    return {"type": numbers[kind], **_bounded(key.bounds)} if kind in numbers else {"type": "boolean"}


def _bounded(bounds: Bounds) -> Schema:
    words = {
        "minimum": bounds.least,
        "exclusiveMinimum": bounds.above,
        "maximum": bounds.most,
        "exclusiveMaximum": bounds.below,
    }
    return {word: bound for word, bound in words.items() if math.isfinite(bound)}


def _choice(group: str) -> Schema:
    """The files of a group, or the name of another: a model on the Hub, a file in a folder of the user's."""
    return {"anyOf": [{"enum": choices_of(group)}, {"type": "string"}]}


def _mapping(properties: dict[str, Schema], patterns: dict[str, Schema] | None = None) -> Schema:
    more = {"patternProperties": patterns} if patterns else {}
    return {"type": "object", "properties": properties, **more, "additionalProperties": False}


def _list_of(name: str, about: str) -> Schema:
    return {"description": about, "type": "array", "items": _ref(name)}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/definitions/{name.replace(' ', '%20')}"}
