"""What a report says where losses have curves: winners, their rows, sentences, the figure, and JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from test_analysis_read import Row, base_row, command, evaluation, run_row, write_rows

import analysis
from analysis import as_json, statistics
from analysis.best import Best, best_settings
from analysis.figures import figures
from analysis.intervals import Estimate
from analysis.page import cautions, curves, summary
from analysis.smooth import Smooth, conclusions
from analysis.winners import WITHOUT, Winner, best_rows, between, lead_rows, winners
from analysis.words import MISSING

BETAS = (0.01, 0.03, 0.1, 0.3, 1.0)
LEVELS = {"sigmoid": 0.2, "ipo": 0.5}


def scored(loss: str, beta: float, lift: float, seed: int = 42, **changes: object) -> Row:
    """A run whose 60 golden rewards are the untrained model's and `lift` more, but for a little noise."""
    noise = np.random.default_rng([ord(each) for each in f"{loss}{beta}{seed}"])
    rewards = [value + lift + noise.normal(0, 0.1) for value in base_row(count=60)["golden_rewards"]]
    named: Row = {"run_id": f"tiny-{loss}-{beta}-{seed}", "seed": seed, "golden_rewards": rewards}
    return run_row(loss, beta, **(named | {"evaluation": evaluation(rewards, kl=1.0)} | changes))


def curved(losses: dict[str, float], betas: Sequence[float] = BETAS, peak: float = 0.1, seeds: int = 1) -> list[Row]:
    """Losses of these levels, each a parabola over log beta with its peak at `peak`, and the untrained model."""
    rows = [base_row(count=60)]
    for loss, level in losses.items():
        for beta in betas:
            lift = level - 0.02 * math.log(beta / peak) ** 2
            rows += [scored(loss, beta, lift, 42 + seed) for seed in range(seeds)]
    return rows


class Told:
    """A frame, its settings, and what is concluded from them."""

    def __init__(self, folder: Path, rows: list[Row]) -> None:
        self.frame = statistics.with_estimates(analysis.load(write_rows(folder, rows)))
        self.settings: pd.DataFrame = statistics.settings(self.frame)
        self.best: list[Best] = best_settings(self.settings)
        self.concluded: list[Smooth] = conclusions(self.settings)
        self.winners: list[Winner] = winners(self.best, self.concluded)
        self.rows = best_rows(self.winners)

    @property
    def findings(self) -> str:
        return " ".join(summary.findings(self.frame, self.winners))

    @property
    def cautions(self) -> str:
        return " ".join(cautions.cautions(self.frame, self.best, self.settings, self.concluded))

    def records(self, *keys: str) -> list[dict[str, Any]]:
        """The records of the first figure that have these keys."""
        chart = figures.figures(self.frame, self.settings, self.best, self.concluded)[0].chart
        assert chart is not None
        every = [each for table in chart["datasets"].values() for each in table]
        return [each for each in every if {*keys} <= {*each}]


def test_each_loss_has_a_row_with_a_rerun_and_without_assumptions(tmp_path: Path) -> None:
    """Expected score of a rerun, probability, settings within noise, raw score, budget, Bonferroni's interval."""
    told = Told(tmp_path, curved(LEVELS, seeds=2))
    smooth = told.concluded[0]
    of_loss = {curve.loss: curve for curve in smooth.curves}
    for row in told.rows:
        curve = of_loss[row["loss_type"]]
        assert row["golden reward of a rerun"].startswith(f"{curve.rerun.value:.2f} (")
        assert row["settings"] == "5 x 2 seeds"
        assert row[WITHOUT].endswith(" for 10")
        assert row["within noise"].split(", ")[0] == f"{curve.alike[0]['beta']:g}"
        assert row["raw, flattered"].startswith(f"{curve.raw:.2f}")
        assert row["verdict"] == "better"
    assert [row["best loss"] for row in told.rows] == ["below 1 %", "above 99 %"]


def test_the_verdict_goes_by_the_curve(tmp_path: Path) -> None:
    """Where the curve's interval of the gain holds zero, it is noise, whatever the highest score says."""
    winner = Told(tmp_path, curved(LEVELS)).winners[1]
    assert winner.curve is not None
    assert winner.verdict == "better"
    gains = {"within noise": (-0.1, 0.3), "worse": (-0.3, -0.1), "better": (0.1, 0.3)}
    for verdict, (low, high) in gains.items():
        curve = replace(winner.curve, gain=Estimate((low + high) / 2, low, high))
        assert Winner(winner.best, winner.smooth, curve).verdict == verdict


def test_the_first_sentences_name_the_rerun_and_how_sure_it_is(tmp_path: Path) -> None:
    """The best, what a rerun scores, its probability and lead; then what is within noise, and what flatters."""
    found = Told(tmp_path, curved(LEVELS))
    first = found.concluded[0].curves[0]
    assert first.loss == "ipo"
    text = found.findings
    assert f"On tiny the best is ipo at beta {first.row['beta']:g}: a rerun of it is expected to have golden" in text
    assert "ipo is the best loss with a probability of above 99 %; its expected lead over the next, sigmoid at" in text
    assert f"The highest score measured of ipo, {first.raw:.2f}" in text
    assert f"a true difference of {found.concluded[0].smallest:.2f} is seen 4 times in 5" in text


def test_equal_losses_are_within_noise(tmp_path: Path) -> None:
    """No loss is called the best of two that are alike."""
    told = Told(tmp_path, curved({"sigmoid": 0.3, "ipo": 0.3}))
    assert "On tiny the best by its expected score is" in told.findings
    assert "so which of them is better is within noise" in told.findings
    (row,) = lead_rows(between(told.winners))
    assert row["verdict"] == "within noise"
    assert WITHOUT in row


def test_one_loss_alone_is_no_best_loss(tmp_path: Path) -> None:
    """Nothing was compared with it: no probability, in the sentence, the table and JSON."""
    told = Told(tmp_path, curved({"ipo": 0.5}))
    assert "On tiny the best of ipo, the one loss with a curve, is beta " in told.findings
    assert "the best loss with a probability" not in told.findings
    assert told.rows[0]["best loss"] == MISSING
    (model,) = as_json.told(told.winners)["models"]
    assert model["losses"][0]["curve"]["probability"] is None


def test_a_score_that_is_no_better_than_expected_is_not_called_flattering(tmp_path: Path) -> None:
    """Flat scores whose highest lies below what the curve expects are said to be what they are."""
    told = Told(tmp_path, curved({"ipo": 0.5}))
    smooth = told.concluded[0]
    for away, words in ((-0.1, ", is no better than is expected of a rerun."), (0.1, ", flatters: it was chosen")):
        curve = replace(smooth.curves[0], raw=smooth.curves[0].expected.value + away)
        (_, text) = curves.winner(told.winners, replace(smooth, curves=(curve,)), "On tiny")
        assert f"The highest score measured of ipo, {curve.raw:.2f}" in text
        assert words in text


def test_no_lead_is_negative(tmp_path: Path) -> None:
    """The loss that is named is the one whose best setting is expected to score most, whatever its probability."""
    rows = [*curved({"sigmoid": 0.3}, seeds=3), *curved({"ipo": 0.3}, BETAS[:4])[1:]]
    told = Told(tmp_path, rows)
    assert all(lead.difference.value >= 0 for lead in told.concluded[0].leads)
    expected = [curve.expected.value for curve in told.concluded[0].curves]
    assert expected == sorted(expected, reverse=True)


def test_of_one_prompt_no_verdict_follows(tmp_path: Path) -> None:
    """However sure the gain on it is."""
    rows = curved(LEVELS)
    for row in rows:
        row["evaluation"] = (row["evaluation"] or {}) | {"prompts": 1}
    told = Told(tmp_path, rows)
    assert {row["verdict"] for row in told.rows} == {"one prompt only"}
    assert {row["verdict"] for row in lead_rows(between(told.winners))} == {"one prompt only"}
    assert "; one prompt says nothing of others." in told.findings


def test_the_noise_of_training_is_said_once(tmp_path: Path) -> None:
    """Where curves have it, of seeds, no other number stands beside it."""
    text = Told(tmp_path, curved(LEVELS, seeds=3)).cautions
    assert text.count("by a standard deviation of") == 1
    assert "By seeds another training" in text


def test_settings_within_noise_are_told_apart(tmp_path: Path) -> None:
    """Their parts are separated by commas, so they are by semicolons."""
    rows = [base_row(count=60)]
    for rate in (1e-5, 1e-4):
        axis = {"trainer.learning_rate": rate}
        own = curved({"ipo": 0.3})[1:]
        rows += [row | {"axes": row["axes"] | axis, "run_id": f"{row['run_id']}-{rate:g}"} for row in own]
    (row,) = Told(tmp_path, rows).rows
    assert "; " in row["within noise"]


def test_too_few_settings_are_judged_as_before_and_that_is_said(tmp_path: Path) -> None:
    """Two betas: the table of today, no band, one sentence why."""
    told = Told(tmp_path, curved(LEVELS, BETAS[:2]))
    assert list(told.rows[0])[-2:] == ["ties with", "runs"]
    assert "sigmoid and ipo have fewer than 4 settings along beta, too few for a curve." in told.cautions
    assert "suggest" not in told.cautions
    assert all("run_id" in each for each in told.records("x", "low", "high"))  # points alone
    assert "a rerun" not in told.findings


def test_a_loss_without_a_curve_is_named_beside_those_with_one(tmp_path: Path) -> None:
    """Its row has dashes where a curve would speak, its score stands in the sentence, and it has a line."""
    told = Told(tmp_path, [*curved(LEVELS), *curved({"kto_pair": 0.9}, BETAS[:2])[1:]])
    row = told.rows[2]
    assert (row["loss_type"], row["golden reward of a rerun"], row["best loss"]) == ("kto_pair", MISSING, MISSING)
    assert row["verdict"] == "better"
    assert "Without a curve, and so not compared: kto_pair (" in told.findings
    assert "kto_pair has fewer than 4 settings along beta" in told.cautions
    assert {each.first.best.row["loss_type"] for each in between(told.winners)} == {"ipo"}


@pytest.mark.parametrize(("peak", "end"), [(0.001, "lowest"), (10.0, "highest"), (0.1, None)])
def test_a_best_at_the_edge_is_a_caution(tmp_path: Path, peak: float, end: str | None) -> None:
    """With the command that says what to run beyond it; a best within the grid needs none."""
    found = Told(tmp_path, curved({"ipo": 0.9}, peak=peak)).cautions
    assert (f"The best of ipo on tiny ({end} beta) lies at the edge" in found) == (end is not None)
    assert ("python -m launcher suggest demo" in found) == (end is not None)


def test_the_figure_has_each_curve_with_its_band(tmp_path: Path) -> None:
    """From the lowest to the highest beta, the expected score within its limits, as the posterior has them."""
    told = Told(tmp_path, curved(LEVELS))
    smooth = told.concluded[0]
    bands = [each for each in told.records("x", "low", "high", "value", "loss") if "run_id" not in each]
    assert {each["loss"] for each in bands} == set(LEVELS)
    for loss in LEVELS:
        own = [each for each in bands if each["loss"] == loss]
        assert (own[0]["x"], own[-1]["x"]) == (BETAS[0], BETAS[-1])
        row = told.settings[told.settings["loss_type"] == loss].iloc[0]
        at = own[20]
        mean, low, high = (float(each[0]) for each in smooth.band(row, np.asarray([at["x"]])))
        assert (at["value"], at["low"], at["high"]) == pytest.approx((mean, low, high), rel=1e-3)
        assert all(each["low"] < each["value"] < each["high"] for each in own)


def test_a_destroyed_setting_is_a_cross_beside_the_curve(tmp_path: Path) -> None:
    """It is named, and drawn at the lower edge with its score; neither curve nor axis goes down to it."""
    rows = curved(LEVELS)
    rows[-1] = scored("ipo", 1.0, -5.0)
    told = Told(tmp_path, rows)
    assert "ipo at beta 1 on tiny (" in told.cautions
    assert "counts as destroyed: it is left out of the curve, and drawn as a cross" in told.cautions
    (cross,) = told.records("y", "text", "run_id")
    assert cross["run_id"] == "tiny-ipo-1.0-42"
    assert cross["value"] < -4
    assert cross["y"] > -1
    points = [each for each in told.records("run_id", "low", "x") if "y" not in each]
    assert len(points) == 9
    assert all(each["value"] > -1 for each in points)
    assert told.rows[1]["settings"] == "4 x 1 seed"


def test_json_has_all_of_it(tmp_path: Path) -> None:
    """Strict JSON on stdout: per loss the rerun, probability, ties, raw score, edges, budget, and today's intervals."""
    rows = [*curved(LEVELS), *curved({"kto_pair": 0.1}, BETAS[:2])[1:]]
    rows[-3] = scored("ipo", 1.0, -5.0)
    folder = write_rows(tmp_path / "demo", rows)
    done = command(folder, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout, parse_constant=lambda text: pytest.fail(f"{text} is no JSON"))
    assert found["report"].endswith("report.html")
    assert any("a rerun of it is expected" in text for text in found["findings"])
    (model,) = found["models"]
    assert model["measure"] == "golden_reward"
    assert model["smallest_difference"] > 0
    assert model["training_noise"]["low"] < model["training_noise"]["high"]
    losses = {each["loss_type"]: each for each in model["losses"]}
    ipo = losses["ipo"]["curve"]
    assert ipo["rerun"]["low"] < ipo["expected"]["value"] < ipo["rerun"]["high"]
    assert {"best", "probability", "within_noise", "raw", "at_edge", "settings", "runs"} <= set(ipo)
    assert ipo["within_noise"][0]["probability"] >= 0.05
    assert losses["kto_pair"]["curve"] is None
    assert "fewer than 4" in losses["kto_pair"]["no_curve"]
    assert losses["ipo"]["without_assuming_smoothness"]["looked_at"] == 12
    assert model["leads"][0]["probability"] > 0.5
    assert [each["run_ids"] for each in model["destroyed"]] == [["tiny-ipo-1.0-42"]]
