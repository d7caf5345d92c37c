"""How a run's state, its progress and its curve look in a terminal: a colour and a word, a letter, a bar, a sparkline.

Owns: these marks, and what stands for them where a terminal has ASCII alone. Must not know: where they stand.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

from rich.text import Text

from launcher.runs.status import BAD, Status

COLOURS = {
    Status.TRAINED: "green",
    Status.RUNNING: "cyan",
    Status.PENDING: "yellow",
    **dict.fromkeys(BAD, "red"),
}
LETTERS = {
    Status.RUNNING: "R",
    Status.FAILED: "F",
    Status.TIMEOUT: "O",
    Status.LOST: "L",
    Status.UNREADABLE: "U",
    Status.CANCELLED: "C",
    Status.PENDING: "P",
    Status.NEW: "N",
    Status.TRAINED: "T",
}
"""One letter for each state, in the order in which runs are shown: first what is at work, then what needs somebody."""
ORDER = {status: place for place, status in enumerate(LETTERS)}
_LEVELS = "▁▂▃▄▅▆▇█"
_ASCII_LEVELS = "_.-=+*%#"
_EIGHTHS = "▏▎▍▌▋▊▉█"


def word(status: Status) -> Text:
    """The state in its colour."""
    return Text(status, COLOURS.get(status, ""))


def letter(status: Status) -> Text:
    """Its letter in its colour; what needs somebody stands out without colours, too."""
    return Text(LETTERS[status], f"bold {COLOURS.get(status, '')}" if status in BAD else COLOURS.get(status, ""))


def counts(statuses: Iterable[Status], *, letters: bool = False) -> list[Text]:
    """How many are in each state: `3 RUNNING`, `1 FAILED`; with letters, where these stand for them."""
    found = Counter(statuses)
    parts = []
    for status in sorted(found, key=ORDER.__getitem__):
        sign = Text.assemble(letter(status), "=") if letters else Text()
        parts.append(Text.assemble(str(found[status]), " ", sign, word(status)))
    return parts


def bar(share: float, width: int, *, ascii_only: bool) -> str:
    """A bar of so many columns, of which a share is full."""
    share = min(1.0, max(0.0, share))
    if ascii_only:
        return "#" * int(share * width) + "." * (width - int(share * width))
    eighths = round(share * width * 8)
    full, rest = divmod(eighths, 8)
    part = _EIGHTHS[rest - 1] if rest else ""
    return "█" * full + part + "░" * (width - full - len(part))


def sparkline(values: Sequence[float], width: int, *, ascii_only: bool) -> str:
    """The values from left to right in at most so many columns, the least low and the largest high."""
    levels = _ASCII_LEVELS if ascii_only else _LEVELS
    if not values or width <= 0:
        return ""
    columns = min(width, len(values))
    edges = [place * len(values) // columns for place in range(columns + 1)]
    means = [sum(values[start:end]) / (end - start) for start, end in pairwise(edges)]
    low, high = min(means), max(means)
    if high == low:
        return levels[len(levels) // 2 - 1] * columns
    return "".join(levels[min(len(levels) - 1, int((mean - low) / (high - low) * len(levels)))] for mean in means)
