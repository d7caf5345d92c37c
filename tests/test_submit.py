"""Decide, then act: what is submitted, once, whatever happens in between."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import sweep_of
from fakes import FakeScheduler, submit

from launcher.cluster import slurm_words as words
from launcher.cluster.ambient import Ambient
from launcher.cluster.batch import Batch
from launcher.cluster.job_state import LAG_SECONDS, JobState, Phase
from launcher.cluster.local import LocalScheduler
from launcher.cluster.slurm import SlurmScheduler
from launcher.errors import ConfigError, QueueFull, SchedulerError, StoreError
from launcher.planning.launches import recorded_sweep
from launcher.runs.cancel import cancel
from launcher.runs.run_state import read_facts, states_of
from launcher.runs.signs import last_words
from launcher.runs.status import Status
from launcher.store import age
from launcher.store.attempts import Attempts
from launcher.store.facts import Job, TableWork
from launcher.store.files import write_once
from launcher.store.output_folder import Store
from launcher.store.run_folder import RunDir
from launcher.store.work_list import work_of
from launcher.submission.adopt import adopt
from launcher.submission.decide import Action, Decision, decide
from launcher.submission.environment import in_environment
from launcher.submission.plan import check_root, plan_batches
from launcher.submission.submit import act
from launcher.sweep import Sweep
from launcher.views.states import say_cancelled

LOSSES = ["sigmoid", "ipo", "kto_pair"]
GRID = ["model=tiny", "cluster.runs_per_job=2", "loss_type=sigmoid,ipo,kto_pair", "beta=0.1,0.5"]


def launch(sweep: Sweep, store: Store, scheduler: FakeScheduler) -> list[Decision]:
    return submit(sweep, store, scheduler, [])


def finish(run: RunDir, steps: int = 4, seconds: float = 8.0) -> None:
    write_once(run.result_file, {"steps": steps, "max_steps": steps, "seconds": seconds})
    write_once(run.evaluation_file, {"loss": 1.0})


def actions(decisions: list[Decision]) -> list[Action]:
    return [decision.action for decision in decisions]


def test_the_same_grid_twice_submits_nothing_the_second_time(store: Store) -> None:
    """Runs in flight are left alone, and so are finished ones."""
    scheduler, sweep = FakeScheduler(), sweep_of(*GRID)
    assert actions(launch(sweep, store, scheduler)) == [Action.SUBMIT] * 6
    assert len(scheduler.submitted) == 3  # two runs a job
    assert actions(launch(sweep, store, scheduler)) == [Action.SKIP] * 6
    for run in sweep.runs:
        finish(store.run(run.run_id))
    scheduler.phases.clear()
    assert actions(launch(sweep, store, scheduler)) == [Action.SKIP] * 6
    assert len(scheduler.submitted) == 3


def test_a_new_beta_submits_only_the_new_runs(store: Store) -> None:
    """A grown grid joins the sweep, and only what is new is submitted."""
    scheduler = FakeScheduler()
    launch(sweep_of(*GRID), store, scheduler)
    grown = sweep_of(*GRID[:-1], "beta=0.1,0.5,0.9")
    decisions = launch(grown, store, scheduler)
    assert [d.run.config.beta for d in decisions if d.action is Action.SUBMIT] == [0.9] * 3
    records = store.sweep(grown.name).run_records()
    assert len(records) == 9
    assert len({record.run_id for record in records}) == 9


def test_one_run_in_two_sweeps_is_one_run(store: Store) -> None:
    """A run that another sweep has finished is not trained again."""
    scheduler = FakeScheduler()
    for run in (first := sweep_of(*GRID, "sweep=first")).runs:
        finish(store.run(run.run_id))
    assert actions(decide(sweep_of(*GRID, "sweep=second"), store, scheduler)) == [Action.SKIP] * 6
    assert first.name == "first"


def test_deleting_a_result_reruns_that_run(store: Store) -> None:
    """Status is computed from the facts, so that removing one brings the run back."""
    scheduler, sweep = FakeScheduler(), sweep_of(*GRID)
    launch(sweep, store, scheduler)
    for run in sweep.runs:
        finish(store.run(run.run_id))
    for job_id in scheduler.phases:
        scheduler.end(job_id, Phase.COMPLETED)
    store.run(sweep.runs[2].run_id).result_file.unlink()
    decisions = launch(sweep, store, scheduler)
    assert [d.run.run_id for d in decisions if d.action is not Action.SKIP] == [sweep.runs[2].run_id]
    assert read_facts(store.run(sweep.runs[2].run_id)).attempts == 2


def test_a_run_whose_folder_was_removed_is_made_anew(store: Store) -> None:
    """Launching again and `resume` both do it: the record of the launch is enough to write config.yaml again."""
    scheduler, sweep = FakeScheduler(), sweep_of(*GRID)
    launch(sweep, store, scheduler)
    gone, config = store.run(sweep.runs[2].run_id), store.run(sweep.runs[2].run_id).read_config()
    for remade in (sweep, None):
        shutil.rmtree(gone.path)
        again = remade or recorded_sweep(store.sweep(sweep.name), store, LOSSES)
        decisions = launch(again, store, scheduler)
        assert [d.run.run_id for d in decisions if d.action is not Action.SKIP] == [gone.run_id]
        assert gone.read_config() == config


def test_a_removed_run_that_is_another_by_now_is_named(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A changed file of conf/ must not make another run under the old one's name."""
    sweep = sweep_of("model=tiny")
    launch(sweep, store, FakeScheduler())
    shutil.rmtree(store.run(sweep.runs[0].run_id).path)
    (other,) = sweep_of("model=tiny", "seed=7").runs
    monkeypatch.setattr("launcher.planning.launches.plan_run", lambda *_, **__: other)
    with pytest.raises(StoreError, match=f"was removed, and its settings now give {other.run_id}; launch the sweep"):
        recorded_sweep(store.sweep(sweep.name), store, LOSSES)


def test_a_trained_run_is_evaluated_not_trained_again(store: Store) -> None:
    """A crash between training and evaluation costs the evaluation only."""
    scheduler, sweep = FakeScheduler(), sweep_of("model=tiny")
    launch(sweep, store, scheduler)
    write_once(store.run(sweep.runs[0].run_id).result_file, {"steps": 1, "max_steps": 1, "seconds": 1.0})
    assert actions(decide(sweep, store, scheduler)) == [Action.SKIP]  # its job is at it
    scheduler.end("1")
    assert actions(decide(sweep, store, scheduler)) == [Action.EVALUATE]


def test_a_failed_run_with_a_checkpoint_is_resumed(store: Store) -> None:
    """The plan says from which step, and why the run had ended; a checkpoint without its marker does not count."""
    scheduler, sweep = FakeScheduler(), sweep_of("model=tiny")
    launch(sweep, store, scheduler)
    run = store.run(sweep.runs[0].run_id)
    write_once(run.attempts()[-1].started_file, {})
    write_once(run.checkpoints / "checkpoint-4" / "complete.json", {})
    (run.checkpoints / "checkpoint-8").mkdir()
    scheduler.end("1", reason="OUT_OF_MEMORY")
    (decision,) = decide(sweep, store, scheduler)
    assert decision.action is Action.RESUME
    assert "step 4" in decision.why
    assert "OUT_OF_MEMORY" in decision.why


@pytest.mark.parametrize("moment", ["dies_before", "dies_after"])
@pytest.mark.parametrize("batch", [1, 2, 3])
def test_a_launcher_that_dies_loses_and_doubles_nothing(
    store: Store, moment: str, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed around any of its submissions, the launcher submits what is missing when called again, and no more."""
    monkeypatch.setattr("launcher.submission.adopt.LAG_SECONDS", 0.1)
    monkeypatch.setattr("launcher.runs.status.LAG_SECONDS", 0.1)
    scheduler, sweep = FakeScheduler(), sweep_of(*GRID)
    setattr(scheduler, moment, batch)
    with pytest.raises(KeyboardInterrupt):
        launch(sweep, store, scheduler)
    setattr(scheduler, moment, None)
    adopt([store.run(run.run_id) for run in sweep.runs], scheduler)
    launch(sweep, store, scheduler)
    assert len(scheduler.submitted) == 3
    assert all(state.in_flight for state in states_of([store.run(r.run_id) for r in sweep.runs], scheduler))


def test_estimates_come_from_runs_with_the_same_cost(store: Store) -> None:
    """A finished run tells how long the others will take, whatever their loss and beta; another batch size does not."""
    scheduler = FakeScheduler()
    launch(sweep := sweep_of(*GRID, "trainer.max_steps=4"), store, scheduler)
    finish(store.run(sweep.runs[0].run_id), steps=4, seconds=8.0)
    longer = decide(sweep_of("model=tiny", "beta=7", "trainer.max_steps=10"), store, scheduler)
    assert longer[0].seconds == pytest.approx(20.0)
    other = decide(sweep_of("model=tiny", "beta=7", "trainer.batch_size=16"), store, scheduler)
    assert other[0].seconds is None


def test_the_scheduler_is_asked_once(store: Store) -> None:
    """Sixty runs cost one question."""
    scheduler, sweep = FakeScheduler(), sweep_of("model=tiny", "cluster.runs_per_job=1", "seed=range(0,60)")
    launch(sweep, store, scheduler)
    scheduler.questions = 0
    states_of([store.run(run.run_id) for run in sweep.runs], scheduler)
    assert scheduler.questions == 1


def test_cancelling_one_run_leaves_its_job_to_the_others(store: Store) -> None:
    """A job is cancelled when all of its runs are; before that, the run alone is asked to stop."""
    scheduler, sweep = FakeScheduler(), sweep_of(*GRID)
    launch(sweep, store, scheduler)
    states = states_of([store.run(run.run_id) for run in sweep.runs], scheduler)
    cancel(states[:1], scheduler)
    assert scheduler.cancelled == []
    assert store.run(sweep.runs[0].run_id).attempts()[-1].cancel_file.exists()
    cancel(states[1:2], scheduler)
    assert scheduler.cancelled == ["2"]


class Refusing(FakeScheduler):
    """Does not let us end the jobs of one user."""

    def cancel(self, jobs: Sequence[Job]) -> None:
        if any(job.user == "other" for job in jobs):
            raise SchedulerError("scancel: Access/permission denied")
        super().cancel(jobs)

    def submit(self, batch: Batch) -> list[Job]:
        return [replace(job, user="other" if job.job_id == "2" else "me") for job in super().submit(batch)]


def test_a_run_whose_job_is_not_reached_is_not_taken_for_cancelled(store: Store) -> None:
    """Its job goes on: the wish is withdrawn, the refusal told, and nothing is submitted beside it; others stop."""
    scheduler, sweep = Refusing(), sweep_of(*GRID)
    launch(sweep, store, scheduler)
    runs = [store.run(run.run_id) for run in sweep.runs]
    told: list[str] = []
    stopped = cancel(states_of(runs[:1], scheduler), scheduler)
    assert [state.run for state in stopped] == runs[:1]  # shares its job, and is only marked
    stopped = cancel(states_of(runs, scheduler), scheduler, warn=told.append)
    assert told == ["scancel: Access/permission denied"]
    first = {run for run in runs if (job := Attempts.of(run).training.job) and job.job_id == "2"}
    assert {state.run for state in stopped} == set(runs) - first
    assert "2" not in scheduler.cancelled
    assert "3" in scheduler.cancelled
    for run in runs:
        asked = run not in first or run == runs[0]  # by the first command
        assert Attempts.of(run).training.cancel_file.exists() == asked
    state = states_of(runs[:1], scheduler)[0]
    assert (state.in_flight, state.reason) == (True, "asked to stop; its job has not come to it yet")
    assert decide(sweep, store, scheduler)[0].action is Action.SKIP


def test_a_sweep_can_be_read_back(store: Store) -> None:
    """What was recorded gives the same runs again, so that resume needs no command line."""
    scheduler, sweep = FakeScheduler(), sweep_of(*GRID)
    launch(sweep, store, scheduler)
    again = recorded_sweep(store.sweep(sweep.name), store, LOSSES)
    assert [run.run_id for run in again.runs] == [run.run_id for run in sweep.runs]
    assert [run.config for run in again.runs] == [run.config for run in sweep.runs]
    assert again.axes == sweep.axes


def test_settings_that_resume_gave_stay(store: Store) -> None:
    """Who resumed a run with another limit need not say so at the next resume; the other runs keep theirs."""
    scheduler, first = FakeScheduler(), sweep_of("model=tiny", "beta=0.1,0.5", "sweep=s")
    launch(first, store, scheduler)
    for batch in scheduler.submitted:
        scheduler.end(scheduler.jobs[batch.name][0].job_id)
    resumed = sweep_of("model=tiny", "beta=0.1,0.5", "sweep=s", "cluster.time=9")
    chosen = decide(resumed, store, scheduler)[1:]
    planned = plan_batches(resumed, chosen, store, scheduler)
    act(planned, store, scheduler, ["resume", "s"])
    again = recorded_sweep(store.sweep("s"), store, LOSSES)
    assert [run.config.cluster.time for run in again.runs] == [None, "9"]
    assert [run.axes for run in again.runs] == [run.axes for run in first.runs]


def test_a_run_whose_folder_was_removed_is_launched_anew(store: Store) -> None:
    """What a job reads, config.yaml, is written again."""
    scheduler, sweep = FakeScheduler(), sweep_of(*GRID)
    launch(sweep, store, scheduler)
    for run in sweep.runs:
        finish(store.run(run.run_id))
    removed = store.run(sweep.runs[1].run_id)
    shutil.rmtree(removed.path)
    assert [d.run.run_id for d in launch(sweep, store, scheduler) if d.action is Action.SUBMIT] == [removed.run_id]
    assert removed.read_config() == sweep.runs[1].objective


def test_a_launch_with_other_settings_is_the_one_that_is_read_back(store: Store) -> None:
    """Of the runs that it names, which keep their place and their axes; nothing is recorded twice."""
    scheduler, first = FakeScheduler(), sweep_of("model=tiny", "beta=0.1,0.5", "sweep=s")
    launch(first, store, scheduler)
    second = sweep_of("model=tiny", "beta=0.1", "sweep=s", "cluster.time=5")
    for _ in range(2):
        launch(second, store, scheduler)
    directory = store.sweep("s")
    assert len(directory.launches()) == 2
    for _ in range(2):
        again = recorded_sweep(directory, store, LOSSES)
        assert [run.run_id for run in again.runs] == [run.run_id for run in first.runs]
        assert [run.config.cluster.time for run in again.runs] == ["5", None]
        assert [run.axes for run in again.runs] == [{"beta": 0.1}, {"beta": 0.5}]


def test_resources_part_jobs(store: Store) -> None:
    """Runs that need different resources never share a job."""
    scheduler = FakeScheduler()
    sweep = sweep_of("model=tiny", "beta=0.1,0.2", "cluster.runs_per_job=5")
    first, second = sweep.runs
    larger = replace(second.config, cluster=replace(second.config.cluster, runs_per_job=6))
    launch(replace(sweep, runs=(first, replace(second, config=larger))), store, scheduler)
    assert [batch.resources.runs_per_job for batch in scheduler.submitted] == [5, 6]
    assert states_of([store.run(sweep.runs[0].run_id)], scheduler)[0].status is Status.PENDING


def test_the_arrays_of_a_launch_share_max_parallel_out(store: Store) -> None:
    """By their numbers of jobs, 8 to 2 here; together they keep to it, and each may have one job at work."""
    models = ["model=tiny", "dataset.train_pairs=16,32", "cluster.runs_per_job=1"]
    for limit, shares in ((5, [4, 1]), (9, [7, 2]), (1, [1, 1]), (40, [32, 8])):
        scheduler, where = FakeScheduler(batch_size=10), Store(store.root / str(limit))
        eight = sweep_of(*models, "seed=range(0,8)", "sweep=s", f"cluster.max_parallel={limit}")
        runs = tuple(r for r in eight.runs if r.config.dataset.train_pairs == 16 or r.config.seed < 2)
        launch(replace(eight, runs=runs), where, scheduler)
        assert [batch.at_once for batch in scheduler.submitted] == shares


# ------------------------------------------------------------------------------------------------ the reference table


def test_jobs_that_share_a_table_wait_for_the_one_that_makes_it(store: Store) -> None:
    """One job per model and data set comes first; the arrays of each wait for theirs only."""
    scheduler, sweep = FakeScheduler(batch_size=10), sweep_of(*GRID[1:], "model=tiny,smollm2", "cluster.runs_per_job=1")
    launch(sweep, store, scheduler)
    assert len(scheduler.tables) == 2
    tables = [scheduler.jobs[batch.name][0].job_id for batch in scheduler.tables]
    assert [batch.after and batch.after.job_id for batch in scheduler.submitted] == tables
    assert [batch.size for batch in scheduler.submitted] == [6, 6]
    work = work_of(scheduler.tables[1].job_folders[0])
    assert isinstance(work, TableWork)
    assert work.prepare["model"]["name"] == "smollm2-135m"


def test_a_single_job_makes_its_table_itself(store: Store) -> None:
    """A job of its own would only be one more wait in the queue."""
    scheduler = FakeScheduler()
    launch(sweep_of("model=tiny"), store, scheduler)
    assert (len(scheduler.tables), scheduler.submitted[0].after) == (0, None)


def test_a_table_that_is_there_or_on_its_way_is_not_made_again(store: Store) -> None:
    """A grown grid waits for the job that is at it; once that has said it is done, for none."""
    scheduler = FakeScheduler()
    launch(sweep_of(*GRID), store, scheduler)
    launch(sweep_of(*GRID[:-1], "beta=0.7"), store, scheduler)
    assert len(scheduler.tables) == 1
    assert scheduler.submitted[-1].after == scheduler.submitted[0].after
    write_once(scheduler.tables[0].folder.parent / "done.json", {})
    launch(sweep_of(*GRID[:-1], "beta=0.9"), store, scheduler)
    assert (len(scheduler.tables), scheduler.submitted[-1].after) == (1, None)


def test_a_table_that_was_not_made_is_the_reason_of_its_runs(store: Store) -> None:
    """Its runs have FAILED with the reason that the job gave, and the next launch makes the table anew."""
    scheduler, sweep = FakeScheduler(), sweep_of(*GRID)
    launch(sweep, store, scheduler)
    write_once(scheduler.tables[0].folder / "failure.json", {"reason": "the weights are torn"})
    for job_id in scheduler.phases:
        scheduler.end(job_id, Phase.CANCELLED)
    states = states_of([store.run(run.run_id) for run in sweep.runs], scheduler)
    assert {state.status for state in states} == {Status.FAILED}
    assert states[0].reason == "no reference table: job 1: the weights are torn"
    assert actions(launch(sweep, store, scheduler)) == [Action.SUBMIT] * 6
    assert len(scheduler.tables) == 2


def test_cancel_speaks_of_what_was_asked_for(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    """Of the runs that nobody named it says nothing; of those named it says how many had ended."""
    scheduler, sweep = FakeScheduler(), sweep_of(*GRID)
    launch(sweep, store, scheduler)
    stopped = cancel(states_of([store.run(run.run_id) for run in sweep.runs[:2]], scheduler), scheduler)
    say_cancelled(store.sweep(sweep.name), stopped, 2)
    assert capsys.readouterr().out.splitlines()[-1] == f"2 runs of {sweep.name} cancelled"
    say_cancelled(store.sweep(sweep.name), stopped, 3)
    assert capsys.readouterr().out.endswith(" cancelled; of those asked for, 1 was not in flight\n")


def test_cancelling_all_that_wait_for_a_table_cancels_its_job(store: Store) -> None:
    """As long as one run waits for it, the table is made."""
    scheduler, sweep = FakeScheduler(), sweep_of(*GRID)
    launch(sweep, store, scheduler)
    states = states_of([store.run(run.run_id) for run in sweep.runs], scheduler)
    cancel(states[:5], scheduler)
    assert "1" not in scheduler.cancelled
    cancel(states[5:], scheduler)
    assert "1" in scheduler.cancelled


def apart(path: Path, seconds: float) -> None:
    """Give a file a time that is so far from now."""
    os.utime(path, (time.time() + seconds,) * 2)


def test_a_run_that_still_writes_is_not_submitted_again(store: Store) -> None:
    """An empty queue without accounting says nothing about it; when it has been silent for minutes, it is LOST."""
    scheduler, sweep = FakeScheduler(), sweep_of("model=tiny")
    launch(sweep, store, scheduler)
    run = store.run(sweep.runs[0].run_id)
    (attempt,) = run.attempts()
    apart(attempt.attempt_file, -3600)
    write_once(attempt.started_file, {"host": "n2", "time": 1.0})
    scheduler.phases.clear()
    for file in (run.metrics_file, attempt.progress_file):
        file.write_text("{}")
        (decision,) = launch(sweep, store, scheduler)
        assert decision.action is Action.SKIP
        assert decision.why == "in flight: RUNNING as job 1"
        apart(file, -400)
    assert [state.status for state in states_of([run], scheduler)] == [Status.LOST]


@pytest.mark.parametrize("hours", [-3, 3])
def test_a_clock_that_is_apart_makes_no_submission_recent_or_old(
    store: Store, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    """Ages are told by the file system's clock: this machine's may be hours before or behind."""
    scheduler, sweep = FakeScheduler(), sweep_of("model=tiny")
    launch(sweep, store, scheduler)
    scheduler.phases.clear()
    run, now = store.run(sweep.runs[0].run_id), time.time
    monkeypatch.setattr(time, "time", lambda: now() + hours * 3600)
    monkeypatch.setattr(age, "_ahead", {})
    assert states_of([run], scheduler)[0].status is Status.PENDING  # it was submitted just now
    apart(run.attempts()[0].attempt_file, -hours * 3600 - 60)
    assert states_of([run], scheduler)[0].status is Status.LOST


def test_a_launcher_that_died_is_waited_for_briefly_whatever_the_clocks(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """At most the lag of a scheduler, and stderr says so; the other's clock was two minutes ahead."""
    scheduler, sweep, waited = FakeScheduler(), sweep_of("model=tiny"), list[float]()
    scheduler.dies_before, now = 1, time.time
    monkeypatch.setattr(time, "time", lambda: now() + 120)
    with pytest.raises(KeyboardInterrupt):
        launch(sweep, store, scheduler)
    monkeypatch.setattr(time, "time", now)
    monkeypatch.setattr(time, "sleep", waited.append)
    adopt([store.run(sweep.runs[0].run_id)], scheduler)
    assert len(waited) == 1
    assert 0 < waited[0] <= LAG_SECONDS
    assert "asking in" in capsys.readouterr().err


def test_a_full_queue_is_no_failure(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it did not take is NEW, and says that it is to be launched again; that submits it."""
    scheduler, sweep = FakeScheduler(), sweep_of("model=tiny")

    def full(_batch: Batch) -> list[Job]:
        raise QueueFull("sbatch: AssocMaxSubmitJobLimit; launch again when some jobs have ended")

    with monkeypatch.context() as patch:
        patch.setattr(scheduler, "submit", full)
        with pytest.raises(QueueFull):
            launch(sweep, store, scheduler)
    (state,) = states_of([store.run(sweep.runs[0].run_id)], scheduler)
    assert state.status is Status.NEW
    assert str(state.reason).startswith("not submitted: sbatch: AssocMaxSubmitJobLimit; launch again")
    assert actions(launch(sweep, store, scheduler)) == [Action.SUBMIT]


def test_a_run_that_ends_while_the_scheduler_is_asked_has_not_failed(store: Store) -> None:
    """Its facts were read before that; they are read once more where the answer is an end."""

    class Ending(FakeScheduler):
        """Its jobs end well in the moment in which they are asked about."""

        def states(self, jobs: Sequence[Job]) -> dict[str, JobState]:
            finish(run)
            self.phases = {job.job_id: JobState(phase) for job in jobs}
            return super().states(jobs)

    for number in range(3):
        scheduler, sweep = Ending(), sweep_of("model=tiny", f"seed={number}")
        run, phase = store.run(sweep.runs[0].run_id), (Phase.COMPLETED, Phase.FAILED, Phase.UNKNOWN)[number]
        launch(sweep, store, scheduler)
        write_once(run.attempts()[0].started_file, {"host": "n1", "time": 1.0})
        (state,) = states_of([run], scheduler)
        assert state.status is Status.TRAINED


@pytest.mark.parametrize(
    ("own", "of_job", "said"),
    [
        ("step 41 of 100\n", None, "FAILED exit code 1: last printed: step 41 of 100"),
        ("", "ImportError: no torch\nsrun: error: n1: task 0: Exited\n", "last printed: ImportError: no torch"),
        ("prefsweep: the disk is full\n", None, "FAILED exit code 1: the disk is full"),
    ],
)
def test_a_failure_without_words_is_told_with_the_last_line(
    store: Store, tmp_path: Path, own: str, of_job: str | None, said: str
) -> None:
    """As what it is: where the run was cut off, which need not be the cause."""

    class Logging(FakeScheduler):
        def submit(self, batch: Batch) -> list[Job]:
            return [replace(job, log=str(tmp_path / "log")) for job in super().submit(batch)]

    scheduler, sweep = Logging(), sweep_of("model=tiny")
    launch(sweep, store, scheduler)
    (attempt,) = store.run(sweep.runs[0].run_id).attempts()
    write_once(attempt.started_file, {"host": "n1", "time": 1.0})
    attempt.log_file().write_text(own)
    (tmp_path / "log").write_text(of_job or "")
    scheduler.end("1", Phase.FAILED, "FAILED exit code 1")
    (state,) = states_of([attempt.run], scheduler)
    assert said in (state.reason or "")


CRASH = """
import faulthandler, numpy, signal, threading, time
faulthandler.enable()
for _ in range(99):
    threading.Thread(target=time.sleep, args=(9,), daemon=True).start()
signal.raise_signal(signal.SIGSEGV)
"""


@pytest.mark.parametrize("after", ["", "attempt 1 goes on\n"])
def test_a_crash_is_told_by_its_name_and_not_by_its_stacks(tmp_path: Path, after: str) -> None:
    """Those of a real one, as each process of ours prints them, in a program with many threads and modules."""
    died = subprocess.run([sys.executable, "-c", CRASH], capture_output=True, text=True, check=False)
    assert len(died.stderr) > 4096
    (tmp_path / "log").write_text(f"step 3/6\n{died.stderr}{after}")
    assert last_words(tmp_path / "log") == (after.strip() or "Fatal Python error: Segmentation fault")


@pytest.mark.parametrize("name", ["50%off", "a\\b", "a\nb", "a\tb", "a\x7fb"])
def test_a_folder_whose_name_slurm_would_expand_is_refused(tmp_path: Path, name: str) -> None:
    """Also above the output folder, and before anything is written; this machine takes it."""
    sweep, store = sweep_of(*GRID), Store(tmp_path / name / "outputs")
    with pytest.raises(ConfigError, match=r"output_dir=.*every job would die; choose a folder without it"):
        plan_batches(sweep, decide(sweep, store, LocalScheduler()), store, SlurmScheduler())
    check_root(store, LocalScheduler())
    check_root(Store(tmp_path), SlurmScheduler())
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize(
    ("limit", "behind"),
    [("null", [[]] * 5), (2, [[], [], [0], [1], [2, 0]]), (1, [[], [0], [1, 0], [2, 1, 0], [3, 2, 1, 0]])],
)
def test_jobs_without_an_array_keep_to_max_parallel(limit: object, behind: list[list[int]], store: Store) -> None:
    """Each waits for the ends of those before it in its lane, since one may be cancelled as it waits."""
    scheduler = FakeScheduler(batch_size=1)
    submit(sweep_of("model=tiny", "seed=range(0,5)", "sweep=s", f"cluster.max_parallel={limit}"), store, scheduler, [])
    ids = [scheduler.jobs[batch.name][0].job_id for batch in scheduler.submitted]
    assert [[job.job_id for job in batch.behind] for batch in scheduler.submitted] == [
        [ids[place] for place in places] for places in behind
    ]
    for batch in scheduler.submitted:
        dependency = words.parameters(batch)["additional_parameters"]["dependency"]
        assert dependency == ",".join(
            [f"afterok:{batch.after and batch.after.job_id}"]
            + ["afterany:" + ":".join(job.job_id for job in batch.behind)] * bool(batch.behind)
        )


def test_jobs_of_a_dead_launcher_hold_their_lanes(store: Store) -> None:
    """Those that it had handed over count for the next launch's limit."""
    grid = ("model=tiny", "sweep=s", "cluster.max_parallel=2", "cluster.arrays=false", "cluster=slurm")
    scheduler = FakeScheduler(batch_size=1)
    submit(sweep_of(*grid, "seed=range(0,3)"), store, scheduler, [])
    submit(sweep_of(*grid, "seed=range(0,5)"), store, scheduler, [])
    ids = [scheduler.jobs[batch.name][0].job_id for batch in scheduler.submitted]
    assert [[job.job_id for job in batch.behind] for batch in scheduler.submitted[3:]] == [[ids[1]], [ids[2], ids[0]]]


def test_what_another_shell_said_stays_on_record_for_runs_that_are_skipped(store: Store) -> None:
    """So that `resume` charges the same account; what a launch says itself is recorded for them too."""
    sweep, scheduler = (
        sweep_of("model=tiny", "sweep=s", "cluster.account=proj", "+cluster.extra.comment=x"),
        FakeScheduler(),
    )
    submit(sweep, store, scheduler, [])
    submit(sweep_of("model=tiny", "sweep=s", "cluster.qos=high", "beta=0.1,0.2"), store, scheduler, [])
    first, second = (record.settings["cluster"] for record in store.sweep("s").run_records())
    assert (first["account"], first["extra"], first["qos"]) == ("proj", {"comment": "x"}, "high")
    assert (second["account"], second["extra"], second["qos"]) == (None, {}, "high")


def test_a_run_that_is_skipped_keeps_what_its_own_shell_said(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A colleague's shell, which adds a run, has no say in its next attempt; what they type is for the whole sweep."""
    shells = [
        Ambient({"account": "hers", "time": "30"}, {"comment": "a", "wckey": "w"}),
        Ambient({"account": "his", "partition": "urgent"}, {"comment": "b", "reservation": "friday"}),
    ]
    scheduler = FakeScheduler()
    for shell, words_ in zip(shells, (["beta=0.1"], ["beta=0.1,0.2", "cluster.qos=high"]), strict=True):
        monkeypatch.setattr(scheduler, "ambient", lambda _, said=shell: said)
        sweep, _ = in_environment(sweep_of("model=tiny", "sweep=s", *words_), scheduler)
        submit(sweep, store, scheduler, [])
    first, second = (record.settings["cluster"] for record in store.sweep("s").run_records())
    kept = {key: first[key] for key in ("account", "time", "partition", "qos", "extra")}
    extra = {"comment": "a", "wckey": "w"}
    assert kept == {"account": "hers", "time": "30", "partition": None, "qos": "high", "extra": extra}
    assert (second["account"], second["extra"]) == ("his", {"comment": "b", "reservation": "friday"})


def test_a_run_that_others_are_to_evaluate_keeps_what_its_own_shell_said(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is under way, and may have to be trained again, as it was launched; the job that evaluates it is theirs."""
    scheduler, words_ = FakeScheduler(), ["model=tiny", "sweep=s", "cluster=slurm", "cluster.gpus_per_node=2"]
    more = [*words_, "evaluation=command", "evaluation.command.argv=[score,'{model}']"]
    for account, typed in (("hers", words_), ("his", more)):
        monkeypatch.setattr(scheduler, "ambient", lambda _, said=account: Ambient({"account": said}))
        sweep, _ = in_environment(sweep_of(*typed, "trainer.batch_size=64"), scheduler)
        submit(sweep, store, scheduler, [])
    assert scheduler.evaluations[-1].resources.account == "his"
    (record,) = store.sweep("s").run_records()
    assert record.settings["cluster"]["account"] == "hers"
    assert "command" in record.settings["evaluation"]["benchmarks"]


def test_a_launch_that_is_refused_for_an_earlier_one_changes_no_record(store: Store) -> None:
    """Of a table's job nobody knows whether it is there, but who has submitted it: `resume` goes by their launch."""

    class Hidden(FakeScheduler):
        def find(self, batch: Batch) -> list[Job] | None:
            raise SchedulerError(f"ask ana, who submitted {batch.name}")

    grid, hers = ("model=tiny", "loss_type=sigmoid,ipo", "sweep=s"), FakeScheduler()
    hers.dies_after = 1
    with pytest.raises(KeyboardInterrupt):
        submit(sweep_of(*grid, "cluster.account=hers"), store, hers, [])
    before = sorted(path for path in store.root.rglob("*") if not path.name.endswith(".lock"))
    with pytest.raises(SchedulerError, match="ask ana"):
        submit(sweep_of(*grid, "cluster.account=his", "beta=0.7"), store, Hidden(), [])
    assert sorted(path for path in store.root.rglob("*") if not path.name.endswith(".lock")) == before
    assert {record.settings["cluster"]["account"] for record in store.sweep("s").run_records()} == {"hers"}
