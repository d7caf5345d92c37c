"""One panel of a figure each: marks on a pair of axes.

Owns: which marks show a record, and in which order they lie on each other.
Must not know: frames, captions; it is given records with the keys ``run_id``, ``panel``, ``loss``,
``beta``, ``base`` and ``value``, ``low``, ``high``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import altair as alt

from analysis.figures import look
from analysis.figures.axes import Axis, place
from analysis.figures.look import Record
from analysis.measures import Measure
from analysis.statistics import pareto

THIRD, HALF, WIDE = 262, 400, 640  # widths in pixels
_HEIGHT = 280
_HUGE = 1e300  # above this, the length of an axis is no longer a float
_FEW = 18  # points of a panel that can all be labelled


def against_beta(
    points: list[Record],
    beta: Axis,
    y: tuple[Axis, str],
    losses: list[str],
    marks: Sequence[alt.Chart],
    width: int,
    title: str,
    repeats: Sequence[Record] = (),
    curves: Sequence[Record] = (),
    crosses: Sequence[Record] = (),
) -> alt.LayerChart:
    """Draw one panel: above ``marks``, each loss's points with intervals, and its curve with its band behind them.

    A loss without a curve has a line through its points; ``repeats`` are single seeds, ``crosses`` destroyed settings.
    """
    shift = {loss: 0.011 * (index - (len(losses) - 1) / 2) for index, loss in enumerate(losses)}
    moved = [each | {"x": beta.move(each["beta"], shift[each["loss"]])} for each in points]
    x, score = look.x_axis("x", beta, "beta", at_ticks=True), look.y_axis("value", *y)
    channels = look.loss_channels(losses)
    colour = {"color": channels["color"]}
    seeds = [each | {"x": beta.move(each["beta"], shift[each["loss"]] + 0.006)} for each in repeats]
    curved = {each["loss"] for each in curves}
    joined = [each for each in moved if each["loss"] not in curved]
    chart = alt.Chart(look.data(moved)).encode(x=x, y=score)
    layers = [
        *marks,
        *_bands(curves, x, y, losses),
        *_seeds(seeds, y[1], colour),
        *_lines(joined, x, score, losses),
        chart.mark_rule(strokeWidth=1.5, strokeOpacity=0.7).encode(**colour, y="low:Q", y2="high:Q"),
        chart.mark_point(filled=True, size=75, opacity=1).encode(**channels, tooltip=_tooltips(y[1])),
        *_crosses([each | {"x": beta.move(each["beta"], shift[each["loss"]])} for each in crosses], y, x, colour),
    ]
    return alt.LayerChart(layer=layers, width=width, height=_HEIGHT, title=look.panel_title(title, width))


def _lines(records: list[Record], x: alt.X, score: alt.Y, losses: list[str]) -> list[alt.Chart]:
    if not records:
        return []
    line = alt.Chart(look.data(records)).mark_line(strokeWidth=1.8, strokeOpacity=0.8)
    colour = look.loss_channels(losses)["color"]
    return [line.encode(x=x, y=score, color=colour, strokeDash=look.loss_dash(losses))]


def _bands(records: Sequence[Record], x: alt.X, y: tuple[Axis, str], losses: list[str]) -> list[alt.Chart]:
    """Draw curves, and the bands about them."""
    if not records:
        return []
    colour, dash = look.loss_channels(losses)["color"], look.loss_dash(losses)
    chart = alt.Chart(look.data(list(records))).encode(x=x, color=colour)
    return [
        chart.mark_area(opacity=0.13).encode(y=look.y_axis("low", *y), y2="high:Q"),
        chart.mark_line(strokeWidth=1.8, strokeOpacity=0.8).encode(y=look.y_axis("value", *y), strokeDash=dash),
    ]


def _crosses(records: list[Record], y: tuple[Axis, str], x: alt.X, colour: dict[str, alt.Color]) -> list[alt.Chart]:
    """Mark destroyed settings by crosses at the lower edge, with their scores: on the axis they would flatten all."""
    if not records:
        return []
    height = 0.04 * (y[0].high - y[0].low)
    placed = [each | {"y": y[0].low + height, "text": f"{each['value']:.3g}"} for each in records]
    chart = alt.Chart(look.data(placed)).encode(x=x, y="y:Q", **colour)
    tooltips = _tooltips(f"{y[1]}, destroyed")
    return [
        chart.mark_point(shape="cross", angle=45, filled=True, size=95, opacity=1).encode(tooltip=tooltips),
        chart.mark_text(dy=-13, fontSize=11).encode(text="text:N"),
    ]


def _seeds(records: Sequence[Record], name: str, colour: dict[str, alt.Color]) -> list[alt.Chart]:
    """Mark single runs by short dashes beside the mean over their seeds."""
    if not records:
        return []
    chart = alt.Chart(look.data(list(records))).mark_tick(orient="horizontal", thickness=1.6, width=7, opacity=0.75)
    tooltips = [alt.Tooltip("run_id:N", title="run"), alt.Tooltip("value:Q", title=name, format=".4~g")]
    return [chart.encode(x="x:Q", y="value:Q", tooltip=tooltips, **colour)]


def frontier(
    points: list[Record],
    marks: Sequence[alt.Chart],
    axes: tuple[Axis, Axis],
    losses: list[str],
    width: int,
    measure: Measure,
) -> alt.LayerChart:
    """Draw a score against KL above ``marks``: labelled points, and steps along those not beaten."""
    (kl, reward), name = axes, measure.label
    height = _HEIGHT + 60
    chart = alt.Chart(look.data([each | _kl_limits(each, kl) for each in points])).encode(
        x=look.x_axis("kl", kl, "KL to the reference model (nats per generation)"),
        y=look.y_axis("value", reward, name),
    )
    channels = look.loss_channels(losses)
    bar = chart.mark_rule(strokeWidth=1.2, strokeOpacity=0.35).encode(color=channels["color"])
    best = pareto([each["kl"] for each in points], [measure.sign * each["value"] for each in points])
    steps = alt.Chart(look.data([each for each, keep in zip(points, best, strict=True) if keep]))
    texts = _beta_labels(_labelled(points, best), points, axes, (width, height))
    labels = alt.Chart(look.data(texts)).encode(x="x:Q", y="y:Q", text="text:N")
    layers = [
        *marks,
        steps.mark_line(interpolate="step-after", color="#b6bec6", strokeWidth=2).encode(x="kl:Q", y="value:Q"),
        bar.encode(y="low:Q", y2="high:Q"),
        bar.encode(x="left:Q", x2="right:Q"),
        chart.mark_point(filled=True, size=85, opacity=1).encode(**channels, tooltip=_tooltips(name, "kl")),
        labels.mark_text(fontSize=12, stroke="white", strokeWidth=4, opacity=0.85),
        labels.mark_text(fontSize=12, color=look.INK),
    ]
    title = look.panel_title(points[0]["panel"], width)
    return alt.LayerChart(layer=layers, width=width, height=height, title=title)


def _labelled(points: list[Record], best: Sequence[bool]) -> list[Record]:
    """Give the points that get a label: all if they are few, else those in ``best`` and each loss's ends."""
    if len(points) <= _FEW:
        return points
    losses = {each["loss"]: [one["beta"] for one in points if one["loss"] == each["loss"]] for each in points}
    ends = {(loss, end(betas)) for loss, betas in losses.items() for end in (min, max)}
    return [each for each, keep in zip(points, best, strict=True) if keep or (each["loss"], each["beta"]) in ends]


def _beta_labels(
    points: list[Record], every: list[Record], axes: tuple[Axis, Axis], size: tuple[int, int]
) -> list[Record]:
    x, y = axes
    at, marks = ([(x.unit(each["kl"]), y.unit(each["value"])) for each in group] for group in (points, every))
    places = place(at, marks, size)
    return [
        {"x": x.value(right), "y": y.value(up), "text": f"{each['beta']:.6g}"}
        for each, (right, up) in zip(points, places, strict=True)
    ]


def _kl_limits(point: Record, axis: Axis) -> Record:
    half = 1.96 * point["kl_stderr"] if drawable(point["kl_stderr"]) else 0.0
    return {"left": max(point["kl"] - half, axis.low), "right": min(point["kl"] + half, axis.high)}


def curves(points: list[Record], name: str, betas: list[float], *, log: bool | None) -> alt.Chart:
    """Draw a line by ``step`` per run, thicker and lighter for a larger beta; ``log`` None: where it suits."""
    keys = ("run_id", "step", "value")
    records = [{key: each[key] for key in keys} | {"label": f"{each['beta']:.6g}"} for each in points]
    order = [f"{beta:.6g}" for beta in betas]
    chart = alt.Chart(look.data(records)).mark_line(strokeOpacity=0.9)
    axis = Axis.of([each["value"] for each in points], log=log)
    title = look.panel_title(f"{points[0]['loss']} · {points[0]['panel']}", THIRD)
    drawn: alt.Chart = chart.encode(
        x=alt.X("step:Q", title="step", axis=alt.Axis(tickMinStep=1, tickCount=5, format="~s")),
        y=look.y_axis("value", axis, name),
        detail="run_id:N",
        tooltip=[
            alt.Tooltip("run_id:N", title="run"),
            alt.Tooltip("label:N", title="beta"),
            alt.Tooltip("step:Q"),
            alt.Tooltip("value:Q", title=name, format=".4~g"),
        ],
        **look.beta_channels(order),
    ).properties(width=THIRD, height=180, title=title)
    return drawn


def _tooltips(name: str, *more: str) -> list[alt.Tooltip]:
    value = alt.Tooltip("value:Q", title=name, format=".4~g")
    limits = [alt.Tooltip(f"{key}:Q", title=f"95 % {key}", format=".4~g") for key in ("low", "high")]
    others = [alt.Tooltip(f"{key}:Q", format=".4~g") for key in ("beta", *more)]
    names = [alt.Tooltip("loss:N", title="loss_type"), alt.Tooltip("run_id:N", title="run")]
    return [*names, *others, value, *limits]


def base_marks(points: list[Record], bases: list[Record], side: Literal["left", "right"] = "left") -> list[alt.Chart]:
    """Draw the untrained models of a panel's runs: the interval as a band, the mean as a dashed line."""
    wanted = {point["base"] for point in points}
    own = [base for base in bases if str(base["index"]) in wanted]
    bands = [look.band(base["low"], base["high"]) for base in own if base["high"] > base["low"]]
    return bands + [mark for base in own for mark in look.rule(base["value"], "untrained", side)]


def drawable(value: float) -> bool:
    """Tell whether a value has a place on an axis: it is a number, and not an absurd one."""
    return abs(value) < _HUGE
