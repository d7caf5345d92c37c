"""A line for each run, fitted to the width of a terminal: state, bar, step, curves, time left, node, or why it stands.

Owns: columns and their widths, how a run's name is shortened. Must not know: which runs are shown.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from rich.text import Text

from launcher.cluster.job_state import SUSPENDED
from launcher.machine.terminal import legible
from launcher.runs.run_state import RunState
from launcher.runs.status import Status
from launcher.store.curve import Curve
from launcher.store.facts import RunName
from launcher.views import marks
from launcher.views.console import duration

WIDE = 110  # columns from which curves have their last values beside them
_HASH = 4  # its digits that are kept, where an id is shortened


@dataclass(frozen=True)
class Shown:
    """A run, and what is known of it now."""

    name: RunName
    state: RunState
    curve: Curve = field(compare=False)

    @property
    def status(self) -> Status:
        """Its state."""
        return self.state.status

    @property
    def step(self) -> int | None:
        """The last step: the curve may have been read after the state."""
        last, facts = self.curve.last, self.state.facts
        return last.step if last and self.status is Status.RUNNING and not facts.trained else facts.step

    @property
    def max_steps(self) -> int | None:
        """How many there will be, likewise."""
        return self.state.facts.max_steps or self.curve.max_steps

    @property
    def seconds_left(self) -> float | None:
        """Until its last step, at its pace; None where it does not move, or that is not known."""
        facts, step = self.state.facts, self.step
        moves = self.status is Status.RUNNING and self.state.job.reason != SUSPENDED
        if not moves or not facts.seconds_per_step or step is None or not self.max_steps:
            return None
        return facts.seconds_per_step * max(0, self.max_steps - step)

    @property
    def steps(self) -> str:
        """The last step of how many."""
        return "" if self.step is None else f"{self.step}/{self.max_steps or '?'}"

    @property
    def share(self) -> float:
        """How much of its training is done."""
        if self.state.facts.trained or not self.max_steps:
            return float(self.state.facts.trained)
        return min(1.0, (self.step or 0) / self.max_steps)


def in_a_line(text: str) -> str:
    """A text of whatever origin as a terminal shows it in one line, and obeys nothing of it."""
    return legible(" ".join(text.split()))


def node_of(state: RunState) -> str:
    """Where it is or was at work."""
    return state.job.node or state.facts.host or ""


def doing(state: RunState) -> str:
    """What a run at work does where it makes no steps, how much of it is done, and for how long."""
    told = state.facts.progress
    if state.status is not Status.RUNNING or told is None or told.phase == "step":
        return ""
    count = f" {told.done}/{told.of}" if told.of else ""
    lasts = f", {duration(max(0.0, time.time() - told.since))}" if told.since else ""  # older versions: of no phase
    return f"{told.phase}{count}{lasts}"


def stage(state: RunState) -> str:
    """What is left to be done with a run, or what it does beside its steps; nothing of one that is whole."""
    if not state.facts.trained:
        return doing(state)
    if not state.facts.evaluated:
        return "evaluating" if state.in_flight else "not evaluated"
    if state.facts.publishing:
        return "publishing" if state.in_flight else "not published"
    return ""


def _start(state: RunState) -> str:
    """When its scheduler expects a waiting run's job to start."""
    start = state.job.start if state.status is Status.PENDING else None
    return f"starts about {clock(start)}" if start else ""


def _place(state: RunState) -> str:
    """The place of its job among those of this sweep; one that waits for something else than its turn has none."""
    waits = state.status is Status.PENDING and state.job.cause is None
    return f"no. {state.job.place} of this sweep's in the queue" if waits and state.job.place else ""


def clock(seconds: float) -> str:
    """A time as a clock here shows it, with its day where that is another one."""
    then, now = time.localtime(seconds), time.localtime()
    return time.strftime("%H:%M" if then[:3] == now[:3] else "%a %d %b %H:%M", then)


def why(shown: Shown) -> str:
    """Why a run is where it is, in one line, then where its model is."""
    state = shown.state
    said = [_start(state), state.reason or stage(state), _place(state)]
    published = f"published: {state.facts.address}" if state.facts.address and shown.status is Status.TRAINED else ""
    return "; ".join(filter(None, [*said, published]))


def waits(runs: Iterable[Shown]) -> list[tuple[str, int]]:
    """What runs wait for, each with their number, most first; JOB stands for the number of each one's own job."""
    alike: dict[str, list[str]] = {}
    for each in runs:
        words = each.state.reason or ("not submitted" if each.status is Status.NEW else "in the queue")
        own = re.escape(each.state.facts.job_id or "")
        alike.setdefault(re.sub(rf"\b{own}\b", "JOB", words) if own else words, []).append(words)
    found = [(general if len(set(words)) > 1 else words[0], len(words)) for general, words in alike.items()]
    return sorted(found, key=lambda each: -each[1])


# ------------------------------------------------------------------------------------------------ names


def labels(names: Sequence[RunName], width: int) -> dict[str, str]:
    """What to call each run in so many columns: its id, or as much of it as tells it from the others.

    First the model goes, where all have the same; then digits of the hash, or all of it where runs differ without; at
    last the beginning, since loss and beta are at the end.
    """
    ids = [name.run_id for name in names]
    models = {name.model for name in names}
    prefix = f"{next(iter(models))}-" if len(models) == 1 else ""
    bare = [each.removeprefix(prefix) if len(prefix) > 1 else each for each in ids]
    parts = [each.rpartition("-") for each in bare]
    ways = [ids, bare, [f"{head}-{tail[:_HASH]}" if head else tail for head, _, tail in parts]]
    heads = [head or tail for head, _, tail in parts]
    ways += [heads] if len(set(heads)) == len(heads) else []
    fitting = [way for way in ways if max(map(len, way), default=0) <= width]
    chosen = fitting[0] if fitting else [each if len(each) <= width else f"…{each[1 - width :]}" for each in ways[-1]]
    return dict(zip(ids, chosen, strict=True))


# ------------------------------------------------------------------------------------------------ lines


@dataclass(frozen=True)
class Columns:
    """The widths of a table's columns."""

    named: Mapping[str, str]
    width: int
    gap: int
    label: int
    state: int
    bar: int
    steps: int
    curve: int
    value: int
    left: int = len("left")
    ascii_only: bool = False

    @classmethod
    def of(cls, runs: Sequence[Shown], every: Sequence[RunName], width: int, *, ascii_only: bool) -> Columns:
        """Widths that fit these runs, of which there are names that tell them from every one of their sweep."""
        wide = width >= WIDE
        named = labels(every, width // 3 if wide else (width + 20) // 4)
        named = {each.name.run_id: in_a_line(named[each.name.run_id]) for each in runs}
        return cls(
            named=named,
            width=width,
            gap=2 if wide else 1,
            label=max(map(len, named.values()), default=0),
            state=max((len(each.status) for each in runs), default=0),
            bar=12 if wide else 6,
            steps=max([*(len(each.steps) for each in runs if each.status is Status.RUNNING), len("step")]),
            curve=12 if wide else 6,
            value=7 if wide else 0,
            left=max([*(len(duration(each.seconds_left)) for each in runs), len("left")]),
            ascii_only=ascii_only,
        )

    @property
    def _sizes(self) -> list[int]:
        return [self.label, self.state, self.bar, self.steps, self._drawn, self._drawn, self.left]

    @property
    def _drawn(self) -> int:
        """Of a curve with its last value."""
        return self.curve + (self.value + 1 if self.value else 0)

    def header(self) -> Text:
        """Their names."""
        names = ["run", "state", "done", "step", "loss", "margin", "left", "node"]
        return self._line([Text(name, "dim") for name in names])

    def line(self, shown: Shown) -> Text:
        """A run's line: of one that makes steps its curves, of others why not."""
        first = [Text(self.named[shown.name.run_id]), marks.word(shown.status)]
        if not self._moves(shown):
            room = self.width - sum(self._sizes[:2]) - 2 * self.gap
            steps = shown.steps if shown.share < 1 else ""
            text = Text(in_a_line(": ".join(filter(None, [steps, why(shown)]))))
            text.truncate(max(1, room), overflow="ellipsis")
            return self._line([*first, text])
        curves = [self._curve(shown.curve, key) for key in ("loss", "reward_margin")]
        about = "; ".join(filter(None, [node_of(shown.state), shown.state.reason]))
        bar = Text(marks.bar(shown.share, self.bar, ascii_only=self.ascii_only), "cyan")
        left = Text(duration(shown.seconds_left))
        return self._line([*first, bar, Text(shown.steps), *curves, left, Text(in_a_line(about))])

    def _moves(self, shown: Shown) -> bool:
        return shown.status is Status.RUNNING and shown.step is not None and not doing(shown.state)

    def _curve(self, curve: Curve, key: str) -> Text:
        values = curve.values(key)
        line = marks.sparkline(values, self.curve, ascii_only=self.ascii_only)
        last = f" {_number(values[-1], self.value)}" if values and self.value else ""
        return Text(line.ljust(self.curve) + last.ljust(self.value) if last else line)

    def _line(self, cells: Sequence[Text]) -> Text:
        line = Text(no_wrap=True, overflow="ellipsis")
        for place, cell in enumerate(cells):
            if place:
                line.append(" " * self.gap)
            last = place == len(cells) - 1
            if not last:
                cell.align("left", self._sizes[place])
            line.append_text(cell)
        line.rstrip()
        line.truncate(self.width, overflow="ellipsis")
        return line


def _number(value: float, width: int) -> str:
    """Four digits, or as many as there is room for: curves of unlike size have columns of one width."""
    texts = [f"{value:.{digits}g}" for digits in (4, 3, 2, 1)]
    return next((text for text in texts if len(text) <= width), texts[-1])
