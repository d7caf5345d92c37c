"""What is in the output folder and what it takes: sweeps, disk, what was or would be deleted. Prints; decides nothing.

Owns: the words for these. Must not know: how anything was found, or is deleted.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from launcher.errors import listed
from launcher.machine.disk import in_words
from launcher.machine.terminal import Screen, say, say_json
from launcher.store.output_folder import Store
from launcher.views.table import table_of

TOLD = 3  # of several names


@dataclass(frozen=True)
class Row:
    """A sweep, as `list` shows it: `launched` is in seconds since 1970, `disk` in bytes."""

    sweep: str
    runs: int
    states: Mapping[str, int]
    launched: float
    disk: int


def show_sweeps(store: Store, rows: Sequence[Row], *, as_json: bool) -> None:
    """The sweeps, oldest launch first."""
    if as_json:
        say_json([asdict(row) for row in rows])
        return
    if not rows:
        say(f"no sweep in {store.root}; launch one with -m")
        return
    columns = ("sweep", "runs", "states", "last launched", "disk")
    cells = [(row.sweep, str(row.runs), _counts(row.states), _when(row.launched), in_words(row.disk)) for row in rows]
    Screen().print(table_of(f"sweeps in {store.root}", columns, [(each, "") for each in cells]), crop=False)


def _counts(states: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {state}" for state, count in states.items()) or "not known"


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds)) if seconds else ""


@dataclass(frozen=True)
class Part:
    """Something that takes space, in bytes; `name` may say where it lies."""

    name: str
    disk: int


def show_parts(title: str, parts: Sequence[Part], total: int, *, as_json: bool) -> None:
    """What takes the disk, the largest first, and all of it together: a file with two names counts once there."""
    ordered = sorted(parts, key=lambda part: -part.disk)
    if as_json:
        say_json({"parts": [asdict(part) for part in ordered], "disk": total})
        return
    rows = [((part.name, in_words(part.disk)), "") for part in ordered]
    Screen().print(table_of(title, ("what", "disk"), [*rows, (("all together", in_words(total)), "")]), crop=False)


def show_going(parts: Sequence[Part], freed: int, notes: Sequence[str], *, is_done: bool) -> None:
    """What is deleted, or would be, piece by piece."""
    verb = "deleting" if is_done else "would delete"
    for part in parts:
        say(f"{verb} {part.name}: {in_words(part.disk)}")
    for note in notes:
        say(note)
    say(f"that frees {in_words(freed)}" if is_done else f"that would free {in_words(freed)}")


def say_nothing_to_delete(where: str) -> None:
    """That there is none."""
    say(f"{where}: nothing to delete")


def say_kept(kept: Mapping[str, Sequence[str]]) -> list[str]:
    """Which runs stay, since other sweeps hold them; a line for all."""
    if not kept:
        return []
    sweeps = sorted({name for names in kept.values() for name in names})
    return [f"kept: {listed(kept, TOLD)}, which {' and '.join(sweeps)} {'holds' if len(sweeps) == 1 else 'hold'} too"]


def is_confirmed(question: str) -> bool:
    """Whether somebody at a terminal answers with yes."""
    say(f"{question} [y/N] ", end="")
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def can_ask() -> bool:
    """Whether there is somebody at a terminal."""
    return sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty()
