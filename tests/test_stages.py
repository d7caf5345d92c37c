"""Training and evaluation as two jobs: each submitted once, the status that of the one at work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import sweep_of
from fakes import FakeScheduler
from finished_runs import revision_at
from test_submit import actions, launch
from waiting import LONGEST_WAIT

from launcher.cluster.batch import Batch
from launcher.cluster.job_state import JobState, Phase
from launcher.cluster.slurm_words import parameters
from launcher.errors import ConfigError
from launcher.planning import changes
from launcher.runs.cancel import cancel
from launcher.runs.collect import collect
from launcher.runs.run_state import RunState, states_of
from launcher.runs.status import Status
from launcher.store.attempt_config import wanted_by
from launcher.store.attempts import Attempts
from launcher.store.facts import Cause, Job, Started
from launcher.store.files import append_line, read_fact, write_once
from launcher.store.output_folder import Store
from launcher.store.results import Evaluation, Result
from launcher.store.run_folder import AttemptDir, RunDir
from launcher.store.starts import last_start
from launcher.store.work_done import has_done_its_part, publishes
from launcher.store.work_list import attempts_of
from launcher.submission.adopt import adopt
from launcher.submission.decide import Action, decide
from launcher.submission.plan import PlannedBatch, plan_batches
from launcher.submission.timings import read_costs
from launcher.sweep import Sweep
from launcher.views.plan import show_plan

GPUS = ["cluster=slurm", "cluster.gpus_per_node=8", "cluster.nodes=2", "cluster.time=auto", "trainer.batch_size=128"]
SCORE = ["evaluation=command", "evaluation.command.argv=[score,'{model}']"]
PUSH = ("hub=folder", "hub.repo=x")
GRID = ["model=tiny", "cluster.runs_per_job=2", "loss_type=sigmoid,ipo", "beta=0.1,0.5", *SCORE]


def state(run: RunDir, scheduler: FakeScheduler) -> RunState:
    return states_of([run], scheduler)[0]


def test_every_job_is_called_as_the_site_prescribes(store: Store) -> None:
    """Those that train, that evaluate, and the one that makes their reference table; each name is still another."""
    scheduler = FakeScheduler(batch_size=2)
    launch(sweep_of(*GRID, "cluster.job_name=proj42-"), store, scheduler)
    found = [scheduler.tables, scheduler.submitted, scheduler.evaluations]
    assert all(found)
    names = [batch.name for batches in found for batch in batches]
    assert all(name.startswith("proj42-") for name in names)
    assert len(set(names)) == len(names)
    assert {parameters(batch)["job_name"] for batches in found for batch in batches} == set(names)


def runs_of(sweep: Sweep, store: Store) -> list[RunDir]:
    return [store.run(run.run_id) for run in sweep.runs]


def train(run: RunDir) -> None:
    """As if the training job had done its part."""
    write_once(Attempts.of(run).training.started_file, {"host": "n1"})
    write_once(run.result_file, {"steps": 4, "max_steps": 4, "seconds": 8.0})
    write_once(run.evaluation_file, {"loss": 1.0})
    write_once(run.revision_file, revision_at("somewhere"))


def train_alone(run: RunDir) -> None:
    """As if a training job of several ranks had done its part: nothing but the training."""
    write_once(Attempts.of(run).training.started_file, {"host": "n1"})
    write_once(run.result_file, {"steps": 4, "max_steps": 4, "seconds": 8.0})


def evaluate(run: RunDir) -> None:
    write_once(run.evaluations.job_file("command"), {"scores": {}})


def evaluation_of(run: RunDir) -> AttemptDir:
    attempt = Attempts.of(run).evaluating
    assert attempt
    return attempt


def ids(planned: PlannedBatch) -> list[list[str]]:
    return [[run.run_id for run in runs] for runs in planned.jobs]


# ------------------------------------------------------------------------------------------------ what is submitted


def test_an_array_evaluates_what_another_trains(store: Store) -> None:
    """Same size, same runs in the same jobs, behind it; it has one GPU, and no time that was meant for training."""
    scheduler, sweep = FakeScheduler(batch_size=10), sweep_of(*GRID, *GPUS)
    assert actions(launch(sweep, store, scheduler)) == [Action.SUBMIT] * 4
    (training,), (evaluation,) = scheduler.submitted, scheduler.evaluations
    assert (training.resources.nodes, training.resources.gpus_per_node) == (2, 8)
    assert (evaluation.resources.nodes, evaluation.resources.gpus_per_node, evaluation.resources.time) == (1, 1, None)
    assert (evaluation.size, evaluation.in_step) == (training.size, True) == (2, True)
    assert evaluation.after == scheduler.jobs[training.name][0]
    for one, other in zip(training.job_folders, evaluation.job_folders, strict=True):
        trained, evaluated = [attempts_of(folder) for folder in (one, other)]
        assert [attempt.run for attempt in trained] == [attempt.run for attempt in evaluated]
        assert [wanted_by(attempt) for attempt in trained] == [[]] * 2  # 15 GPUs would wait for rank 0
        assert [wanted_by(attempt) for attempt in evaluated] == [["preference", "command"]] * 2
    assert actions(launch(sweep, store, scheduler)) == [Action.SKIP] * 4
    assert len(scheduler.evaluations) == 1


def test_each_table_has_its_own_evaluations_behind_it(store: Store) -> None:
    """Of runs that wait for two tables, each batch has the evaluations of its own runs, so that none counts twice."""
    scheduler = FakeScheduler(batch_size=10)
    sweep = sweep_of("model=tiny", "cluster=slurm", "dataset.train_pairs=16,32", "beta=0.1,0.5", *SCORE)
    batches = plan_batches(sweep, decide(sweep, store, scheduler), store, scheduler).batches
    assert len({planned.table.batch.name for planned in batches if planned.table}) == 2
    evaluations = [planned.evaluation for planned in batches if planned.evaluation]
    assert [ids(evaluation) for evaluation in evaluations] == [ids(planned) for planned in batches]
    assert sum(evaluation.batch.size for evaluation in evaluations) == 4


def test_preference_alone_needs_no_second_job(store: Store) -> None:
    """It shares the model in memory with the training; and where jobs cannot wait, one does everything."""
    scheduler = FakeScheduler()
    launch(sweep_of("model=tiny"), store, scheduler)
    assert (len(scheduler.submitted), scheduler.evaluations) == (1, [])
    scheduler.detached = False
    sweep = sweep_of("model=tiny", "seed=7", *SCORE)
    launch(sweep, store, scheduler)
    assert scheduler.evaluations == []
    assert wanted_by(Attempts.of(store.run(sweep.runs[0].run_id)).training) == ["preference", "command"]


@pytest.mark.parametrize(
    ("words", "measured"),
    [
        (("hub=off",), ["preference"]),
        (("evaluation=none", *PUSH), []),
        (PUSH, ["preference"]),
        (("hub=folder", "hub.repo=x", "hub.when=login"), ["preference"]),
        (("cluster.gpus_per_node=0", *PUSH), ["preference"]),  # two ranks without GPUs
    ],
)
def test_a_joint_run_is_measured_and_published_by_a_job_of_one_gpu(
    store: Store, words: Sequence[str], measured: list[str]
) -> None:
    """Of several ranks all but one would wait for that: the job that trains neither measures nor publishes."""
    scheduler = FakeScheduler()
    launch(sweep := sweep_of("model=tiny", *GPUS, *words), store, scheduler)
    (run,) = runs_of(sweep, store)
    (batch,) = scheduler.evaluations
    assert (batch.resources.nodes, batch.resources.gpus_per_node) == (1, 0 if "cluster.gpus_per_node=0" in words else 1)
    training, evaluation = Attempts.of(run).training, evaluation_of(run)
    assert training
    assert (wanted_by(training), publishes(training)) == ([], False)
    assert (wanted_by(evaluation), publishes(evaluation)) == (measured, words[-2:] == PUSH)
    train_alone(run)
    assert has_done_its_part(training)
    assert Attempts.of(run).acting == evaluation
    assert actions(launch(sweep, store, scheduler)) == [Action.SKIP]


@pytest.mark.parametrize("words", [("evaluation=none", "hub=off"), ("evaluation=none", *PUSH, "hub.when=login")])
def test_a_joint_run_of_which_nothing_follows_has_no_second_job(store: Store, words: Sequence[str]) -> None:
    """Nothing is to be measured, and no job is to publish."""
    scheduler = FakeScheduler()
    launch(sweep_of("model=tiny", *GPUS, *words), store, scheduler)
    assert (len(scheduler.submitted), scheduler.evaluations) == (1, [])


def test_the_plan_says_that_joint_runs_are_measured_apart(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    """One line with both sizes; none for runs of one GPU."""
    scheduler = FakeScheduler()
    for words, said in ((GPUS, True), (["cluster=slurm"], False)):
        sweep = sweep_of("model=tiny", "seed=1,2", *words)
        plan = plan_batches(sweep, decide(sweep, store, scheduler), store, scheduler)
        show_plan(plan, scheduler, store, as_json=False)
        line = "2 runs are measured and published by jobs of 1 x 1 GPUs behind the training, whose 2 x 8 GPUs are free"
        assert (line in capsys.readouterr().out) is said


def test_what_the_evaluation_needs_can_be_said(store: Store) -> None:
    """Over the training's resources lie those of `evaluation.cluster`; what it does not name stays."""
    scheduler = FakeScheduler()
    own = "evaluation.cluster={gpus_per_node: 4, time: 90, mem: 32G, extra: {exclusive: true}}"
    launch(sweep_of("model=tiny", *SCORE, *GPUS, "cluster.partition=gpu", own), store, scheduler)
    (batch,) = scheduler.evaluations
    found = batch.resources
    assert (found.nodes, found.gpus_per_node, found.time, found.mem) == (1, 4, "90", "32G")
    assert (found.partition, found.extra) == ("gpu", {"exclusive": True})
    assert scheduler.submitted[0].resources.mem is None


def test_evaluations_of_different_needs_share_max_parallel_out(store: Store) -> None:
    """As trainings do, and so do the trainings before them: six runs in three arrays, three jobs at a time."""
    scheduler = FakeScheduler(batch_size=10)
    words = ["model=tiny", "cluster=slurm", "seed=1,2,3", "beta=0.1,0.5", "cluster.max_parallel=3", *SCORE]
    sweep = sweep_of(*words, "evaluation.cluster={mem: '${seed}G'}")
    launch(sweep, store, scheduler)
    assert [batch.resources.mem for batch in scheduler.evaluations] == ["1G", "2G", "3G"]
    assert [batch.at_once for batch in (*scheduler.submitted, *scheduler.evaluations)] == [1] * 6


def test_evaluations_behind_different_trainings_share_max_parallel_out(store: Store) -> None:
    """Each waits for its own training; those that run are no more than the launch may have."""
    scheduler, first = FakeScheduler(batch_size=2), sweep_of(*GRID[:-2], "cluster.max_parallel=4", "beta=0.1,0.3,0.5")
    launch(first, store, scheduler)
    assert [(batch.size, batch.at_once) for batch in scheduler.submitted] == [(2, 2), (1, 2)]
    launch(changes.with_evaluation(first, ["command"], SCORE[1:]), store, scheduler)
    assert [(batch.size, batch.at_once) for batch in scheduler.evaluations] == [(1, 1), (1, 1), (1, 2)]


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("gpus: 1", "evaluation.cluster.gpus: no such key"),
        ("nodes: two", "evaluation.cluster.nodes=two: must be of type int"),
        ("nodes: 0", "evaluation.cluster.nodes=0: must be at least 1"),
        ("gpus_per_node: -1", "evaluation.cluster.gpus_per_node=-1: must be at least 0"),
        ("time: soon", "evaluation.cluster.time=soon: give auto"),
        ("executor: local", "evaluation.cluster.executor: is the same for training and evaluation"),
    ],
)
def test_what_an_evaluation_cannot_have(entry: str, said: str) -> None:
    """A wrong key or value is named before anything is submitted."""
    with pytest.raises(ConfigError) as error:
        sweep_of("model=tiny", f"evaluation.cluster={{{entry}}}")
    assert str(error.value).startswith(said)


def test_the_dependency_in_slurms_words(tmp_path: Path) -> None:
    """`aftercorr` between arrays of one size; `afterok` behind a lone job, or one task of an array."""
    cluster = sweep_of("model=tiny").runs[0].config.cluster

    def dependency(job_id: str, size: int, *, in_step: bool, **extra: str) -> str:
        resources = replace(cluster, extra=extra)
        batch = Batch("s.1", tmp_path, size, resources, tmp_path, after=Job(job_id, "slurm"), in_step=in_step)
        return str(parameters(batch)["additional_parameters"]["dependency"])

    assert dependency("202_0", 3, in_step=True) == "aftercorr:202"
    assert dependency("202", 1, in_step=False) == "afterok:202"
    assert dependency("202_7", 1, in_step=False) == "afterok:202_7"
    own = dependency("202_0", 3, in_step=True, dependency="afterany:7")
    assert own == "aftercorr:202,afterany:7"  # the user's comes on top


# ------------------------------------------------------------------------------------------------ status


def test_the_status_is_that_of_the_job_at_work(store: Store) -> None:
    """The waiting evaluation says nothing until the run is trained; from then on, the training job says nothing."""
    scheduler, sweep = FakeScheduler(), sweep_of("model=tiny", *SCORE)
    launch(sweep, store, scheduler)
    (run,) = runs_of(sweep, store)
    scheduler.phases["2"] = JobState(Phase.PENDING, "Dependency")
    assert (state(run, scheduler).status, state(run, scheduler).facts.job_id) == (Status.PENDING, "1")
    write_once(Attempts.of(run).training.started_file, {"host": "n1"})
    assert (state(run, scheduler).status, state(run, scheduler).reason) == (Status.RUNNING, None)
    train(run)
    scheduler.end("1", Phase.COMPLETED)
    waiting = state(run, scheduler)
    assert (waiting.status, waiting.reason) == (Status.TRAINED, "waits to be evaluated: Dependency")
    assert (waiting.facts.job_id, waiting.in_flight) == ("2", True)
    scheduler.phases["2"] = JobState(Phase.RUNNING)
    assert state(run, scheduler).reason == "evaluating"
    evaluate(run)
    done = state(run, scheduler)
    assert (done.status, done.reason, done.in_flight) == (Status.TRAINED, None, False)
    assert done.facts.attempts == 1


def test_an_evaluation_that_fails_is_made_again_alone(store: Store) -> None:
    """The run stays TRAINED and says why; launching again submits one job, which waits for nothing."""
    scheduler, sweep = FakeScheduler(), sweep_of("model=tiny", *SCORE, "cluster.mem=10G")
    launch(sweep, store, scheduler)
    (run,) = runs_of(sweep, store)
    train(run)
    scheduler.end("1", Phase.COMPLETED)
    scheduler.end("2", Phase.FAILED, "OUT_OF_MEMORY", Cause.OUT_OF_MEMORY)
    failed = state(run, scheduler)
    assert (failed.status, failed.reason) == (Status.TRAINED, "not evaluated: OUT_OF_MEMORY")
    assert actions(launch(sweep, store, scheduler)) == [Action.EVALUATE]
    assert (len(scheduler.submitted), len(scheduler.evaluations)) == (1, 2)
    assert scheduler.evaluations[1].after is None
    assert scheduler.evaluations[1].resources.mem == "15360M"  # half as much again: memory_growth
    assert actions(launch(sweep, store, scheduler)) == [Action.SKIP]
    assert state(run, scheduler).facts.job_id == "3"


def test_a_training_that_fails_is_made_again_with_its_evaluation(store: Store) -> None:
    """Its reason is the run's; the first evaluation, whatever becomes of it, is not the new training's."""
    scheduler, sweep = FakeScheduler(), sweep_of("model=tiny", *SCORE)
    launch(sweep, store, scheduler)
    (run,) = runs_of(sweep, store)
    first = evaluation_of(run)
    write_once(Attempts.of(run).training.started_file, {"host": "n1"})
    scheduler.end("1", Phase.FAILED, "NODE_FAIL n1")
    scheduler.end("2", Phase.CANCELLED, "DependencyNeverSatisfied")
    assert (state(run, scheduler).status, state(run, scheduler).reason) == (Status.FAILED, "NODE_FAIL n1")
    assert actions(launch(sweep, store, scheduler)) == [Action.SUBMIT]
    assert (len(scheduler.submitted), len(scheduler.evaluations)) == (2, 2)
    assert evaluation_of(run) != first
    train(run)
    assert state(run, scheduler).facts.job_id == "4"


def test_a_trained_run_whose_job_died_is_evaluated_at_once(store: Store) -> None:
    """Killed between its result and `preference`: SLURM has dropped the second job, and a new one waits for nobody."""
    scheduler, sweep = FakeScheduler(), sweep_of("model=tiny", *SCORE)
    launch(sweep, store, scheduler)
    (run,) = runs_of(sweep, store)
    write_once(run.result_file, {"steps": 4, "max_steps": 4, "seconds": 8.0})
    assert actions(decide(sweep, store, scheduler)) == [Action.SKIP]  # at it
    scheduler.end("1", Phase.FAILED, "FAILED signal 9")
    scheduler.end("2", Phase.CANCELLED, "DependencyNeverSatisfied")
    assert state(run, scheduler).reason == "not evaluated: FAILED signal 9"
    assert actions(launch(sweep, store, scheduler)) == [Action.EVALUATE]
    assert scheduler.evaluations[1].after is None
    assert (state(run, scheduler).facts.job_id, state(run, scheduler).in_flight) == ("3", True)
    assert set(wanted_by(evaluation_of(run))) == {"preference", "command"}


def test_a_joint_run_that_is_only_to_be_published_is_followed_to_its_end(store: Store) -> None:
    """TRAINED and waiting, then published by the second job; where that dies, launching again submits it alone."""
    scheduler, sweep = FakeScheduler(), sweep_of("model=tiny", *GPUS, "evaluation=none", *PUSH)
    launch(sweep, store, scheduler)
    (run,) = runs_of(sweep, store)
    scheduler.phases["2"] = JobState(Phase.PENDING)
    train_alone(run)
    waiting = state(run, scheduler)
    assert (waiting.status, waiting.reason) == (Status.TRAINED, "waits to be published: job 2")
    assert (waiting.in_flight, waiting.facts.job_id) == (True, "2")
    assert actions(decide(sweep, store, scheduler)) == [Action.SKIP]
    scheduler.phases["2"] = JobState(Phase.PENDING, "launch failed requeued held", cause=Cause.HELD)
    held = "waits to be published: launch failed requeued held; `scontrol release 2` lets it go on"
    assert state(run, scheduler).reason == held
    scheduler.phases["2"] = JobState(Phase.RUNNING)
    assert state(run, scheduler).reason == "publishing"
    scheduler.end("2", Phase.FAILED, "NODE_FAIL n1")
    failed = state(run, scheduler)
    assert (failed.status, failed.reason, failed.in_flight) == (Status.TRAINED, "not published: NODE_FAIL n1", False)
    (again,) = launch(sweep, store, scheduler)
    assert again.action is Action.EVALUATE
    assert again.why.startswith("trained, not published")
    assert actions(launch(sweep, store, scheduler)) == [Action.SKIP]
    assert (len(scheduler.submitted), len(scheduler.evaluations)) == (1, 2)
    write_once(run.revision_file, revision_at("somewhere"))
    done = state(run, scheduler)
    assert (done.status, done.reason, done.facts.finished) == (Status.TRAINED, None, True)
    assert done.facts.address == "somewhere"
    assert actions(launch(sweep, store, scheduler)) == [Action.SKIP]


def test_a_push_that_was_noted_as_failed_is_left_to_the_verb(store: Store) -> None:
    """As for a run of one GPU: its job has said why, and does not try for ever."""
    scheduler, sweep = FakeScheduler(), sweep_of("model=tiny", *GPUS, "evaluation=none", *PUSH)
    launch(sweep, store, scheduler)
    (run,) = runs_of(sweep, store)
    train_alone(run)
    write_once(evaluation_of(run).unpublished_file, {"reason": "the Hub was away", "time": 1.0})
    scheduler.end("2", Phase.COMPLETED)
    assert state(run, scheduler).reason == "not published: the Hub was away"
    assert actions(decide(sweep, store, scheduler)) == [Action.SKIP]


@pytest.mark.parametrize("words", [(), ("evaluation=none",)])
def test_a_joint_training_that_has_lost_its_follower_gets_another(store: Store, words: Sequence[str]) -> None:
    """While it trains, the new one waits for it; also where all that is left is the push."""
    scheduler, sweep = FakeScheduler(), sweep_of("model=tiny", *GPUS, *PUSH, *words)
    launch(sweep, store, scheduler)
    (run,) = runs_of(sweep, store)
    write_once(Attempts.of(run).training.started_file, {"host": "n1"})
    write_once(evaluation_of(run).failure_file, {"reason": "its launcher ended before it was submitted"})
    (again,) = launch(sweep, store, scheduler)
    assert again.action is Action.EVALUATE
    assert again.why.startswith("once it is trained: ")
    after = scheduler.evaluations[-1].after
    assert after
    assert after.job_id == scheduler.jobs[scheduler.submitted[0].name][0].job_id
    assert actions(launch(sweep, store, scheduler)) == [Action.SKIP]


def test_the_time_of_a_joint_training_holds_no_wait_for_its_evaluation(store: Store) -> None:
    """The follower's scores may come hours later; they are not `around` the training. Its own time is its own."""
    scheduler, first = FakeScheduler(), sweep_of("model=tiny", *GPUS, "trainer.max_steps=100")
    launch(first, store, scheduler)
    (run,), now = runs_of(first, store), time.time()
    write_once(Attempts.of(run).training.started_file, Started(time=now - 230))
    write_once(run.result_file, Result(100, 100, 200.0, train_pairs=12800))
    os.utime(run.result_file, (now, now))
    write_once(evaluation_of(run).started_file, Started(time=now + 5000))
    write_once(run.evaluation_file, Evaluation())
    os.utime(run.evaluation_file, (now + 5600, now + 5600))
    cost = read_costs(store).training(sweep_of("model=tiny", *GPUS, "seed=7").runs[0])
    assert cost is not None
    assert cost.around == pytest.approx(30)
    (again,) = decide(sweep_of("model=tiny", *GPUS, "seed=7", "trainer.max_steps=100"), store, scheduler)
    assert (again.seconds, again.evaluation_seconds) == (200.0, pytest.approx(600))
    assert again.run.config.cluster.time == "15"  # (200 + 30) s x 1.5 + 300 s + 180 s, in steps of five minutes
    assert again.evaluation
    assert again.evaluation.config.cluster.time == "25"  # 600 s, likewise


def test_the_gpu_hours_of_a_joint_run_are_those_of_both_jobs(store: Store) -> None:
    """Sixteen GPUs for the steps, one for the evaluation."""
    scheduler, sweep = FakeScheduler(), sweep_of("model=tiny", *GPUS)
    launch(sweep, store, scheduler)
    (run,) = runs_of(sweep, store)
    train_alone(run)
    append_line(run.metrics_file, {"step": 4, "max_steps": 4, "seconds": 3600.0})
    write_once(run.evaluation_file, Evaluation(seconds=1800.0))
    rows = collect(store.sweep(sweep.name), store, states_of([run], scheduler))
    (row,) = [row for row in rows if row["kind"] == "run"]
    assert (row["gpus"], row["gpu_hours"]) == (16, 16.5)


# ------------------------------------------------------------------------------------------------ crash, cancel


@pytest.mark.parametrize("moment", ["dies_before", "dies_after"])
@pytest.mark.parametrize("number", [1, 2, 3, 4, 5])
def test_a_launcher_that_dies_between_the_two(
    store: Store, moment: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed around any submission (a table, two trainings, two evaluations), it ends with each of them once."""
    monkeypatch.setattr("launcher.submission.adopt.LAG_SECONDS", 0.1)
    monkeypatch.setattr("launcher.submission.reference_job.LAG_SECONDS", 0.1)
    monkeypatch.setattr("launcher.runs.status.LAG_SECONDS", 0.1)
    scheduler, sweep = FakeScheduler(), sweep_of(*GRID)
    setattr(scheduler, moment, number)
    with pytest.raises(KeyboardInterrupt):
        launch(sweep, store, scheduler)
    setattr(scheduler, moment, None)
    for _ in range(2):
        adopt(runs_of(sweep, store), scheduler)
        launch(sweep, store, scheduler)
    assert (len(scheduler.submitted), len(scheduler.evaluations)) == (2, 2)
    jobs = {batch.name: scheduler.jobs[batch.name][0].job_id for batch in scheduler.submitted}
    assert sorted(batch.after.job_id for batch in scheduler.evaluations if batch.after) == sorted(jobs.values())
    for run in runs_of(sweep, store):
        trained_by = Attempts.of(run).training.job.job_id
        assert ((read_fact(evaluation_of(run).attempt_file) or {})["follows"])["job_id"] == trained_by


def test_cancelling_ends_both(store: Store) -> None:
    """The job that trains and the one that waits for it; resume submits both again."""
    scheduler, sweep = FakeScheduler(), sweep_of("model=tiny", *SCORE)
    launch(sweep, store, scheduler)
    (run,) = runs_of(sweep, store)
    cancel([state(run, scheduler)], scheduler)
    assert scheduler.cancelled == ["1", "2"]
    for job_id in ("1", "2"):
        scheduler.end(job_id, Phase.CANCELLED)
    assert state(run, scheduler).status is Status.CANCELLED
    assert actions(launch(sweep, store, scheduler)) == [Action.SUBMIT]
    assert (len(scheduler.submitted), len(scheduler.evaluations)) == (2, 2)


def test_cancelling_what_is_trained_ends_its_evaluation(store: Store) -> None:
    """The other run of the same evaluation job keeps it; the training job, which is done, is left alone."""
    scheduler, sweep = FakeScheduler(), sweep_of(*GRID[:3], "beta=0.1", *SCORE)
    launch(sweep, store, scheduler)
    runs = runs_of(sweep, store)
    for run in runs:
        train(run)
    scheduler.end("1", Phase.COMPLETED)
    assert [each.facts.job_id for each in states_of(runs, scheduler)] == ["2", "2"]
    cancel(states_of(runs, scheduler)[:1], scheduler)
    assert scheduler.cancelled == []
    cancel(states_of(runs, scheduler)[1:], scheduler)
    assert scheduler.cancelled == ["2"]


def test_cancelling_a_joint_run_ends_its_push_alone(store: Store) -> None:
    """A follower of two runs goes on for the other one, which is trained and still to be published."""
    words = ["model=tiny", "cluster.runs_per_job=2", "loss_type=sigmoid,ipo", *GPUS, "evaluation=none", *PUSH]
    scheduler, sweep = FakeScheduler(), sweep_of(*words, "hub.revision=${loss_type}")
    launch(sweep, store, scheduler)
    runs = runs_of(sweep, store)
    for run in runs:
        train_alone(run)
    scheduler.end("1", Phase.COMPLETED)
    cancel(states_of(runs, scheduler)[:1], scheduler)
    assert scheduler.cancelled == []
    cancel(states_of(runs, scheduler)[1:], scheduler)
    assert scheduler.cancelled == ["2"]


def test_evaluate_while_it_trains_waits_for_the_training(store: Store) -> None:
    """Another benchmark, asked for in the middle of a training, gets a job behind it; and gets it once."""
    scheduler, first = FakeScheduler(), sweep_of(*GRID[:-2])
    launch(first, store, scheduler)
    sweep = changes.with_evaluation(first, ["command"], SCORE[1:])
    assert actions(launch(sweep, store, scheduler)) == [Action.EVALUATE] * 4
    after = [batch.after.job_id for batch in scheduler.evaluations if batch.after]
    assert after == [scheduler.jobs[batch.name][0].job_id for batch in scheduler.submitted]
    assert actions(launch(sweep, store, scheduler)) == [Action.SKIP] * 4


# ------------------------------------------------------------------------------------------------ in the job


def in_job(folder: Path) -> int:
    code = f"from launcher.worker.job import work; from pathlib import Path; work(Path({str(folder)!r}))"
    task = {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_NTASKS": "1"}
    return subprocess.run(
        [sys.executable, "-c", code], check=False, timeout=LONGEST_WAIT, env={**os.environ, **task}
    ).returncode


def test_an_evaluation_never_trains(store: Store) -> None:
    """Started without a model, or after it was replaced by another attempt, it changes nothing of the run."""
    scheduler, sweep = FakeScheduler(), sweep_of("model=tiny", *SCORE)
    launch(sweep, store, scheduler)
    (run,) = runs_of(sweep, store)
    first = evaluation_of(run)
    assert in_job(scheduler.evaluations[0].job_folders[0]) == 1
    assert (read_fact(first.failure_file) or {})["reason"].startswith("nothing to evaluate")
    assert not run.result_file.exists()
    launch(sweep, store, scheduler)  # the training goes on: one more evaluation behind it
    again = evaluation_of(run)
    assert again != first
    scheduler.end("1", Phase.FAILED, f"FAILED signal {signal.SIGKILL}")
    launch(sweep, store, scheduler)
    train(run)
    assert in_job(scheduler.evaluations[1].job_folders[0]) == 0
    assert last_start(again) is None
    assert not again.failure_file.exists()
    assert not run.evaluations.job_file("command").exists()
