"""The numbers of a report, against scipy, hand-made numbers and simulated truth."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from test_analysis_read import Row, base_row, grid, run_row, write_rows

import analysis
from analysis import intervals, statistics
from analysis.best import Best, best_settings
from analysis.figures.axes import Axis, place, spread_evenly_in_log
from analysis.measures import ACCURACY, GOLDEN


def estimated(folder: Path, rows: list[Row]) -> pd.DataFrame:
    return statistics.with_estimates(analysis.load(write_rows(folder, rows)))


def chosen(frame: pd.DataFrame) -> list[Best]:
    """The best settings, seeds pooled."""
    return best_settings(statistics.settings(frame))


def test_the_paired_interval_is_scipys() -> None:
    """Resampling differences gives scipy's paired bootstrap of a difference of means."""
    noise = np.random.default_rng(1)
    base = noise.normal(size=50)
    run = base + noise.normal(0.3, 0.4, size=50)
    ours = intervals.paired_difference(run.tolist(), base.tolist())
    scipys = stats.bootstrap(
        (run, base),
        lambda one, two, axis: one.mean(axis=axis) - two.mean(axis=axis),
        paired=True,
        rng=np.random.default_rng(2),
    ).confidence_interval
    assert ours.value == pytest.approx(run.mean() - base.mean())
    assert (ours.low, ours.high) == pytest.approx((scipys.low, scipys.high), abs=0.01)
    assert ours.method == "paired"


@pytest.mark.parametrize(("size", "method"), [(12, "BCa"), (64, "BCa"), (1500, "percentile")])
def test_a_means_interval_is_scipys(size: int, method: str) -> None:
    """Of a skewed sample, from the same resamples: the limits are the same numbers."""
    values = np.random.default_rng(7).lognormal(size=size)
    ours = intervals.mean_interval(values.tolist(), resamples=1999)
    scipys = stats.bootstrap(
        (values,), np.mean, n_resamples=1999, method=method, rng=np.random.default_rng(intervals._SEED)
    ).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((scipys.low, scipys.high), rel=1e-4)


def test_the_paired_interval_covers_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over simulated sweeps whose true difference is known, 95 % intervals hold it about as often as they say."""
    monkeypatch.setattr(intervals, "RESAMPLES", 999)
    noise = np.random.default_rng(3)
    hits = 0
    for _ in range(400):
        base = noise.exponential(size=40)  # skewed, as rewards near their bound are
        run = base + noise.normal(0.2, 0.5, size=40)
        estimate = intervals.paired_difference(run.tolist(), base.tolist())
        hits += estimate.low <= 0.2 <= estimate.high
    assert 0.91 <= hits / 400 <= 0.985


def test_pairing_is_worth_it() -> None:
    """Generations of one prompt vary together, so the paired interval is much narrower than the unpaired one."""
    noise = np.random.default_rng(4)
    base = noise.normal(size=60)
    run = base + noise.normal(0.2, 0.1, size=60)
    paired = intervals.paired_difference(run.tolist(), base.tolist())
    unpaired = intervals.paired_difference(run.tolist(), base[:-1].tolist())
    assert unpaired.method == "unpaired"
    assert (paired.high - paired.low) * 3 < unpaired.high - unpaired.low


def test_the_unpaired_interval_is_welchs() -> None:
    """Lists that cannot be paired give about the interval of Welch's t-test."""
    noise = np.random.default_rng(5)
    one, two = noise.normal(1, 1, size=80), noise.normal(0, 2, size=120)
    ours = intervals.paired_difference(one.tolist(), two.tolist())
    welch = stats.ttest_ind(one, two, equal_var=False).confidence_interval()
    assert (ours.low, ours.high) == pytest.approx((welch.low, welch.high), abs=0.05)


@pytest.mark.parametrize(
    ("values", "value", "known"),
    [
        ([], math.nan, False),
        ([0.5], 0.5, False),
        ([0.5, 0.5, 0.5], 0.5, True),
        ([math.nan, 0.25, math.inf, 0.75], 0.5, True),
        ([1e308, 1e308, -1e308], 1e308 / 3, False),
    ],
)
def test_samples_without_a_spread_or_a_size(values: list[float], value: float, known: bool) -> None:
    """Nothing, one value, equal values, infinities and overflowing sums give a value or NaN, never a crash."""
    estimate = intervals.mean_interval(values)
    assert estimate.value == pytest.approx(value, nan_ok=True)
    assert estimate.known is known


def test_an_accuracy_has_wilsons_interval() -> None:
    """The textbook case: 8 of 10 are 0.49 to 0.94 (Wilson), and all of 10 still leave room for doubt."""
    estimate = intervals.proportion_interval(0.8, 10)
    assert (estimate.low, estimate.high) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    everything = intervals.proportion_interval(1.0, 10)
    assert (everything.low, everything.high) == pytest.approx((0.7225, 1.0), abs=1e-4)
    assert not intervals.proportion_interval(math.nan, 10).known
    assert not intervals.proportion_interval(0.5, 0).known


def test_a_standard_error_makes_a_normal_interval() -> None:
    """Without the list of rewards, the interval is 1.96 standard errors wide on either side."""
    estimate = intervals.normal_interval(0.5, 0.1)
    assert (estimate.low, estimate.high) == pytest.approx((0.304, 0.696), abs=1e-3)


def test_the_best_is_chosen_per_model_and_loss(tmp_path: Path) -> None:
    """The highest golden reward of each group, compared with its own model's base."""
    frame = estimated(tmp_path, grid())
    best = {(each.row["model"], each.row["loss_type"]): each for each in chosen(frame)}
    assert len(best) == 6
    ipo = frame[(frame["model"] == "small") & (frame["loss_type"] == "ipo")]
    found = best["small", "ipo"]
    assert found.row["run_id"] == ipo.loc[ipo["golden_reward"].idxmax(), "run_id"]
    base = float(frame[(frame["kind"] == "base") & (frame["model"] == "small")].iloc[0]["golden_reward"])
    assert found.difference.value == pytest.approx(found.row["golden_reward"] - base)


def test_the_best_of_many_gets_a_wider_interval(tmp_path: Path) -> None:
    """Bonferroni: the best of k is judged at level 1 - 0.05 / k, whose interval holds the plain one."""
    rows = [base_row(), *(run_row(beta=beta) for beta in (0.1, 0.2, 0.3, 0.4, 0.5))]
    best = chosen(estimated(tmp_path, rows))[0]
    assert best.looked_at == 5
    assert best.corrected.confidence == pytest.approx(0.99)
    assert best.corrected.low < best.difference.low < best.difference.high < best.corrected.high


def test_choosing_among_useless_settings_seldom_looks_like_a_find(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 10 settings that all equal the base, the best is called better in few of many simulated sweeps."""
    monkeypatch.setattr(intervals, "RESAMPLES", 1999)
    noise = np.random.default_rng(6)
    plain = corrected = 0
    for _ in range(60):
        differences = noise.normal(0, 0.3, size=(10, 40))
        best = differences[differences.mean(axis=1).argmax()].tolist()
        plain += intervals.mean_interval(best).low > 0
        corrected += intervals.mean_interval(best, 0.995).low > 0
    assert plain >= 10  # this is why the correction is needed
    assert corrected <= 5


def test_accuracy_stands_in_where_there_is_no_golden_reward(tmp_path: Path) -> None:
    """A dataset without a scorer is judged by reward accuracy against chance."""
    scores = {"reward_accuracy": 0.9, "pairs": 100, "kl": 1.0}
    best = chosen(estimated(tmp_path, [run_row(evaluation=scores, golden_rewards=None)]))[0]
    assert best.measure is ACCURACY
    assert best.difference.value == pytest.approx(0.4)
    assert best.beyond_noise


def test_damage_behind_a_good_accuracy_is_found(tmp_path: Path) -> None:
    """A run that tells pairs apart and writes worse text than the untrained model is named; a good one is not."""
    frame = estimated(tmp_path, [base_row(), run_row("ipo", lift=-0.4), run_row("sigmoid", lift=0.3)])
    assert list(statistics.hidden_damage(frame)["loss_type"]) == ["ipo"]


def test_the_spread_between_seeds(tmp_path: Path) -> None:
    """The pooled standard deviation over settings; unknown where no setting was repeated."""
    scores = {(0.1, 1): 0.2, (0.1, 2): 0.4, (0.5, 1): 0.3, (0.5, 2): 0.3}
    rows = [
        run_row(beta=beta, seed=seed, run_id=f"{beta}{seed}", evaluation={"golden_reward": score}, golden_rewards=None)
        for (beta, seed), score in scores.items()
    ]
    spread = statistics.seed_spread(estimated(tmp_path / "two", rows), GOLDEN)
    assert (spread.deviation, spread.freedom) == (pytest.approx(math.sqrt(0.02 / 2)), 2)
    assert math.isnan(statistics.seed_spread(estimated(tmp_path / "one", rows[::2]), GOLDEN).deviation)


def test_pareto_keeps_what_nothing_beats() -> None:
    """A point that another matches in one respect and beats in the other is out; twins are both in."""
    assert statistics.pareto([1, 2, 2, 3, 3], [1, 3, 2, 3, 4]) == [True, True, False, False, True]
    assert statistics.pareto([1, 1], [2, 2]) == [True, True]


def test_an_axis_maps_there_and_back() -> None:
    """Positions 0..1 and values are each other's inverse; logarithmic where values span more than a factor of 20."""
    for values, log in (([0.01, 0.9], True), ([0.1, 0.9], False), ([-1, 100], False), ([5.0], False), ([], False)):
        axis = Axis.of(values)
        assert axis.log is log
        assert all(axis.value(axis.unit(value)) == pytest.approx(value) for value in values)
        assert axis.low < axis.high


def test_betas_lie_where_they_can_be_told_apart() -> None:
    """The scan's betas (0.01, 0.1, 0.2, ... 0.9) are clearest on a linear axis, a few decades on a logarithmic one."""
    assert not spread_evenly_in_log([0.01, *(number / 10 for number in range(1, 10))])
    assert spread_evenly_in_log([0.01, 0.03, 0.1, 0.3, 1])
    assert not spread_evenly_in_log([0.1])
    assert not spread_evenly_in_log([0, 0.1, 1])


def test_labels_keep_clear_of_marks_and_each_other() -> None:
    """A cluster of points gets labels that do not lie on each other, inside the panel."""
    points = [(0.5, 0.5), (0.53, 0.51), (0.99, 0.99), (0.5, 0.56)]
    places = [(x * 400, y * 300) for x, y in place(points, points, (400, 300))]
    assert all(0 <= x <= 400 and 0 <= y <= 300 for x, y in places)
    pairs = [(a, b) for i, a in enumerate(places) for b in places[:i]]
    assert all(abs(a[0] - b[0]) >= 28 or abs(a[1] - b[1]) >= 14 for a, b in pairs)
