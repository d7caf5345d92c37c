"""launcher.worker.training.losses: kto_pair, and the other losses as TRL computes them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from trl.trainer.utils import add_fused_lm_head
from worker_fixtures import make_config, write_pairs

from launcher.config import Loss, Model, RunConfig, Trainer
from launcher.losses import LOG_RATIO, LOSSES, OUR_LOSSES, TRAINER_KEYS, loss_named
from launcher.machine.installed import trl_losses
from launcher.store.output_folder import Store
from launcher.worker.model import weights
from launcher.worker.training.formulas import FORMULAS, REWARDS, kto_pair_loss
from launcher.worker.training.losses import Objective, logratios
from launcher.worker.training.reference_table import prepare
from launcher.worker.training.trainer import RunTrainer, build_trainer

CHOSEN, REJECTED = (2.0, -1.0, 0.5, 3.0), (-1.0, 0.5, -2.0, 1.0)
LENGTHS = (4, 5, 6, 7), (3, 5, 8, 2)
GOLDEN = {  # computed by TRL's historic code, see the module's docstring
    ("sigmoid", 0.01): 0.685714, ("kto_pair", 0.01): 0.496719, ("ipo", 0.01): 2480.344,
    ("sigmoid", 0.1): 0.624848, ("kto_pair", 0.1): 0.467380, ("ipo", 0.1): 23.23707,
    ("sigmoid", 0.5): 0.475869, ("kto_pair", 0.5): 0.356082, ("ipo", 0.5): 0.827545,
    ("sigmoid", 0.9): 0.474684, ("kto_pair", 0.9): 0.290670, ("ipo", 0.9): 0.312907,
}  # fmt: skip
# Llama's norms compute in float32 whatever the weights are; GPT-2's do not.
IN_DOUBLE = Model(
    name="gpt2",
    architecture={"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 2, "seed": 1},
    dtype="float32",
)
logratio_lists = st.lists(st.floats(-20, 20), min_size=4, max_size=4)


@pytest.fixture(scope="module")
def trained_parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunTrainer, RunConfig, Store]:
    folder = tmp_path_factory.mktemp("losses")
    config, store = make_config(write_pairs(folder / "pairs")), Store(folder / "outputs")
    trainer = build_trainer(config, store.run("r"), store, prepare(config, store), [])
    return trainer, config, store


@pytest.fixture(scope="module")
def trainer(trained_parts: tuple[RunTrainer, RunConfig, Store]) -> RunTrainer:
    return trained_parts[0]


def batch_of(chosen: Any, rejected: Any, reference: Any = None) -> tuple[Any, dict[str, torch.Tensor]]:
    """Model outputs with these sums of log-probs, and the batch that they answer; reference values are 0, or given."""
    sums = torch.tensor([*chosen, *rejected])
    lengths = [*LENGTHS[0], *LENGTHS[1]]
    width = 1 + max(lengths)
    mask = torch.tensor([[0] + [1] * length + [0] * (width - 1 - length) for length in lengths])
    log_probs = torch.zeros(len(lengths), width - 1)
    log_probs[:, 0] = sums
    outputs = SimpleNamespace(
        log_probs=log_probs,
        entropy=torch.zeros_like(log_probs),
        mean_logits=torch.zeros_like(log_probs),
        is_top1=torch.zeros_like(log_probs, dtype=torch.bool),
    )
    before = torch.tensor(reference or ((0.0,) * len(chosen),) * 2)
    inputs = {"input_ids": torch.ones_like(mask), "attention_mask": torch.ones_like(mask), "completion_mask": mask}
    return outputs, inputs | {"ref_chosen_logps": before[0], "ref_rejected_logps": before[1]}


def loss_through_trainer(
    trainer: RunTrainer, loss_type: str, beta: float, chosen: Any, rejected: Any, reference: Any = None
) -> float:
    trainer.set_objective(Objective(loss_type, beta))
    outputs, inputs = batch_of(chosen, rejected, reference)
    return float(trainer._compute_loss(lambda **_: outputs, inputs, return_outputs=False))


@pytest.mark.parametrize(("loss_type", "beta"), GOLDEN)
def test_losses_equal_the_golden_values(trainer: RunTrainer, loss_type: str, beta: float) -> None:
    """The trainer's own loss path gives the known numbers, relatively to 1e-5 where they are large."""
    found = loss_through_trainer(trainer, loss_type, beta, CHOSEN, REJECTED)
    assert found == pytest.approx(GOLDEN[loss_type, beta], abs=1e-5, rel=1e-6)


@pytest.mark.parametrize("beta", [0.01, 0.1, 0.5, 0.9])
def test_the_pure_function_equals_the_golden_values(beta: float) -> None:
    """kto_pair_loss alone gives the known numbers."""
    found = kto_pair_loss(torch.tensor(CHOSEN), torch.tensor(REJECTED), beta)
    assert float(found) == pytest.approx(GOLDEN["kto_pair", beta], abs=1e-5)


@pytest.mark.parametrize(("loss_type", "expected"), [("sigmoid", 0.69314718), ("ipo", 25.0), ("kto_pair", 0.5)])
def test_losses_at_the_start(trainer: RunTrainer, loss_type: str, expected: float) -> None:
    """An untrained policy has log 2, (1/2beta)^2 and 1/2."""
    zeros = (0.0,) * 4
    assert loss_through_trainer(trainer, loss_type, 0.1, zeros, zeros) == pytest.approx(expected, abs=1e-6)


@given(logratio_lists, logratio_lists, st.sampled_from([0.01, 0.1, 0.5]))
def test_kto_pair_is_half_of_apo_zero_below_the_clamp(chosen: list[float], rejected: list[float], beta: float) -> None:
    """Where both means are at most 0, both KL estimates are 0 and kto_pair is apo_zero / 2."""
    r_c, r_r = torch.tensor(chosen).double(), torch.tensor(rejected).double()
    r_c, r_r = r_c - r_c.mean().clamp(min=0) - 1e-9, r_r - r_r.mean().clamp(min=0) - 1e-9
    apo_zero = (1 - torch.sigmoid(beta * r_c) + torch.sigmoid(beta * r_r)).mean()
    assert float(kto_pair_loss(r_c, r_r, beta)) == pytest.approx(float(apo_zero) / 2, abs=1e-12)


def test_kto_pair_against_trls_apo_zero(trainer: RunTrainer) -> None:
    """The same identity with TRL's own apo_zero; with a positive mean the two differ."""
    below = (-2.0, -1.0, 0.5, -3.0), (-1.0, 0.5, -2.0, 1.0)
    for (chosen, rejected), same in ((below, True), ((CHOSEN, REJECTED), False)):
        kto = loss_through_trainer(trainer, "kto_pair", 0.5, chosen, rejected)
        apo = loss_through_trainer(trainer, "apo_zero", 0.5, chosen, rejected)
        assert (kto == pytest.approx(apo / 2, abs=1e-6)) is same


REFERENCE = (0.25, -2.0, 1.5, 1.0), (-0.5, 1.0, 0.5, -1.5)
EPSILON, TAU = 1e-3, 0.05  # of exo_pair, by its paper; of discopop, TRL's default


def softplus(value: float) -> float:
    return math.log1p(math.exp(value))


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def exo(logit: float) -> float:
    """The divergence of the policy's two shares from 1 - epsilon and epsilon."""
    better, worse = sigmoid(logit), sigmoid(-logit)
    return better * math.log(better / (1 - EPSILON)) + worse * math.log(worse / EPSILON)


def discopop(logit: float) -> float:
    share = sigmoid(logit / TAU)
    return (1 - share) * softplus(-logit) + share * math.exp(-logit)


# The loss of one pair by its paper: of the log-ratios c and r, beta b, and the two lengths m and n.
OF_A_PAIR: dict[str, Callable[[float, float, float, int, int], float]] = {
    "sigmoid": lambda c, r, b, _m, _n: softplus(-b * (c - r)),
    "sigmoid_norm": lambda c, r, b, m, n: softplus(-b * (c / m - r / n)),
    "robust": lambda c, r, b, _m, _n: softplus(-b * (c - r)),  # with no share of wrong labels
    "hinge": lambda c, r, b, _m, _n: max(0.0, 1 - b * (c - r)),
    "ipo": lambda c, r, b, m, n: (c / m - r / n - 1 / (2 * b)) ** 2,
    "exo_pair": lambda c, r, b, _m, _n: exo(b * (c - r)),
    "nca_pair": lambda c, r, b, _m, _n: softplus(-b * c) + softplus(b * c) / 2 + softplus(b * r) / 2,
    "bco_pair": lambda c, r, b, _m, _n: softplus(-b * c) + softplus(b * r),
    "sppo_hard": lambda c, r, b, _m, _n: (c - 1 / (2 * b)) ** 2 + (r + 1 / (2 * b)) ** 2,
    "apo_zero": lambda c, r, b, _m, _n: sigmoid(-b * c) + sigmoid(b * r),
    "apo_down": lambda c, r, b, _m, _n: sigmoid(b * c) + sigmoid(-b * (c - r)),
    "discopop": lambda c, r, b, _m, _n: discopop(b * (c - r)),
}


def by_hand(loss_type: str, beta: float) -> float:
    """The mean loss of CHOSEN and REJECTED beside REFERENCE."""
    c, r = ([ours - theirs for ours, theirs in zip(*each, strict=True)]
            for each in ((CHOSEN, REFERENCE[0]), (REJECTED, REFERENCE[1])))  # fmt: skip
    if loss_type == "sft":  # of the chosen answers' tokens
        return -sum(CHOSEN) / sum(LENGTHS[0])
    if loss_type == "aot":  # what is sorted are the margins of the policy, and those of the reference
        margins, before = (sorted(one - other for one, other in zip(*each, strict=True))
                           for each in ((CHOSEN, REJECTED), REFERENCE))  # fmt: skip
        return statistics.fmean(softplus(-beta * (one - other)) for one, other in zip(margins, before, strict=True))
    if loss_type == "aot_unpaired":
        return statistics.fmean(softplus(-beta * (a - b)) for a, b in zip(sorted(c), sorted(r), strict=True))
    each = zip(c, r, *LENGTHS, strict=True)
    return statistics.fmean(OF_A_PAIR[loss_type](one, other, beta, m, n) for one, other, m, n in each)


@pytest.mark.parametrize("beta", [0.1, 0.5])
@pytest.mark.parametrize("loss_type", sorted(trl_losses()))
def test_every_loss_of_trl_is_that_of_its_paper(trainer: RunTrainer, loss_type: str, beta: float) -> None:
    """Each name that TRL knows, beside a reference that is not 0; exo_pair with its paper's epsilon."""
    found = loss_through_trainer(trainer, loss_type, beta, CHOSEN, REJECTED, REFERENCE)
    assert found == pytest.approx(by_hand(loss_type, beta), rel=1e-5)


PAIRED = sorted(trl_losses() | FORMULAS.keys())


def test_the_table_and_the_formulas_belong_together() -> None:
    """Each paired loss of ours has one formula of its name, and each other row is of a loss that TRL computes."""
    assert FORMULAS.keys() == {name for name in OUR_LOSSES if loss_named(name).paired}
    assert REWARDS.keys() == {loss.name for loss in LOSSES if loss.reward != LOG_RATIO}
    assert {loss.name for loss in LOSSES} - set(OUR_LOSSES) <= trl_losses()
    assert len({loss.name for loss in LOSSES}) == len(LOSSES)


def test_the_keys_of_losses_are_null_by_default() -> None:
    """So they enter no run's id until one is given."""
    assert [getattr(Trainer(), key) for key in TRAINER_KEYS] == [None] * len(TRAINER_KEYS)
    assert set(vars(Loss()).values()) == {None}


@pytest.mark.parametrize("loss_type", PAIRED)
def test_every_loss_that_looks_at_neighbours_is_known_to(trainer: RunTrainer, loss_type: str) -> None:
    """Of all others two halves of a micro-batch have the mean loss of the whole, so it may be halved."""
    trainer.set_objective(Objective(loss_type, 0.5))
    outputs, inputs = batch_of(CHOSEN, REJECTED)
    halves = [half_of(outputs, inputs, rows) for rows in ([0, 1, 4, 5], [2, 3, 6, 7])]
    whole, *parts = (trainer.loss_of(*each) for each in ((outputs, inputs), *halves))
    assert sum(parts) / 2 == pytest.approx(whole, rel=1e-5) or loss_named(loss_type).neighbours


@pytest.mark.parametrize("loss_type", PAIRED)
def test_the_table_knows_which_losses_have_a_reference(trainer: RunTrainer, loss_type: str) -> None:
    """Only these depend on the reference values."""
    trainer.set_objective(Objective(loss_type, 0.5))
    outputs, inputs = batch_of(CHOSEN, REJECTED)
    shifted = inputs | {"ref_rejected_logps": inputs["ref_rejected_logps"] + 1}
    first, second = trainer.loss_of(outputs, inputs), trainer.loss_of(outputs, shifted)
    assert (first != pytest.approx(second, rel=1e-5)) is loss_named(loss_type).reference


def half_of(outputs: Any, inputs: dict[str, torch.Tensor], rows: list[int]) -> tuple[Any, dict[str, torch.Tensor]]:
    """Two pairs of four, as a micro-batch of their own; `rows` are those of both their completions."""
    pairs = rows[: len(rows) // 2]
    own = {name: values[pairs if name.startswith("ref_") else rows] for name, values in inputs.items()}
    return SimpleNamespace(**{name: values[rows] for name, values in vars(outputs).items()}), own


def test_exo_pair_gets_the_label_smoothing_that_it_needs(trained_parts: tuple[RunTrainer, RunConfig, Store]) -> None:
    """TRL refuses exo_pair without label smoothing; a run of it has the paper's 1e-3."""
    _, config, store = trained_parts
    config = make_config(Path(str(config.dataset.path)), loss_type="exo_pair")
    trainer = build_trainer(config, store.run("exo"), store, prepare(config, store), [])
    assert trainer.label_smoothing == 1e-3


def test_kto_pair_keeps_trls_metrics(trainer: RunTrainer) -> None:
    """kto_pair logs the rewards, accuracies and margins that every other loss logs."""
    trainer.model.eval()
    trainer._metrics["eval"].clear()
    loss_through_trainer(trainer, "kto_pair", 0.5, CHOSEN, REJECTED)
    found = {name: values[0] for name, values in trainer._metrics["eval"].items()}
    assert found["rewards/chosen"] == pytest.approx(0.5 * sum(CHOSEN) / 4)
    assert found["rewards/accuracies"] == 0.75
    assert found["rewards/margins"] == pytest.approx(0.5 * (sum(CHOSEN) - sum(REJECTED)) / 4)


@pytest.mark.parametrize("loss_type", ["sigmoid", "ipo", "kto_pair"])
def test_gradients_agree_with_finite_differences(
    trained_parts: tuple[RunTrainer, RunConfig, Store], loss_type: str
) -> None:
    """The gradient along random directions of a tiny model in float64 equals the loss's difference quotient."""
    trainer, _, store = trained_parts
    inputs = a_batch(trainer)
    module = weights.load_policy(IN_DOUBLE, store).double()
    trainer.set_objective(Objective(loss_type, 0.3))
    generator = torch.Generator().manual_seed(0)
    trainer._compute_loss(in_float64(module), inputs, return_outputs=False).backward()
    for _ in range(3):
        directions = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in module.parameters()]
        slope = sum(float((p.grad * d).sum()) for p, d in zip(module.parameters(), directions, strict=True))
        assert slope == pytest.approx(quotient(trainer, module, inputs, directions, 1e-5), rel=1e-5)


@pytest.mark.parametrize("loss_type", ["sigmoid", "ipo", "kto_pair"])
def test_gradients_of_the_fused_head(trained_parts: tuple[RunTrainer, RunConfig, Store], loss_type: str) -> None:
    """The gradient that training uses equals the one through plain logits in float64, up to float32."""
    trainer, config, store = trained_parts
    inputs = a_batch(trainer)
    trainer.set_objective(Objective(loss_type, 0.3))
    fused, exact = weights.load_policy(config.model, store), weights.load_policy(config.model, store).double()
    add_fused_lm_head(fused, outputs=("log_probs", "entropy", "mean_logits", "is_top1"))
    trainer._compute_loss(fused, inputs, return_outputs=False).backward()
    trainer._compute_loss(in_float64(exact), inputs, return_outputs=False).backward()
    for ours, theirs in zip(fused.parameters(), exact.parameters(), strict=True):
        assert torch.allclose(ours.grad.double(), theirs.grad, rtol=1e-3, atol=1e-5)


def a_batch(trainer: RunTrainer) -> dict[str, torch.Tensor]:
    """Four pairs, away from kto_pair's kink: an untrained model would put both means at 0, give or take rounding."""
    inputs: dict[str, torch.Tensor] = trainer.data_collator([trainer.train_dataset[index] for index in range(4)])
    shift = torch.tensor([2.0, -1.0, 0.5, 3.0])
    return inputs | {name: inputs[name] - shift for name in ("ref_chosen_logps", "ref_rejected_logps")}


def in_float64(module: torch.nn.Module) -> Callable[..., Any]:
    """The module with log-probs from its plain logits: TRL's fused head computes in float32."""

    def forward(*, labels: torch.Tensor, fused_lm_head: bool, **kwargs: Any) -> Any:
        assert fused_lm_head
        scores = module(**kwargs).logits[:, :-1].log_softmax(dim=-1)
        wanted = labels[:, 1:]
        log_probs = scores.gather(2, wanted.clamp(min=0).unsqueeze(2)).squeeze(2).masked_fill(wanted == -100, 0)
        unused = torch.zeros_like(log_probs)
        return SimpleNamespace(log_probs=log_probs, entropy=unused, mean_logits=unused, is_top1=unused.bool())

    return forward


def quotient(trainer: RunTrainer, module: Any, inputs: Any, directions: list[torch.Tensor], size: float) -> float:
    values = []
    with torch.no_grad():
        for step in (size, -2 * size):
            for parameter, direction in zip(module.parameters(), directions, strict=True):
                parameter.add_(direction, alpha=step)
            values.append(float(trainer._compute_loss(in_float64(module), inputs, return_outputs=False)))
        for parameter, direction in zip(module.parameters(), directions, strict=True):
            parameter.add_(direction, alpha=size)
    return (values[0] - values[1]) / (2 * size)


def test_logratios_subtract_the_reference() -> None:
    """log pi - log pi_ref, chosen first."""
    outputs, inputs = batch_of(CHOSEN, REJECTED)
    inputs["ref_chosen_logps"] = torch.ones(4)
    chosen, rejected = logratios(outputs, inputs)
    assert chosen.tolist() == [value - 1 for value in CHOSEN]
    assert rejected.tolist() == list(REJECTED)
