"""Data sets that are known by their columns, and what says which of several answers is the better one.

Owns: the columns of known data sets; what labels, scales, ranks and annotations say.
Must not know: files, messages, what else makes a row of use.

A known data set is recognised by the exact names of its columns, and only where nothing names columns of ours:
neither the configuration nor the data. That it was recognised is said wherever its rows are looked at.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from launcher.config import Dataset
from launcher.dataset.columns import (
    COMPARED,
    JOINED,
    PAIR,
    RANKED,
    SYSTEM,
    UNPAIRED,
    Row,
    Rows,
    is_there,
    missing_columns,
    named,
    value_of,
)
from launcher.dataset.messages import Misshapen, bare_kind, kind
from launcher.dataset.shown import GIVEN

TIE, UNDECIDED = "neither answer is better", "nothing says which answer is better"

KNOWN = {
    "PKU-SafeRLHF": {"prompt": "prompt", "first": "response_0", "second": "response_1", "better": "better_response_id"},
    "HelpSteer3": {"prompt": "context", "first": "response1", "second": "response2", "better": "overall_preference"},
    "HelpSteer2": {"prompt": "prompt", "first": "response_1", "second": "response_2", "better": "preference_strength"},
    "Chatbot Arena": {"first": "conversation_a", "second": "conversation_b", "better": "winner"},
    "Nectar": {"prompt": "prompt", "ranked": "answers"},
    "Label Studio": {
        "prompt": "data.prompt", "first": "data.answer1", "second": "data.answer2", "better": "annotations",
    },
    "Alpaca with history": {
        "prompt": "instruction", "input": "input", "history": "history", "chosen": "chosen", "rejected": "rejected",
    },
    "Alpaca": {"prompt": "instruction", "input": "input", "chosen": "chosen", "rejected": "rejected"},
    "orca_dpo_pairs": {"system": "system", "prompt": "question", "chosen": "chosen", "rejected": "rejected"},
}  # fmt: skip
SCALES = ("overall_preference", "preference_strength")  # below 0: the first is better, above 0: the second
TIES = ("tie", "tie (bothbad)", "both_bad", "bothbad", "both", "neither", "draw", "equal")
SIDES = {"left": 0, "right": 1}  # of Label Studio's comparisons


@dataclass(frozen=True)
class Choice:
    """The two answers of a row, each with the column in which it stands, and why they are of no use.

    Attributes:
        chosen: column and value of the better answer.
        rejected: column and value of the other.
        fault: that neither is better, or that nothing says which is; None where one is.
    """

    chosen: tuple[str, Any]
    rejected: tuple[str, Any]
    fault: str | None = None


def recognised(rows: Rows, names: Collection[str], dataset: Dataset) -> tuple[Dataset, str | None]:
    """The data set with the columns of the known one whose names its rows have, and how its rows are read.

    Args:
        rows: what is known of them; of data on the Hub none is at the plan.
        names: their columns.
        dataset: the data set.

    The second is None where they are read by our own names alone.
    """
    name = None if set(named(dataset.columns)) - {SYSTEM, *GIVEN} else _known(rows, set(names))
    if name is not None:
        dataset = replace(dataset, columns={**KNOWN[name], **dataset.columns})
    how = _how(named(dataset.columns), plain=name is None)
    return dataset, f"read as {name}: {how}" if name else how


def lacking(names: Collection[str], dataset: Dataset, *, paired: bool) -> list[str]:
    """The columns, by their own names, that rows with these columns lack, of whichever data set they are."""
    there = [name for name in names if dataset.columns.get(name, name) is not None]
    return missing_columns(there, recognised((), there, dataset)[0], paired=paired)


def _known(rows: Rows, there: set[str]) -> str | None:
    def has(column: str) -> bool:
        is_within = column not in there and is_there(column, there)
        filled = not rows or any(value_of(row, column) is not None for row in rows)
        return filled if is_within else column in there

    for name, columns in KNOWN.items():
        ours = there & {*PAIR, *UNPAIRED[1:]} - set(columns.values())
        if not ours and all(map(has, columns.values())):
            return name
    return None


def _how(columns: Mapping[str, str], *, plain: bool) -> str | None:
    theirs = {ours: columns.get(ours, ours) for ours in (*COMPARED, RANKED)}
    if any(name in columns for name in COMPARED):
        first, second, better = (theirs[name] for name in COMPARED)
        if better in SCALES:
            return f"{better} below 0 says that {first} is chosen, above 0 that {second} is"
        return f"{better} says which of {first}, {second} is chosen"
    if RANKED in columns:
        return f"of {theirs[RANKED]} the first by rank is chosen, and the last rejected"
    if plain and not any(name in columns for name in JOINED):
        return None
    more = f", followed by {columns['input']} where that is not empty" if "input" in columns else ""
    earlier = f", behind the turns of {columns['history']}" if "history" in columns else ""
    return f"{columns.get('prompt', 'prompt')} is the prompt{more}{earlier}"


def choice(row: Row, columns: Mapping[str, str]) -> Choice:
    """The better and the other answer of a row.

    Raises:
        Misshapen: what should say which is the better one says something else.
    """
    if any(name in columns for name in COMPARED):
        return _compared(row, *(columns.get(name, name) for name in COMPARED))
    if RANKED in columns:
        return _ranked(row, columns[RANKED])
    chosen, rejected = (columns.get(name, name) for name in PAIR[1:])
    return Choice((chosen, value_of(row, chosen)), (rejected, value_of(row, rejected)))


# ------------------------------------------------------------------------------------------------ one of two


def _compared(row: Row, first: str, second: str, better: str) -> Choice:
    answers = [(name, value_of(row, name)) for name in (first, second)]
    label = value_of(row, better)
    try:
        place = _place_on_scale(label) if better in SCALES else _place(label, first, second)
    except Misshapen as error:
        raise Misshapen(f"column {better}: {error}") from error
    if not isinstance(place, int):
        return Choice(answers[0], answers[1], place)
    return Choice(answers[place], answers[1 - place])


def _place_on_scale(label: Any) -> int | str:
    """Which of two answers is better, 0 or 1, or why neither is."""
    if _is_nothing(label):
        return UNDECIDED
    if isinstance(label, bool) or not isinstance(label, int | float):
        raise Misshapen(f"{kind(label)}; give a number, below 0 where the first answer is better")
    return TIE if label == 0 else int(label > 0)


def _place(label: Any, first: str, second: str) -> int | str:
    """As of _place_on_scale: a label is the name of an answer's column, or that name's end, or a word for a tie."""
    if _is_nothing(label):
        return UNDECIDED
    if isinstance(label, list):
        return _place_by_annotations(label)
    said = str(int(label) if isinstance(label, float) and label.is_integer() else label).strip().casefold()
    names = [name.casefold() for name in (first, second)]
    ends = [_end(name) for name in names]
    if said in names:
        return names.index(said)
    if re.fullmatch(r"[\w.]+", said) and ends[0] != ends[1] and _end(said) in ends:
        return ends.index(_end(said))
    if said in TIES:
        return TIE
    right = f"{ends[0]} or {ends[1]}" if ends[0] != ends[1] else "that name"
    raise Misshapen(f"{kind(label)} names neither {first} nor {second}; give {right}, or tie")


def _is_nothing(label: Any) -> bool:
    return label is None or label == "" or (isinstance(label, float) and math.isnan(label))


def _end(name: str) -> str:
    """The number or the word with which a name ends: 1 of response_1 and of response1, a of answer_a."""
    return str(re.findall(r"\d+|[^\W\d_]+|\W+|_", name)[-1])


def _place_by_annotations(annotations: list[Any]) -> int | str:
    """What most of Label Studio's annotators chose, the left or the right answer."""
    sides = Counter(side for each in annotations for side in _sides(each))
    if not sides:
        return UNDECIDED
    return TIE if sides["left"] == sides["right"] else SIDES[max(sides, key=lambda side: sides[side])]


def _sides(annotation: Any) -> list[str]:
    if not isinstance(annotation, Mapping):
        raise Misshapen(f"{kind(annotation)} in a list of annotations; each is an object with its result")
    if annotation.get("was_cancelled"):
        return []
    results = [each for each in annotation.get("result") or [] if isinstance(each, Mapping)]
    sides = [str(value_of(each, "value.selected")) for each in results if each.get("type") == "pairwise"]
    if wrong := [side for side in sides if side not in SIDES]:
        raise Misshapen(f"a comparison that selects {wrong[0]!r}; it is left or right")
    return sides


# ------------------------------------------------------------------------------------------------ by rank


def _ranked(row: Row, column: str) -> Choice:
    """The first and the last by rank of a list of answers; those without a rank are passed over."""
    answers = value_of(row, column)
    if answers is not None and not isinstance(answers, list):
        raise Misshapen(f"column {column}: {kind(answers)}; give a list of objects with answer and rank")
    ranked = sorted((each for each in map(_rank, answers or []) if each[0] is not None), key=lambda each: each[0])
    if len(ranked) < 2:  # noqa: PLR2004 - a pair
        return Choice((column, None), (column, None), UNDECIDED)
    (best, chosen), (worst, rejected) = ranked[0], ranked[-1]
    return Choice((column, chosen), (column, rejected), TIE if best == worst else None)


def _rank(answer: Any) -> tuple[Any, Any]:
    if not isinstance(answer, Mapping) or "answer" not in answer:
        found = f"the keys {', '.join(map(str, answer))}" if isinstance(answer, Mapping) else bare_kind(answer)
        raise Misshapen(f"a ranked answer is {found}; give an object with answer and rank")
    rank = answer.get("rank")
    if _is_nothing(rank):
        return None, answer["answer"]
    if isinstance(rank, bool) or not isinstance(rank, int | float):
        raise Misshapen(f"a rank is {kind(rank)}; give a number, the better answer's the smaller")
    return rank, answer["answer"]
