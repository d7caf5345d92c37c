"""A table of a sweep's runs. One of thousands is written without rich, whose layout takes about a millisecond a row.

Owns: how wide columns are, and when rich does it. Must not know: what is in them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import ConsoleOptions
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from launcher.machine.terminal import legible

MANY = 300  # rows; more are written as they are: each on one line, without colours
Row = tuple[Sequence[str | Text], str]  # cells, style


def table_of(title: str, columns: Sequence[str], rows: Sequence[Row]) -> Table | Lines:
    """The table, to be printed without cropping."""
    if len(rows) > MANY:
        return Lines([title, *_lines([columns, *(cells for cells, _ in rows)])])
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for cells, style in rows:
        table.add_row(*cells, style=style)
    return table


def _lines(rows: Iterable[Sequence[str | Text]]) -> list[str]:
    """Each row on one line, its cells as far apart as rich has them."""
    texts = [[legible(str(cell)) for cell in row] for row in rows]
    lengths = [[cell_len(text) for text in row] for row in texts]
    widths = [max(column) for column in zip(*lengths, strict=True)]
    return [
        "  ".join(
            text + " " * (width - length) for text, width, length in zip(row, widths, of_row, strict=True)
        ).rstrip()
        for row, of_row in zip(texts, lengths, strict=True)
    ]


@dataclass(frozen=True)
class Lines:
    """Lines that rich neither measures nor breaks."""

    lines: Sequence[str]

    def __rich_console__(self, console: object, options: ConsoleOptions) -> Iterable[Segment]:
        yield Segment("\n".join(self.lines) + "\n")
