"""Many runs at a glance: model and loss by beta, a letter for each run; where that is too much, counts.

Owns: how a sweep is folded into the room that there is. Must not know: what a state is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.text import Text

from launcher.runs.status import Status
from launcher.store.facts import RunName
from launcher.views import marks
from launcher.views.run_lines import in_a_line

GAP = "  "
Runs = Sequence[tuple[RunName, Status]]
Rows = dict[str, dict[float, list[Status]]]  # by model and loss, then by beta
_LABEL = 40  # columns of a row's name at most


def matrix(runs: Runs, width: int, room: int | None = None) -> list[Text]:
    """The runs in at most `room` lines (None: as many as they take) of `width` columns."""
    several = len({name.model for name, _ in runs}) > 1
    rows: Rows = {}
    for name, status in runs:
        key = f"{name.model} {name.loss_type}" if several else name.loss_type
        rows.setdefault(key, {}).setdefault(name.beta, []).append(status)
    betas = sorted({name.beta for name, _ in runs})
    alike, mixed = _alike(rows)
    folded = [*_strips(mixed, betas), *alike] if len(alike) < len(rows) - len(mixed) else []
    for lines in filter(None, (_table(rows, betas), _strips(rows, betas), folded, _counted(rows))):
        if all(line.cell_len <= width for line in lines) and (room is None or len(lines) <= room):
            return lines
    return _cropped(_counted(_by_model(runs)), width, room)


def _table(rows: Rows, betas: Sequence[float]) -> list[Text]:
    """A column for each beta."""
    first = _width([*rows, "beta"])
    sizes = [max(len(f"{beta:g}"), *(len(row.get(beta, [])) for row in rows.values())) for beta in betas]
    lines = [Text("beta".ljust(first), "dim")]
    for beta, size in zip(betas, sizes, strict=True):
        lines[0].append(GAP + f"{beta:g}".ljust(size), "dim")
    for key, row in rows.items():
        line = Text(_label(key, first))
        for beta, size in zip(betas, sizes, strict=True):
            cell = _letters(row.get(beta, []))
            line.append(GAP)
            line.append_text(cell)
            line.append(" " * (size - len(cell)))
        line.rstrip()
        lines.append(line)
    lines[0].rstrip()
    return lines


def _strips(rows: Rows, betas: Sequence[float]) -> list[Text]:
    """The letters of each row, the smallest beta first, close together."""
    first = _width(rows)
    head = f"{GAP}beta {betas[0]:g} to {betas[-1]:g}, {len(betas)} values from left to right"
    lines = [Text(" " * first + head, "dim")]
    apart = any(len(cell) > 1 for row in rows.values() for cell in row.values())
    for key, row in rows.items():
        cells = [_letters(row[beta]) if beta in row else Text(".", "dim") for beta in betas]
        lines.append(Text.assemble(_label(key, first), GAP, Text(" " if apart else "").join(cells)))
    return lines


def _alike(rows: Rows) -> tuple[list[Text], Rows]:
    """A line for each state in which all runs of several rows are, and the other rows."""
    states = {key: {status for cell in row.values() for status in cell} for key, row in rows.items()}
    found = Counter(next(iter(each)) for each in states.values() if len(each) == 1)
    several = [status for status in marks.LETTERS if found[status] > 1]
    mixed = {key: row for key, row in rows.items() if not states[key] <= set(several) or len(states[key]) > 1}
    rest = "other rows" if mixed else "rows"
    lines = [Text.assemble(f"{found[status]} {rest}: all ", marks.letter(status)) for status in several]
    return lines, mixed


def _counted(rows: Rows) -> list[Text]:
    """How many runs of each row are in each state."""
    first, lines = _width(rows), []
    for key, row in rows.items():
        found = Counter(status for cell in row.values() for status in cell)
        counts = [Text.assemble(f"{found[each]:>3}", " ", marks.letter(each)) for each in marks.LETTERS if found[each]]
        lines.append(Text.assemble(_label(key, first), GAP, f"{found.total():>4} runs: ", Text(" ").join(counts)))
    return lines


def _by_model(runs: Runs) -> Rows:
    rows: Rows = {}
    for name, status in runs:
        rows.setdefault(name.model, {}).setdefault(name.beta, []).append(status)
    return rows


def _cropped(lines: Sequence[Text], width: int, room: int | None) -> list[Text]:
    """The first of the lines, each cut at the edge, and how many are left out."""
    kept = list(lines) if room is None or len(lines) <= room else list(lines[: max(0, room - 1)])
    for line in kept:
        line.truncate(width, overflow="ellipsis")
    left_out = len(lines) - len(kept)
    return [*kept, Text(f"and {left_out} more models", "dim")] if left_out else kept


def _letters(cell: Sequence[Status]) -> Text:
    return Text().join(map(marks.letter, cell))


def _width(keys: Sequence[str] | Rows) -> int:
    return min(_LABEL, max(map(len, keys), default=0))


def _label(key: str, width: int) -> str:
    text = in_a_line(key)
    return text.ljust(width) if len(text) <= width else text[: width - 1] + "…"
