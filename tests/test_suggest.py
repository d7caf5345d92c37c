"""`suggest`: which runs to make next, and a command that launches exactly those."""

from __future__ import annotations

import importlib
import json
import math
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import clean_environment, sweep_of
from finished_runs import evaluation, trained_runs
from waiting import LONGEST_WAIT

from launcher.cli import main
from launcher.planning.further import Further, words_for
from launcher.store.facts import Launch, RunRecord
from launcher.store.files import write_once
from launcher.store.output_folder import Store
from launcher.store.run_folder import RunDir

BETAS = (0.05, 0.1, 0.2, 0.4, 0.8)
PEAKS = {"sigmoid": 0.2, "ipo": 0.4}


def score(loss: str, beta: float) -> float:
    """A curve over log beta, its best at the loss's peak; ipo is a little better."""
    return 0.5 + 0.05 * (loss == "ipo") - 0.1 * math.log(beta / PEAKS[loss]) ** 2


def swept(store: Store, *argv: str) -> list[RunDir]:
    """A sweep that is trained and scored by those curves."""
    runs = trained_runs(store, "sweep=demo", *argv)
    for run in runs:
        config = run.read_config()
        found = evaluation(score(config["loss_type"], config["beta"])) | {"golden_reward_stderr": 0.02}
        run.evaluation_file.unlink()
        run.evaluation_file.write_text(json.dumps(found), encoding="utf-8")
    return runs


def answer(store: Store, capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    """What `suggest --json` says."""
    capsys.readouterr()
    assert main.main(["suggest", "demo", "--json", *words, "--output-dir", str(store.root)]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def planned(command: str, folder: Path) -> list[tuple[str, float, int]]:
    """Loss, beta and seed of the runs that a command would submit, as it was typed but for dry_run=true."""
    words = shlex.split(command)
    assert words[:3] == ["python", "-m", "launcher"]
    done = subprocess.run(
        [sys.executable, *words[1:], "dry_run=true", "--json"],
        cwd=folder, env=clean_environment(), capture_output=True, text=True, timeout=LONGEST_WAIT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    ids = [run["run_id"] for run in json.loads(done.stdout)["runs"] if run["action"] == "submit"]
    configs = {run.run_id: run.config for run in sweep_of(*(word for word in words[3:] if word != "-m")).runs}
    return sorted((configs[each].loss_type, configs[each].beta, configs[each].seed) for each in ids)


def wanted(found: dict[str, Any]) -> list[tuple[str, float, int]]:
    """Loss, beta and seed of the runs that are suggested."""
    return sorted((run["loss_type"], run["beta"], run["seed"]) for run in found["runs"])


def test_the_command_launches_exactly_what_is_suggested(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As typed, with dry_run=true: runs of the sweep that were not there, each as in the table, and no other."""
    swept(store, "loss_type=sigmoid,ipo", f"beta={','.join(map(str, BETAS))}")
    found = answer(store, capsys, "--runs", "5")
    assert len(found["runs"]) == 5
    assert planned(found["command"], tmp_path) == wanted(found)
    assert "sweep=demo" in found["command"]


def test_a_benchmark_that_the_launch_does_not_measure_is_told(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    """Settings are compared by a program's score that `evaluate` has measured: the runs will need it, too."""
    for run in swept(store, "loss_type=ipo", f"beta={','.join(map(str, BETAS))}"):
        beta = run.read_config()["beta"]
        fact = {
            "model": run.path.name,
            "scores": {"quality": score("ipo", beta), "quality_stderr": 0.01},
            "seconds": 1.0,
        }
        write_once(run.evaluations.result_file("command"), fact)
        run.evaluation_file.unlink()  # golden reward comes before a program's score
    assert answer(store, capsys, "--runs", "2")["evaluate"] == ["command"]
    assert main.main(["suggest", "demo", "--runs", "2", "--output-dir", str(store.root)]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("python -m launcher evaluate demo --benchmark command --output-dir ")


def test_what_is_suggested_lies_near_the_best(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    """Of curves that are clear, the runs are of the better loss, about its peak, and each says what it is good for."""
    swept(store, "loss_type=sigmoid,ipo", f"beta={','.join(map(str, BETAS))}")
    runs = answer(store, capsys, "--runs", "3")["runs"]
    assert {run["loss_type"] for run in runs} == {"ipo"}
    assert all(0.2 <= run["beta"] <= 0.8 for run in runs)
    assert all(run["reason"].startswith(("between beta", "again: ")) for run in runs)
    assert all(run["gain"] >= 0 and 0 <= run["probability"] <= 1 for run in runs)


def test_what_the_sweep_file_excludes_is_not_suggested(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A beta beyond the highest that would be the next is left out where the launch's file excludes it; it is said."""
    swept(store, "loss_type=ipo", "beta=0.02,0.05,0.1,0.2")
    beyond = [run["beta"] for run in answer(store, capsys, "--runs", "4")["runs"] if run["beta"] > 0.2]
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "mine.yaml").write_text(
        "grids:\n- {loss_type: ipo, beta: [0.02, 0.05, 0.1, 0.2], exclude: ["
        + ", ".join(f"{{loss_type: ipo, beta: {beta}}}" for beta in set(beyond)) + "]}\n"
    )  # fmt: skip
    monkeypatch.chdir(tmp_path)
    store.sweep("demo").add_launch(Launch([], [], argv=["-m", "+sweeps=mine"]))
    found = answer(store, capsys, "--runs", "4")
    assert beyond
    assert not {run["beta"] for run in found["runs"]} & set(beyond)
    for beta in set(beyond):
        assert f"ipo at beta={beta:g} is not among them: the sweep file excludes it" in found["notes"]


def test_a_beta_that_is_not_scored_yet_is_part_of_the_grid(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    """Between the highest scored beta and one whose run has no score yet nothing lies beyond the grid."""
    runs = swept(store, "loss_type=ipo", "beta=0.02,0.05,0.1,0.2,0.8")
    (last,) = [run for run in runs if run.read_config()["beta"] == 0.8]
    last.evaluation_file.unlink()
    found = answer(store, capsys, "--runs", "6")["runs"]
    inside = [run for run in found if 0.2 < run["beta"] < 0.8 and not run["reason"].startswith("again")]
    assert inside
    assert {run["reason"] for run in inside} == {"between beta 0.2 and 0.8"}


def test_a_setting_that_is_suggested_twice_counts_the_seeds_above(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second run of a setting in the list is not told to be its first or second seed again."""
    swept(store, "loss_type=ipo", f"beta={','.join(map(str, BETAS))}")
    seen: dict[float, int] = {}
    for run in answer(store, capsys, "--runs", "12")["runs"]:
        count = seen[run["beta"]] = seen.get(run["beta"], 0) + 1
        before = count - 1 + (run["beta"] in BETAS)
        if count > 1:
            assert run["reason"] == f"again: {before} seed{'' if before == 1 else 's'} with those above"
    assert max(seen.values()) > 1


def test_where_the_best_lies_at_the_edge_it_looks_beyond(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    """A curve that rises to the highest beta."""
    swept(store, "loss_type=ipo", "beta=0.02,0.05,0.1,0.2")
    runs = answer(store, capsys, "--runs", "4")["runs"]
    assert any(run["beta"] > 0.2 and run["reason"].startswith("beyond the highest beta") for run in runs)
    assert not any(run["beta"] < 0.02 for run in runs)


def test_a_loss_with_too_few_settings_gets_them_first(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two betas make no curve: the next two lie between them, one loss after the other."""
    swept(store, "loss_type=sigmoid,ipo", "beta=0.05,0.8")
    found = answer(store, capsys, "--runs", "4")
    assert [run["loss_type"] for run in found["runs"]] == ["sigmoid", "ipo", "sigmoid", "ipo"]
    assert all(0.05 < run["beta"] < 0.8 and run["gain"] is None for run in found["runs"])
    assert "2 of the 4 betas" in found["runs"][0]["reason"]
    assert planned(found["command"], tmp_path) == wanted(found)


def test_a_sweep_without_scores_is_said(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is suggested, and the reason is given."""
    for run in trained_runs(store, "sweep=demo", "beta=0.1,0.2"):
        run.evaluation_file.unlink()
    found = answer(store, capsys)
    assert (found["runs"], found["command"]) == ([], None)
    assert found["notes"] == ["no run has been evaluated yet, so nothing can be said about which to run next"]


def test_without_its_packages_it_says_what_to_install(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, exit code 2."""
    trained_runs(store, "sweep=demo", "beta=0.1,0.2")
    for name in [name for name in sys.modules if name.partition(".")[0] == "analysis"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pandas", None)
    assert main.main(["suggest", "demo", "--output-dir", str(store.root)]) == 2
    assert "pip install 'prefsweep[analysis]'" in capsys.readouterr().err.splitlines()[-1]


def test_it_runs_without_torch(store: Store) -> None:
    """It is a verb of the login node."""
    swept(store, "loss_type=ipo", f"beta={','.join(map(str, BETAS))}")
    lines = (
        "import sys; from launcher.cli.main import main; "
        f"code = main(['suggest', 'demo', '--output-dir', {str(store.root)!r}]); "
        "print([name for name in ('torch', 'transformers', 'altair') if name in sys.modules], file=sys.stderr); "
        "sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", lines], env=clean_environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "[]"
    assert "launch them with:\npython -m launcher " in done.stdout


def record(**changes: Any) -> RunRecord:
    """A run of a launch."""
    given: dict[str, Any] = {
        "run_id": "r", "model": "m", "dataset": "d", "loss_type": "ipo", "beta": 0.1, "seed": 42, "axes": {},
        "settings": {}, "overrides": ["model=tiny", "loss_type=ipo", "beta=0.1"],
    }  # fmt: skip
    return RunRecord(**given | changes)


@pytest.mark.parametrize(
    ("runs", "words"),
    [
        ([Further(record(), {"seed": 43})], ["model=tiny", "loss_type=ipo", "beta=0.1", "seed=43", "sweep=s"]),
        (
            [Further(record(), {"beta": beta, "seed": 42}) for beta in (0.2, 0.3)],
            ["-m", "model=tiny", "loss_type=ipo", "seed=42", "beta=0.2,0.3", "sweep=s"],
        ),
        (
            [
                Further(record(), {"beta": 0.2, "seed": 42}),
                Further(record(overrides=["model=tiny", "loss_type=sigmoid", "beta=0.5"]), {"seed": 43}),
            ],
            [
                "-m", "model=tiny",
                "points={loss_type:ipo,beta:0.2,seed:42},{loss_type:sigmoid,beta:0.5,seed:43}", "sweep=s",
            ],
        ),
        (
            [
                Further(record(overrides=["sweep=old", "output_dir=/x", "model.path='a,b: {c}'", f"beta={beta}"]),
                        {"trainer.learning_rate": 1e-5})
                for beta in (0.1, 0.2)
            ],
            ["-m", "model.path='a,b: {c}'", "trainer.learning_rate=1e-05", "beta=0.1,0.2", "sweep=s"],
        ),
    ],
    ids=["one", "one key", "points", "texts"],
)  # fmt: skip
def test_words_are_as_few_as_will_do(runs: Sequence[Further], words: list[str]) -> None:
    """What is common comes once; one key that differs is an axis, several are points; the old sweep's name is not."""
    assert words_for(runs, "s", None) == words


def test_the_folder_is_said_where_it_is_another() -> None:
    """A launch would otherwise make a sweep of that name where it is typed."""
    assert words_for([Further(record(), {"seed": 1})], "s", "/far away")[-1] == "output_dir='/far away'"


def test_what_it_suggests_beats_random_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """On simulated sweeps with little noise: after six runs more the named setting is nearer to the truly best one."""
    monkeypatch.syspath_prepend(Path(__file__).parent / "benchmarks")
    benchmark = importlib.import_module("next_runs")
    monkeypatch.setattr(benchmark, "WAYS", {each: benchmark.WAYS[each] for each in ("suggest", "random")})
    found = benchmark.regrets(benchmark.ROWS[1], 40)
    assert found["suggest"].mean() < 0.8 * found["random"].mean()
    assert found["suggest"].mean() < 0.8 * found["before"].mean()
