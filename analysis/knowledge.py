"""What further runs would tell about which setting is best: the knowledge gradient of a batch.

Owns: its arithmetic. Must not know: frames, losses, sentences, how the posterior was made.

Whoever has to name a setting names the one with the highest expected score, of those that have been trained. Further
runs X change the expected scores, by how much is not known beforehand, but how much it varies is: with mean m and
covariance K of the expected scores, and noise v of a run,

    m' ~ N(m, C),   C = K[:, X] (K[X, X] + v I)^-1 K[X, :]

whatever the scores of X will be (Frazier, Powell and Dayanik 2009, "The Knowledge-Gradient Policy for Correlated Normal
Beliefs"; of several at once Wu and Frazier 2016, "The Parallel Knowledge Gradient Method"). What they are worth is
E[max m'] over the settings trained then, less max m over those trained now. A batch is chosen run by run, each given
those before it, whose scores are not known yet. Where no single run would change what is named, the next is the one
that promises most to be better (expected improvement, Jones, Schonlau and Welch 1998), so that several together do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import special

from analysis.gaussian import Floats, Integers

Booleans = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]

_DRAWS = 512  # of what the further runs' scores may make of the expected ones
_NORMAL = special.ndtri((np.arange(_DRAWS) + 0.5) / _DRAWS)  # evenly: chance is in their order alone
_NOTHING = 1e-4  # standard deviations of a run's noise; less is no gain
_MANY = 4000  # joint draws of the expected scores
_SEED = 20240118  # the same answer at every reading


@dataclass(frozen=True)
class Choice:
    """A run to be made: the ``place`` that it is at, and by how much it raises what the best is expected to score."""

    place: int
    gain: float


def choose(mean: Floats, covariance: Floats, trained: Integers, noise: float, runs: int) -> list[Choice]:
    """Choose ``runs`` of p places, which may be chosen again, the one that tells most first.

    ``mean`` (p,) and ``covariance`` (p, p) of the expected scores, more is better; ``trained``: the places that have
    been trained; ``noise``: the variance of one run's score about what is expected of it.
    """
    random = np.random.default_rng(_SEED)
    known = np.zeros(len(mean), dtype=bool)
    known[trained] = True
    drawn, left, worth = np.repeat(mean[None, :], _DRAWS, axis=0), covariance, float(mean[trained].max())
    found = []
    for _ in range(runs):
        steps = random.permutation(_NORMAL)[:, None]
        shifts = (
            left / np.sqrt(np.diag(left).clip(0) + noise)[:, None]
        )  # of all expected scores, by a run at each place
        values = np.asarray([_worth(drawn, steps * shift, known, place) for place, shift in enumerate(shifts)])
        if values.max() - worth < _NOTHING * math.sqrt(noise):
            place, gain = int(_improvement(drawn.mean(axis=0), left, known).argmax()), 0.0
        else:
            place, gain = int(values.argmax()), float(values.max()) - worth
        found.append(Choice(place, gain))
        worth, drawn = worth + gain, drawn + steps * shifts[place]
        left = left - np.outer(shifts[place], shifts[place])
        known[place] = True
    return found


def _improvement(mean: Floats, covariance: Floats, known: Booleans) -> Floats:
    """Give by how much each place is expected to exceed the best that is known, where it does; 0 of that itself."""
    best = int(np.where(known, mean, -np.inf).argmax())
    variance = np.diag(covariance) + covariance[best, best] - 2 * covariance[best]
    deviation = np.sqrt(variance.clip(1e-18))
    lead = (mean - mean[best]) / deviation
    gains = deviation * (lead * special.ndtr(lead) + np.exp(-0.5 * lead**2) / math.sqrt(2 * math.pi))
    return np.asarray(np.where(np.arange(len(mean)) == best, 0, gains))


def _worth(drawn: Floats, moved: Floats, known: Booleans, place: int) -> float:
    """Give what the best is expected to score once a run at a place is known, which then has been trained as well."""
    best = (drawn[:, known] + moved[:, known]).max(axis=1)
    return float(np.maximum(best, drawn[:, place] + moved[:, place]).mean())


def shares(mean: Floats, covariance: Floats) -> Floats:
    """Give the probability (p,) of each place of being the one with the highest expected score."""
    values, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(values.clip(0))
    drawn = mean + np.random.default_rng(_SEED).standard_normal((_MANY, len(mean))) @ root.T
    return np.asarray(np.bincount(drawn.argmax(axis=1), minlength=len(mean)) / _MANY)
