"""Rows of a frame as records: what a chart draws.

Owns: which row has what a figure needs, and the axes that suit records. Must not know: marks, captions.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from analysis.apart import axis_value, brief, short_names
from analysis.figures import panels
from analysis.figures.axes import Axis, spread_evenly_in_log
from analysis.figures.look import Record
from analysis.intervals import Estimate
from analysis.measures import Measure
from analysis.statistics import bases_of


def points_of(rows: pd.DataFrame, measure: Measure, bases: pd.DataFrame, *needed: str) -> list[Record]:
    """Give a record for each row that has a score and all of ``needed``; ``base`` is its untrained model."""
    found = zip(rows.index, bases_of(rows, bases, measure), strict=True)
    names = {index: None if base is None else str(base.name) for index, base in found}
    return [each | {"base": names[each["index"]]} for each in records_of(rows, measure.estimate, *needed)]


def records_of(rows: pd.DataFrame, column: str, *needed: str) -> list[Record]:
    """Give a record for each row that has a value in ``column`` (Estimates or numbers) and all of ``needed``."""
    keys = ("run_id", "panel", "beta", "kl", "kl_stderr")
    records = [
        {key: row[key] for key in keys} | _limits(row[column]) | {"loss": row["loss_type"] or "?", "index": index}
        for index, row in rows.iterrows()
    ]
    return [each for each in records if all(panels.drawable(each[key]) for key in ("value", *needed))]


def _limits(value: Estimate | float) -> dict[str, float]:
    """Give value, low and high; both limits are the value itself where there is no interval."""
    estimate = value if isinstance(value, Estimate) else Estimate(float(value))
    low, high = (estimate.low, estimate.high) if estimate.known else (estimate.value, estimate.value)
    return {"value": estimate.value, "low": low, "high": high}


def beta_axis(points: list[Record]) -> Axis:
    """Fit an axis to the betas, logarithmic where they lie more evenly on it."""
    betas = [each["beta"] for each in points]
    return Axis.of(betas, log=None if spread_evenly_in_log(betas) else False)


def score_axis(points: list[Record]) -> Axis:
    """Fit an axis to scores and their intervals."""
    return Axis.of([each[key] for each in points for key in ("value", "low", "high")], log=False)


def losses_of(runs: pd.DataFrame) -> list[str]:
    """Name the losses, in order of appearance."""
    return list(dict.fromkeys(loss or "?" for loss in runs["loss_type"]))


def rewards_of(runs: pd.DataFrame) -> list[str]:
    """Name the rewards that accuracy and margin are made of, in order of appearance."""
    return list(dict.fromkeys(runs["reward"]))


def panel_of(row: pd.Series, axes: Sequence[str]) -> str:
    """Name the panel of a row where panels differ in model, dataset and these axes."""
    rest = [f"{name}={brief(place(row, axis))}" for name, axis in zip(short_names(axes), axes, strict=True)]
    return " · ".join(filter(None, [str(row["model"] or "?"), row["dataset"], *rest, row["evaluated"]]))


def place(row: pd.Series, axis: str) -> str:
    """Give a run's place on an axis, as text."""
    if axis == "beta":
        return f"{row['beta']:.6g}"
    return str(row["loss_type"] or "?") if axis == "loss_type" else axis_value(row, axis)


def in_panel(points: list[Record], panel: str) -> list[Record]:
    """Give the records of one panel."""
    return [each for each in points if each["panel"] == panel]
