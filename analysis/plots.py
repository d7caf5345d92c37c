"""The figures: one chart definition each, for the page (interactive) and for files (SVG, PNG, PDF).

Owns: what is drawn, and what a reader is told about it.
Must not know: files, HTML, how an interval is computed.

Marks differ by shape, dash or width as well as by colour, so that nothing is said by colour alone.
"""

from __future__ import annotations

import math

import pandas as pd

from analysis import actions, overview, panels, render, steps
from analysis.best import Best
from analysis.figure import Figure, Panel, lay_out
from analysis.labels import Axis
from analysis.measures import ACCURACY, CHANCE, GOLDEN, Measure, present, primary
from analysis.records import beta_axis, in_panel, losses_of, points_of, records_of, score_axis
from analysis.render import Record

_MAX_POINTS = 6000  # of all training curves together, for a page that opens at once


def figures(frame: pd.DataFrame, settings: pd.DataFrame, best: list[Best]) -> list[Figure]:
    """Draw the report's figures from ``with_estimates`` frames of runs and of settings, and the best of them.

    Radar and heat map are left out where no category was judged, or fewer than two axes vary; the figure against steps
    where those do not vary, that of actions where no policy is a table.
    """
    runs = frame[frame["kind"] == "run"]
    pooled, bases = settings[settings["kind"] == "run"], settings[settings["kind"] == "base"]
    scans = [_scan(runs, pooled, bases, measure) for measure in present(pooled) or [GOLDEN]]
    optional = [
        overview.radar(best, bases),
        steps.figure(pooled, bases),
        overview.heat_map(pooled),
        actions.figure(pooled),
    ]
    return [*scans, *filter(None, optional), _frontier(pooled, bases), _heldout(pooled), _curves(runs)]


def _scan(runs: pd.DataFrame, pooled: pd.DataFrame, bases: pd.DataFrame, measure: Measure) -> Figure:
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


def _frontier(pooled: pd.DataFrame, bases: pd.DataFrame) -> Figure:
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


def _heldout(pooled: pd.DataFrame) -> Figure:
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
        return panels.against_beta(in_panel(own, name), beta, (axis, kind), losses, render.rule(level), width, name)

    caption = (
        "Accuracy is the share of held-out pairs whose chosen answer gets the higher implicit reward, with "
        "Wilson's 95 % interval; the dashed line is chance. Margin is the mean difference of the two "
        "rewards; rewards are scaled by beta, so the margins of different betas do not compare. Both can "
        "look fine while the text is destroyed: read the generations."
    )
    makers = [lambda name, _, kind=kind, level=level: panel(name, panels.HALF, kind, level) for _, kind, level in kinds]
    return lay_out("heldout", title, caption, points, pooled, *makers)


def _curves(runs: pd.DataFrame) -> Figure:
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
