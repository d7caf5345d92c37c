"""Rows of results as people name them: the setting of a run, the axes and scores without a column of their own.

Owns: those names. Must not know: tables, figures.
"""

from __future__ import annotations

import math

import pandas as pd

from analysis.apart import axis_keys, further_keys
from analysis.measures import ACCURACY, measures_of
from analysis.words import number

_NAMED = ("kind", "run_id", "sweep", "model", "dataset", "loss_type", "beta", "seed")


def other_axes(frame: pd.DataFrame) -> list[str]:
    """Name what tells runs apart and has no column of its own: axes in order of appearance, then keys that differ."""
    known = axis_keys(frame.to_dict("records"))
    axes = dict.fromkeys(name for axes in frame["axes"] for name in axes if name in known and name not in _NAMED)
    return [*axes, *further_keys(frame)]


def other_scores(frame: pd.DataFrame) -> list[str]:
    """Name the scores that have no column of their own, in order of appearance."""
    names = dict.fromkeys(name for scores in frame["other_scores"] for name in scores)
    return list(names)


def setting(row: pd.Series) -> str:
    """Name a run's beta and further axes."""
    parts = [f"beta {number(row['beta'])}", row["setting"]]
    return ", ".join(part for part in parts if part)


def judged(frame: pd.DataFrame) -> pd.Series:
    """Tell which rows have a score of any kind."""
    names = [measure.column for measure in (*measures_of(frame), ACCURACY)]
    return frame[names].abs().lt(math.inf).any(axis="columns")
