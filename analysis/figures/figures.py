"""The figures: one chart definition each, for the page (interactive) and for files (SVG, PNG, PDF).

Owns: what is drawn, and what a reader is told about it.
Must not know: files, HTML, how an interval is computed.

Marks differ by shape, dash or width as well as by colour, so that nothing is said by colour alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from analysis.best import Best
from analysis.figures import actions, curves, frontier, heatmap, heldout, radar, scan, steps
from analysis.figures.figure import Figure
from analysis.measures import GOLDEN, Measure, present, shown
from analysis.smooth import Smooth, conclusions


def figures(
    frame: pd.DataFrame, settings: pd.DataFrame, best: list[Best], concluded: Sequence[Smooth] = ()
) -> list[Figure]:
    """Draw the report's figures from ``with_estimates`` frames of runs and of settings, and the best of them.

    ``concluded``: of all models by what each is judged by; of other measures it is concluded here.

    Radar and heat map are left out where no category was judged, or fewer than two axes vary; the figure against steps
    where those do not vary, that of actions where no policy is a table.
    """
    runs = frame[frame["kind"] == "run"]
    pooled, bases = settings[settings["kind"] == "run"], settings[settings["kind"] == "base"]
    scans = [
        scan.figure(runs, pooled, bases, measure, _by(measure, settings, concluded))
        for measure in shown(present(pooled)) or [GOLDEN]
    ]
    optional = [
        *radar.figures(best, bases),
        steps.figure(pooled, bases),
        heatmap.figure(pooled),
        actions.figure(pooled),
    ]
    always = [frontier.figure(pooled, bases), heldout.figure(pooled), curves.figure(runs)]
    return [*scans, *filter(None, optional), *always]


def _by(measure: Measure, settings: pd.DataFrame, concluded: Sequence[Smooth]) -> Sequence[Smooth]:
    """Give what is concluded by a measure."""
    known = bool(concluded) and all(each.measure == measure for each in concluded)
    return concluded if known else conclusions(settings, measure)
