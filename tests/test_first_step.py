"""launcher.worker.training.first_step: a training starts at the reference model, or ends at once and says why."""

from __future__ import annotations

import filecmp
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import new_attempt
from worker_fixtures import ARCHITECTURE, LORA, make_config, write_pairs

from launcher.config import Model, RunConfig
from launcher.errors import TrainingError
from launcher.losses import OUR_LOSSES, loss_named
from launcher.machine.installed import trl_losses
from launcher.store.files import read_fact, read_lines
from launcher.store.output_folder import Store
from launcher.store.run_folder import RunDir
from launcher.worker.attempt import make_attempt
from launcher.worker.interruption import StopRequest
from launcher.worker.model import weights
from launcher.worker.outcome import settle
from launcher.worker.training import first_step, trainer
from launcher.worker.training.first_step import rounding
from launcher.worker.training.losses import Objective, PreferenceTrainer, Watched
from launcher.worker.training.reference_table import prepare
from launcher.worker.training.train import Stopped, train

LOG_2, EPSILON = math.log(2), 1e-3
KNOWN = {
    "sigmoid": lambda _: LOG_2,
    "sigmoid_norm": lambda _: LOG_2,
    "robust": lambda _: LOG_2,
    "aot": lambda _: LOG_2,
    "cdpo": lambda _: LOG_2,
    "dpop": lambda _: LOG_2,
    "aot_unpaired": lambda _: LOG_2,
    "nca_pair": lambda _: 2 * LOG_2,
    "bco_pair": lambda _: 2 * LOG_2,
    "discopop": lambda _: (LOG_2 + 1) / 2,
    "hinge": lambda _: 1.0,
    "apo_zero": lambda _: 1.0,
    "apo_down": lambda _: 1.0,
    "ipo": lambda beta: (1 / (2 * beta)) ** 2,
    "sppo_hard": lambda beta: 2 * (1 / (2 * beta)) ** 2,
    # the divergence of (1/2, 1/2) from (1 - epsilon, epsilon)
    "exo_pair": lambda _: -LOG_2 - math.log(EPSILON * (1 - EPSILON)) / 2,
    "kto_pair": lambda _: 0.5,
    "kto": lambda _: 0.5,
}
OBJECTIVES = [("sigmoid", 0.1), ("ipo", 0.01), ("ipo", 0.5), ("kto_pair", 0.1), ("kto", 0.1)]
WHERE = r"log-ratios up to \S+ nats over \d+ tokens; rounding explains \S+"
WEIGHTS_CHANGED = rf"the policy is not the model of the reference table \({WHERE}\)\. Likely causes: the weights were"
EXPERTS = Model(
    name="experts",
    architecture=ARCHITECTURE
    | {"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2, "router_aux_loss_coef": 0.1},
    dtype="float32",
)


class World:
    """One folder for this module, so that each table is made once."""

    def __init__(self, folder: Path) -> None:
        self.pairs, self.store, self.runs = write_pairs(folder / "pairs"), Store(folder / "outputs"), 0
        self.kept: dict[str, tuple[Any, dict[str, Any]]] = {}

    def config(self, **changes: Any) -> RunConfig:
        return make_config(self.pairs, **changes)

    def run(self) -> RunDir:
        self.runs += 1
        return self.store.run(f"run-{self.runs}")

    def train(self, **changes: Any) -> RunDir:
        """A run trained to its end."""
        run = self.run()
        train(self.config(**changes), run, self.store, lambda: False)
        return run

    def trainer(self, **changes: Any) -> tuple[Any, dict[str, Any]]:
        """A trainer about to train, and a micro-batch."""
        config = self.config(**changes)
        made = trainer.build_trainer(config, self.run(), self.store, prepare(config, self.store), [])
        made.model.train()
        return made, made.place(made.data_collator([made.train_dataset[index] for index in range(4)]))

    def start(self, loss_type: str, dtype: str) -> tuple[Any, dict[str, Any]]:
        """The same with this loss at beta 0.1; the paired losses of a dtype share one trainer."""
        if loss_type == "kto":
            return self.trainer(loss_type=loss_type, model__dtype=dtype)
        if dtype not in self.kept:
            self.kept[dtype] = self.trainer(model__dtype=dtype)
        self.kept[dtype][0].set_objective(Objective(loss_type, 0.1))
        return self.kept[dtype]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("first-step"))


@pytest.fixture
def other_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every policy is another model than the reference."""
    honest = weights.load_policy

    def perturbed(model: Model, store: Store) -> torch.nn.Module:
        policy, generator = honest(model, store), torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.01)
        return policy

    monkeypatch.setattr(weights, "load_policy", perturbed)


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> list[first_step.Start]:
    """What the losses of the micro-batches that are looked at are found to be at log-ratios of 0."""
    found: list[first_step.Start] = []
    start = first_step.known_start
    monkeypatch.setattr(first_step, "known_start", lambda *given: found.append(start(*given)) or found[-1])
    return found


@pytest.mark.parametrize("loss_type", sorted(trl_losses() | set(OUR_LOSSES) - {"apo_zero_unpaired"}))
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_loss_starts_at_its_known_value(
    world: World, starts: list[first_step.Start], loss_type: str, dtype: str
) -> None:
    """Each loss of the installed TRL, and ours, passes on an honest model; without a reference no value is known."""
    made, batch = world.start(loss_type, dtype)
    loss = made.compute_loss(made.model, batch).item()
    if not loss_named(loss_type).reference:
        assert not starts
        return
    (start,) = starts
    assert start.loss == pytest.approx(KNOWN[loss_type](0.1), rel=1e-6)
    assert loss == pytest.approx(KNOWN[loss_type](0.1), rel=1e-4 if dtype == "float32" else 1e-2)


WEIGHTED = {"loss__use_weighting": True}


@pytest.mark.parametrize(
    ("loss_type", "loss"),
    [("sigmoid", WEIGHTED), ("robust", {**WEIGHTED, "loss__label_smoothing": 0.2}), ("sigmoid+sft", {})],
)
def test_a_loss_that_looks_beyond_the_weighted_sum_passes(world: World, loss_type: str, loss: dict[str, Any]) -> None:
    """WPO's weights and `sft` go by every token, `trainer.ld_alpha` by some of them: an honest model passes."""
    run = world.train(loss_type=loss_type, **loss, trainer__ld_alpha=0.4, trainer__max_steps=1)
    assert len(read_lines(run.metrics_file)) == 1


@pytest.mark.parametrize("loss_type", ["sigmoid", "kto"])
def test_each_micro_batch_of_the_first_step_is_looked_at(
    world: World, starts: list[first_step.Start], loss_type: str
) -> None:
    """Two of them make a step; no later step is looked at."""
    run = world.train(loss_type=loss_type, trainer__max_steps=3)
    assert len(starts) == 2
    assert len(read_lines(run.metrics_file)) == 3


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize(("loss_type", "beta"), OBJECTIVES)
@pytest.mark.usefixtures("other_weights")
def test_a_table_of_other_weights_is_refused(world: World, loss_type: str, beta: float, lora: Any) -> None:
    """Before the first update, with the loss, what it should be, and how far the policy is from the table."""
    run, known = world.run(), f"{KNOWN[loss_type](beta):.4g}"
    config = world.config(loss_type=loss_type, beta=beta, trainer__lora=lora)
    with pytest.raises(TrainingError, match="step 1: ") as caught:
        train(config, run, world.store, lambda: False)
    assert caught.match(rf"^step 1: the loss is \S+, not {known}\d* as of {loss_type} at the start: {WEIGHTS_CHANGED}")
    assert not run.metrics_file.exists()
    assert not run.result_file.exists()


@pytest.mark.usefixtures("other_weights")
def test_the_refusal_is_the_reason_of_the_failure(world: World) -> None:
    """One line, with what a user can do about each likely cause, the likeliest first."""
    attempt = new_attempt(world.config(), world.run())
    settle(make_attempt(attempt, world.store, StopRequest()), attempt)
    reason = (read_fact(attempt.failure_file) or {})["reason"]
    assert reason.startswith("step 1: the loss is 0.")
    assert "\n" not in reason
    causes = ["weights were changed", "dropout", "an adapter loaded on top", "router noise", "another attention kernel"]
    places = [reason.index(cause) for cause in causes]
    assert places == sorted(places)
    assert reason.count("(") == reason.count(")") == 1 + len(causes)


@pytest.mark.usefixtures("other_weights")
def test_a_loss_without_a_reference_has_its_ratios_checked(world: World) -> None:
    """`sft` has no value that is known, yet the policy must be the model of the table beside it."""
    with pytest.raises(TrainingError, match=f"^step 1: {WEIGHTS_CHANGED}"):
        world.train(loss_type="sft")


@pytest.mark.parametrize("nats", [1e-2, -1e-2, math.nan])
@pytest.mark.parametrize(
    ("loss_type", "column"),
    [
        ("sigmoid", "ref_chosen_logps"),
        ("ipo", "ref_rejected_logps"),
        ("kto_pair", "ref_rejected_logps"),
        ("kto", "ref_logps"),
        ("kto", "ref_KL_logps"),
    ],
)
def test_one_completion_that_is_off_is_seen(world: World, loss_type: str, column: str, nats: float) -> None:
    """In float32 a hundredth of a nat is not rounding, whichever completion it is."""
    made, batch = world.trainer(loss_type=loss_type)
    made.compute_loss(made.model, batch)
    batch[column][2] += nats
    with pytest.raises(
        TrainingError, match=r"not the model of the reference table \(log-ratios up to (0\.01\d*|0\.009\d*|nan) "
    ):
        made.compute_loss(made.model, batch)


@pytest.mark.parametrize("column", ["ref_chosen_logps", "ref_rejected_logps"])
def test_a_drift_is_seen_in_bfloat16(world: World, column: str) -> None:
    """Over 100 tokens half a nat may be rounding, 0.05 nats a token are not."""
    made, _ = world.trainer(model__dtype="bfloat16", trainer__max_length=128)
    draw = torch.Generator().manual_seed(0)
    ids = {name: torch.randint(3, 200, (100,), generator=draw).tolist() for name in ("chosen_ids", "rejected_ids")}
    zeros = dict.fromkeys(("ref_chosen_logps", "ref_rejected_logps"), 0.0)
    batch = made.place(made.data_collator([{"prompt_ids": [5, 6, 7]} | ids | zeros]))
    watched = Watched(made.model)
    made._compute_loss(watched, batch, return_outputs=False)
    (scored,) = made.scored(watched.outputs, batch)
    batch |= dict(zip(zeros, scored.ratios.detach().chunk(2), strict=True))
    for shift in (0.5, -0.5):
        made.compute_loss(made.model, batch | {column: batch[column] + shift})
    for shift in (5.0, -5.0):
        with pytest.raises(TrainingError, match=r"log-ratios up to 5 nats over 100 tokens; rounding explains 4\.3\)"):
            made.compute_loss(made.model, batch | {column: batch[column] + shift})


def test_what_is_rounding_and_what_is_not() -> None:
    """At 100 tokens: far above what was measured of rounding, below a drift of 0.05 nats a token, in float32 0.001."""
    tokens, reference = torch.tensor([100]), torch.tensor([-350.0])
    assert 2e-3 < float(rounding(tokens, reference, torch.float32)) < 0.001 * 100
    assert 2.0 < float(rounding(tokens, reference, torch.bfloat16)) < 0.05 * 100


def test_float32_that_computes_in_less_is_given_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images of some vendors let matrix products of float32 be rounded; then its rounding is about bfloat16's."""
    told = torch.tensor([100]), torch.tensor([-350.0])
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
    assert rounding(*told, torch.float32) == rounding(*told, torch.bfloat16)


@pytest.mark.parametrize("loss_type", ["sigmoid", "ipo", "sigmoid_norm"])
@pytest.mark.parametrize("alpha", [0.0, 0.3])
def test_ld_alpha_changes_no_start(world: World, starts: list[first_step.Start], loss_type: str, alpha: float) -> None:
    """Completions of a pair differ in length, and their last tokens weigh less in the table as in the loss."""
    world.train(loss_type=loss_type, trainer__ld_alpha=alpha, trainer__max_steps=1)
    assert [start.loss for start in starts] == pytest.approx([KNOWN[loss_type](0.1)] * 2, rel=1e-6)


@pytest.mark.parametrize("loss_type", ["sigmoid", "ipo", "kto_pair", "kto"])
def test_what_experts_add_to_a_loss_belongs_to_its_start(
    world: World, starts: list[first_step.Start], loss_type: str
) -> None:
    """A model with experts pays for their balance on top of log 2, or what its loss is, from the first step on."""
    world.train(model=EXPERTS, loss_type=loss_type, trainer__max_steps=1)
    assert len(starts) == 2
    assert all(start.loss > KNOWN[loss_type](0.1) + 0.05 for start in starts)


def test_a_loss_that_is_not_of_the_ratios_is_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the policy is the reference and its loss still another, it is not the policy that is blamed."""
    compute = PreferenceTrainer._compute_loss

    def other(self: Any, model: Any, inputs: Any, return_outputs: bool) -> Any:
        return compute(self, model, inputs, return_outputs) + 0.01 * isinstance(model, Watched)

    monkeypatch.setattr(PreferenceTrainer, "_compute_loss", other)
    message = (
        rf"^step 1: the loss is 0\.7031, not 0\.6931 .*: yet the policy is the model of the reference table \({WHERE}\)"
    )
    with pytest.raises(TrainingError, match=message):
        world.train()


def test_a_run_that_goes_on_is_not_checked(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """After step 3 the policy has long left the reference."""
    run, asked = world.run(), iter([False, False, True])
    with pytest.raises(Stopped):
        train(world.config(), run, world.store, lambda: next(asked))
    monkeypatch.setattr(first_step, "check", lambda *_: pytest.fail("it was checked"))
    train(world.config(), run, world.store, lambda: False)
    assert (read_fact(run.result_file) or {})["steps"] == 6


def test_a_held_out_loss_is_not_checked(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a step of training has a start."""
    made, batch = world.trainer()
    made.model.eval()
    monkeypatch.setattr(first_step, "check", lambda *_: pytest.fail("it was checked"))
    made.compute_loss(made.model, batch)


@pytest.mark.parametrize("loss_type", ["sigmoid", "kto_pair", "kto"])
def test_the_check_logs_nothing(world: World, loss_type: str) -> None:
    """Each number stands there once, and no token is counted twice."""
    made, batch = world.trainer(loss_type=loss_type)
    made.compute_loss(made.model, batch)
    assert {len(values) for values in made._metrics["train"].values()} == {1}
    assert not made._metrics["eval"]
    assert made._total_train_tokens == int(batch["attention_mask"].sum())


@pytest.mark.parametrize("loss_type", ["sigmoid", "kto"])
def test_the_check_changes_no_weight(world: World, monkeypatch: pytest.MonkeyPatch, loss_type: str) -> None:
    """The model is, byte for byte, that of a training without it."""
    checked = world.train(loss_type=loss_type, trainer__max_steps=2)
    monkeypatch.setattr(first_step, "check", lambda *_: None)
    unchecked = world.train(loss_type=loss_type, trainer__max_steps=2)
    assert filecmp.cmp(*(run.model / "model.safetensors" for run in (checked, unchecked)), shallow=False)
