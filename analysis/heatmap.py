"""A heat map: one cell for each pair of values of two axes, with the score written in it.

Owns: which two axes are drawn, cells, the colour of a text on a cell. Must not know: figures' captions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import altair as alt
import pandas as pd

from analysis import render
from analysis.labels import Axis
from analysis.records import place
from analysis.render import Record
from analysis.tables import other_axes

_WIDEST, _CELL = 640, (64, 40)  # pixels
_DARK = 0.5  # share of the colour scale below which text is white


@dataclass(frozen=True)
class Pair:
    """The axes of a heat map: ``across`` and ``down``; ``rest`` are those that tell panels apart."""

    across: str
    down: str
    rest: tuple[str, ...]


def axes_of(runs: pd.DataFrame) -> Pair | None:
    """Choose the two axes: beta first, then the sweep's further axes, then loss_type; None where fewer vary."""
    others = [name for name in other_axes(runs) if len({place(row, name) for _, row in runs.iterrows()}) > 1]
    names = [*(["beta"] if len(runs["beta"].unique()) > 1 else []), *others]
    names += ["loss_type"] if len(runs["loss_type"].unique()) > 1 else []
    return Pair(names[0], names[1], tuple(names[2:])) if len(names) > 1 else None


def panel(
    points: Sequence[Record], pair: Pair, orders: tuple[list[str], list[str]], scale: Axis, measure: str, title: str
) -> alt.LayerChart:
    """Draw ``points`` (keys ``across``, ``down``, ``value``, ``low``, ``high``, ``run_id``) as cells."""
    width = min(_WIDEST, max(3, len(orders[0])) * _CELL[0])
    shown = [each | {"text": f"{each['value']:.3g}", "ink": _ink(each, scale)} for each in points]
    sides = {"x": _side("across", pair.across, orders[0]), "y": _side("down", pair.down, orders[1])}
    chart = alt.Chart(render.data(shown)).encode(**sides)
    colour = alt.Color(
        "value:Q",
        scale=alt.Scale(scheme="cividis", domain=[scale.low, scale.high]),
        legend=alt.Legend(title=measure, gradientLength=180, gradientThickness=10, format="~g"),
    )
    tooltips = [alt.Tooltip(f"{side}:N", title=name) for side, name in (("across", pair.across), ("down", pair.down))]
    tooltips += [alt.Tooltip("value:Q", title=measure, format=".4~g")]
    tooltips += [alt.Tooltip(f"{end}:Q", title=f"95 % {end}", format=".4~g") for end in ("low", "high")]
    layers = [
        chart.mark_rect(stroke="white", strokeWidth=2).encode(color=colour, tooltip=tooltips),
        *(_texts(shown, ink, sides) for ink in ("white", "black")),
    ]
    height = max(2, len(orders[1])) * _CELL[1]
    return alt.LayerChart(layer=layers, width=width, height=height, title=render.panel_title(title, width))


def _texts(cells: Sequence[Record], ink: str, sides: dict[str, alt.X | alt.Y]) -> alt.Chart:
    chart = alt.Chart(render.data([each for each in cells if each["ink"] == ink])).encode(text="text:N", **sides)
    texts: alt.Chart = chart.mark_text(fontSize=12, color=ink)
    return texts


def _ink(point: Record, scale: Axis) -> str:
    return "white" if scale.unit(point["value"]) < _DARK else "black"


def _side(field: str, name: str, order: list[str]) -> alt.X | alt.Y:
    kind = alt.X if field == "across" else alt.Y
    short = name.rpartition(".")[2]
    axis = alt.Axis(labelAngle=0, grid=False, ticks=False, domain=False)
    return kind(f"{field}:N", sort=order, title=short, scale=alt.Scale(domain=order), axis=axis)
