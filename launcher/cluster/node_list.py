"""Lists of nodes as schedulers write them: `n1,gpu[03-08,11]`.

Owns: the notation. Pure. Must not know: which nodes there are, why one is listed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import product


def names(text: str | None) -> list[str]:
    """The parts of a node list; a comma within brackets does not part."""
    return re.findall(r"(?:[^,\[]|\[[^\]]*\])+", text or "")


def count(nodes: Iterable[str]) -> int:
    """How many nodes such parts mean."""
    return len(members(nodes))


def members(nodes: Iterable[str]) -> list[str]:
    """The nodes that such parts mean: `n[08-10]` is n08, n09 and n10."""
    return ["".join(made) for part in nodes for made in product(*map(_spelt, re.findall(r"\[[^\]]*\]|[^\[]+", part)))]


def _spelt(piece: str) -> list[str]:
    """What a piece of a part stands for: itself, or each number in its brackets, with as many digits as the first."""
    if not piece.startswith("["):
        return [piece]
    found = []
    for each in piece[1:-1].split(","):
        span = re.fullmatch(r"(\d+)-(\d+)", each)
        numbers = range(int(span[1]), int(span[2]) + 1) if span else ()
        found += [f"{number:0{len(span[1])}}" for number in numbers] if span else [each]
    return found
