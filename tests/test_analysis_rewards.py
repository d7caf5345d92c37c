"""Losses differ in what they call a reward: accuracies and margins of several are never on one axis, nor ranked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from test_analysis_read import base_row, run_row, write_rows
from test_analysis_report import csv_rows, report_on

import analysis
from analysis.best import best_settings
from analysis.figures import figures
from analysis.measures import LOG_RATIO
from analysis.page import cautions, summary
from analysis.statistics import settings, with_estimates
from analysis.winners import winners
from launcher import losses

MEAN = "beta / |y| log pi"
BETAS = (0.1, 0.5)


def rows(*, text: bool = True) -> list[dict[str, Any]]:
    """Two losses of log-ratios, one of them written before rewards had a name, and one of mean log-probs."""
    found = [base_row()] if text else []
    for loss, reward in (("ipo", None), ("sigmoid", LOG_RATIO), ("simpo", MEAN)):
        for beta in BETAS:
            row = run_row(loss, beta) | ({"reward": reward} if reward else {})
            if not text:
                row |= {"golden_rewards": [], "evaluation": {**row["evaluation"], "golden_reward": None}}
            found.append(row)
    return found


def drawn(figure: Any) -> list[tuple[str, set[str]]]:
    """The y axis of each panel, and the losses of which it has points."""
    assert figure.chart is not None
    panels: list[tuple[str, set[str]]] = []

    def walk(node: Any) -> None:
        if isinstance(node, dict) and "layer" in node:
            text = json.dumps(node)
            titles = [title for title in (f"Reward margin, of {LOG_RATIO}", f"Reward margin, of {MEAN}",
                      f"Reward accuracy, of {LOG_RATIO}", f"Reward accuracy, of {MEAN}") if title in text]  # fmt: skip
            values = [each for name, held in figure.chart["datasets"].items() if name in text for each in held]
            names = {each["loss"] for each in values if "loss" in each}
            panels.extend((title, names) for title in titles)
            return
        for value in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
            walk(value)

    walk(figure.chart)
    return panels


def test_the_one_reward_of_before_has_its_name_here() -> None:
    """analysis and launcher know each other by results.jsonl alone; the words are the same."""
    assert LOG_RATIO == losses.LOG_RATIO
    assert losses.reward_of("simpo", {}) == MEAN == losses.reward_of("cpo", {"length_normalized": True})
    assert losses.reward_of("simpo", {"length_normalized": False}) == losses.reward_of("cpo", {})
    assert losses.reward_of("alphapo", {}) != losses.reward_of("alphapo", {"alpha": 0.5})
    assert losses.reward_of("kto", {}) != losses.reward_of("kto_pair", {}) == LOG_RATIO
    assert losses.reward_of("sigmoid+sft", {"weights": [1, 2]}) == losses.reward_of("sft", {}) == LOG_RATIO


def test_each_reward_has_panels_of_its_own(tmp_path: Path) -> None:
    """Accuracy and margin, each twice, and in none of them a loss of another reward."""
    frame = with_estimates(analysis.load(write_rows(tmp_path, rows())))
    pooled = settings(frame)
    (figure,) = [each for each in figures.figures(frame, pooled, best_settings(pooled)) if each.name == "heldout"]
    found = drawn(figure)
    kinds = [f"{kind}, of {reward}" for reward in (LOG_RATIO, MEAN) for kind in ("Reward accuracy", "Reward margin")]
    assert sorted(title for title, _ in found) == sorted(kinds)
    for title, names in found:
        assert names == ({"simpo"} if MEAN in title else {"ipo", "sigmoid"})
    assert "neither accuracies nor margins of two rewards compare" in figure.caption


def test_where_all_rewards_are_one_nothing_is_said_of_them(tmp_path: Path) -> None:
    """Neither in the figure, nor in the table, nor before one concludes."""
    alike = [row for row in rows() if row.get("loss_type") != "simpo"]
    frame = with_estimates(analysis.load(write_rows(tmp_path, alike)))
    pooled = settings(frame)
    best = best_settings(pooled)
    (figure,) = [each for each in figures.figures(frame, pooled, best) if each.name == "heldout"]
    assert "two rewards compare" not in figure.caption
    assert not any("calls a reward" in each for each in cautions.cautions(frame, best, pooled))
    assert "of the reward" not in report_on(tmp_path, alike).text


def test_the_report_says_what_does_not_compare(tmp_path: Path) -> None:
    """In "Before you conclude", and beside each margin in the tables."""
    page = report_on(tmp_path, rows())
    assert f"what each loss calls a reward ({LOG_RATIO}: ipo and sigmoid; {MEAN}: simpo)" in page.text
    assert "of the reward" in page.text
    assert {row["reward"] for row in csv_rows(tmp_path)[1:]} == {LOG_RATIO, MEAN}


def test_without_text_no_loss_is_best_of_those_with_other_rewards(tmp_path: Path) -> None:
    """By accuracy alone there is a best of each reward, and no heat map, which would have them on one scale."""
    frame = with_estimates(analysis.load(write_rows(tmp_path, rows(text=False))))
    pooled = settings(frame)
    best = best_settings(pooled)
    assert {each.row["loss_type"]: each.looked_at for each in best} == {"ipo": 4, "sigmoid": 4, "simpo": 2}
    told = summary.findings(frame, winners(best, ()))
    assert [f"by the reward {LOG_RATIO}" in line or f"by the reward {MEAN}" in line for line in told[:2]] == [
        True,
        True,
    ]
    assert "heatmap" not in [each.name for each in figures.figures(frame, pooled, best)]
