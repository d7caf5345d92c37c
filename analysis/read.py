"""``results.jsonl`` -> one tidy frame.

Owns: the names in ``results.jsonl`` and what becomes of missing, torn or hostile values.
Must not know: statistics, figures, HTML.

Every other module may rely on what is promised here: numbers are floats (NaN where unknown), text is
printable Unicode or None, and each nested value has its documented type, empty where the file has nothing.

Errors::

    ValueError
      ResultsError      the file is missing, empty or broken; the message names the file and the remedy
    UserWarning
      ResultsWarning    the file was readable, but something in it was left out
"""

from __future__ import annotations

import json
import math
import re
import warnings
from pathlib import Path
from typing import Any

import pandas as pd

TEXT = ("kind", "run_id", "sweep", "model", "dataset", "loss_type", "status", "reason", "job_id", "command")
NUMBERS = ("beta", "seed", "step", "max_steps", "seconds", "attempts")
# column of the frame -> key of the row's "evaluation" (held-out data)
EVALUATION = {
    "heldout_loss": "loss",
    "reward_accuracy": "reward_accuracy",
    "reward_margin": "reward_margin",
    "kl": "kl",
    "kl_stderr": "kl_stderr",
    "golden_reward": "golden_reward",
    "golden_reward_stderr": "golden_reward_stderr",
    "pairs": "pairs",
    "generations": "generations",
    "evaluation_seconds": "seconds",
}
PLACE = "address"  # where the model is published
NESTED = ("axes", "objective", "provenance", "golden_rewards", "samples", "curve", "actions")
COLUMNS = (*TEXT, PLACE, *NUMBERS, "training_loss", *EVALUATION, *NESTED, "setting", "panel")

# Named by columns of their own; every other axis makes up a run's "setting".
_NAMED_AXES = ("model", "dataset", "loss_type", "beta", "seed")
# Controls and lone surrogates can be written neither to XML nor to UTF-8.
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


class ResultsError(ValueError):
    """``results.jsonl`` cannot be used; the message names the file and what to do."""


class ResultsWarning(UserWarning):
    """A part of ``results.jsonl`` was left out; the message names the file and the line."""


def load(path: str | Path) -> pd.DataFrame:
    """Read a sweep's results.

    ``path`` is ``results.jsonl`` or the sweep's folder that holds it. The frame has one row per line, in the
    file's order, and the columns ``COLUMNS``: text is ``str`` or None; numbers are float, NaN where missing
    (``beta`` without unit, ``seconds`` in s, ``kl`` in nats per generation, ``reward_accuracy`` 0..1,
    ``golden_reward`` in the scorer's unit); ``axes``, ``objective`` and ``provenance`` are dicts;
    ``golden_rewards`` is a list of floats, ``samples`` and ``curve`` are lists of dicts, ``actions`` holds the
    probability of each action of a tabular policy. ``setting`` names
    the values of every axis besides model, loss_type and beta that tells runs apart ("" if there is none) and
    ``panel`` is model and setting together: within a panel only loss_type and beta differ.

    Raises ResultsError for a missing, empty or broken file. Warns ResultsWarning when a torn last line or an
    earlier row of a repeated run is left out.
    """
    file = Path(path)
    file = file / "results.jsonl" if file.is_dir() else file
    rows = _latest([_row(raw, file, number) for number, raw in _lines(file)], file)
    frame = pd.DataFrame(rows, columns=list(COLUMNS), dtype=object)
    numbers = [*NUMBERS, "training_loss", *EVALUATION]
    frame[numbers] = frame[numbers].astype(float)
    frame["setting"] = _settings(frame)
    frame["panel"] = [" · ".join(part for part in parts if part) for parts in _panels(frame)]
    return frame


def _lines(file: Path) -> list[tuple[int, dict[str, Any]]]:
    """Give each line's number and object; only the last line may be torn (a writer was interrupted)."""
    lines = _text(file).rstrip().split("\n")
    if lines == [""]:
        raise ResultsError(f"{file}: is empty; {_remedy(file)}")
    parsed = []
    for number, line in enumerate(lines, start=1):
        row = _object(line)
        if row is not None:
            parsed.append((number, row))
        elif number < len(lines) or number == 1:
            raise ResultsError(f"{file}: line {number} is not a JSON object; {_remedy(file)}")
        else:
            warnings.warn(
                f"{file}: skipped line {number}, which is torn; {_remedy(file)}", ResultsWarning, stacklevel=3
            )
    return parsed


def _remedy(file: Path) -> str:
    return f"write it again with 'python -m launcher collect {file.absolute().parent.name}'"


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig", errors="replace")
    except FileNotFoundError:
        missing = "no such file" if file.parent.is_dir() else "no such folder"
        raise ResultsError(f"{file}: {missing}; {_remedy(file)}") from None
    except OSError as error:
        raise ResultsError(f"{file}: cannot be read ({error.strerror}); check its permissions") from None


def _object(line: str) -> dict[str, Any] | None:
    """Parse one line into an object whose every text is printable; None if that cannot be done."""
    try:
        value = _clean(json.loads(line))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _row(raw: dict[str, Any], file: Path, number: int) -> dict[str, Any]:
    """One line as a flat row; ``kind`` and, for a run, ``run_id`` are what a row cannot do without."""
    row: dict[str, Any] = {key: _string(raw.get(key)) for key in TEXT}
    if row["kind"] not in {"run", "base"}:
        raise ResultsError(f"{file}: line {number}: kind is {row['kind']!r}, not 'run' or 'base'; {_remedy(file)}")
    if row["kind"] == "run" and not row["run_id"]:
        raise ResultsError(f"{file}: line {number}: a run without run_id; {_remedy(file)}")
    row[PLACE] = _string(_mapping(raw.get("revision")).get(PLACE))
    row |= {key: _number(raw.get(key)) for key in NUMBERS}
    row["training_loss"] = _number(_mapping(raw.get("training")).get("loss"))
    evaluation = _mapping(raw.get("evaluation"))
    row |= {column: _number(evaluation.get(key)) for column, key in EVALUATION.items()}
    row |= {key: _mapping(raw.get(key)) for key in ("axes", "objective", "provenance")}
    row["actions"] = {key: _number(value) for key, value in _mapping(evaluation.get("actions")).items()}
    row["golden_rewards"] = [_number(value) for value in _list(raw.get("golden_rewards"))]
    if math.isnan(row["golden_reward"]):
        row["golden_reward"] = _mean(row["golden_rewards"])
    row["samples"] = [_sample(value) for value in _list(raw.get("samples")) if isinstance(value, dict)]
    row["curve"] = [_point(value) for value in _list(raw.get("curve")) if isinstance(value, dict)]
    return row


def _latest(rows: list[dict[str, Any]], file: Path) -> list[dict[str, Any]]:
    """Keep the last row of each run (and of each base), in the file's order."""
    last = {_identity(row): position for position, row in enumerate(rows)}
    if len(last) < len(rows):
        left_out = len(rows) - len(last)
        text = f"{file}: {left_out} row(s) repeat a run; the last one of each counts; {_remedy(file)}"
        warnings.warn(text, ResultsWarning, stacklevel=3)
    return [rows[position] for position in sorted(last.values())]


def _identity(row: dict[str, Any]) -> tuple[Any, ...]:
    return ("run", row["run_id"]) if row["kind"] == "run" else ("base", row["model"], row["dataset"])


def _sample(value: dict[str, Any]) -> dict[str, Any]:
    return {
        "prompt": _string(value.get("prompt")) or "",
        "text": _string(value.get("text")) or "",
        "reward": _number(value.get("reward")),
    }


def _point(value: dict[str, Any]) -> dict[str, float]:
    return {key: _number(value.get(key)) for key in ("step", "loss", "reward_accuracy", "reward_margin")}


def _number(value: object) -> float:
    """Give a float: NaN for whatever is not a number, infinities as they are (a diverged loss is a fact)."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return math.nan
    try:
        return float(value)
    except (ValueError, OverflowError):
        return math.nan


def _mean(values: list[float]) -> float:
    known = [value for value in values if math.isfinite(value)]
    return math.fsum(value / len(known) for value in known) if known else math.nan


def _string(value: object) -> str | None:
    return None if value is None else str(value)


def _clean(value: object) -> object:
    if isinstance(value, str):
        return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", value)
    if isinstance(value, list):
        return [_clean(item) for item in value]
    if isinstance(value, dict):
        return {str(_clean(key)): _clean(item) for key, item in value.items()}
    return value


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _panels(frame: pd.DataFrame) -> list[tuple[str, str]]:
    return [(model or "?", setting) for model, setting in zip(frame["model"], frame["setting"], strict=True)]


def _settings(frame: pd.DataFrame) -> list[str]:
    """Name, for each row, the axes besides model, loss_type and beta that tell runs apart."""
    runs = frame[frame["kind"] == "run"]
    keys = sorted({key for axes in runs["axes"] for key in axes} - set(_NAMED_AXES))
    keys = [key for key in keys if len({show(axes.get(key)) for axes in runs["axes"]}) > 1]
    dataset_matters = any(len(group) > 1 for group in runs.groupby("model")["dataset"].unique())
    seed_matters = len(runs["seed"].dropna().unique()) > 1
    names = []
    for row in frame.to_dict("records"):
        parts = [str(row["dataset"])] if dataset_matters else []
        parts += [f"{key.split('.')[-1]}={show(row['axes'].get(key))}" for key in keys if row["kind"] == "run"]
        parts += [f"seed={show(row['seed'])}"] if seed_matters and row["kind"] == "run" else []
        names.append(", ".join(parts))
    return names


def show(value: object) -> str:
    """Give a config value as short text: 0.0002 rather than 2.0000e-04, lists and dicts as JSON."""
    if value is None or isinstance(value, str | int):
        return str(value)
    if isinstance(value, float):
        return f"{value:.12g}"
    return json.dumps(value, sort_keys=True, default=str, ensure_ascii=False)
