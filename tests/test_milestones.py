"""checkpoint.milestones: models on the way as points of their own, from one training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from worker_fixtures import LORA, Configure

from launcher.collect import _points
from launcher.config import Checkpoint, ConfigError
from launcher.files import read_fact
from launcher.resources import trl_losses
from launcher.rules import check
from launcher.store import RunDir, Store
from launcher.worker.evaluate import evaluate
from launcher.worker.milestones import keep
from launcher.worker.training import Stopped, train

CONSTANT = {"trainer__lr_scheduler": "constant", "trainer__warmup_ratio": 0.0}


def weights(run: RunDir) -> dict[str, Any]:
    (file,) = run.model.glob("*.safetensors")
    return load_file(file)


def same(one: dict[str, Any], two: dict[str, Any]) -> bool:
    return one.keys() == two.keys() and all(bool((one[name] == two[name]).all()) for name in one)


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
def test_a_milestone_is_the_model_of_a_training_of_so_many_steps(configure: Configure, store: Store, lora: Any) -> None:
    """Under a constant rate the model kept after 3 of 6 steps is, bit for bit, that of a training of 3 steps."""
    config = configure(**CONSTANT, trainer__lora=lora, checkpoint=Checkpoint(every=4, milestones=[3]))
    train(config, store.run("long"), store, lambda: False)
    shorter = replace(config, trainer=replace(config.trainer, max_steps=3), checkpoint=Checkpoint(every=4))
    train(shorter, store.run("short"), store, lambda: False)
    kept = store.run("long").milestone(3)
    assert same(weights(kept), weights(store.run("short")))
    assert not same(weights(kept), weights(store.run("long")))
    evaluate(config, store.run("long"), store)
    evaluate(shorter, store.run("short"), store)
    scores, expected = (read_fact(run.evaluation_file) or {} for run in (kept, store.run("short")))
    assert [scores[key] for key in ("loss", "reward_margin", "kl")] == [
        expected[key] for key in ("loss", "reward_margin", "kl")
    ]


def test_an_interrupted_training_keeps_its_milestones(configure: Configure, store: Store) -> None:
    """One that is stopped after a milestone and resumed has it once, and goes on to the next."""
    config = configure(**CONSTANT, checkpoint=Checkpoint(every=100, milestones=[2, 5]))
    calls = iter([False, False, False, True, True])
    with pytest.raises(Stopped):
        train(config, store.run("r"), store, lambda: next(calls))
    assert [step for step, _ in store.run("r").milestones()] == [2]
    train(config, store.run("r"), store, lambda: False)
    assert [step for step, _ in store.run("r").milestones()] == [2, 5]
    assert not store.run("r").checkpoints.exists()


def test_results_have_a_row_for_each_evaluated_milestone(store: Store) -> None:
    """Rows before the run's own, named RUN@STEP, with their own scores, step and curve; without them none."""
    run = store.run("r")
    row = {"run_id": "r", "axes": {"beta": 0.1}, "step": 5, "max_steps": 6, "status": "RUNNING", "gpu_hours": 2.0}
    row |= {"milestone": None, "curve": [{"step": 2}, {"step": 4}], "revision": {"address": "me/r@r"}}
    assert _points(row, run) == [row]
    for step in (2, 4):
        run.milestone(step).model.mkdir(parents=True)
    run.milestone(2).evaluation_file.write_text('{"loss": 0.5, "golden_rewards": [1.0]}')
    point, own = _points(row, run)
    assert (point["run_id"], point["step"], point["milestone"], point["status"]) == ("r@2", 2, 2, "TRAINED")
    assert (point["axes"], own["axes"]) == ({"beta": 0.1, "step": 2}, {"beta": 0.1, "step": 6})
    assert (point["evaluation"]["loss"], point["golden_rewards"], point["curve"]) == (0.5, [1.0], [{"step": 2}])
    assert (point["gpu_hours"], point["revision"]) == (None, None)  # the run's, told once
    assert (own["gpu_hours"], own["revision"]) == (2.0, {"address": "me/r@r"})


def test_a_milestone_survives_its_checkpoint(tmp_path: Path) -> None:
    """Weights and tokenizer stay when the checkpoint goes, optimizer state does not; a second time changes nothing."""
    checkpoint = tmp_path / "checkpoint-3"
    checkpoint.mkdir()
    for name in ("model.safetensors", "config.json", "tokenizer.json", "optimizer.pt", "trainer_state.json"):
        (checkpoint / name).write_text(name)
    keep(checkpoint, tmp_path / "kept")
    for path in checkpoint.iterdir():
        path.unlink()
    keep(checkpoint, tmp_path / "kept")
    names = {path.name: path.read_text() for path in (tmp_path / "kept").iterdir()}
    assert names == {name: name for name in ("model.safetensors", "config.json", "tokenizer.json")}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"trainer__lr_scheduler": "cosine"},
            r"trainer\.lr_scheduler=cosine: .* give constant or constant_with_warmup",
        ),
        ({"trainer__max_steps": 3}, r"checkpoint\.milestones: 3 is no step before the last"),
    ],
)
def test_what_would_make_no_sense_is_refused(configure: Configure, changes: dict[str, Any], message: str) -> None:
    """A schedule that depends on the end, and a milestone at or after it."""
    config = configure(**CONSTANT | changes, checkpoint=Checkpoint(every=1, milestones=[3]))
    with pytest.raises(ConfigError, match=message):
        check(config, trl_losses())
