"""Which settings training has destroyed: so far off in score or KL that no smooth curve goes through them.

Owns: the rule. Must not know: curves, intervals, how such a setting is drawn or what is said of it.

Within a loss, settings count as destroyed

- whose score (or golden reward, where another measure decides) is below all others of the loss by more than three of
  its standard errors, and by more than three times as much as the settings of the model are apart from each other that
  score at least as well as these others, of every loss, or that are its better half, where that is more; or
- whose KL is more than ten times the highest KL of all others of the model, and whose score is below their median.

They are at most a third of the loss's settings (of the model's, by KL), or they are no exception. A setting is never
destroyed for its KL alone: a policy may go far and write well. The rule looks only downwards, so it never takes away
the best. It is an eager one: where a score merely falls steeply towards an end of the grid that lies apart, it may take
that end away, which costs the best setting next to nothing, while a destroyed one that stays spoils the curve.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.gaussian import Floats
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
    losses = settings["loss_type"].fillna("?").to_numpy(dtype=str)
    errors = settings[measure.stderr].fillna(0).to_numpy(dtype=float) if measure.stderr else np.zeros(len(settings))
    found = below_a_gap(scores.to_numpy(dtype=float), errors, losses)
    return {
        settings.index[place]: f"{measure.name} {fixed(measure.sign * float(scores.iloc[place]))}, "
        f"where the others of its loss have {fixed(measure.sign * above)} or {'more' if measure.sign > 0 else 'less'}"
        for place, above in found.items()
    }


def below_a_gap(scores: Floats, errors: Floats, losses: np.ndarray[tuple[int, ...], Any]) -> dict[int, float]:
    """Give the places of scores (n,) far below all others of their loss (n,), with the lowest of those others.

    ``errors`` (n,): the scores' standard errors.
    """
    found: dict[int, float] = {}
    best_first = np.sort(scores)[::-1]
    for loss in np.unique(losses):
        own = np.flatnonzero(losses == loss)
        ordered = own[np.argsort(scores[own], kind="stable")]
        for count in range(math.floor(_SHARE * len(own)), 0, -1):
            above, low = float(scores[ordered[count]]), ordered[:count]
            others = best_first[: max(int((scores >= above).sum()), math.ceil(len(scores) / 2))]
            noise = np.maximum(np.ptp(others), errors[low])
            if len(others) >= _FEWEST and (above - scores[low] > _GAP * noise).all():
                found |= dict.fromkeys(ordered[:count].tolist(), above)
                break
    return found


def _by_kl(scores: pd.Series, settings: pd.DataFrame) -> dict[Hashable, str]:
    distances = settings["kl"].astype(float)
    known = distances[np.isfinite(distances)].sort_values(ascending=False)
    below = scores < scores.median()
    for count in range(math.floor(_SHARE * len(known)), 0, -1):
        next_one = float(known.iloc[count])
        if len(known) - count >= _FEWEST and next_one > 0 and float(known.iloc[count - 1]) > _KL * next_one:
            words = f"where the others have at most {number(next_one, 2)}"
            far = known.iloc[:count][below[known.index[:count]]]
            return {index: f"KL {number(float(kl), 2)}, {words}" for index, kl in far.items()}
    return {}
