"""What a run's next job asks for: time from throughput, memory after an out-of-memory, nodes to stay away from."""

from __future__ import annotations

import os
import time

import pytest
from conftest import sweep_of
from fakes import FakeScheduler, submit

from launcher.cluster.job_state import Phase
from launcher.config import Cluster
from launcher.errors import ConfigError
from launcher.planning.changes import change_settings
from launcher.planning.launches import recorded_sweep
from launcher.store.attempts import Attempts
from launcher.store.facts import Cause
from launcher.store.files import read_fact, write_once
from launcher.store.output_folder import Store
from launcher.store.run_folder import RunDir
from launcher.submission.decide import Decision
from launcher.submission.resources import Past, adapted
from launcher.submission.timings import cost_key
from launcher.sweep import Run


def run_of(*overrides: str) -> Run:
    (run,) = sweep_of("model=tiny", "cluster=slurm", *overrides).runs
    return run


def after(run: Run, past: Past, seconds: float | None = None, given: tuple[str, ...] = ()) -> Cluster:
    return adapted(run, past, seconds, given)[0].config.cluster


def test_what_is_as_configured_stays_the_same_object() -> None:
    """Where nothing was learnt, nothing changes: neither the run nor the words about it."""
    run = run_of("cluster.time=60", "cluster.mem=64G")
    assert adapted(run, Past(None, "n1"), 100.0) == (run, [])


@pytest.mark.parametrize(
    ("seconds", "margin", "runs_per_job", "limit"),
    [
        (3600.0, 0.5, "null", "100"),  # 3600 s x 1.5 + 300 s + 180 s = 98 minutes
        (3600.0, 0.0, "null", "70"),
        (60.0, 0.5, "null", "10"),  # 9.5 minutes, in steps of five
        (600.0, 1.0, "3", "80"),  # (600 x 2 + 300) x 3 + 180 = 78 minutes
    ],
)
def test_a_time_limit_comes_from_what_was_measured(
    seconds: float, margin: float, runs_per_job: str, limit: str
) -> None:
    """Measured time, its margin, five minutes to start, for each run; the warning, even if early; in steps of five."""
    run = run_of("cluster.time=auto", f"cluster.time_margin={margin}", f"cluster.runs_per_job={runs_per_job}")
    assert after(run, Past(), seconds).time == limit


def test_a_key_of_a_loss_takes_no_time() -> None:
    """What was measured with one value of it holds for another; for another length it does not."""
    kto = ("loss_type=kto", "dataset=kto_mix", "trainer.micro_batch_size=4")
    assert cost_key(run_of(*kto, "trainer.desirable_weight=2")) == cost_key(run_of(*kto))
    assert cost_key(run_of(*kto, "trainer.max_length=64")) != cost_key(run_of(*kto))


def test_of_several_nodes_none_is_to_blame() -> None:
    """A list of nodes is no node that failed, and what was learnt long ago is let go, the newest last."""
    run = run_of("cluster.exclude=n9")
    assert after(run, Past(Cause.NODE_FAILED, "n[1-2]")).exclude == "n9"
    past = Past(Cause.NODE_FAILED, "n5", {"exclude": "n9,n1,n2,n3,n4"})
    assert after(run, past).exclude == "n9,n2,n3,n4,n5"


def test_without_a_measurement_the_cluster_decides() -> None:
    """time=auto is no limit of ours until a run of this kind has ended."""
    assert after(run_of("cluster.time=auto"), Past(), None).time is None


def test_memory_grows_after_an_out_of_memory_only() -> None:
    """By the factor, from what the last attempt had; any other end keeps what the run was given last."""
    run = run_of("cluster.mem=64G")
    killed = Past(Cause.OUT_OF_MEMORY, "n1", {"mem": "64G"})
    assert after(run, killed).mem == "98304M"  # 64 GiB x 1.5
    assert after(run, Past(Cause.OUT_OF_MEMORY, "n1", {"mem": "98304M"})).mem == "147456M"
    assert after(run, Past(None, "n1", {"mem": "98304M"})).mem == "98304M"
    assert after(run, Past(None, "n1", {"mem": "64G"})).mem == "64G"
    assert after(run_of("cluster.mem=64G", "cluster.memory_growth=1"), killed).mem == "64G"
    assert after(run_of(), Past(Cause.OUT_OF_MEMORY, "n1", {"mem": None})).mem is None


def test_a_failed_node_is_avoided() -> None:
    """Beside those that the config and earlier attempts avoid; bracketed lists stay whole."""
    run = run_of("cluster.exclude='n[7-9,11]'")
    assert after(run, Past(Cause.NODE_FAILED, "n3", {"exclude": "n[7-9,11],n2"})).exclude == "n[7-9,11],n2,n3"
    assert after(run, Past(None, "n3", {"exclude": None})).exclude == "n[7-9,11]"
    assert after(run, Past(Cause.HUNG, "n3", {})).exclude == "n[7-9,11],n3"
    never = run_of("cluster.avoid_failed_nodes=false")
    assert after(never, Past(Cause.NODE_FAILED, "n3")).exclude is None


def test_what_the_user_gives_now_wins() -> None:
    """resume SWEEP cluster.mem=32G means 32G, whatever was learnt."""
    run = run_of("cluster.mem=32G", "cluster.exclude=null")
    past = Past(Cause.OUT_OF_MEMORY, "n3", {"mem": "64G", "exclude": "n2"})
    assert after(run, past, given=("mem",)).mem == "32G"
    assert after(run, past, given=("exclude",)).exclude is None


# ------------------------------------------------------------------------------------------------ through the launcher

GRID = ["model=tiny", "cluster=slurm", "cluster.mem=8G", "loss_type=sigmoid,ipo", "cluster.time=auto"]


def launch(store: Store, scheduler: FakeScheduler, *overrides: str, given: tuple[str, ...] = ()) -> list[Decision]:
    sweep = sweep_of(*GRID, *overrides)
    return submit(sweep, store, scheduler, [], given)


def finish(run: RunDir, seconds: float, around: float) -> None:
    began = time.time() - seconds - around
    write_once(Attempts.of(run).training.started_file, {"time": began})
    write_once(run.result_file, {"steps": 10, "max_steps": 10, "seconds": seconds})
    write_once(run.evaluation_file, {})
    os.utime(run.evaluation_file, (began + seconds + around,) * 2)


def test_the_runs_that_are_done_set_the_limit_of_the_next(store: Store) -> None:
    """The first have the cluster's limit; a later one has theirs: training, what is around it, and the margin."""
    scheduler = FakeScheduler()
    first = launch(store, scheduler)
    assert {batch.resources.time for batch in scheduler.submitted} == {None}
    for decision in first:
        finish(store.run(decision.run.run_id), seconds=1000.0, around=790.0)
    launch(store, scheduler, "beta=0.7")
    assert scheduler.submitted[-1].resources.time == "55"  # 1790 s x 1.5 + 300 s + 180 s, rounded up


def test_evaluations_that_are_done_set_the_limit_of_the_next(store: Store) -> None:
    """From their job's start to its last result, not counting what the training measured; each kind has its own."""
    scheduler = FakeScheduler()
    score = ("evaluation=command", "evaluation.command.argv=[score,'{model}']")
    for decision in launch(store, scheduler, *score):
        assert "evaluation: time: the cluster's own, since nothing was measured yet" in decision.why
        run, now = store.run(decision.run.run_id), time.time()
        evaluation = Attempts.of(run).evaluating
        assert evaluation
        finish(run, seconds=1000.0, around=790.0)
        os.utime(run.evaluation_file, (now - 5000,) * 2)
        write_once(evaluation.started_file, {"time": now - 3000})
        result = run.evaluations.result_file("command")
        write_once(result, {"scores": {}})
        os.utime(result, (now - 3000 + 1200,) * 2)
    assert {batch.resources.time for batch in scheduler.evaluations} == {None}
    decisions = launch(store, scheduler, *score, "beta=0.7")
    assert scheduler.evaluations[-1].resources.time == "40"  # 1200 s x 1.5 + 300 s + 180 s
    assert all("evaluation: time 40" in decision.why for decision in decisions)
    others = (
        ["evaluation=command", "evaluation.command.argv=[judge,'{model}']"],
        [*score, "evaluation.cluster={gpus_per_node: 0}"],
        [*score, "evaluation.benchmarks=[preference,command,lm_eval]", "evaluation.lm_eval.tasks=[ifeval]"],
    )
    for number, other in enumerate(others):
        launch(store, scheduler, *other, f"seed={number + 7}")
        assert scheduler.evaluations[-1].resources.time is None


def test_an_out_of_memory_is_retried_with_more(store: Store) -> None:
    """The plan says so, sbatch is told so, and the next attempt after it grows from there."""
    scheduler = FakeScheduler(batch_size=10)
    launch(store, scheduler)
    for expected in ("12288M", "18432M"):
        for job_id in scheduler.phases:
            scheduler.end(job_id, Phase.FAILED, "OUT_OF_MEMORY", Cause.OUT_OF_MEMORY)
        decisions = launch(store, scheduler)
        assert all(decision.why.endswith(f"; mem {expected}") for decision in decisions)
        assert scheduler.submitted[-1].resources.mem == expected
        attempt = Attempts.of(store.run(decisions[0].run.run_id)).training
        assert (read_fact(attempt.attempt_file) or {})["settings"]["cluster"]["mem"] == expected


def test_resume_takes_new_settings(store: Store) -> None:
    """key=value after the sweep's name changes how its runs are submitted, not what they are."""
    scheduler = FakeScheduler()
    sweep = sweep_of(*GRID)
    launch(store, scheduler)
    directory = store.sweep(sweep.name)
    changes = ["cluster.time=4:00:00", "+cluster.extra.reservation=friday", "checkpoint.every=5"]
    changed = recorded_sweep(directory, store, ["sigmoid", "ipo"], lambda old: change_settings(old, changes))
    assert [run.run_id for run in changed.runs] == [run.run_id for run in sweep.runs]
    config = changed.runs[0].config
    assert (config.cluster.time, config.cluster.extra, config.checkpoint.every) == (
        "4:00:00", {"reservation": "friday"}, 5
    )  # fmt: skip


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("beta=0.3", "beta=0.3: beta says what is trained; another value is another run"),
        ("trainer.learning_rate=1", "trainer says what is trained"),
        ("cluster.tme=5", "cluster.tme: no such key; did you mean 'cluster.time'?"),
        ("cluster.nodes=many", "cluster.nodes=many: must be a whole number"),
        ("cluster.time=1,2", "give one value of one key"),
        ("cluster=local", "give one value of one key"),
        ("dry_run=true", "dry_run=true: dry_run is for launching; nothing was done"),
    ],
)
def test_resume_refuses_what_would_be_another_run(override: str, message: str) -> None:
    """In one line, before anything is submitted; and what it could not heed, such as a dry run."""
    settings = run_of().settings
    with pytest.raises(ConfigError) as refused:
        change_settings(settings, [override])
    assert message in str(refused.value)
