"""What further runs would tell: against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from analysis import knowledge


def expected_maximum(apart: float, spread: float) -> float:
    """E[max(0, apart + spread Z)]."""
    return apart * float(stats.norm.cdf(apart / spread)) + spread * float(stats.norm.pdf(apart / spread))


@pytest.mark.parametrize("correlation", [-0.5, 0.0, 0.6])
def test_the_gain_of_one_run_is_that_of_the_closed_form(correlation: float) -> None:
    """Two settings: by how much a run of the one raises the higher of both expected scores, their errors correlated."""
    mean, noise, shared = np.asarray([0.2, 0.0]), 0.25, correlation * 0.6 * 0.4
    covariance = np.asarray([[0.36, shared], [shared, 0.16]])
    (choice,) = knowledge.choose(mean, covariance, np.asarray([0, 1]), noise, 1)
    shifts = covariance / np.sqrt(np.diag(covariance) + noise)[:, None]
    gains = [expected_maximum(-0.2, abs(shift[1] - shift[0])) for shift in shifts]
    assert choice.place == int(np.argmax(gains))
    assert choice.gain == pytest.approx(max(gains), rel=0.02)


def test_a_setting_nobody_trained_is_worth_that_it_can_be_named_then() -> None:
    """Known exactly to be better by 0.3: its run gains 0.3, though it tells nothing."""
    (choice,) = knowledge.choose(np.asarray([0.0, 0.3]), np.zeros((2, 2)), np.asarray([0]), 0.01, 1)
    assert (choice.place, choice.gain) == (1, pytest.approx(0.3))


def test_a_second_run_counts_what_the_first_will_have_told() -> None:
    """Of two that are equally unsure the first takes one and the second the other; together they gain as in draws."""
    mean, covariance, noise = np.zeros(3), np.diag([1e-12, 1.0, 1.0]), 0.01
    first, second = knowledge.choose(mean, covariance, np.asarray([0, 1, 2]), noise, 2)
    assert {first.place, second.place} == {1, 2}
    spread = 1 / math.sqrt(1.01)
    draws = np.random.default_rng(1).standard_normal((400_000, 2)) * spread
    together = np.maximum(draws.max(axis=1), 0).mean()
    assert first.gain == pytest.approx(expected_maximum(0, spread), rel=0.02)
    assert first.gain + second.gain == pytest.approx(together, rel=0.03)


def test_where_one_run_changes_nothing_it_is_still_the_most_hopeful() -> None:
    """The best leads by far more than a run could tell: of the others the one that may be better comes first."""
    mean = np.asarray([1.0, 0.0, 0.0])
    covariance = np.diag([1e-6, 1e-3, 4e-3])
    (choice,) = knowledge.choose(mean, covariance, np.asarray([0, 1, 2]), 100.0, 1)
    assert (choice.place, choice.gain) == (2, 0.0)


def test_shares_are_those_of_joint_draws() -> None:
    """Two that are alike share what is left beside one that is never the best."""
    shares = knowledge.shares(np.asarray([0.0, 0.0, -9.0]), np.diag([1.0, 1.0, 1.0]))
    assert shares == pytest.approx([0.5, 0.5, 0.0], abs=0.03)
