"""Scores of noisy settings as smooth curves: a Gaussian process a curve, with every scale integrated over.

Owns: the model, its grid of hyperparameters, the draws from its posterior; what an evaluation's units say of its noise.
Must not know: frames, losses, which setting is best, sentences.

The score of setting i, a mean over its seeds, is

    y_i = m + o_c + f_c(x_i) + t_i + e_i          of the curve c = c(i), at x_i in [0, 1]^d
    f_c ~ GP(0, s^2 k),  k Matern-5/2             Rasmussen and Williams 2006, equation 4.17; an independent f a curve
    o_c ~ N(0, w^2),  m ~ flat                    curves differ by an offset
    t_i ~ N(0, tau^2 / seeds_i)                   training: what another seed would change
    e   ~ N(0, S)                                 evaluation: the means over the units that all settings share

and that of the untrained model b = m_b + e_b, with m_b flat and e_b in S. The length scales, s, w and tau are shared
between curves and averaged over a grid by prior times marginal likelihood (ibid., equation 2.30), never set to one
value. All else is in closed form. docs/statistics.md has the priors and where they come from.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

Floats = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
Integers = np.ndarray[tuple[int, ...], np.dtype[np.int64]]

_SEED = 20240118  # the same answer at every reading
_KEPT, _EACH = 128, 32  # places of the grid that are kept, as often as their weight says; draws from each
_LARGE = 64  # settings; above, the grid is a coarser one
_FLAT = 30.0  # standard deviation of what is flat, in those of the scores
_LENGTHS = (0.1, 3.0)  # of length scales, in widths of the grid
_AMPLITUDES = (0.05, 4.0)  # of s, w and tau, in standard deviations of the scores


@dataclass(frozen=True)
class Scores:
    """What a fit takes: n settings, d numeric axes.

    ``places`` (n, d): where each lies, 0 to 1 on each axis; ``curves`` (n,): which curve it is on, counted from 0;
    ``seen`` (n,): its score, the mean over its ``seeds`` (n,) runs, turned so that more is better. ``covariance``,
    (n, n), or (n + 1, n + 1) with the untrained model last: of the evaluation's noise. ``base``: the untrained model's
    score, NaN where there is none. ``spread``: the standard deviation between runs of one setting that differ in their
    seed, from ``freedom`` degrees of freedom (0: not known), of which ``between`` is the variance that their
    evaluations alone would make.
    """

    places: Floats
    curves: Integers
    seen: Floats
    covariance: Floats
    seeds: Floats
    base: float = math.nan
    spread: float = math.nan
    freedom: float = 0.0
    between: float = 0.0

    @property
    def based(self) -> bool:
        """Whether the untrained model's score is known."""
        return math.isfinite(self.base)

    @functools.cached_property
    def scale(self) -> float:
        """The standard deviation of the scores, the unit of the priors."""
        return float(np.std(self.seen, ddof=1))


@dataclass(frozen=True)
class Grid:
    """J places: ``lengths`` (J, d), ``amplitude`` s, ``offset`` w, ``training`` tau and ``log_prior``, each (J,)."""

    lengths: Floats
    amplitude: Floats
    offset: Floats
    training: Floats
    log_prior: Floats

    def __len__(self) -> int:
        return len(self.amplitude)

    def at(self, chosen: Integers) -> Grid:
        """Give some of them, in that order."""
        parts = (self.lengths, self.amplitude, self.offset, self.training, self.log_prior)
        return Grid(*(each[chosen] for each in parts))


@dataclass(frozen=True)
class Posterior:
    """What is known of the settings' expected scores, once the scores were seen.

    ``draws`` (D, n): joint draws of m + o + f at the settings, which is what a retraining scores on average and by an
    endless evaluation; ``noise`` (D,): the training noise tau that goes with each; ``base`` (D,): the untrained model's
    expected score (NaN without one).
    """

    scores: Scores
    grid: Grid  # of J places, equally likely
    draws: Floats
    noise: Floats
    base: Floats
    _weights: Floats = field(repr=False)  # (J, N) the inverse covariance times the scores
    _inverse: Floats = field(repr=False)  # (J, N, N)

    @property
    def reruns(self) -> Floats:
        """Draws (D, n) of what one retraining of each setting would score: training noise comes to the expectation."""
        random = np.random.default_rng(_SEED + 1)
        return self.draws + self.noise[:, None] * random.standard_normal(self.draws.shape)

    def predict(self, places: Floats, curves: Integers) -> tuple[Floats, Floats]:
        """Give mean (p,) and covariance (p, p) of the expected score at any ``places`` (p, d) on ``curves`` (p,).

        Exact moments of the posterior, the grid averaged over.
        """
        flat = _FLAT * self.scores.scale
        known = len(self.scores.seen)
        grid, first, counts = self._distinct
        across = _prior(places, self.scores.places, curves, self.scores.curves, grid, flat)
        within = _prior(places, places, curves, curves, grid, flat)
        means = np.einsum("jpn,jn->jp", across, self._weights[first, :known])
        explained = across @ self._inverse[first, :known, :known] @ across.transpose(0, 2, 1)
        share = counts / counts.sum()
        mean = share @ means
        away = means - mean
        covariance = np.einsum("j,jpq->pq", share, within - explained) + (away * share[:, None]).T @ away
        return mean + float(self.scores.seen.mean()), covariance

    @functools.cached_property
    def _distinct(self) -> tuple[Grid, Integers, Integers]:
        """The grid's places, each once; where each is first, and how often it is there."""
        rows = np.column_stack([self.grid.lengths, self.grid.amplitude, self.grid.offset, self.grid.training])
        _, first, counts = np.unique(rows, axis=0, return_index=True, return_counts=True)
        return self.grid.at(first), first, counts


def fit(scores: Scores) -> Posterior:
    """Give the posterior of at least 2 settings whose scores are not all equal; the same one at every call."""
    every = _grid(scores)
    weights = _weigh(scores, every)
    kept = every.at(_resampled(weights, _KEPT))
    return _posterior(scores, kept)


def paired_covariance(values: Floats) -> Floats:
    """Give the covariance (n, n) of the means of n settings over the m units that they share, from ``values`` (m, n).

    It is what a bootstrap of the units converges to: the units' covariance over m. Its part that settings do not share
    is shrunk towards equal and independent noise as far as m units leave it unknown (Ledoit and Wolf 2004, "A
    well-conditioned estimator for large-dimensional covariance matrices"): without that, n settings near m units would
    have directions that seem to have no noise.
    """
    units, settings = values.shape
    centred = values - values.mean(axis=0)
    if settings == 1:
        return np.asarray([[float(centred[:, 0] @ centred[:, 0]) / (units - 1) / units]])
    common = centred.mean(axis=1)
    own = centred - common[:, None]
    covariance = own.T @ own / units
    level = np.trace(covariance) / settings
    apart = float(np.sum((covariance - level * np.eye(settings)) ** 2))
    unsure = float(np.sum(np.sum(own**2, axis=1) ** 2) / units - np.sum(covariance**2)) / units
    share = min(1.0, unsure / apart) if apart > 0 else 1.0
    shrunk = (1 - share) * covariance + share * level * np.eye(settings)
    cross = (1 - share) * own.T @ common / units  # a setting that varies more than others with the unit's difficulty
    whole = shrunk + cross[:, None] + cross[None, :] + float(common @ common) / units
    return np.asarray(whole / (units - 1))


# ------------------------------------------------------------------------------------------------ the grid


def _grid(scores: Scores) -> Grid:
    """Give every combination of the hyperparameters' values, with the logarithm of its prior."""
    large, scale = len(scores.seen) > _LARGE, scores.scale
    lengths, length_logs = _lengths(scores.places.shape[1], coarse=large)
    low, high = (each * scale for each in _AMPLITUDES)
    several = len(np.unique(scores.curves)) > 1
    amplitudes = np.geomspace(low, high, 5 if large else 7)
    offsets = np.geomspace(low, high, 3 if large else 4) if several else np.asarray([low])
    trainings, training_logs = _trainings(scores, 5 if large else 7)
    sizes = (len(lengths), len(amplitudes), len(offsets), len(trainings))
    length, amplitude, offset, training = (each.reshape(-1) for each in np.indices(sizes))
    log_prior = (
        *(length_logs[length], _half_normal(amplitudes, 1.5 * scale)[amplitude]),
        *(_half_normal(offsets, scale)[offset], training_logs[training]),
    )
    return Grid(lengths[length], amplitudes[amplitude], offsets[offset], trainings[training], np.sum(log_prior, axis=0))


def _lengths(axes: int, *, coarse: bool) -> tuple[Floats, Floats]:
    """Give length scales (L, d), and their log prior (L,): log-normal about half the grid's width.

    Of three axes and more, one length for all.
    """
    values = np.geomspace(*_LENGTHS, 4 if coarse or axes > 1 else 6)
    logs = -0.5 * (np.log(values / 0.5) / 0.9) ** 2
    if axes > 2:  # noqa: PLR2004
        return np.repeat(values[:, None], axes, axis=1), logs
    indices = np.indices((len(values),) * axes).reshape(axes, -1).T
    return values[indices], logs[indices].sum(axis=1)


def _half_normal(values: Floats, scale: float) -> Floats:
    """Give the logarithm of a half-normal density times the value, as places are even in its logarithm."""
    return np.asarray(np.log(values) - 0.5 * (values / scale) ** 2)


def _trainings(scores: Scores, count: int) -> tuple[Floats, Floats]:
    """Give values of tau with the logarithms of their prior, in which the spread between seeds is accounted for.

    With f degrees of freedom, f spread^2 / (tau^2 + between) is chi-squared.
    """
    low, high = 0.03 * scores.scale, 1.5 * scores.scale
    fine = np.geomspace(low, max(high, 3 * scores.spread) if scores.freedom else high, 400)
    logs = _half_normal(fine, scores.scale)
    if scores.freedom:
        variance = fine**2 + scores.between
        logs -= 0.5 * scores.freedom * (np.log(variance) + scores.spread**2 / variance)
        mass = np.cumsum(np.exp(logs - logs.max()))
        first, last = np.searchsorted(mass, np.asarray([0.003, 0.997]) * mass[-1])
        low, high = fine[first], fine[min(int(last), len(fine) - 1)]
    values = np.geomspace(low, high, count)
    return values, np.interp(np.log(values), np.log(fine), logs)


# ------------------------------------------------------------------------------------------------ the posterior


def _weigh(scores: Scores, grid: Grid) -> Floats:
    """Give each place's share of the posterior: prior times marginal likelihood."""
    values = _centred(scores)
    size = len(values)
    logs = np.empty(len(grid))
    step = max(1, 4_000_000 // (size + 1) ** 2)
    for start in range(0, len(grid), step):
        part = grid.at(np.arange(start, min(start + step, len(grid))))
        prior, noise = _parts(scores, part)
        # The last row of the factor of [[V, y], [y', large]] is y' L^-T: no further solve is needed.
        bordered = np.empty((len(part), size + 1, size + 1))
        bordered[:, :size, :size] = prior + noise
        bordered[:, size, :size] = bordered[:, :size, size] = values
        bordered[:, size, size] = 1e12 * (1 + scores.scale**2)
        factor = np.linalg.cholesky(bordered)
        halves = np.log(np.diagonal(factor[:, :size, :size], axis1=1, axis2=2)).sum(axis=1)
        logs[start : start + len(part)] = -halves - 0.5 * np.sum(factor[:, size, :size] ** 2, axis=1)
    logs += grid.log_prior
    weights = np.exp(logs - logs.max())
    return np.asarray(weights / weights.sum())


def _resampled(weights: Floats, count: int) -> Integers:
    """Give ``count`` places, each as often as its weight says (systematic resampling, without chance)."""
    return np.searchsorted(np.cumsum(weights), (np.arange(count) + 0.5) / count).clip(0, len(weights) - 1)


def _posterior(scores: Scores, grid: Grid) -> Posterior:
    values, count = _centred(scores), len(scores.seen)
    centre = float(scores.seen.mean())
    prior, noise = _parts(scores, grid)
    inverse = np.linalg.inv(prior + noise)
    inverse = (inverse + inverse.transpose(0, 2, 1)) / 2
    weights = inverse @ values
    # What the scores are without their noise: exact where the prior is flat, as the prior itself does not enter.
    means = values - np.einsum("jab,jb->ja", noise, weights)
    covariances = noise - noise @ inverse @ noise
    random = np.random.default_rng(_SEED)
    drawn = random.standard_normal((len(grid), _EACH, len(values)))
    draws = means[:, None, :] + np.einsum("jab,jdb->jda", _roots(covariances), drawn) + centre
    draws = draws.reshape(-1, len(values))
    base = draws[:, count] if scores.based else np.full(len(draws), math.nan)
    return Posterior(scores, grid, draws[:, :count], np.repeat(grid.training, _EACH), base, weights, inverse)


def _roots(covariances: Floats) -> Floats:
    """Give a square root of each covariance; rounding may have left eigenvalues just below zero."""
    values, vectors = np.linalg.eigh(covariances)
    return np.asarray(vectors * np.sqrt(values.clip(0))[:, None, :])


def _centred(scores: Scores) -> Floats:
    """Give the scores less their mean, which is flat and so takes it up; the untrained model's last."""
    values = scores.seen if not scores.based else np.append(scores.seen, scores.base)
    return np.asarray(values - scores.seen.mean())


def _parts(scores: Scores, grid: Grid) -> tuple[Floats, Floats]:
    """Give the covariances (J, N, N) of what is expected, and of the noise."""
    count, size = len(scores.seen), len(scores.seen) + scores.based
    flat = _FLAT * scores.scale
    prior = np.zeros((len(grid), size, size))
    prior[:, :count, :count] = _prior(scores.places, scores.places, scores.curves, scores.curves, grid, flat)
    prior[:, count:, count:] = flat**2
    noise = np.repeat(scores.covariance[None, :size, :size], len(grid), axis=0)
    own = np.arange(count)
    noise[:, own, own] += grid.training[:, None] ** 2 / scores.seeds
    return prior, noise


def _prior(places: Floats, others: Floats, curves: Integers, other_curves: Integers, grid: Grid, flat: float) -> Floats:
    """Give the prior covariances (J, p, q) of the expected scores at places (p, d) and others (q, d)."""
    same = (curves[:, None] == other_curves[None, :]).astype(float)
    distinct, which = np.unique(grid.lengths, axis=0, return_inverse=True)
    kernels = np.asarray([matern(places, others, lengths) for lengths in distinct]) * same
    shared = kernels[which.reshape(-1)] * (grid.amplitude**2)[:, None, None]
    return np.asarray(shared + (grid.offset**2)[:, None, None] * same + flat**2)


def matern(places: Floats, others: Floats, lengths: Floats | Sequence[float]) -> Floats:
    """Give Matern's kernel of smoothness 5/2 between places (p, d) and others (q, d), a length scale for each axis."""
    apart = (places[:, None, :] - others[None, :, :]) / np.asarray(lengths)
    distance = math.sqrt(5) * np.sqrt(np.sum(apart**2, axis=2))
    return np.asarray((1 + distance + distance**2 / 3) * np.exp(-distance))
