"""Lists of nodes as schedulers write them: `n1,gpu[03-08,11]`.

Owns: the notation. Pure. Must not know: which nodes there are, why one is listed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from math import prod


def names(text: str | None) -> list[str]:
    """The parts of a node list; a comma within brackets does not part."""
    return re.findall(r"(?:[^,\[]|\[[^\]]*\])+", text or "")


def count(nodes: Iterable[str]) -> int:
    """How many nodes such parts mean."""
    return sum(prod(map(_members, re.findall(r"\[([^\]]*)\]", part))) for part in nodes)


def _members(brackets: str) -> int:
    spans = (re.fullmatch(r"(\d+)-(\d+)", each) for each in brackets.split(","))
    return sum(int(span[2]) - int(span[1]) + 1 if span else 1 for span in spans)
