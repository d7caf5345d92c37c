"""Milestones, and steps as an axis: points of their own, which cost nothing twice; actions of a tabular policy."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from test_analysis_read import Row, base_row, run_row, write_rows
from test_analysis_report import report_on

import analysis
from analysis import statistics, tables
from analysis.best import best_settings
from analysis.figures import actions, figure, figures, steps
from analysis.measures import GOLDEN
from analysis.page import configurations, summary
from analysis.winners import winners

STEPS = (5, 10)


def points_of_a_run(loss: str, beta: float, **changes: Any) -> list[Row]:
    """A run of 20 steps with milestones after 5 and 10, as `launcher collect` writes them."""
    own = run_row(loss, beta, gpus=8, gpu_hours=2.0, hosts=["n1"], **changes)
    rows = []
    for step in STEPS:
        row = run_row(loss, beta, lift=0.01 * step, **changes)
        cut = {"step": step, "max_steps": step, "milestone": step, "seconds": None, "revision": None, "hosts": ["n1"]}
        curve = [line for line in row["curve"] if line["step"] <= step]
        axes = {**row["axes"], "step": step}
        rows.append(row | cut | {"run_id": f"{own['run_id']}@{step}", "axes": axes, "curve": curve})
    return [*rows, own | {"axes": {**own["axes"], "step": 20}}]


def scan() -> list[Row]:
    """Two losses and two betas, each with its milestones."""
    runs = [points_of_a_run(loss, beta) for loss in ("ipo", "sigmoid") for beta in (0.1, 0.5)]
    return [base_row(), *(row for rows in runs for row in rows)]


def estimated(folder: Path, rows: list[Row]) -> pd.DataFrame:
    return statistics.with_estimates(analysis.load(write_rows(folder, rows)))


def drawn(frame: pd.DataFrame) -> dict[str, figure.Figure]:
    settings = statistics.settings(frame)
    return {each.name: each for each in figures.figures(frame, settings, best_settings(settings))}


def values(figure: figure.Figure, *keys: str) -> list[set[tuple[Any, ...]]]:
    """What each table of a figure holds, of those that have these keys."""
    assert figure.chart is not None
    tables = figure.chart["datasets"].values()
    return [{tuple(row[key] for key in keys) for row in rows} for rows in tables if rows and {*keys} <= {*rows[0]}]


def test_scores_are_drawn_against_steps(tmp_path: Path) -> None:
    """One panel for each loss; in it every beta at 5, 10 and 20 steps."""
    found = drawn(estimated(tmp_path, scan()))["steps"]
    assert found.chart is not None
    assert len(found.chart["concat"]) == 2
    expected = {(step, beta) for step in (5.0, 10.0, 20.0) for beta in (0.1, 0.5)}
    assert values(found, "step", "beta") == [expected, expected]


def test_the_number_of_steps_may_be_an_axis_itself(tmp_path: Path) -> None:
    """Runs that differ in trainer.max_steps are points against their steps as well; without such an axis none are."""
    rows = [
        run_row(step=count, max_steps=count, run_id=f"r{count}", axes={"beta": 0.1, "trainer.max_steps": count})
        for count in (10, 40)
    ]
    found = drawn(estimated(tmp_path, [base_row(), *rows]))["steps"]
    assert values(found, "step", "beta") == [{(10.0, 0.1), (40.0, 0.1)}]
    frame = statistics.settings(estimated(tmp_path, [base_row(), run_row(), run_row(beta=0.2)]))
    assert steps.figure(frame[frame["kind"] == "run"], frame[frame["kind"] == "base"]) is None


def test_a_training_curve_is_drawn_once(tmp_path: Path) -> None:
    """A milestone's curve is the beginning of its run's."""
    found = values(drawn(estimated(tmp_path, scan()))["curves"], "run_id", "step")
    runs = {run for table in found for run, _ in table}
    assert len(runs) == 4
    assert not any("@" in run for run in runs)


def test_runs_are_counted_and_milestones_beside_them(tmp_path: Path) -> None:
    """Four trainings of 2 GPU-hours are no twelve; each milestone is a setting that was looked at."""
    frame = estimated(tmp_path, scan())
    best = best_settings(statistics.settings(frame))
    assert {each.looked_at for each in best} == {12}
    told = summary.findings(frame, winners(best, ()))[-1]
    assert told == (
        "4 of 4 runs are trained and 4 evaluated. 8 of their milestones are evaluated as well. "
        "Of each loss (ipo and sigmoid) 2 settings with 1 seed were scored. They took 8.0 GPU-hours."
    )


def test_the_page_and_the_table_show_each_point(tmp_path: Path) -> None:
    """A row for each; one command, one address and one machine for a run with all of its milestones."""
    page = report_on(tmp_path, scan())
    assert "tiny-ipo-beta0.1-0123abcd@5" in page.text
    assert "step=5" in page.text
    assert page.text.count("Its model: ") == 4
    assert "After step" not in page.text
    frame = analysis.load(tmp_path)
    assert ("ran on", "n1") in configurations.provenance(frame[frame["milestone"].isna()])
    table = tables.runs_table(statistics.with_estimates(frame))
    assert not [name for name in table if name.startswith("axis ")]
    assert table["step"].dropna().tolist() == [5.0, 10.0, 20.0] * 4


def test_the_page_tells_where_each_point_is_published(tmp_path: Path) -> None:
    """With the run's command: its final model's address, and that of each milestone which has one."""
    rows = scan()
    rows[2]["revision"] = {"address": "me/scan@ipo-0.1-step10"}
    page = report_on(tmp_path, rows)
    assert page.text.count("Its model: ") == 4
    assert "After step 10: me/scan@ipo-0.1-step10" in page.text


def test_milestones_are_no_further_repeats_of_a_seed(tmp_path: Path) -> None:
    """Two seeds of one setting, whose scores differ by 0.2: one degree of freedom, whatever was kept on the way."""
    rows = [base_row()]
    for seed, lift in ((1, 0.1), (2, 0.3)):
        rows += points_of_a_run("ipo", 0.1, seed=seed, run_id=f"r{seed}")
        rows[-1] |= {key: run_row(lift=lift)[key] for key in ("evaluation", "golden_rewards")}
    spread = statistics.seed_spread(estimated(tmp_path, rows), GOLDEN)
    assert spread.freedom == 1
    assert spread.deviation == pytest.approx(0.2 / math.sqrt(2))


def test_a_run_without_milestones_stands_at_its_last_step(tmp_path: Path) -> None:
    """Beside runs with them (of another sweep, or not evaluated yet), it is a point like theirs."""
    rows = [base_row(), *points_of_a_run("ipo", 0.1), run_row("sigmoid", 0.1), run_row("hinge", 0.1, max_steps=None)]
    frame = analysis.load(write_rows(tmp_path, rows))
    assert list(frame["setting"])[1:] == ["step=5", "step=10", "step=20", "step=20", "step=?"]


def test_actions_are_drawn_and_averaged_over_seeds(tmp_path: Path) -> None:
    """A panel for each loss; two seeds of a setting are one point, at the mean of their probabilities."""
    scores = [{"reward_accuracy": 1.0, "pairs": 3, "actions": {"1": first, "2": 1 - first}} for first in (0.5, 0.75)]
    rows = [
        run_row(loss, golden_rewards=[], evaluation=each, seed=seed, run_id=f"{loss}{seed}")
        for loss in ("ipo", "sigmoid")
        for seed, each in enumerate(scores)
    ]
    found = drawn(estimated(tmp_path, rows))["actions"]
    assert found.chart is not None
    assert len(found.chart["concat"]) == 2
    assert {point for table in values(found, "loss", "action", "value") for point in table} == {
        (loss, action, value) for loss in ("ipo", "sigmoid") for action, value in (("1", 0.625), ("2", 0.375))
    }


def test_actions_that_are_no_numbers_are_no_points(tmp_path: Path) -> None:
    """They are left out; a sweep without any has no such figure; Parquet takes a frame in which a run has none."""
    scores = {"reward_accuracy": 1.0, "pairs": 3, "actions": {"1": "x", "2": None, "</script>": 0.25}}
    frame = estimated(tmp_path, [run_row(evaluation=scores), run_row(beta=0.2, evaluation={"actions": [1]})])
    assert values(drawn(frame)["actions"], "action", "value") == [{("</script>", 0.25)}]
    tables.to_parquet(analysis.load(tmp_path), tmp_path / "results.parquet")
    assert json.loads(pd.read_parquet(tmp_path / "results.parquet").iloc[1]["actions"]) == {}
    assert actions.figure(statistics.settings(estimated(tmp_path, [run_row()]))) is None
