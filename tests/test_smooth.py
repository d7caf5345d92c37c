"""What is concluded from curves over beta: of made-up sweeps whose truth is known, and of what no curve fits."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable
from dataclasses import fields
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_analysis_read import Row, base_row, evaluation, run_row, write_rows

import analysis
from analysis import smooth, statistics
from analysis.destroyed import destroyed
from analysis.gaussian import Floats
from analysis.intervals import Estimate
from analysis.measures import GOLDEN, MT_BENCH
from analysis.smooth import Smooth, conclusions
from analysis.units import on_same_units, without_gaps

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))

import coverage

BETAS = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1.0)
Truth = Callable[[str, float], float]


def peaked(loss: str, beta: float) -> float:
    """IPO best at 0.3 and by 0.3 better than the others."""
    return 0.3 * (loss == "ipo") - 0.2 * math.log(beta / 0.3) ** 2


def sweep(
    truth: Truth = peaked,
    losses: Iterable[str] = ("sigmoid", "ipo"),
    betas: Iterable[float] = BETAS,
    seeds: int = 1,
    tau: float = 0.03,
    **changes: object,
) -> list[Row]:
    """A sweep whose golden rewards have that truth over the untrained model, and a little noise."""
    random = np.random.default_rng(31)
    base = base_row(count=64)
    rows = [base]
    for loss in losses:
        for beta in betas:
            for seed in range(1, seeds + 1):
                lift = truth(loss, beta) + random.normal(0, tau)
                rewards = [each + lift + random.normal(0, 0.1) for each in base["golden_rewards"]]
                scored = {"golden_rewards": rewards, "evaluation": evaluation(rewards, kl=1 / beta)}
                rows.append(run_row(loss, beta, run_id=f"{loss}-{beta}-{seed}", seed=seed, **(scored | changes)))
    return rows


def settings_of(folder: Path, rows: list[Row]) -> pd.DataFrame:
    return statistics.settings(statistics.with_estimates(analysis.load(write_rows(folder, rows))))


def concluded(folder: Path, rows: list[Row]) -> Smooth:
    """What is said of the one model that there is."""
    (found,) = conclusions(settings_of(folder, rows))
    return found


# ------------------------------------------------------------------------------------------------ conclusions


def test_the_best_setting_is_named_with_what_a_rerun_scores(tmp_path: Path) -> None:
    """Losses by the probability that they are the best; score, rerun and gain hold their truths; neighbours tie."""
    found = concluded(tmp_path, sweep())
    first, second = found.curves
    assert (first.loss, second.loss) == ("ipo", "sigmoid")
    assert first.row["beta"] in {0.2, 0.3, 0.5}
    assert first.probability > 0.95
    assert first.probability + second.probability == pytest.approx(1)
    gain = peaked("ipo", first.row["beta"])
    assert first.gain.low < gain < first.gain.high
    level = math.fsum(base_row(count=64)["golden_rewards"]) / 64
    assert first.expected.low < gain + level < first.expected.high
    assert first.rerun.high - first.rerun.low > first.expected.high - first.expected.low
    assert 0.3 in {row["beta"] for row in first.alike}
    assert 0.01 not in {row["beta"] for row in first.alike}
    assert sorted(first.shares, reverse=True) == list(first.shares)
    assert first.raw == max(row["golden_reward"] for _, row in found.settings.iterrows())
    assert (first.settings, first.runs, first.edges) == (10, 10, {})


def test_a_lead_is_said_where_there_is_one(tmp_path: Path) -> None:
    """A loss that is better by 0.3 leads; one that is as good does not."""
    (lead,) = concluded(tmp_path / "better", sweep()).leads
    assert lead.beyond_noise
    assert lead.difference.low < 0.3 < lead.difference.high
    (equal,) = concluded(tmp_path / "equal", sweep(lambda _, beta: peaked("", beta))).leads
    assert not equal.beyond_noise
    assert equal.corrected.low < 0 < equal.corrected.high


def test_all_pairs_of_losses_widen_a_lead(tmp_path: Path) -> None:
    """Of three losses there are three pairs: leads are judged at 1 - 0.05 / 3."""
    found = concluded(tmp_path, sweep(losses=("sigmoid", "ipo", "hinge"), betas=BETAS[:5]))
    assert [lead.corrected.confidence for lead in found.leads] == pytest.approx([1 - 0.05 / 3] * 2)
    assert all(lead.corrected.low < lead.difference.low for lead in found.leads)


def test_a_best_at_the_end_of_the_grid_is_told(tmp_path: Path) -> None:
    """The score rises up to the highest beta: the edge is named; where it peaks inside there is none."""
    found = concluded(tmp_path, sweep(lambda _, beta: math.log(beta) / 3, losses=["ipo"]))
    assert found.curves[0].edges == {"beta": "highest"}
    assert found.curves[0].probability == 1
    assert found.leads == ()


def test_seeds_are_counted_and_tell_the_training_noise(tmp_path: Path) -> None:
    """Three seeds of ten settings: 30 runs a loss, tau within a third of its truth, and said to be from seeds."""
    found = concluded(tmp_path, sweep(seeds=3, tau=0.1))
    assert [each.runs for each in found.curves] == [30, 30]
    assert found.seeded
    assert found.training.value == pytest.approx(0.1, rel=0.34)
    assert not concluded(tmp_path / "one", sweep()).seeded


def test_the_smallest_difference_is_the_one_that_a_test_sees_four_times_in_five(tmp_path: Path) -> None:
    """2.8 standard errors of the difference of two settings: of 64 paired generations, and of training twice."""
    found = concluded(tmp_path, sweep(seeds=3, tau=0.1))
    assert found.posterior is not None
    tau = math.sqrt(np.mean(found.posterior.noise**2))
    expected = 2.8 * math.sqrt(2 * 0.1**2 / 64 / 3 + 2 * tau**2 / 3)
    assert found.smallest == pytest.approx(expected, rel=0.05)


def test_the_band_goes_through_the_settings(tmp_path: Path) -> None:
    """At the betas that were run it is their expected score; beyond the grid it opens."""
    found = concluded(tmp_path, sweep())
    curve = found.curves[0]
    betas = np.asarray([curve.row["beta"], 9.0])
    mean, low, high = found.band(curve.row, betas)
    assert mean[0] == pytest.approx(curve.expected.value, abs=0.01)
    assert (low[0], high[0]) == pytest.approx((curve.expected.low, curve.expected.high), abs=0.02)
    assert high[1] - low[1] > 3 * (high[0] - low[0])


def test_less_is_better_where_the_measure_says_so(tmp_path: Path) -> None:
    """By perplexity the lowest is the best; values are printed as they are, leads as improvements."""
    rows = sweep()
    for row in rows[1:]:
        ppl = 30 - 10 * row["evaluation"]["golden_reward"]
        row["evaluation"] = {"command/ppl": ppl, "command/ppl_stderr": 0.2}
        row["golden_rewards"] = None
    rows = rows[1:]
    found = concluded(tmp_path, rows)
    assert found.measure.lower
    first = found.curves[0]
    assert (first.loss, first.row["beta"] in {0.2, 0.3, 0.5}) == ("ipo", True)
    assert first.raw == min(row["evaluation"]["command/ppl"] for row in rows)
    assert first.expected.low < first.expected.value < first.expected.high
    assert found.leads[0].difference.value > 0
    assert math.isnan(first.gain.value)
    mean, low, high = found.band(first.row, np.asarray([0.3]))
    assert low[0] < mean[0] < high[0]
    assert mean[0] == pytest.approx(first.expected.value, abs=1)


# ------------------------------------------------------------------------------------------------ what makes a curve


def test_fewer_than_four_settings_make_no_curve(tmp_path: Path) -> None:
    """One loss with three betas has none, in a sentence, and is in no probability; the other has."""
    rows = [*sweep(losses=["ipo"]), *sweep(losses=["sigmoid"], betas=BETAS[:3])[1:]]
    found = concluded(tmp_path, rows)
    assert [each.loss for each in found.curves] == ["ipo"]
    assert found.without == {"sigmoid": "sigmoid has fewer than 4 settings along beta, too few for a curve."}
    nothing = concluded(tmp_path / "none", rows[-3:])
    assert (nothing.curves, nothing.posterior, list(nothing.without)) == ((), None, ["sigmoid"])


def test_what_makes_no_curve_is_told_by_the_keys_that_the_loss_takes(tmp_path: Path) -> None:
    """SimPO has a gamma in each setting, IPO none."""
    rows = sweep(losses=["ipo", "simpo"], betas=BETAS[:3])
    for row in rows:
        if row.get("loss_type") == "simpo":
            row["axes"] |= {"loss.gamma": 10 * row["beta"]}
    found = concluded(tmp_path, rows)
    assert found.without == {
        "ipo": "ipo has fewer than 4 settings along beta, too few for a curve.",
        "simpo": "simpo has fewer than 4 settings along beta and gamma, too few for a curve.",
    }


def test_settings_that_score_alike_make_no_curve(tmp_path: Path) -> None:
    """A score that is the same everywhere has no scale."""
    rows = sweep(losses=["ipo"])
    for row in rows[1:]:
        row |= {"golden_rewards": [0.5] * 64, "evaluation": evaluation([0.5] * 64, kl=1.0)}
    assert concluded(tmp_path, rows).without == {"ipo": "All settings have the same score."}


def test_no_curve_goes_through_reward_accuracy(tmp_path: Path) -> None:
    """It can look fine where the text is destroyed."""
    accuracy = {"reward_accuracy": 0.8, "pairs": 200}
    rows = [run_row("ipo", beta, golden_rewards=None, evaluation=accuracy) for beta in BETAS]
    found = concluded(tmp_path, rows)
    assert found.curves == ()
    assert found.without["ipo"].startswith("Reward accuracy alone")


def with_axis(rows: list[Row], **axes: object) -> list[Row]:
    """Rows of a sweep with a further axis of the trainer."""
    keys = {f"trainer.{name}": value for name, value in axes.items()}
    end = "-".join(str(each) for each in axes.values())
    return [row | {"axes": row["axes"] | keys, "run_id": f"{row['run_id']}-{end}"} for row in rows]


def test_a_numeric_axis_is_one_of_the_curve(tmp_path: Path) -> None:
    """Learning rates, swept by factors, lie on the same surface, over their logarithms; the best has both."""
    rows = [base_row(count=64)]
    for rate in (1e-5, 1e-4, 1e-3):
        slope = 0.3 * math.log10(rate / 1e-4) ** 2
        rows += with_axis(sweep(lambda _, beta, off=slope: peaked("", beta) - off, ["ipo"])[1:], learning_rate=rate)
    found = concluded(tmp_path, rows)
    assert [(axis.key, axis.log) for axis in found.axes] == [("beta", True), ("trainer.learning_rate", True)]
    first = found.curves[0]
    assert first.row["axes"]["trainer.learning_rate"] == 1e-4
    assert (first.settings, first.edges) == (30, {})
    between = found.band(first.row, np.asarray([0.3]))[0][0]
    places, curves = found.places(first.row, {"trainer.learning_rate": np.asarray([1e-5]), "beta": np.asarray([0.3])})
    assert found.posterior is not None
    assert found.posterior.predict(places, curves)[0][0] < between - 0.15


def test_an_axis_of_words_makes_curves_of_their_own(tmp_path: Path) -> None:
    """Both are the loss's; settings are counted together, and the better one is named."""
    rows = [base_row(count=64)]
    for packing, off in (("full", 0.0), ("lora", -0.3)):
        rows += with_axis(sweep(lambda _, beta, off=off: peaked("", beta) + off, ["ipo"])[1:], kind=packing)
    found = concluded(tmp_path, rows)
    assert [axis.key for axis in found.axes] == ["beta"]
    assert found.curves[0].settings == 20
    assert found.curves[0].row["axes"]["trainer.kind"] == "full"
    assert found.posterior is not None
    assert len(set(found.posterior.scores.curves.tolist())) == 2


def test_each_loss_has_the_width_of_its_own_grid(tmp_path: Path) -> None:
    """SimPO's betas of 2 to 7 beside 0.01 to 1: the same is concluded as if it had those betas."""
    rows = sweep(losses=("sigmoid", "simpo"), tau=0.01)
    common = concluded(tmp_path / "common", rows)
    for row in rows:
        if row.get("loss_type") == "simpo":
            beta = 7 * row["beta"] ** 0.27
            row |= {"beta": beta, "axes": row["axes"] | {"beta": beta}}
    own = concluded(tmp_path / "own", rows)
    assert own.axes[0].ranges == {"sigmoid": (0.01, 1.0), "simpo": (pytest.approx(2.02, abs=0.01), 7.0)}
    for one, other in zip(common.curves, own.curves, strict=True):
        assert one.loss == other.loss
        assert one.expected.value == pytest.approx(other.expected.value, abs=0.02)  # draws differ, the posterior not
        assert one.expected.low == pytest.approx(other.expected.low, abs=0.02)


def test_a_run_without_a_score_is_part_of_the_range(tmp_path: Path) -> None:
    """Half of a grid is trained: the curve is as straight over it as over the whole grid."""
    rows = sweep(losses=["ipo"])
    rows[-1] |= {"golden_rewards": None, "evaluation": None, "status": "RUNNING"}
    assert concluded(tmp_path, rows).axes[0].ranges == {"ipo": (0.01, 1.0)}


def test_limits_end_where_the_measure_does() -> None:
    """MT-Bench has no score above 10, whatever the noise; of a golden reward no end is known."""
    beyond = Estimate(9.9, 9.5, 10.3)
    assert smooth._within(MT_BENCH, beyond) == Estimate(9.9, 9.5, 10)
    assert smooth._within(GOLDEN, beyond) == beyond


def test_milestones_have_curves_of_their_own(tmp_path: Path) -> None:
    """The models after 10 steps are concluded from apart, and are no settings of the runs that ended."""
    rows = sweep(losses=["ipo"])
    early = sweep(lambda _, beta: -0.2 * math.log(beta / 0.9) ** 2, losses=["ipo"])[1:]
    for row in early:
        row |= {"run_id": f"{row['run_id']}@10", "milestone": 10, "step": 10}
    found = conclusions(settings_of(tmp_path, rows + early))
    assert [each.milestone for each in found] == [pytest.approx(math.nan, nan_ok=True), 10]
    assert [each.curves[0].settings for each in found] == [10, 10]
    assert found[0].curves[0].row["beta"] < found[1].curves[0].row["beta"]


def test_several_sweeps_are_one(tmp_path: Path) -> None:
    """Odd betas in one sweep and even ones in another: the same is concluded as from all of them in one."""
    rows = sweep()
    parts = [[rows[0], *rows[1::2]], [rows[0], *rows[2::2]]]
    folders = [write_rows(tmp_path / str(number), part) for number, part in enumerate(parts)]
    together = statistics.settings(statistics.with_estimates(analysis.load(*folders)))
    (found,), whole = conclusions(together), concluded(tmp_path / "whole", rows)
    assert [each.loss for each in found.curves] == [each.loss for each in whole.curves]
    assert found.curves[0].expected.value == pytest.approx(whole.curves[0].expected.value, abs=0.01)
    (half,) = conclusions(statistics.settings(statistics.with_estimates(analysis.load(folders[0]))))
    assert half.curves[0].settings + len(half.destroyed) == 5


def test_questions_are_paired(tmp_path: Path) -> None:
    """Questions differ by 2 and settings hardly: gains are known far better than scores are."""
    random = np.random.default_rng(33)
    difficulty = random.normal(5, 2, 80)

    def judged(row: Row, lift: float) -> Row:
        scores = {f"q{n}": float(each + lift + random.normal(0, 0.3)) for n, each in enumerate(difficulty)}
        mean = math.fsum(scores.values()) / 80
        return row | {"mt_bench_scores": scores, "evaluation": (row["evaluation"] or {}) | {"mt_bench": mean}}

    rows = [judged(base_row(), 0), *(judged(run_row("ipo", beta), peaked("ipo", beta)) for beta in BETAS)]
    found = concluded(tmp_path, rows)
    assert found.measure == MT_BENCH
    expected, gain = found.curves[0].expected, found.curves[0].gain
    assert expected.high - expected.low > 3 * (gain.high - gain.low)
    assert gain.low < 0.3 < gain.high


@pytest.mark.parametrize(("prompts", "wider"), [(16, 3.2), (4, 1.0), (None, 1.0)])
def test_texts_of_one_prompt_are_one_unit(tmp_path: Path, prompts: int | None, wider: float) -> None:
    """64 texts on 16 prompts that decide the score say as much as 16; of 4, or of an unknown number, each counts."""
    random = np.random.default_rng(34)
    shifts = {beta: np.tile(random.normal(0, 1, 16), 4) for beta in BETAS[:2]}
    rows = sweep(betas=BETAS[:2], losses=["ipo"])
    for row in rows[1:]:
        rewards = [each + float(shift) for each, shift in zip(row["golden_rewards"], shifts[row["beta"]], strict=True)]
        scored = evaluation(rewards, kl=1.0) | {"prompts": prompts}
        row |= {"golden_rewards": rewards, "evaluation": scored}
    runs = [row for _, row in settings_of(tmp_path, rows).iterrows() if row["kind"] == "run"]
    contrast = np.asarray([1.0, -1.0])
    plain = np.var(np.subtract(*(row["golden_rewards"] for row in runs)), ddof=1) / 64
    found = on_same_units(runs, GOLDEN)
    assert found is not None
    assert found.covariance is not None
    assert contrast @ found.covariance @ contrast / plain == pytest.approx(wider, rel=0.3)


# ------------------------------------------------------------------------------------------------ missing units


def judged_sweep(lacking: Callable[[str, Floats], Iterable[int]], measure: str = "mt_bench_scores") -> list[Row]:
    """Two losses over five betas, on 80 questions, equal on each question, and 0.5 above the untrained model there.

    ``lacking`` gives the places of the questions that a loss ("base": the untrained model) has no score of, by how hard
    they are.
    """
    random = np.random.default_rng(13)
    difficulty = random.normal(0, 2, 80)
    rows = []
    for loss, beta in (("base", 1.0), *((loss, beta) for loss in ("sigmoid", "ipo") for beta in BETAS[:10:2])):
        scores = 5 + 0.5 * (loss != "base") + difficulty + random.normal(0, 0.5, 80)
        scores[list(lacking(loss, difficulty))] = np.nan
        mean = float(np.nanmean(scores))
        row = base_row() if loss == "base" else run_row(loss, beta)
        known = {"evaluation": {"mt_bench": mean, "kl": 1.0}, "golden_rewards": None}
        if measure == "golden_rewards":
            known = {"evaluation": {"golden_reward": mean, "kl": 1.0, "prompts": 80}}
            values: object = [float(each) if math.isfinite(each) else None for each in scores]
        else:
            values = {f"q{place}": float(each) for place, each in enumerate(scores) if math.isfinite(each)}
        rows.append(row | known | {measure: values})
    return rows


def hardest(count: int, *names: str) -> Callable[[str, Floats], Iterable[int]]:
    return lambda loss, difficulty: np.argsort(difficulty)[:count].tolist() if loss in names else []


@pytest.mark.parametrize(
    ("count", "names", "measure"),
    [
        pytest.param(25, ("ipo",), "mt_bench_scores", id="many of one loss"),
        pytest.param(5, ("ipo",), "mt_bench_scores", id="few of one loss"),
        pytest.param(25, ("base",), "mt_bench_scores", id="of the untrained model"),
        pytest.param(25, ("ipo",), "golden_rewards", id="golden rewards"),
    ],
)
def test_missing_questions_make_no_winner(tmp_path: Path, count: int, names: tuple[str, ...], measure: str) -> None:
    """Losses equal on each question stay equal, and 0.5 above the untrained model, whoever lacks the hard ones."""
    found = concluded(tmp_path, judged_sweep(hardest(count, *names), measure))
    (lead,) = found.leads
    assert not lead.beyond_noise
    assert abs(lead.difference.value) < 0.15
    for curve in found.curves:
        assert curve.gain.low < 0.5 < curve.gain.high
        assert curve.gain.high - curve.gain.low < 0.6
        assert 0.05 < curve.probability < 0.95


def test_questions_that_are_missing_here_and_there_cost_little(tmp_path: Path) -> None:
    """One in 20 is missing anywhere, so that hardly a question has all scores: gains are known as well as before."""
    random = np.random.default_rng(14)
    found = concluded(tmp_path, judged_sweep(lambda *_: np.flatnonzero(random.random(80) < 0.05).tolist()))
    whole = concluded(tmp_path / "whole", judged_sweep(lambda *_: []))
    for curve, full in zip(found.curves, whole.curves, strict=True):
        assert curve.gain.low < 0.5 < curve.gain.high
        assert curve.gain.high - curve.gain.low < 1.3 * (full.gain.high - full.gain.low)


def test_scores_on_other_questions_make_no_curve(tmp_path: Path) -> None:
    """One loss on the first half, the other on the second: nothing says which is better, in a sentence."""
    halves = {"sigmoid": range(40), "ipo": range(40, 80)}
    rows = judged_sweep(lambda loss, _: halves.get(loss, []))
    alone = concluded(tmp_path, rows[1:])
    assert alone.curves == ()
    assert set(alone.without) == {"sigmoid", "ipo"}
    assert all("same questions" in why for why in alone.without.values())
    assert not concluded(tmp_path / "tied", rows).leads[0].beyond_noise  # through the untrained model, which has all
    without = concluded(tmp_path / "base", judged_sweep(lambda loss, _: range(79) if loss == "base" else []))
    assert [each.gain.known for each in without.curves] == [False, False]


def table_with_gaps(random: np.random.Generator) -> Floats:
    """80 units of 6 settings, one of which lacks the 25 hardest, and all one value in ten."""
    unit = random.normal(0, 2, 80)
    values = unit[:, None] + np.arange(6) / 5 + random.normal(0, 0.5, (80, 6))
    values[np.argsort(unit)[:25], 2] = np.nan
    values[random.random((80, 6)) < 0.1] = np.nan
    return np.asarray(values[np.isfinite(values).any(axis=1)])


def by_regression(values: Floats) -> Floats:
    """The settings' scores over all units by least squares on a column for each unit and each setting."""
    unit, own = np.nonzero(np.isfinite(values))
    columns = np.hstack([np.eye(len(values))[unit], np.eye(values.shape[1])[own]])
    solved = np.linalg.lstsq(columns, values[unit, own], rcond=None)[0]
    return np.asarray(solved[: len(values)].mean() + solved[len(values) :])


def test_a_table_with_gaps_is_that_of_a_regression_on_units() -> None:
    """Scores as by regression; their noise as by resampling the units; a table without gaps is left alone."""
    random = np.random.default_rng(15)
    values = table_with_gaps(random)
    whole = without_gaps(values)
    assert whole.scores == pytest.approx(by_regression(values))
    again = np.asarray([by_regression(values[random.integers(0, len(values), len(values))]) for _ in range(150)])
    for one, other in ((0, 1), (0, 2), (2, 3)):
        contrast = np.eye(6)[one] - np.eye(6)[other]
        resampled = np.std(again @ contrast, ddof=1)
        assert math.sqrt(contrast @ whole.covariance @ contrast) == pytest.approx(resampled, rel=0.2)
    assert without_gaps(values[np.isfinite(values).all(axis=1)]).alike is None
    pair = without_gaps(np.asarray([[1.0, 2.0]] * 12 + [[1.0, np.nan]] * 30))
    assert pair.ties == pytest.approx(12)
    assert without_gaps(np.asarray([[1.0, np.nan], [np.nan, 2.0]])).ties == 0


# ------------------------------------------------------------------------------------------------ destroyed


def frame_of(scores: dict[str, list[float]], kl: float | list[float] = 1.0, error: float = 0.0) -> pd.DataFrame:
    """Settings of losses with these golden rewards, over the betas from below."""
    rows = [
        {"loss_type": loss, "beta": BETAS[place], "golden_reward": score}
        for loss, own in scores.items()
        for place, score in enumerate(own)
    ]
    return pd.DataFrame(rows).assign(kl=kl, golden_reward_stderr=error)


def of(frame: pd.DataFrame) -> list[tuple[str, float]]:
    return [(each.row["loss_type"], each.row["beta"]) for each in destroyed(frame, GOLDEN)]


def test_a_score_far_below_all_others_is_destroyed() -> None:
    """By more than three times what the others differ by; said with the score and the lowest of those that are left."""
    scores = {"ipo": [-3.0, -9.0, 0.1, 0.2, 0.3, 0.2], "sigmoid": [0.0, 0.2, 0.3, 0.3, 0.1]}
    found = destroyed(frame_of(scores), GOLDEN)
    assert [(each.row["loss_type"], each.row["beta"]) for each in found] == [("ipo", BETAS[0]), ("ipo", BETAS[1])]
    others = "where the others of its loss have 0.10 or more"
    assert [each.reason for each in found] == [
        f"golden reward \N{MINUS SIGN}3.00, {others}",
        f"golden reward \N{MINUS SIGN}9.00, {others}",
    ]


@pytest.mark.parametrize(
    "own",
    [
        pytest.param([-0.5, 0.1, 0.2, 0.3, 0.2], id="a steep end"),
        pytest.param([-3.0, -2.0, 0.2, 0.3, 0.2], id="a slope"),
        pytest.param([-3.0, -3.1, 0.2, 0.3, 0.2], id="more than a third"),
        pytest.param([3.0, 0.1, 0.2, 0.3, 0.2], id="far above"),
        pytest.param([-3.0, -3.1, -3.2, -3.1, -3.0], id="all of a loss"),
    ],
)
def test_what_is_not_far_off_is_not_destroyed(own: list[float]) -> None:
    """Curves may fall steeply, whole losses may be bad, and a high score is never taken away."""
    assert of(frame_of({"ipo": own, "sigmoid": [0.0, 0.2, 0.3, 0.3, 0.1]})) == []


def test_what_noise_may_have_made_is_not_destroyed() -> None:
    """Two of a loss's three settings are the model's best, by chance close together; or scores have errors as large."""
    others = {"sigmoid": [0.35, 0.33, 0.37], "simpo": [0.35, 0.41, 0.32], "orpo": [0.38, 0.33, 0.37]}
    assert of(frame_of(others | {"ipo": [0.34, 0.404, 0.41]})) == []
    own = {"ipo": [-0.3, 0.1, 0.2, 0.1], "sigmoid": [0.1, 0.2, 0.2, 0.1]}
    assert of(frame_of(own)) == [("ipo", BETAS[0])]
    assert of(frame_of(own, error=0.14)) == []
    assert of(frame_of(own, error=0.13)) == [("ipo", BETAS[0])]


def test_a_loss_that_is_better_than_all_others_has_its_destroyed_setting() -> None:
    """Its other settings are few, so how far the model's better half is apart counts: 0.4 against a fall of 3.5."""
    others = {"sigmoid": [0.1, 0.2, 0.3, 0.2], "kto_pair": [0.1, 0.2, 0.3, 0.2]}
    assert of(frame_of(others | {"ipo": [-3.0, 0.5, 0.6, 0.55]})) == [("ipo", BETAS[0])]


def test_a_policy_far_away_that_scores_low_is_destroyed() -> None:
    """KL of more than ten times the next, below the median; one that scores well is not, nor one of twice the KL."""
    own = [0.1, 0.2, 0.3, 0.2, 0.25, 0.28]
    assert of(frame_of({"ipo": own}, [500.0, 9, 8, 7, 6, 5])) == [("ipo", 0.01)]
    assert of(frame_of({"ipo": own[::-1]}, [500.0, 9, 8, 7, 6, 5])) == []
    assert of(frame_of({"ipo": own}, [20.0, 9, 8, 7, 6, 5])) == []


def test_the_edge_of_the_grid_is_that_of_all_settings(tmp_path: Path) -> None:
    """The best lies just above the destroyed lowest beta: it is not at an edge."""
    rows = sweep(lambda _, beta: -9.0 if beta == 0.01 else -0.1 * math.log(beta), losses=["ipo"])
    found = concluded(tmp_path, rows)
    assert [each.row["beta"] for each in found.destroyed] == [0.01]
    assert found.curves[0].row["beta"] == 0.02
    assert found.curves[0].edges == {}


def test_destroyed_settings_are_left_out_and_told(tmp_path: Path) -> None:
    """IPO at the lowest beta collapses: no curve bends to it, it is listed with its reason, the best stays."""
    found = concluded(
        tmp_path, sweep(lambda loss, beta: -9.0 if (loss, beta) == ("ipo", 0.01) else 0.1 * peaked(loss, beta))
    )
    assert [each.row["beta"] for each in found.destroyed] == [0.01]
    assert {each.loss: each.settings for each in found.curves} == {"ipo": 9, "sigmoid": 10}
    assert found.curves[0].expected.high - found.curves[0].expected.low < 0.3


# ------------------------------------------------------------------------------------------------ truth


@pytest.mark.parametrize("shape", ["quadratic", "flat", "collapsed"])
def test_the_winner_is_not_flattered(shape: str) -> None:
    """Of simulated sweeps of one seed, curves hold the truth of the best setting, which the raw scores flatter."""
    found = coverage.result_of(coverage.Row(shape, 10, 1, 0.1, 0.08), 60)
    assert found.plain < 0.5
    assert found.curve >= 0.88
    assert found.curve_rerun >= 0.86
    assert found.bias_curve < 0.4 * found.bias_raw
    assert found.lead_curve <= 0.08
    assert found.regret_curve <= found.regret_raw


def test_a_measured_row_replaces_its_own_in_the_docs(tmp_path: Path) -> None:
    """Each row of the simulation has one there; the others stay as they were."""
    page, written = tmp_path / "statistics.md", coverage.DOCS.read_text(encoding="utf-8")
    rows, width = list(coverage.rows()), len(fields(coverage.Result))
    page.write_text(written, encoding="utf-8")
    coverage.into_docs(page, rows[0], 1000, coverage.Result(*[0.25] * width))
    coverage.into_docs(page, rows[0], 2000, coverage.Result(-0.5, *[math.nan] * (width - 1)))
    new = [line for line in page.read_text(encoding="utf-8").splitlines() if line not in written.splitlines()]
    assert new == [f"| quadratic | 2 | 1 | 0.10, 0.08 | 2,000 | \N{MINUS SIGN}0.50 |{'  |' * 10}"]
    for row in rows:
        coverage.into_docs(page, row, 1000, coverage.Result(*[0.25] * width))
    assert page.read_text(encoding="utf-8").count("| 1,000 | +0.25 |") == len(rows)


def test_what_evaluations_alone_make_between_seeds_is_known(tmp_path: Path) -> None:
    """Three runs that differ in 64 generations by 0.1 each: a variance of 0.01 / 64 between them."""
    settings = settings_of(tmp_path, sweep(seeds=3))
    spread = settings["spread"].iloc[-1][GOLDEN.column]
    assert spread.evaluation == pytest.approx(0.1**2 / 64, rel=0.15)
    assert smooth.FEWEST == 4
