"""The figure `frontier`: reward against the KL to the reference.

Owns: its layers. Must not know: other figures.
"""

from __future__ import annotations

import pandas as pd

from analysis.figures import panels
from analysis.figures.axes import Axis
from analysis.figures.figure import Figure, Panel, lay_out
from analysis.figures.records import in_panel, losses_of, points_of, score_axis
from analysis.measures import ACCURACY, GOLDEN, present, primary


def figure(pooled: pd.DataFrame, bases: pd.DataFrame) -> Figure:
    """Draw the reward over the KL to the reference; on the frontier is what nothing beats in both."""
    measure = GOLDEN if GOLDEN in present(pooled) else primary(pooled)
    measure = GOLDEN if measure is ACCURACY else measure
    title = f"{measure.label} against distance from the reference model"
    points = [each for each in points_of(pooled, measure, bases, "kl") if panels.drawable(each["beta"])]
    base = points_of(bases, measure, bases)
    axes, losses = (Axis.of([each["kl"] for each in points]), score_axis(points + base)), losses_of(pooled)

    def panel(name: str, width: int) -> Panel:
        own = in_panel(points, name)
        return panels.frontier(own, panels.base_marks(own, base, "right"), axes, losses, width, measure.label)

    caption = (
        "Up is better, left is closer to the reference; the labels are betas (where runs are many: of each loss's "
        "ends and of the steps). The grey steps join the runs that no other run of the panel beats in both. Thin bars "
        "are 95 % intervals; the dashed line is the untrained model."
    )
    return lay_out("frontier", title, caption, points, pooled, panel)
