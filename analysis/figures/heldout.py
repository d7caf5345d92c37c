"""The figure `heldout`: accuracy on held-out pairs over beta.

Owns: its layers. Must not know: other figures.
"""

from __future__ import annotations

import pandas as pd

from analysis.figures import look, panels
from analysis.figures.axes import Axis
from analysis.figures.figure import Figure, Panel, lay_out
from analysis.figures.records import beta_axis, in_panel, losses_of, records_of, rewards_of
from analysis.measures import ACCURACY, CHANCE
from analysis.words import listed

_CAPTION = (
    "Accuracy is the share of held-out pairs whose chosen answer gets the higher implicit reward, with "
    "Wilson's 95 % interval; the dashed line is chance. Margin is the mean difference of the two "
    "rewards; most rewards are scaled by beta, so the margins of different betas do not compare. Both can "
    "look fine while the text is destroyed: read the generations."
)


def figure(pooled: pd.DataFrame) -> Figure:
    """Draw accuracy and reward margin on held-out pairs over beta, those of each reward in panels of their own."""
    title = "Held-out reward accuracy and margin against beta"
    kinds = ((ACCURACY.estimate, ACCURACY.label, CHANCE), ("reward_margin", "Reward margin", 0.0))
    rewards, reward = rewards_of(pooled), pooled["reward"]
    points = [
        each | {"y": name, "reward": reward[each["index"]]}
        for column, name, _ in kinds
        for each in records_of(pooled, column, "beta")
    ]  # fmt: skip
    beta, losses = beta_axis(points), losses_of(pooled)

    def panel(name: str, width: int, of: str, kind: str, level: float) -> Panel | None:
        own = [each for each in points if (each["y"], each["reward"]) == (kind, of)]
        here, label = in_panel(own, name), kind if len(rewards) == 1 else f"{kind}, of {of}"
        axis = Axis.of([level, *(each[key] for each in own for key in ("value", "low", "high"))], log=False)
        drawn = here or len(rewards) == 1
        return panels.against_beta(here, beta, (axis, label), losses, look.rule(level), width, name) if drawn else None

    makers = [
        lambda name, _, of=of, kind=kind, level=level: panel(name, panels.HALF, of, kind, level)
        for of in rewards
        for _, kind, level in kinds
    ]
    return lay_out("heldout", title, f"{_CAPTION}{_of_several(rewards)}", points, pooled, *makers)


def _of_several(rewards: list[str]) -> str:
    if len(rewards) == 1:
        return ""
    return (
        f" Losses differ in what they call a reward ({listed(rewards)}): each reward has panels of its own, and "
        "neither accuracies nor margins of two rewards compare."
    )
