"""launcher.worker.out_of_memory: a run that fills its GPU's memory goes on with a smaller micro-batch."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from ranks import new_attempt
from safetensors.torch import load_file
from worker_fixtures import LORA, Configure

from launcher.config import RunConfig
from launcher.store import attempt_config
from launcher.store.files import read_fact, read_lines
from launcher.store.output_folder import Store
from launcher.worker import out_of_memory
from launcher.worker.attempt import make_attempt
from launcher.worker.evaluation import measure as measuring
from launcher.worker.interruption import StopRequest
from launcher.worker.outcome import Kind
from launcher.worker.training.train import train
from launcher.worker.training.trainer import RunTrainer


@pytest.fixture
def small_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the third step on there is memory for two pairs at a time."""
    step = RunTrainer.training_step

    def limited(trainer: RunTrainer, model: Any, inputs: dict[str, Any], *more: Any) -> torch.Tensor:
        if trainer.state.global_step >= 2 and len(inputs["input_ids"]) > 4:  # a pair is two sequences
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return step(trainer, model, inputs, *more)

    monkeypatch.setattr(RunTrainer, "training_step", limited)


def trained(config: RunConfig, store: Store, name: str) -> dict[str, torch.Tensor]:
    run = store.run(name)
    out_of_memory.within_memory(config, run, lambda fitted: train(fitted, run, store, lambda: False))
    return load_file(next(run.model.glob("*model.safetensors")))


@pytest.mark.usefixtures("small_gpu")
@pytest.mark.parametrize("lora", [None, LORA])
def test_it_ends_as_if_there_had_been_memory(
    configure: Configure, store: Store, lora: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On from the last checkpoint with halves of the micro-batch: the weights of a run with room, up to rounding."""
    config = configure(loss_type="ipo", trainer__micro_batch_size=8, trainer__lora=lora, checkpoint__every=2)
    tight = trained(config, store, "tight")
    run = store.run("tight")
    assert [line["micro_batch_size"] for line in read_lines(run.memory_log)] == [4, 2]
    assert (read_fact(run.result_file) or {})["micro_batch_size"] == 2
    steps = [json.loads(line)["step"] for line in run.metrics_file.read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 5, 6]  # what was done before is not done again
    monkeypatch.undo()
    roomy = trained(config, store, "roomy")
    assert max(float((tight[name] - roomy[name]).abs().max()) for name in roomy) < 1e-5


@pytest.mark.usefixtures("small_gpu")
def test_a_loss_that_looks_at_its_neighbours_is_not_changed(configure: Configure, store: Store) -> None:
    """kto_pair with another micro-batch would be another objective: the run fails instead."""
    config = configure(loss_type="kto_pair", trainer__micro_batch_size=4)
    with pytest.raises(torch.OutOfMemoryError):
        trained(config, store, "kto")
    assert not store.run("kto").memory_log.exists()


@pytest.mark.parametrize(
    ("change", "reason", "can"),
    [
        ({}, "OutOfMemoryError: CUDA out of memory", True),
        ({}, "rank 3: OutOfMemoryError: CUDA out of memory", True),
        ({}, "RuntimeError: the loss is nan", False),
        ({"cluster__halve_micro_batch": False}, "OutOfMemoryError: CUDA out of memory", False),
        ({"trainer__micro_batch_size": 1}, "OutOfMemoryError: CUDA out of memory", False),
        ({"loss_type": "bco_pair"}, "OutOfMemoryError: CUDA out of memory", False),
    ],
)
def test_when_half_may_mend_it(configure: Configure, change: dict[str, Any], reason: str, *, can: bool) -> None:
    """Only a lack of the accelerator's memory, only where a half is left and means the same, only if wanted."""
    assert out_of_memory.can_halve(reason, configure(**change)) is can


def test_later_attempts_begin_with_what_fitted(configure: Configure, store: Store) -> None:
    """A requeued job and a resumed run read it from disk."""
    config, run = configure(trainer__micro_batch_size=4), store.run("later")
    assert attempt_config.fitted(config, run) is config
    out_of_memory.halve(config, run)
    assert attempt_config.fitted(config, run).trainer.micro_batch_size == 2


@pytest.mark.parametrize("lacks", [1, 2])
def test_a_benchmark_that_fills_memory_is_no_lack_of_the_trainings(
    configure: Configure, store: Store, monkeypatch: pytest.MonkeyPatch, lacks: int
) -> None:
    """It is tried once more with nothing else there, then fails alone, and names the key; training keeps its batch."""
    config, run = configure(evaluation__benchmarks=["preference"]), store.run("r")
    attempt, tried = new_attempt(config, run), []

    def fill(*_: object) -> None:
        tried.append(1)
        if len(tried) <= lacks:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    monkeypatch.setattr(measuring, "measure", fill)
    outcome = make_attempt(attempt, store, StopRequest())
    assert run.result_file.exists()
    assert not run.memory_log.exists()
    assert len(tried) == 2
    if lacks == 1:
        assert outcome.kind is Kind.DONE
    else:
        assert outcome.reason == (
            "preference: the GPU's memory is too small for it, with nothing else in it; the run is trained: lower "
            "evaluation.batch_size"
        )
        assert not out_of_memory.can_halve(outcome.reason, config)  # nor where it is one of several ranks
