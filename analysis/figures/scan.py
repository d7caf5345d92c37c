"""The figure `scan`: the score over beta.

Owns: its layers. Must not know: other figures.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from analysis.figures import panels
from analysis.figures.figure import Figure, Panel, lay_out
from analysis.figures.look import Record
from analysis.figures.records import beta_axis, in_panel, losses_of, points_of, score_axis
from analysis.measures import Measure, judged_by
from analysis.smooth import Smooth

_WAY = {True: "Less is better, by the score's name. ", False: "More is taken to be better. "}
_PAIRED = "Differences to it are paired by {}, so they are known better than the bars suggest: see the tables. "
_CURVES = (
    " Each line is a loss's expected score, given all scores; within its band the expected score lies with 95 %, and a "
    "single retraining scatters about it."
)
_CROSSES = " Crosses at the lower edge are settings that count as destroyed, with their scores; no curve goes by them."
_PLACES = 61  # of a curve


def figure(
    runs: pd.DataFrame, pooled: pd.DataFrame, bases: pd.DataFrame, measure: Measure, concluded: Sequence[Smooth] = ()
) -> Figure:
    """Draw one measure over beta, a panel for each model and setting, with the curves of ``concluded``."""
    lost = {each.row.name for smooth in concluded for each in smooth.destroyed}
    drawn, base = points_of(pooled, measure, bases, "beta"), points_of(bases, measure, bases)
    points = [each for each in drawn if each["index"] not in lost]
    crosses = [each for each in drawn if each["index"] in lost]
    repeats = points_of(runs, measure, bases, "beta") if (pooled["seeds"] > 1).any() else []
    of_lost = {name for names in pooled[pooled.index.isin(list(lost))]["run_ids"] for name in names}
    repeats = [each for each in repeats if each["run_id"] not in of_lost]
    curves = [record for smooth in concluded for record in _curves(smooth, pooled)]
    beta, losses = beta_axis(drawn), losses_of(pooled)
    score = score_axis([*(points or drawn), *base, *repeats, *curves])

    def panel(name: str, width: int) -> Panel:
        own = in_panel(points, name)
        marks, single = panels.base_marks(own, base), in_panel(repeats, name)
        behind, beside = in_panel(curves, name), in_panel(crosses, name)
        axes = beta, (score, measure.label)
        return panels.against_beta(own, *axes, losses, marks, width, name, single, behind, beside)

    caption = (
        f"{judged_by(pooled, measure)}{_WAY[measure.lower] if measure.unit == 'task' else ''}"
        "Bars are 95 % intervals of each mean; the dashed line is the untrained model, its interval shaded. "
        f"{_PAIRED.format(measure.unit) if measure.values_column else ''}Losses stand side by side at each beta."
    )
    caption += _CURVES if curves else ""
    caption += _CROSSES if crosses else ""
    if repeats:
        caption += " Points are means over seeds, the short dashes beside them single runs."
    name = re.sub(r"[^a-z0-9]+", "-", measure.column.lower()).strip("-")
    return lay_out(name, f"{measure.label} against beta", caption, drawn, pooled, panel)


def _curves(smooth: Smooth, pooled: pd.DataFrame) -> Iterator[Record]:
    """Give each curve's expected score and its limits, from the lowest to the highest beta of its panel."""
    if not smooth.curves:
        return
    fitted = pooled.loc[smooth.settings.index]
    for (panel, loss), own in fitted.groupby(["panel", fitted["loss_type"].fillna("?")], sort=False):
        betas = own["beta"].astype(float)
        if betas.nunique() < 2:  # noqa: PLR2004 - a point
            continue
        spaced = np.geomspace if betas.min() > 0 else np.linspace
        places = np.unique(np.concatenate([spaced(betas.min(), betas.max(), _PLACES), betas]))
        for beta, value, low, high in zip(places, *smooth.band(own.iloc[0], places), strict=True):
            yield {"panel": panel, "loss": loss, "x": float(beta), "value": value, "low": low, "high": high}
