"""The figure `heldout`: accuracy on held-out pairs over beta.

Owns: its layers. Must not know: other figures.
"""

from __future__ import annotations

import pandas as pd

from analysis.figures import look, panels
from analysis.figures.axes import Axis
from analysis.figures.figure import Figure, Panel, lay_out
from analysis.figures.records import beta_axis, in_panel, losses_of, records_of
from analysis.measures import ACCURACY, CHANCE


def figure(pooled: pd.DataFrame) -> Figure:
    """Draw accuracy and reward margin on held-out pairs over beta."""
    title = "Held-out reward accuracy and margin against beta"
    kinds = ((ACCURACY.estimate, ACCURACY.label, CHANCE), ("reward_margin", "Reward margin", 0.0))
    points = [
        each | {"y": name}
        for column, name, _ in kinds
        for each in records_of(pooled, column, "beta")
    ]  # fmt: skip
    beta, losses = beta_axis(points), losses_of(pooled)

    def panel(name: str, width: int, kind: str, level: float) -> Panel:
        own = [each for each in points if each["y"] == kind]
        axis = Axis.of([level, *(each[key] for each in own for key in ("value", "low", "high"))], log=False)
        return panels.against_beta(in_panel(own, name), beta, (axis, kind), losses, look.rule(level), width, name)

    caption = (
        "Accuracy is the share of held-out pairs whose chosen answer gets the higher implicit reward, with "
        "Wilson's 95 % interval; the dashed line is chance. Margin is the mean difference of the two "
        "rewards; rewards are scaled by beta, so the margins of different betas do not compare. Both can "
        "look fine while the text is destroyed: read the generations."
    )
    makers = [lambda name, _, kind=kind, level=level: panel(name, panels.HALF, kind, level) for _, kind, level in kinds]
    return lay_out("heldout", title, caption, points, pooled, *makers)
