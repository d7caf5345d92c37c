"""A fact of one run that is torn, empty or of another kind: that run is named and left alone, the others go on."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from conftest import sweep_of
from fakes import FakeScheduler, submit
from test_wrong_facts import GRID, RUN, sweep  # noqa: F401 - a fixture

from launcher.cli import main
from launcher.cluster.job_state import JobState, Phase
from launcher.runs.run_state import states_of
from launcher.runs.status import Status
from launcher.store.output_folder import Store
from launcher.store.run_folder import RunDir
from launcher.submission.adopt import adopt
from launcher.submission.decide import Action

WAYS = {"torn": '{"steps": 1', "empty": "", "a list": "[]"}
REMEDY = "put it right, or move it away"


@pytest.fixture
def runs(sweep: Path) -> tuple[RunDir, RunDir]:  # noqa: F811
    """The run that is damaged, and the other."""
    found = sorted(Store(sweep).runs(), key=lambda run: not run.run_id.startswith(RUN))
    return found[0], found[1]


def damaged_facts(run: RunDir) -> list[Path]:
    attempt = run.attempts()[-1]
    return [attempt.attempt_file, attempt.failure_file, attempt.started_file, run.result_file, run.revision_file]


def listed(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, str]]:
    return {run["run_id"]: run for run in json.loads(capsys.readouterr().out)["runs"]}


@pytest.mark.parametrize("way", WAYS)
def test_status_lists_every_run(runs: tuple[RunDir, RunDir], capsys: pytest.CaptureFixture[str], way: str) -> None:
    """The one that cannot be read is neither TRAINED nor NEW, and says which file it is; the exit code says so too."""
    bad, good = runs
    assert main.main(["status", "s", "--json"]) == 0
    before = listed(capsys)
    for path in damaged_facts(bad):
        text = path.read_text()
        path.write_text(WAYS[way])
        assert main.main(["status", "s", "--json"]) == 1
        found = listed(capsys)
        assert found[good.run_id] == before[good.run_id]
        assert found[bad.run_id]["status"] == "UNREADABLE"
        assert f"{path}: " in found[bad.run_id]["reason"]
        assert REMEDY in found[bad.run_id]["reason"]
        assert main.main(["status", "s"]) == 1
        said = capsys.readouterr()
        assert "1 TRAINED, 1 UNREADABLE" in said.out or "1 UNREADABLE, 1 TRAINED" in said.out
        assert str(path) in said.err
        path.write_text(text)


@pytest.mark.parametrize("way", WAYS)
def test_collect_has_a_row_for_every_run(
    runs: tuple[RunDir, RunDir], capsys: pytest.CaptureFixture[str], way: str
) -> None:
    """What is behind a damaged fact is left out, with the reason; the others' rows are as they were."""
    bad, good = runs
    results = Store(bad.path.parent.parent).sweep("s").results_file
    assert main.main(["collect", "s"]) == 0
    before = [row for row in rows_in(results) if row["run_id"].startswith(good.run_id)]
    keys = {key for row in before for key in row}
    for path in (*damaged_facts(bad), bad.evaluation_file, bad.sources_file, bad.config_file):
        text = path.read_text()
        path.write_text(WAYS[way])
        assert main.main(["collect", "s"]) == 1
        assert str(path) in capsys.readouterr().err
        found = rows_in(results)
        assert [row for row in found if row["run_id"].startswith(good.run_id)] == before
        (row,) = (row for row in found if row["run_id"].startswith(bad.run_id))
        assert row["status"] == "UNREADABLE"
        assert str(path) in row["reason"]
        assert row.keys() == keys
        path.write_text(text)


def rows_in(results: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in results.read_text().splitlines()]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeScheduler:
    """The executor of every launch."""
    scheduler = FakeScheduler()
    monkeypatch.setattr("launcher.cluster.scheduler.EXECUTORS", {"local": lambda: scheduler, "fake": lambda: scheduler})
    monkeypatch.setattr(FakeScheduler, "name", "local")
    return scheduler


LOSSES = ["loss_type=sigmoid,ipo,hinge,exo_pair", "cluster.runs_per_job=1"]
WORDS = ["-m", *(word for word in GRID if not word.startswith("loss_type")), *LOSSES]


def batch_of(run: RunDir) -> Path:
    folder = run.attempts()[-1].batch
    assert folder is not None
    return folder


@pytest.fixture
def started(fake: FakeScheduler, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[RunDir]:
    """Four runs, each in a job of its own; all jobs have failed."""
    monkeypatch.chdir(tmp_path)
    assert main.main(WORDS) == 0
    for job in list(fake.phases):
        fake.end(job, reason="NODE_FAIL")
    return sorted(store.runs(), key=lambda run: run.run_id)


@pytest.mark.parametrize("verb", [["resume", "s"], WORDS])
@pytest.mark.parametrize("way", WAYS)
def test_a_launch_leaves_such_runs_alone_and_names_all(
    started: list[RunDir], fake: FakeScheduler, capsys: pytest.CaptureFixture[str], way: str, verb: list[str]
) -> None:
    """Two runs have a damaged fact each: both are named at once, the other two are submitted; none is twice."""
    one, other = started[:2]
    files = [one.attempts()[0].attempt_file, batch_of(other) / "jobs.json"]
    for path in files:
        path.write_text(WAYS[way])
    capsys.readouterr()
    before = len(fake.submitted)
    assert main.main(verb) == 1
    said = capsys.readouterr()
    assert len(fake.submitted) == before + 2
    assert [len(run.attempts()) for run in started] == [1, 1, 2, 2]
    assert all(str(path) in said.err for path in files), said.err
    assert re.search("2 (resume|submit), 2 skip|2 skip, 2 (resume|submit)", said.out), said.out


@pytest.mark.parametrize("name", ["sources.json", "config.yaml", "attempts/001/failure.json"])
def test_a_damaged_record_of_what_a_run_is_leaves_it_alone(
    started: list[RunDir], fake: FakeScheduler, capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str
) -> None:
    """What it was trained on, what it is, why it ended: launching and resuming pass it over, until it is moved away."""
    path = started[0].path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("")
    (started[0].path / "checkpoints/checkpoint-2").mkdir(parents=True)
    (started[0].path / "checkpoints/checkpoint-2/complete.json").write_text("{}")
    before = len(fake.submitted)
    for verb in (["resume", "s"], WORDS):
        assert main.main(verb) == 1
        assert re.search(f"{re.escape(str(path))}: .*{REMEDY}", capsys.readouterr().err)
    assert len(fake.submitted) == before + 3
    assert len(started[0].attempts()) == 1
    path.rename(tmp_path / "moved")
    assert main.main(WORDS) == 0
    assert len(started[0].attempts()) == 2


def test_a_batch_that_cannot_be_read_may_have_jobs(
    started: list[RunDir], fake: FakeScheduler, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its launcher died before it recorded them: where its name cannot be read, nobody submits its runs again."""
    files = [batch_of(started[0]) / "batch.json", batch_of(started[1]) / "work.json"]
    for path in files:
        (path.parent / "jobs.json").unlink()
        path.write_text('{"name": ')
    before = len(fake.submitted)
    assert main.main(WORDS) == 1
    said = capsys.readouterr().err
    assert all(str(path) in said for path in files), said
    assert len(fake.submitted) == before + 2
    assert main.main(["status", "s", "--json"]) == 1
    assert [listed_status(capsys, run) for run in started[:1]] == ["UNREADABLE"]


def listed_status(capsys: pytest.CaptureFixture[str], run: RunDir) -> str:
    return listed(capsys)[run.run_id]["status"]


def test_cancel_stops_all_that_may_be_at_work(
    started: list[RunDir], fake: FakeScheduler, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also a run whose jobs' record is damaged: its job is found by the batch's name."""
    for job in fake.phases:
        fake.phases[job] = JobState(Phase.RUNNING)
    path = batch_of(started[0]) / "jobs.json"
    path.write_text("")
    assert main.main(["cancel", "s"]) == 1
    assert str(path) in capsys.readouterr().err
    assert {job.job_id for batch in fake.submitted for job in fake.jobs[batch.name]} <= set(fake.cancelled)
    assert all(run.attempts()[0].cancel_file.exists() for run in started)


def test_logs_of_a_damaged_run_are_shown(
    started: list[RunDir], fake: FakeScheduler, capsys: pytest.CaptureFixture[str]
) -> None:
    """What it printed has nothing to do with the record."""
    run = started[0]
    attempt = run.attempts()[0]
    attempt.path.mkdir(parents=True)
    attempt.log_file().write_text("step 1\n")
    for path in (attempt.failure_file, attempt.attempt_file, run.result_file):
        path.write_text("")
        capsys.readouterr()
        assert main.main(["logs", run.run_id]) == 0
        assert "step 1" in capsys.readouterr().out
    assert states_of([run], fake)[0].facts.attempts == 1


def test_a_damaged_launch_hides_no_run(
    started: list[RunDir], fake: FakeScheduler, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its runs are found by their jobs: they are listed and can be cancelled; a launch goes on, a resume names it."""
    directory = Store(started[0].path.parent.parent).sweep("s")
    path = directory.path / "launches/001.json"
    path.write_text('{"axes": [')
    assert main.main(["status", "s", "--json"]) == 1
    assert listed(capsys).keys() == {run.run_id for run in started}
    assert main.main(["resume", "s"]) == 1
    assert str(path) in capsys.readouterr().err
    before = len(fake.submitted)
    assert main.main([*WORDS, "beta=0.1,0.7"]) == 1
    assert str(path) in capsys.readouterr().err
    assert len(fake.submitted) == before + 4
    assert len(directory.run_records()) == 8


@pytest.mark.parametrize("way", ["moved away", "{}", "torn"])
@pytest.mark.parametrize("phase", [Phase.PENDING, Phase.RUNNING, Phase.HIDDEN])
def test_a_run_whose_attempt_lost_its_record_is_not_submitted_beside_its_job(
    store: Store, way: str, phase: Phase
) -> None:
    """The batch's list of work still names it: the run cannot be read, and the reason has the job's id."""
    scheduler, planned = FakeScheduler(), sweep_of("model=tiny", "sweep=s", "seed=1,2", "cluster.runs_per_job=1")
    submit(planned, store, scheduler, [])
    run = store.run(planned.runs[0].run_id)
    (record,) = run.path.glob("attempt-*.json")
    job = run.attempts()[0].job
    assert job is not None
    scheduler.end(job.job_id, phase)
    if way in ("{}", "torn"):
        record.write_text("{}" if way == "{}" else '{"batch": ')
    else:
        record.rename(store.root / "elsewhere.json")
    adopt([run], scheduler)
    (state,) = states_of([run], scheduler)
    assert state.status is Status.UNREADABLE
    assert f"{record}: " in str(state.reason)
    assert f"cancel job {job.job_id} by hand" in str(state.reason)
    decisions = submit(planned, store, scheduler, [])
    assert [decision.action for decision in decisions] == [Action.SKIP] * 2
    scheduler.end(job.job_id, Phase.CANCELLED)
    record.unlink(missing_ok=True)  # as was advised
    decisions = submit(planned, store, scheduler, [])
    assert [decision.action for decision in decisions] == [Action.SUBMIT, Action.SKIP]
    assert states_of([run], scheduler)[0].in_flight
    assert "made again" not in str(state.reason)


@pytest.mark.parametrize("way", ["removed", "dangling", "all of them"])
def test_a_launch_that_is_gone_hides_no_run(
    started: list[RunDir], fake: FakeScheduler, capsys: pytest.CaptureFixture[str], way: str
) -> None:
    """Its runs are listed and said, with what to do, and can be cancelled; launched again, they are recorded again."""
    directory = Store(started[0].path.parent.parent).sweep("s")
    assert directory.faults() == []
    path = directory.path / "launches/001.json"
    if way == "removed":
        assert main.main([*WORDS, "beta=0.7"]) == 0
    fake.phases |= dict.fromkeys(fake.phases, JobState(Phase.RUNNING))
    path.unlink()
    if way == "dangling":
        path.symlink_to("/nowhere/001.json")
    if way == "all of them":
        path.parent.rmdir()
    capsys.readouterr()
    assert main.main(["status", "s", "--json"]) == 1
    assert {run.run_id for run in started} <= listed(capsys).keys()
    for verb in ("status", "collect", "cancel"):
        assert main.main([verb, "s"]) == 1, verb
        said = capsys.readouterr().err
        assert f"{path.parent}: lacks a launch: none records 4 runs that have had jobs, such as " in said, verb
        assert "put its file back, or launch them again with -m" in said
    assert all(run.attempts()[0].cancel_file.exists() for run in started)
    assert fake.cancelled
    fake.phases |= dict.fromkeys(fake.phases, JobState(Phase.CANCELLED))
    assert main.main(WORDS) == 0
    assert main.main(["status", "s"]) == 0
    assert directory.faults() == []
