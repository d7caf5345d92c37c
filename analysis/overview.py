"""Two figures of a whole sweep at one glance: MT-Bench by category, and the score over two axes.

Owns: which settings they show, and what a reader is told. Must not know: files, HTML, how an interval is computed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from analysis import heatmap, panels, polar
from analysis.best import Best
from analysis.figure import Figure, Panel, lay_out
from analysis.labels import Axis
from analysis.measures import MT_BENCH, categories, primary
from analysis.records import in_panel, losses_of, panel_of, place, records_of
from analysis.render import Record
from analysis.statistics import base_of

_WIDE = 6  # cells across, from which on panels stand below each other
_MAX_CELLS = 2500  # of all heat maps together


def radar(best: list[Best], bases: pd.DataFrame) -> Figure | None:
    """Draw the MT-Bench categories of each loss's best setting; None where none was judged."""
    rows = pd.DataFrame([each.row for each in best if each.measure is MT_BENCH])
    if not len(rows) or not (spokes := categories(rows)):
        return None
    points = [point for _, row in rows.iterrows() for point in _spokes(row, spokes, row["loss_type"] or "?")]
    base = [
        point
        for _, row in rows.drop_duplicates(["model", "dataset"]).iterrows()
        for point in _spokes(base_of(row, bases, MT_BENCH), spokes, "untrained", _model(row))
    ]
    values = [each["value"] for each in points + base]
    scale = Axis(math.floor(min(values)), math.ceil(max(values)) + (max(values) == min(values)), log=False, ticks=())

    def panel(name: str, _: int) -> Panel:
        return polar.radar(in_panel(points + base, name), spokes, scale, losses_of(rows), name)

    caption = (
        "Mean MT-Bench score of each category, for each loss's best setting; grey and dashed is the untrained model. "
        "A category has ten questions: most differences within a spoke are noise, so read the shape, not a spoke. "
        f"The rings run from {scale.low:g} to {scale.high:g}, not from 0."
    )
    return lay_out("radar", "MT-Bench by category", caption, points, rows, panel)


def _model(row: pd.Series) -> str:
    return " · ".join(str(part) for part in (row["model"], row["dataset"]) if part)


def _spokes(row: pd.Series | None, spokes: Sequence[str], loss: str, panel: str = "") -> list[Record]:
    if row is None:
        return []
    same = {"run_id": row["run_id"], "panel": panel or _model(row), "beta": row["beta"], "loss": loss}
    points = [same | {"category": each, "value": row[f"mt_bench_{each}"]} for each in spokes]
    return [each for each in points if panels.drawable(each["value"])]


def heat_map(pooled: pd.DataFrame) -> Figure | None:
    """Draw the score over two axes, a panel for each place on the others; None where fewer than two vary."""
    measure, pair = primary(pooled), heatmap.axes_of(pooled)
    points = records_of(pooled, measure.estimate)
    if pair is None or not points:
        return None
    rows = {row["run_id"]: row for _, row in pooled.iterrows()}
    cells = [each | _cell(rows[each["run_id"]], pair) for each in points[:_MAX_CELLS]]
    scale = Axis.of([each["value"] for each in cells], log=False)
    orders = [_order([each[side] for each in cells]) for side in ("across", "down")]

    def panel(name: str, _: int) -> Panel:
        return heatmap.panel(in_panel(cells, name), pair, (orders[0], orders[1]), scale, measure.label, name)

    names = [each.split(".")[-1] for each in (pair.across, pair.down)]
    caption = f"In each cell: {measure.name}; lighter is higher. An empty cell has no score yet."
    title = f"{measure.label} over {names[0]} and {names[1]}"
    columns = 1 if len(orders[0]) > _WIDE else 2
    return lay_out("heatmap", title, caption, cells, pooled, panel, columns=columns)


def _cell(row: pd.Series, pair: heatmap.Pair) -> Record:
    return {"across": place(row, pair.across), "down": place(row, pair.down), "panel": panel_of(row, pair.rest)}


def _order(values: list[str]) -> list[str]:
    """Order places on an axis: numbers by size, words as they come."""
    seen = list(dict.fromkeys(values))
    try:
        return sorted(seen, key=float)
    except ValueError:
        return seen
