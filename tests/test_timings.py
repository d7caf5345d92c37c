"""launcher.submission.timings: whose measured time holds for whom, and what the plan says of it."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace

import pytest
from conftest import sweep_of
from fakes import FakeScheduler, submit
from worker_fixtures import Configure

from launcher.planning import estimate
from launcher.store.attempts import Attempts
from launcher.store.facts import Started
from launcher.store.files import read_fact, write_once
from launcher.store.output_folder import Store
from launcher.store.results import Evaluation, Result
from launcher.store.throughput import Throughput
from launcher.submission.decide import decide
from launcher.submission.plan import Plan
from launcher.submission.submit import new_attempt
from launcher.submission.timings import Cost, read_costs
from launcher.sweep import Run
from launcher.views.plan import show_plan
from launcher.worker.training.train import train

BASE = ("model=tiny", "cluster=slurm", "cluster.gpus_per_node=8", "cluster.partition=gpu", "trainer=full",
        "trainer.batch_size=64", "trainer.micro_batch_size=8")  # fmt: skip
H100 = "NVIDIA H100 80GB HBM3"


def run_of(*overrides: str) -> Run:
    (run,) = sweep_of(*BASE, *overrides).runs
    return run


def measured(store: Store, *overrides: str, seconds_per_step: float = 2.0, **facts: object) -> Run:
    """A run that has ended, by the store's own functions: 100 steps, started long enough ago."""
    run = run_of(*overrides)
    store.run(run.run_id).write_config(run.objective)
    attempt = new_attempt(run, store)
    steps = run.config.trainer.max_steps or 100
    seconds = seconds_per_step * steps
    began = time.time() - seconds - 60
    write_once(attempt.started_file, Started(time=began))
    told = {"train_pairs": 6400, "device": H100, "tokens_per_pair": 90.0, **facts}
    write_once(store.run(run.run_id).result_file, Result(steps, steps, seconds, **told))  # type: ignore[arg-type]
    write_once(store.run(run.run_id).evaluation_file, Evaluation())
    os.utime(store.run(run.run_id).evaluation_file, (began + seconds + 60,) * 2)
    return run


def seconds_for(store: Store, *overrides: str) -> float | None:
    """What the store's measurements say of a run's training."""
    run = run_of(*overrides)
    cost = read_costs(store).training(run)
    return None if cost is None else cost.training(run)


@pytest.mark.parametrize(
    "override",
    [
        "cluster.gpus_per_node=1", "cluster.nodes=2 trainer.batch_size=128", "cluster.partition=old",
        "cluster.constraint=v100", "+cluster.extra.gres=gpu:v100:8", "deepspeed=zero2", "deepspeed=zero3_offload",
        "trainer.micro_batch_size=4", "trainer.batch_size=128", "trainer.max_length=64", "trainer=lora",
        "trainer.gradient_checkpointing=true", "trainer.optimizer=adafactor", "model.dtype=bfloat16",
        "model.attn_implementation=eager", "loss_type=kto", "loss_type=sft", "dataset.train_pairs=100",
        "trainer.ld_alpha=0.5", "evaluation.generations=999", "evaluation=none", "cluster.cpus_per_gpu=2",
    ],
)  # fmt: skip
def test_a_time_does_not_hold_for_a_run_that_does_other_work_or_on_other_machines(store: Store, override: str) -> None:
    """Then the run counts as not measured, and its job has the cluster's own limit."""
    measured(store, "beta=0.2")
    assert seconds_for(store, "beta=0.3") == 200.0
    back = () if override != "trainer=lora" else ("trainer.batch_size=64", "trainer.micro_batch_size=8")
    assert seconds_for(store, "beta=0.3", *override.split(), *back) is None


@pytest.mark.parametrize(
    "override",
    [
        "loss_type=ipo", "seed=7", "trainer.learning_rate=1e-4", "trainer.lr_scheduler=linear", "cluster.time=60",
        "cluster.mem=8G", "cluster.account=x", "trainer.max_grad_norm=2", "trainer.warmup_ratio=0",
        "cluster.exclude=n1",
    ],
)  # fmt: skip
def test_a_time_holds_for_what_changes_no_step(store: Store, override: str) -> None:
    """Another loss of pairs, another number in it, another account."""
    measured(store, "beta=0.2")
    assert seconds_for(store, "beta=0.3", override) == 200.0


def test_the_number_of_steps_is_computed(store: Store) -> None:
    """From the pairs that were trained on, whatever part of them the measured run saw: never its steps for all."""
    measured(store, "beta=0.2", "trainer.max_steps=10")
    assert seconds_for(store, "beta=0.3") == 2.0 * 100  # 6400 pairs in batches of 64
    assert seconds_for(store, "beta=0.3", "trainer.epochs=3") == 2.0 * 300
    assert seconds_for(store, "beta=0.3", "trainer.epochs=0.25") == 2.0 * 25
    assert seconds_for(store, "beta=0.3", "trainer.max_steps=7") == 2.0 * 7
    assert Cost(2.0, 1, 0.0, pairs=6401).training(run_of()) == 2.0 * 101


def test_of_several_kinds_of_gpu_the_slowest_counts_and_is_named(store: Store) -> None:
    """Which one a job of a mixed partition will get is not known beforehand."""
    measured(store, "beta=0.2", seconds_per_step=1.0)
    for beta, seconds in ((0.3, 6.0), (0.4, 8.0)):
        measured(store, f"beta={beta}", seconds_per_step=seconds, device="Tesla V100")
    cost = read_costs(store).training(run_of("beta=0.5"))
    assert cost is not None
    assert (cost.seconds_per_step, cost.device) == (7.0, "Tesla V100")


def test_a_limit_says_on_what_it_was_measured(store: Store) -> None:
    """time=auto: training, what is around it, and the margin."""
    measured(store, "beta=0.2", seconds_per_step=20.0)
    scheduler = FakeScheduler()
    (decision,) = submit(sweep_of(*BASE, "beta=0.3", "cluster.time=auto"), store, scheduler, [])
    assert f"time 60; measured on {H100}" in decision.why  # (2000 + 60) s x 1.5 + 300 s + 180 s, in steps of five
    single = sweep_of(*BASE, "beta=0.4", "cluster.time=auto", "cluster.gpus_per_node=1")
    (other,) = submit(single, store, scheduler, [])
    assert "time: the cluster's own, since nothing was measured yet" in other.why


def test_what_an_earlier_version_measured_holds_where_its_settings_do(store: Store) -> None:
    """Its key held less, so that it may be of another number of GPUs: the settings that it recorded decide."""
    run = measured(store, "beta=0.2")
    attempt = Attempts.of(store.run(run.run_id)).training
    assert attempt is not None
    record = replace(attempt.record, cost_key="35d0d8b2")
    attempt.attempt_file.unlink()
    write_once(attempt.attempt_file, record)
    assert list(read_costs(store).trainings) == ["35d0d8b2"]
    assert seconds_for(store, "beta=0.3") == 200.0
    assert seconds_for(store, "beta=0.3", "cluster.gpus_per_node=1") is None
    attempt.attempt_file.unlink()
    write_once(attempt.attempt_file, replace(record, settings={"cluster": {"gpus": 8}}))
    assert seconds_for(store, "beta=0.3") is None


def test_what_was_measured_takes_the_place_of_the_estimate(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    """In the column, in a line with the GPU and its MFU, and in JSON; the range is there before."""
    size = ("model.about={parameters: 1e9}", "trainer.gradient_checkpointing=true")
    sweep = sweep_of(*BASE, *size, "beta=0.2,0.3")
    scheduler = FakeScheduler()

    def plan(*, as_json: bool = False) -> str:
        decisions = decide(sweep, store, scheduler)
        show_plan(Plan(sweep, tuple(decisions)), scheduler, store, as_json=as_json)
        return capsys.readouterr().out

    (before, _) = json.loads(plan(as_json=True))["runs"]
    assert before["gpu_hours_high"] == pytest.approx(5 * before["gpu_hours_low"])
    assert (before["gpu_hours_measured"], before["mfu"], before["measured_on"]) == (None, None, None)
    assert "gpu_hours" not in before
    assert "estimate: " in plan()
    measured(store, *size, "beta=0.2", seconds_per_step=3.0, throughput=Throughput(mfu=0.123))
    (_, after) = json.loads(plan(as_json=True))["runs"]
    assert after["gpu_hours_measured"] == pytest.approx(300 * 8 / 3600)
    assert (after["mfu"], after["measured_on"]) == (0.123, H100)
    words = f"measured: 0.7 GPU-hours for 1 run, as earlier ones took on {H100}, at 12.3 % of its peak (MFU)"
    assert words in plan()
    assert "estimate: " not in plan()


def test_what_an_earlier_version_measured_has_its_hours_and_no_share(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its result does not say what it computed, so that its share of the peak is not known."""
    measured(store, "beta=0.2", seconds_per_step=3.0)
    sweep = sweep_of(*BASE, "beta=0.2,0.3")
    decisions = tuple(decide(sweep, store, FakeScheduler()))
    show_plan(Plan(sweep, decisions), FakeScheduler(), store, as_json=False)
    out = capsys.readouterr().out
    assert f"measured: 0.7 GPU-hours for 1 run, as earlier ones took on {H100}\n" in out


def test_runs_of_a_model_that_was_measured_otherwise_are_estimated_at_its_rates(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    """By hand: 6 N operations a token of both sequences, at the least and the most that its other runs came to."""
    size = ("model.about={parameters: 1e9}", "dataset.about={train_pairs: 6400, tokens_per_pair: 100}")
    for beta, seconds in ((0.2, 1.0), (0.3, 2.0)):
        measured(store, *size, f"beta={beta}", "trainer.max_length=64", seconds_per_step=seconds)
    sweep = sweep_of(*BASE, *size, "beta=0.4", "trainer.max_steps=100")
    (decision,) = decide(sweep, store, FakeScheduler())
    rates = [6e9 * 90 * 64 / (seconds * 8) for seconds in (2.0, 1.0)]
    assert decision.rates is not None
    assert (decision.rates.least, decision.rates.most, decision.rates.runs) == (*map(pytest.approx, rates), 2)
    show_plan(Plan(sweep, (decision,)), FakeScheduler(), store, as_json=True)
    (told,) = json.loads(capsys.readouterr().out)["runs"]
    hours = [6e9 * 100 * (100 * 64) / rate / 3600 for rate in reversed(rates)]
    assert [told["gpu_hours_low"], told["gpu_hours_high"]] == pytest.approx(hours)
    show_plan(Plan(sweep, (decision,)), FakeScheduler(), store, as_json=False)
    words = f"at the {rates[0] / 1e12:.3g} to {rates[1] / 1e12:.3g} TFLOP/s a GPU that 2 earlier runs of the same model"
    assert words in capsys.readouterr().out
    assert decide(sweep_of(*BASE, *size, "beta=0.4", "model.dtype=bfloat16"), store, FakeScheduler())[0].rates is None


def test_a_training_records_its_tokens(configure: Configure, store: Store) -> None:
    """Beside its seconds and its pairs, by which its share of the peak is told."""
    config = configure(trainer__max_steps=1)
    run = store.run("r")
    train(config, run, store, lambda: False)
    result = read_fact(run.result_file, Result)
    assert result is not None
    assert result.tokens_per_pair is not None
    assert 2 * len("Story:") < result.tokens_per_pair <= 2 * 64
    assert estimate.gpus_of(config) == 0
