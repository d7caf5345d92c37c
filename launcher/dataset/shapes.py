"""Rows as data sets write them -> pairs, or labelled completions, with our columns, or why a row is of no use.

Owns: column names, text or messages, a prompt apart or repeated in the completions; which rows are of no use.
Must not know: where rows come from, tokens, models, torch.

Understood are (prompt, chosen, rejected) in text or messages; messages or text that hold the prompt in both
completions; a prompt as text beside completions as messages; a conversation beside its two answers; a system message
in a column of its own; and (prompt, completion, label) for `loss_type=kto`. Whether a data set is text or messages is
known when all rows have been looked at: one row of messages, or one system message, makes all of them messages.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from launcher.config import Dataset
from launcher.dataset import messages
from launcher.dataset.messages import Misshapen, Said, as_messages, said, text_of
from launcher.dataset.shown import GIVEN
from launcher.dataset.speakers import division, ends_in_word
from launcher.errors import UNSAID, ConfigError
from launcher.losses import UNPAIRED_LOSSES

PAIR = ("prompt", "chosen", "rejected")
UNPAIRED = ("prompt", "completion", "label")
CONVERSATIONS = ("conversations", "conversation", "messages")  # whose last is the user's, beside two answers
SYSTEM = "system"
UNTRAINABLE = ("image", "images", "video", "videos", "audio", "audios", "documents")

EMPTY, SAME, NO_PROMPT, NO_LABEL = "empty completion", "chosen == rejected", "no prompt", "no label"
DIFFERING, BROKEN = "prompts differ", "half a character (a lone surrogate)"
ALIKE = "answers begin alike"
REPEATED = "prompt repeated in the completion, taken once"

MOST_WITHOUT = 0.1  # of pairs whose prompt is to be found in the completions
LONE = re.compile("[\ud800-\udfff]")

Row = Mapping[str, Any]
Rows = Sequence[Row]


@dataclass(frozen=True)
class Example:
    """A row in our shape.

    Attributes:
        values: our columns, with `tools` and `chat_template_kwargs` where the row has them.
        fault: why nothing can be learnt from it; None where something can.
        notes: what has been made of it that is not plain, and what of it is not used.
    """

    values: dict[str, Any]
    fault: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Found:
    """A row before it is known whether its data set is text or messages."""

    prompt: Said
    answers: tuple[Said, ...]
    system: str = ""
    fault: str | None = None
    notes: tuple[str, ...] = ()
    given: dict[str, Any] = field(default_factory=dict)

    @property
    def is_messages(self) -> bool:
        return bool(self.system or self.given) or any(isinstance(value, list) for value in (self.prompt, *self.answers))


def pairs(rows: Rows, dataset: Dataset, where: str) -> list[Example]:
    """Pairs with the prompt apart from the completions; `where` names the rows in errors.

    Raises:
        ConfigError: a column is missing, or a row has something in it that cannot be trained on.
    """
    names = columns_of(rows)
    theirs = {ours: dataset.columns.get(ours, ours) for ours in (*PAIR, SYSTEM, *GIVEN)}
    _check_columns(_needed(PAIR, dataset), names, dataset, where)
    beside = None if theirs["prompt"] in names else next((name for name in CONVERSATIONS if name in names), None)
    unused = [name for name in names if name not in (*theirs.values(), beside)]

    def found(row: Row) -> _Found:
        chosen, rejected = (_column(row, theirs[name], said) for name in PAIR[1:])
        if theirs["prompt"] in names:
            pair = _beside(_column(row, theirs["prompt"], said, "user"), (chosen, rejected))
        else:
            pair = _apart(chosen, rejected, _column(row, beside, said, "user") if beside else None)
        return _with_rest(pair, row, theirs, unused)

    every = _each(found, rows, where)
    examples = [_example(one, PAIR[1:], every.messages) for one in every.found]
    if theirs["prompt"] not in names:
        _check_apart(examples, rows, theirs, dataset, where)
    return examples


def unpaired(rows: Rows, dataset: Dataset, where: str) -> list[Example]:
    """Prompt, completion and label (True: desirable); a pair becomes two rows.

    Raises:
        ConfigError: as of pairs, or a label is neither true nor false.
    """
    names = columns_of(rows)
    theirs = {ours: dataset.columns.get(ours, ours) for ours in (*UNPAIRED, SYSTEM, *GIVEN)}
    if theirs["completion"] not in names:
        return [half for pair in pairs(rows, dataset, where) for half in _halves(pair)]
    _check_columns(_needed(UNPAIRED, dataset), names, dataset, where)
    unused = [name for name in names if name not in theirs.values()]
    labels = []

    def found(row: Row) -> _Found:
        labels.append(_label(row.get(theirs["label"]), theirs["label"]))
        completion = _column(row, theirs["completion"], said)
        prompt = _column(row, theirs["prompt"], said, "user")
        return _with_rest(_beside(prompt, (completion,)), row, theirs, unused)

    every = _each(found, rows, where)
    examples = [_example(one, UNPAIRED[1:2], every.messages) for one in every.found]
    return [_labelled(example, label) for example, label in zip(examples, labels, strict=True)]


def _labelled(example: Example, label: bool | None) -> Example:
    unlabelled = NO_LABEL if label is None else None
    return replace(example, values=example.values | {"label": bool(label)}, fault=example.fault or unlabelled)


def _halves(pair: Example) -> list[Example]:
    rest = {name: value for name, value in pair.values.items() if name not in PAIR}
    halves = []
    for name in PAIR[1:]:
        values = {"prompt": pair.values["prompt"], "completion": pair.values[name], "label": name == "chosen", **rest}
        fault = pair.fault if pair.fault in (DIFFERING, BROKEN) else _fault(values, UNPAIRED[1:2])
        halves.append(Example(values, fault, pair.notes if name == "chosen" else ()))
    return halves


def columns_of(rows: Rows) -> list[str]:
    """The columns that any of the rows has, in their order."""
    return list(dict.fromkeys(name for row in rows for name in row))


def missing_columns(found: Collection[str], dataset: Dataset, *, paired: bool) -> list[str]:
    """The columns, by their own names, that rows with the columns `found` lack."""
    labelled = not paired and dataset.columns.get("completion", "completion") in found  # pairs are split for kto
    return [name for name in _needed(UNPAIRED if labelled else PAIR, dataset) if name not in found]


def _needed(columns: tuple[str, ...], dataset: Dataset) -> list[str]:
    """Of a pair the prompt may be the beginning of both completions, if it is not named."""
    implicit = columns is PAIR and "prompt" not in dataset.columns
    return [dataset.columns.get(ours, ours) for ours in columns if not (implicit and ours == "prompt")]


def _check_columns(needed: list[str], found: list[str], dataset: Dataset, where: str) -> None:
    missing = [name for name in needed if name not in found]
    if missing:
        labelled = "chosen" in missing and "completion" in found
        more = f"; completions with a label train with loss_type={' or '.join(UNPAIRED_LOSSES)}" if labelled else ""
        raise ConfigError(
            "dataset.name",
            dataset.name,
            f"no column {', '.join(missing)}; found {', '.join(found)} in {where}; see dataset.columns{more}",
        )


def _check_apart(examples: list[Example], rows: Rows, theirs: Mapping[str, str], dataset: Dataset, where: str) -> None:
    """Where many pairs have nothing in common, what others have in common is not a prompt."""
    without = [number for number, example in enumerate(examples) if example.fault == NO_PROMPT]
    if len(without) > MOST_WITHOUT * len(examples):
        one, other = (text_of(said(rows[without[0]][theirs[name]]))[:30] for name in PAIR[1:])
        raise ConfigError(
            "dataset.name",
            dataset.name,
            "has no column prompt, and a pair's completions do not begin alike "
            f"(row {without[0] + 1}: {one!r}, {other!r}); name it with +dataset.columns.prompt=NAME ({where})",
        )


# ------------------------------------------------------------------------------------------------ row by row


@dataclass(frozen=True)
class _Every:
    """All rows, and whether they are messages."""

    found: list[_Found]
    messages: bool


def _each(shape: Callable[[Row], _Found], rows: Rows, where: str) -> _Every:
    every = []
    for number, row in enumerate(rows, 1):
        try:
            every.append(shape(row))
        except Misshapen as error:
            raise ConfigError("dataset.path", UNSAID, f"{where}, row {number}, {error}") from error
    return _Every(every, any(found.is_messages for found in every))


def _column(row: Row, name: str, read: Callable[..., Any], *more: Any) -> Any:
    try:
        return read(row.get(name), *more)
    except Misshapen as error:
        raise Misshapen(f"column {name}: {error}") from error


def _label(value: Any, column: str) -> bool | None:
    if value is None:
        return None
    if value not in (0, 1):  # True and False are
        raise Misshapen(f"column {column}: a label is {value!r}; it must be true or false")
    return bool(value)


def _beside(prompt: Said, answers: tuple[Said, ...]) -> _Found:
    """A prompt in a column of its own, which the answers may repeat."""
    if isinstance(prompt, list) or not any(isinstance(answer, list) for answer in answers):
        return _taken_once(prompt, answers)
    lists = [as_messages(answer, "assistant") for answer in answers]
    shared = _shared(lists) if all(lists) else 0
    if shared:
        return _checked(lists[0][:shared], tuple(each[shared:] for each in lists))
    return _checked(prompt, answers)


def _taken_once(prompt: Said, answers: tuple[Said, ...]) -> _Found:
    """The prompt, and the answers behind it: text or messages that begin with the prompt do not say it twice."""
    size = len(prompt) if prompt else 0
    there = [each for each in answers if each]
    repeat = size and there and all(type(each) is type(prompt) and each[:size] == prompt for each in there)
    if not repeat or any(isinstance(each, str) and ends_in_word(each, size) for each in answers):
        return _checked(prompt, answers)
    behind = tuple(each and each[size:] for each in answers)
    return replace(_checked(prompt, behind), notes=(REPEATED,))


def _apart(chosen: Said, rejected: Said, beside: Said) -> _Found:
    """Two completions that hold the prompt, or answer the conversation beside them."""
    if not chosen or not rejected:  # of no use, and nothing to find the prompt by
        return _Found(None, (None, None))
    if isinstance(chosen, str) and isinstance(rejected, str):
        if isinstance(beside, list) and beside and beside[-1]["role"] != "assistant":
            return _checked(beside, (chosen, rejected))
        where = division(chosen, rejected)
        fault = SAME if chosen == rejected else DIFFERING if where.differing else None
        notes = (ALIKE,) if where.alike and not fault else ()
        return _Found(chosen[: where.place] or None, (chosen[where.place :], rejected[where.place :]), "", fault, notes)
    lists = [as_messages(answer, "assistant") for answer in (chosen, rejected)]
    shared = _shared(lists)
    prompt = lists[0][:shared] if shared else beside
    return _checked(prompt, tuple(each[shared:] for each in lists))


def _shared(lists: list[list[messages.Message]]) -> int:
    """How many messages all lists begin with, one of each left out; of one list with a question, all but the answer."""
    most = min(map(len, lists)) - 1
    if len(lists) == 1:
        return most if lists[0][0]["role"] in ("system", "user") else 0
    return next((place for place in range(most) if any(each[place] != lists[0][place] for each in lists)), max(0, most))


def _checked(prompt: Said, answers: tuple[Said, ...]) -> _Found:
    """Answers that begin with the user's words are whole conversations, whose prompts differ."""
    asks = any(isinstance(answer, list) and answer and answer[0]["role"] == "user" for answer in answers)
    return _Found(prompt, answers, fault=DIFFERING if asks else None)


def _with_rest(found: _Found, row: Row, theirs: Mapping[str, str], unused: list[str]) -> _Found:
    """With the system message, what the template is given, and what of the row is not used."""
    for name in UNTRAINABLE:
        if row.get(name):
            raise Misshapen(f"column {name}: {messages.kind(row[name])}; only text can be trained on")
    system = _column(row, theirs[SYSTEM], _text)
    given = {name: _column(row, theirs[name], _GIVEN[name]) for name in GIVEN if row.get(theirs[name])}
    left = tuple(f"column {name} not used" for name in unused if row.get(name) not in (None, "", [], {}))
    return replace(found, system=system, given={name: value for name, value in given.items() if value},
                   notes=(*found.notes, *left))  # fmt: skip


def _text(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    raise Misshapen(f"{messages.kind(value)}; give a text")


def _tools(value: Any) -> Any:
    parsed = _parsed(value)
    if isinstance(parsed, list) and all(isinstance(tool, Mapping) for tool in parsed):
        return parsed
    raise Misshapen(f"{messages.kind(value)}; give a list of tools, each an object, or that as JSON text")


def _keywords(value: Any) -> Any:
    parsed = _parsed(value)
    if isinstance(parsed, Mapping):
        return {name: said for name, said in parsed.items() if said is not None}
    raise Misshapen(f"{messages.kind(value)}; give an object {{name: value}}")


def _parsed(value: Any) -> Any:
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return None


_GIVEN: dict[str, Callable[[Any], Any]] = {"tools": _tools, "chat_template_kwargs": _keywords}


# ------------------------------------------------------------------------------------------------ what is of no use


def _example(found: _Found, names: Sequence[str], in_messages: bool) -> Example:
    prompt, answers = found.prompt, found.answers
    if in_messages:
        prompt = as_messages(prompt, "user")
        answers = tuple(as_messages(answer, "assistant") for answer in answers)
        if prompt and found.system and prompt[0]["role"] != "system":
            prompt = [{"role": "system", "content": found.system}, *prompt]
    values = {"prompt": prompt, **dict(zip(names, answers, strict=True)), **found.given}
    return Example(values, found.fault or _fault(values, names), found.notes)


def _fault(values: dict[str, Any], names: Sequence[str]) -> str | None:
    """Why nothing can be learnt from a pair, or from a labelled completion; None where something can."""
    texts = [text_of(values[name]).strip() for name in names]
    if not all(texts):
        return EMPTY
    if not text_of(values["prompt"]):
        return NO_PROMPT
    if len(texts) > 1 and texts[0] == texts[1]:
        return SAME
    return BROKEN if LONE.search(json.dumps(values, ensure_ascii=False, default=str)) else None


def overlaps(train: list[Any], test: list[Any], columns: tuple[str, ...] = PAIR) -> tuple[int, int]:
    """Training rows that stand there before, and held-out rows that also stand in the training rows.

    Rows are the same whose text in `columns` differs in case, spacing and punctuation only.
    """
    seen = _identities(train, columns)
    known = set(seen)
    return len(seen) - len(known), sum(identity in known for identity in _identities(test, columns))


def _identities(rows: list[Any], columns: tuple[str, ...]) -> list[int]:
    return [hash(tuple(plain(text_of(row[name])) for name in columns)) for row in rows]


def plain(text: str) -> str:
    """The words of a text: the same for texts that differ in case, spacing and punctuation only."""
    return " ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold()))
