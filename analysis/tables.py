"""Tables for people (Markdown, LaTeX) and for programs (CSV, Parquet).

Owns: which columns a table has, and what a file format needs escaped.
Must not know: HTML, figures, how an interval is computed.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from tabulate import tabulate

from analysis.apart import STEP, axis_value
from analysis.measures import categories, present
from analysis.rows import _NAMED, other_axes, other_scores

_STATE = (
    *("status", "reason", "step", "max_steps", "seconds", "gpus", "gpu_hours", "tokens", "computed_tokens", "padding"),
    *("tokens_per_second", "peak_memory_bytes", "mfu", "attempts", "job_id", "address"),
)
_SCORES = (
    *("training_loss", "heldout_loss", "reward_accuracy", "reward_margin", "reward", "kl", "kl_stderr"),
    *("golden_reward", "golden_reward_stderr", "pairs", "generations", "mt_bench", "mt_bench_se"),
)
_LISTS = ("golden_rewards", "hosts")  # of plain values, which Parquet has
_WHOLE = (
    *("seed", "step", "max_steps", "attempts", "pairs", "generations", "gpus"),
    *("tokens", "computed_tokens", "peak_memory_bytes"),
)
_FORMULA = re.compile(r"^\s*[=+\-@]")
_MARKUP = re.compile(r"[\\|`*\[\]]")


def runs_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Give one flat row per row of a ``with_estimates`` frame, in its order: base models and runs.

    Numbers are as in ``results.jsonl`` (NaN where missing). To them come a column for each further axis (text), for
    each MT-Bench category and each of ``other_scores`` that some row has, and for each measure X of text
    ``X_low/high`` and ``X_difference``, ``X_difference_low/high``: 95 % intervals of the score and of its difference
    to the base.
    """
    table = frame[[*_NAMED, *_STATE, *_SCORES, *(f"mt_bench_{each}" for each in categories(frame))]].copy()
    table = table.assign(**{each: frame[each] for each in _judged_columns(frame)})
    scores = {name: [each.get(name, math.nan) for each in frame["other_scores"]] for name in other_scores(frame)}
    for position, axis in enumerate(name for name in other_axes(frame) if name != STEP):  # it is a column already
        name = axis if axis not in {*table.columns, *scores} else f"axis {axis}"
        values = [axis_value(row, axis) if _has(row, axis) else None for row in frame.to_dict("records")]
        table.insert(len(_NAMED) + position, name, pd.Series(values, index=table.index, dtype=object))
    added = {name if name not in table.columns else f"score {name}": values for name, values in scores.items()}
    for measure in present(frame):
        for column, parts in ((measure.estimate, ("low", "high")), (measure.difference, ("value", "low", "high"))):
            stem = measure.column if column == measure.estimate else measure.difference
            for part in parts:
                name = stem if part == "value" else f"{stem}_{part}"
                name = name if name not in table.columns else f"interval {name}"
                added[name] = [getattr(estimate, part) for estimate in frame[column]]
    return pd.concat([table, pd.DataFrame(added, index=table.index, dtype=float)], axis="columns")


def _judged_columns(frame: pd.DataFrame) -> list[str]:
    """Name the scores and errors of each judge, where there are several."""
    judges = [each for each in present(frame) if each.unit == "question" and each.by]
    return [name for each in judges for name in (each.column, each.stderr)]


def _has(row: Mapping[Hashable, Any], axis: str) -> bool:
    return axis in row["axes"] or (row["kind"] == "run" and bool(row["objective"]))


def to_csv(table: pd.DataFrame) -> str:
    """Write a table as CSV; numbers in full, missing ones empty.

    A text that a spreadsheet would run as a formula gets a leading apostrophe.
    """
    cells = {
        name: pd.Series([_whole(each) if name in _WHOLE else _harmless(each) for each in table[name]], dtype=object)
        for name in table
    }
    named = pd.DataFrame(cells).rename(columns=lambda name: str(_harmless(name)))
    return str(named.to_csv(index=False, lineterminator="\n"))


def to_markdown(table: pd.DataFrame) -> str:
    """Write a table as Markdown: four significant digits, columns without any value left out."""
    filled = table.dropna(axis="columns", how="all")
    text = tabulate(
        filled.astype(object).map(_markdown_cell).to_numpy().tolist(),
        headers=[_escape(name) for name in filled.columns],
        tablefmt="pipe",
        disable_numparse=True,
        colalign=["right" if filled[name].dtype.kind == "f" else "left" for name in filled],
    )
    return str(text + "\n")


def to_latex(table: pd.DataFrame, caption: str) -> str:
    """Write a table for LaTeX with the packages booktabs and longtable; names and texts are escaped.

    Four significant digits, columns without any value left out.
    """
    filled = table.dropna(axis="columns", how="all")
    numeric = [name for name in filled if filled[name].dtype.kind == "f"]
    style = filled.style.hide(axis="index").format(_one_line, escape="latex", na_rep="")
    style = style.format(_latex_number, subset=numeric).format_index(_one_line, escape="latex", axis="columns")
    columns = "".join("r" if name in numeric else "l" for name in filled)
    text = style.to_latex(environment="longtable", hrules=True, column_format=columns, caption=caption)
    return f"% \\usepackage{{booktabs,longtable}}; LuaLaTeX or XeLaTeX where names are not ASCII\n{text}"


def to_parquet(frame: pd.DataFrame, path: Path) -> None:
    """Write a frame of ``load`` as Parquet; mappings, and lists of mappings, as JSON text."""
    plain = frame.copy()
    for name in (name for name in plain if name not in _LISTS and _is_nested(plain[name])):
        plain[name] = [json.dumps(each, ensure_ascii=False, default=str) for each in frame[name]]
    plain.to_parquet(path, engine="pyarrow", index=False)


def _is_nested(column: pd.Series) -> bool:
    return bool(len(column)) and all(isinstance(cell, dict | list) for cell in column)


def short_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Give the columns of ``runs_table`` that a paper's table needs."""
    table = runs_table(frame)
    scores = [measure.column for measure in present(frame)]
    errors = [f"{name}_{end}" for name in scores for end in ("low", "high")]
    names = [
        "model",
        "loss_type",
        "beta",
        *other_axes(frame),
        "seed",
        "status",
        *scores,
        *errors,
        "kl",
        "reward_accuracy",
    ]
    return table[[name for name in names if name in table.columns]]


def _whole(value: float) -> object:
    return int(value) if math.isfinite(value) and value == int(value) else value


def _harmless(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value


def _markdown_cell(value: object) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.4g}"
    return "" if value is None or value is pd.NA else _escape(str(value))


def _escape(text: str) -> str:
    """Make a text harmless in a Markdown table: no markup, no HTML, one line."""
    text = _MARKUP.sub(lambda match: "\\" + match[0], text)
    return " ".join(text.replace("&", "&amp;").replace("<", "&lt;").split())


def _one_line(value: object) -> str:
    return "" if value is None else " ".join(str(value).split())


def _latex_number(value: object) -> str:
    """Write a number for LaTeX, with a true minus sign."""
    if not isinstance(value, float) or math.isnan(value):
        return ""
    text = f"{value:.4g}"
    return f"${text}$" if text.startswith("-") else text
