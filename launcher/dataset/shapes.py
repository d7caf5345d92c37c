"""Rows as data sets write them -> pairs, or labelled completions, with our columns, or why a row is of no use.

Owns: column names, text or messages, a prompt apart or repeated in the completions; which rows are of no use.
Must not know: where rows come from, which answer a label means (`schemas`), tokens, models, torch.

Understood are (prompt, chosen, rejected) in text or messages; messages or text that hold the prompt in both
completions; a prompt as text beside completions as messages; a conversation beside its two answers; answers of which
a label, a scale or ranks say which is better; a system message in a column of its own; and (prompt, completion, label)
for `loss_type=kto`. Whether a data set is text or messages is known when all rows have been looked at: one row of
messages, or one system message, makes all of them messages.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from launcher.config import Dataset
from launcher.dataset import messages, prompt_parts, schemas
from launcher.dataset.answers import ASKS, DIFFERING, ECHO, SAME, Found, apart, asks_at_its_end, beside
from launcher.dataset.columns import (
    JOINED,
    PAIR,
    SYSTEM,
    UNPAIRED,
    Row,
    Rows,
    check_columns,
    columns_of,
    is_there,
    named,
    needed,
    value_of,
    wanted,
)
from launcher.dataset.messages import Misshapen, Said, as_messages, said, text_of
from launcher.dataset.shown import GIVEN
from launcher.dataset.speakers import common_beginning
from launcher.errors import UNSAID, ConfigError

CONVERSATIONS = ("conversations", "conversation", "messages")  # whose last is the user's, beside two answers
QUESTIONS = ("question", "instruction", "input", "query")  # what others call the prompt
UNTRAINABLE = ("image", "images", "video", "videos", "audio", "audios", "documents")

EMPTY, NO_PROMPT, NO_LABEL = "empty completion", "no prompt", "no label"
BROKEN, SYSTEMS = "half a character (a lone surrogate)", "two system messages that differ"
NO_HALVES = (
    DIFFERING,
    ECHO,
    SYSTEMS,
    BROKEN,
    schemas.TIE,
    schemas.UNDECIDED,
)  # faults of a pair that are of both its answers

MOST_WITHOUT = 0.1  # of pairs whose prompt is to be found in the completions
NOT_USED = " not used"
LONE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Example:
    """A row in our shape.

    Attributes:
        values: our columns, with `tools` and `chat_template_kwargs` where the row has them.
        fault: why nothing can be learnt from it; None where something can.
        notes: what has been made of it that is not plain, and what of it is not used.
        is_half: whether it is one of two completions of a pair.
    """

    values: dict[str, Any]
    fault: str | None = None
    notes: tuple[str, ...] = ()
    is_half: bool = False


def pairs(rows: Rows, dataset: Dataset, where: str) -> list[Example]:
    """Pairs with the prompt apart from the completions; `where` names the rows in errors.

    Raises:
        ConfigError: a column is missing, or a row has something in it that cannot be trained on.
    """
    rows, dataset = wanted(rows, dataset)
    names = columns_of(rows)
    dataset, how = schemas.recognised(rows, names, dataset)
    columns = named(dataset.columns)
    theirs = _theirs(columns, "prompt")
    check_columns(PAIR, names, dataset, where)
    is_apart = is_there(theirs["prompt"], names)
    asked = None if is_apart else next((name for name in CONVERSATIONS if name in names), None)
    if not is_apart and asked is None:
        _check_question(rows, dataset, where)
    used = _Used(names, [*theirs.values(), *needed(PAIR, dataset), asked or ""], asked is None)

    def found(row: Row) -> Found:
        choice = schemas.choice(row, columns)
        chosen, rejected = (_column(name, value, said) for name, value in (choice.chosen, choice.rejected))
        if is_apart:
            pair = beside(_prompt(row, theirs), (chosen, rejected))
        else:
            pair = apart(chosen, rejected, _of(row, asked, said, "user") if asked else None)
        notes = (*([how] if how else []), *_written(choice.chosen, choice.rejected), *pair.notes)
        return _with_rest(replace(pair, fault=choice.fault or pair.fault, notes=notes), row, theirs, used)

    every = _each(found, rows, where)
    examples = [_example(one, PAIR[1:], every.messages) for one in every.found]
    if not is_apart:
        _check_apart(examples, rows, dataset, where)
    return examples


def _theirs(columns: Mapping[str, str], *ours: str) -> dict[str, str]:
    """Their names of what rows may have, and of what is joined to a prompt where that is named."""
    there = {name: columns.get(name, name) for name in (*ours, SYSTEM, *GIVEN)}
    return there | {name: columns[name] for name in JOINED if name in columns}


def unpaired(rows: Rows, dataset: Dataset, where: str) -> list[Example]:
    """Prompt, completion and label (True: desirable); a pair becomes two rows.

    Raises:
        ConfigError: as of pairs, or a label is neither true nor false.
    """
    rows, dataset = wanted(rows, dataset)
    names = columns_of(rows)
    theirs = _theirs(named(dataset.columns), *UNPAIRED)
    if not is_there(theirs["completion"], names):
        return [half for pair in pairs(rows, dataset, where) for half in _halves(pair)]
    check_columns(UNPAIRED, names, dataset, where)
    used = _Used(names, list(theirs.values()))
    labels = []

    def found(row: Row) -> Found:
        labels.append(_label(value_of(row, theirs["label"]), theirs["label"]))
        completion = _of(row, theirs["completion"], said)
        shaped = beside(_prompt(row, theirs), (completion,))
        notes = (*_written((theirs["completion"], value_of(row, theirs["completion"]))), *shaped.notes)
        return _with_rest(replace(shaped, notes=notes), row, theirs, used)

    every = _each(found, rows, where)
    examples = [_example(one, UNPAIRED[1:2], every.messages) for one in every.found]
    return [_labelled(example, label) for example, label in zip(examples, labels, strict=True)]


def of_one_kind(train: list[Example], test: list[Example]) -> tuple[list[Example], list[Example]]:
    """Two splits of one data set: where one is messages, by one system message perhaps, so is the other."""
    kinds = [any(isinstance(example.values["prompt"], list) for example in split) for split in (train, test)]
    if all(kinds) or not any(kinds):
        return train, test
    return [_in_messages(example) for example in train], [_in_messages(example) for example in test]


def _in_messages(example: Example) -> Example:
    speakers = {"prompt": "user", "chosen": "assistant", "rejected": "assistant", "completion": "assistant"}
    there = {name: role for name, role in speakers.items() if name in example.values}
    said_so = {name: as_messages(example.values[name], role) for name, role in there.items()}
    return replace(example, values=example.values | said_so)


def _labelled(example: Example, label: bool | None) -> Example:
    unlabelled = NO_LABEL if label is None else None
    return replace(example, values=example.values | {"label": bool(label)}, fault=example.fault or unlabelled)


def _halves(pair: Example) -> list[Example]:
    rest = {name: value for name, value in pair.values.items() if name not in PAIR}
    halves = []
    for name in PAIR[1:]:
        values = {"prompt": pair.values["prompt"], "completion": pair.values[name], "label": name == "chosen", **rest}
        fault = pair.fault if pair.fault in NO_HALVES else _fault(values, UNPAIRED[1:2])
        halves.append(Example(values, fault, pair.notes if name == "chosen" else (), is_half=True))
    return halves


def _check_apart(examples: list[Example], rows: Rows, dataset: Dataset, where: str) -> None:
    """Where many pairs have nothing in common, what others have in common is not a prompt."""
    without = [number for number, example in enumerate(examples) if example.fault == NO_PROMPT]
    if len(without) > MOST_WITHOUT * len(examples):
        choice = schemas.choice(rows[without[0]], named(dataset.columns))
        one, other = (text_of(said(value)) for _, value in (choice.chosen, choice.rejected))
        alike = "begin alike without a mark of who answers, or the end of a word, where they part"
        how = alike if common_beginning(one, other) else "do not begin alike"
        raise ConfigError(
            "dataset.name",
            dataset.name,
            f"has no column prompt, and a pair's completions {how} (row {without[0] + 1}: "
            f"{one[:30]!r}, {other[:30]!r}); name it with +dataset.columns.prompt=NAME ({where})",
        )


def _check_question(rows: Rows, dataset: Dataset, where: str) -> None:
    """What answers have in common is not the prompt where a column holds their question and they do not."""
    chosen = dataset.columns.get("chosen") or "chosen"
    found = [name for row in rows if (name := _question_of(row, value_of(row, chosen)))]
    if len(found) > MOST_WITHOUT * len(rows):
        raise ConfigError(
            "dataset.name",
            dataset.name,
            f"has no column prompt, and a column {found[0]} that its answers do not hold ({where}); "
            f"give +dataset.columns.prompt={found[0]}, or the name of the one that is the prompt",
        )


def _question_of(row: Row, answer: Any) -> str | None:
    """The column in which the question of a text stands, if the text does not hold it."""
    asked = {name: row[name] for name in QUESTIONS if isinstance(row.get(name), str) and row[name].strip()}
    return next((name for name, text in asked.items() if isinstance(answer, str) and text.strip() not in answer), None)


# ------------------------------------------------------------------------------------------------ row by row


@dataclass(frozen=True)
class _Every:
    """All rows, and whether they are messages."""

    found: list[Found]
    messages: bool


def _each(shape: Callable[[Row], Found], rows: Rows, where: str) -> _Every:
    every = []
    for number, row in enumerate(rows, 1):
        try:
            every.append(shape(row))
        except Misshapen as error:
            raise ConfigError("dataset.path", UNSAID, f"{where}, row {number}, {error}") from error
    return _Every(every, any(found.is_messages for found in every))


def _of(row: Row, name: str, read: Callable[..., Any], *more: Any) -> Any:
    return _column(name, value_of(row, name), read, *more)


def _column(name: str, value: Any, read: Callable[..., Any], *more: Any) -> Any:
    try:
        return read(value, *more)
    except Misshapen as error:
        raise Misshapen(f"column {name}: {error}") from error


def _label(value: Any, column: str) -> bool | None:
    if value is None:
        return None
    if value not in (0, 1):  # True and False are
        raise Misshapen(f"column {column}: a label is {value!r}; it must be true or false")
    return bool(value)


@dataclass(frozen=True)
class _Used:
    """Which columns rows have, which of these are used, and whether what is not may be a part of the prompt."""

    names: list[str]
    used: list[str]
    may_be_prompt: bool = True


def _prompt(row: Row, theirs: Mapping[str, str]) -> Said:
    parts = [value_of(row, theirs[name]) if name in theirs else None for name in JOINED]
    return prompt_parts.joined(_of(row, theirs["prompt"], said, "user"), *parts)


def _written(*columns: tuple[str, Any]) -> tuple[str, ...]:
    """That texts of these columns, each with its value, are messages."""
    texts = [(name, value) for name, value in columns if isinstance(value, str)]
    return tuple(
        f"column {name}: JSON text taken for messages" for name, text in texts if messages.written_messages(text)
    )


def _with_rest(found: Found, row: Row, theirs: Mapping[str, str], used: _Used) -> Found:
    """With the system message, what the template is given, and what of the row is not used."""
    for name in UNTRAINABLE:
        if row.get(name):
            raise Misshapen(f"column {name}: {messages.kind(row[name])}; only text can be trained on")
    system = _of(row, theirs[SYSTEM], _text)
    given = {name: _of(row, theirs[name], _GIVEN[name]) for name in GIVEN if value_of(row, theirs[name])}
    left = prompt_parts.not_used(row, used.names, used.used)
    if used.may_be_prompt:
        prompt_parts.check_lost(left, "\n".join([system, *map(text_of, (found.prompt, *found.answers))]))
    unused = [f"column {name}{NOT_USED}" for name in left]
    return replace(found, system=system, given={name: value for name, value in given.items() if value},
                   notes=(*found.notes, *unused))  # fmt: skip


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


def _example(found: Found, names: Sequence[str], in_messages: bool) -> Example:
    prompt, answers, fault = found.prompt, found.answers, found.fault
    if in_messages:
        prompt = as_messages(prompt, "user")
        answers = tuple(as_messages(answer, "assistant") for answer in answers)
        fault = fault or _fault_of_system(prompt, found.system)
        if prompt and found.system and prompt[0]["role"] != "system":
            prompt = [{"role": "system", "content": found.system}, *prompt]
    values = {"prompt": prompt, **dict(zip(names, answers, strict=True)), **found.given}
    return Example(values, fault or _fault(values, names), found.notes)


def _fault_of_system(prompt: list[messages.Message], system: str) -> str | None:
    own = prompt[0]["content"] if prompt and prompt[0]["role"] == "system" else None
    return SYSTEMS if own is not None and system.strip() not in ("", own.strip()) else None


def _fault(values: dict[str, Any], names: Sequence[str]) -> str | None:
    """Why nothing can be learnt from a pair, or from a labelled completion; None where something can."""
    texts = [text_of(values[name]).strip() for name in names]
    if not all(texts):
        return EMPTY
    if not text_of(values["prompt"]):
        return NO_PROMPT
    if len(texts) > 1 and texts[0] == texts[1]:
        return SAME
    if any(asks_at_its_end(values["prompt"], values[name]) for name in names):
        return ASKS
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
