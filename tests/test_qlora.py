"""model.quantization=4bit: a run whose base is packed by bitsandbytes, on whatever this machine computes with."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from worker_fixtures import ARCHITECTURE, LORA, make_config, write_pairs

from launcher.config import Model, RunConfig
from launcher.store.files import read_fact, read_lines
from launcher.store.output_folder import Store
from launcher.worker.evaluation.preference import evaluate
from launcher.worker.model import weights
from launcher.worker.training import reference_table
from launcher.worker.training import train as training
from launcher.worker.training.train import Stopped, train

bitsandbytes = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed; pip install bitsandbytes")

PACKED = Model(name="tiny", architecture=ARCHITECTURE | {"hidden_size": 64}, dtype="float32", quantization="4bit")


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    """Six steps of adapters on packed weights, each step over all pairs."""
    quick = {"trainer__batch_size": 32, "trainer__micro_batch_size": 16, "trainer__learning_rate": 1e-2}
    return make_config(write_pairs(tmp_path / "pairs"), model=PACKED, trainer__lora=LORA, **quick)


def unpacked(module: torch.nn.Module) -> torch.nn.Module:
    """The same model with plain weights: what the packed ones stand for, by bitsandbytes' own function."""
    plain = copy.deepcopy(module)
    for name, layer in list(plain.named_modules()):
        if isinstance(layer, bitsandbytes.nn.Linear4bit):
            linear = torch.nn.Linear(layer.in_features, layer.out_features, bias=False, device=layer.weight.device)
            values = bitsandbytes.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
            linear.weight.data = values.to(torch.float32)
            plain.set_submodule(name, linear)
    return plain


def logits_and_gradient(module: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Of made-up embeddings: what comes out, and how its sum of squares depends on them."""
    size = (2, 7, PACKED.architecture["hidden_size"] if PACKED.architecture else 0)
    inputs = torch.randn(size, generator=torch.Generator().manual_seed(0)).to(module.device).requires_grad_()
    logits = module(inputs_embeds=inputs).logits
    logits.square().sum().backward()
    assert inputs.grad is not None
    return logits.detach(), inputs.grad


def test_a_base_that_was_the_reference_has_right_gradients(config: RunConfig, store: Store) -> None:
    """Logits and gradients of a policy are those of the plain weights that the packed ones stand for."""
    reference_table.prepare(config, store)
    policy = weights.load_policy(config.model, store)
    kinds = {type(layer).__name__ for layer in policy.modules()}
    assert {"Linear4bit", "Linear"} <= kinds  # the head stays as it is
    logits, gradient = logits_and_gradient(policy)
    expected_logits, expected_gradient = logits_and_gradient(unpacked(policy))
    assert torch.allclose(logits, expected_logits, atol=1e-5)
    assert torch.allclose(gradient, expected_gradient, rtol=1e-4, atol=1e-4)
    assert gradient.abs().max() > 1e-2


def test_a_run_from_packed_weights_to_its_evaluation(config: RunConfig, store: Store) -> None:
    """It starts where the reference is, learns, leaves the base as it was, and its adapter is read back as it was."""
    base = weights.load(config.model, store)
    before = {name: value.clone() for name, value in base.state_dict().items()}
    run = store.run("r")
    train(config, run, store, lambda: False)
    losses = [line["loss"] for line in read_lines(run.metrics_file)]
    assert losses[0] == pytest.approx(math.log(2), abs=1e-6)
    assert losses[-1] < math.log(2) - 0.05
    after = weights.load(config.model, store).state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    files = {path.name for path in run.model.iterdir()}
    assert "adapter_model.safetensors" in files
    assert "model.safetensors" not in files

    evaluate(config, run, store)
    in_memory = read_fact(run.evaluation_file) or {}
    training.forget_trained()
    run.evaluation_file.unlink()
    evaluate(config, run, store)
    from_disk = read_fact(run.evaluation_file) or {}
    for key in ("loss", "reward_margin", "kl"):
        assert from_disk[key] == pytest.approx(in_memory[key], abs=1e-6)
    assert in_memory["kl"] > 0


def test_an_interrupted_run_goes_on_as_if_it_had_not_been(config: RunConfig, store: Store) -> None:
    """Stopped after step 3 and taken up again, it ends with the very adapter of a run that was left in peace."""
    train(config, store.run("whole"), store, lambda: False)
    calls = iter([False, False, True])
    with pytest.raises(Stopped):
        train(config, store.run("cut"), store, lambda: next(calls))
    train(config, store.run("cut"), store, lambda: False)
    whole, cut = (load_file(store.run(name).model / "adapter_model.safetensors") for name in ("whole", "cut"))
    assert whole.keys() == cut.keys()
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
