"""What is compared with what: models by content, every key that differs, judges, programs, ties."""

from __future__ import annotations

import itertools
import json
import math
import re
import statistics
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from test_analysis_read import base_row, run_row, write_rows
from test_analysis_report import report_on

import analysis
from analysis import tables
from analysis.best import Best, best_settings
from analysis.figures import figures
from analysis.figures.figure import Figure
from analysis.judges import UNKNOWN
from analysis.measures import present
from analysis.page import cautions, summary
from analysis.statistics import settings, with_estimates
from analysis.winners import best_rows, winners

Row = dict[str, Any]
LOSSES, BETAS = ("ipo", "sigmoid"), (0.1, 0.5, 0.7)
JUDGED = {str(number): 5 + math.sin(number) for number in range(40)}  # by question


def objective(row: Row, path: str | None = None, revision: str | None = None, **trainer: object) -> Row:
    """A whole objective of a run, as its config.yaml has it."""
    model = {"name": row["model"], "path": path, "revision": revision, "dtype": "float32"}
    dataset = {"name": row["dataset"], "path": None, "train_pairs": None}
    keys: Row = {"name": "full", "learning_rate": 2e-4, "lora": None} | trainer
    return {"model": model, "dataset": dataset, "trainer": keys} | {
        key: row[key] for key in ("loss_type", "beta", "seed")
    }


def scan(
    tag: str = "a", lift: float = 0.2, model: str = "final", where: Row | None = None, **changes: object
) -> list[Row]:
    """Runs of two losses and three betas; `where` are path and revision of their model, or keys of their trainer."""
    found = []
    for loss, beta in itertools.product(LOSSES, BETAS):
        row = run_row(loss, beta, model, lift=lift, run_id=f"{model}-{loss}-{beta}-{tag}", **changes)
        found.append(row | {"objective": objective(row, **(where or {}))})
    return found


def base_of(rows: list[Row], **changes: object) -> Row:
    """The untrained model of these runs."""
    first = rows[0]["objective"]
    parts = {"objective": {"model": first["model"], "dataset": first["dataset"]}}
    return base_row(rows[0]["model"], base=rows[0].get("base")) | parts | changes


def loaded(tmp_path: Path, *sweeps: list[Row]) -> pd.DataFrame:
    return analysis.load(*(write_rows(tmp_path / str(number), rows) for number, rows in enumerate(sweeps)))


def chosen(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[Best]]:
    frame = with_estimates(frame)
    return frame, best_settings(settings(frame))


def drawn(frame: pd.DataFrame, best: list[Best]) -> dict[str, Figure]:
    return {each.name: each for each in figures.figures(frame, settings(frame), best)}


def said(frame: pd.DataFrame, best: list[Best]) -> str:
    return " ".join([*summary.findings(frame, winners(best, ())), *cautions.cautions(frame, best, settings(frame))])


# ------------------------------------------------------------------------------------------------ models, data sets


@pytest.mark.parametrize(
    ("one", "other", "names"),
    [
        ({"path": "/m/A/final"}, {"path": "/m/B/final"}, ["A/final", "B/final"]),
        ({"path": "org/final", "revision": "v1"}, {"path": "org/final", "revision": "v2"}, ["final@v1", "final@v2"]),
        ({"path": "org/final", "revision": None}, {"path": "org/final", "revision": "v2"}, ["final@main", "final@v2"]),
        ({"path": "/m/A/x"}, {"path": "/m/B/x"}, ["final (A/x)", "final (B/x)"]),
        ({"path": "/m/final"}, {"path": None}, ["m/final", "final"]),
    ],
)
def test_two_models_of_one_name_are_two(tmp_path: Path, one: Row, other: Row, names: list[str]) -> None:
    """By path, or by revision; each has its panel, its best and its own untrained model."""
    sides = [scan("a", 0.1, base="ka", where=one), scan("b", 0.5, base="kb", where=other)]
    bases = [base_of(sides[0], golden_rewards=[0.1] * 40), base_of(sides[1], golden_rewards=[0.3] * 40)]
    frame, best = chosen(loaded(tmp_path, [*bases, *sides[0], *sides[1]]))
    assert list(dict.fromkeys(frame["model"])) == names
    assert [each.row["model"] for each in best] == [name for name in names for _ in LOSSES]
    assert [each.looked_at for each in best] == [6] * 4
    for row, base in zip([*sides[0], *sides[1]], [0.1] * 6 + [0.3] * 6, strict=True):
        mean = statistics.fmean(row["golden_rewards"])
        found = frame[frame["run_id"] == row["run_id"]].iloc[0]["golden_reward_difference"].value
        assert found == pytest.approx(mean - base)
    assert f"2 panels ({', '.join(names)})" in drawn(frame, best)["golden-reward"].description


def test_one_model_with_other_content_is_two(tmp_path: Path) -> None:
    """Weights, or data, that were replaced at their place tell runs apart; a run that says nothing of them does not."""
    rows = scan(where={"path": "/m/final"})
    found: list[Row] = [{"model": {"commit": "aaaaaaaaaaaa"}}, {"model": {"commit": "bbbbbbbbbbbb"}}, {}]
    frame = loaded(tmp_path, [row | {"sources": each} for row, each in zip(rows, found * 2, strict=True)])
    assert list(frame["model"]) == ["final@aaaaaaaa", "final@bbbbbbbb", "final"] * 2
    data: list[Row] = [{"commits": {}}, {"files": {"t": "1"}}, {"files": {"t": "2"}}]
    rows = [row | {"sources": {"dataset": each}} for row, each in zip(rows, data * 2, strict=True)]
    frame = loaded(tmp_path, rows)
    assert list(frame["dataset"]) == ["reviews", "reviews@1", "reviews@2"] * 2
    assert frame["panel"].nunique() == 3


def test_runs_on_files_that_were_changed_have_their_own_panels(tmp_path: Path) -> None:
    """One data set's name, two contents: two panels and a best of each, and the page says why."""
    old, new = scan("a", 0.1), scan("b", 0.9)
    for rows, digest in ((old, "1" * 64), (new, "2" * 64)):
        for row in rows:
            row["sources"] = {"dataset": {"commits": {}}, "inputs": {"dataset.path": {"train": digest, "test": "3"}}}
            row["objective"]["dataset"] = {"name": "reviews", "path": "/p/train.jsonl"}
    frame, best = chosen(loaded(tmp_path, [*old, *new]))
    names = ["reviews@11111111", "reviews@22222222"]
    assert list(dict.fromkeys(frame["dataset"])) == names
    assert len(set(frame["panel"])) == 2
    assert [each.row["dataset"] for each in best] == [name for name in names for _ in LOSSES]
    text = "The runs of reviews@11111111 and reviews@22222222 were trained on different content of one dataset"
    assert text in said(frame, best)


def test_runs_of_which_no_files_are_recorded_are_named(tmp_path: Path) -> None:
    """Older ones beside those of which it is known: they may be of other content."""
    rows = scan()
    for row in rows:
        row["sources"] = {"dataset": {"commits": {}}, "inputs": {"dataset.path": {"train": "1"}}}
    del rows[0]["sources"]["inputs"]
    frame, best = chosen(loaded(tmp_path, rows))
    assert f"On which files {rows[0]['run_id']} were trained was not recorded, so they may be others." in said(
        frame, best
    )


def test_two_configurations_of_one_data_set_are_two(tmp_path: Path) -> None:
    """One repository at one commit holds several data sets; their runs stand in panels of their own."""
    rows = scan()
    for place, row in enumerate(rows):
        data = row["objective"]["dataset"] | {"path": "org/data", "config": ("helpful", "harmless")[place % 2]}
        row["objective"] = row["objective"] | {"dataset": data}
    frame = loaded(tmp_path, rows)
    assert list(frame["dataset"]) == ["reviews helpful", "reviews harmless"] * 3
    assert frame["panel"].nunique() == 2


def test_a_model_loaded_otherwise_is_no_base(tmp_path: Path) -> None:
    """The untrained model in another precision is not what a run is compared with."""
    rows = scan(where={"path": "/m/final"})
    base = base_of(rows)
    base["objective"] = {"model": base["objective"]["model"] | {"dtype": "bfloat16"}}
    frame, best = chosen(loaded(tmp_path, [base, *rows]))
    assert all(math.isnan(each.difference.value) for each in best)
    assert "No difference to the untrained model is known for final." in said(frame, best)


# ------------------------------------------------------------------------------------------------ differing keys


def test_two_sweeps_with_another_learning_rate_are_two_panels(tmp_path: Path) -> None:
    """Though neither has it as an axis; the best setting names it, and the heat map has a cell for each."""
    one, two = scan("a", 0.1, where={"learning_rate": 1e-4}), scan("b", 0.4, where={"learning_rate": 2e-4})
    frame, best = chosen(loaded(tmp_path, [base_of(one), *one], two))
    assert set(frame[frame["kind"] == "run"]["panel"]) == {
        "final · learning_rate=0.0001",
        "final · learning_rate=0.0002",
    }
    assert all(
        re.fullmatch(r"beta 0\.\d, learning_rate=0\.0002", row["best setting"]) for row in best_rows(winners(best, ()))
    )
    found = drawn(frame, best)
    assert "2 panels" in found["golden-reward"].description
    cells = [each for table in found["heatmap"].chart["datasets"].values() for each in table]
    places = {(each["panel"], each["across"], each["down"]) for each in cells}
    assert len(places) == 12
    assert set(tables.runs_table(frame)["trainer.learning_rate"].dropna()) == {"0.0001", "0.0002"}
    assert "at beta 0.7, learning_rate=0.0002" in said(frame, best) or "at beta 0.1, learning_rate" in said(frame, best)


def test_what_follows_from_what_is_named_is_not_named_again(tmp_path: Path) -> None:
    """Keys of a chosen file of conf/, and keys that one loss alone takes, make no panels of their own."""
    lora = {"r": 16, "alpha": 32}
    one = scan("a", where={"name": "lora", "learning_rate": 1e-4, "lora": lora})
    two = scan("b", where={"name": "full", "learning_rate": 1e-5})
    frame = loaded(tmp_path, one, two)
    assert set(frame["setting"]) == {"trainer=lora", "trainer=full"}
    taken = [scan("a", where={"desirable_weight": None})[0], scan("a", where={"desirable_weight": 1.5})[-1]]
    assert set(loaded(tmp_path, taken)["setting"]) == {""}
    both = [*scan("a", where={"desirable_weight": 1.0}), *scan("b", where={"desirable_weight": 1.5})]
    assert set(loaded(tmp_path, both)["setting"]) == {"desirable_weight=1", "desirable_weight=1.5"}


def test_golden_rewards_of_other_generations_are_not_ranked_together(tmp_path: Path) -> None:
    """Runs that were evaluated otherwise than most have a panel of their own, and are passed over."""
    few = {"generations": 40, "seed": 0}
    rows = [row | {"base": "k1", "preference_made_by": few} for row in scan("a", 0.1)]
    odd = run_row("ipo", 0.7, "final", lift=5.0, run_id="odd", base="k2", preference_made_by=few | {"generations": 400})
    frame, best = chosen(loaded(tmp_path, [*rows, odd | {"objective": rows[0]["objective"] | {"beta": 0.7}}]))
    assert max(each.value for each in best) < 1
    assert set(frame["setting"]) == {"generations=40", "generations=400"}


def test_another_estimate_of_the_kl_is_said_in_words(tmp_path: Path) -> None:
    """As the setting of the runs, and of the untrained model beside each."""
    plain = "sum over tokens, on the policy's own samples"
    ways = {"k1": plain, "k2": f"{plain}, one forward of each model"}
    rows = [
        row | {"base": key, "preference_made_by": {"kl_estimator": way, "seed": 0}}
        for (key, way), row in zip(ways.items(), scan("a", 0.1), strict=False)
    ]
    bases = [base_of(rows) | {"base": key, "run_id": f"final-base-{key}"} for key in ways]
    frame = loaded(tmp_path, [*bases, *rows])
    words = ["KL as estimated before", "KL by one forward of each model"]
    assert list(frame[frame["kind"] == "run"]["setting"]) == words
    assert list(frame[frame["kind"] == "base"]["evaluated"]) == words


def test_an_axis_and_a_score_may_have_one_name(tmp_path: Path) -> None:
    """Both have a column in every table: the score by its name, the axis as `axis NAME`."""
    rows = [
        run_row(beta=beta, axes={"command/x": beta, "beta": beta}, evaluation={"command/x": beta})
        for beta in (1.0, 2.0)
    ]
    table = tables.runs_table(with_estimates(loaded(tmp_path, rows)))
    assert table.columns.is_unique
    assert "axis command/x" in tables.to_markdown(table)
    assert list(table["command/x"]) == [1.0, 2.0]
    assert tables.to_csv(table)


# ------------------------------------------------------------------------------------------------ judges


def scores(row: Row, name: str, shift: float, **made_by: object) -> Row:
    """What a judge gave a row: 40 questions around 5 + shift."""
    by_question = {key: value + shift for key, value in JUDGED.items()}
    who = {"judge": {"model": name, "temperature": 0.0, "served_models": [name]}, "hashes": {"prompts": "p1"}}
    who |= {"answers": {"max_new_tokens": 64, "base": row.get("base")}, "spent": {"calls": round(shift * 10)}}
    mean = statistics.fmean(by_question.values())
    return {
        "evaluation": {"mt_bench": mean, "mt_bench_se": 0.2, "mt_bench_writing": mean},
        "mt_bench_scores": by_question,
        "mt_bench_made_by": {**who, **made_by},
    }


def judged(row: Row, *rounds: Row) -> Row:
    """The row with the scores of one judge, and those of others beside them."""
    first, *others = rounds
    evaluation = {**(row["evaluation"] or {}), **first["evaluation"]}
    return {**row, **first, "evaluation": evaluation, "mt_bench_also": others}


def test_a_generous_judge_of_one_run_does_not_make_it_the_best(tmp_path: Path) -> None:
    """Its score is neither ranked with those of the other judge, nor held against a base that the other judged."""
    rows = scan(where={"path": "/m/final"})
    strict = [judged(row, scores(row, "strict", row["beta"])) for row in rows]
    odd = run_row("kto_pair", 0.1, "final", run_id="odd")
    odd |= {"objective": objective(odd, "/m/final")}
    base = base_of(rows)
    frame, best = chosen(
        loaded(tmp_path, [judged(base, scores(base, "strict", 0)), *strict, judged(odd, scores(odd, "generous", 4))])
    )
    assert {each.row["loss_type"]: each.row["beta"] for each in best} == {"ipo": 0.7, "sigmoid": 0.7}
    assert [each.difference.value for each in best] == pytest.approx([0.7, 0.7])
    row = frame[frame["run_id"] == "odd"].iloc[0]
    assert math.isnan(row["mt_bench by generous_difference"].value)
    found, text = drawn(frame, best), said(frame, best)
    assert "The judge is strict." in found["mt-bench-by-strict"].caption
    assert "1 of 7 runs drawn. The judge is generous." in found["mt-bench-by-generous"].caption
    assert "untrained" not in json.dumps(found["mt-bench-by-generous"].chart["datasets"])
    assert "MT-Bench scores were given by 2 judges, or in 2 ways (strict and generous)" in text
    assert "No MT-Bench by strict is known for odd, so the choice of the best passes over them." in text


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"hashes": {"prompts": "p2"}}, "strict, prompts p2"),
        ({"answers": {"max_new_tokens": 2048}}, "strict, max_new_tokens 2048"),
        ({"judge": {"model": "strict", "temperature": 0.7}}, "strict, temperature 0.7"),
        ({"judge": {"model": "strict", "temperature": 0.0, "served_models": ["x"]}}, "strict, served_models x"),
        ({}, None),
    ],
)
def test_other_prompts_and_answers_are_another_judge(tmp_path: Path, change: Row, name: str | None) -> None:
    """As far as scores go; what was spent on them, and which base their answers have, tells nothing apart."""
    rows = scan()
    given = [judged(row, scores(row, "strict", 1)) for row in rows[:-1]]
    frame = loaded(tmp_path, [*given, judged(rows[-1], scores(rows[-1], "strict", 2, **change))])
    names = [each.by.removeprefix(" by ") for each in present(frame) if each.unit == "question"]
    assert names[1:] == ([] if name is None else [name])


def test_an_unknown_judge_is_none_of_the_known(tmp_path: Path) -> None:
    """Scores of which nobody says who gave them stand apart from those that say it."""
    rows = scan()
    known, unknown = judged(rows[0], scores(rows[0], "strict", 1)), judged(rows[1], scores(rows[1], "strict", 2))
    frame = loaded(tmp_path, [known, unknown | {"mt_bench_made_by": {}}])
    assert [each.by for each in present(frame) if each.unit == "question"] == [" by strict", f" by {UNKNOWN}"]


def test_two_judges_of_all_stand_side_by_side(tmp_path: Path) -> None:
    """Each run has both scores, each against the base by the same judge; the best is that of the present judge."""
    rows = scan(where={"path": "/m/final"})
    base = base_of(rows)
    both = [judged(row, scores(row, "new", row["beta"]), scores(row, "old", 2 - row["beta"])) for row in rows]
    frame, best = chosen(loaded(tmp_path, [judged(base, scores(base, "new", 0), scores(base, "old", 1)), *both]))
    for row in frame[frame["kind"] == "run"].to_dict("records"):
        assert row["mt_bench by new_difference"].value == pytest.approx(row["beta"])
        assert row["mt_bench by old_difference"].value == pytest.approx(1 - row["beta"])
    assert {each.row["beta"] for each in best} == {0.7}
    assert "By MT-Bench by old rather than the judge of the table another setting would be the best" in said(
        frame, best
    )
    page = report_on(tmp_path / "page", [base, *both])
    assert "The judge is new." in page.text
    assert "The judge is old." in page.text


@pytest.mark.parametrize("count", [1, 2, 3])
def test_another_judge_has_a_best_only_where_it_could_choose(tmp_path: Path, count: int) -> None:
    """Of one setting that it judged alone, or without the one that is the best of the table, nothing is said."""
    rows = scan(where={"path": "/m/final"})
    own = [judged(row, scores(row, "new", row["beta"])) for row in rows]
    both = [judged(row, scores(row, "new", row["beta"]), scores(row, "old", 2 - row["beta"])) for row in rows]
    text = said(*chosen(loaded(tmp_path, [*both[:count], *own[count:]])))
    assert ("By MT-Bench by old" in text) == (count == sum(row["loss_type"] == "ipo" for row in rows))


def test_the_judge_stands_beneath_the_figure(tmp_path: Path) -> None:
    """Also where there is but one; the tables then have the columns that they always had."""
    rows = [judged(row, scores(row, "strict", row["beta"])) for row in scan()]
    frame, best = chosen(loaded(tmp_path, rows))
    found = drawn(frame, best)
    for name in ("mt-bench", "radar", "heatmap"):
        assert "The judge is strict." in found[name].caption
    assert not [name for name in frame.columns if " by " in name]


def test_the_frame_has_what_lies_behind_the_scores(tmp_path: Path) -> None:
    """`losses`, `mt_bench_questions` and `mt_bench_made_by` are as in the file, and empty where it has none."""
    row = judged(run_row(), scores(run_row(), "strict", 1))
    losses = [{"loss_type": "ipo", "beta": 0.1, "loss": 0.5}]
    questions = [{"question_id": 81, "category": "writing", "turns": [5.0, 6.0], "score": 5.5}]
    frame = loaded(tmp_path, [row | {"losses": losses, "mt_bench_questions": questions}, run_row(beta=0.2)])
    assert frame["losses"].tolist() == [losses, []]
    assert frame["mt_bench_questions"].tolist() == [questions, []]
    assert frame["mt_bench_made_by"].tolist() == [row["mt_bench_made_by"], {}]


# ------------------------------------------------------------------------------------------------ programs


def program(value: float, error: float | None = None, name: str = "command/quality", **changes: object) -> Row:
    """A row's evaluation by a program alone."""
    found = {name: value} | ({} if error is None else {f"{name}_stderr": error})
    return {"evaluation": found, "golden_rewards": [], "samples": [], **changes}


def test_a_programs_scores_are_shown_and_ranked(tmp_path: Path) -> None:
    """With nothing but `command` there are a table, a figure and a best setting; the errors that it prints are used."""
    rows = [row | program(row["beta"], 0.01) for row in scan()]
    base = base_of(rows) | program(0.2, 0.02)
    frame, best = chosen(loaded(tmp_path, [base, *rows]))
    assert [(each.row["beta"], each.measure.label) for each in best] == [(0.7, "command/quality")] * 2
    half = 1.959964 * math.hypot(0.01, 0.02)  # of a difference of two independent means
    first = best[0].difference
    assert (first.value, first.low, first.high) == pytest.approx((0.5, 0.5 - half, 0.5 + half), abs=1e-6)
    assert {"command-quality", "heatmap"} <= set(drawn(frame, best))
    page = report_on(tmp_path / "page", [base, *rows])
    assert "No run has been evaluated yet" not in page.text
    assert "without a result" not in page.text
    assert "6 of 6 runs are trained and 6 evaluated." in page.text
    assert "command/quality against beta" in page.text


def test_less_perplexity_is_better(tmp_path: Path) -> None:
    """A score whose name says that less is better is ranked so, and a fall below the base is called better."""
    rows = [row | program(row["beta"], 0.01, "lm_eval/stories/perplexity") for row in scan()]
    base = base_of(rows) | program(9.0, 0.01, "lm_eval/stories/perplexity")
    frame, best = chosen(loaded(tmp_path, [base, *rows]))
    assert {each.row["beta"] for each in best} == {0.1}
    assert {row["verdict"] for row in best_rows(winners(best, ()))} == {"better"}
    assert "Less is better" in drawn(frame, best)["lm-eval-stories-perplexity"].caption


def test_a_programs_scores_with_other_settings_stand_apart(tmp_path: Path) -> None:
    """Ten questions are not a thousand: neither ranked nor drawn together."""
    rows = [row | program(0.5, 0.1, "lm_eval/arc/acc", lm_eval_made_by={"limit": None}) for row in scan()]
    rows[0] |= program(0.9, 0.1, "lm_eval/arc/acc", lm_eval_made_by={"limit": 10})
    frame, best = chosen(loaded(tmp_path, rows))
    assert {each.value for each in best} == {0.5}
    assert "Programs were run with different settings" in said(frame, best)


def test_without_errors_nothing_is_called_sure(tmp_path: Path) -> None:
    """What a score without an error is worth is not known, so ties are not computed, and equal scores tie."""
    rows = [row | program(row["beta"]) for row in scan()]
    frame, best = chosen(loaded(tmp_path, rows))
    assert {row["ties with"] for row in best_rows(winners(best, ()))} == {"not computed"}
    text = said(frame, best)
    assert "Whether other settings of ipo would do as well is not computed" in text
    assert "The best of sigmoid, at beta 0.7, scores the same." in text
    assert "come without a standard error" in text


# ------------------------------------------------------------------------------------------------ ties


def test_where_all_settings_tie_none_is_called_the_best(tmp_path: Path) -> None:
    """Seven settings with the same texts: they tie, and the page says how many."""
    rewards = [math.sin(number) for number in range(40)]
    rows = [
        run_row("sigmoid", beta, golden_rewards=rewards, evaluation=None)
        for beta in (0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.0)
    ]
    frame, best = chosen(loaded(tmp_path, rows))
    text = said(frame, best)
    assert "On tiny 7 settings tie: none can be told from the highest, sigmoid at beta 0.1." in text
    assert "the best is" not in text
    assert best_rows(winners(best, ()))[0]["ties with"] == "6 of 6"


def test_none_and_not_computed_are_two_things(tmp_path: Path) -> None:
    """A clear winner ties with none; of accuracies without a number of pairs nothing can be said."""
    rows = [run_row(beta=beta, lift=lift) for beta, lift in ((0.1, 0.0), (0.5, 5.0))]
    assert best_rows(winners(chosen(loaded(tmp_path, rows))[1], ()))[0]["ties with"] == "none"
    for pairs, ties in ((None, "not computed"), (64, "1 of 1")):
        rows = [
            run_row(beta=beta, golden_rewards=[], evaluation={"reward_accuracy": value, "pairs": pairs})
            for beta, value in ((0.1, 0.7), (0.5, 0.75))
        ]
        assert best_rows(winners(chosen(loaded(tmp_path, rows))[1], ()))[0]["ties with"] == ties
