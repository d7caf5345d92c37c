"""All of a sweep's runs on one screen: counts first, then the runs at work and those that failed, then the others.

Owns: what is shown of how many runs in how much room. Must not know: how a line is written, when it is shown again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from rich.console import ConsoleOptions, RenderResult
from rich.text import Text

from launcher.errors import number_of
from launcher.machine.terminal import Screen
from launcher.runs.status import BAD, Status
from launcher.views import marks
from launcher.views.console import duration
from launcher.views.matrix import matrix
from launcher.views.run_lines import Columns, Shown, clock, in_a_line, waits

MANY = 20  # runs; of more, those at work and those that failed have lines, and all have letters
LISTED = 20  # lines of either where nothing limits the height
REASONS = 3  # for which runs without a line wait
LEAST = 3  # lines for runs, however small a terminal is


@dataclass(frozen=True)
class Board:
    """What is shown of a sweep; a renderable of rich.

    Attributes:
        title: the sweep's name.
        runs: all of them, in the sweep's order.
        only: of which states runs have lines; none: as many as there is room for.
        notes: what else is to be said, a line each, beneath.
        height: lines; None: as many as it takes.
        seconds_left: of the whole sweep, where that is known.
    """

    title: str
    runs: Sequence[Shown]
    only: frozenset[Status] = frozenset()
    notes: Sequence[str] = ()
    height: int | None = None
    seconds_left: float | None = None

    def __rich_console__(self, console: object, options: ConsoleOptions) -> RenderResult:
        """Its lines, none wider than the terminal."""
        for line in self.lines(options.max_width, ascii_only=options.ascii_only):
            line.no_wrap, line.overflow = True, "ellipsis"
            yield line

    def lines(self, width: int, *, ascii_only: bool = False) -> list[Text]:
        """Its lines, at most `height`, none wider than `width`."""
        head = [*self._head(width, ascii_only=ascii_only), Text()]
        notes = self._notes(width)
        room = None if self.height is None else max(LEAST + 1, self.height - len(head) - len(notes))
        body = self._body(width, room, ascii_only=ascii_only)
        return [*head, *body, *notes][: self.height]

    # ------------------------------------------------------------------------------------------ above and beneath

    def _head(self, width: int, *, ascii_only: bool) -> list[Text]:
        counts = marks.counts((each.status for each in self.runs), letters=self._folds)
        title = Text.assemble((f"sweep {in_a_line(self.title)}", "bold"), f"  {_so_many(len(self.runs))}:")
        share = sum(each.share for each in self.runs) / max(1, len(self.runs))
        said = [f"{share:.0%} of the steps"] if any(each.step for each in self.runs) else []
        said += [f"about {duration(self.seconds_left)} left"] if self.seconds_left else []
        starts = [each.state.job.start for each in self.runs if each.state.job.start and each.status is Status.PENDING]
        said += [f"next start about {clock(min(starts))}"] if starts else []
        size = min(40, width // 4)
        second = Text.assemble((marks.bar(share, size, ascii_only=ascii_only), "cyan"), " ", ", ".join(said))
        second.truncate(width, overflow="ellipsis")
        return [*_filled(title, counts, width), second]

    def _notes(self, width: int) -> list[Text]:
        """As many as a terminal has room for; where nothing limits the height, whole."""
        notes = [*self._stuck(), *self.notes]
        if not notes:
            return []
        texts = [Text(in_a_line(note)) for note in notes]
        if self.height is None:
            return [Text(), *(line for text in texts for line in _wrapped(text, width))]
        few = texts[: max(1, self.height // 8)]
        for text in few:
            text.truncate(width, overflow="ellipsis")
        return [Text(), *few]

    def _stuck(self) -> list[str]:
        """What runs without a line wait for, where that is more than their turn."""
        runs = [each for each in self.runs if each.status is Status.PENDING and each.state.job.cause is not None]
        told = waits(runs)[:REASONS] if self._folds else []
        return [f"{_so_many(number)} waiting: {words}" for words, number in told]

    # ------------------------------------------------------------------------------------------ runs

    @cached_property
    def _folds(self) -> bool:
        """Whether there are too many for a line each."""
        return len(self.runs) > MANY and not self.only

    def _body(self, width: int, room: int | None, *, ascii_only: bool) -> list[Text]:
        if not self._folds:
            chosen = [each for each in self.runs if not self.only or each.status in self.only]
            return self._table(sorted(chosen, key=_urgency), width, room, ascii_only=ascii_only)
        urgent = [each for each in self.runs if _is_urgent(each)]
        pairs = [(each.name, each.status) for each in self.runs]
        if not urgent:
            return matrix(pairs, width, room)
        if room is None:
            return [*self._listed(urgent, width, 2 * LISTED, ascii_only=ascii_only), Text(), *matrix(pairs, width)]
        folded = matrix(pairs, width, max(1, room - 1 - min(len(urgent) + 1, room // 2)))
        listed = self._listed(urgent, width, room - len(folded) - 2, ascii_only=ascii_only)
        return [*listed, Text(), *folded]

    def _listed(self, urgent: Sequence[Shown], width: int, room: int, *, ascii_only: bool) -> list[Text]:
        """Lines of those at work and those that failed; neither hides all of the others."""
        at_work = [each for each in urgent if each.status not in BAD]
        failed = [each for each in urgent if each.status in BAD]
        room = max(LEAST, room - (len(urgent) > room))  # a line tells how many are left out
        few = min(len(failed), max(room // 2, room - len(at_work)))
        chosen = [*at_work[: room - few], *failed[:few]]
        table = self._table(chosen, width, None, ascii_only=ascii_only)
        left_out = [each for each in urgent if each not in chosen]
        return [*table, _left_out(left_out)] if left_out else table

    def _table(self, runs: Sequence[Shown], width: int, room: int | None, *, ascii_only: bool) -> list[Text]:
        if not runs:
            return [Text("no run is in such a state", "dim")]
        kept = runs if room is None or len(runs) < room else runs[: max(1, room - 2)]
        columns = Columns.of(kept, [each.name for each in self.runs], width, ascii_only=ascii_only)
        lines = [columns.header(), *map(columns.line, kept)]
        return [*lines, _left_out(runs[len(kept) :])] if len(kept) < len(runs) else lines


def _so_many(runs: int) -> str:
    return number_of(runs, "run")


def _left_out(runs: Sequence[Shown]) -> Text:
    return Text.assemble(
        (f"and {len(runs)} more: ", "dim"), Text(", ").join(marks.counts(each.status for each in runs))
    )


def _urgency(shown: Shown) -> tuple[int, int]:
    """Where a run stands: at work, failed, about to be evaluated, waiting, done."""
    place = marks.ORDER[shown.status]
    if shown.status is Status.TRAINED and shown.state.in_flight:
        place = marks.ORDER[Status.PENDING]
    return place, shown.state.job.place or 0


def _is_urgent(shown: Shown) -> bool:
    at_work = shown.status is Status.RUNNING or (shown.status is Status.TRAINED and shown.state.in_flight)
    return at_work or shown.status in BAD


def _filled(first: Text, parts: Iterable[Text], width: int) -> list[Text]:
    """The parts behind the first, on as many lines as they take."""
    lines = [first]
    for place, part in enumerate(parts):
        if place:
            lines[-1].append(",")
        if lines[-1].cell_len + part.cell_len + len(" ,") > width:
            lines.append(Text(" "))
        lines[-1].append(" ").append_text(part)
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return lines


def _wrapped(text: Text, width: int) -> Iterable[Text]:
    return text.wrap(Screen(), width)
