"""Curves through noisy scores: against plain linear algebra, other libraries and simulated truth."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from analysis import gaussian
from analysis.gaussian import Floats, Scores

LENGTH, AMPLITUDE, OFFSET, TRAINING = 0.4, 0.7, 0.3, 0.2
BETAS = np.linspace(0, 1, 5)


@pytest.fixture
def at_one_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the grid of hyperparameters have one place."""
    monkeypatch.setattr(gaussian, "_lengths", lambda _: (np.asarray([[LENGTH]]), np.zeros(1)))
    monkeypatch.setattr(gaussian, "_amplitudes", lambda _: (np.asarray([AMPLITUDE]), np.asarray([OFFSET])))
    monkeypatch.setattr(gaussian, "_trained_within", lambda _: (TRAINING, TRAINING * (1 + 1e-9)))
    monkeypatch.setattr(gaussian, "_EACH", 400)


def scores_of(seed: int = 0) -> Scores:
    """Two losses at five betas, one or three seeds each, whose evaluations vary together; and an untrained model."""
    random = np.random.default_rng(seed)
    root = random.normal(size=(11, 11)) / 10
    return Scores(
        places=np.tile(BETAS, 2)[:, None],
        curves=np.repeat([0, 1], 5),
        seen=random.normal(size=10),
        covariance=root @ root.T + 0.01 * np.eye(11) + 0.05,
        seeds=np.tile([1.0, 3.0], 5),
        base=0.3,
    )


def kernel(one: float, other: float) -> float:
    """Matern's of smoothness 5/2, as in equation 4.17 of Rasmussen and Williams."""
    apart = abs(one - other) / LENGTH
    return (1 + math.sqrt(5) * apart + 5 * apart**2 / 3) * math.exp(-math.sqrt(5) * apart)


def covariance_of(scores: Scores, places: list[tuple[float, int]]) -> Floats:
    """The prior covariance of the expected scores at places on curves, entry by entry; None: the untrained model."""
    flat = scores.flat**2
    return np.asarray(
        [
            [
                (flat if one[1] == other[1] == -1 else 0 if -1 in {one[1], other[1]} else flat)
                + (one[1] == other[1] >= 0) * (AMPLITUDE**2 * kernel(one[0], other[0]) + OFFSET**2)
                for other in places
            ]
            for one in places
        ]
    )


def by_hand(scores: Scores, new: list[tuple[float, int]]) -> tuple[Floats, Floats]:
    """Mean and covariance of the expected scores at new places, by the formula for jointly normal variables."""
    old = [*zip(scores.places[:, 0].tolist(), scores.curves.tolist(), strict=True), (0.0, -1)]
    joint = covariance_of(scores, old + new)
    known, size = len(old), len(scores.seen)
    noise = scores.covariance.copy()
    noise[np.arange(size), np.arange(size)] += TRAINING**2 / scores.seeds
    centre = scores.seen.mean()
    gain = joint[known:, :known] @ np.linalg.inv(joint[:known, :known] + noise)
    mean = gain @ (np.append(scores.seen, scores.base) - centre) + centre
    return mean, joint[known:, known:] - gain @ joint[:known, known:]


@pytest.mark.usefixtures("at_one_place")
def test_predictions_are_those_of_jointly_normal_variables() -> None:
    """Between settings, beyond the grid, on either curve: mean and covariance are the conditional ones."""
    scores = replace(scores_of(), base=math.nan)
    new = [(0.1, 0), (0.5, 1), (1.4, 1)]
    # an untrained model whose evaluation is independent says nothing of the curves
    told = np.zeros((11, 11))
    told[:10, :10] = scores.covariance[:10, :10]
    told[10, 10] = 1
    mean, covariance = by_hand(replace(scores, covariance=told, base=0.0), new)
    found, spread = gaussian.fit(scores).predict(np.asarray([[x] for x, _ in new]), np.asarray([c for _, c in new]))
    assert found == pytest.approx(mean, abs=1e-6)
    assert spread == pytest.approx(covariance, abs=1e-6)


@pytest.mark.usefixtures("at_one_place")
def test_draws_have_the_moments_of_the_posterior() -> None:
    """Jointly, and with the untrained model, whose evaluation shares its units with the settings'."""
    scores = scores_of()
    posterior = gaussian.fit(scores)
    draws = np.column_stack([posterior.draws, posterior.base])
    old = [*zip(scores.places[:, 0].tolist(), scores.curves.tolist(), strict=True), (0.0, -1)]
    mean, covariance = by_hand(scores, old)
    errors = np.sqrt(np.diag(covariance) / len(draws))
    assert np.abs(draws.mean(axis=0) - mean).max() < 4.5 * errors.max()
    correlated = np.abs(np.cov(draws.T) - covariance) / np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)))
    assert correlated.max() < 0.03
    reruns = np.var(posterior.reruns, axis=0) - np.var(posterior.draws, axis=0)
    assert reruns == pytest.approx(np.full(10, TRAINING**2), abs=0.01)


@pytest.mark.usefixtures("at_one_place")
def test_predictions_are_scikit_learns() -> None:
    """Of one curve with independent noise, another library's regressor gives the same band."""
    process = pytest.importorskip("sklearn.gaussian_process")
    kernels = process.kernels
    scores = scores_of()
    own = Scores(
        scores.places[:5], scores.curves[:5], scores.seen[:5], np.diag([0.01, 0.02, 0.03, 0.02, 0.01]), scores.seeds[:5]
    )
    smooth = kernels.ConstantKernel(AMPLITUDE**2) * kernels.Matern(LENGTH, nu=2.5)
    other = process.GaussianProcessRegressor(
        smooth + kernels.ConstantKernel(OFFSET**2 + own.flat**2),
        alpha=np.diag(own.covariance) + TRAINING**2 / own.seeds,
        optimizer=None,
    )
    places = np.linspace(-0.2, 1.3, 7)[:, None]
    mean, deviation = other.fit(own.places, own.seen - own.seen.mean()).predict(places, return_std=True)
    found, covariance = gaussian.fit(own).predict(places, np.zeros(7, dtype=int))
    assert found - own.seen.mean() == pytest.approx(mean, abs=1e-6)
    assert np.sqrt(np.diag(covariance)) == pytest.approx(deviation, abs=1e-6)


def test_the_marginal_likelihood_is_the_normal_densitys() -> None:
    """At every place of the grid, but for one constant."""
    scores = scores_of(1)
    lengths, trainings = np.asarray([[0.2], [LENGTH]]), np.asarray([0.1, 0.5])
    amplitudes, offsets = np.asarray([0.3, 1.5]), np.asarray([0.2, 0.9, 2.0])
    ours = gaussian._decorrelated(scores, lengths, trainings).likelihoods(amplitudes, offsets)
    theirs = np.empty_like(ours)
    values = np.append(scores.seen, scores.base) - scores.seen.mean()
    same = scores.curves[:, None] == scores.curves[None, :]
    for index in np.ndindex(*ours.shape):
        length, training, amplitude, offset = (
            each[place] for each, place in zip((lengths, trainings, amplitudes, offsets), index, strict=True)
        )
        covariance = scores.covariance.copy()
        smooth = gaussian.matern(scores.places, scores.places, length)
        covariance[:10, :10] += (amplitude**2 * smooth + offset**2) * same + scores.flat**2
        covariance[np.arange(10), np.arange(10)] += training**2 / scores.seeds
        covariance[10, 10] += scores.flat**2
        theirs[index] = stats.multivariate_normal(np.zeros(11), covariance).logpdf(values)
    assert ours - ours.mean() == pytest.approx(theirs - theirs.mean(), abs=1e-5)
    assert np.ptp(theirs) > 3


def test_the_kernel_is_materns() -> None:
    """Along several axes it depends on the distance in length scales."""
    places = np.asarray([[0.0, 0.0], [0.4, 0.0], [0.0, 2.0]])
    found = gaussian.matern(places, places, [LENGTH, 2.0])
    assert found[0] == pytest.approx([1, kernel(0, LENGTH), kernel(0, LENGTH)])


# ------------------------------------------------------------------------------------------------ evaluation


def units(count: int, settings: int, seed: int = 3) -> Floats:
    """Scores of so many questions, easy and hard ones, under each setting."""
    random = np.random.default_rng(seed)
    difficulty = random.normal(0, 2, (count, 1))
    return difficulty + random.normal(0, 1, (count, settings)) * np.linspace(0.8, 1.2, settings)


def test_the_covariance_is_that_of_a_bootstrap_of_shared_units() -> None:
    """With many units it is what resampling them gives, of which little is shrunk."""
    values = units(400, 3)
    random = np.random.default_rng(4)
    means = np.asarray([values[random.integers(0, 400, 400)].mean(axis=0) for _ in range(4000)])
    found = gaussian.paired_covariance(values)
    assert found == pytest.approx(np.cov(means.T), rel=0.1)
    contrast = np.asarray([1.0, -1.0, 0.0])
    assert contrast @ found @ contrast == pytest.approx(np.var(values[:, 0] - values[:, 1], ddof=1) / 400, rel=0.1)


def test_few_units_leave_no_direction_without_noise() -> None:
    """Twenty settings on 24 questions: the plain covariance has contrasts that are nearly sure, ours has none."""
    values = units(24, 20)
    centre = np.eye(20) - 1 / 20
    plain, ours = (
        np.linalg.eigvalsh(centre @ each @ centre)[1:]
        for each in (np.cov(values.T) / 24, gaussian.paired_covariance(values))
    )
    assert plain.min() < 0.05 / 24
    assert ours.min() > 0.4 / 24
    assert ours.sum() == pytest.approx(plain.sum(), rel=0.01)


def test_hard_questions_move_the_level_and_no_difference() -> None:
    """What all settings share widens what one scores, not by how much it beats another, or the untrained model."""
    random = np.random.default_rng(5)
    truth = np.append(-np.square(BETAS - 0.5), -0.5)
    own = truth + random.normal(0, 0.4, (100, 6))
    widths = {}
    for name, difficulty in (("alike", 0.0), ("hard and easy", 3.0)):
        values = own + difficulty * random.normal(0, 1, (100, 1))
        means = values.mean(axis=0)
        scores = Scores(
            BETAS[:, None], np.zeros(5, dtype=int), means[:5], gaussian.paired_covariance(values), np.ones(5), means[5]
        )
        posterior = gaussian.fit(scores)
        level, gain = posterior.draws[:, 2], posterior.draws[:, 2] - posterior.base
        widths[name] = level.std(), gain.std(), (posterior.draws[:, 2] - posterior.draws[:, 0]).std()
    assert widths["hard and easy"][0] > 2.5 * widths["alike"][0]
    assert widths["hard and easy"][1:] == pytest.approx(widths["alike"][1:], rel=0.1)


# ------------------------------------------------------------------------------------------------ hyperparameters


def noisy(truth: Callable[[Floats], Floats], tau: float, seeds: int, seed: int) -> Scores:
    """Three losses of ten betas with so much training noise and hardly any of the evaluation."""
    random = np.random.default_rng(seed)
    places = np.tile(np.linspace(0, 1, 10), 3)
    runs = truth(places)[:, None] + random.normal(0, tau, (30, seeds))
    known = {"spread": math.sqrt(runs.var(axis=1, ddof=1).mean()), "freedom": 30.0 * (seeds - 1)} if seeds > 1 else {}
    return Scores(
        places[:, None],
        np.repeat([0, 1, 2], 10),
        runs.mean(axis=1),
        1e-4 * np.eye(30),
        np.full(30, float(seeds)),
        **known,
    )


def test_many_settings_tell_the_training_noise_closely() -> None:
    """Of 150 settings it is known to a few parts in a hundred, finer than the grid that is tried first."""
    random = np.random.default_rng(10)
    places = np.tile(np.linspace(0, 1, 50), 3)
    for tau in (0.07, 0.1, 0.13):
        seen = -np.square(places - 0.4) + random.normal(0, tau, 150)
        scores = Scores(places[:, None], np.repeat([0, 1, 2], 50), seen, 1e-6 * np.eye(150), np.ones(150))
        assert gaussian.fit(scores).noise.mean() == pytest.approx(tau, rel=0.15)


@pytest.mark.parametrize("tau", [0.05, 0.3])
def test_seeds_tell_the_training_noise_and_so_does_scatter(tau: float) -> None:
    """Within a third of its true value: from three seeds a setting, and from one, about a smooth curve."""
    for seeds in (3, 1):
        scores = noisy(lambda x: -np.square(x - 0.4), tau, seeds, 6)
        assert gaussian.fit(scores).noise.mean() == pytest.approx(tau, rel=0.34)


def test_what_evaluating_alone_makes_between_seeds_is_no_training_noise() -> None:
    """Seeds that differ by no more than their evaluations do say that training has next to no noise."""
    scores = replace(noisy(np.zeros_like, 0.2, 3, 7), covariance=np.eye(30) * 0.2**2 / 3)
    told, ignored = replace(scores, between=0.2**2), scores
    assert gaussian.fit(told).noise.mean() < 0.08
    assert gaussian.fit(ignored).noise.mean() > 0.16


def test_neighbours_count_where_scores_are_smooth() -> None:
    """The highest of noisy scores is drawn back towards its neighbours; one that all surround is not."""
    lucky = noisy(lambda x: -np.square(x - 0.4), 0.02, 1, 8)
    seen = lucky.seen.copy()
    seen[9] += 1.5  # at the far end, where its neighbours have less
    fluke = gaussian.fit(replace(lucky, seen=seen)).draws[:, 9].mean()
    assert fluke < seen[9] - 0.5
    assert gaussian.fit(lucky).draws[:, 4].mean() == pytest.approx(lucky.seen[4], abs=0.05)


def test_the_same_scores_have_the_same_posterior() -> None:
    """Shifted and scaled scores, too: nothing depends on the unit of a measure."""
    scores = scores_of()
    once, again = gaussian.fit(scores), gaussian.fit(scores)
    assert (once.draws == again.draws).all()
    moved = replace(scores, seen=7 + 100 * scores.seen, covariance=100**2 * scores.covariance, base=7 + 100 * 0.3)
    assert gaussian.fit(moved).draws == pytest.approx(7 + 100 * once.draws, rel=1e-6, abs=1e-4)


def test_hundreds_of_settings_take_a_coarser_grid() -> None:
    """Of 402 settings the posterior is narrow: fewer hyperparameters are tried, and the curve is found as well."""
    random = np.random.default_rng(9)
    places = np.tile(np.linspace(0, 1, 134), 3)
    truth = -np.square(places - 0.4)
    scores = Scores(
        places[:, None],
        np.repeat([0, 1, 2], 134),
        truth + random.normal(0, 0.1, 402),
        1e-4 * np.eye(402),
        np.ones(402),
    )
    posterior = gaussian.fit(scores)
    assert np.unique(posterior.grid.lengths).size <= 4
    assert posterior.noise.mean() == pytest.approx(0.1, rel=0.15)
    assert np.sqrt(np.mean((posterior.draws.mean(axis=0) - truth) ** 2)) < 0.04
