"""The score as training goes on: where runs have milestones, or differ in their number of steps.

Owns: that figure. Must not know: how a model on the way was kept, how an interval is computed.
"""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import pandas as pd

from analysis.apart import STEP
from analysis.figures import look, panels
from analysis.figures.axes import Axis, spread_evenly_in_log
from analysis.figures.figure import Figure, Panel, lay_out
from analysis.figures.look import Record
from analysis.figures.records import in_panel, losses_of, panel_of, place, points_of, score_axis
from analysis.measures import ACCURACY, judged_by, primary
from analysis.rows import other_axes

_STEPS = (STEP, "trainer.max_steps")
_HEIGHT = 280
_CAPTION = (
    "Thicker and lighter lines are larger betas; bars are 95 % intervals, and the betas of a step stand side by side. "
    "The dashed line is the untrained model, its interval shaded. Points of one line that are milestones come from "
    "one training, so they tell how it went on, and are no repeats of it."
)


def figure(pooled: pd.DataFrame, bases: pd.DataFrame) -> Figure | None:
    """Draw the score against steps, a panel for each loss and further setting; None where steps are no axis."""
    varying = [name for name in other_axes(pooled) if len({place(row, name) for _, row in pooled.iterrows()}) > 1]
    if not set(_STEPS) & set(varying):
        return None
    measure, rest = primary(pooled), [name for name in varying if name not in _STEPS]
    found, base = points_of(pooled, measure, bases, "beta"), points_of(bases, measure, bases)
    places = {index: _place(row, rest) for index, row in pooled.iterrows() if panels.drawable(row["step"])}
    points = [each | places[each["index"]] for each in found if each["index"] in places]
    steps, betas = [each["step"] for each in points], sorted({each["beta"] for each in points})
    axis, score = Axis.of(steps, log=None if spread_evenly_in_log(steps) else False), score_axis(points + base)

    def panel(name: str, loss: str) -> Panel | None:
        own = [each for each in in_panel(points, name) if each["loss"] == loss]
        marks = panels.base_marks(own, base)
        scores = score_axis(own) if own and measure is ACCURACY else score  # of the loss's own reward
        return _panel(own, marks, (axis, scores), betas, measure.label) if own else None

    makers = [lambda name, _, loss=loss: panel(name, loss) for loss in losses_of(pooled)]
    return lay_out(
        "steps", f"{measure.label} against steps", f"{judged_by(pooled, measure)}{_CAPTION}", points, pooled, *makers
    )


def _place(row: pd.Series, rest: Sequence[str]) -> Record:
    return {"step": row["step"], "panel": panel_of(row, rest)}


def _panel(
    points: list[Record], marks: list[alt.Chart], axes: tuple[Axis, Axis], betas: list[float], name: str
) -> alt.LayerChart:
    steps, score = axes
    order = [f"{beta:.6g}" for beta in betas]
    shift = {beta: 0.011 * (index - (len(betas) - 1) / 2) for index, beta in enumerate(betas)}
    moved = [
        each | {"x": steps.move(each["step"], shift[each["beta"]]), "label": f"{each['beta']:.6g}"} for each in points
    ]
    chart = alt.Chart(look.data(moved)).encode(
        x=look.x_axis("x", steps, "step", at_ticks=True), y=look.y_axis("value", score, name)
    )
    channels = look.beta_channels(order)
    colour = {"color": channels["color"], "detail": "label:O"}
    tooltips = [alt.Tooltip("run_id:N", title="run"), alt.Tooltip("label:N", title="beta"), alt.Tooltip("step:Q")]
    tooltips += [alt.Tooltip(f"{key}:Q", title=title, format=".4~g") for key, title in
                 (("value", name), ("low", "95 % low"), ("high", "95 % high"))]  # fmt: skip
    layers = [
        *marks,
        chart.mark_line(strokeOpacity=0.9).encode(**channels),
        chart.mark_rule(strokeWidth=1.5, strokeOpacity=0.7).encode(**colour, y="low:Q", y2="high:Q"),
        chart.mark_point(filled=True, size=60, opacity=1).encode(**colour, tooltip=tooltips),
    ]
    title = look.panel_title(f"{points[0]['loss']} · {points[0]['panel']}", panels.HALF)
    return alt.LayerChart(layer=layers, width=panels.HALF, height=_HEIGHT, title=title)
