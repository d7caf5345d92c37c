"""The figure `curves`: training curves.

Owns: its layers, thinned to what a page can bear. Must not know: other figures.
"""

from __future__ import annotations

import math

import pandas as pd

from analysis.figures import panels
from analysis.figures.figure import Figure, Panel, lay_out
from analysis.figures.look import Record
from analysis.figures.records import in_panel, losses_of

_MAX_POINTS = 6000  # of all training curves together, for a page that opens at once


def figure(runs: pd.DataFrame) -> Figure:
    """Draw training loss and reward margin over the steps of each run."""
    title, runs = "Training curves", runs[runs["milestone"].isna()]  # a milestone's curve is a part of its run's
    most = max(20, _MAX_POINTS // max(len(runs), 1))
    points = [point for _, row in runs.iterrows() for point in _curve(row, most)]
    betas = sorted({each["beta"] for each in points})

    def panel(name: str, loss: str, quantity: str, label: str) -> Panel | None:
        own = [each | {"value": each[quantity]} for each in in_panel(points, name) if each["loss"] == loss]
        own = [each for each in own if panels.drawable(each["value"])]
        # losses may span decades (ipo starts at 1 / (2 beta)^2); margins begin at zero and may be negative
        return panels.curves(own, label, betas, log=None if quantity == "training_loss" else False) if own else None

    caption = (
        "Thicker and lighter lines are larger betas. Losses of different loss types are not in one unit, so "
        f"every panel has its own scale. Curves longer than {most} points are thinned."
    )
    kinds = (("training_loss", "Training loss"), ("reward_margin", "Reward margin"))
    makers = [
        lambda name, _, loss=loss, kind=kind: panel(name, loss, *kind) for kind in kinds for loss in losses_of(runs)
    ]
    return lay_out("curves", title, caption, points, runs, *makers, columns=3)


def _curve(row: pd.Series, most: int) -> list[Record]:
    """Give a run's training log, thinned evenly to ``most`` points; its last one stays."""
    known = [each for each in row["curve"] if panels.drawable(each["step"]) and panels.drawable(row["beta"])]
    stride = math.ceil(len(known) / most) or 1
    same = {key: row[key] for key in ("run_id", "panel", "beta")} | {"loss": row["loss_type"] or "?"}
    return [
        same | {"step": each["step"], "training_loss": each["loss"], "reward_margin": each["reward_margin"]}
        for each in known[::-1][::stride][::-1]
    ]
