"""What the runs were trained on: rows of each split, lengths, examples, and what of it is lost.

Owns: these words and tables. Must not know: HTML, files.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from analysis.words import listed, number

_MUCH = 0.05  # of the rows
_EXAMPLES = 3  # of each kind of data

Data = dict[str, Any]


def kinds(runs: pd.DataFrame) -> list[tuple[str, str, Data]]:
    """Give model, dataset and data of each kind of data that runs were trained on, once."""
    found: list[tuple[str, str, Data]] = []
    for model, dataset, data in runs[["model", "dataset", "data"]].to_numpy():
        kind = (str(model or "?"), str(dataset or "?"), data)
        if data.get("splits") and kind not in found:
            found.append(kind)
    return found


def splits(runs: pd.DataFrame) -> list[dict[str, str]]:
    """Give a row for each split of each kind of data."""
    return [
        {"model": model, "dataset": dataset, "max_length": str(data["max_length"]), "split": name, **_numbers(split)}
        for model, dataset, data in kinds(runs)
        for name, split in data["splits"].items()
    ]


def _numbers(split: Data) -> dict[str, str]:
    lengths = {"median": split["median"], "95th percentile": split["percentile_95"]}
    labels = [f"{split[name]} {name}" for name in ("desirable", "undesirable") if name in split]
    return {
        "rows read": str(split["read"]),
        "used": f"{split['used']} ({', '.join(labels)})" if labels else str(split["used"]),
        "left out": _reasons(split) or "0",
        **{name: "" if value is None else number(value) for name, value in lengths.items()},
        "cut": f"{split['cut']} ({_share(split['cut'], split['used']):.0%})",
    }


def _reasons(split: Data) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in split["left_out"].items())


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def examples(runs: pd.DataFrame) -> list[tuple[str, list[tuple[str, str, int]]]]:
    """Give a title and the parts (name, text, tokens cut) of the first rows of each kind of data."""
    return [
        (f"{dataset} for {model}, example {place}", list(_parts(row)))
        for model, dataset, data in kinds(runs)
        for place, row in enumerate(data.get("examples", [])[:_EXAMPLES], 1)
    ]


def _parts(row: Data) -> Iterator[tuple[str, str, int]]:
    for name, part in {"prompt": row["prompt"], **row["answers"]}.items():
        yield name, part["text"], part["cut"]


def cautions(runs: pd.DataFrame) -> list[str]:
    """Say of which data more than 5 % of a split's rows is left out or cut."""
    lost = [line for kind in kinds(runs) for line in _lost(*kind)]
    if not lost:
        return []
    return [f"The runs did not see all of their data: {listed(lost)}. What they learnt is of the rest."]


def _lost(model: str, dataset: str, data: Data) -> Iterator[str]:
    for name, split in data["splits"].items():
        where = f"the {name} split of {dataset} for {model}"
        if _share(split["read"] - split["used"], split["read"]) > _MUCH:
            gone = split["read"] - split["used"]
            yield f"of {where} {gone} of {split['read']} rows are left out ({_reasons(split)})"
        if _share(split["cut"], split["used"]) > _MUCH:
            limit = f"max_length {data['max_length']}"
            yield f"of {where} {split['cut']} of {split['used']} rows used are cut at {limit}"
