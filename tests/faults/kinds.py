"""Every kind of fault, and the order in which a seed injects them.

Owns: the table of all kinds, the deck. Must not know: how one is injected.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random

import strike_commands
import strike_elsewhere
import strike_files
import strike_launchers
import strike_phases
import strike_processes
import strike_slurm
from strike import Kind

KINDS = (
    *strike_processes.KINDS,
    *strike_phases.KINDS,
    *strike_slurm.KINDS,
    *strike_commands.KINDS,
    *strike_files.KINDS,
    *strike_launchers.KINDS,
    *strike_elsewhere.KINDS,
)


def named(words: Sequence[str], without: Sequence[str] = ()) -> list[Kind]:
    """Those whose names hold one of these words, all if there are none, and none of those `without`."""
    chosen = [kind for kind in KINDS if not words or any(word in kind.name for word in words)]
    return [kind for kind in chosen if not any(word in kind.name for word in without)]


def deck(draw: Random, chosen: Sequence[Kind]) -> Iterator[Kind]:
    """Kinds without end: each once, shuffled, and again."""
    while True:
        yield from draw.sample(chosen, len(chosen))
