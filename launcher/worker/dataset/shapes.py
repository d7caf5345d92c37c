"""Rows as data sets write them -> pairs, or labelled completions, with our three columns.

Owns: column names, plain text or messages, a prompt apart or repeated in both completions; which pairs are of no use.
Must not know: where rows come from, tokens, models.

Understood are (prompt, chosen, rejected) in text or messages; messages or text that hold the prompt in both
completions; a prompt as text beside completions as messages; and (prompt, completion, label) for `loss_type=kto`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from typing import Any

from datasets import Dataset
from trl import extract_prompt

from launcher.config import Dataset as DatasetConfig
from launcher.errors import ConfigError
from launcher.losses import UNPAIRED_LOSSES

PAIR = ("prompt", "chosen", "rejected")
UNPAIRED = ("prompt", "completion", "label")
EMPTY, SAME, NO_PROMPT = "empty completion", "chosen == rejected", "no prompt"

Completion = str | list[dict[str, str]]  # None in a data set where there is none


def pairs(rows: Dataset, dataset: DatasetConfig) -> Dataset:
    """Our three columns only, under our names, with the prompt apart from the completions.

    Raises:
        ConfigError: a column is missing, or a row's prompt cannot be told from its completions.
    """
    theirs = {ours: dataset.columns.get(ours, ours) for ours in PAIR}
    needed = [ours for ours in PAIR if ours != "prompt" or "prompt" in dataset.columns]
    missing = [theirs[ours] for ours in needed if theirs[ours] not in rows.column_names]
    if missing:
        found = ", ".join(rows.column_names)
        labelled = f"; completions with a label train with loss_type={' or '.join(UNPAIRED_LOSSES)}"
        unpaired = labelled if "completion" in rows.column_names else ""
        raise ConfigError(
            "dataset.name",
            dataset.name,
            f"no column {', '.join(missing)}; found {found}; see dataset.columns{unpaired}",
        )
    present = {ours: name for ours, name in theirs.items() if name in rows.column_names}
    rows = rows.select_columns(list(present.values())).rename_columns({b: a for a, b in present.items() if a != b})
    if isinstance(next((said for said in rows["chosen"] if said is not None), None), list):
        return Dataset.from_list([_conversation(row) for row in rows])
    return rows if "prompt" in present else Dataset.from_list([_apart(row, dataset) for row in rows])


def unpaired(rows: Dataset, dataset: DatasetConfig) -> Dataset:
    """Columns prompt, completion and label (True: desirable); a pair becomes two rows.

    Raises:
        ConfigError: a column is missing, or a label is neither true nor false.
    """
    theirs = {ours: dataset.columns.get(ours, ours) for ours in UNPAIRED}
    if theirs["completion"] not in rows.column_names:
        return Dataset.from_list([half for pair in pairs(rows, dataset) for half in _halves(pair)])
    missing = [name for name in theirs.values() if name not in rows.column_names]
    if missing:
        found = ", ".join(rows.column_names)
        raise ConfigError(
            "dataset.name", dataset.name, f"no column {', '.join(missing)}; found {found}; see dataset.columns"
        )
    named = [{ours: row[name] for ours, name in theirs.items()} for row in rows]
    messages = any(isinstance(row[name], list) for row in named for name in UNPAIRED[:2])
    return Dataset.from_list([_labelled(row, dataset, messages=messages) for row in named])


def _halves(pair: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"prompt": pair["prompt"], "completion": pair[name], "label": name == "chosen"} for name in PAIR[1:]]


def _labelled(row: dict[str, Any], dataset: DatasetConfig, *, messages: bool) -> dict[str, Any]:
    if row["label"] not in (0, 1):  # True and False are
        raise ConfigError("dataset.name", dataset.name, f"a label is {row['label']!r}; it must be true or false")
    label = bool(row["label"])
    if not messages:
        return row | {"label": label}
    prompt, completion = (
        [{"role": role, "content": said}] if isinstance(said, str) else said
        for role, said in (("user", row["prompt"]), ("assistant", row["completion"]))
    )
    return {"prompt": prompt and _messages(prompt), "completion": _messages(completion or []), "label": label}


def _conversation(row: dict[str, Any]) -> dict[str, Any]:
    """Messages with the prompt apart. Data sets such as UltraFeedback repeat it in both completions."""
    row = {**row, **{name: row[name] or [] for name in PAIR[1:]}}
    if not isinstance(row.get("prompt"), list):
        if not row["chosen"] or not row["rejected"]:  # of no use, and nothing to find the prompt by
            return {name: [] for name in PAIR}
        apart = extract_prompt({"chosen": row["chosen"], "rejected": row["rejected"]})
        if not apart["prompt"] and row.get("prompt"):
            apart["prompt"] = [{"role": "user", "content": row["prompt"]}]
        row = apart
    return {name: _messages(row[name]) for name in PAIR}


def _messages(messages: list[dict[str, str]]) -> list[dict[str, str]]:
    """Role and content alone, in this order, so that the parts of a mixture are of one type."""
    return [{"role": message["role"], "content": message.get("content") or ""} for message in messages]


def _apart(row: dict[str, str], dataset: DatasetConfig) -> dict[str, str | None]:
    """Plain text whose completions both begin with the prompt."""
    if not row["chosen"] or not row["rejected"]:  # of no use, and nothing to find the prompt by
        return dict.fromkeys(PAIR)
    found = extract_prompt(row)
    if not found["prompt"]:
        raise ConfigError(
            "dataset.name",
            dataset.name,
            "has no column prompt, and a pair's completions do not begin alike "
            f"({row['chosen'][:30]!r}, {row['rejected'][:30]!r}); name it with +dataset.columns.prompt=NAME",
        )
    return {name: found[name] for name in PAIR}


# ------------------------------------------------------------------------------------------------ what is of no use


def faults(rows: Dataset) -> Iterator[str | None]:
    """For each pair: why nothing can be learnt from it, or None."""
    for row in rows:
        chosen, rejected = text_of(row["chosen"]).strip(), text_of(row["rejected"]).strip()
        unusable = EMPTY if not chosen or not rejected else NO_PROMPT if row["prompt"] is None else None
        yield unusable or (SAME if chosen == rejected else None)


def faults_of_labelled(rows: Dataset) -> Iterator[str | None]:
    """The same for each labelled completion."""
    for row in rows:
        yield EMPTY if not text_of(row["completion"]).strip() else NO_PROMPT if row["prompt"] is None else None


def text_of(completion: Completion | None) -> str:
    """All that is said in a text, or in a list of messages; nothing where there is none."""
    if completion is None or isinstance(completion, str):
        return completion or ""
    return "\n".join(message["content"] for message in completion)


def overlaps(train: Dataset, test: Dataset, columns: tuple[str, ...] = PAIR) -> tuple[int, int]:
    """Training rows that stand there before, and held-out rows that also stand in the training rows.

    Rows are the same whose text in `columns` differs in case, spacing and punctuation only.
    """
    seen = _identities(train, columns)
    known = set(seen)
    return len(seen) - len(known), sum(identity in known for identity in _identities(test, columns))


def _identities(rows: Dataset, columns: tuple[str, ...]) -> list[int]:
    return [hash(tuple(plain(text_of(row[name])) for name in columns)) for row in rows]


def plain(text: str) -> str:
    """The words of a text: the same for texts that differ in case, spacing and punctuation only."""
    return " ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold()))
