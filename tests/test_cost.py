"""launcher.planning.estimate: GPU-hours and disk against values computed by hand or known from elsewhere."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import sweep_of
from drawn_pairs import drawn_pairs
from worker_fixtures import make_config

from launcher.cli.main import main
from launcher.config import Cluster, DatasetFacts, Lora, Model, ModelFacts, RunConfig
from launcher.planning import estimate
from launcher.planning.data_counts import Look
from launcher.planning.plain_trl import LIKE_ULTRAFEEDBACK, Comparison, compared
from launcher.planning.prerequisites import short_of_disk
from launcher.store.counts import SplitCounts
from launcher.store.output_folder import Store
from launcher.submission.decide import Action, Decision
from launcher.views.cost import cost_lines


def zephyr() -> RunConfig:
    """A 7B model on 61,135 pairs of at most 2 x 1024 tokens, all weights, recomputed activations, an A100."""
    config = make_config(
        Path("unused"),
        model=Model(name="m", path="a/b", dtype="bfloat16", about=ModelFacts(7.24e9, 4096)),
        trainer__max_length=1024,
        trainer__max_steps=None,
        trainer__gradient_checkpointing=True,
    )
    return replace(config, dataset=replace(config.dataset, about=DatasetFacts(61135)))


def ends(hours: estimate.Hours | None) -> list[float]:
    """The two ends of a range."""
    return [] if hours is None else [hours.low, hours.high]


def low(config: RunConfig) -> float:
    """The lower end of what a run takes; the other is five times as much."""
    hours = estimate.cost(config).gpu_hours
    assert hours is not None
    assert hours.high == pytest.approx(5 * hours.low)
    return hours.low


def test_hours_of_a_7b_run() -> None:
    """4 x 2 x 7.24e9 x 2048 x 61135 / (312e12 x 3600) = 6.456 h at the peak, by hand; the table a quarter of it."""
    found = estimate.cost(zephyr())
    assert ends(found.gpu_hours) == pytest.approx([6.456 / 0.25, 6.456 / 0.05], abs=0.1)
    assert ends(found.reference_gpu_hours) == pytest.approx([6.456, 6.456 / 0.2], abs=0.1)
    assert found.full


def test_what_is_recomputed_and_what_is_frozen() -> None:
    """3 forwards a pair without recomputing, 2 with adapters, 3 with both; known tokens replace the bound."""
    whole = zephyr()
    plain = replace(whole, trainer=replace(whole.trainer, gradient_checkpointing=False))
    adapters = replace(plain, trainer=replace(plain.trainer, lora=Lora()))
    both = replace(whole, trainer=replace(whole.trainer, lora=Lora()))
    base = low(whole)
    assert [low(each) for each in (plain, adapters, both)] == pytest.approx([base * 3 / 4, base * 2 / 4, base * 3 / 4])
    known = replace(whole, dataset=replace(whole.dataset, about=DatasetFacts(61135, 1024)))
    assert (low(known), estimate.cost(known).full) == (pytest.approx(base / 2), False)


def test_limits_and_hardware() -> None:
    """max_steps counts batches, train_pairs cuts an epoch, a quicker GPU is asked less."""
    whole = zephyr()
    base = low(whole)
    steps = replace(whole, trainer=replace(whole.trainer, max_steps=100, batch_size=128))
    assert low(steps) == pytest.approx(base * 12800 / 61135)
    cut = replace(whole, dataset=replace(whole.dataset, train_pairs=6113))
    assert low(cut) == pytest.approx(base * 6113 / 61135)
    quick = replace(whole, cluster=replace(whole.cluster, gpu_tflops=989))
    assert low(quick) == pytest.approx(base * 312 / 989)


def test_kto_trains_one_sequence_of_two() -> None:
    """Of a row's two sequences one costs 4 forwards, the other 1: 5/8 of a pair; a pair is split into two rows."""
    kto, base = replace(zephyr(), loss_type="kto"), low(zephyr())
    assert low(kto) == pytest.approx(2 * base * 5 / 8)
    rows = replace(kto, dataset=replace(kto.dataset, about=DatasetFacts(61135, labelled=True)))
    assert low(rows) == pytest.approx(base * 5 / 8)


def test_disk_of_a_7b_checkpoint() -> None:
    """Weights of 14.5 GB, a ZeRO-3 checkpoint of about 100 GB, as users of 7B models see on their disks."""
    found = estimate.cost(zephyr())
    assert found.model_bytes == pytest.approx(14.5e9, rel=0.01)
    assert found.checkpoint_bytes == pytest.approx(101e9, rel=0.01)


def test_adapters_of_mistral_7b() -> None:
    """peft counts 41,943,040 weights for rank 16 on all linear layers of Mistral-7B; we say up to half more."""
    whole = zephyr()
    found = estimate.cost(replace(whole, trainer=replace(whole.trainer, lora=Lora(r=16)))).model_bytes or 0
    assert 41_943_040 <= found / 4 <= 1.5 * 41_943_040


@pytest.mark.parametrize(
    ("path", "size"),
    [
        ("teknium/OpenHermes-2.5-Mistral-7B", 7e9),
        ("mistralai/Mistral-7B-v0.1", 7e9),
        ("Qwen/Qwen3-0.6B", 0.6e9),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", 135e6),
        ("org/model-2.5", None),
        ("org/b2b-3mx", None),
    ],
)
def test_the_size_in_a_models_name(path: str, size: float | None) -> None:
    """A number with B or M is the number of weights; version numbers are not."""
    assert estimate.parameters(Model(name="m", path=path)) == size


def test_a_sweep_shares_reference_tables_and_limits_checkpoints() -> None:
    """Two runs on one model and data set pay one table; only runs at work hold checkpoints, keep + 1 each."""
    one, two = zephyr(), replace(zephyr(), beta=0.5)
    own = estimate.cost(one)
    total = estimate.total([one, two], at_once=1)
    parts = zip(ends(own.gpu_hours), ends(own.reference_gpu_hours), strict=True)
    assert ends(total.gpu_hours) == pytest.approx([2 * run + table for run, table in parts])
    assert total.checkpoint_bytes == pytest.approx(2 * (own.checkpoint_bytes or 0))
    assert estimate.total([one, two], at_once=None).checkpoint_bytes == pytest.approx(4 * (own.checkpoint_bytes or 0))


def test_what_cannot_be_known_is_not_said() -> None:
    """Without the model's size there is no estimate, in numbers or in words."""
    config = make_config(Path("unused"))
    total = estimate.total([config], at_once=None)
    assert total == estimate.Total(None, full=True, model_bytes=None, checkpoint_bytes=None)
    assert estimate.sentences(total, None) == []


def test_the_rate_of_a_run_is_what_each_of_its_gpus_did_in_a_second() -> None:
    """By hand, for each weight: 128 pairs of 900 tokens, 4 forwards of 2 operations each, in 10 s on 8 GPUs."""
    config = replace(zephyr(), cluster=Cluster(gpus_per_node=8))
    config = replace(config, trainer=replace(config.trainer, batch_size=128))
    assert estimate.rate(config, 10.0, 900.0) == pytest.approx(4 * 2 * 900 * 128 / (10 * 8))
    assert estimate.rate(config, 10.0, None) is None
    assert estimate.rate(zephyr(), 10.0, 900.0) is None  # no GPU


def test_an_estimate_is_a_range_with_its_basis_and_never_a_bound() -> None:
    """In words, in the plan's column and in its JSON."""
    (words, *_) = estimate.sentences(estimate.total([zephyr()] * 60, None), None)
    # 60 runs and one table: 60.25 x 6.456 h at the peak
    assert "about 1,600 to 7,800 GPU-hours, at 5 to 25 % of an A100's 312 TFLOP/s (3 or 2" in words
    assert "each taken as full: 2 x max_length" in words
    assert not re.search("at most|<=", words)


def test_doctor_says_what_a_sweep_needs_on_disk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Beside what is free there."""
    assert main(["doctor", "+sweeps=pref_align_scan", "--output-dir", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert re.search(r"disk needed +about [\d.]+ TB for 60 runs", text)
    assert re.search(r"output_dir .*: \d[\d.]* [GT]B free", text)


@pytest.mark.parametrize("wrong", ["cluster.time=abc", "beta=-1", "trainer.optimizer=galore_adamw"])
def test_doctor_refuses_what_a_launch_refuses(wrong: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In the same line, with the same exit code."""
    assert main(["doctor", wrong, "--output-dir", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"prefsweep: {wrong}")


def test_a_disk_that_is_too_small_is_told_before_the_launch(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A note, since the estimate is one: it names what is free and what is needed."""
    sweep = sweep_of("+sweeps=pref_align_scan")
    free = shutil.disk_usage(store.root.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free._replace(free=int(1e12)))
    (note,) = short_of_disk(sweep, store, None)
    assert re.search(r"has 1 TB free, the sweep may need about [\d.]+ TB", note)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free._replace(free=int(1e15)))
    assert short_of_disk(sweep, store, None) == []


# ------------------------------------------------------------------------------------------------ beside plain TRL

UF = SplitCounts(100, 100, tokens=700.0, padded={"1": 1000.0, "4": 1500.0, "16": 2000.0})


@pytest.mark.parametrize(
    ("size", "padded"), [(1, 1000.0), (2, 1250.0), (4, 1500.0), (8, 1750.0), (16, 2000.0), (64, 2000.0)]
)
def test_plain_trl_pads_and_makes_one_forward_more(size: int, padded: float) -> None:
    """By hand, with recomputed activations: 5 forwards for 4, 4 for 3 with adapters, of all places of padded rows."""
    config = replace(zephyr(), trainer=replace(zephyr().trainer, micro_batch_size=size))
    found = compared(config, UF, computed=1.02)
    assert found == Comparison(pytest.approx(5 / 4 * padded / 700 / 1.02), assumed=False)
    adapters = replace(config, trainer=replace(config.trainer, lora=Lora()))
    assert compared(adapters, UF, computed=1.02).times == pytest.approx(4 / 3 * padded / 700 / 1.02)


def test_without_the_lengths_those_of_ultrafeedback_are_assumed_and_that_is_told() -> None:
    """Where they matter: a run of which nothing is known is padded as plain TRL's is, unless pairs are packed."""
    config = zephyr()
    size = config.trainer.micro_batch_size
    assert compared(config, None, computed=1.0) == Comparison(
        pytest.approx(5 / 4 * LIKE_ULTRAFEEDBACK[size]), assumed=True
    )
    if not getattr(config.trainer, "packed", False):
        assert compared(config, None, None) == Comparison(5 / 4, assumed=False)
    kto = replace(config, loss_type="kto")
    assert compared(kto, None, None) == Comparison(pytest.approx((2.5 + 1) / 2.5), assumed=False)


@pytest.mark.parametrize("size", LIKE_ULTRAFEEDBACK)
def test_lengths_like_ultrafeedbacks_are_those_that_are_described(size: int) -> None:
    """By drawing them: places of padded pairs over tokens with the prompt once."""
    lengths = drawn_pairs("ultrafeedback", 20_000)
    found = lengths.padded(size) / lengths.once.mean()
    assert found == pytest.approx(LIKE_ULTRAFEEDBACK[size], rel=0.02)


def test_a_plan_tells_what_plain_trl_would_take() -> None:
    """A line with the hours, how often ours, and what is assumed; nothing where ours are not worth an hour."""
    sweep = sweep_of("+sweeps=pref_align_scan")
    (decision, *_) = [Decision(run, Action.SUBMIT, "new") for run in sweep.runs]
    lines = cost_lines([decision], None, Look())
    hours = estimate.cost(decision.run.config).gpu_hours
    assert hours is not None
    times = compared(decision.run.config, None, None).times
    (line,) = [each for each in lines if each.startswith("plain TRL: ")]
    assert f"{times:.1f} times as many: padded pairs, each prompt twice, the reference model in each step" in line
    assert estimate.in_hours(estimate.Hours(times * hours.low, times * hours.high)) in line
    config = replace(decision.run.config, trainer=replace(decision.run.config.trainer, max_steps=1))
    small = replace(decision, run=replace(decision.run, config=config))
    assert not [each for each in cost_lines([small], None, Look()) if each.startswith("plain TRL")]
