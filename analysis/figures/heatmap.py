"""A heat map: one cell for each pair of values of two axes, with the score written in it.

Owns: which two axes are drawn, cells, the colour of a text on a cell. Must not know: other figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import altair as alt
import pandas as pd

from analysis.figures import look
from analysis.figures.axes import Axis
from analysis.figures.figure import Figure, Panel, lay_out
from analysis.figures.look import Record
from analysis.figures.records import in_panel, panel_of, place, records_of, rewards_of
from analysis.measures import ACCURACY, judged_by, primary
from analysis.rows import other_axes

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
    chart = alt.Chart(look.data(shown)).encode(**sides)
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
    return alt.LayerChart(layer=layers, width=width, height=height, title=look.panel_title(title, width))


def _texts(cells: Sequence[Record], ink: str, sides: dict[str, alt.X | alt.Y]) -> alt.Chart:
    chart = alt.Chart(look.data([each for each in cells if each["ink"] == ink])).encode(text="text:N", **sides)
    texts: alt.Chart = chart.mark_text(fontSize=12, color=ink)
    return texts


def _ink(point: Record, scale: Axis) -> str:
    return "white" if scale.unit(point["value"]) < _DARK else "black"


def _side(field: str, name: str, order: list[str]) -> alt.X | alt.Y:
    kind = alt.X if field == "across" else alt.Y
    short = name.rpartition(".")[2]
    axis = alt.Axis(labelAngle=0, grid=False, ticks=False, domain=False)
    return kind(f"{field}:N", sort=order, title=short, scale=alt.Scale(domain=order), axis=axis)


_WIDE = 6  # cells across, from which on panels stand below each other


_MAX_CELLS = 2500  # of all heat maps together


def figure(pooled: pd.DataFrame) -> Figure | None:
    """Draw the score over two axes, a panel for each place on the others; None where fewer than two vary.

    Nor is there one of accuracies of several rewards, which do not compare.
    """
    measure, pair = primary(pooled), axes_of(pooled)
    points = records_of(pooled, measure.estimate)
    several = measure is ACCURACY and len(rewards_of(pooled)) > 1  # which one colour scale would compare
    if pair is None or not points or several:
        return None
    rows = {row["run_id"]: row for _, row in pooled.iterrows()}
    cells = [each | _cell(rows[each["run_id"]], pair) for each in points[:_MAX_CELLS]]
    scale = Axis.of([each["value"] for each in cells], log=False)
    orders = [_order([each[side] for each in cells]) for side in ("across", "down")]

    def drawn(name: str, _: int) -> Panel:
        return panel(in_panel(cells, name), pair, (orders[0], orders[1]), scale, measure.label, name)

    names = [each.split(".")[-1] for each in (pair.across, pair.down)]
    caption = (
        f"In each cell: {measure.name}; lighter is higher. {judged_by(pooled, measure)}An empty cell has no score yet."
    )
    title = f"{measure.label} over {names[0]} and {names[1]}"
    columns = 1 if len(orders[0]) > _WIDE else 2
    return lay_out("heatmap", title, caption, cells, pooled, drawn, columns=columns)


def _cell(row: pd.Series, pair: Pair) -> Record:
    return {"across": place(row, pair.across), "down": place(row, pair.down), "panel": panel_of(row, pair.rest)}


def _order(values: list[str]) -> list[str]:
    """Order places on an axis: numbers by size, words as they come."""
    seen = list(dict.fromkeys(values))
    try:
        return sorted(seen, key=float)
    except ValueError:
        return seen
