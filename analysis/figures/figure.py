"""A figure: its words, and its panels laid out on a page.

Owns: what every figure has, and how many panels one may have. Must not know: what is drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import altair as alt
import pandas as pd

from analysis.figures import look, panels
from analysis.figures.look import Record, Specification

_MAX_PANELS = 12

Panel: TypeAlias = alt.Chart | alt.LayerChart


@dataclass(frozen=True)
class Figure:
    """A figure; ``chart`` is a Vega-Lite specification, None where there is nothing to draw: ``caption`` says so.

    ``name`` is the stem of its files; ``description`` tells it to those who cannot see it.
    """

    name: str
    title: str
    caption: str
    description: str = ""
    chart: Specification | None = None


def lay_out(
    name: str,
    title: str,
    caption: str,
    points: list[Record],
    runs: pd.DataFrame,
    *makers: Callable[[str, int], Panel | None],
    columns: int = 2,
) -> Figure:
    """Lay out the panels that ``makers`` draw for each model and setting; without points, say so."""
    if not points:
        return Figure(name, title, f"Nothing to draw yet: none of the {len(runs)} runs has the numbers for it.")
    names = list(dict.fromkeys(each["panel"] for each in points))
    shown = names[: max(1, _MAX_PANELS // len(makers))]
    width = panels.WIDE if len(shown) == 1 else panels.HALF
    drawings = [drawn for each in shown for make in makers if (drawn := make(each, width)) is not None]
    count = len({each["run_id"] for each in points if each["panel"] in shown})
    what = _what(runs)
    caption = f"{count} of {len(runs)} {what} drawn{_left_out(names, shown)}. {caption}"
    values = ", ".join(shown)
    description = (
        f"{title}: {len(drawings)} panels ({values}), {count} {what}. The table of runs holds the same numbers."
    )
    return Figure(name, title, caption, description, look.grid(drawings, columns))


def _what(runs: pd.DataFrame) -> str:
    """Name what a row is: several seeds of a setting, a model at some step of a run, or a run."""
    if "seeds" in runs and (runs["seeds"] > 1).any():
        return "settings"
    return "models" if runs["milestone"].notna().any() else "runs"


def _left_out(names: Sequence[str], shown: Sequence[str]) -> str:
    return f" (the first {len(shown)} of {len(names)} models and settings)" if len(names) > len(shown) else ""
