"""What the runs were trained on: rows of each split, lengths, examples, and what of it is lost.

Owns: these words and tables. Must not know: HTML, files.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pandas as pd

from analysis.columns import LABELS
from analysis.words import listed, number

_MUCH = 0.05  # of the rows
_DIGITS = 9  # counts are exact
_EXAMPLES = 3  # of each kind of data

Data = dict[str, Any]


def kinds(runs: pd.DataFrame) -> list[tuple[str, str, Data]]:
    """Give model, dataset and data of each kind of data that runs were trained on, once."""
    found: list[tuple[str, str, Data]] = []
    for model, dataset, data in runs[["model", "dataset", "data"]].to_numpy():
        kind = (str(model or "?"), str(dataset or "?"), data)
        if data and kind not in found:
            found.append(kind)
    return found


def splits(runs: pd.DataFrame) -> list[dict[str, str]]:
    """Give a row for each split of each kind of data."""
    return [
        {"model": model, "dataset": dataset, "max_length": number(data["max_length"]), "split": name, **_numbers(split)}
        for model, dataset, data in kinds(runs)
        for name, split in data["splits"].items()
    ]


def _numbers(split: Data) -> dict[str, str]:
    labels = ", ".join(f"{number(split[name], _DIGITS)} {name}" for name in LABELS if name in split)
    return {
        "rows read": _read(split),
        "used": number(split["used"], _DIGITS) + (f" ({labels})" if labels else ""),
        "left out": _reasons(split) or "0",
        "median": number(split.get("median", math.nan), _DIGITS),
        "95th percentile": number(split.get("percentile_95", math.nan), _DIGITS),
        "cut": f"{number(split['cut'], _DIGITS)} ({_share(split['cut'], split['used']):.0%})",
    }


def _read(split: Data) -> str:
    """Rows, and the completions that pairs among them became."""
    read = number(split["read"], _DIGITS)
    return f"{number(split['rows'], _DIGITS)} ({read} completions)" if "rows" in split else read


def _reasons(split: Data) -> str:
    return ", ".join(f"{number(count, _DIGITS)} {reason}" for reason, count in split["left_out"].items())


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def examples(runs: pd.DataFrame) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """Give a title and the parts (name, text, tokens cut) of the first rows of each kind of data."""
    return [
        (f"{dataset} for {model}, example {place}", [(name, *_part(*part)) for name, part in row.items()])
        for model, dataset, data in kinds(runs)
        for place, row in enumerate(data["examples"][:_EXAMPLES], 1)
    ]


def _part(text: str, cut: float) -> tuple[str, str]:
    return text, number(cut, _DIGITS) if cut > 0 else ""


def cautions(runs: pd.DataFrame) -> list[str]:
    """Say of which data more than 5 % of a split's rows is left out or cut, and which is not held out."""
    lost = [line for kind in kinds(runs) for line in _lost(*kind)]
    found = (
        [f"The runs did not see all of their data: {listed(lost)}. What is said here is of the rest."] if lost else []
    )
    leaks = [line for kind in kinds(runs) for line in _leaks(*kind)]
    if leaks:
        found.append(f"Of the held-out rows {listed(leaks)}. Loss, accuracy and margin are not of unseen rows there.")
    return found


def _leaks(model: str, dataset: str, data: Data) -> Iterator[str]:
    test = data["splits"].get("test")
    if test and data["leaked"] > 0:
        leaked, read = (number(each, _DIGITS) for each in (data["leaked"], test["read"]))
        yield f"{leaked} of {read} in {dataset} for {model} also stand in the training split"


def _lost(model: str, dataset: str, data: Data) -> Iterator[str]:
    for name, split in data["splits"].items():
        where, gone = f"the {name} split of {dataset} for {model}", split["read"] - split["used"]
        read, used, cut, left = (number(each, _DIGITS) for each in (split["read"], split["used"], split["cut"], gone))
        unit = "completions" if "rows" in split else "rows"
        if _share(gone, split["read"]) > _MUCH:
            yield f"of {where} {left} of {read} {unit} are left out ({_reasons(split)})"
        if _share(split["cut"], split["used"]) > _MUCH:
            yield f"of {where} {cut} of {used} {unit} used are cut at max_length {number(data['max_length'])}"
