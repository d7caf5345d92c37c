"""Which setting is the best, and what is said of it: against simulated sweeps whose truth is known."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from test_analysis_read import Row, base_row, evaluation, run_row, write_rows

import analysis
from analysis import intervals, statistics
from analysis.best import Best, best_settings, corrected_level, leads
from analysis.intervals import Estimate
from analysis.measures import ACCURACY, GOLDEN, MT_BENCH
from analysis.page import cautions, summary

LOSSES = ("sigmoid", "ipo", "kto_pair")
QUESTIONS = 80


def judged(folder: Path, rows: list[Row]) -> tuple[pd.DataFrame, list[Best]]:
    """The settings with their intervals, and the best of them."""
    frame = statistics.with_estimates(analysis.load(write_rows(folder, rows)))
    settings = statistics.settings(frame)
    return settings, best_settings(settings)


def mt_bench(row: Row, scores: dict[str, float] | list[float]) -> Row:
    """The row with MT-Bench scores, by question or in one order."""
    values = list(scores.values()) if isinstance(scores, dict) else scores
    scored = (row["evaluation"] or {}) | {"mt_bench": math.fsum(values) / len(values)}
    return row | {"mt_bench_scores": scores, "evaluation": scored}


def simulated(noise: np.random.Generator, truth: dict[tuple[str, float], float]) -> pd.DataFrame:
    """Settings of one sweep over 80 questions: true effect of each (loss, beta), and noise as large as MT-Bench's."""
    difficulty = noise.normal(6, 2, QUESTIONS)
    rows: list[dict[str, Any]] = [_setting("base", None, math.nan, difficulty + noise.normal(0, 1, QUESTIONS))]
    rows += [
        _setting("run", loss, beta, difficulty + effect + noise.normal(0, 1, QUESTIONS))
        for (loss, beta), effect in truth.items()
    ]
    frame = pd.DataFrame(rows)
    return frame.assign(mt_bench_difference=statistics.column([Estimate(math.nan)] * len(frame), frame))


def _setting(kind: str, loss: str | None, beta: float, scores: np.ndarray) -> dict[str, Any]:
    named = {"kind": kind, "run_id": f"{loss}{beta}", "model": "m", "dataset": "d", "base": "b", "setting": ""}
    missing = dict.fromkeys(("golden_reward", "reward_accuracy", "kl"), math.nan)
    values = {str(number): float(score) for number, score in enumerate(scores)}
    run = {"loss_type": loss, "beta": beta, "seeds": 1, "spread": {}, "mt_bench": float(scores.mean())}
    return named | missing | run | {"mt_bench_scores": values}


def test_the_winner_is_not_the_one_that_lacks_the_hardest_questions(tmp_path: Path) -> None:
    """Two betas, so no curve: the better has all 80 questions, the other the 55 easier ones, whose mean is higher."""
    noise = np.random.default_rng(5)
    hardness = np.sort(noise.normal(6, 1.5, QUESTIONS))[::-1]

    def scores(effect: float, asked: int) -> dict[str, float]:
        values = hardness + effect + noise.normal(0, 0.5, QUESTIONS)
        return {str(number): float(value) for number, value in enumerate(values[:asked])}

    rows = [
        mt_bench(base_row(), scores(0, 80)),
        mt_bench(run_row("sigmoid", 0.1), scores(0.9, 80)),
        mt_bench(run_row("sigmoid", 0.3), scores(0.4, 55)),
        mt_bench(run_row("ipo", 0.1), scores(0.6, 55)),
    ]
    settings, best = judged(tmp_path, rows)
    runs = settings[settings["kind"] == "run"].set_index("run_id")["mt_bench"]
    assert runs.idxmax() != run_row("sigmoid", 0.1)["run_id"]
    assert {each.row["loss_type"]: each.row["beta"] for each in best} == {"sigmoid": 0.1, "ipo": 0.1}
    (lead,) = leads(best)
    assert (lead.first.row["loss_type"], lead.beyond_noise) == ("sigmoid", True)
    assert lead.difference.value == pytest.approx(0.3, abs=0.25)


def winner(best: list[Best]) -> str:
    """The paragraph on the model."""
    return summary.winner(best, "On m")[0]


def test_95_percent_intervals_hold_the_truth_95_times_in_100() -> None:
    """Over 1000 simulated comparisons of 80 questions, paired intervals cover the true difference 93 to 97 %."""
    noise = np.random.default_rng(11)
    hits = 0
    for _ in range(1000):
        base = np.clip(noise.normal(6, 2, QUESTIONS), 1, 10)
        run = base + noise.normal(0.3, 1.2, QUESTIONS)
        estimate = intervals.paired_difference(run.tolist(), base.tolist(), resamples=999)
        hits += estimate.low <= 0.3 <= estimate.high
    assert 0.93 <= hits / 1000 <= 0.97


def test_where_nothing_works_the_report_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three losses at ten betas, all as good as the untrained model: at least 95 % of sweeps say "within noise".

    Said of the best against the untrained model, and of the best loss against the next.
    """
    monkeypatch.setattr(intervals, "_TAIL", 10)
    monkeypatch.setattr(intervals, "RESAMPLES", 999)
    noise, sweeps = np.random.default_rng(12), 150
    truth = {(loss, number / 10): 0.0 for loss in LOSSES for number in range(1, 11)}
    gains = firsts = 0
    for _ in range(sweeps):
        best = best_settings(simulated(noise, truth))
        gains += "the difference is within noise" in winner(best)
        firsts += not leads(best)[0].beyond_noise
    assert gains >= 0.95 * sweeps
    assert firsts >= 0.95 * sweeps


def test_a_clear_winner_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """One setting is a whole point better than the other 29: it is named, better than the base and than the next."""
    monkeypatch.setattr(intervals, "_TAIL", 10)
    monkeypatch.setattr(intervals, "RESAMPLES", 999)
    noise, sweeps = np.random.default_rng(13), 20
    truth = {(loss, number / 10): 0.0 for loss in LOSSES for number in range(1, 11)} | {("ipo", 0.3): 1.0}
    named = sure = alone = 0
    for _ in range(sweeps):
        best = best_settings(simulated(noise, truth))
        named += "the best is ipo at beta 0.3: MT-Bench" in winner(best)
        sure += leads(best)[0].beyond_noise and "within noise" not in winner(best)
        alone += not next(each for each in best if each.row["loss_type"] == "ipo").ties
    assert named == sweeps
    assert sure >= 0.95 * sweeps
    assert alone >= 0.9 * sweeps


def test_the_correction_is_bonferronis() -> None:
    """Ten looks are judged at 99.5 %; one look at 95 %."""
    assert [corrected_level(1), corrected_level(10)] == pytest.approx([0.95, 0.995])


def test_losses_are_compared_at_the_level_of_all_settings(tmp_path: Path) -> None:
    """Two losses of two betas each: the lead is judged at 1 - 0.05 / 4, paired by question."""
    rows = [base_row(), *(run_row(loss, beta) for loss in ("ipo", "sigmoid") for beta in (0.1, 0.5))]
    lead = leads(judged(tmp_path, rows)[1])[0]
    assert lead.looked_at == 4
    assert lead.corrected.confidence == pytest.approx(1 - 0.05 / 4)
    assert lead.corrected.method == "paired"
    assert lead.difference.value == pytest.approx(lead.first.value - lead.second.value)


def test_mt_bench_decides_where_it_is_known(tmp_path: Path) -> None:
    """Golden reward prefers one beta and MT-Bench another: MT-Bench decides, and the reader is told."""
    high, low = [7.0 + 0.01 * n for n in range(80)], [5.0 + 0.01 * n for n in range(80)]
    rows = [
        mt_bench(base_row(), low),
        mt_bench(run_row(beta=0.1, lift=0.5), low),
        mt_bench(run_row(beta=0.5, lift=0.0), high),
    ]
    settings, best = judged(tmp_path, rows)
    assert (best[0].measure, best[0].row["beta"]) == (MT_BENCH, 0.5)
    assert best[0].difference.value == pytest.approx(2.0)
    text = " ".join(cautions.cautions(statistics.with_estimates(analysis.load(tmp_path)), best, settings))
    assert "By golden reward rather than MT-Bench another setting would be the best of ipo on tiny (beta 0.1)." in text


def test_questions_pair_by_their_ids(tmp_path: Path) -> None:
    """A question that only one of two has a score for is left out, whatever the order, and that is said."""
    easy = {f"q{n}": 5.0 + n % 3 for n in range(40)}
    run = {f"q{n}": easy[f"q{n}"] + 1 for n in reversed(range(30))}
    rows = [mt_bench(base_row(), easy), mt_bench(run_row(), run), mt_bench(run_row(beta=0.5), easy)]
    frame = statistics.with_estimates(analysis.load(write_rows(tmp_path, rows)))
    assert frame.iloc[1]["mt_bench_difference"] == Estimate(pytest.approx(1.0), 1.0, 1.0, 0.95, "paired")
    settings = statistics.settings(frame)
    text = " ".join(cautions.cautions(frame, best_settings(settings), settings))
    assert "Not every question has a score of MT-Bench. Missing are 10 for tiny-ipo-beta0.1-0123abcd." in text


def test_reward_accuracy_alone_does_not_choose(tmp_path: Path) -> None:
    """Without any measure of text, the lowest KL among the accuracies within noise of the highest is the best."""
    scores = {0.01: (0.90, 40.0), 0.1: (0.88, 3.0), 0.5: (0.60, 0.5)}  # the last is truly less accurate
    rows = [
        run_row(beta=beta, golden_rewards=None, evaluation={"reward_accuracy": share, "kl": kl, "pairs": 200})
        for beta, (share, kl) in scores.items()
    ]
    _, best = judged(tmp_path, rows)
    assert (best[0].measure, best[0].row["beta"]) == (ACCURACY, 0.1)
    assert "the lowest of the settings within noise of the highest accuracy" in " ".join(summary.winner(best, "On m"))
    assert leads(best) == []


def test_a_run_whose_learning_rate_was_never_above_0_is_told(tmp_path: Path) -> None:
    """It is the untrained model, whatever it is judged as; older results say no rate, and are not told."""
    still = [{"step": 1, "loss": 0.69, "reward_accuracy": 0.0, "reward_margin": 0.0, "learning_rate": 0.0}]
    rows = [base_row(), run_row(beta=0.1, curve=still, run_id="still"), run_row(beta=0.5, run_id="older")]
    settings, best = judged(tmp_path, rows)
    told = cautions.cautions(statistics.with_estimates(analysis.load(tmp_path)), best, settings)
    assert told[0].startswith("Nothing was trained in still: the learning rate was 0 in each step.")


def test_between_losses_too_the_nearest_to_the_reference_is_named(tmp_path: Path) -> None:
    """All accuracies are 1; the first loss's lowest KL is not the lowest of all, which is what the sentence claims."""
    distances = {("sigmoid", 0.05): 117.0, ("sigmoid", 0.1): 130.0, ("ipo", 0.3): 68.0, ("ipo", 0.6): 19.0}
    rows = [
        run_row(
            loss,
            beta,
            golden_rewards=None,
            evaluation={"reward_accuracy": 1.0, "kl": kl, "pairs": 11},
            reward="log ratio",
        )
        for (loss, beta), kl in distances.items()
    ]
    _, best = judged(tmp_path, rows)
    text = " ".join(summary.winner(best, "On m"))
    assert "none can be told from the nearest to the reference, ipo at beta 0.6." in text
    assert "Its KL to the reference is 19.00, the lowest of the losses' best settings within noise of" in text


def seeded(spread: float, seeds: int, betas: tuple[float, ...], lift: float = 0.3) -> list[Row]:
    """Runs of several seeds whose golden rewards differ by a shift of each seed, standard deviation `spread`."""
    noise = np.random.default_rng(21)
    base = base_row(count=60)
    rows = [base]
    for beta in betas:
        for seed in range(seeds):
            shift = noise.normal(0, spread)
            rewards = [value + lift + shift + noise.normal(0, 0.05) for value in base["golden_rewards"]]
            scored = {"golden_rewards": rewards, "evaluation": evaluation(rewards, kl=1.0)}
            rows.append(run_row(beta=beta, run_id=f"{beta}-{seed}", seed=seed, **scored))
    return rows


def test_seeds_are_pooled_into_settings(tmp_path: Path) -> None:
    """Three seeds of two betas are two settings: means over seeds, value by value."""
    rows = seeded(0.1, 3, (0.1, 0.5))
    settings, best = judged(tmp_path, rows)
    runs = settings[settings["kind"] == "run"]
    assert list(runs["seeds"]) == [3, 3]
    own = [row["golden_rewards"] for row in rows[1:4]]
    assert runs.iloc[0]["golden_rewards"] == pytest.approx([math.fsum(each) / 3 for each in zip(*own, strict=True)])
    assert best[0].looked_at == 2


def test_rerun_noise_is_in_the_interval_and_in_words(tmp_path: Path) -> None:
    """Where seeds move the score by 0.1, the interval is that of Student's t at the least, and the reader is told."""
    settings, best = judged(tmp_path, seeded(0.1, 3, (0.1, 0.2, 0.3, 0.5)))
    spread = best[0].row["spread"][GOLDEN.column]
    assert spread.freedom == 8
    assert 0.05 < spread.deviation < 0.2
    estimate = best[0].difference
    half = float(stats.t.ppf(0.975, 8)) * spread.deviation / math.sqrt(3)
    assert estimate.high - estimate.value >= half
    single, _ = judged(tmp_path / "one", [row for row in seeded(0.1, 3, (0.1, 0.2)) if row.get("seed", 0) in {0, None}])
    narrow = single.iloc[1]["golden_reward_difference"]
    assert narrow.high - narrow.low < 0.2 * (estimate.high - estimate.low)
    frame = statistics.with_estimates(analysis.load(tmp_path))
    text = " ".join(cautions.cautions(frame, best, settings))
    assert f"by a standard deviation of {spread.deviation:.3f} (3 seeds a setting)" in text
    assert "is not known without an axis over seed" not in text


def test_intervals_with_seeds_cover_the_truth() -> None:
    """A run's seed shifts all its scores: intervals widened by the spread hold the truth, plain ones do not."""
    noise = np.random.default_rng(22)
    plain = wide = 0
    for _ in range(300):
        shifts = noise.normal(0, 0.3, size=(4, 3))  # four settings, three seeds each
        deviation = math.sqrt(float(shifts.var(axis=1, ddof=1).mean()))
        pairs = 0.5 + shifts[0].mean() + noise.normal(0, 1, QUESTIONS)
        estimate = intervals.mean_interval(pairs.tolist(), resamples=999)
        widened = intervals.widened(estimate, deviation / math.sqrt(3), 8)
        plain += estimate.low <= 0.5 <= estimate.high
        wide += widened.low <= 0.5 <= widened.high
    assert plain / 300 < 0.9
    assert 0.93 <= wide / 300 <= 0.99
