"""Reading results.jsonl: what the frame promises, and what is said of a file that cannot be used."""

from __future__ import annotations

import json
import math
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import analysis
from analysis.__main__ import _distinct, _folder
from analysis.apart import show

Row = dict[str, Any]


def run_row(loss: str = "ipo", beta: float = 0.1, model: str = "tiny", *, lift: float = 0.2, **changes: object) -> Row:
    """A complete row of a run, as `launcher collect` writes it."""
    noise = random.Random(f"{model}{loss}{beta}")  # noqa: S311 - no secret
    rewards = [base + lift + noise.gauss(0, 0.2) for base in base_row(model)["golden_rewards"]]
    row: Row = {
        "kind": "run",
        "run_id": f"{model}-{loss}-beta{beta}-0123abcd",
        "sweep": "demo",
        "model": model,
        "dataset": "reviews",
        "loss_type": loss,
        "beta": beta,
        "seed": 42,
        "status": "TRAINED",
        "reason": None,
        "step": 20,
        "max_steps": 20,
        "seconds": 65.0,
        "attempts": 1,
        "job_id": "7",
        "axes": {"model": model, "loss_type": loss, "beta": beta},
        "objective": {"loss_type": loss, "beta": beta, "trainer": {"learning_rate": 2e-4, "max_steps": 20}},
        "training": {"loss": 0.6},
        "evaluation": evaluation(rewards, kl=1 - beta),
        "golden_rewards": rewards,
        "samples": [{"prompt": "Movie review:", "text": f"{loss} at {beta} liked it", "reward": rewards[0]}],
        "curve": [{"step": s, "loss": 1 / s, "reward_accuracy": 0.6, "reward_margin": s / 9} for s in (5, 10, 20)],
        "provenance": {"git_commit": "abc", "git_dirty": False, "versions": {"trl": "1.16.0"}, "host": "n1"},
        "command": f"python -m launcher loss_type={loss} beta={beta}",
        "revision": {"store": "huggingface", "address": f"me/{model}-demo@{loss}-{beta}"},
    }
    return row | changes


def base_row(model: str = "tiny", count: int = 40, **changes: object) -> Row:
    """A complete row of an untrained model."""
    noise = random.Random(model)  # noqa: S311 - no secret
    rewards = [0.1 + noise.gauss(0, 0.3) for _ in range(count)]
    row: Row = {"kind": "base", "model": model, "dataset": "reviews", "sweep": "demo", "status": "TRAINED"}
    row |= {"evaluation": evaluation(rewards, kl=0.0), "golden_rewards": rewards}
    row["samples"] = [{"prompt": "Movie review:", "text": "it was a film", "reward": rewards[0]}]
    return row | changes


def evaluation(rewards: list[float], kl: float) -> Row:
    """An evaluation whose golden reward is the mean of `rewards`."""
    scores = {"loss": 0.6, "reward_accuracy": 0.8, "reward_margin": 0.4, "kl": kl, "kl_stderr": 0.1}
    mean = math.fsum(rewards) / len(rewards)
    return scores | {"golden_reward": mean, "golden_reward_stderr": 0.05, "pairs": 64, "generations": len(rewards)}


def grid() -> list[Row]:
    """Two models x three losses x three betas, with a failed, a pending and a half-evaluated run."""
    rows = [
        run_row(loss, beta, model)
        for model in ("tiny", "small")
        for loss in ("sigmoid", "ipo", "kto_pair")
        for beta in (0.01, 0.1, 0.5)
    ]
    empty: Row = {"evaluation": None, "golden_rewards": None, "samples": None, "training": None, "curve": None}
    rows[1] |= empty | {"status": "FAILED", "reason": "CUDA out of memory", "step": 7}
    rows[2] |= empty | {"status": "PENDING", "step": None, "seconds": None, "provenance": None, "command": None}
    rows[3] |= {"evaluation": {"reward_accuracy": 0.7}, "golden_rewards": [], "samples": None}
    return [base_row("tiny"), base_row("small"), *rows]


def write_rows(folder: Path, rows: list[Row], tail: str = "") -> Path:
    """Write a sweep's folder with `rows` as its results.jsonl, and `tail` after them."""
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "results.jsonl").write_text(text + tail, encoding="utf-8")
    return folder


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run `python -m analysis ...` as a user does."""
    words = [sys.executable, "-m", "analysis", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, check=False, cwd=Path(__file__).parent.parent)


def test_numbers_are_floats_and_missing_ones_nan(tmp_path: Path) -> None:
    """Whatever is absent, null or no number is NaN; an infinite loss stays what it is."""
    rows = [run_row(training={"loss": math.inf}, seconds="soon", seed=None, evaluation=None, golden_rewards=None)]
    frame = analysis.load(write_rows(tmp_path, rows))
    row = frame.iloc[0]
    assert row["training_loss"] == math.inf
    assert all(math.isnan(row[name]) for name in ("seconds", "seed", "golden_reward", "kl", "pairs"))
    assert row["golden_rewards"] == []


def test_a_row_of_only_its_identity_is_a_row(tmp_path: Path) -> None:
    """A run of which nothing else is known has empty values of the documented types."""
    frame = analysis.load(write_rows(tmp_path, [{"kind": "run", "run_id": "r"}]))
    row = frame.iloc[0]
    assert (row["model"], row["axes"], row["samples"], row["curve"], row["panel"]) == (None, {}, [], [], "?")


def test_further_axes_name_the_setting(tmp_path: Path) -> None:
    """Runs that differ in learning rate are in panels of their own; a constant axis is not named, nor is the seed."""
    axes = [{"trainer.learning_rate": rate, "trainer.epochs": 1} for rate in (1e-4, 2e-4)]
    rows = [run_row(axes=each, seed=seed, run_id=f"r{seed}") for seed, each in enumerate(axes)]
    frame = analysis.load(write_rows(tmp_path, rows))
    assert list(frame["setting"]) == ["learning_rate=0.0001", "learning_rate=0.0002"]
    assert frame["panel"].nunique() == 2


def test_a_torn_last_line_is_skipped_with_a_warning(tmp_path: Path) -> None:
    """An interrupted writer costs one row, not the report."""
    write_rows(tmp_path, [run_row(), run_row(beta=0.2)], tail='{"kind": "run", "run_')
    with pytest.warns(analysis.ResultsWarning, match=r"results\.jsonl: skipped line 3"):
        assert len(analysis.load(tmp_path)) == 2


def test_of_a_repeated_run_the_last_row_counts(tmp_path: Path) -> None:
    """Concatenated files do not count a run twice, and it is said."""
    write_rows(tmp_path, [run_row(status="RUNNING"), run_row(beta=0.2), run_row(status="TRAINED")])
    with pytest.warns(analysis.ResultsWarning, match="repeat a run"):
        frame = analysis.load(tmp_path)
    assert list(frame["status"]) == ["TRAINED", "TRAINED"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        ('{"kind": "ru', "line 1 is not a JSON object"),
        ('{"kind": "run", "run_id": "a"}\n[1]\n{"kind": "run", "run_id": "b"}\n', "line 2 is not a JSON object"),
        ('{"kind": "run", "run_id": "a"}\n\n{"kind": "run", "run_id": "b"}\n', "line 2 is not a JSON object"),
        ('{"kind": "thing"}', "line 1: kind is 'thing'"),
        ('{"kind": "run"}', "line 1: a run without run_id"),
        ("[" * 100_000, "line 1 is not a JSON object"),
    ],
)
def test_a_broken_file_is_named_with_the_remedy(tmp_path: Path, text: str, expected: str) -> None:
    """Each message holds the file, the line where there is one, and the command that writes it again."""
    folder = write_rows(tmp_path / "demo", [], tail=text)
    with pytest.raises(analysis.ResultsError) as caught:
        analysis.load(folder)
    assert str(caught.value).startswith(f"{folder / 'results.jsonl'}: {expected}")
    assert str(caught.value).endswith("write it again with 'python -m launcher collect demo'")


def test_unprintable_characters_are_replaced_everywhere(tmp_path: Path) -> None:
    """Controls and lone surrogates, which neither XML nor UTF-8 can hold, do not get past the reader."""
    row = run_row(model="a\x00b", objective={"k\x1b": ["\ud800"]}, samples=[{"prompt": "p\x07", "text": "t\r\n"}])
    row = analysis.load(write_rows(tmp_path, [row])).iloc[0]
    assert row["model"] == "a\N{REPLACEMENT CHARACTER}b"
    assert row["objective"] == {"k\N{REPLACEMENT CHARACTER}": ["\N{REPLACEMENT CHARACTER}"]}
    assert row["samples"][0]["prompt"] == "p\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (2e-4, "0.0002"),
        (0.1, "0.1"),
        (10, "10"),
        (True, "True"),
        (None, "None"),
        ({"b": 1, "a": [2]}, '{"a": [2], "b": 1}'),
    ],
)
def test_config_values_are_shown_short(value: object, text: str) -> None:
    """Values read as one would write them in a config."""
    assert show(value) == text


def test_a_missing_folder_ends_the_command_with_2(tmp_path: Path) -> None:
    """One line on stderr names the file and the remedy; nothing is written."""
    ended = command(tmp_path / "nothing")
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr.count("\n") == 1
    assert ended.stderr.startswith(f"error: {tmp_path / 'nothing' / 'results.jsonl'}: no such folder")
    assert "give the folder of a sweep, such as outputs/sweeps/NAME" in ended.stderr


def test_an_output_that_cannot_be_written_ends_the_command_with_2(tmp_path: Path) -> None:
    """A file in the way of the report's folder is named."""
    (tmp_path / "file").touch()
    ended = command(write_rows(tmp_path / "demo", [run_row()]), "--output", tmp_path / "file")
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"error: {tmp_path / 'file'}")
    assert ended.stderr.count("\n") == 1


def test_help_shows_examples() -> None:
    """`--help` is enough to use the command."""
    ended = command("--help")
    assert ended.returncode == 0
    assert "python -m analysis outputs/sweeps/demo --output" in ended.stdout


def test_the_remedy_names_the_folder_in_which_the_sweep_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is advised can be typed as it is: elsewhere than in outputs/, a launcher has to be told where to look."""
    monkeypatch.chdir(tmp_path)
    for root, more in (("outputs", ""), ("my runs", f" --output-dir '{tmp_path}/my runs'")):
        folder = write_rows(tmp_path / root / "sweeps/demo", [run_row(), run_row()])
        with pytest.warns(analysis.ResultsWarning, match=re.escape(f"'python -m launcher collect demo{more}'")):
            analysis.load(folder)


def test_a_folder_that_is_no_sweep_is_told_which_are(tmp_path: Path) -> None:
    """Of the output folder, its sweeps/ and a misspelt sweep those that lie there; of a sweep how its file is made."""
    for name in ("a", "b"):
        (tmp_path / "sweeps" / name / "launches").mkdir(parents=True)
    listed = f"give the folder of a sweep: {tmp_path}/sweeps/a, {tmp_path}/sweeps/b"
    for given in (tmp_path, tmp_path / "sweeps", tmp_path / "sweeps" / "c"):
        with pytest.raises(analysis.ResultsError) as caught:
            analysis.load(given)
        assert str(caught.value).endswith(listed)
    with pytest.raises(analysis.ResultsError) as caught:
        analysis.load(tmp_path / "sweeps" / "a")
    remedy = f"no such file; write it again with 'python -m launcher collect a --output-dir {tmp_path}'"
    assert str(caught.value).endswith(remedy)


def test_the_same_sweep_twice_is_one(tmp_path: Path) -> None:
    """However its folder is spelt, its report is that of one; the first of several stays the first."""
    one, other = (write_rows(tmp_path / name, [run_row(run_id=name)]) for name in ("one", "other"))
    assert _distinct([one, tmp_path / "." / "one", one / "results.jsonl"]) == [one]
    assert _distinct([one, other, one]) == [one, other]
    assert _folder(_distinct([one, one / "results.jsonl"])) == one / "report"
