"""launcher.runs.cancel and idle_jobs: no job of a sweep is left behind, and what is said is so."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import sweep_of
from fakes import FakeScheduler, submit

from launcher.cli import main
from launcher.cluster.batch import Batch
from launcher.cluster.job_state import JobState, Phase
from launcher.cluster.slurm import SlurmScheduler
from launcher.cluster.slurm_identity import script_of
from launcher.errors import NotCancelled, StoreError
from launcher.machine.users import our_name
from launcher.runs.cancel import cancel
from launcher.runs.idle_jobs import idle_jobs
from launcher.runs.run_state import RunState, read_facts, states_of
from launcher.runs.status import Status
from launcher.store.attempts import Attempts, is_called_off
from launcher.store.facts import Cancel, Failure, Job, Started
from launcher.store.files import read_fact, write_once
from launcher.store.output_folder import Store
from launcher.store.run_folder import RunDir
from launcher.store.starts import claim
from launcher.submission.adopt import adopt
from launcher.sweep import Sweep
from launcher.views.states import say_cancelled
from launcher.worker.interruption import StopRequest
from launcher.worker.job import Step, _next_step

GRID = ["model=tiny", "loss_type=sigmoid,ipo"]  # two jobs, and one that makes their table


def states(sweep: Sweep, store: Store, scheduler: FakeScheduler) -> list[RunState]:
    return states_of([store.run(run.run_id) for run in sweep.runs], scheduler)


@pytest.fixture
def one() -> Sweep:
    return sweep_of("model=tiny", "sweep=one")


@pytest.fixture
def twice(one: Sweep, store: Store, monkeypatch: pytest.MonkeyPatch) -> FakeScheduler:
    """A run whose job 1 got lost for a moment, so that job 2 was submitted; both are there."""
    scheduler = FakeScheduler()
    submit(one, store, scheduler, [])
    for module in ("launcher.runs.run_state", "launcher.runs.signs"):
        monkeypatch.setattr(f"{module}.age", lambda _: 3600.0, raising=False)
    scheduler.phases["1"] = JobState(Phase.UNKNOWN)
    submit(one, store, scheduler, [])
    scheduler.phases["1"] = JobState(Phase.PENDING)
    assert list(scheduler.phases) == ["1", "2"]
    return scheduler


def test_a_run_whose_folder_is_anothers_keeps_no_other_from_being_cancelled(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes on, and so it is said; the other one and its job end."""
    scheduler, sweep, warned = FakeScheduler(), sweep_of(*GRID), list[str]()
    submit(sweep, store, scheduler, [])
    first, second = states(sweep, store, scheduler)

    def refuse(path: Path, *_: object, **__: object) -> bool:
        if first.run.path in path.parents:
            raise PermissionError(13, "Permission denied", str(path))
        return write_once(path, *_, **__)  # type: ignore[arg-type]

    monkeypatch.setattr("launcher.runs.cancel.write_once", refuse)
    stopped = cancel([first, second], scheduler, warn=warned.append)
    assert [state.run for state in stopped] == [second.run]
    assert second.facts.job_id in scheduler.cancelled
    assert first.facts.job_id not in scheduler.cancelled
    file = Attempts.of(first.run).all[0].cancel_file
    assert warned[0].startswith(f"{first.run.run_id} is not cancelled: {file}: cannot be written (Permission denied)")


def test_a_run_is_not_cancelled_while_one_of_its_attempts_cannot_be_asked(
    one: Sweep, store: Store, twice: FakeScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of which nobody knows which is the last: somebody else's may be at work, whatever was asked of ours."""
    (first, second), warned = Attempts.of(store.run(one.runs[0].run_id)).all, list[str]()

    def refuse(path: Path, *_: object, **__: object) -> bool:
        if second.path in path.parents:
            raise PermissionError(13, "Permission denied", str(path))
        return write_once(path, *_, **__)  # type: ignore[arg-type]

    found = states(one, store, twice)
    monkeypatch.setattr("launcher.runs.cancel.write_once", refuse)
    monkeypatch.setattr("launcher.runs.cancel._to_stop", lambda *_: [first, second])
    assert cancel(found, twice, warn=warned.append) == []
    assert warned[0].startswith(f"{one.runs[0].run_id} is not cancelled: {second.cancel_file}: cannot be written")


# ------------------------------------------------------------------------------------------------ other users' jobs


class Owned(FakeScheduler):
    """Jobs are `user`'s; it ends others' where `allows`, and keeps which wishes were there when it was asked to."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root, self.user, self.allows, self.wishes = root, "ana", False, list[list[Path]]()

    def submit(self, batch: Batch) -> list[Job]:
        return [replace(job, user=self.user) for job in super().submit(batch)]

    def cancel(self, jobs: Sequence[Job]) -> None:
        theirs = [job for job in jobs if job.user != our_name() and not self.allows]
        if any(job.user != our_name() for job in jobs):
            self.wishes.append(list(self.root.glob("runs/*/attempts/*/cancel.json")))
        super().cancel([job for job in jobs if job not in theirs])
        if theirs:
            raise NotCancelled("denied", [job.job_id for job in theirs])


@pytest.fixture
def owned(store: Store, monkeypatch: pytest.MonkeyPatch) -> Owned:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    return Owned(store.root)


def test_a_denied_cancel_is_seen_by_no_run(store: Store, owned: Owned) -> None:
    """A run looks for the wish at each step, and would take it before it is withdrawn; nothing is left behind."""
    sweep, warned = sweep_of(*GRID), list[str]()
    submit(sweep, store, owned, [])
    before = sorted(store.root.rglob("*"))
    assert cancel(states(sweep, store, owned), owned, warn=warned.append) == []
    assert (owned.wishes, owned.cancelled, warned) == ([[]], [], ["denied"])
    assert sorted(store.root.rglob("*")) == before


def test_who_may_end_anothers_job_has_its_run_cancelled(store: Store, owned: Owned) -> None:
    """A coordinator of the account, for SLURM: the job ends, the wish follows, and no later start begins the run."""
    sweep, owned.allows = sweep_of(*GRID), True
    submit(sweep, store, owned, [])
    found = states(sweep, store, owned)
    assert cancel(found, owned) == found
    assert owned.wishes[0] == []
    assert sorted(owned.cancelled) == ["1", "2", "3"]
    assert all(is_called_off(attempt) for state in found for attempt in Attempts.of(state.run).all)


def test_root_asks_the_run_first(store: Store, owned: Owned, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody denies it, and the job that is told to end knows why."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    sweep, owned.allows = sweep_of("model=tiny", "sweep=one"), True
    submit(sweep, store, owned, [])
    assert len(cancel(states(sweep, store, owned), owned)) == 1
    assert len(owned.wishes[0]) == 1


def test_a_run_of_anothers_keeps_its_place_in_their_job(store: Store, owned: Owned) -> None:
    """Nobody else divides a job that has more to make, though no executor need be asked for that."""
    sweep, owned.allows, warned = sweep_of(*GRID, "cluster.runs_per_job=2"), True, list[str]()
    submit(sweep, store, owned, [])
    first, _ = states(sweep, store, owned)
    assert cancel([first], owned, warn=warned.append) == []
    assert warned == [f"job {first.facts.job_id} is ana's to cancel: it has other runs to make"]
    assert not Attempts.of(first.run).all[0].cancel_file.exists()


def test_ones_own_runs_are_cancelled_beside_anothers(store: Store, owned: Owned) -> None:
    """With the job of their table, if it is one's own, where no run of the other's waits for it."""
    mine, theirs = sweep_of(*GRID, "beta=0.7"), sweep_of(*GRID, "beta=0.9")
    owned.user = our_name()
    submit(mine, store, owned, [])
    owned.user = "ana"
    submit(theirs, store, owned, [])
    assert [len(owned.tables), len(owned.submitted)] == [1, 4]
    found = [*states(mine, store, owned), *states(theirs, store, owned)]
    assert [state.run for state in cancel(found, owned)] == [state.run for state in found[:2]]
    assert sorted(owned.cancelled) == sorted(str(state.facts.job_id) for state in found[:2])


@pytest.mark.parametrize("mask", [0o002, 0o022, 0o077])
def test_a_wish_leaves_no_folder_in_which_others_cannot_go_on(one: Sweep, store: Store, mask: int) -> None:
    """Whatever the umask: the run's next attempts are made in it, by whoever of the group launches it again."""
    scheduler = FakeScheduler()
    submit(one, store, scheduler, [])
    (state,) = states(one, store, scheduler)
    state.run.path.chmod(0o2775)
    before = os.umask(mask)
    try:
        assert cancel([state], scheduler) == [state]
    finally:
        os.umask(before)
    folder = Attempts.of(state.run).all[0].path
    assert [each.stat().st_mode & 0o070 for each in (folder, folder.parent)] == [0o070] * 2


# ------------------------------------------------------------------------------------------------ earlier attempts


@pytest.mark.parametrize("ended", [False, True])
def test_the_jobs_of_earlier_attempts_end_too(one: Sweep, store: Store, twice: FakeScheduler, ended: bool) -> None:
    """Those that are there, asked for in one question; also of a run whose last attempt has ended."""
    if ended:
        write_once(Attempts.of(store.run(one.runs[0].run_id)).all[-1].failure_file, Failure("no"))
    found, notes = states(one, store, twice), list[str]()
    twice.questions = 0
    stopped = cancel(found, twice, note=notes.append)
    assert twice.cancelled == (["1"] if ended else ["2", "1"])
    assert len(stopped) == (0 if ended else 1)
    assert notes == [f"{one.runs[0].run_id}: job 1 of attempt 1 asked to stop, too"]
    assert twice.questions == 1


def test_an_earlier_attempt_that_has_ended_is_left_alone(one: Sweep, store: Store, twice: FakeScheduler) -> None:
    """It keeps counting as one that was in vain."""
    twice.end("1", Phase.FAILED)
    cancel(states(one, store, twice), twice)
    assert twice.cancelled == ["2"]
    first, _ = Attempts.of(store.run(one.runs[0].run_id)).all
    assert not first.cancel_file.exists()


@pytest.mark.usefixtures("twice")
def test_what_was_cancelled_is_not_begun_by_an_older_job(one: Sweep, store: Store) -> None:
    """The wish of a later attempt counts, as nobody may have seen the older job; a newer attempt goes on."""
    run = store.run(one.runs[0].run_id)
    first, second = Attempts.of(run).all
    assert _next_step(first, StopRequest()) is Step.MAKE
    write_once(second.cancel_file, Cancel(1.0))
    third = run.new_attempt(second.record)
    assert [is_called_off(each) for each in (first, second, third)] == [True, True, False]
    assert _next_step(first, StopRequest()) is Step.SKIP
    failure = read_fact(first.failure_file, Failure)
    assert failure is not None
    assert failure.reason == "cancelled before it was started"
    assert _next_step(third, StopRequest()) is Step.MAKE


@pytest.mark.usefixtures("twice")
def test_status_names_the_job_that_did_the_work(one: Sweep, store: Store) -> None:
    """Not the last one, which never began."""
    run = store.run(one.runs[0].run_id)
    first, second = Attempts.of(run).all
    claim(first, Started(host="n1"))
    assert read_facts(run).job_id == "2"  # as long as it is not trained, the last has it
    write_once(run.result_file, {"steps": 4, "max_steps": 4, "seconds": 1.0})
    assert (read_facts(run).job_id, read_facts(run).host) == ("1", "n1")
    claim(second, Started(host="n2"))
    assert read_facts(run).job_id == "2"


# ------------------------------------------------------------------------------------------------ idle jobs


def idle(sweep: Sweep, store: Store, scheduler: FakeScheduler) -> list[tuple[str, str]]:
    found = idle_jobs(store.sweep(sweep.name), states(sweep, store, scheduler), scheduler)
    return [(each.job.job_id, each.what) for each in found]


TABLE = "makes a reference table that no run waits for"


@pytest.mark.parametrize("dies", ["after the table", "before the array"])
def test_a_table_that_nobody_came_to_wait_for_is_found(
    store: Store, monkeypatch: pytest.MonkeyPatch, dies: str
) -> None:
    """Its launcher died before it was recorded, or before what was to wait for it was submitted."""
    monkeypatch.setattr("launcher.submission.adopt.age", lambda _: 3600.0)
    scheduler, sweep = FakeScheduler(), sweep_of(*GRID, "sweep=s")
    scheduler.dies_after, scheduler.dies_before = (1, None) if dies == "after the table" else (None, 2)
    with pytest.raises(KeyboardInterrupt):
        submit(sweep, store, scheduler, [])
    scheduler.dies_after = scheduler.dies_before = None
    adopt([store.run(run.run_id) for run in sweep.runs], scheduler)  # as `cancel` does
    assert idle(sweep, store, scheduler) == [("1", TABLE)]
    assert idle(sweep_of(*GRID, "sweep=other"), store, scheduler) == []
    scheduler.end("1", Phase.CANCELLED)
    assert idle(sweep, store, scheduler) == []


def test_a_table_that_is_waited_for_is_not_idle_and_costs_no_question(store: Store) -> None:
    """Neither by a run of the sweep, nor by one of another."""
    scheduler, sweep, other = FakeScheduler(), sweep_of(*GRID, "sweep=s"), sweep_of(*GRID, "sweep=t", "beta=0.7")
    submit(sweep, store, scheduler, [])
    found = states(sweep, store, scheduler)
    scheduler.questions = 0
    assert idle_jobs(store.sweep("s"), found, scheduler) == []
    assert scheduler.questions == 0
    submit(other, store, scheduler, [])
    assert len(scheduler.tables) == 1
    for run in sweep.runs:
        write_once(Attempts.of(store.run(run.run_id)).all[0].failure_file, Failure("no"))
    assert idle(sweep, store, scheduler) == []
    for run in other.runs:
        write_once(Attempts.of(store.run(run.run_id)).all[0].failure_file, Failure("no"))
    assert idle(sweep, store, scheduler) == [("1", TABLE)]


def test_status_and_cancel_tell_of_them(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line each; `cancel` ends them where all of the sweep is meant."""
    scheduler, sweep = FakeScheduler(), sweep_of(*GRID, "sweep=s")
    monkeypatch.setattr("launcher.cluster.scheduler.EXECUTORS", {"fake": lambda: scheduler})
    scheduler.dies_after = 1
    with pytest.raises(KeyboardInterrupt):
        submit(sweep, store, scheduler, [])
    folder = f"output_dir={store.root}"
    assert main.main(["status", "s", folder]) == 0
    assert f"job 1 {TABLE}; launch again, or cancel" in capsys.readouterr().out
    assert main.main(["status", "s", "--json", folder]) == 0
    assert json.loads(capsys.readouterr().out)["idle_jobs"] == [{"job_id": "1", "reason": TABLE}]
    assert main.main(["cancel", "s", "--state", "new", folder]) == 0
    assert scheduler.cancelled == []
    assert main.main(["cancel", "s", folder]) == 0
    assert scheduler.cancelled == ["1"]
    assert f"job 1 cancelled: it {TABLE}\n" in capsys.readouterr().out


def test_the_jobs_of_runs_that_were_removed_are_found(one: Sweep, store: Store) -> None:
    """Also where the run was launched anew since: the newer job is its own."""
    scheduler = FakeScheduler()
    submit(one, store, scheduler, [])
    assert idle(one, store, scheduler) == []
    shutil.rmtree(store.run(one.runs[0].run_id).path)
    said = "was handed over for runs that were removed since"
    assert idle(one, store, scheduler) == [("1", said)]
    submit(one, store, scheduler, [])
    assert idle(one, store, scheduler) == [("1", said)]


# ------------------------------------------------------------------------------------------------ renamed jobs


OURS = Job("7_1", "slurm", log="/a b|c/jobs/s.1/7_1_0_log.out", cluster="here", name="s.1", user="root")


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """A queue that has task 7_1, pending, under this name and of this script."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def make(name: str, script: str) -> None:
        told = {
            "squeue": f"case $* in *'%T|%r'*) echo '7_1|PENDING|Held||{name}|{script}';;"
            f" *) echo '7_1|{name}|PENDING|{script}';; esac",
            "scontrol": "echo ClusterName = here",
            "scancel": f"echo $* >> {tmp_path}/cancelled",
            "sacct": "exit 1",
        }
        for command, does in told.items():
            (folder / command).write_text(f"#!/bin/sh\n{does}\n")
            (folder / command).chmod(0o755)

    return make


@pytest.mark.parametrize("name", ["x", "x|y", "x|PENDING", "s.10", "s.1"])
def test_a_renamed_job_is_ours_still(queue: Callable[[str, str], None], tmp_path: Path, name: str) -> None:
    """By the script that it runs, for `status`, a launch and `cancel`; of a batch's own folder, nobody else has it."""
    queue(name, str(script_of(OURS)))
    assert SlurmScheduler().states([OURS])["7_1"].phase is Phase.PENDING
    SlurmScheduler().cancel([OURS])
    assert (tmp_path / "cancelled").read_text().split() == ["7_[1]"]


@pytest.mark.parametrize("script", ["", "/a b|c/jobs/s.2/script.sh", "/jobs/s.1/script.sh", "/usr/bin/python"])
def test_a_job_of_another_name_and_script_is_anothers(
    queue: Callable[[str, str], None], tmp_path: Path, script: str
) -> None:
    """It is left alone."""
    queue("x", script)
    assert SlurmScheduler().states([OURS]) == {}
    with pytest.raises(Exception, match="job 7_1 is another's by now"):
        SlurmScheduler().cancel([OURS])
    assert not (tmp_path / "cancelled").exists()


# ------------------------------------------------------------------------------------------------ words, rights


@pytest.mark.parametrize(
    ("phase", "said"),
    [
        (Phase.HIDDEN, "of those asked for, 1 was in flight elsewhere, and not reached from here"),
        (Phase.RUNNING, "of those asked for, 1 was not reached, and in flight as before"),
    ],
)
def test_a_run_that_goes_on_is_not_said_to_be_over(
    one: Sweep, store: Store, phase: Phase, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is another cluster's, or another user's, or was denied."""
    scheduler = FakeScheduler()
    submit(one, store, scheduler, [])
    (state,) = states(one, store, scheduler)
    say_cancelled(store.sweep("one"), [], 2, [replace(state, status=Status.PENDING, job=JobState(phase))])
    said = f"0 runs of one cancelled; of those asked for, 1 was not in flight; {said}\n"
    assert capsys.readouterr().out == said


@pytest.mark.parametrize("closed", ["sweeps/one/launches", "runs", "sweeps/one/jobs"])
def test_who_may_not_write_leaves_nothing_behind(
    one: Sweep, store: Store, monkeypatch: pytest.MonkeyPatch, closed: str
) -> None:
    """A second user's launch into a folder of which a part is another's: it names that, and what to do."""
    submit(one, store, FakeScheduler(), [])
    before = sorted(store.root.rglob("*"))
    denied = store.root / closed
    monkeypatch.setattr(os, "access", lambda path, *_, **__: Path(path) != denied)
    with pytest.raises(StoreError, match=f"^{denied}: cannot be written .* chmod u.rwX {denied}, or launch into"):
        submit(sweep_of("model=tiny", "sweep=one", "beta=0.92"), store, FakeScheduler(), [])
    assert sorted(store.root.rglob("*")) == before


def test_what_may_not_be_written_is_named_as_it_would_be_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not by the name that a file has until it is whole."""

    def denied(path: str, *_: object) -> int:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("launcher.store.files.os.open", denied)
    with pytest.raises(PermissionError) as raised:
        write_once(RunDir(tmp_path).result_file, {})
    assert raised.value.filename == str(tmp_path / "result.json")
