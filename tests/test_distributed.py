"""launcher.worker with two ranks: real processes, gloo, and DeepSpeed on the CPU."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from ranks import TESTS, exit_code, finish, new_attempt, new_job, start
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from waiting import LONGEST_WAIT
from worker_fixtures import LORA, make_config, write_pairs

from launcher.config import DeepSpeed, RunConfig
from launcher.machine.installed import data_dir
from launcher.store import attempt_config
from launcher.store.files import read_fact, read_lines
from launcher.store.output_folder import Store
from launcher.store.results import Result
from launcher.store.run_folder import RunDir
from launcher.store.starts import last_start
from launcher.worker import outcome
from launcher.worker.dataset import unpaired
from launcher.worker.distributed import ranks as distributed
from launcher.worker.distributed.rendezvous import Rank, own_address
from launcher.worker.training import checkpoints, reference_table
from launcher.worker.training.train import train

PAIRS, PAIRS_A_STEP = 32 + 6, 8
TOLERANCE = 1e-5
# Two micro-batches on each of two ranks make a step, four on one.
VARIANTS: dict[str, dict[str, Any]] = {
    "sigmoid": {"trainer__micro_batch_size": 2},
    "ipo": {"trainer__micro_batch_size": 2, "loss_type": "ipo"},
    "sigmoid-lora": {"trainer__micro_batch_size": 2, "trainer__lora": LORA},
    "ipo-lora": {"trainer__micro_batch_size": 2, "loss_type": "ipo", "trainer__lora": LORA},
}

MILESTONES: dict[str, Any] = {
    "trainer__micro_batch_size": 2,
    "trainer__lr_scheduler": "constant",
    "trainer__warmup_ratio": 0.0,
    "checkpoint__milestones": [3],
}
KTO: dict[str, Any] = {"loss_type": "kto", "trainer__learning_rate": 1e-2}

COUNT_FORWARDS = """
from launcher.worker.training import reference_table as prepare
score = prepare.score
def counting(module, batch):
    with open(sys.argv[1] + f"/forwards-{rank}", "a") as file:
        file.write(f"{len(batch['input_ids'])}\\n")
    return score(module, batch)
prepare.score = counting
"""

# When a training begins, all ranks try to pack; here only rank 1 finds something.
RANK_1_WILL_NOT_PACK = """
from launcher.worker.training import packing
honest = packing.why_not
packing.why_not = lambda model: honest(model) or ("rank 1 is against it" if rank == 1 else None)
"""

# After step 4, before its checkpoint: the last whole one is that of step 2.
KILL_RANK_1 = """
import signal
from launcher.worker.training import trainer
agreed, asked = trainer.agree_to_stop, []
def dying(wish):
    asked.append(wish)
    if rank == 1 and len(asked) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return agreed(wish)
trainer.agree_to_stop = dying
"""

# As tasks of srun; from step 4 on rank 1 has memory for one pair at a time.
FILL_RANK_1_IN_STEP_4 = """
import torch
del os.environ["SUBMITIT_EXECUTOR"]
os.environ |= {"SLURM_JOB_ID": "77", "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank), "SLURM_STEP_NUM_TASKS": "2"}
from launcher.worker.distributed import ranks as distributed
from launcher.worker.training.trainer import RunTrainer
distributed.END_SECONDS = 2.0
step = RunTrainer.training_step
def limited(self, model, inputs, *more):
    if rank == 1 and self.state.global_step >= 3 and len(inputs["input_ids"]) > 2:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
    return step(self, model, inputs, *more)
RunTrainer.training_step = limited
"""

STOP_RANK_1_IN_STEP_3 = """
import signal
from launcher.worker.training.trainer import Recorder
begin = Recorder.on_step_begin
def warned(self, args, state, control, **kwargs):
    if rank == 1 and state.global_step == 2:
        os.kill(os.getpid(), signal.SIGTERM)
    begin(self, args, state, control, **kwargs)
Recorder.on_step_begin = warned
"""

STOP_RANK_1_IN_STEP_6 = STOP_RANK_1_IN_STEP_3.replace("== 2", "== 5")
TWO_EPOCHS: dict[str, Any] = {"trainer__micro_batch_size": 2, "trainer__max_steps": 8}  # of 32 pairs, 8 a step

# It neither dies nor answers, as a rank that hangs in the driver of a broken GPU.
FREEZE_RANK_1_IN_STEP_2 = """
import signal
from launcher.worker.distributed import liveness
from launcher.worker.training.trainer import Recorder
liveness.BEAT_SECONDS, liveness.SILENT_BEATS = 0.5, 20
begin = Recorder.on_step_begin
def frozen(self, args, state, control, **kwargs):
    if rank == 1 and state.global_step == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    begin(self, args, state, control, **kwargs)
Recorder.on_step_begin = frozen
"""

BREAK_RANK_1_IN_STEP_2 = """
from launcher.worker.distributed import ranks as distributed
from launcher.worker.training.trainer import Recorder
distributed.END_SECONDS = 8.0
begin = Recorder.on_step_begin
def broken(self, args, state, control, **kwargs):
    if rank == 1 and state.global_step == 1:
        raise MemoryError("nothing left on this one")
    begin(self, args, state, control, **kwargs)
Recorder.on_step_begin = broken
"""


def deepspeed(name: str) -> DeepSpeed:
    """A choice of conf/deepspeed."""
    return DeepSpeed(**yaml.safe_load((data_dir("conf") / "deepspeed" / f"{name}.yaml").read_text()))


def weights(run: RunDir) -> dict[str, Any]:
    path = next(path for path in run.model.iterdir() if path.name.endswith("model.safetensors"))
    return dict(load_file(path))


def fingerprint(run: RunDir) -> str:
    path = next(path for path in run.model.iterdir() if path.name.endswith("model.safetensors"))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def distance(one: RunDir, other: RunDir) -> float:
    """The largest difference of two weights; both models have the same ones, all of them whole."""
    mine, theirs = weights(one), weights(other)
    assert {name: value.shape for name, value in mine.items()} == {name: v.shape for name, v in theirs.items()}
    assert all(value.numel() for value in mine.values())
    return max(float((mine[name] - theirs[name]).abs().max()) for name in mine)


class World:
    """One folder for this module: pairs, a store for each way of training, the configs."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.pairs = folder, write_pairs(folder / "pairs")

    def store(self, name: str) -> Store:
        return Store(self.folder / name)

    def config(self, zero: str = "none", **changes: Any) -> RunConfig:
        quick = {"checkpoint__every": 100, "evaluation__generations": 2, "evaluation__max_new_tokens": 2}
        return make_config(self.pairs, deepspeed=deepspeed(zero), **quick | changes)

    def job(self, store: Store, runs: dict[str, RunConfig], before: str = "") -> list[int | None]:
        """Make an attempt at each run, by one job of two ranks; their exit codes."""
        attempts = [new_attempt(config, store.run(name)) for name, config in runs.items()]
        number = len(list((store.root / "jobs").glob("*")))
        return finish(start(new_job(store.root / "jobs" / str(number), *attempts), before=before))

    def forwards(self, store: Store) -> list[int]:
        """How many sequences each rank of the store's first job put through the reference model."""
        files = [store.root / "jobs" / "0" / f"forwards-{rank}" for rank in range(2)]
        return [sum(map(int, file.read_text().split())) if file.exists() else 0 for file in files]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("ranks"))


@pytest.fixture(scope="module")
def single(world: World) -> Store:
    """Every variant, trained by one process."""
    store = world.store("single")
    reference_table.forget_prepared()
    for name, changes in (*VARIANTS.items(), ("milestones", MILESTONES)):
        train(world.config(**changes), store.run(name), store, lambda: False)
    return store


@pytest.fixture(scope="module")
def plain(world: World) -> Store:
    """Every variant, trained by two ranks without DeepSpeed, in one job."""
    store = world.store("plain")
    runs = {name: world.config(**changes) for name, changes in VARIANTS.items()}
    runs["milestones"] = world.config(**MILESTONES)
    assert world.job(store, runs, COUNT_FORWARDS) == [0, 0]
    return store


@pytest.fixture(scope="module")
def divided(world: World) -> Store:
    """Every variant under ZeRO-3, then the first under ZeRO-2 and ZeRO-3 with offloading, in one job of two ranks."""
    store = world.store("divided")
    runs = {name: world.config("zero3", **changes) for name, changes in VARIANTS.items()}
    runs["milestones"] = world.config("zero3", **MILESTONES)
    runs |= {zero: world.config(zero, **VARIANTS["sigmoid"]) for zero in ("zero2", "zero3_offload")}
    assert world.job(store, runs, COUNT_FORWARDS) == [0, 0]
    return store


@pytest.mark.parametrize("variant", VARIANTS)
def test_two_ranks_train_the_same_model_as_one(single: Store, plain: Store, variant: str) -> None:
    """Each step sees the same pairs, so the final weights differ by rounding only."""
    assert distance(single.run(variant), plain.run(variant)) < TOLERANCE


@pytest.mark.parametrize("variant", VARIANTS)
def test_zero_3_trains_the_same_model_as_one_process(single: Store, divided: Store, variant: str) -> None:
    """The weights are gathered whole when the model is saved, full or adapter."""
    assert distance(single.run(variant), divided.run(variant)) < TOLERANCE


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_ranks_count_together_what_they_compute(single: Store, plain: Store, divided: Store, variant: str) -> None:
    """Each line has the tokens of that step, whoever computes them; packed, no answer's last one need be computed."""
    logs = [read_lines(store.run(variant).metrics_file) for store in (single, plain, divided)]
    tokens = [[line["tokens"] for line in log] for log in logs]
    assert tokens[0] == tokens[1] == tokens[2]
    lines = [line for log in logs for line in log]
    assert all((line["computed_tokens"], line["padding"]) == (line["tokens"] - PAIRS_A_STEP, 0) for line in lines)
    results = [read_fact(store.run(variant).result_file, Result) for store in (single, plain, divided)]
    assert [result and result.throughput and result.throughput.tokens for result in results] == [sum(tokens[0])] * 3


@pytest.mark.parametrize("zero", ["zero2", "zero3_offload"])
def test_the_other_kinds_of_zero_train_the_same_model(single: Store, divided: Store, zero: str) -> None:
    """In the same process as others, one after another."""
    assert distance(single.run("sigmoid"), divided.run(zero)) < TOLERANCE


@pytest.mark.parametrize("store", ["plain", "divided"])
def test_a_milestone_is_kept_once_and_whole(request: pytest.FixtureRequest, single: Store, store: str) -> None:
    """Rank 0 keeps it, under ZeRO-3 gathered: a model that loads, has scores, and is the one of a single process."""
    run = request.getfixturevalue(store).run("milestones")
    assert [step for step, _ in run.milestones()] == [3]
    kept = run.milestone(3)
    assert distance(single.run("milestones").milestone(3), kept) < TOLERANCE
    assert distance(run, kept) > 10 * TOLERANCE
    loaded = AutoModelForCausalLM.from_pretrained(kept.model)
    assert loaded.num_parameters() == (read_fact(run.result_file) or {})["parameters"]["total"]
    assert (read_fact(kept.evaluation_file) or {})["pairs"] == 6
    assert not list(kept.path.glob(".*"))


@pytest.fixture(scope="module")
def later(world: World, divided: Store) -> Store:
    """A later job of two ranks, one of which will not pack pairs.

    Other held-out pairs under ZeRO-3; then kto, and pairs that are to go padded, without DeepSpeed and under ZeRO-3.
    """
    pairs = shutil.copytree(world.pairs, world.folder / "other-pairs")
    held_out = (pairs / "test.jsonl").read_text().splitlines(keepends=True)
    (pairs / "test.jsonl").write_text("".join(held_out[:3]))
    config = world.config("zero3", **VARIANTS["sigmoid"])
    runs = {"cold": replace(config, dataset=replace(config.dataset, path=str(pairs)))}
    for zero in ("none", "zero3"):
        runs[f"kto-{zero}"] = world.config(zero, trainer__micro_batch_size=2, **KTO)
        runs[f"padded-{zero}"] = world.config(zero, trainer__packed=False, **VARIANTS["sigmoid"])
    assert world.job(divided, runs, RANK_1_WILL_NOT_PACK) == [0, 0]
    return divided


def test_a_cold_pass_before_training_under_zero_3_does_no_harm(later: Store) -> None:
    """Other held-out pairs beside training pairs that were measured: where TRL's precompute crashes, a run goes on.

    Its weights are those of the run on the same training pairs, whose reference values were there.
    """
    assert distance(later.run("sigmoid"), later.run("cold")) < TOLERANCE
    assert (read_fact(later.run("cold").evaluation_file) or {})["pairs"] == 3


def test_two_ranks_estimate_ktos_kl_over_both_of_their_micro_batches(
    world: World, later: Store, single: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So they train the model of one process whose micro-batch is both, completions moved on within each half."""
    move_on = unpaired.with_foreign
    monkeypatch.setattr(unpaired, "with_foreign", lambda rows, _size: move_on(rows, 2))
    reference_table.forget_prepared()
    for name, size in (("kto", 4), ("kto-apart", 2)):
        train(world.config(trainer__micro_batch_size=size, **KTO), single.run(name), single, lambda: False)
    reference_table.forget_prepared()
    assert distance(single.run("kto"), later.run("kto-none")) < TOLERANCE
    assert distance(single.run("kto"), later.run("kto-zero3")) < TOLERANCE
    assert distance(single.run("kto-apart"), later.run("kto-none")) > 10 * TOLERANCE


@pytest.mark.parametrize(("store", "zero"), [("plain", "none"), ("divided", "zero3")])
def test_packed_pairs_train_the_model_of_padded_ones(
    request: pytest.FixtureRequest, later: Store, store: str, zero: str
) -> None:
    """On two ranks, without DeepSpeed and under ZeRO-3."""
    packed = request.getfixturevalue(store).run("sigmoid")
    assert (read_fact(packed.result_file) or {})["packing"] == "packed"
    assert (read_fact(later.run(f"padded-{zero}").result_file) or {})["packing"] == "padded: trainer.packed=false"
    assert distance(packed, later.run(f"padded-{zero}")) < 5e-6


def test_all_ranks_go_padded_where_one_has_to(later: Store) -> None:
    """They agree before the first step; of ranks that went different ways some would wait for others."""
    assert (read_fact(later.run("cold").result_file) or {})["packing"] == "padded: rank 1 is against it"


def test_training_moved_the_weights(single: Store) -> None:
    """Else all the comparisons above would hold of models that nobody trained."""
    assert distance(single.run("sigmoid"), single.run("ipo")) > 10 * TOLERANCE


@pytest.mark.parametrize("store", ["plain", "divided"])
def test_one_reference_pass_is_shared_by_the_ranks(request: pytest.FixtureRequest, world: World, store: str) -> None:
    """Whatever the number of runs: each pair went through the reference model once, half of them on each rank."""
    counted = world.forwards(request.getfixturevalue(store))
    repeated = sum(counted) - 2 * PAIRS
    assert repeated in ((0,) if store == "plain" else (0, 4))  # under ZeRO-3 all ranks make as many forwards
    assert min(counted) >= 2 * PAIRS // 2 - 4


@pytest.mark.parametrize("store", ["plain", "divided"])
def test_the_shared_table_equals_that_of_one_rank(
    request: pytest.FixtureRequest, world: World, single: Store, store: str
) -> None:
    """Value by value, under the same key, so that either can be used by the other."""
    reference_table.forget_prepared()
    ours = reference_table.ensure_table(world.config(**VARIANTS["sigmoid"]), single)
    theirs = reference_table.ensure_table(world.config(**VARIANTS["sigmoid"]), request.getfixturevalue(store))
    assert ours.key == theirs.key
    assert ours.values.keys() == theirs.values.keys()
    for row, values in ours.values.items():
        assert theirs.values[row] == pytest.approx(values, abs=1e-4)


@pytest.mark.parametrize("store", ["plain", "divided"])
def test_rank_0_alone_writes_the_facts(request: pytest.FixtureRequest, store: str) -> None:
    """One line a step, one result, one evaluation; each rank has a log of its own; no checkpoint is left."""
    run = request.getfixturevalue(store).run("sigmoid")
    assert [line["step"] for line in read_lines(run.metrics_file)] == [1, 2, 3, 4, 5, 6]
    result, evaluation = read_fact(run.result_file), read_fact(run.evaluation_file)
    assert result is not None
    assert evaluation is not None
    whole = sum(value.numel() for value in weights(run).values())
    assert result["parameters"] == {"total": whole, "trainable": whole}  # under ZeRO-3 too
    assert evaluation["pairs"] == 6
    logs = sorted(path.name for path in run.attempts()[0].path.glob("*.log"))
    assert logs == ["rank0.log", "rank1.log"]
    assert "rank 1 of 2" in run.attempts()[0].log_file(1).read_text()
    assert not run.checkpoints.exists()


def test_the_evaluation_does_not_depend_on_the_ranks(plain: Store, divided: Store) -> None:
    """Rank 0 evaluates alone, from the saved model: the same weights get the same scores."""
    one, other = (read_fact(store.run("sigmoid").evaluation_file) or {} for store in (plain, divided))
    for key in ("loss", "reward_margin", "kl"):
        assert one[key] == pytest.approx(other[key], abs=1e-5)


# ------------------------------------------------------------------------------------------------ interruptions


@pytest.fixture(scope="module")
def interrupted(world: World, divided: Store) -> Store:
    """Two ZeRO-3 runs: one whose rank 1 was killed, one whose rank 1 was asked to stop."""
    config = world.config("zero3", checkpoint__every=2, **VARIANTS["sigmoid"])
    assert world.job(divided, {"killed": config}, KILL_RANK_1) == [1, -9]
    assert world.job(divided, {"stopped": config}, STOP_RANK_1_IN_STEP_3) == [0, 0]
    return divided


def test_a_killed_rank_ends_the_others(interrupted: Store) -> None:
    """They do not wait for it for ever, and the failure says what has happened, not what a connection said of it."""
    failure = read_fact(interrupted.run("killed").attempts()[0].failure_file) or {}
    assert failure["status"] == "FAILED"
    assert failure["reason"] == "rank 1 was killed; see rank1.log"


def test_a_stop_request_to_one_rank_stops_all_at_the_same_step(interrupted: Store) -> None:
    """SIGTERM came to rank 1 alone, in step 3: both save together and leave after it."""
    run = interrupted.run("stopped")
    attempt = run.attempts()[0]
    for rank in range(2):
        assert "stopped on request at step 3 of 6" in attempt.log_file(rank).read_text()
    assert (read_fact(attempt.failure_file) or {})["reason"] == "stopped by SIGTERM at step 3"
    assert checkpoints.last_complete(run.checkpoints) == run.checkpoints / "001.0001" / "checkpoint-3"


@pytest.mark.parametrize(
    "lost", ["*_rank_1_*_optim_states.pt", "*_rank_0_*_optim_states.pt", "*_rank_1_*_model_states.pt", "../latest"]
)
def test_a_checkpoint_without_a_shard_is_passed_over(interrupted: Store, tmp_path: Path, lost: str) -> None:
    """Both ranks' shards are there; without any one of them, or `latest`, even a sealed checkpoint is no checkpoint."""
    whole = interrupted.run("stopped").checkpoints / "001.0001" / "checkpoint-3"
    assert len(list(whole.glob("global_step3/*optim_states.pt"))) == 2
    shutil.copytree(whole, tmp_path / "checkpoint-3")
    lacking = shutil.copytree(whole, tmp_path / "checkpoint-5")
    (lacking / checkpoints.MARKER).unlink()
    for path in (lacking / "global_step3").glob(lost):
        path.unlink()
    checkpoints.seal(lacking, ranks=2)
    assert checkpoints.last_complete(tmp_path) == tmp_path / "checkpoint-3"


def test_interrupted_runs_end_bit_identical(world: World, interrupted: Store) -> None:
    """Resumed from step 2 and from step 3, both end with the very weights of the run that was left in peace."""
    config = world.config("zero3", **VARIANTS["sigmoid"])
    assert world.job(interrupted, {"killed": config, "stopped": config}) == [0, 0]
    undisturbed = fingerprint(interrupted.run("sigmoid"))
    assert fingerprint(interrupted.run("killed")) == undisturbed
    assert fingerprint(interrupted.run("stopped")) == undisturbed
    steps = [line["step"] for line in read_lines(interrupted.run("stopped").metrics_file)]
    assert steps == [1, 2, 3, 4, 5, 6]


@pytest.fixture(scope="module")
def resumed(world: World) -> Store:
    """Two ranks through two epochs: two losses in one go, and again, stopped in step 6 and gone on with."""
    store = world.store("epochs")
    configs = {loss: world.config(loss_type=loss, **TWO_EPOCHS) for loss in ("sigmoid", "kto_pair")}
    assert world.job(store, configs) == [0, 0]
    cut = {f"{loss}-cut": config for loss, config in configs.items()}
    for name, config in cut.items():
        assert world.job(store, {name: config}, STOP_RANK_1_IN_STEP_6) == [0, 0]
        assert checkpoints.last_complete(store.run(name).checkpoints)
    assert world.job(store, cut) == [0, 0]
    return store


@pytest.mark.parametrize("loss", ["sigmoid", "kto_pair"])
def test_a_run_that_is_resumed_amid_a_later_epoch_ends_bit_identical(resumed: Store, loss: str) -> None:
    """The order is that of its own epoch, dealt by length or as it was drawn, and what was trained on is skipped."""
    assert fingerprint(resumed.run(f"{loss}-cut")) == fingerprint(resumed.run(loss))
    logs = [read_lines(resumed.run(name).metrics_file) for name in (loss, f"{loss}-cut")]
    counted, again = ([(line["step"], line["tokens"]) for line in log] for log in logs)
    assert counted == again


def test_two_ranks_train_the_same_model_as_one_through_two_epochs(world: World, single: Store, resumed: Store) -> None:
    """Each epoch has its order on however many ranks."""
    reference_table.forget_prepared()
    train(world.config(**TWO_EPOCHS), single.run("epochs"), single, lambda: False)
    assert distance(single.run("epochs"), resumed.run("sigmoid")) < TOLERANCE
    assert distance(single.run("epochs"), single.run("sigmoid")) > 10 * TOLERANCE


def test_out_of_memory_on_one_rank_puts_the_job_back_with_half_the_micro_batch(
    world: World, single: Store, divided: Store
) -> None:
    """Both ranks leave; started again by SLURM, the same attempt goes on from its checkpoint with the same batches."""
    run = divided.run("filled")
    config = world.config("zero3", checkpoint__every=2, **VARIANTS["sigmoid"])
    attempt = new_attempt(config, run)
    folder = new_job(world.folder / "filled", attempt)
    programs = world.folder / "bin"
    programs.mkdir()
    (programs / "scontrol").write_text(f"#!/bin/sh\necho $* >> {programs}/asked\n")
    (programs / "scontrol").chmod(0o755)
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    assert finish(start(folder, before=FILL_RANK_1_IN_STEP_4, PATH=path)) == [1, 1]
    assert (programs / "asked").read_text() == "requeue 77\n"
    assert not attempt.failure_file.exists()
    assert [(line["micro_batch_size"], line["step"]) for line in read_lines(run.memory_log)] == [(1, 2)]

    assert finish(start(folder, before=FILL_RANK_1_IN_STEP_4, PATH=path, SLURM_RESTART_COUNT="1")) == [0, 0]
    result = read_fact(run.result_file) or {}
    assert (result["micro_batch_size"], result["steps"]) == (1, 6)
    assert distance(single.run("sigmoid"), run) < TOLERANCE


def test_out_of_memory_without_a_queue_fails_and_the_next_attempt_has_less(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two ranks on one machine: nobody starts them again, but what the user resumes begins with half."""
    run = world.store("no-queue").run("r")
    attempt = new_attempt(world.config(trainer__micro_batch_size=4), run)
    monkeypatch.setattr(distributed, "size", lambda: 2)
    names = ("SUBMITIT_LOCAL_GLOBALID", "SUBMITIT_LOCAL_LOCALID")
    local = {"SUBMITIT_EXECUTOR": "local", "SUBMITIT_LOCAL_JOB_ID": "99", "SUBMITIT_LOCAL_NTASKS": "1"}
    for key, value in (local | dict.fromkeys(names, "0")).items():
        monkeypatch.setenv(key, value)
    assert not outcome._back_with_less(attempt, "rank 1: MemoryError: something else")
    assert attempt_config.read_config(attempt).trainer.micro_batch_size == 4
    assert not outcome._back_with_less(attempt, "rank 1: OutOfMemoryError: CUDA out of memory")
    again = new_attempt(world.config(trainer__micro_batch_size=4), run)
    assert attempt_config.read_config(again).trainer.micro_batch_size == 2
    assert attempt_config.read_config(again).trainer.batch_size == 8


def test_a_failure_of_all_ranks_is_one_runs_a_failure_of_one_rank_is_the_jobs(world: World) -> None:
    """A wrong config fails its run, and the job goes on; a rank that fails alone is named, and takes the job along."""
    store = world.store("broken")
    runs = {
        "wrong": world.config(trainer__max_length=2),
        "broken": world.config(),
        "unreached": world.config(loss_type="ipo"),
    }
    assert world.job(store, runs, BREAK_RANK_1_IN_STEP_2) == [1, 1]
    reasons = [(read_fact(store.run(name).attempts()[0].failure_file) or {}).get("reason") for name in runs]
    assert reasons[0].startswith("trainer.max_length=2: every prompt fills it")
    assert reasons[1:] == ["rank 1: MemoryError: nothing left on this one", None]
    assert last_start(store.run("unreached").attempts()[0]) is None


def test_a_stopped_process_of_rank_1_is_noticed(world: World) -> None:
    """Rank 0 waits for it in a collective all the while, and ends with the reason; 10 s here, 2 minutes in earnest.

    All of its threads stand still, so it beats no more. A rank of which one thread alone hangs is not tried here.
    """
    run = world.store("frozen").run("frozen")
    job = new_job(world.folder / "frozen" / "jobs" / "0", new_attempt(world.config(), run))
    first, second = start(job, before=FREEZE_RANK_1_IN_STEP_2)
    try:
        assert exit_code(first) == 1
        assert second.is_alive()
    finally:
        first.kill()
        second.kill()
        second.join()
    reason = (read_fact(run.attempts()[0].failure_file) or {})["reason"]
    assert re.fullmatch(r"rank 1 has been silent for \d+ s; see rank1.log", reason)


# ------------------------------------------------------------------------------------------------ meeting

MEET = """
import json, os, sys
from pathlib import Path
from launcher.worker.distributed import ranks as distributed, rendezvous
rendezvous.TRY_SECONDS = 5
with distributed.joined(Path(sys.argv[1])) as rank:
    import torch
    total = torch.tensor([rank.index + 1.0])
    torch.distributed.all_reduce(total)
    port = distributed.first(lambda: int(os.environ["MASTER_PORT"]))
    print(json.dumps([rank.index, total.item(), port, distributed.gather([rank.index])]))
"""


def meet(folder: Path, job: str, ranks: int = 2, restart: int = 0) -> list[subprocess.Popen[str]]:
    """Tasks of a SLURM step that meet in `folder`, as srun starts them."""
    common = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SUBMITIT_"))}
    common |= {"PYTHONPATH": str(TESTS.parent), "OMP_NUM_THREADS": "1", "SLURM_STEP_ID": "0"}
    common |= {"SLURM_JOB_ID": job, "SLURM_STEP_NUM_TASKS": str(ranks), "SLURM_RESTART_COUNT": str(restart)}
    numbers = [{"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)} for rank in range(ranks)]
    command = [sys.executable, "-c", MEET, str(folder)]
    return [subprocess.Popen(command, env=common | number, stdout=subprocess.PIPE, text=True) for number in numbers]


def answers(processes: list[subprocess.Popen[str]]) -> list[Any]:
    return [json.loads(process.communicate(timeout=LONGEST_WAIT)[0]) for process in processes]


def test_jobs_that_start_together_meet_apart(tmp_path: Path) -> None:
    """Each has its own port, which is free; all its ranks are there, and only they."""
    jobs = [meet(tmp_path / job, job) for job in ("7", "8")]
    found = [answers(job) for job in jobs]
    for ranks in found:
        assert [answer[:2] for answer in ranks] == [[0, 3.0], [1, 3.0]]
        assert [answer[3] for answer in ranks] == [[0, 1], []]
        assert ranks[0][2] == ranks[1][2]
    assert found[0][0][2] != found[1][0][2]


def test_what_an_earlier_start_left_is_not_used(tmp_path: Path) -> None:
    """Neither under another name, nor under the very same: there a store that does not know the token is left."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        stale = {"address": "127.0.0.1", "port": other.getsockname()[1], "token": "of another"}
    (tmp_path / "rendezvous").mkdir()
    for name in ("slurm-7-0-0", "slurm-7-1-0"):
        (tmp_path / "rendezvous" / f"{name}.json").write_text(json.dumps(stale))
    first, second = meet(tmp_path, "7", restart=1)
    assert [answer[1] for answer in answers([first, second])] == [3.0, 3.0]
    assert read_fact(tmp_path / "rendezvous" / "slurm-7-0-0.json") == stale


def test_a_lone_process_initialises_nothing(tmp_path: Path) -> None:
    """No port, no group, no variable, no torch; rank 0 does what it is told."""
    code = "import os, sys, pathlib; from launcher.worker.distributed import ranks as distributed\n"
    code += "with distributed.joined(pathlib.Path(sys.argv[1])) as rank:\n"
    code += "    assert (rank.size, distributed.first(lambda: 5), distributed.failed('x').together) == (1, 5, True)\n"
    code += "    assert not {'torch'} & set(sys.modules) and 'RANK' not in os.environ\n"
    environment = {name: v for name, v in os.environ.items() if not name.startswith(("SLURM_", "SUBMITIT_", "RANK"))}
    environment["PYTHONPATH"] = str(TESTS.parent)
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=environment, check=False).returncode == 0
    assert not list(tmp_path.iterdir())


SRUN = {
    "SLURM_JOB_ID": "12",
    "SLURM_PROCID": "5",
    "SLURM_STEP_NUM_TASKS": "7",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "4,3",
}
LOCAL = {"SUBMITIT_EXECUTOR": "local", "SUBMITIT_LOCAL_JOB_ID": "99", "SUBMITIT_LOCAL_GLOBALID": "1"}
LOCAL |= {"SUBMITIT_LOCAL_NTASKS": "2", "SUBMITIT_LOCAL_LOCALID": "1"}
TORCHRUN = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "none"}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Rank()),
        (SRUN, Rank(5, 7, 1, 3, "slurm-12-0-0")),
        (SRUN | {"SLURM_RESTART_COUNT": "2", "SLURM_STEP_ID": "1"}, Rank(5, 7, 1, 3, "slurm-12-2-1")),
        (SRUN | {"SLURM_STEP_TASKS_PER_NODE": "8(x2)"}, Rank(5, 7, 1, 8, "slurm-12-0-0")),
        ({"SLURM_JOB_ID": "12", "SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, Rank()),
        (SRUN | LOCAL, Rank(1, 2, 1, 2, "local-99")),
        (SRUN | TORCHRUN, Rank(3, 8, 1, 2, None)),
    ],
)
def test_ranks_of_the_environment(environment: dict[str, str], expected: Rank) -> None:
    """srun's, submitit's and torchrun's tasks; a batch script is not a task of its own job."""
    assert Rank.here(environment) == expected


def test_the_address_that_others_reach() -> None:
    """What the user says; on one node its own; else that from which packets leave for the node of srun."""
    assert own_address(one_node=False, environment={"PREFSWEEP_ADDRESS": "node-7.ib"}) == "node-7.ib"
    assert own_address(one_node=True, environment={}) == "127.0.0.1"
    assert own_address(one_node=False, environment=SRUN | {"SLURM_LAUNCH_NODE_IPADDR": "127.0.0.1"}) == "127.0.0.1"


def test_configs_are_deepspeeds_own() -> None:
    """DeepSpeed reads each of them, once what is auto is filled in as transformers does, and finds the stage."""
    script = "import sys, json, deepspeed; from deepspeed.runtime.config import DeepSpeedConfig\n"
    script += "for c in json.loads(sys.argv[1]): print(DeepSpeedConfig(c).zero_optimization_stage)"
    names = {"zero2": 2, "zero3": 3, "zero3_offload": 3}
    batch = {"train_batch_size": 1, "train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": 1}
    filled = batch | {"bf16": {"enabled": True}, "gradient_clipping": 1.0}
    configs = [deepspeed(name).config | filled for name in names]
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", script, json.dumps(configs)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert [int(line) for line in done.stdout.split()[-3:]] == list(names.values())
    assert replace(deepspeed("none"), name="") == DeepSpeed(name="")
