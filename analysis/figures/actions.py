"""A policy over a handful of actions: how likely each is, for every loss and beta.

Owns: that figure; it is drawn where runs of a tabular policy have recorded ``actions``.
Must not know: what the actions stand for, which of them is preferred.
"""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

from analysis.figures import look, panels
from analysis.figures.axes import Axis
from analysis.figures.figure import Figure, Panel, lay_out
from analysis.figures.look import Record
from analysis.figures.records import beta_axis, in_panel, losses_of

_HEIGHT = 280
_CAPTION = "Of a policy that is a table: these are its exact probabilities, not counts of samples."


def figure(pooled: pd.DataFrame) -> Figure | None:
    """Draw the probability of each action against beta, a panel for each model, setting and loss; None without any."""
    points = [point for _, row in pooled.iterrows() for point in _points(row)]
    if not points:
        return None
    axis, actions = beta_axis(points), sorted({each["action"] for each in points})

    def panel(name: str, loss: str) -> Panel | None:
        own = [each for each in in_panel(points, name) if each["loss"] == loss]
        return _panel(own, axis, actions) if own else None

    makers = [lambda name, _, loss=loss: panel(name, loss) for loss in losses_of(pooled)]
    return lay_out("actions", "Probability of each action against beta", _CAPTION, points, pooled, *makers)


def _points(row: pd.Series) -> list[Record]:
    same = {key: row[key] for key in ("run_id", "panel", "beta")} | {"loss": row["loss_type"] or "?"}
    points = [same | {"action": action, "value": probability} for action, probability in row["actions"].items()]
    return [each for each in points if all(panels.drawable(each[key]) for key in ("value", "beta"))]


def _panel(points: list[Record], beta: Axis, actions: list[str]) -> alt.LayerChart:
    base = alt.Chart(look.data(points)).encode(
        x=look.x_axis("beta", beta, "beta", at_ticks=True),
        y=alt.Y("value:Q", title="Probability", scale=alt.Scale(domain=[0, 1])),
        **_channels(actions),
        tooltip=["run_id:N", "action:N", "beta:Q", alt.Tooltip("value:Q", format=".4~g")],
    )
    title = look.panel_title(f"{points[0]['loss']} · {points[0]['panel']}", panels.HALF)
    layers = [base.mark_line(strokeWidth=1.8, opacity=0.8), base.mark_point(filled=True, size=75, opacity=1)]
    return alt.LayerChart(layer=layers, width=panels.HALF, height=_HEIGHT, title=title)


def _channels(actions: list[str]) -> dict[str, Any]:
    """Tell actions apart by colour and shape, with one legend for both."""
    legend = alt.Legend(title="action", symbolOpacity=1, symbolStrokeWidth=0)
    colours = [look.PALETTE[index % len(look.PALETTE)] for index in range(len(actions))]
    shapes = [look.SHAPES[index % len(look.SHAPES)] for index in range(len(actions))]
    return {
        "color": alt.Color("action:N", scale=alt.Scale(domain=actions, range=colours), legend=legend),
        "shape": alt.Shape("action:N", scale=alt.Scale(domain=actions, range=shapes), legend=legend),
    }
