"""Tables and several sweeps: what their files hold, and that nothing in a name can break them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pandas as pd
import pytest
from test_analysis_read import base_row, command, grid, run_row, write_rows
from test_analysis_report import EVIL, report_on

import analysis
from analysis import statistics, tables
from analysis.best import best_settings
from analysis.columns import CATEGORIES, COLUMNS
from analysis.figures import figures


def estimated(folder: Path, rows: list[dict[str, object]]) -> pd.DataFrame:
    return statistics.with_estimates(analysis.load(write_rows(folder, rows)))


def test_latex_escapes_every_name(tmp_path: Path) -> None:
    """Names with LaTeX's special characters become text; negative numbers get a true minus."""
    rows = [
        base_row("a_b%&$#{}~^\\"),
        run_row(r"\input{x}", model="a_b%&$#{}~^\\", beta=-0.5),
        run_row("kto_pair", 0.1),
    ]
    text = tables.to_latex(tables.short_table(estimated(tmp_path, rows)), "All 100\\% runs")
    body = text.split("\\endlastfoot")[1]
    assert r"\textbackslash input\{x\}" in body
    assert r"a\_b\%\&\$\#\{\}" in body
    assert r"kto\_pair" in body
    assert "$-0.5$" in body
    assert body.count(r"\\") == len(rows)


def test_parquet_is_the_frame(tmp_path: Path) -> None:
    """Each documented column, numbers as they are, mappings as JSON; also where names are hostile."""
    rows = [
        *grid(),
        run_row(EVIL, model=EVIL, run_id=EVIL, axes={EVIL: EVIL, "n": 1}, objective={EVIL: [1, "a", None]}),
    ]
    frame = analysis.load(write_rows(tmp_path, rows))
    tables.to_parquet(frame, tmp_path / "results.parquet")
    read = pd.read_parquet(tmp_path / "results.parquet")
    assert list(read.columns) == [column.name for column in COLUMNS]
    pd.testing.assert_series_equal(read["golden_reward"], frame["golden_reward"])
    assert [list(each) for each in read["golden_rewards"]] == list(frame["golden_rewards"])
    assert json.loads(read.iloc[-1]["objective"]) == frame.iloc[-1]["objective"]


def test_further_scores_of_an_evaluation_get_columns(tmp_path: Path) -> None:
    """Numbers that no column is named for (lm_eval tasks, commands) are in the table and in other_scores."""
    scores = {"reward_accuracy": 0.7, "pairs": 64, "ifeval_strict": 0.25, "note": "no number"}
    frame = estimated(tmp_path, [run_row(evaluation=scores, golden_rewards=None), run_row(beta=0.2)])
    assert frame.iloc[0]["other_scores"] == {"ifeval_strict": 0.25}
    table = tables.runs_table(frame)
    assert table["ifeval_strict"].iloc[0] == 0.25
    assert math.isnan(table["ifeval_strict"].iloc[1])


def test_several_sweeps_make_one_report(tmp_path: Path) -> None:
    """A run in two sweeps is one row, the one that knows most, and names both; the first sweep's report stays."""
    done, begun = run_row(sweep="b"), run_row(sweep="a", status="RUNNING", evaluation=None, golden_rewards=None, step=3)
    first = write_rows(tmp_path / "a", [base_row(sweep="a"), begun, run_row("sigmoid", sweep="a")])
    second = write_rows(tmp_path / "b", [base_row(sweep="b"), done, run_row("kto_pair", sweep="b")])
    frame = analysis.load(first, second)
    assert len(frame) == 4
    shared = frame[frame["loss_type"] == "ipo"].iloc[0]
    assert (shared["status"], shared["sweep"]) == ("TRAINED", "a, b")
    ended = command(first, second)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith(f"report: {first / 'report-with-b' / 'report.html'}")
    assert "<h1>a and b</h1>" in (first / "report-with-b" / "report.html").read_text(encoding="utf-8")
    assert not (first / "report").exists()


def test_sweeps_that_differ_in_a_runs_score_are_told(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    """It is the same model, and only one of the scores counts; the same score in both is no matter."""
    one = write_rows(tmp_path / "a", [run_row(sweep="a"), run_row("sigmoid", sweep="a")])
    same = write_rows(tmp_path / "b", [run_row(sweep="b")])
    analysis.load(one, same)
    assert not [each for each in recwarn if issubclass(each.category, analysis.ResultsWarning)]
    other = write_rows(tmp_path / "c", [run_row(sweep="c", lift=0.4)])
    with pytest.warns(analysis.ResultsWarning, match=f"^{run_row()['run_id']}: the sweeps have different scores"):
        analysis.load(one, other)


def test_an_axis_of_one_sweep_is_known_for_the_other(tmp_path: Path) -> None:
    """A run of a sweep without an axis over the learning rate takes its place by its objective."""
    rate = "trainer.learning_rate"
    scan = [run_row(run_id=f"r{value}", axes={"beta": 0.1, rate: value}) for value in (1e-4, 5e-4)]
    plain = [run_row("sigmoid", axes={"beta": 0.1}, objective={"trainer": {"learning_rate": 2e-4}})]
    frame = analysis.load(write_rows(tmp_path / "a", scan), write_rows(tmp_path / "b", plain))
    assert list(frame["setting"]) == ["learning_rate=0.0001", "learning_rate=0.0005", "learning_rate=0.0002"]


def test_two_evaluations_of_a_base_stay_apart(tmp_path: Path) -> None:
    """Runs evaluated in two ways are each compared with the untrained model evaluated in the same way."""
    low, high = [0.0 + n / 100 for n in range(40)], [0.5 + n / 100 for n in range(40)]
    rows = [
        *(base_row(golden_rewards=each, evaluation=None, base=key) for key, each in (("a", low), ("b", high))),
        *(run_row(beta=beta, golden_rewards=high, evaluation=None, base=key) for key, beta in (("a", 0.1), ("b", 0.5))),
    ]
    frame = estimated(tmp_path, rows)
    assert [each.value for each in frame["golden_reward_difference"]][2:] == pytest.approx([0.5, 0.0])
    page = report_on(tmp_path, rows)
    assert "were evaluated in more than one way" in page.text


def test_radar_and_heat_map_hold_the_scores(tmp_path: Path) -> None:
    """Each category of each loss's best is a point, beside the untrained model's; each setting is a cell."""
    marks = {f"mt_bench_{name}": 5.0 + number / 2 for number, name in enumerate(CATEGORIES)} | {"mt_bench": 6.0}
    rows = [base_row(evaluation=marks), *(run_row(loss, beta, evaluation=marks | {"mt_bench": 6 + beta})
            for loss in ("ipo", "sigmoid") for beta in (0.1, 0.5))]  # fmt: skip
    frame = estimated(tmp_path, rows)
    settings = statistics.settings(frame)
    drawn = {figure.name: figure for figure in figures.figures(frame, settings, best_settings(settings))}
    points = [each for table in drawn["radar"].chart["datasets"].values() for each in table if "category" in each]
    seen = {(each["loss"], each["category"], each["value"]) for each in points}
    wanted = {
        (loss, name, marks[f"mt_bench_{name}"]) for loss in ("ipo", "sigmoid", "untrained") for name in CATEGORIES
    }
    assert seen == wanted
    cells = {
        (each["across"], each["down"], each["value"])
        for table in drawn["heatmap"].chart["datasets"].values()
        for each in table
    }
    assert cells == {(str(beta), loss, 6 + beta) for loss in ("ipo", "sigmoid") for beta in (0.1, 0.5)}


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([run_row()], "1 of 1 runs is trained and 1 evaluated."),
        (
            [
                run_row(beta=beta, status="FAILED", reason="boom", evaluation=None, golden_rewards=None, samples=None)
                for beta in (0.1, 0.2)
            ],
            "0 of 2 runs are trained and 0 evaluated; 2 failed.",
        ),
        (
            [run_row(evaluation={"golden_reward": math.nan, "kl": math.nan}, golden_rewards=[math.nan] * 4)],
            "1 of 1 runs is trained and 0 evaluated.",
        ),
    ],
)
def test_small_and_failed_sweeps_report(tmp_path: Path, rows: list[dict[str, object]], expected: str) -> None:
    """One run, nothing but failures, nothing but NaN: there is a page, and it says what is there."""
    page = report_on(tmp_path, rows)
    assert expected in page.text
    assert (tmp_path / "report" / "tables" / "runs.tex").exists()
