"""A radar: one spoke for each category, a closed line for each loss.

Owns: which scores are drawn, the arithmetic of spokes and rings. Must not know: other figures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import altair as alt
import pandas as pd

from analysis.best import Best
from analysis.figures import look, panels
from analysis.figures.axes import Axis
from analysis.figures.figure import Figure, Panel, lay_out
from analysis.figures.look import Record
from analysis.figures.records import in_panel, losses_of
from analysis.measures import MT_BENCH, categories
from analysis.statistics import base_of

_SIDE = 350  # pixels
_EDGE = 1.42  # half of the plane's side, where the rings end at 1: room for the spokes' labels
_INNER = 0.12  # radius of the lowest value, so that the centre stays open
_RINGS = 4


def panel(
    points: Sequence[Record], spokes: Sequence[str], scale: Axis, losses: list[str], title: str
) -> alt.LayerChart:
    """Draw ``points`` (keys ``loss``, ``category``, ``value``, ``beta``) as one closed line for each loss.

    The loss "untrained" is grey and dashed. ``scale`` is that of every spoke.
    """
    placed = [each | _place(each, spokes, scale) for each in points]
    lines = [
        each | {"order": order}
        for loss in dict.fromkeys(each["loss"] for each in placed)
        for order, each in enumerate(_closed([one for one in placed if one["loss"] == loss], spokes))
    ]
    own, base = (
        ([each for each in group if each["loss"] != "untrained"] for group in (lines, placed)),
        [each for each in lines if each["loss"] == "untrained"],
    )
    outline, dots = own
    channels = look.loss_channels(losses)
    path = alt.Chart(look.data(outline)).encode(x=_flat("x"), y=_flat("y"), order="order:O", detail="loss:N")
    layers = [
        *_grid(spokes, scale),
        alt.Chart(look.data(base))
        .mark_line(strokeDash=[5, 4], color=look.GREY, strokeWidth=1.6)
        .encode(x=_flat("x"), y=_flat("y"), order="order:O"),
        path.mark_line(strokeWidth=2, strokeOpacity=0.85).encode(
            color=channels["color"], strokeDash=look.loss_dash(losses)
        ),
        alt.Chart(look.data(dots))
        .mark_point(filled=True, size=55, opacity=1)
        .encode(x=_flat("x"), y=_flat("y"), tooltip=_tooltips(), **channels),
    ]
    return alt.LayerChart(layer=layers, width=_SIDE, height=_SIDE, title=look.panel_title(title, _SIDE))


def _place(point: Record, spokes: Sequence[str], scale: Axis) -> Record:
    turn = 2 * math.pi * spokes.index(point["category"]) / len(spokes)
    radius = _radius(point["value"], scale)
    return {"x": radius * math.sin(turn), "y": radius * math.cos(turn)}


def _radius(value: float, scale: Axis) -> float:
    return _INNER + (1 - _INNER) * scale.unit(value)


def _closed(points: list[Record], spokes: Sequence[str]) -> list[Record]:
    """Give a loss's points in the spokes' order and the first again; open where a spoke has none."""
    ordered = sorted(points, key=lambda each: spokes.index(each["category"]))
    return [*ordered, *ordered[:1]] if len(ordered) == len(spokes) else ordered


def _grid(spokes: Sequence[str], scale: Axis) -> list[alt.Chart]:
    turns = [2 * math.pi * index / len(spokes) for index in range(len(spokes))]
    values = [scale.low + (scale.high - scale.low) * ring / _RINGS for ring in range(_RINGS + 1)]
    rings = [
        {"ring": f"{value:.3g}", "order": order, "x": _radius(value, scale) * math.sin(turn),
         "y": _radius(value, scale) * math.cos(turn)}
        for value in values for order, turn in enumerate([*turns, turns[0]])
    ]  # fmt: skip
    ends = [{"x": 0.0, "y": 0.0, "x2": math.sin(turn), "y2": math.cos(turn)} for turn in turns]
    names = [
        {"x": 1.24 * math.sin(turn), "y": 1.14 * math.cos(turn), "text": name}
        for turn, name in zip(turns, spokes, strict=True)
    ]
    marks = [{"x": 0.02, "y": _radius(value, scale), "text": f"{value:.3g}"} for value in values[:-1]]
    at = {"x": _flat("x"), "y": _flat("y")}
    texts = [alt.Chart(look.data(each)).encode(text="text:N", **at) for each in (names, marks)]
    return [
        alt.Chart(look.data(rings)).mark_line(color=look.GRID, strokeWidth=1).encode(
            detail="ring:N", order="order:O", **at
        ),
        alt.Chart(look.data(ends)).mark_rule(color=look.GRID).encode(x2="x2:Q", y2="y2:Q", **at),
        texts[0].mark_text(fontSize=12, color=look.INK),
        texts[1].mark_text(fontSize=10, color=look.GREY, align="left", dy=-5),
    ]  # fmt: skip


def _flat(field: str) -> alt.X | alt.Y:
    kind = alt.X if field == "x" else alt.Y
    scale = alt.Scale(domain=[-_EDGE, _EDGE], nice=False, zero=False)
    return kind(f"{field}:Q", scale=scale, axis=None)


def _tooltips() -> list[alt.Tooltip]:
    names = [alt.Tooltip("loss:N", title="loss_type"), alt.Tooltip("beta:Q", format=".4~g"), alt.Tooltip("category:N")]
    return [*names, alt.Tooltip("value:Q", title="MT-Bench", format=".3~g")]


def figure(best: list[Best], bases: pd.DataFrame) -> Figure | None:
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

    def drawn(name: str, _: int) -> Panel:
        return panel(in_panel(points + base, name), spokes, scale, losses_of(rows), name)

    caption = (
        "Mean MT-Bench score of each category, for each loss's best setting; grey and dashed is the untrained model. "
        "A category has ten questions: most differences within a spoke are noise, so read the shape, not a spoke. "
        f"The rings run from {scale.low:g} to {scale.high:g}, not from 0."
    )
    return lay_out("radar", "MT-Bench by category", caption, points, rows, drawn)


def _model(row: pd.Series) -> str:
    return " · ".join(str(part) for part in (row["model"], row["dataset"]) if part)


def _spokes(row: pd.Series | None, spokes: Sequence[str], loss: str, panel: str = "") -> list[Record]:
    if row is None:
        return []
    same = {"run_id": row["run_id"], "panel": panel or _model(row), "beta": row["beta"], "loss": loss}
    points = [same | {"category": each, "value": row[f"mt_bench_{each}"]} for each in spokes]
    return [each for each in points if panels.drawable(each["value"])]
