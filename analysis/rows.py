"""Rows of results as people name them: the setting of a run, the axes and scores without a column of their own.

Owns: those names. Must not know: tables, figures.
"""

from __future__ import annotations

import math

import pandas as pd

from analysis.measures import ACCURACY, TEXT_MEASURES
from analysis.words import number

_NAMED = ("kind", "run_id", "sweep", "model", "dataset", "loss_type", "beta", "seed")


def other_axes(frame: pd.DataFrame) -> list[str]:
    """Name the sweep's axes that have no column of their own, in order of appearance."""
    names = dict.fromkeys(name for axes in frame["axes"] for name in axes)
    return [name for name in names if name not in _NAMED]


def other_scores(frame: pd.DataFrame) -> list[str]:
    """Name the scores that have no column of their own, in order of appearance."""
    names = dict.fromkeys(name for scores in frame["other_scores"] for name in scores)
    return [name for name in names if name not in frame.columns]


def setting(row: pd.Series) -> str:
    """Name a run's beta and further axes."""
    parts = [f"beta {number(row['beta'])}", row["setting"]]
    return ", ".join(part for part in parts if part)


def judged(frame: pd.DataFrame) -> pd.Series:
    """Tell which rows have a score of any kind."""
    names = [measure.column for measure in (*TEXT_MEASURES, ACCURACY)]
    return frame[names].abs().lt(math.inf).any(axis="columns")
