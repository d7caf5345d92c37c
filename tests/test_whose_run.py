"""A run's folder that was copied over another's, whole or in part: no number of the one is told of the other."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes import FakeScheduler
from finished_runs import evaluation
from test_unreadable import WORDS, fake, listed, rows_in, runs  # noqa: F401 - fixtures
from test_wrong_facts import GRID, sweep  # noqa: F401 - a fixture

from launcher.cli import main
from launcher.cluster.job_state import JobState, Phase
from launcher.store import model_marker
from launcher.store.facts import Attempt
from launcher.store.files import read_fact, write_derived
from launcher.store.output_folder import Store
from launcher.store.run_folder import RunDir

Runs = tuple[RunDir, RunDir]


def copied(run: RunDir, over: RunDir) -> None:
    """`cp -a RUN/. OVER/`."""
    shutil.copytree(run.path, over.path, dirs_exist_ok=True)


def named(path: Path, **owner: str | None) -> None:
    """Let a fact say whose it is; None: as an older version wrote it."""
    fact = {key: value for key, value in (read_fact(path) or {}).items() if key not in owner}
    write_derived(path, json.dumps(fact | {key: value for key, value in owner.items() if value is not None}))


def whole(one: RunDir, other: RunDir) -> Path:
    copied(one, other)
    return other.attempts()[-1].attempt_file


def below_later_attempts(one: RunDir, other: RunDir) -> Path:
    """One that has been tried more often: its last attempt is its own."""
    first = other.attempts()[-1].attempt_file
    other.new_attempt(Attempt(settings=one.attempts()[-1].record.settings))
    copied(one, other)
    return first


def result_alone(one: RunDir, other: RunDir) -> Path:
    named(one.result_file, model=one.run_id)
    return Path(shutil.copy(one.result_file, other.result_file))


def of_last_week(one: RunDir, other: RunDir) -> Path:
    """Its model names the run, nothing else does."""
    model_marker.mark(one.model, one)
    copied(one, other)
    named(other.attempts()[-1].attempt_file, run=None)
    return other.model


@pytest.mark.parametrize("copy", [whole, below_later_attempts, result_alone, of_last_week])
def test_another_runs_facts_are_not_its_own(
    runs: Runs,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
    copy: Callable[[RunDir, RunDir], Path],
) -> None:
    """It is UNREADABLE, with the file, whose it is and what to do; the other run is as it was."""
    one, other = runs
    assert main.main(["status", "s", "--json"]) == 0
    before = listed(capsys)
    said = str(copy(one, other))
    assert main.main(["status", "s", "--json"]) == 1
    now = listed(capsys)
    assert now[one.run_id] == before[one.run_id]
    assert now[other.run_id]["status"] == "UNREADABLE"
    assert said in now[other.run_id]["reason"]
    assert f" of {one.run_id}, not of {other.run_id}; put its own there, or " in now[other.run_id]["reason"]
    assert main.main(["collect", "s"]) == 1
    rows = {row["run_id"]: row for row in rows_in(one.path.parent.parent / "sweeps/s/results.jsonl")}
    assert (rows[other.run_id]["status"], rows[other.run_id]["evaluation"]) == ("UNREADABLE", None)
    assert rows[one.run_id]["evaluation"] is not None
    capsys.readouterr()
    assert main.main(["publish", "s", "--dry-run"]) == 1
    out, err = capsys.readouterr()
    assert one.run_id in out
    assert other.run_id not in out
    assert said in err


def evaluated(run: RunDir) -> Path:
    write_derived(run.evaluation_file, json.dumps({**evaluation(0.5), "model": run.run_id}))
    return run.evaluation_file


def milestone_evaluated(run: RunDir) -> Path:
    milestone = run.milestone(1)
    write_derived(milestone.evaluation_file, json.dumps({**evaluation(0.5), "model": f"{run.run_id}@1"}))
    return milestone.evaluation_file


def judged(run: RunDir) -> Path:
    named(run.evaluations.result_file("mt_bench"), model=run.run_id)
    return run.evaluations.result_file("mt_bench")


def configured(run: RunDir) -> Path:
    return run.config_file


@pytest.mark.parametrize("made", [evaluated, milestone_evaluated, judged, configured])
def test_what_was_measured_of_another_is_told_of_neither(
    runs: Runs,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
    made: Callable[[RunDir], Path],
) -> None:
    """A single file that was copied: `collect` and `publish` name it."""
    one, other = runs
    file = made(one)
    place = other.path / file.relative_to(one.path)
    shutil.copy(file, place)
    assert main.main(["collect", "s"]) == 1
    assert f"{place}: is of {one.run_id}" in capsys.readouterr().err
    rows = {row["run_id"]: row for row in rows_in(one.path.parent.parent / "sweeps/s/results.jsonl")}
    assert rows[one.run_id]["status"] == "TRAINED"
    assert (rows[other.run_id]["status"], rows[other.run_id]["evaluation"]) == ("UNREADABLE", None)
    shutil.rmtree(one.path.parent.parent / "hub")
    main.main(["publish", "s", other.run_id])
    out, err = capsys.readouterr()
    assert f"{place}: is of {one.run_id}" in out + err


def test_facts_that_name_nobody_are_the_runs_own(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    """Those of an older version."""
    for run in runs:
        named(run.attempts()[-1].attempt_file, run=None)
        run.config_file.write_text(run.config_file.read_text().partition("\n")[2])
    assert main.main(["status", "s", "--json"]) == 0
    assert {run["status"] for run in listed(capsys).values()} == {"TRAINED"}
    assert main.main(["collect", "s"]) == 0
    assert main.main(["-m", *GRID, "dry_run=true"]) == 0


def test_no_launch_takes_another_run_for_this_one(
    fake: FakeScheduler,  # noqa: F811
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It submits nothing for it, whatever has become of the other; nor does `cancel` reach the other's job by it."""
    monkeypatch.chdir(tmp_path)
    assert main.main(WORDS) == 0
    one, other, *_ = store.runs()
    jobs = [run.attempts()[-1].job for run in (one, other)]
    copied(one, other)
    capsys.readouterr()
    assert main.main(["cancel", "s", other.run_id]) == 1
    assert jobs[0] is not None
    assert jobs[0].job_id not in fake.cancelled
    for job in list(fake.phases):
        fake.phases[job] = JobState(Phase.FAILED)
    before = len(fake.submitted)
    assert main.main(WORDS) == 1
    work = [path for batch in fake.submitted[before:] for path in batch.folder.glob("work.json")]
    names = "".join(path.read_text() for path in work)
    assert one.run_id in names
    assert other.run_id not in names
    assert f" of {one.run_id}, not of {other.run_id}" in capsys.readouterr().err


def test_no_job_does_the_work_of_another_runs_objective(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    """Of an older version's, which names no run, by how the run's name begins; nothing is trained or published."""
    one, other = runs
    other.config_file.write_text(one.config_file.read_text().partition("\n")[2])
    before = sorted(other.path.rglob("*"))
    other.result_file.rename(other.path / "aside")
    assert main.main(["run", str(other.path)]) == 1
    beginning, words = one.run_id[: -len("-00000000")], f"not of {other.run_id}; put its own there, or move"
    assert f"{other.config_file}: is of a run {beginning}-..., {words}" in capsys.readouterr().err
    (other.path / "aside").rename(other.result_file)
    assert sorted(other.path.rglob("*")) == before
