"""Which settings training has destroyed: so far off in score or KL that no smooth curve goes through them.

Owns: the rule. Must not know: curves, intervals, how such a setting is drawn or what is said of it.

Within a loss, settings are destroyed

- whose score (or golden reward, where another measure decides) is below that of all others of the loss by more than
  three times as much as the others of the model, of every loss, are apart from each other; or
- whose KL is more than ten times the highest KL of all others of the model, and whose score is below their median.

They are at most a third of the loss's settings (of the model's, by KL), or they are no exception. A setting is never
destroyed for its KL alone: a policy may go far and write well. The rule looks only downwards, so it never takes away
the best; where a score merely falls very steeply towards the end of a grid, it takes that end away, which costs little.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.measures import GOLDEN, Measure
from analysis.words import fixed, number

_SHARE = 1 / 3  # of a loss's settings
_FEWEST = 3  # other settings of the model, or nothing says how far apart they are
_GAP = 3.0
_KL = 10.0


@dataclass(frozen=True)
class Destroyed:
    """A setting's row, and why it counts as destroyed, in words that follow its name."""

    row: pd.Series
    reason: str


def destroyed(settings: pd.DataFrame, measure: Measure) -> list[Destroyed]:
    """Give the destroyed ones of the scored settings of one model and dataset, in their order."""
    found: dict[Hashable, str] = {}
    for each in dict.fromkeys((measure, GOLDEN)):
        known = settings[np.isfinite(settings[each.column].astype(float))]
        scores = each.sign * known[each.column].astype(float)
        found |= {index: reason for index, reason in _by_score(scores, known, each).items() if index not in found}
    scores = measure.sign * settings[measure.column].astype(float)
    found |= {index: reason for index, reason in _by_kl(scores, settings).items() if index not in found}
    return [Destroyed(row, found[index]) for index, row in settings.iterrows() if index in found]


def _by_score(scores: pd.Series, settings: pd.DataFrame, measure: Measure) -> dict[Hashable, str]:
    low = {
        index: next_one
        for _, own in settings.groupby("loss_type", sort=False, dropna=False)
        for index, next_one in _below_a_gap(scores[own.index], scores).items()
    }
    own = measure.sign * scores
    return {
        index: f"{measure.name} {fixed(float(score))}, where the next has {fixed(measure.sign * low[index])}"
        for index, score in own.items()
        if index in low
    }


def _below_a_gap(own: pd.Series, every: pd.Series) -> dict[Hashable, float]:
    """Give those of a loss below a gap three times as wide as all of the model above it, each with the score above."""
    ordered = own.sort_values()
    for count in range(math.floor(_SHARE * len(own)), 0, -1):
        above = float(ordered.iloc[count])
        others, gap = every[every >= above], above - float(ordered.iloc[count - 1])
        if len(others) >= _FEWEST and gap > _GAP * float(others.max() - others.min()):
            return dict.fromkeys(ordered.index[:count], above)
    return {}


def _by_kl(scores: pd.Series, settings: pd.DataFrame) -> dict[Hashable, str]:
    distances = settings["kl"].astype(float)
    known = distances[np.isfinite(distances)].sort_values(ascending=False)
    below = scores < scores.median()
    for count in range(math.floor(_SHARE * len(known)), 0, -1):
        next_one = float(known.iloc[count])
        if len(known) - count >= _FEWEST and next_one > 0 and float(known.iloc[count - 1]) > _KL * next_one:
            words = f"where the next has {number(next_one, 2)}"
            far = known.iloc[:count][below[known.index[:count]]]
            return {index: f"KL {number(float(kl), 2)}, {words}" for index, kl in far.items()}
    return {}
