"""What runs are trained on, as the user sees it: the rows of each split, their lengths, examples, warnings.

Owns: these words, for a plan as for `status`. Must not know: how rows are counted, or by whom.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from launcher.machine.terminal import Screen
from launcher.planning.data_counts import Counted, Look
from launcher.store.counts import MUCH, Answer, DataCounts, ShownRow, SplitCounts, in_tokens
from launcher.store.files import Plain, plain


def data_lines(look: Look) -> list[str]:
    """The numbers of each kind of data, or why there are none yet; then as many examples as are to be shown."""
    lines = [line for each in look.found for line in _lines(each)]
    shown = [line for each in look.found if each.counts for line in example_lines(each.counts, look.examples)]
    return [*lines, *shown, *([""] if shown else [])]


def _lines(found: Counted) -> list[str]:
    if found.counts is not None:
        return count_lines(found.counts)
    return [f"data: {found.config.dataset.name} {found.unknown}; a job counts its rows and tokens, and `status` tells"]


def count_lines(counts: DataCounts) -> list[str]:
    """The numbers of both splits, a line for each."""
    head = f"data: {counts.dataset} for {counts.model}"
    return [f"{head}, {name}: {_split(split, counts.max_length)}" for name, split in counts.splits.items()]


def _split(split: SplitCounts, max_length: int) -> str:
    read = f"{split.read} rows read" if split.rows is None else f"{split.rows} rows read, {split.read} completions"
    gone = ", ".join(f"{count} {reason}" for reason, count in split.left_out.items())
    left = f", {split.read - split.used} left out ({gone})" if gone else ""
    kinds = "" if split.desirable is None else f" ({split.desirable} desirable, {split.undesirable} undesirable)"
    if split.median is None or split.percentile_95 is None:
        return f"{read}, {split.used} used{kinds}{left}"
    lengths = f"median {in_tokens(split.median)} tokens, 95th percentile {in_tokens(split.percentile_95)}"
    cut = f"{split.cut} of those used cut at max_length {max_length} ({split.share_cut:.0%})"
    return f"{read}, {split.used} used{kinds}{left}; {lengths}; {cut}"


def warnings(counts: DataCounts) -> list[str]:
    """What of more than 5 % of a split's rows is lost, and what makes its numbers say less than they seem to."""
    return [
        *(line for name, split in counts.splits.items() for line in _warnings(split, name, counts)),
        *_leaks(counts),
    ]


def _leaks(counts: DataCounts) -> Iterable[str]:
    test = counts.splits.get("test")
    if counts.leaked and test is not None:
        yield (
            f"{counts.dataset}: {counts.leaked} of {test.read} held-out {test.unit} also stand in the training split; "
            "what is measured on them is not held out (dataset.test_split)"
        )


def _warnings(split: SplitCounts, name: str, counts: DataCounts) -> Iterable[str]:
    where = f"{counts.dataset}, {name} split"
    longest = "" if split.percentile_95 is None else f"; 95% have at most {in_tokens(split.percentile_95)} tokens"
    if split.share_left_out > MUCH:
        gone = ", ".join(f"{count} {reason}" for reason, count in split.left_out.items())
        lost = split.read - split.used
        yield f"{where}: {lost} of {split.read} {split.unit} ({split.share_left_out:.0%}) are left out: {gone}{longest}"
    for kind, count in (("desirable", split.desirable), ("undesirable", split.undesirable)):
        if count == 0:
            yield f"{where}: none of the completions used is {kind}; kto learns from both kinds"
    if split.share_cut > MUCH:
        limit = f"trainer.max_length={counts.max_length}"
        used = f"{split.used} {split.unit} used"
        yield f"{where}: {split.cut} of {used} ({split.share_cut:.0%}) are cut at {limit}{longest}"


def data_warnings(look: Look) -> list[str]:
    """The same of all kinds of data."""
    return [line for each in look.found if each.counts for line in warnings(each.counts)]


ROWS_LEFT_OUT = re.compile(r": (\d+) of (\d+) rows are left out: ")  # as a look at the rows alone says it


def told_once(notes: Iterable[str], look: Look) -> list[str]:
    """Notes, then warnings; of rows left out one of the two: where the count of tokens finds more, its warning."""
    warned, kept = data_warnings(look), []
    for note in notes:
        found = ROWS_LEFT_OUT.search(note)
        same = [line for line in warned if found and f": {found[1]} of {found[2]} rows (" in line]
        others = [line for line in warned if found and re.search(rf": \d+ of {found[2]} rows \(.*left out", line)]
        warned = [line for line in warned if line not in same]
        if same or not others:
            kept.append(note)
    return [*kept, *warned]


def data_json(look: Look) -> list[Plain]:
    """The same for programs: `counts` as in a run's data.json, or `unknown`, why there are none."""
    return [
        {
            "model": each.config.model.name,
            "dataset": each.config.dataset.name,
            "max_length": each.config.trainer.max_length,
            "unknown": each.unknown,
            "counts": shortened([each.counts], look.examples)[0] if each.counts else None,
        }
        for each in look.found
    ]


def shortened(data: Iterable[DataCounts], examples: int) -> list[Plain]:
    """Counts as the JSON object that a run's data.json holds, with no more than so many examples."""
    return [plain(replace(each, examples=each.examples[:examples])) for each in data]


def show_data(data: Iterable[DataCounts], examples: int) -> None:
    """What runs are trained on, with warnings and so many examples."""
    console = Screen()
    for each in data:
        told = [f"warning: {line}" for line in warnings(each)]
        for line in (*count_lines(each), *told, *example_lines(each, examples)):
            console.print(line, soft_wrap=True)


# ------------------------------------------------------------------------------------------------ examples


def example_lines(counts: DataCounts, number: int) -> list[str]:
    """The first rows as they are trained on: prompt and answers between marks, special tokens as they are."""
    shown = counts.examples[:number]
    head = f"{counts.dataset} for {counts.model}"
    return [line for place, row in enumerate(shown, 1) for line in _row(f"{head}, example {place}", row)]


def _row(title: str, row: ShownRow) -> Sequence[str]:
    label = "" if row.label is None else f" ({'desirable' if row.label else 'undesirable'})"
    parts = {"prompt": row.prompt, **row.answers}
    return ["", f"{title}{label}:", *(_marked(name, part) for name, part in parts.items())]


def _marked(name: str, part: Answer) -> str:
    """A text between marks that say what it is, which no data set is likely to hold."""
    cut = f" ({part.cut} more tokens are cut)" if part.cut else ""
    return f"«{name}»{part.text}«/{name}»{cut}"
