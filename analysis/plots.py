"""The four figures: one chart definition each, for the page (interactive) and for files (SVG, PNG).

Owns: what is drawn, and what a reader is told about it.
Must not know: files, HTML, how an interval is computed.

Marks differ by shape, dash or width as well as by colour, so that nothing is said by colour alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import altair as alt
import pandas as pd

from analysis import actions, panels, render
from analysis.labels import Axis, spread_evenly_in_log
from analysis.render import Record
from analysis.statistics import CHANCE, Estimate

_MAX_PANELS = 24
_MAX_POINTS = 6000  # of all training curves together, for a page that opens at once

Panel: TypeAlias = alt.Chart | alt.LayerChart
_GOLDEN = "Golden reward"


@dataclass(frozen=True)
class Figure:
    """A figure; ``chart`` is None where there is nothing to draw, and ``caption`` then says so.

    ``name`` is the stem of its files; ``description`` tells it to those who cannot see it.
    """

    name: str
    title: str
    caption: str
    description: str = ""
    chart: alt.ConcatChart | None = None


def figures(frame: pd.DataFrame) -> list[Figure]:
    """Draw the report's four figures from a frame of ``statistics.with_estimates``; a fifth for tabular policies."""
    runs, bases = frame[frame["kind"] == "run"], frame[frame["kind"] == "base"]
    return [_reward(runs, bases), _frontier(runs, bases), _heldout(runs), _curves(runs), *_actions(runs)]


def _actions(runs: pd.DataFrame) -> list[Figure]:
    drawn = actions.chart(runs)
    if drawn is None:
        return []
    title = "Probability of each action against beta"
    caption = "Of a policy that is a table: these are its exact probabilities, not counts of samples."
    return [Figure("actions", title, caption, f"{title}: a panel for each loss.", drawn)]


def _reward(runs: pd.DataFrame, bases: pd.DataFrame) -> Figure:
    title = f"{_GOLDEN} against beta"
    points, base = _points(runs, "score", "beta"), _points(bases, "score")
    beta, reward, losses = _beta_axis(points), _reward_axis(points + base), _losses(runs)

    def panel(name: str, width: int) -> Panel:
        own = _of(points, name)
        return panels.against_beta(own, beta, (reward, _GOLDEN), losses, panels.base_marks(own, base), width, name)

    caption = (
        "Bars are 95 % intervals of each run's own mean; the dashed line is the untrained model, its "
        "interval shaded. Differences to it are paired by generation, so they are known better than the bars "
        "suggest: see the tables. Losses stand side by side at each beta."
    )
    return _figure("golden-reward", title, caption, points, runs, panel)


def _frontier(runs: pd.DataFrame, bases: pd.DataFrame) -> Figure:
    title = f"{_GOLDEN} against distance from the reference model"
    points = [each for each in _points(runs, "score", "kl") if panels.drawable(each["beta"])]
    base = _points(bases, "score")
    axes, losses = (Axis.of([each["kl"] for each in points]), _reward_axis(points + base)), _losses(runs)

    def panel(name: str, width: int) -> Panel:
        own = _of(points, name)
        return panels.frontier(own, panels.base_marks(own, base, "right"), axes, losses, width)

    caption = (
        "Up is better, left is closer to the reference; the labels are betas (where runs are many: of each loss's "
        "ends and of the steps). The grey steps join the runs that no other run of the panel beats in both. Thin bars "
        "are 95 % intervals; the dashed line is the untrained model."
    )
    return _figure("frontier", title, caption, points, runs, panel)


def _heldout(runs: pd.DataFrame) -> Figure:
    title = "Held-out reward accuracy and margin against beta"
    kinds = (("accuracy", "Reward accuracy", CHANCE), ("reward_margin", "Reward margin", 0.0))
    points = [each | {"y": name} for column, name, _ in kinds for each in _points(runs, column, "beta")]
    beta, losses = _beta_axis(points), _losses(runs)

    def panel(name: str, width: int, kind: str, level: float) -> Panel:
        own = [each for each in points if each["y"] == kind]
        axis = Axis.of([level, *(each[key] for each in own for key in ("value", "low", "high"))], log=False)
        return panels.against_beta(_of(own, name), beta, (axis, kind), losses, render.rule(level), width, name)

    caption = (
        "Accuracy is the share of held-out pairs whose chosen answer gets the higher implicit reward, with "
        "Wilson's 95 % interval; the dashed line is chance. Margin is the mean difference of the two "
        "rewards; rewards are scaled by beta, so the margins of different betas do not compare. Both can "
        "look fine while the text is destroyed: read the generations."
    )
    makers = [lambda name, _, kind=kind, level=level: panel(name, panels.HALF, kind, level) for _, kind, level in kinds]
    return _figure("heldout", title, caption, points, runs, *makers)


def _curves(runs: pd.DataFrame) -> Figure:
    title = "Training curves"
    most = max(20, _MAX_POINTS // max(len(runs), 1))
    points = [point for _, row in runs.iterrows() for point in _curve(row, most)]
    betas = sorted({each["beta"] for each in points})

    def panel(name: str, loss: str, quantity: str, label: str) -> Panel | None:
        own = [each | {"value": each[quantity]} for each in _of(points, name) if each["loss"] == loss]
        own = [each for each in own if panels.drawable(each["value"])]
        # losses may span decades (ipo starts at 1 / (2 beta)^2); margins begin at zero and may be negative
        return panels.curves(own, label, betas, log=None if quantity == "training_loss" else False) if own else None

    caption = (
        "Thicker and lighter lines are larger betas. Losses of different loss types are not in one unit, so "
        f"every panel has its own scale. Curves longer than {most} points are thinned."
    )
    kinds = (("training_loss", "Training loss"), ("reward_margin", "Reward margin"))
    makers = [
        lambda name, _, loss=loss, kind=kind: panel(name, loss, *kind) for kind in kinds for loss in _losses(runs)
    ]
    return _figure("curves", title, caption, points, runs, *makers, columns=3)


def _figure(
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
    caption = f"{count} of {len(runs)} runs drawn{_left_out(names, shown)}. {caption}"
    values = ", ".join(shown)
    description = f"{title}: {len(drawings)} panels ({values}), {count} runs. The table of runs holds the same numbers."
    return Figure(name, title, caption, description, render.grid(drawings, columns))


def _left_out(names: Sequence[str], shown: Sequence[str]) -> str:
    return f" (the first {len(shown)} of {len(names)} models and settings)" if len(names) > len(shown) else ""


def _points(rows: pd.DataFrame, value: str, *needed: str) -> list[Record]:
    """Give a record for each row that has ``value`` (a column of Estimates or numbers) and all of ``needed``."""
    keys = ("run_id", "model", "dataset", "panel", "beta", "kl", "kl_stderr")
    records = [
        {key: row[key] for key in keys} | _limits(row[value]) | {"loss": row["loss_type"] or "?"}
        for _, row in rows.iterrows()
    ]
    return [each for each in records if all(panels.drawable(each[key]) for key in ("value", *needed))]


def _limits(value: Estimate | float) -> dict[str, float]:
    """Give value, low and high; both limits are the value itself where there is no interval."""
    estimate = value if isinstance(value, Estimate) else Estimate(float(value))
    low, high = (estimate.low, estimate.high) if estimate.known else (estimate.value, estimate.value)
    return {"value": estimate.value, "low": low, "high": high}


def _curve(row: pd.Series, most: int) -> list[Record]:
    """Give a run's training log, thinned evenly to ``most`` points; its last one stays."""
    known = [each for each in row["curve"] if panels.drawable(each["step"]) and panels.drawable(row["beta"])]
    stride = math.ceil(len(known) / most) or 1
    same = {key: row[key] for key in ("run_id", "panel", "beta")} | {"loss": row["loss_type"] or "?"}
    return [
        same | {"step": each["step"], "training_loss": each["loss"], "reward_margin": each["reward_margin"]}
        for each in known[::-1][::stride][::-1]
    ]


def _beta_axis(points: list[Record]) -> Axis:
    betas = [each["beta"] for each in points]
    return Axis.of(betas, log=None if spread_evenly_in_log(betas) else False)


def _reward_axis(points: list[Record]) -> Axis:
    return Axis.of([each[key] for each in points for key in ("value", "low", "high")], log=False)


def _losses(runs: pd.DataFrame) -> list[str]:
    return list(dict.fromkeys(loss or "?" for loss in runs["loss_type"]))


def _of(points: list[Record], panel: str) -> list[Record]:
    return [each for each in points if each["panel"] == panel]
