"""The keys of a YAML file as they are written, each with the comment above it, and the comment above the whole.

Owns: which comment belongs to which key. Must not know: what a key is, or which files there are. Pure.

A file's header is the comment that it begins with. It ends at the `yaml-language-server` line, where there is one,
which also says to an editor which schema the file has: what stands below that line belongs to the first key.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import yaml

MODELINE = re.compile(r"#\s*yaml-language-server\s*:")
ITEM = "[]"  # behind the name of a list whose items have the keys
_PACKAGE = "@package"
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Written:
    """A key: its value as it is written, empty where the value begins on another line; its comment, line by line."""

    value: str
    comment: tuple[str, ...]


@dataclass(frozen=True)
class Comments:
    """Of one file: its header on one line; its keys in order by dotted name, `lora.r` or `mixture[].path`."""

    header: str
    keys: dict[str, Written]

    def about(self) -> dict[str, str]:
        """Of each key that has a comment, that on one line."""
        return {name: " ".join(key.comment) for name, key in self.keys.items() if key.comment}


def comments_in(text: str) -> Comments:
    """The keys of a YAML text. One without a comment shares that of the key on the line above it.

    Raises:
        yaml.YAMLError: it is no YAML.
    """
    lines = text.splitlines()
    root = yaml.compose(text, _LOADER)
    found = dict(_below(root, "", lines)) if isinstance(root, yaml.MappingNode) else {}
    first = takewhile(lambda line: line.startswith("#") and not MODELINE.match(line), lines)
    return Comments(" ".join(_told(first)), found)


def _below(node: yaml.MappingNode, above: str, lines: list[str]) -> Iterator[tuple[str, Written]]:
    ended, comment = -1, tuple[str, ...]()
    for key, value in node.value:
        line, name = key.start_mark.line, f"{above}{key.value}"
        comment = _above(line, lines) or (comment if line == ended + 1 else ())
        yield name, Written(_written(line, value, lines), comment)
        if isinstance(value, yaml.MappingNode) and not value.flow_style:
            yield from _below(value, f"{name}.", lines)
        for item in value.value if isinstance(value, yaml.SequenceNode) else ():
            if isinstance(item, yaml.MappingNode):
                yield from _below(item, f"{name}{ITEM}.", lines)
        ended = line if value.end_mark.line == line else -1


def _written(line: int, value: yaml.Node, lines: list[str]) -> str:
    first, last = value.start_mark, value.end_mark
    if first.line != line:
        return ""
    return lines[line][first.column : last.column if last.line == line else None].strip()


def _above(line: int, lines: list[str]) -> tuple[str, ...]:
    first = line
    while first > 0 and lines[first - 1].lstrip().startswith("#") and not MODELINE.match(lines[first - 1].lstrip()):
        first -= 1
    return _told(lines[first:line])


def _told(lines: Iterable[str]) -> tuple[str, ...]:
    plain = (line.strip().lstrip("#").strip() for line in lines)
    return tuple(line for line in plain if line and not line.startswith(_PACKAGE))
