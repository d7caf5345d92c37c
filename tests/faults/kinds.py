"""Every kind of fault, and the order in which a seed injects them.

Owns: the table of all kinds, the deck. Must not know: how one is injected.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import strike_commands
import strike_files
import strike_launchers
import strike_processes
import strike_slurm
from strike import Kind

KINDS = (
    *strike_processes.KINDS,
    *strike_slurm.KINDS,
    *strike_commands.KINDS,
    *strike_files.KINDS,
    *strike_launchers.KINDS,
)


def deck(draw: Random, named: str = "") -> Iterator[Kind]:
    """Kinds without end: each once, shuffled, and again; `named`: only those whose name holds that word."""
    chosen = [kind for kind in KINDS if named in kind.name]
    if not chosen:
        raise SystemExit(f"no kind of fault is called {named!r}; --list names them all")
    while True:
        yield from draw.sample(chosen, len(chosen))
