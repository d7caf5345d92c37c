"""Overrides and YAML files, read so that text stays what was typed: 1.10, 2022_001, 12:00:00, 1e3, on.

Owns: Hydra's grammar and YAML as we read them. Must not know: what an override or a file is for. Writes nothing.

Both grammars look at a word alone: 1.10 is a number, whatever its key is. Here the schema decides. A word is the text
that it is where its key wants text; elsewhere it is what the grammar says.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.grammar.functions import Functions
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.override_parser.overrides_parser import create_functions
from hydra.core.override_parser.overrides_visitor import HydraErrorListener, HydraOverrideVisitor
from hydra.core.override_parser.types import Key, Override, RangeSweep
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.grammar.gen.OverrideLexer import (  # type: ignore[attr-defined]
    CommonTokenStream,
    InputStream,
    OverrideLexer,
)
from hydra.grammar.gen.OverrideParser import OverrideParser
from hydra.plugins.config_source import ConfigResult
from omegaconf import OmegaConf
from omegaconf._utils import get_yaml_loader

from launcher.planning.kinds import kind_at, kind_below, kind_of, stays_text, takes_text

Parts = tuple[str, ...]
KindAt = Callable[[Parts], Any]
_CASTS = {"int", "float", "bool"}
_TAG = "tag:yaml.org,2002:"
_TEXT, _MERGE = f"{_TAG}str", f"{_TAG}merge"
_NUMBERS = {f"{_TAG}int": int, f"{_TAG}float": float}
_OTHER_BASE = re.compile(
    r"[-+]?(0[0-9_]|[0-9_.]+:)"
)  # 010 is 8 in YAML, and 1:30 is 90; as on a command line, it is text
PIECE_OR_QUOTED = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|(?<=[\w.-])\[((?:-?\d+%?)?:(?:-?\d+%?)?)\]""")
_READ_AS: dict[str, type] = {**_NUMBERS, f"{_TAG}bool": bool}
BEGIN = "config"  # the file that a configuration begins with
GROUPS_ONLY = "groups only"  # who has put a folder into Hydra's search path in which that file is another program's
POINTS = "points"  # the key whose values are whole grid points: mappings from keys of any section to a value each
_OF_POINTS: Any = object()  # stands for the type of such a mapping
_OF_KEYS = {"sweeps": str, "preset": str, POINTS: _OF_POINTS}  # keys that the schema does not have
_NESTED = re.compile(r"\$\{[^{}]*\$\{")
_SWITCH = re.compile("true|false", re.IGNORECASE)  # of YAML's words for them those of a command line: on is text


def read_override(text: str) -> Override:
    """An override in Hydra's grammar, with the words of text keys as they stand in it.

    A piece of a split, `train[:90%]`, is a word too, and so is an interpolation within one, `${number:${beta}}`.
    Hydra's grammar has no place for them, so that only what it cannot read is read again in this way, and nothing that
    it can read means anything else.

    Raises:
        HydraException: it is not in that grammar, or makes a number where text is wanted.
    """
    try:
        override = _read(text)
    except HydraException:
        if (spelled := _with_pieces(_with_interpolations(text))) == text:
            raise
        override = _read(spelled)
    override.input_line = text
    return override


def _with_interpolations(text: str) -> str:
    """The text with its value in quotes where that is a word with one interpolation within another."""
    key, _, value = text.partition("=")
    return f'{key}="{value}"' if _NESTED.search(value) and not re.search(r"""['"\\,]""", value) else text


def _with_pieces(text: str) -> str:
    """The text with a backslash before the brackets of each piece of a split that is not in quotes."""
    return PIECE_OR_QUOTED.sub(lambda found: found[0] if found[1] is None else f"\\[{found[1]}\\]", text)


def _read(text: str) -> Override:
    listener = HydraErrorListener()
    lexer = OverrideLexer(_Letters(text))
    parser = OverrideParser(CommonTokenStream(lexer))
    for each in (lexer, parser):
        each.removeErrorListeners()
        each.addErrorListener(listener)
    override: Override = _Reader(create_functions()).visit(parser.override())  # type: ignore[no-untyped-call]
    override.validate()
    return override


class _Letters(InputStream):  # type: ignore[misc]
    """A text whose letters of all alphabets are letters for Hydra's lexer, which knows those of ASCII."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.data: list[int] = [ord(letter) if letter.isascii() else ord("x") for letter in text]


class _Reader(HydraOverrideVisitor):
    """Hydra's own visitor, which also knows of what type the value is that it comes to."""

    def __init__(self, functions: Functions) -> None:
        super().__init__(functions)
        self._kind: Any = None

    def visitKey(self, ctx: Any) -> Key:  # noqa: N802 - Hydra's name, as those below
        key = super().visitKey(ctx)
        self._kind = _OF_KEYS[key.key_or_group] if key.key_or_group in _OF_KEYS else kind_of(key.key_or_group)
        return key

    def _within(self, kind: Any, visit: Callable[[Any], Any], node: Any) -> Any:
        outer, self._kind = self._kind, kind
        try:
            return visit(node)
        finally:
            self._kind = outer

    def visitListContainer(self, ctx: Any) -> list[Any]:  # noqa: N802
        found: list[Any] = self._within(kind_below(self._kind, "0"), super().visitListContainer, ctx)
        return found

    def visitDictKeyValuePair(self, ctx: Any) -> tuple[str, Any]:  # noqa: N802
        key, _, value = ctx.getChildren()
        name = self._within(str, self.visitDictKey, key)
        in_point = self._kind is _OF_POINTS
        kind = kind_of(str(name).lstrip("+~")) if in_point else kind_below(self._kind, str(name))
        return name, self._within(kind, self.visitElement, value)

    def visitFunction(self, ctx: Any) -> Any:  # noqa: N802
        name = ctx.getChild(0).getText()
        if name in _CASTS and takes_text(self._kind):
            raise HydraException(f"{name}() makes no text, which is wanted here; leave it out")
        if name != "range":
            return super().visitFunction(ctx)
        found = self._within(None, super().visitFunction, ctx)
        if takes_text(self._kind) and isinstance(found, RangeSweep) and not isinstance(found.range(), range):
            raise HydraException("range() makes fractions, and text is wanted here; list the values")
        return found

    def visitElement(self, ctx: Any) -> Any:  # noqa: N802
        before = ctx.parentCtx.children[max(0, ctx.parentCtx.children.index(ctx) - 1)]
        named = isinstance(before, OverrideParser.ArgNameContext)  # `reverse=true` of sort()
        return self._within(None if named else self._kind, super().visitElement, ctx)

    def _createPrimitive(self, ctx: Any) -> Any:  # noqa: N802
        value = super()._createPrimitive(ctx)
        is_text = isinstance(value, int | float) and stays_text(type(value), self._kind)  # bool is an int
        return ctx.getText().strip(" \t") if is_text else value


def read_yaml(text: str, kind_at: KindAt) -> Any:
    """The values of a YAML file; `kind_at` gives the type that is wanted at a place, named by its keys and numbers.

    Raises:
        yaml.YAMLError: it is no YAML.
    """
    loader = get_yaml_loader()(text)
    try:
        root = loader.get_single_node()
        return None if root is None else loader.construct_document(_kept(root, (), kind_at))
    finally:
        loader.dispose()


def _kept(node: yaml.Node, place: Parts, kind_at: KindAt) -> yaml.Node:
    """A node like this one, in which the words of text keys are text. An alias may stand at a place of another type."""
    if isinstance(node, yaml.SequenceNode):
        items = [_kept(each, (*place, str(number)), kind_at) for number, each in enumerate(node.value)]
        return yaml.SequenceNode(node.tag, items, node.start_mark, node.end_mark)
    if isinstance(node, yaml.MappingNode):
        pairs = [_kept_pair(key, value, place, kind_at) for key, value in node.value]
        return yaml.MappingNode(node.tag, pairs, node.start_mark, node.end_mark)
    assert isinstance(node, yaml.ScalarNode)  # noqa: S101 - YAML has no fourth kind
    return _as_text(node) if node.tag in _READ_AS and _is_text(node, kind_at(place)) else node


def _is_text(node: yaml.ScalarNode, kind: Any) -> bool:
    """Whether a word that YAML takes for a number, or for true or false, is text here, as on a command line."""
    if stays_text(_READ_AS[node.tag], kind):
        return True
    if node.tag in _NUMBERS:
        return _OTHER_BASE.match(node.value) is not None
    return takes_text(kind) and not _SWITCH.fullmatch(node.value)


def _kept_pair(key: yaml.Node, value: yaml.Node, place: Parts, kind_at: KindAt) -> tuple[yaml.Node, yaml.Node]:
    if key.tag == _MERGE:
        several = isinstance(value, yaml.SequenceNode)
        return key, _kept(value, place, lambda below: kind_at((*place, *below[len(place) + several :])))
    named = _as_text(key) if isinstance(key, yaml.ScalarNode) else key
    return named, _kept(value, (*place, str(key.value)), kind_at)


def _as_text(node: yaml.ScalarNode) -> yaml.Node:
    return yaml.ScalarNode(_TEXT, node.value, node.start_mark, node.end_mark, node.style)


def read_conf_as_typed() -> None:
    """Have Hydra read the files of `conf/` in this way."""
    Plugins.instance()  # registers Hydra's own reader, whose place ours takes
    SourcesRegistry.instance().types[FileConfigSource.scheme()] = _ConfFiles


class _ConfFiles(FileConfigSource):
    def is_config(self, config_path: str) -> bool:
        is_begin = config_path.removesuffix(".yaml") == BEGIN
        return not (is_begin and self.provider == GROUPS_ONLY) and bool(super().is_config(config_path))

    def load_config(self, config_path: str) -> ConfigResult:
        found = super().load_config(config_path)
        text = (Path(self.path) / self._normalize_file_name(config_path)).read_text(encoding="utf-8")
        package = found.header.get("package") or config_path.rpartition("/")[0].replace("/", ".")
        above = () if package in {"", "_global_"} else tuple(package.split("."))
        found.config = OmegaConf.create(read_yaml(text, lambda place: _kind_in_conf(above, place)) or {})
        return found


def _kind_in_conf(above: Parts, place: Parts) -> Any:
    """Of `defaults`, which names files, all is text."""
    return str if place[:1] == ("defaults",) else kind_at((*above, *place))
