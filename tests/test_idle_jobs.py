"""launcher.runs.idle_jobs: what was handed over and never became a job, and jobs that turn up late."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from conftest import sweep_of
from fakes import FakeScheduler, submit
from test_cancel import TABLE, idle

from launcher.cli import main
from launcher.cluster.batch import Batch
from launcher.cluster.job_state import JobState, Phase
from launcher.errors import QueueFull, Refused
from launcher.store.facts import Job
from launcher.store.output_folder import Store
from launcher.submission.adopt import adopt
from launcher.sweep import Sweep

GRID = ["model=tiny", "loss_type=sigmoid,ipo", "sweep=s"]  # two jobs, and one that makes their table
LATE = "turned up when its runs had been given up, and trains nothing"


class Refusing(FakeScheduler):
    """Takes no batch with this in its name."""

    refuses: str | None = None
    refuses_tables = True
    kind: type[Refused] = Refused

    def submit(self, batch: Batch) -> list[Job]:
        spared = ".prepare." in batch.name and not self.refuses_tables
        if self.refuses is not None and self.refuses in batch.name and not spared:
            raise self.kind("invalid partition specified: nosuch")
        return super().submit(batch)


@pytest.fixture
def sweep() -> Sweep:
    return sweep_of(*GRID)


@pytest.fixture
def scheduler(monkeypatch: pytest.MonkeyPatch) -> Refusing:
    """Nothing is recent for it."""
    found = Refusing()
    for module in ("launcher.submission.adopt", "launcher.runs.run_state"):
        monkeypatch.setattr(f"{module}.age", lambda _: 3600.0)
    monkeypatch.setattr("launcher.cluster.scheduler.EXECUTORS", {"fake": lambda: found})
    return found


def turn_up(scheduler: FakeScheduler, batch: Path, *ids: str) -> None:
    """The jobs of a batch, in the queue now."""
    scheduler.jobs[json.loads((batch / "batch.json").read_text())["name"]] = [Job(each, "fake") for each in ids]
    scheduler.phases |= dict.fromkeys(ids, JobState(Phase.PENDING))


def check_verbs(store: Store) -> None:
    """`status` and `cancel` answer, and `cancel` leaves nothing."""
    folder = f"output_dir={store.root}"
    assert main.main(["status", "s", folder]) == 0
    assert main.main(["cancel", "s", folder]) == 0


@pytest.mark.parametrize("removed", [False, True])
@pytest.mark.parametrize("refused", [".prepare.", "s."])
def test_what_was_refused_is_no_job(
    sweep: Sweep, store: Store, scheduler: Refusing, refused: str, removed: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """A table's job, or that of runs, which may have been removed since; it stays so when other jobs are there."""
    scheduler.refuses = refused
    if refused == "s.":  # and no table
        sweep = sweep_of(*GRID[::2])
    with pytest.raises(Refused):
        submit(sweep, store, scheduler, [])
    for run in sweep.runs if removed else ():
        shutil.rmtree(store.run(run.run_id).path, ignore_errors=True)
    check_verbs(store)
    scheduler.refuses = None
    submit(sweep, store, scheduler, [])
    assert idle(sweep, store, scheduler) == []
    check_verbs(store)
    assert "Traceback" not in capsys.readouterr().err


def test_what_was_never_handed_over_is_no_job(sweep: Sweep, store: Store, scheduler: Refusing) -> None:
    """The launcher died before it."""
    scheduler.dies_before = 1
    with pytest.raises(KeyboardInterrupt):
        submit(sweep, store, scheduler, [])
    assert idle(sweep, store, scheduler) == []
    check_verbs(store)


def test_a_table_that_turns_up_late_is_found_and_ended(sweep: Sweep, store: Store, scheduler: Refusing) -> None:
    """Beside the one that was submitted instead; also where that has made the table since."""
    scheduler.dies_before = 1
    with pytest.raises(KeyboardInterrupt):
        submit(sweep, store, scheduler, [])
    scheduler.dies_before = None
    submit(sweep, store, scheduler, [])
    first, second = sorted(store.root.glob("cache/prepare/*/0*"))
    assert idle(sweep, store, scheduler) == []
    turn_up(scheduler, first, "99")
    assert idle(sweep, store, scheduler) == [("99", TABLE)]
    (second.parent / "done.json").write_text("{}")
    assert idle(sweep, store, scheduler) == [("99", TABLE)]
    check_verbs(store)
    assert "99" in scheduler.cancelled


@pytest.mark.parametrize("again", [False, True])
def test_the_runs_jobs_that_turn_up_late_are_found_and_ended(
    sweep: Sweep, store: Store, scheduler: Refusing, again: bool
) -> None:
    """After it was put on record that there are none, whether others were submitted for the runs or not."""
    scheduler.dies_before = 2
    with pytest.raises(KeyboardInterrupt):
        submit(sweep, store, scheduler, [])
    scheduler.dies_before = None
    adopt([store.run(run.run_id) for run in sweep.runs], scheduler)
    (batch,) = store.root.glob("sweeps/s/jobs/*")
    if again:
        submit(sweep, store, scheduler, [])
    turn_up(scheduler, batch, "99")
    assert ("99", LATE) in idle(sweep, store, scheduler)
    check_verbs(store)
    assert "99" in scheduler.cancelled


def test_the_jobs_of_a_batch_that_was_gone_for_a_moment_are_found(
    sweep: Sweep, store: Store, scheduler: Refusing
) -> None:
    """It was put on record that there are none; then its folder is there again, with them."""
    submit(sweep, store, scheduler, [])
    (batch, *_) = sorted(store.root.glob("sweeps/s/jobs/*"))
    batch.rename(store.root / "away")
    adopt([store.run(run.run_id) for run in sweep.runs], scheduler)
    (store.root / "away").rename(batch)
    ours = json.loads((batch / "jobs.json").read_text())["jobs"][0]["job_id"]
    assert (ours, LATE) in idle(sweep, store, scheduler)


@pytest.mark.parametrize("full", [False, True])
def test_a_table_whose_runs_are_refused_is_taken_back(
    sweep: Sweep, store: Store, scheduler: Refusing, full: bool
) -> None:
    """And named; where the queue was only full it stays, so that launching again finds what it makes."""
    scheduler.refuses, scheduler.kind = "s.", QueueFull if full else Refused
    scheduler.refuses_tables = False
    with pytest.raises(scheduler.kind) as refusal:
        submit(sweep, store, scheduler, [])
    (table,) = scheduler.jobs[scheduler.tables[0].name]
    assert scheduler.cancelled == ([] if full else [table.job_id])
    end = "stays in the queue" if full else "was submitted before, and is taken back"
    assert f"job {table.job_id}, which makes their reference table, {end}" in str(refusal.value)


def test_a_table_for_which_others_wait_is_left(store: Store, scheduler: Refusing) -> None:
    """It was on its way before, for runs that are in the queue."""
    submit(sweep_of(*GRID), store, scheduler, [])
    scheduler.refuses, scheduler.refuses_tables = "s.", False
    with pytest.raises(Refused) as refusal:
        submit(sweep_of(*GRID, "beta=0.7"), store, scheduler, [])
    assert (len(scheduler.tables), scheduler.cancelled) == (1, [])
    assert "reference table" not in str(refusal.value)
