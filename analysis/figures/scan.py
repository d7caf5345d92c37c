"""The figure `scan`: the score over beta.

Owns: its layers. Must not know: other figures.
"""

from __future__ import annotations

import pandas as pd

from analysis.figures import panels
from analysis.figures.figure import Figure, Panel, lay_out
from analysis.figures.records import beta_axis, in_panel, losses_of, points_of, score_axis
from analysis.measures import Measure


def figure(runs: pd.DataFrame, pooled: pd.DataFrame, bases: pd.DataFrame, measure: Measure) -> Figure:
    """Draw one measure over beta, a panel for each model and setting."""
    points, base = points_of(pooled, measure, bases, "beta"), points_of(bases, measure, bases)
    repeats = points_of(runs, measure, bases, "beta") if (pooled["seeds"] > 1).any() else []
    beta, score, losses = beta_axis(points), score_axis(points + base + repeats), losses_of(pooled)

    def panel(name: str, width: int) -> Panel:
        own = in_panel(points, name)
        marks, single = panels.base_marks(own, base), in_panel(repeats, name)
        return panels.against_beta(own, beta, (score, measure.label), losses, marks, width, name, single)

    caption = (
        "Bars are 95 % intervals of each mean; the dashed line is the untrained model, its interval shaded. "
        f"Differences to it are paired by {measure.unit}, so they are known better than the bars "
        "suggest: see the tables. Losses stand side by side at each beta."
    )
    if repeats:
        caption += " Points are means over seeds, the short dashes beside them single runs."
    return lay_out(measure.column.replace("_", "-"), f"{measure.label} against beta", caption, points, pooled, panel)
