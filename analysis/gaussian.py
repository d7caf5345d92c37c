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
from dataclasses import dataclass, replace

import numpy as np

Floats = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
Integers = np.ndarray[tuple[int, ...], np.dtype[np.int64]]

_SEED = 20240118  # the same answer at every reading
_LARGE = 400  # settings; above, the posterior is narrow and the grid of what costs most is a coarser one
_NEARLY_ALL, _NEAR = 0.9, 1.1  # share of the weight on one tau, and the factor between two, from which on it is refined
_KEPT, _EACH = 128, 16  # places of the grid that are kept, as often as their weight says; draws from each
_FLAT = 30.0  # standard deviation of what is flat, in those of the scores
# The grid of hyperparameters, and their priors.
_LENGTHS = (0.1, 3.0)  # from and to, in widths of the axis
_LENGTH = (0.5, 0.9)  # log-normal: median, and standard deviation of the logarithm
_AMPLITUDES = (0.05, 4.0)  # s and w from and to, in standard deviations of the scores
_CURVE, _OFFSET = 1.5, 1.0  # c of s and of w, whose density is v^(-1/2) exp(-v^2 / 2 c^2), in the same
_TRAININGS = (0.03, 1.5)  # tau from and to, in standard deviations of single runs' scores
_TRAINING = 1.0  # half-normal: its scale, in the same


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

    @property
    def large(self) -> bool:
        """Whether there are hundreds of settings."""
        return len(self.seen) > _LARGE

    def thinned(self) -> Scores:
        """Give some of the settings, evenly picked, without the untrained model."""
        own = np.arange(0, len(self.seen), math.ceil(2 * len(self.seen) / _LARGE))
        picked = {name: getattr(self, name)[own] for name in ("places", "curves", "seen", "seeds")}
        return replace(self, **picked, covariance=self.covariance[np.ix_(own, own)], base=math.nan)

    @property
    def scale_of_runs(self) -> float:
        """The standard deviation of the scores of single runs, of which seeds average several."""
        averaged = float(np.mean(1 - 1 / self.seeds)) * self.spread**2 if self.freedom else 0.0
        return math.sqrt(self.scale**2 + averaged)

    @property
    def flat(self) -> float:
        """The standard deviation of what is flat."""
        return _FLAT * self.scale


@dataclass(frozen=True)
class Grid:
    """J places: ``lengths`` (J, d), ``amplitude`` s, ``offset`` w, ``training`` tau, ``weight``, each (J,)."""

    lengths: Floats
    amplitude: Floats
    offset: Floats
    training: Floats
    weight: Floats


@dataclass(frozen=True)
class Posterior:
    """What is known of the settings' expected scores, once the scores were seen.

    ``draws`` (D, n): joint draws of m + o + f at the settings, which is what a retraining scores on average and by an
    endless evaluation; ``noise`` (D,): the training noise tau that goes with each; ``base`` (D,): the untrained model's
    expected score (NaN without one). ``grid``: the likeliest hyperparameters, their weights adding up to 1.
    """

    scores: Scores
    grid: Grid
    draws: Floats
    noise: Floats
    base: Floats

    @functools.cached_property
    def reruns(self) -> Floats:
        """Draws (D, n) of what one retraining of each setting would score: training noise comes to the expectation."""
        random = np.random.default_rng(_SEED + 1)
        return np.asarray(self.draws + self.noise[:, None] * random.standard_normal(self.draws.shape))

    def predict(self, places: Floats, curves: Integers) -> tuple[Floats, Floats]:
        """Give mean (p,) and covariance (p, p) of the expected score at any ``places`` (p, d) on ``curves`` (p,).

        Moments of the posterior, the grid averaged over. (ibid., equations 2.25 and 2.26)
        """
        scores, weight = self.scores, self.grid.weight
        seen, inverse = self._solved
        across = _prior(places, scores.places, curves, scores.curves, self.grid, scores.flat)
        within = _prior(places, places, curves, curves, self.grid, scores.flat)
        means = np.einsum("jpn,jn->jp", across, seen)
        explained = across @ inverse @ across.transpose(0, 2, 1)
        mean = weight @ means
        away = means - mean
        covariance = np.einsum("j,jpq->pq", weight, within - explained) + (away * weight[:, None]).T @ away
        return np.asarray(mean + scores.seen.mean()), np.asarray(covariance)

    @functools.cached_property
    def _solved(self) -> tuple[Floats, Floats]:
        """The inverse covariance (J, n, n) of the scores, and it times the scores (J, n)."""
        scores, count = self.scores, len(self.scores.seen)
        prior = _prior(scores.places, scores.places, scores.curves, scores.curves, self.grid, scores.flat)
        inverse = np.linalg.inv(prior + _noise(scores, self.grid.training)[:, :count, :count])
        return np.asarray(inverse @ (scores.seen - scores.seen.mean())), np.asarray(inverse)


def fit(scores: Scores) -> Posterior:
    """Give the posterior of at least 2 settings whose scores are not all equal; the same one at every call."""
    places = _places(scores, *_trained_within(scores))
    while closer := _closer(places):
        places = _places(scores, *closer)
    kept = _resampled(np.exp(places.logs - places.logs.max()), _KEPT)
    length, training, amplitude, offset = np.unravel_index(kept, places.logs.shape)
    drawn = places.apart.draws(length, training, places.amplitudes[amplitude], places.offsets[offset])
    _, first, often = np.unique(kept, return_index=True, return_counts=True)
    grid = Grid(
        places.lengths[length[first]],
        places.amplitudes[amplitude[first]],
        places.offsets[offset[first]],
        places.trainings[training[first]],
        often / len(kept),
    )
    count = len(scores.seen)
    base = drawn[:, count] if scores.based else np.full(len(drawn), math.nan)
    return Posterior(scores, grid, drawn[:, :count], np.repeat(places.trainings[training], _EACH), base)


def paired_covariance(values: Floats, alike: Floats | None = None) -> Floats:
    """Give the covariance (n, n) of the means of n settings over the m units that they share, from ``values`` (m, n).

    It is what a bootstrap of the units converges to: the units' covariance over m. Its part that settings do not share
    is shrunk towards equal and independent noise as far as m units leave it unknown (Ledoit and Wolf 2004, "A
    well-conditioned estimator for large-dimensional covariance matrices"): without that, n settings near m units would
    have directions that seem to have no noise. ``alike`` (n, n), whose rows add up to 0, is what equal noise makes of
    this part, but for a factor, where settings lack units.
    """
    units, settings = values.shape
    centred = values - values.mean(axis=0)
    if settings == 1:
        return np.asarray([[float(centred[:, 0] @ centred[:, 0]) / (units - 1) / units]])
    common = centred.mean(axis=1)
    own = centred - common[:, None]
    covariance = own.T @ own / units
    if alike is None:
        equal = (np.eye(settings) - 1 / settings) * np.trace(covariance) / (settings - 1)  # noise that differences have
    else:
        equal = alike * np.trace(covariance) / np.trace(alike)
    apart = float(np.sum((covariance - equal) ** 2))
    unsure = float(np.sum(np.sum(own**2, axis=1) ** 2) / units - np.sum(covariance**2)) / units
    share = min(1.0, unsure / apart) if apart > 0 else 1.0
    shrunk = (1 - share) * covariance + share * equal
    cross = (1 - share) * own.T @ common / units  # a setting that varies more than others with the unit's difficulty
    whole = shrunk + cross[:, None] + cross[None, :] + float(common @ common) / units
    return np.asarray(whole / (units - 1))


# ------------------------------------------------------------------------------------------------ the grid


@dataclass(frozen=True)
class _Places:
    """All combinations of some values of each hyperparameter, with ``logs`` (L, T, S, W) of prior times likelihood."""

    lengths: Floats
    trainings: Floats
    amplitudes: Floats
    offsets: Floats
    apart: _Decorrelated
    logs: Floats


def _places(scores: Scores, low: float, high: float) -> _Places:
    """Weigh the grid whose values of tau are within these."""
    lengths, length_logs = _lengths(scores)
    trainings = np.geomspace(low, high, 4 if scores.large else 7)
    amplitudes, offsets = _amplitudes(scores)
    apart = _decorrelated(scores, lengths, trainings)
    logs = (
        apart.likelihoods(amplitudes, offsets)
        + length_logs[:, None, None, None]
        + _of_training(scores, trainings)[:, None, None]
        + _small(amplitudes, _CURVE * scores.scale)[:, None]
        + _small(offsets, _OFFSET * scores.scale)
    )
    return _Places(lengths, trainings, amplitudes, offsets, apart, logs)


def _closer(places: _Places) -> tuple[float, float] | None:
    """Give a narrower range for tau, where nearly all weight is on one value and its neighbours are not near."""
    share = np.exp(places.logs - places.logs.max()).sum(axis=(0, 2, 3))
    best, last = int(share.argmax()), len(share) - 1
    if share[best] < _NEARLY_ALL * share.sum() or places.trainings[1] < _NEAR * places.trainings[0]:
        return None
    return float(places.trainings[max(best - 1, 0)]), float(places.trainings[min(best + 1, last)])


def _amplitudes(scores: Scores) -> tuple[Floats, Floats]:
    """Give values of s and of w; of one curve alone no offset can be told."""
    low, high = (each * scores.scale for each in _AMPLITUDES)
    several = len(np.unique(scores.curves)) > 1
    return np.geomspace(low, high, 9), np.geomspace(low, high, 6) if several else np.asarray([low])


def _lengths(scores: Scores) -> tuple[Floats, Floats]:
    """Give length scales (L, d), and their log prior (L,): log-normal about half the grid's width.

    Of three axes and more, one length for all.
    """
    axes = scores.places.shape[1]
    count = (3 if axes > 1 else 4) if scores.large else (4 if axes > 1 else 6)
    values = np.geomspace(*_LENGTHS, count)
    logs = -0.5 * (np.log(values / _LENGTH[0]) / _LENGTH[1]) ** 2
    if axes > 2:  # noqa: PLR2004
        return np.repeat(values[:, None], axes, axis=1), logs
    indices = np.indices((len(values),) * axes).reshape(axes, -1).T
    return values[indices], logs[indices].sum(axis=1)


def _half_normal(values: Floats, scale: float) -> Floats:
    """Give the logarithm of a half-normal density times the value, as places are even in its logarithm."""
    return np.asarray(np.log(values) - 0.5 * (values / scale) ** 2)


def _small(values: Floats, scale: float) -> Floats:
    """Give the same of a density that is larger near 0: settings, or losses, may well be all alike."""
    return np.asarray(_half_normal(values, scale) - 0.5 * np.log(values))


def _of_training(scores: Scores, trainings: Floats) -> Floats:
    """Give the logarithms of the prior of values of tau, the spread between seeds accounted for.

    With f degrees of freedom, f spread^2 / (tau^2 + between) is chi-squared.
    """
    logs = _half_normal(trainings, _TRAINING * scores.scale_of_runs)
    if scores.freedom:
        variance = trainings**2 + scores.between
        logs -= 0.5 * scores.freedom * (np.log(variance) + scores.spread**2 / variance)
    return logs


def _trained_within(scores: Scores) -> tuple[float, float]:
    """Give a range that holds tau: by seeds, where there are; of hundreds of settings, by what some of them say."""
    low, high = (each * scores.scale_of_runs for each in _TRAININGS)
    if scores.large:
        noise = fit(scores.thinned()).noise
        return 0.8 * float(noise.min()), 1.25 * float(noise.max())
    if not scores.freedom:
        return low, high
    fine = np.geomspace(low, max(high, 3 * scores.spread), 400)
    logs = _of_training(scores, fine)
    mass = np.cumsum(np.exp(logs - logs.max()))
    first, last = np.searchsorted(mass, np.asarray([0.003, 0.997]) * mass[-1])
    return float(fine[first]), float(fine[min(int(last), len(fine) - 1)])


def _resampled(weights: Floats, count: int) -> Integers:
    """Give ``count`` flat indices, each as often as its weight says (systematic resampling, without chance)."""
    cumulated = np.cumsum(weights)
    wanted = cumulated[-1] * (np.arange(count) + 0.5) / count
    return np.asarray(np.searchsorted(cumulated, wanted).clip(0, weights.size - 1))


# ------------------------------------------------------------------------------------------------ the posterior


@dataclass(frozen=True)
class _Decorrelated:
    """The scores in bases, one for each length scale (L) and training noise (T), in which all but offsets is apart.

    There the noise is 1 everywhere, and the curves of amplitude 1 have the variances ``curved`` (L, T, N). ``seen``
    (L, T, N), and ``offsets`` (L, T, N, q), which are what each offset adds to the scores, are in that basis;
    ``factor`` (T, N, N), Cholesky's of the noise, times ``vectors`` (L, T, N, N) leads out of it. ``log_root`` (T,):
    half the logarithm of the noise's determinant. So one eigenvalue problem serves all amplitudes and offsets.
    """

    curved: Floats
    seen: Floats
    offsets: Floats
    factor: Floats
    vectors: Floats
    log_root: Floats
    flat: Floats  # (q,) the standard deviation of what is flat, 0 of the curves' own offsets
    centre: float

    def likelihoods(self, amplitudes: Floats, offsets: Floats) -> Floats:
        """Give the logarithm of the marginal likelihood (L, T, S, W), but for a constant."""
        variance = 1 + amplitudes[:, None] ** 2 * self.curved[:, :, None, :]
        known, seen = self._about_offsets(self.seen[:, :, None, :], self.offsets[:, :, None], variance)
        spread = self._spread(offsets)
        size = spread.shape[-1]
        # The last row of the factor of [[M, b], [b', large]] is b' L^-T: no further solve is needed.
        bordered = np.zeros((*known.shape[:3], len(offsets), size + 1, size + 1))
        bordered[..., :size, :size] = known[..., None, :, :]
        bordered[..., np.arange(size), np.arange(size)] += spread**-2.0
        bordered[..., size, :size] = seen[..., None, :]
        total = np.sum(self.seen[:, :, None, :] ** 2 / variance, axis=-1)
        bordered[..., size, size] = 2 * total[..., None] + 1
        factor = np.linalg.cholesky(bordered)
        halves = np.log(np.diagonal(factor[..., :size, :size], axis1=-2, axis2=-1)).sum(axis=-1)
        halves += np.log(spread).sum(axis=-1) + 0.5 * np.log(variance).sum(axis=-1)[..., None]
        halves += self.log_root[:, None, None]
        explained = np.sum(factor[..., size, :size] ** 2, axis=-1)
        return np.asarray(-halves - 0.5 * (total[..., None] - explained))

    def draws(self, length: Integers, training: Integers, amplitude: Floats, offset: Floats) -> Floats:
        """Give draws (J x _EACH, N) of the expected scores, at J places: first of the offsets, then of the curves."""
        random = np.random.default_rng(_SEED)
        curved = amplitude[:, None] ** 2 * self.curved[length, training]
        seen, offsets = self.seen[length, training], self.offsets[length, training]
        known, explained = self._about_offsets(seen, offsets, 1 + curved)
        spread = self._spread(offset)
        size = spread.shape[-1]
        known[:, np.arange(size), np.arange(size)] += spread**-2.0
        factor = np.linalg.inv(np.linalg.cholesky(known))  # of the inverse of the offsets' covariance
        mean = factor.transpose(0, 2, 1) @ (factor @ explained[..., None])
        drawn = mean + factor.transpose(0, 2, 1) @ random.standard_normal((len(length), size, _EACH))
        shifts = offsets @ drawn
        share = (curved / (1 + curved))[..., None]
        found = random.standard_normal(shifts.shape)
        found *= np.sqrt(share)
        found += share * seen[..., None] + (1 - share) * shifts
        for basis in set(zip(length.tolist(), training.tolist(), strict=True)):
            own = (length == basis[0]) & (training == basis[1])
            found[own] = self.factor[basis[1]] @ (self.vectors[basis] @ found[own])
        return np.asarray(found.transpose(0, 2, 1).reshape(-1, seen.shape[1]) + self.centre)

    @staticmethod
    def _about_offsets(seen: Floats, offsets: Floats, variance: Floats) -> tuple[Floats, Floats]:
        """Give what the scores say of the offsets: their precision (..., q, q), and it times their values (..., q)."""
        weighed = offsets / variance[..., None]
        turned = weighed.swapaxes(-1, -2)
        return turned @ offsets, (turned @ seen[..., None])[..., 0]

    def _spread(self, offsets: Floats) -> Floats:
        """Give the prior standard deviation (W, q) of each offset."""
        return np.where(self.flat > 0, self.flat, offsets[:, None])


def _decorrelated(scores: Scores, lengths: Floats, trainings: Floats) -> _Decorrelated:
    count, size = len(scores.seen), len(scores.seen) + scores.based
    kernels = np.zeros((len(lengths), 1, size, size))
    same = scores.curves[:, None] == scores.curves[None, :]
    kernels[:, 0, :count, :count] = [matern(scores.places, scores.places, each) * same for each in lengths]
    factor = np.asarray(np.linalg.cholesky(_noise(scores, trainings)), dtype=float)
    inverse = np.linalg.inv(factor)
    values, vectors = np.linalg.eigh(inverse @ kernels @ inverse.transpose(0, 2, 1))
    names = np.unique(scores.curves)
    offsets = np.zeros((size, len(names) + 1 + scores.based))
    offsets[:count, : len(names)] = scores.curves[:, None] == names
    offsets[:count, len(names)] = 1
    offsets[count:, len(names) + 1 :] = 1
    centre = float(scores.seen.mean())
    seen = np.append(scores.seen, scores.base)[:size] - centre
    into = vectors.swapaxes(-1, -2) @ (inverse @ np.column_stack([seen, offsets]))
    signs = np.where(into[..., :1] < 0, -1, 1)  # a vector's own is arbitrary, and rounding would choose the draws
    vectors, into = vectors * signs.swapaxes(-1, -2), into * signs
    log_root = np.log(np.diagonal(factor, axis1=1, axis2=2)).sum(axis=1)
    flat = np.where(np.arange(offsets.shape[1]) < len(names), 0, scores.flat)
    return _Decorrelated(values.clip(0), into[..., 0], into[..., 1:], factor, vectors, log_root, flat, centre)


def _noise(scores: Scores, trainings: Floats) -> Floats:
    """Give the covariance (T, N, N) of the noise for each tau (T,); a trace of it where none is known."""
    size, own = len(scores.seen) + scores.based, np.arange(len(scores.seen))
    noise = np.repeat(scores.covariance[None, :size, :size], len(trainings), axis=0)
    noise[:, own, own] += trainings[:, None] ** 2 / scores.seeds
    noise[:, np.arange(size), np.arange(size)] += (1e-6 * scores.scale) ** 2
    return noise


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
