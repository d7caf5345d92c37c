"""What is fetched for nodes without internet, as the user sees it. Prints; decides nothing.

Owns: words and columns. Must not know: how anything is fetched.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from launcher.errors import number_of
from launcher.machine.disk import in_words
from launcher.machine.terminal import Screen, say, say_json
from launcher.planning.fetch import Item
from launcher.store.files import Plain


def show_items(items: Sequence[Item], *, dry_run: bool) -> None:
    """Each repository with its size, what of it is missing, and the sum."""
    table = Table(box=None, pad_edge=False)
    for column in ("what", "name", "commit", "files", "size", "to fetch"):
        table.add_column(column, overflow="fold")
    for item in items:
        source = item.needed.source
        row = [source.kind, str(source), str(item.needed.commit)[:12], str(len(item.files)), in_words(item.size)]
        table.add_row(*row, "nothing" if item.is_here else in_words(item.missing))
    console = Screen()
    if items:
        console.print(table)
    console.print(f"{in_words(_sum(items))} to fetch of {in_words(sum(item.size for item in items))}")
    if dry_run and any(item.size > item.missing for item in items):
        console.print(
            "by names and sizes; what is here is compared with the Hub's hashes once it is fetched in earnest"
        )


def say_fetched(item: Item) -> None:
    """That one of them is here, and is what the Hub lists."""
    again = f", {in_words(item.again)} of it fetched again" if item.again else ""
    say(f"{item.needed.source}: here and checked, {number_of(len(item.files), 'file')}, {in_words(item.size)}{again}")


def say_all_here(items: Sequence[Item]) -> None:
    """The end of it, with the sum."""
    total, now = in_words(sum(item.size for item in items)), _sum(items) + sum(item.again for item in items)
    say(f"all is here: {len(items)} from the Hub, {total}, {in_words(now)} of it fetched now")


def show_json(sweep: str, items: Sequence[Item], notes: Sequence[str], *, fetched: bool) -> None:
    """The same for programs."""
    each = [_plain(item, fetched=fetched) for item in items]
    say_json({"sweep": sweep, "items": each, "notes": list(notes)})


def _plain(item: Item, *, fetched: bool) -> Plain:
    source = item.needed.source
    return {
        "kind": source.kind,
        "path": source.path,
        "revision": source.revision,
        "commit": item.needed.commit,
        "files": len(item.files),
        "bytes": item.size,
        "bytes_to_fetch": 0 if item.is_here else item.missing,
        "bytes_fetched_again": item.again,
        "state": "here" if fetched or item.is_here else "missing",
    }


def _sum(items: Sequence[Item]) -> int:
    return sum(item.missing for item in items if not item.is_here)
