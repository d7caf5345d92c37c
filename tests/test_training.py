"""launcher.worker.training and trainer: a run from its config to its final model."""

from __future__ import annotations

import copy
import gc
import hashlib
import math
import os
import signal
import subprocess
import sys
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig
from trl import DPOConfig
from waiting import LONGEST_WAIT
from worker_fixtures import ARCHITECTURE, LORA, Configure, make_config, write_pairs

from launcher.config import Lora, Model, RunConfig
from launcher.errors import ConfigError, TrainingError
from launcher.store.files import read_fact, read_lines
from launcher.store.output_folder import Store
from launcher.store.run_folder import RunDir
from launcher.worker.model import base_model
from launcher.worker.model.precision import keep_master_weights
from launcher.worker.training import checkpoints
from launcher.worker.training import trainer as trainer_module
from launcher.worker.training.losses import PreferenceTrainer
from launcher.worker.training.train import Stopped, load_trained, train
from launcher.worker.training.trainer import accumulation, arguments

TESTS = Path(__file__).parent
# One holds its rates in modules, one in attributes of modules, one in its configuration only.
WITH_DROPOUT = [
    Model(name="gpt2", architecture={"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 2}, dtype="float32"),
    Model(name="llama", architecture=ARCHITECTURE | {"attention_dropout": 0.1}, dtype="float32"),
    Model(
        name="falcon",
        architecture={"model_type": "falcon", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
        | {"hidden_dropout": 0.1},
        dtype="float32",
    ),
]


def never() -> bool:
    return False


def fingerprint(run: RunDir) -> str:
    """The bytes of the final weights."""
    path = next(path for path in run.model.iterdir() if path.name.endswith("model.safetensors"))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def stop_at(step: int) -> Callable[[], bool]:
    """True when it is asked after that step."""
    calls: list[int] = []

    def asked() -> bool:
        calls.append(1)
        return len(calls) == step

    return asked


@dataclass(frozen=True)
class Kill:
    """A run that a child process begins and does not survive."""

    changes: dict[str, Any]
    during_save: bool


KILLS = {
    "full": Kill({}, during_save=False),
    "full in bfloat16": Kill({"model__dtype": "bfloat16"}, during_save=False),
    "lora, while saving": Kill({"trainer__lora": LORA, "loss_type": "kto_pair"}, during_save=True),
}


def die(kill: Kill, folder: Path, run: RunDir) -> None:
    """Train, in a child, until kill -9: after step 3, or when the checkpoint of step 4 has all files but the marker."""
    asked: list[int] = []

    def at_each_step() -> bool:
        asked.append(1)
        if len(asked) == 5 or (len(asked) == 3 and not kill.during_save):
            os.kill(os.getpid(), signal.SIGKILL)
        return False

    if kill.during_save:
        seal = checkpoints.seal

        def seal_the_first(path: Path, *what: Any) -> None:
            if checkpoints.step_of(path) == 4:
                os.kill(os.getpid(), signal.SIGKILL)
            seal(path, *what)

        checkpoints.seal = seal_the_first
    train(make_config(folder, **kill.changes), run, Store(run.path.parent.parent), at_each_step)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[RunConfig, RunDir, Store]]:
    """Every run of KILLS, begun by a process of its own and killed in the middle; all at the same time."""
    folder = tmp_path_factory.mktemp("killed")
    pairs, store = write_pairs(folder / "pairs"), Store(folder / "outputs")
    runs = {name: store.run(name.replace(" ", "-")) for name in KILLS}
    children = {name: child(name, pairs, run) for name, run in runs.items()}
    assert {name: process.wait(timeout=LONGEST_WAIT) for name, process in children.items()} == dict.fromkeys(KILLS, -9)
    return {name: (make_config(pairs, **kill.changes), runs[name], store) for name, kill in KILLS.items()}


def child(name: str, pairs: Path, run: RunDir) -> subprocess.Popen[bytes]:
    code = "import sys, pathlib; from launcher.store.run_folder import RunDir; from test_training import KILLS, die; "
    code += "die(KILLS[sys.argv[1]], pathlib.Path(sys.argv[2]), RunDir(pathlib.Path(sys.argv[3])))"
    path = os.pathsep.join([str(TESTS.parent), str(TESTS)])
    command = [sys.executable, "-c", code, name, str(pairs), str(run.path)]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path})


@pytest.mark.parametrize("name", KILLS)
def test_a_killed_run_continues_to_the_same_weights(
    killed: dict[str, tuple[RunConfig, RunDir, Store]], name: str
) -> None:
    """After kill -9 the next attempt goes on from the last whole checkpoint, step 2, and ends bit-identical."""
    config, run, store = killed[name]
    assert checkpoints.last_complete(run.checkpoints) == run.checkpoints / "checkpoint-2"
    before = [line["step"] for line in read_lines(run.metrics_file)]
    train(config, run, store, never)
    after = [line["step"] for line in read_lines(run.metrics_file)][len(before) :]
    assert after == [3, 4, 5, 6]
    uninterrupted = store.run(f"{run.run_id}-uninterrupted")
    train(config, uninterrupted, store, never)
    assert fingerprint(run) == fingerprint(uninterrupted)


@pytest.mark.parametrize("lora", [None, LORA])
def test_a_stop_is_obeyed_at_the_step_boundary(configure: Configure, store: Store, lora: object) -> None:
    """The run saves one checkpoint, raises Stopped, writes no result, and later ends as if nothing had been."""
    config, run = configure(trainer__lora=lora, checkpoint__every=100), store.run("stopped")
    with pytest.raises(Stopped, match="at step 3 of 6") as caught:
        train(config, run, store, stop_at(3))
    assert caught.value.step == 3
    assert not run.result_file.exists()
    assert checkpoints.last_complete(run.checkpoints) == run.checkpoints / "checkpoint-3"
    train(config, run, store, never)
    whole = store.run("whole")
    train(config, whole, store, never)
    assert fingerprint(run) == fingerprint(whole)


def test_result_and_metrics(configure: Configure, store: Store) -> None:
    """result.json and metrics.jsonl hold what status, collect and the report read; checkpoints are gone."""
    config, run = configure(loss_type="ipo", beta=0.5), store.run("r")
    train(config, run, store, never)
    result, lines = read_fact(run.result_file), read_lines(run.metrics_file)
    assert result is not None
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    expected = {"step", "max_steps", "loss", "reward_accuracy", "reward_margin", "chosen_reward", "rejected_reward"}
    expected |= {"learning_rate", "grad_norm", "entropy", "time", "seconds", "seconds_per_step"}
    expected |= {"tokens", "computed_tokens", "padding", "tokens_per_second", "peak_memory_bytes"}
    assert set(lines[0]) == expected
    assert result["steps"] == result["max_steps"] == 6
    assert result["loss"] == pytest.approx(sum(line["loss"] for line in lines) / 6)
    assert result["seconds"] == pytest.approx(sum(line["seconds"] for line in lines))
    assert (result["train_pairs"], result["dropped_pairs"], result["dtype"]) == (32, 0, "float32")
    vocabulary, layer = 259, 4 * 32 * 32 + 3 * 32 * 64 + 2 * 32  # attention, the feed-forward part, two norms
    total = 2 * vocabulary * 32 + 2 * layer + 32
    assert result["parameters"]["total"] == result["parameters"]["trainable"] == total
    assert result["versions"]["trl"].startswith("1.16")
    assert lines[0]["loss"] == pytest.approx(1.0)  # (1 / 2 beta)^2
    assert not run.checkpoints.exists()
    assert (run.model / "tokenizer.json").exists()


@pytest.mark.parametrize(("every", "steps"), [(4, [2, 4, 6, 7]), (100, [2, 4, 6, 7])])
def test_steps_behind_the_last_whole_window_count(
    configure: Configure, store: Store, every: int, steps: list[int]
) -> None:
    """Seconds and loss of all steps, whatever `tracking.every` is: a line at each checkpoint and at the end."""
    fine, coarse = store.run("fine"), store.run("coarse")
    train(configure(loss_type="ipo", trainer__max_steps=7), fine, store, never)
    train(configure(loss_type="ipo", trainer__max_steps=7, tracking__every=every), coarse, store, never)
    each, some = read_lines(fine.metrics_file), read_lines(coarse.metrics_file)
    assert [line["step"] for line in some] == steps
    whole, result = read_fact(fine.result_file) or {}, read_fact(coarse.result_file) or {}
    losses = [line["loss"] for line in each]
    assert [line["loss"] for line in some] == pytest.approx(
        [sum(losses[a:b]) / (b - a) for a, b in ((0, 2), (2, 4), (4, 6), (6, 7))]
    )
    assert result["loss"] == pytest.approx(sum(losses) / 7)
    assert result["loss"] == pytest.approx(whole["loss"])
    assert result["seconds"] == pytest.approx(
        sum(line["seconds_per_step"] * n for line, n in zip(some, (2, 2, 2, 1), strict=True))
    )


def test_an_interruption_loses_no_part_of_a_window(configure: Configure, store: Store) -> None:
    """Stopped at step 3 and gone on with: the seconds of steps 1 to 3 and their loss are in the result."""
    config, run, whole = configure(tracking__every=5, checkpoint__every=50), store.run("r"), store.run("whole")
    with pytest.raises(Stopped):
        train(config, run, store, stop_at(3))
    before = read_lines(run.metrics_file)
    train(config, run, store, never)
    train(config, whole, store, never)
    lines = read_lines(run.metrics_file)
    assert [line["step"] for line in lines] == [3, 5, 6]
    assert lines[:1] == before
    result, expected = read_fact(run.result_file) or {}, read_fact(whole.result_file) or {}
    assert result["loss"] == pytest.approx(expected["loss"])
    assert result["seconds"] == pytest.approx(sum(line["seconds"] for line in lines))


def test_lora_trains_adapters_only(configure: Configure, store: Store) -> None:
    """The model folder holds the adapter, a small part of the weights."""
    run = store.run("lora")
    train(configure(trainer__lora=LORA, trainer__max_steps=2), run, store, never)
    parameters = (read_fact(run.result_file) or {})["parameters"]
    assert 0 < parameters["trainable"] < parameters["total"] / 2
    assert {"adapter_model.safetensors", "adapter_config.json"} <= {path.name for path in run.model.iterdir()}


def test_the_optimizer_is_let_go(configure: Configure, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stays in memory for the evaluation is the model, without the optimizer's state."""
    made: list[weakref.ref[torch.optim.Optimizer]] = []
    monkeypatch.setattr(trainer_module, "keep_master_weights", lambda optimizer: made.append(weakref.ref(optimizer)))
    train(configure(trainer__max_steps=1), store.run("r"), store, never)
    gc.collect()
    assert len(made) == 1
    assert made[0]() is None


def test_adamw_goes_over_the_weights_once_unless_its_checkpoint_began_otherwise(
    configure: Configure, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run has transformers' own default; what an earlier version of ours left is gone on with, bit for bit."""
    config = configure(checkpoint__every=100)
    assert arguments(config, store.run("r")).optim == DPOConfig.optim
    train(config, store.run("now"), store, never)
    with monkeypatch.context() as earlier:
        earlier.setattr(trainer_module, "_IN_ONE_PASS", {})
        train(config, store.run("before"), store, never)
        with pytest.raises(Stopped):
            train(config, store.run("begun"), store, stop_at(3))
    train(config, store.run("begun"), store, never)
    assert fingerprint(store.run("begun")) == fingerprint(store.run("before"))
    now, before = (load_file(store.run(name).model / "model.safetensors") for name in ("now", "before"))
    for name, weights in now.items():
        torch.testing.assert_close(weights, before[name], rtol=0, atol=1e-6)


def test_the_model_folder_can_be_shared(configure: Configure, store: Store) -> None:
    """Its files can be read by others, and none of them is a pickle."""
    run = store.run("r")
    train(configure(trainer__max_steps=1), run, store, never)
    assert {path.stat().st_mode & 0o777 for path in run.model.iterdir()} == {0o644}
    assert not [path for path in run.model.iterdir() if path.suffix in {".bin", ".pt", ".pth"}]


def test_a_finished_run_is_left_alone(configure: Configure, store: Store) -> None:
    """train() on a run with a result does nothing."""
    run = store.run("r")
    train(configure(trainer__max_steps=1), run, store, never)
    before = run.metrics_file.read_text()
    train(configure(trainer__max_steps=1), run, store, never)
    assert run.metrics_file.read_text() == before


def test_runs_of_one_process_do_not_touch_each_other(configure: Configure, store: Store) -> None:
    """A run gives the same weights first in its process as after others."""
    config = configure(trainer__max_steps=3)
    first, between, again = (store.run(name) for name in ("first", "between", "again"))
    train(config, first, store, never)
    train(configure(trainer__max_steps=3, trainer__lora=LORA, loss_type="ipo", seed=5), between, store, never)
    train(config, again, store, never)
    assert fingerprint(first) == fingerprint(again)


def test_a_loss_that_is_not_a_number_ends_the_run(
    configure: Configure, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the step; there is no result and no checkpoint of it."""
    compute = PreferenceTrainer._compute_loss

    def broken(self: Any, model: Any, inputs: Any, return_outputs: bool) -> Any:
        loss = compute(self, model, inputs, return_outputs)
        return loss * float("nan") if self.state.global_step == 2 else loss

    monkeypatch.setattr(PreferenceTrainer, "_compute_loss", broken)
    run = store.run("nan")
    with pytest.raises(TrainingError, match="step 3: the loss is nan"):
        train(configure(), run, store, never)
    assert not run.result_file.exists()
    assert checkpoints.last_complete(run.checkpoints) == run.checkpoints / "checkpoint-2"


def test_an_infinite_gradient_ends_the_run(configure: Configure, store: Store) -> None:
    """A rate that destroys the model is a failure with a reason, not a trained run."""
    with pytest.raises(TrainingError, match=r"step .*lower the learning rate"):
        train(configure(trainer__learning_rate=1e30), store.run("inf"), store, never)


def test_batches_are_made_of_whole_micro_batches(configure: Configure) -> None:
    """8 pairs a step: 2 micro-batches of 4 on one device, 1 on two; on three it cannot be done."""
    assert accumulation(configure(), 1) == 2
    assert accumulation(configure(), 2) == 1
    with pytest.raises(
        ConfigError, match=r"trainer\.batch_size=8: not a multiple of micro_batch_size 4 x 3 devices = 12"
    ):
        accumulation(configure(), 3)


def test_the_config_reaches_trl(configure: Configure, store: Store) -> None:
    """Every trainer value arrives under TRL's name; nothing is reported to anyone."""
    config = configure(
        trainer__warmup_ratio=0.25, trainer__weight_decay=0.5, trainer__max_grad_norm=0.3, trainer__max_steps=None,
        trainer__epochs=3.0, trainer__lr_scheduler="linear", trainer__gradient_checkpointing=True, seed=11,
    )  # fmt: skip
    told = arguments(config, store.run("r"))
    assert (told.warmup_steps, told.weight_decay, told.max_grad_norm, told.num_train_epochs) == (0.25, 0.5, 0.3, 3.0)
    assert (told.lr_scheduler_type, told.activation_checkpointing, told.seed) == ("linear", True, 11)
    assert (told.max_steps, told.report_to, told.max_length) == (-1, [], 64)


def test_epochs_set_the_steps_where_max_steps_is_absent(configure: Configure, store: Store) -> None:
    """32 pairs, 8 a step, half an epoch: 2 steps."""
    run = store.run("epochs")
    train(configure(trainer__max_steps=None, trainer__epochs=0.5), run, store, never)
    assert (read_fact(run.result_file) or {})["max_steps"] == 2


def test_gradient_checkpointing_changes_no_result(configure: Configure, store: Store) -> None:
    """It costs time and saves memory; the weights are the same up to rounding."""
    plain, saving = store.run("plain"), store.run("saving")
    train(configure(trainer__max_steps=3), plain, store, never)
    train(configure(trainer__max_steps=3, trainer__gradient_checkpointing=True), saving, store, never)
    one, other = (load_file(run.model / "model.safetensors") for run in (plain, saving))
    assert max(float((one[name] - other[name]).abs().max()) for name in one) < 1e-5


@pytest.mark.parametrize("lora", [None, replace(LORA, dropout=0.1)], ids=["full", "lora"])
@pytest.mark.parametrize("model", WITH_DROPOUT, ids=lambda model: model.name)
def test_a_models_own_dropout_is_off(configure: Configure, store: Store, model: Model, lora: Lora | None) -> None:
    """The first loss is log 2 to float32's last digits, and what is saved has the rates of the model it came from."""
    run = store.run("r")
    train(configure(model=model, trainer__lora=lora, trainer__max_steps=1), run, store, never)
    assert read_lines(run.metrics_file)[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    if lora is None:
        saved, base = (AutoConfig.from_pretrained(at) for at in (run.model, base_model.ensure_base(model, store)))
        rates = {name: rate for name, rate in vars(base).items() if "drop" in name}
        assert 0.1 in rates.values()
        assert {name: getattr(saved, name) for name in rates} == rates


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_adapters_have_the_dropout_that_they_are_given(configure: Configure, store: Store, dropout: float) -> None:
    """Once they are trained, two passes over the same pairs differ where they have some, and there only."""
    config = configure(model=WITH_DROPOUT[1], trainer__lora=replace(LORA, dropout=dropout), trainer__max_steps=2)
    train(config, store.run("r"), store, never)
    trainer = load_trained(config, store.run("r"), store)
    trainer.model.train()
    batch = trainer.place(trainer.data_collator([trainer.train_dataset[0]]))
    one, other = (trainer._compute_loss(trainer.model, batch, return_outputs=False).item() for _ in range(2))
    assert (one != other) is (dropout > 0)


def test_small_steps_move_bfloat16_weights() -> None:
    """Through float32 copies the weights follow float32 training, where bfloat16 alone would stand still."""
    weights = [
        torch.nn.Parameter(torch.ones(4, dtype=dtype)) for dtype in (torch.bfloat16, torch.float32, torch.bfloat16)
    ]
    optimizers = [torch.optim.SGD([weight], lr=1e-3) for weight in weights]
    keep_master_weights(optimizers[0])
    for _ in range(100):
        for weight, optimizer in zip(weights, optimizers, strict=True):
            weight.grad = torch.ones_like(weight)
            optimizer.step()
    with_copies, exact, without = (weight.detach().float() for weight in weights)
    assert torch.equal(with_copies, exact.bfloat16().float())
    assert torch.equal(without, torch.ones(4))


def test_master_weights_survive_a_checkpoint() -> None:
    """The optimizer's state holds the copies, so training goes on from them and not from the rounded weights."""

    def make() -> tuple[torch.nn.Parameter, torch.optim.Optimizer]:
        weight = torch.nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
        optimizer = torch.optim.AdamW([weight], lr=1e-4)
        keep_master_weights(optimizer)
        return weight, optimizer

    def go(weight: torch.nn.Parameter, optimizer: torch.optim.Optimizer, steps: int) -> None:
        for step in range(steps):
            weight.grad = torch.full_like(weight, 1.0 + step)
            optimizer.step()

    straight, optimizer = make()
    go(straight, optimizer, 3)
    resumed, other = make()
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    go(straight, optimizer, 30)
    go(resumed, other, 30)
    assert torch.equal(straight, resumed)


@pytest.mark.parametrize(("keep", "left"), [(0, []), (1, ["checkpoint-4"])])
def test_resumable_state_goes_with_the_end_unless_it_is_to_stay(
    configure: Configure, store: Store, keep: int, left: list[str]
) -> None:
    """checkpoint.keep_finished says how many checkpoints a finished run keeps."""
    run = store.run("kept")
    train(configure(checkpoint__keep_finished=keep), run, store, lambda: False)
    assert [path.name for path in run.checkpoints.glob("*")] == left
