"""The look that all charts share, and charts -> JSON, SVG, PNG, PDF.

Owns: scales, axes, legends, fonts and colours; the only user of vl-convert.
Must not know: what a chart shows.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import textwrap
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, Literal

import altair as alt
import vl_convert

from analysis.figures.axes import Axis
from launcher.machine.user_cache import user_cache

Record = dict[str, Any]
Specification = dict[str, Any]  # of Vega-Lite

# Okabe and Ito's colours without yellow, which is too pale for lines on white
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down")
DASHES = ([1, 0], [7, 3], [2, 3], [9, 3, 2, 3], [4, 4], [12, 4])
INK, GREY, GRID = "#24292f", "#59636e", "#e4e8ec"
_FONT = "Inter, 'Helvetica Neue', Helvetica, Arial, 'Liberation Sans', sans-serif"
_MAX_TICKS = 12
_MAX_TITLE = 120  # characters; measuring thousands takes seconds
_TITLE_PIXELS = 7.5  # of a character, about
_ROOM = 36  # for the labels of every y axis, so that panels line up


_CONFIG = {
    "font": _FONT,
    "padding": 8,
    "view": {"stroke": None},
    "axis": {
        "labelFontSize": 12, "titleFontSize": 13, "titleFontWeight": "normal", "labelColor": INK, "titleColor": INK,
        "gridColor": GRID, "domainColor": "#b6bec6", "tickColor": "#b6bec6", "titlePadding": 8,
    },
    "legend": {
        "orient": "top", "direction": "horizontal", "labelFontSize": 13, "titleFontSize": 13,
        "titleFontWeight": "normal", "titleOrient": "left", "symbolSize": 90, "labelColor": INK, "titleColor": GREY,
        "labelLimit": 240, "columns": 8,
    },
    "title": {"color": INK, "fontWeight": 600},
}  # fmt: skip


def data(records: list[Record]) -> alt.InlineData:
    """Give records as inline data; NaN and infinity, which JSON does not have, become null.

    Six significant digits are enough for a picture and halve its size. As one text, since Altair would copy and check
    every value of a list several times, which takes most of a report's time.
    """
    plain = [{key: _plain(value) for key, value in each.items()} for each in records]
    text = json.dumps(plain, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    return alt.InlineData(values=text, format=alt.JsonDataFormat(type="json"))


def _plain(value: object) -> object:
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def x_axis(field: str, axis: Axis, title: str, *, at_ticks: bool = False) -> alt.X:
    """Encode ``field`` on ``axis``; ``at_ticks`` marks the values seen rather than round ones."""
    return alt.X(f"{field}:Q", scale=_scale(axis), title=title, axis=_axis(axis, at_ticks=at_ticks))


def y_axis(field: str, axis: Axis, title: str) -> alt.Y:
    """Encode ``field`` on ``axis``."""
    return alt.Y(f"{field}:Q", scale=_scale(axis), title=title, axis=_axis(axis, room=_ROOM))


def _scale(axis: Axis) -> alt.Scale:
    limits = [axis.low, axis.high]
    if axis.log:
        return alt.Scale(domain=limits, type="log", nice=False)
    return alt.Scale(domain=limits, nice=False, zero=False)


def _axis(axis: Axis, *, at_ticks: bool = False, room: int = 0) -> alt.Axis:
    seen = list(axis.ticks) if at_ticks and len(axis.ticks) <= _MAX_TICKS else []
    return alt.Axis(
        values=seen or axis.round_ticks() or alt.Undefined,
        format="~g" if axis.log or at_ticks else "~r",
        labelOverlap="greedy",
        tickCount=5,
        minExtent=room,
    )


def loss_channels(losses: Sequence[str]) -> dict[str, Any]:
    """Encode a record's ``loss`` by colour and shape, with one legend for both."""
    legend = _loss_legend()
    colours = alt.Scale(domain=list(losses), range=_cycle(PALETTE, losses))
    shapes = alt.Scale(domain=list(losses), range=_cycle(SHAPES, losses))
    return {
        "color": alt.Color("loss:N", scale=colours, legend=legend, sort=list(losses)),
        "shape": alt.Shape("loss:N", scale=shapes, legend=legend, sort=list(losses)),
    }


def loss_dash(losses: Sequence[str]) -> alt.StrokeDash:
    """Encode a record's ``loss`` by the dash of its line.

    Its legend is that of the colour: one that is switched off would be a conflict, of which Vega-Lite warns.
    """
    dashes = alt.Scale(domain=list(losses), range=_cycle(DASHES, losses))
    return alt.StrokeDash("loss:N", scale=dashes, legend=_loss_legend(), sort=list(losses))


def _loss_legend() -> alt.Legend:
    return alt.Legend(title="loss_type", symbolOpacity=1, symbolStrokeWidth=0)


def beta_channels(order: Sequence[str]) -> dict[str, Any]:
    """Encode a record's ``label`` (a beta) by lightness and width, with one legend for both."""
    legend = alt.Legend(title="beta")
    shades = alt.Scale(domain=list(order), scheme=alt.SchemeParams(name="viridis", extent=[0, 0.82]))
    return {
        "color": alt.Color("label:O", scale=shades, legend=legend, sort=list(order)),
        "strokeWidth": alt.StrokeWidth(
            "label:O", scale=alt.Scale(domain=list(order), range=[1, 3.2]), legend=legend, sort=list(order)
        ),
    }


def _cycle(values: Sequence[Any], keys: Sequence[str]) -> list[Any]:
    return [values[index % len(values)] for index in range(len(keys))]


def rule(value: float, label: str = "", side: Literal["left", "right"] = "left") -> list[alt.Chart]:
    """Draw a dashed horizontal line at ``value``, with a label above its end on that side."""
    chart = alt.Chart(data([{"value": value, "label": label}])).encode(y="value:Q")
    text = chart.mark_text(
        align=side, baseline="bottom", dx=4 if side == "left" else -4, dy=-3, fontSize=12, color=GREY
    )
    line = chart.mark_rule(strokeDash=[5, 4], color=GREY, strokeWidth=1.4)
    return [line, text.encode(x=alt.value(0 if side == "left" else "width"), text="label:N")] if label else [line]


def band(low: float, high: float) -> alt.Chart:
    """Shade the panel between two values of y."""
    chart = alt.Chart(data([{"low": low, "high": high}])).mark_rect(color=GREY, opacity=0.1)
    shade: alt.Chart = chart.encode(y="low:Q", y2="high:Q")
    return shade


def panel_title(text: str, width: int) -> alt.TitleParams:
    """Give a panel's title: in lines of ``width`` pixels, a longer word cut with an ellipsis."""
    fitting = max(1, int(width / _TITLE_PIXELS))
    lines = textwrap.wrap(text[:_MAX_TITLE], fitting, break_long_words=False, break_on_hyphens=False)
    shown = lines if len(lines) > 1 else "".join(lines)
    return alt.TitleParams(text=shown, limit=width, anchor="start", frame="group", fontSize=14, offset=8)


def grid(panels: Sequence[alt.Chart | alt.LayerChart], columns: int) -> Specification:
    """Lay panels out in rows of ``columns``, legends above, in the house style; gives the specification.

    Altair's own ``concat`` would copy every panel several times, which takes minutes for hundreds of runs.
    """
    parts = [panel.to_dict(validate=False) for panel in panels]
    same = {"$schema": parts[0]["$schema"], "background": "white", "config": _CONFIG}
    own = [{key: value for key, value in each.items() if key not in {*same, "datasets"}} for each in parts]
    tables = {name: json.loads(text) for each in parts for name, text in each["datasets"].items()}
    return {**same, "concat": own, "columns": columns, "spacing": 28, "datasets": tables}


def to_json(specification: Specification) -> str:
    """Give a chart's Vega-Lite specification as strict JSON that is safe inside a ``<script>`` element."""
    text = json.dumps(specification, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def to_svg(specification: Specification) -> str:
    """Draw a chart as SVG. Nothing is loaded from anywhere."""
    return vl_convert.vegalite_to_svg(specification, allowed_base_urls=[], show_warnings=True)


def svg_to_png(image: str) -> bytes:
    """Draw an SVG as PNG at twice its size in pixels."""
    return vl_convert.svg_to_png(image, scale=2)


def svg_to_pdf(image: str) -> bytes:
    """Draw an SVG as PDF."""
    return vl_convert.svg_to_pdf(image)


@functools.cache
def script() -> str:
    """Give the JavaScript that draws charts in a page (Vega, Vega-Lite, vega-embed: BSD-3-Clause), 0.9 MB.

    Bundling it takes longer than all else of a small report, so it is remembered for each version of vl-convert.
    """
    file = user_cache(os.environ) / "vega" / f"{version('vl-convert-python')}.js"
    with contextlib.suppress(OSError, ValueError):
        return file.read_text(encoding="utf-8")
    bundle = _bundle()
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        aside = file.with_suffix(f".{os.getpid()}")
        aside.write_text(bundle, encoding="utf-8")
        aside.replace(file)
    return bundle


def _bundle() -> str:
    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return bundle.replace("\r\n", "\n").replace("</script", "<\\/script").replace("<!--", "<\\!--")
