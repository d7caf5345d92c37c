"""What the report says of each loss's budget, and how settings are named where losses have keys of their own."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from test_analysis_read import Row, base_row, run_row, write_rows

import analysis
from analysis import statistics
from analysis.best import best_settings
from analysis.page import budget, cautions, summary
from analysis.winners import winners


def frame_of(folder: Path, rows: list[Row]) -> pd.DataFrame:
    return analysis.load(write_rows(folder, [base_row(), *rows]))


def runs_of(frame: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(frame[frame["kind"] == "run"])


def row(loss: str, beta: float, seed: int, **changes: object) -> Row:
    return run_row(loss, beta, seed=seed, run_id=f"{loss}-{beta}-{seed}", **changes)


EQUAL = [row(loss, beta, seed) for loss in ("ipo", "sigmoid") for beta in (0.1, 0.2) for seed in (1, 2, 3)]
SAID = "Of each loss (ipo and sigmoid) 2 settings with 3 seeds were scored."


def said(folder: Path, rows: list[Row]) -> tuple[str, list[str]]:
    """The report's findings in one text, and its cautions about budgets."""
    frame = statistics.with_estimates(frame_of(folder, rows))
    settings = statistics.settings(frame)
    best = best_settings(settings)
    found = [text for text in cautions.cautions(frame, best, settings) if "budget" in text]
    return " ".join(summary.findings(frame, winners(best, ()))), found


def test_equal_budgets_are_stated(tmp_path: Path) -> None:
    """Settings and seeds of each loss, among the findings; no caution then."""
    findings, found = said(tmp_path, EQUAL)
    assert SAID in findings
    assert found == []


def test_unequal_budgets_are_a_caution(tmp_path: Path) -> None:
    """Which loss had how much, counted in what was scored: a run that failed is a setting or a seed less."""
    rows = [*EQUAL, row("hinge", 0.1, 1), row("hinge", 0.2, 1), row("hinge", 0.2, 2)]
    rows += [row("hinge", 0.3, 1, evaluation=None, golden_rewards=None, status="FAILED")]
    findings, (text,) = said(tmp_path, rows)
    assert "were scored" not in findings
    assert "of ipo and sigmoid 2 settings with 3 seeds; of hinge 2 settings with 1 to 2 seeds." in text
    assert text.startswith("The losses on tiny with reviews did not have the same budget: ")
    assert "by chance alone" in text


def test_one_loss_is_compared_with_none(tmp_path: Path) -> None:
    """Nothing is said of its budget."""
    findings, found = said(tmp_path, EQUAL[:6])
    assert "were scored" not in findings
    assert found == []


def test_milestones_are_no_settings(tmp_path: Path) -> None:
    """A training has its budget once, however many of its models on the way are scored."""
    points = [each | {"run_id": f"{each['run_id']}@5", "milestone": 5, "axes": {"step": 5}} for each in EQUAL]
    (own,) = budget.budgets(runs_of(frame_of(tmp_path, [*EQUAL, *points]))).values()
    assert set(own.values()) == {budget.Budget(2, 3, 3)}


def test_a_setting_names_no_key_that_its_loss_does_not_take(tmp_path: Path) -> None:
    """A margin is SimPO's alone: of IPO nothing is said of it, while a null among a loss's own values is one."""
    rows = [
        run_row(loss, 0.1, run_id=f"{loss}-{gamma}", axes={"loss_type": loss, "beta": 0.1, "loss.gamma": gamma})
        for loss, gamma in (("ipo", None), ("simpo", None), ("simpo", 0.3))
    ]
    assert list(runs_of(frame_of(tmp_path, rows))["setting"]) == ["", "gamma=None", "gamma=0.3"]


def test_a_setting_names_no_key_that_loss_and_beta_say(tmp_path: Path) -> None:
    """A margin that goes with beta, and a share that all runs of the loss have: they would only take curves apart."""
    values = [
        ("ipo", 0.1, None, None),
        ("simpo", 2.0, 1.0, None),
        ("simpo", 10.0, 5.0, None),
        ("robust", 0.1, None, 0.2),
    ]
    rows = [
        run_row(
            loss, beta, run_id=f"{loss}-{beta}-{rate}",
            axes={"loss_type": loss, "beta": beta, "loss.gamma": gamma, "loss.label_smoothing": share, "rate": rate},
        )
        for loss, beta, gamma, share in values for rate in (1, 2)
    ]  # fmt: skip
    assert list(runs_of(frame_of(tmp_path, rows))["setting"]) == ["rate=1", "rate=2"] * 4
