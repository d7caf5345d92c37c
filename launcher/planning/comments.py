"""The comments of a YAML file: what stands above each key, and above the whole.

Owns: which comment belongs to which key. Must not know: what a key is, or which files there are. Pure.

A file's header ends at its `yaml-language-server` line, which also says to an editor which schema the file has. What
stands below that line belongs to the first key.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import yaml

MODELINE = re.compile(r"#\s*yaml-language-server\s*:")
_PACKAGE = "@package"


@dataclass(frozen=True)
class Comments:
    """Of one file: its header, and by dotted key the comment above it. Text on one line each."""

    header: str
    keys: dict[str, str]


def comments_in(text: str) -> Comments:
    """The comments of a YAML text; a key right below another one, without a comment of its own, shares that one's.

    Raises:
        yaml.YAMLError: it is no YAML.
    """
    lines = text.splitlines()
    root = yaml.compose(text)
    found = dict(_below(root, "", lines)) if isinstance(root, yaml.MappingNode) else {}
    end = next((number for number, line in enumerate(lines) if MODELINE.match(line)), 0)
    return Comments(_joined(line for line in lines[:end] if not line.lstrip("# ").startswith(_PACKAGE)), found)


def _below(node: yaml.MappingNode, above: str, lines: list[str]) -> Iterator[tuple[str, str]]:
    ended, comment = -1, ""
    for key, value in node.value:
        line = key.start_mark.line
        own = _above(line, lines)
        comment = own or (comment if line == ended + 1 else "")
        name = f"{above}{key.value}"
        if comment:
            yield name, comment
        if isinstance(value, yaml.MappingNode):
            yield from _below(value, f"{name}.", lines)
        for item in value.value if isinstance(value, yaml.SequenceNode) else ():
            if isinstance(item, yaml.MappingNode):
                yield from _below(item, f"{name}.", lines)
        ended = line if value.end_mark.line == line else -1


def _above(line: int, lines: list[str]) -> str:
    first = line
    while first > 0 and lines[first - 1].lstrip().startswith("#") and not MODELINE.match(lines[first - 1].lstrip()):
        first -= 1
    return _joined(iter(lines[first:line]))


def _joined(lines: Iterator[str]) -> str:
    return " ".join(stripped for line in lines if (stripped := line.strip().lstrip("#").strip()))
