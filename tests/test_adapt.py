"""What a run's next job asks for: time from throughput, memory after an out-of-memory, nodes to stay away from."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from dataclasses import replace

import pytest
from conftest import sweep_of
from fakes import FakeScheduler, submit

from launcher.cluster.job_state import Phase
from launcher.cluster.offer import Offer
from launcher.config import Cluster, canonical
from launcher.errors import ConfigError
from launcher.planning import changes
from launcher.planning.changes import change_settings, changing
from launcher.planning.estimate import parameters, saving_seconds
from launcher.planning.launches import recorded_sweep
from launcher.runs.black_holes import black_holes
from launcher.runs.run_state import read_facts, states_of
from launcher.runs.status import Status
from launcher.store.attempts import Attempts
from launcher.store.facts import Cause, Failure
from launcher.store.files import append_line, read_fact, write_once
from launcher.store.metrics_log import longest_save
from launcher.store.output_folder import Store
from launcher.store.run_folder import RunDir
from launcher.submission.decide import Action, Decision, decide
from launcher.submission.resources import Past, adapted
from launcher.submission.timings import cost_key
from launcher.sweep import Run
from launcher.views.states import show_status


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
    """A list of nodes is no node that failed: the scheduler starts nothing on a dead one anyway."""
    run = run_of("cluster.exclude=n9")
    assert after(run, Past(Cause.NODE_FAILED, "n[1-2]")).exclude == "n9"
    assert after(run, Past(Cause.NODE_FAILED, "n5")).exclude == "n9,n5"


@pytest.mark.parametrize(
    ("saving", "overrides", "warned"),
    [
        (98.0, (), 200),  # a checkpoint of 98 GB at 1 GB/s, twice, in tens of seconds
        (60.0, (), 120),
        (60.1, (), 130),
        (None, (), 120),
        (98.0, ("cluster.warning_seconds=150",), 150),  # as typed
        (98.0, ("cluster.time=4",), 120),  # a limit that would be over before the warning
        (98.0, ("cluster.time=5",), 200),
    ],
)
def test_a_warning_leaves_time_for_a_save(saving: float | None, overrides: tuple[str, ...], warned: int) -> None:
    """Twice what it takes, in the words of the plan; never less than is configured."""
    run, words = adapted(run_of(*overrides), Past(saving=saving), None)
    assert run.config.cluster.warning_seconds == warned
    assert words == ([f"warning_seconds {warned}"] if warned > 150 or warned == 130 else [])


def test_how_long_a_save_may_take_comes_from_measurement_or_size(store: Store) -> None:
    """Of a 7B with its optimizer's state 98 GB: at 1 GB/s; of one that has been saved, the longest that it took."""
    large = run_of("model=mistral_7b", "trainer=full", "model.dtype=bfloat16")
    size = parameters(large.config.model) or 0.0
    assert 6e9 < size < 8e9
    assert saving_seconds(large.config) == pytest.approx(size * (2 + 4 + 4 + 4) / 1e9)
    log = store.run("r").saves_log
    assert longest_save(log) is None
    for seconds in (3.0, 90.0, 4.0):
        append_line(log, {"step": 1, "seconds": seconds})
    assert longest_save(log) == 90.0


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


def test_nothing_is_learnt_in_whose_place_an_option_stands() -> None:
    """It would not count, and the plan would say that it did."""
    past = Past(Cause.OUT_OF_MEMORY, "n3", {"mem": "64G"}, away={"n3": "failed"})
    run = run_of("+cluster.extra.mem-per-cpu=8G", "+cluster.extra.exclude=n9", "+cluster.extra.time=60")
    assert adapted(run, past, 3600.0) == (run, [])


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


def test_what_was_learnt_holds_while_half_of_the_nodes_are_left() -> None:
    """Else it may be nobody's fault, and a job would wait for ever; what the user has excluded stays."""
    run = run_of("cluster.exclude=n1")
    away = {"n2": "3 runs ended there before they began", "n[3-4]": "as before"}
    assert after(run, Past(away=away)).exclude == "n1,n2,n[3-4]"
    assert after(run, Past(away=away, offer=Offer(nodes=8))).exclude == "n1,n2,n[3-4]"
    assert after(run, Past(away=away, offer=Offer(nodes=7))).exclude == "n1"
    wide = run_of("cluster.exclude=n1", "cluster.nodes=5", "trainer.micro_batch_size=1", "trainer.batch_size=40")
    assert after(wide, Past(away=away, offer=Offer(nodes=9))).exclude == "n1,n2,n[3-4]"
    assert after(wide, Past(away=away, offer=Offer(nodes=8))).exclude == "n1"
    _, words = adapted(run, Past(away=away), None)
    assert words == ["exclude n1,n2,n[3-4]", "n2: 3 runs ended there before they began"]


def test_a_measured_time_stays_within_the_partition() -> None:
    """A longer one would never start; what is left over is done when the job comes back."""
    assert after(run_of("cluster.time=auto"), Past(offer=Offer(most_minutes=60)), 36000.0).time == "60"


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
    asked = ["cluster.time=4:00:00", "+cluster.extra.reservation=friday", "checkpoint.every=5"]
    changed = recorded_sweep(directory, store, ["sigmoid", "ipo"], changing(asked))
    assert [run.run_id for run in changed.runs] == [run.run_id for run in sweep.runs]
    config = changed.runs[0].config
    assert (config.cluster.time, config.cluster.extra, config.checkpoint.every) == (
        "4:00:00", {"reservation": "friday"}, 5
    )  # fmt: skip


def test_new_settings_are_composed_once_for_runs_that_have_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a hundred runs that differ in their revision alone; one with a cluster of its own keeps what it has."""
    composed: list[object] = []
    monkeypatch.setattr(changes, "canonical", lambda settings: composed.append(settings) or canonical(settings))
    settings = run_of().settings
    every = [settings | {"hub": {**settings["hub"], "revision": f"r{place}"}} for place in range(100)]
    every += [every[0] | {"cluster": {**settings["cluster"], "mem": "64G"}}]
    changed = list(map(changing(["cluster.time=4:00:00"]), every))
    assert len(composed) == 2
    assert [each["hub"]["revision"] for each in changed] == [f"r{place}" for place in range(100)] + ["r0"]
    assert {each["cluster"]["time"] for each in changed} == {"4:00:00"}
    assert [each["cluster"]["mem"] for each in changed[-2:]] == [settings["cluster"]["mem"], "64G"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("beta=0.3", "beta=0.3: beta says what is trained; another value is another run"),
        ("trainer.learning_rate=1", "trainer says what is trained"),
        ("cluster.tme=5", "cluster.tme: no such key (did you mean 'cluster.time'?"),
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


# ------------------------------------------------------------------------------------------------ black holes

MANY = [*GRID, "beta=0.1,0.2,0.3,0.4", "cluster.time=60"]


def begin(run: RunDir, node: str) -> None:
    write_once(Attempts.of(run).training.started_file, {"host": node, "time": time.time()})


def submitted(store: Store, *overrides: str) -> tuple[FakeScheduler, list[RunDir]]:
    """A sweep of eight runs whose jobs 2 to 9 are at work; the first makes their table."""
    scheduler = FakeScheduler(batch_size=10)
    decisions = submit(sweep_of(*MANY, *overrides), store, scheduler, [])
    return scheduler, [store.run(decision.run.run_id) for decision in decisions]


def end_before_it_began(scheduler: FakeScheduler, jobs: Iterable[int], node: str) -> None:
    for job in jobs:
        scheduler.end(str(job), Phase.FAILED, "FAILED exit code 1", node=node)


def test_a_black_hole_is_excluded_for_every_run_and_named(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    """Six of eight runs ended on n2 before they began, while two go on elsewhere: no later job of the sweep goes there.

    Also not of the runs that did not fail there; and a week later it is tried again.
    """
    scheduler, runs = submitted(store)
    for run, node in zip(runs[:2], ("n1", "n3"), strict=True):
        begin(run, node)
    log = store.root / "n2.log"
    log.write_text("module: command not found\nslurmstepd: error: bye\n")
    for run in runs[2:]:
        attempt = Attempts.of(run).training
        write_once(attempt.job_file, replace(attempt.job, log=str(log)))  # as an older version kept it
    end_before_it_began(scheduler, range(4, 10), "n2")
    states = states_of(runs, scheduler)
    assert {state.reason for state in states[2:]} == {
        "ended on n2 before it began: exit code 1: module: command not found"
    }
    assert {state.status for state in states[2:]} == {Status.FAILED}
    show_status(store.sweep("tiny-movie_reviews"), states, [], as_json=False)
    assert "n2: 6 runs ended there before they began" in capsys.readouterr().out

    decisions = submit(sweep_of(*MANY), store, scheduler, [])
    assert [decision.action for decision in decisions] == [Action.SKIP] * 2 + [Action.SUBMIT] * 6
    assert decisions[2].why.endswith("; exclude n2; n2: 6 runs ended there before they began")
    assert scheduler.submitted[-1].resources.exclude == "n2"
    for job in range(2, 4):
        scheduler.end(str(job), Phase.FAILED, "FAILED exit code 1", node="n1")
    decisions = submit(sweep_of(*MANY), store, scheduler, [])
    assert [decision.action for decision in decisions[:2]] == [Action.SUBMIT] * 2
    for run in runs:
        begin(run, "n3")
    for job in scheduler.phases:
        scheduler.end(job, Phase.FAILED, "FAILED exit code 1", node="n3")
    submit(sweep_of(*MANY), store, scheduler, [])
    assert scheduler.submitted[-1].resources.exclude == "n2"


def test_the_only_machine_is_never_left_out(store: Store) -> None:
    """Where jobs are processes, there is no other node, whatever has ended on this one."""
    scheduler, _ = submitted(store)
    end_before_it_began(scheduler, range(2, 10), "vm")
    assert "exclude vm" in decide(sweep_of(*MANY), store, scheduler)[0].why
    scheduler.detached = False
    assert not any("vm:" in each.why or "exclude" in each.why for each in decide(sweep_of(*MANY), store, scheduler))


def test_what_was_learnt_of_a_node_is_forgotten_after_a_week(store: Store) -> None:
    """The first attempt that kept away from it is that long ago."""
    scheduler, runs = submitted(store)
    begin(runs[0], "n1")
    end_before_it_began(scheduler, range(3, 10), "n2")
    submit(sweep_of(*MANY), store, scheduler, [])
    for run in runs[1:]:
        file = Attempts.of(run).training.attempt_file
        file.write_text(json.dumps({**json.loads(file.read_text()), "time": time.time() - 8 * 86400}))
        begin(run, "n1")
    for job in scheduler.phases:
        scheduler.end(job, Phase.FAILED, "FAILED exit code 1", node="n1")
    submit(sweep_of(*MANY), store, scheduler, [])
    assert scheduler.submitted[-1].resources.exclude is None


@pytest.mark.parametrize(
    ("ends", "well", "expected"),
    [
        ({"n2": 3}, [], ["n2"]),  # nothing was tried elsewhere
        ({"n2": 2}, ["n1"], ["n2"]),
        ({"n2": 2}, [], []),  # too few
        ({"n2": 1}, ["n1"], []),
        ({"n1": 3, "n2": 3}, [], []),  # what they share is broken
        ({"n2": 2, "n3": 3}, ["n1"], ["n2", "n3"]),
        ({"n2": 2}, ["n2", "n1"], []),  # others do well there
        ({"n2": 3}, ["n2", "n1"], ["n2"]),  # no more
    ],
)
def test_when_a_node_is_a_black_hole(store: Store, ends: dict[str, int], well: list[str], expected: list[str]) -> None:
    """Several ends in a row there, and runs that do well elsewhere, or no other node tried."""
    scheduler, runs = submitted(store)
    for run, node in zip(runs, well, strict=False):
        begin(run, node)
    jobs = iter(range(2 + len(well), 10))
    for node, times in ends.items():
        end_before_it_began(scheduler, [next(jobs) for _ in range(times)], node)
    assert list(black_holes(states_of(runs, scheduler))) == expected


@pytest.mark.parametrize("hours", [-3, 0])
def test_a_node_with_another_clock_does_well_too(store: Store, hours: int) -> None:
    """Its run has begun after the others were submitted, whatever it takes the time for, and whenever one looks."""
    scheduler, runs = submitted(store)
    write_once(Attempts.of(runs[0]).training.started_file, {"host": "n1", "time": time.time() + 3600 * hours})
    end_before_it_began(scheduler, range(3, 5), "n2")
    end_before_it_began(scheduler, range(5, 7), "n3")
    states = states_of(runs, scheduler)
    time.sleep(0.05)
    assert list(black_holes(states)) == ["n2", "n3"]


def test_a_job_that_makes_a_table_counts_once(store: Store) -> None:
    """However many runs have waited for it: one job that ended says nothing of its node."""
    scheduler, runs = submitted(store)
    end_before_it_began(scheduler, [1], "n2")
    for job in range(2, 10):
        scheduler.end(str(job), Phase.CANCELLED)
    states = states_of(runs, scheduler)
    assert {state.status for state in states} == {Status.FAILED}
    assert not black_holes(states)


def test_what_ends_runs_on_every_node_is_no_nodes_fault(store: Store) -> None:
    """A setup that fails everywhere: n1 is taken for one, then n2 is not, nor is n1 any more."""
    scheduler, _ = submitted(store)
    excluded = []
    for node in ("n1", "n2"):
        end_before_it_began(scheduler, map(int, scheduler.phases), node)
        scheduler.end("1", Phase.COMPLETED)
        submit(sweep_of(*MANY), store, scheduler, [])
        excluded.append(scheduler.submitted[-1].resources.exclude)
    assert excluded == ["n1", None]


def test_what_another_setup_has_ended_blames_no_node(store: Store) -> None:
    """The next attempt begins otherwise."""
    scheduler, _ = submitted(store)
    end_before_it_began(scheduler, range(2, 10), "n1")
    submit(sweep_of(*MANY, "cluster.setup=[module load cuda]"), store, scheduler, [])
    assert scheduler.submitted[-1].resources.exclude is None


def test_a_job_that_somebody_cancelled_or_whose_folder_is_gone_blames_no_node(store: Store) -> None:
    """Neither is for want of a node."""
    scheduler, runs = submitted(store)
    for job in range(2, 10):
        scheduler.end(str(job), Phase.CANCELLED, "CANCELLED", node="n1")
    assert not black_holes(states_of(runs, scheduler))
    end_before_it_began(scheduler, range(2, 10), "n1")
    assert list(black_holes(states_of(runs, scheduler))) == ["n1"]
    renamed = store.root.rename(store.root.with_name("renamed"))
    assert not black_holes(states_of([Store(renamed).run(run.run_id) for run in runs], scheduler))


def test_runs_that_fail_at_once_make_a_black_hole_only_beside_others_that_do_well(store: Store) -> None:
    """A GPU that is broken ends them within seconds; so does a mistake in what they are to do."""
    scheduler, runs = submitted(store)
    for run in runs[:3]:
        begin(run, "n2")
        write_once(Attempts.of(run).training.failure_file, Failure("CUDA error", time=time.time() + 5))
    assert not black_holes(states_of(runs, scheduler))
    begin(runs[3], "n1")
    assert list(black_holes(states_of(runs, scheduler))) == ["n2"]


def test_who_wants_no_node_avoided_gets_none(store: Store) -> None:
    """cluster.avoid_failed_nodes=false, and what is given with resume, win."""
    scheduler, runs = submitted(store, "cluster.avoid_failed_nodes=false")
    begin(runs[0], "n1")
    end_before_it_began(scheduler, range(3, 10), "n2")
    submit(sweep_of(*MANY, "cluster.avoid_failed_nodes=false"), store, scheduler, [])
    assert scheduler.submitted[-1].resources.exclude is None


# ------------------------------------------------------------------------------------------------ limits


@pytest.mark.parametrize(
    ("overrides", "offer", "said"),
    [
        (
            (),
            Offer(minutes=1, most_minutes=10),
            "cluster.time is not set, and the default partition gives a job 1 minute,",
        ),
        (
            ("cluster.partition=p",),
            Offer(most_minutes=3),
            "cluster.time is not set, and partition p gives a job 3 minutes,",
        ),
        (("cluster.time=auto",), Offer(minutes=2), "the default partition gives a job 2 minutes,"),
        (("cluster.time=120",), Offer(most_minutes=60), "cluster.time=120: the default partition allows 60 minutes"),
        (("cluster.time=120", "cluster.qos=long"), Offer(most_minutes=60), None),  # which may allow more
        (("cluster.time=30",), Offer(minutes=1, most_minutes=60), None),
        ((), Offer(minutes=4), None),
        ((), Offer(), None),
    ],
)
def test_a_partition_that_ends_jobs_before_the_warning_is_refused(
    store: Store, overrides: tuple[str, ...], offer: Offer, said: str | None
) -> None:
    """And one that does not allow the limit asked for; by key, value and what would be right, nothing submitted."""
    scheduler = FakeScheduler()
    scheduler.offers = offer
    sweep = sweep_of("model=tiny", "cluster=slurm", *overrides)
    if said is None:
        submit(sweep, store, scheduler, [])
        assert scheduler.submitted
        return
    with pytest.raises(ConfigError) as refused:
        submit(sweep, store, scheduler, [])
    assert said in str(refused.value)
    assert not scheduler.submitted


def test_a_run_that_trains_is_in_flight_though_no_file_names_its_job(store: Store) -> None:
    """As when somebody removes the record of its batch: it is neither lost nor submitted beside itself."""
    scheduler, sweep = FakeScheduler(), sweep_of("model=tiny", "cluster=slurm")
    submit(sweep, store, scheduler, [])
    run = store.run(sweep.runs[0].run_id)
    begin(run, "n1")
    append_line(run.metrics_file, {"step": 3, "max_steps": 9})
    for file in store.root.glob("sweeps/*/jobs/*/jobs.json"):
        file.unlink()
    for file in run.path.glob("attempt-*.json"):
        os.utime(file, (0, 0))
    (state,) = states_of([run], scheduler)
    said = "no file names its job any more, but it still trains on n1"
    assert (state.status, state.reason) == (Status.RUNNING, said)
    (decision,) = decide(sweep, store, scheduler)
    assert (decision.action, decision.why) == (Action.SKIP, f"in flight: RUNNING ({said})")


# ------------------------------------------------------------------------------------------------ in vain


def fail(scheduler: FakeScheduler, run: RunDir, step: int | None = None) -> None:
    """The run's job ends, with a checkpoint at that step."""
    begin(run, "n1")
    if step is not None:
        write_once(run.checkpoints / f"checkpoint-{step}" / "complete.json", {"files": {}, "ranks": 1})
    for job in scheduler.phases:
        scheduler.end(job, Phase.FAILED, "FAILED exit code 1")


def test_a_run_that_fails_again_and_again_is_left_alone(store: Store) -> None:
    """After so many attempts without a new checkpoint; progress counts anew; what resume names is tried again."""
    scheduler, sweep = FakeScheduler(), sweep_of("model=tiny", "cluster=slurm", "cluster.max_attempts=3")
    run = store.run(sweep.runs[0].run_id)
    for step in (None, None, 40, None, None):
        (decision,) = submit(sweep, store, scheduler, [])
        assert decision.action in (Action.SUBMIT, Action.RESUME)
        fail(scheduler, run, step)
    submit(sweep, store, scheduler, [])
    fail(scheduler, run)
    (decision,) = submit(sweep, store, scheduler, [])
    assert (decision.action, len(scheduler.submitted)) == (Action.SKIP, 6)
    again = f"`resume {sweep.name} {run.run_id}` tries again"
    assert decision.why == f"failed 3 times without progress: FAILED exit code 1; {again}"
    (decision,) = decide(sweep, store, scheduler, insisted=[run.run_id])
    assert decision.action is Action.RESUME


def test_a_run_to_which_its_job_did_not_come_has_not_failed(store: Store) -> None:
    """Where it ended in the run before it, that is none of its failures; where it began no run, it is one of each."""
    grid = ("model=tiny", "cluster=slurm", "beta=0.1,0.3", "cluster.runs_per_job=2", "cluster.max_attempts=2")
    scheduler, sweep = FakeScheduler(), sweep_of(*grid)
    first, second = (store.run(run.run_id) for run in sweep.runs)
    for _ in range(2):
        submit(sweep, store, scheduler, [])
        fail(scheduler, first)
    one, other = submit(sweep, store, scheduler, [])
    assert (one.action, other.action) == (Action.SKIP, Action.SUBMIT)
    scheduler.end(str(len(scheduler.phases)), Phase.FAILED, "FAILED exit code 1")
    assert [each.action for each in submit(sweep, store, scheduler, [])] == [Action.SKIP, Action.SUBMIT]
    scheduler.end(str(len(scheduler.phases)), Phase.FAILED, "FAILED exit code 1")
    assert decide(sweep, store, scheduler)[1].action is Action.SKIP
    assert read_facts(second).started is False


def test_what_was_cancelled_or_never_submitted_is_no_attempt_in_vain(store: Store) -> None:
    """Somebody who changes his mind, or a full queue, may do so as often as he likes."""
    scheduler, sweep = FakeScheduler(), sweep_of("model=tiny", "cluster=slurm", "cluster.max_attempts=1")
    run = store.run(sweep.runs[0].run_id)
    for _ in range(3):
        submit(sweep, store, scheduler, [])
        write_once(Attempts.of(run).training.failure_file, {"reason": "enough", "status": "CANCELLED"})
    (decision,) = submit(sweep, store, scheduler, [])
    assert decision.action is Action.SUBMIT
    fail(scheduler, run)
    assert decide(sweep, store, scheduler)[0].action is Action.SKIP
