"""Every accepted paired loss beside its paper: values and gradients, computed here with numpy in float64."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy
import pytest
import torch
from worker_fixtures import make_config, write_pairs

from launcher.losses import LOSSES, PLUS, loss_named
from launcher.machine.installed import trl_losses
from launcher.store.output_folder import Store
from launcher.worker.training.formulas import REWARDS
from launcher.worker.training.losses import Objective, completions
from launcher.worker.training.reference_table import prepare
from launcher.worker.training.trainer import RunTrainer, build_trainer

Array = numpy.ndarray[Any, Any]
LENGTHS = numpy.array([[4, 5, 6, 7], [3, 5, 8, 2]])
WIDTH = int(LENGTHS.max())
DRAW = numpy.random.default_rng(43)  # see `test_the_draw_tells_losses_apart`
OWN = numpy.arange(WIDTH) < LENGTHS[:, :, None]  # (chosen or rejected, pair, place)
TOKENS = numpy.where(OWN, -DRAW.gamma(2, 0.6, OWN.shape), 0.0)  # log-probs of single tokens
SQUARES = numpy.where(OWN, -DRAW.gamma(2, 0.3, OWN.shape), 0.0)  # log sum of p^2 at each place, of WPO
REFERENCE = TOKENS.sum(-1) + DRAW.normal(0, 1.5, (2, 4))


def softplus(value: Array) -> Array:
    return numpy.logaddexp(0, value)


def sigmoid(value: Array) -> Array:
    return 1 / (1 + numpy.exp(-value))


@dataclass
class Pairs:
    """Four pairs: the log-probs of their tokens, a reference, and all that papers write formulas of."""

    tokens: Array

    @property
    def sums(self) -> Array:
        return self.tokens.sum(-1)

    @property
    def c(self) -> Array:
        return self.sums[0] - REFERENCE[0]

    @property
    def r(self) -> Array:
        return self.sums[1] - REFERENCE[1]

    @property
    def means(self) -> Array:
        return self.sums / LENGTHS

    @property
    def weight(self) -> Array:
        """WPO, equation 2: each token's probability over the sum of squares, the geometric mean over the tokens."""
        return numpy.exp((self.tokens - SQUARES).sum(-1) / LENGTHS).prod(axis=0)


def scores(p: Pairs, f_divergence: str = "reverse_kl", alpha: float = 0.5) -> tuple[Array, Array]:
    """f-DPO's f'(pi / pi_ref) of both completions, 0 where they are equal."""
    prime: dict[str, Callable[[Array], Array]] = {
        "reverse_kl": numpy.log,
        "forward_kl": lambda u: 1 - 1 / u,
        "js_divergence": lambda u: numpy.log(2 * u / (1 + u)),
        "alpha_divergence": lambda u: (u ** (alpha - 1) - 1) / (alpha - 1),
    }
    return prime[f_divergence](numpy.exp(p.c)), prime[f_divergence](numpy.exp(p.r))


def exo(h: Array, epsilon: float) -> Array:
    """The divergence of the policy's two shares from 1 - epsilon and epsilon, whose logarithms TRL has in float32."""
    better, worse, rounded = sigmoid(h), sigmoid(-h), torch.tensor(epsilon, dtype=torch.float32)
    wanted, other = float(torch.log1p(-rounded)), float(torch.log(rounded))
    assert (wanted, other) == pytest.approx((math.log(1 - epsilon), math.log(epsilon)), rel=1e-6)
    return better * (numpy.log(better) - wanted) + worse * (numpy.log(worse) - other)


def smoothed(h: Array, epsilon: float) -> Array:
    return (1 - epsilon) * softplus(-h) + epsilon * softplus(h)


def discopop(h: Array, tau: float) -> Array:
    share = sigmoid(h / tau)
    return (1 - share) * softplus(-h) + share * numpy.exp(-h)


def delta(p: Pairs, *, mean: bool = False, **keys: Any) -> Array:
    chosen, rejected = scores(p, **keys)
    return chosen / LENGTHS[0] - rejected / LENGTHS[1] if mean else chosen - rejected


def kto_pair(p: Pairs, b: float) -> Array:
    kl_c, kl_r = max(0.0, p.c.mean()), max(0.0, p.r.mean())
    return (1 - sigmoid(b * (p.c - kl_r)) + 1 - sigmoid(b * (kl_c - p.r))) / 2


def log_odds(p: Pairs) -> Array:
    share = numpy.exp(p.means)
    return numpy.log(share / (1 - share))


def simpo_rewards(p: Pairs, b: float, *, length_normalized: bool = True) -> Array:
    return b * (p.means if length_normalized else p.sums)


def simpo(p: Pairs, b: float, gamma: float = 0.5, **keys: bool) -> Array:
    chosen, rejected = simpo_rewards(p, b, **keys)
    return softplus(gamma - (chosen - rejected))


def cpo(p: Pairs, b: float, alpha: float = 1.0, *, length_normalized: bool = False) -> Array:
    return simpo(p, b, 0.0, length_normalized=length_normalized) - alpha * p.means[0]


def alphapo_rewards(p: Pairs, b: float, alpha: float = 0.25) -> Array:
    return b * (1 - numpy.exp(p.means) ** -alpha) / alpha


def alphapo(p: Pairs, b: float, alpha: float = 0.25, gamma: float = 0.5) -> Array:
    chosen, rejected = alphapo_rewards(p, b, alpha)
    return softplus(gamma - (chosen - rejected))


def dpop(p: Pairs, b: float, lam: float = 50.0) -> Array:
    return softplus(-b * (p.c - p.r - lam * numpy.maximum(0, -p.c)))


def orpo(p: Pairs, _b: float, lam: float = 0.1) -> Array:
    chosen, rejected = log_odds(p)
    return -p.means[0] + lam * softplus(rejected - chosen)


def aot(p: Pairs, b: float, label_smoothing: float = 0.0) -> Array:
    ours, before = numpy.sort(p.sums[0] - p.sums[1]), numpy.sort(REFERENCE[0] - REFERENCE[1])
    return smoothed(b * (ours - before), label_smoothing)


def aot_unpaired(p: Pairs, b: float, label_smoothing: float = 0.0) -> Array:
    return smoothed(b * (numpy.sort(p.c) - numpy.sort(p.r)), label_smoothing)


def robust(p: Pairs, b: float, label_smoothing: float, **keys: Any) -> Array:
    """Robust DPO (arXiv:2403.00409): unbiased though a share of the labels is flipped."""
    h, e = b * delta(p, **keys), label_smoothing
    return ((1 - e) * softplus(-h) - e * softplus(h)) / (1 - 2 * e)


# By name: the loss of each pair, of beta and the loss's own keys; a test takes the mean.
PAPERS: dict[str, Callable[..., Array]] = {
    "sigmoid": lambda p, b, **keys: softplus(-b * delta(p, **keys)),
    "sigmoid_norm": lambda p, b, **keys: softplus(-b * delta(p, mean=True, **keys)),
    "hinge": lambda p, b, **keys: numpy.maximum(0, 1 - b * delta(p, **keys)),
    "ipo": lambda p, b, **keys: (delta(p, mean=True, **keys) - 1 / (2 * b)) ** 2,
    "exo_pair": lambda p, b, label_smoothing=1e-3, **keys: exo(b * delta(p, **keys), label_smoothing),
    "robust": robust,
    "discopop": lambda p, b, tau=0.05, **keys: discopop(b * delta(p, **keys), tau),
    "nca_pair": lambda p, b: softplus(-b * p.c) + softplus(b * p.c) / 2 + softplus(b * p.r) / 2,
    "bco_pair": lambda p, b: softplus(-b * p.c) + softplus(b * p.r),
    "sppo_hard": lambda p, b: (p.c - 1 / (2 * b)) ** 2 + (p.r + 1 / (2 * b)) ** 2,
    "apo_zero": lambda p, b: sigmoid(-b * p.c) + sigmoid(b * p.r),
    "apo_down": lambda p, b: sigmoid(b * p.c) + sigmoid(-b * (p.c - p.r)),
    "aot": aot,
    "aot_unpaired": aot_unpaired,
    "sft": lambda p, _b: -p.sums[0].sum() / LENGTHS[0].sum() * numpy.ones(4),
    "kto_pair": kto_pair,
    "cdpo": lambda p, b, label_smoothing: smoothed(b * (p.c - p.r), label_smoothing),
    "dpop": dpop,
    "simpo": simpo,
    "cpo": cpo,
    "orpo": orpo,
    "alphapo": alphapo,
}
SMOOTHED = {"robust": {"label_smoothing": 0.1}, "cdpo": {"label_smoothing": 0.1}}  # without it they are sigmoid
DIVIDED = ("sigmoid", "sigmoid_norm", "hinge", "ipo", "exo_pair", "robust", "discopop")
CASES: list[tuple[str, dict[str, Any]]] = [
    *((name, SMOOTHED.get(name, {})) for name in PAPERS),
    ("robust", {"label_smoothing": 0.3}),
    ("cdpo", {"label_smoothing": 0.3}),
    ("exo_pair", {"label_smoothing": 0.1}),
    ("aot", {"label_smoothing": 0.2}),
    ("aot_unpaired", {"label_smoothing": 0.2}),
    ("discopop", {"tau": 0.5}),
    ("dpop", {"lam": 2.0}),
    ("simpo", {"gamma": 0.0}),
    ("simpo", {"gamma": 1.6, "length_normalized": False}),
    ("cpo", {"alpha": 0.0}),
    ("cpo", {"alpha": 0.3, "length_normalized": True}),
    ("orpo", {"lam": 1.0}),
    ("alphapo", {"alpha": -0.5, "gamma": 0.1}),
    ("alphapo", {"alpha": 2.0}),
    *(
        (name, {**SMOOTHED.get(name, {}), "f_divergence": divergence})
        for name in DIVIDED
        for divergence in ("forward_kl", "js_divergence")
    ),
    *((loss.name, {**SMOOTHED.get(loss.name, {}), "use_weighting": True})
      for loss in LOSSES if "loss.use_weighting" in loss.keys),
    ("sigmoid+sft", {}),
    ("sigmoid+sft", {"weights": [1.0, 0.3]}),
    ("sigmoid+bco_pair+sft", {"weights": [0.8, 0.2, 1.0]}),  # MPO
    ("simpo+sft", {"weights": [1.0, 0.1], "gamma": 0.2}),
    ("robust+cdpo", {"label_smoothing": 0.2}),
    ("sppo_hard+dpop+orpo", {"lam": 0.5, "weights": [0.1, 2.0, 0.7]}),
]  # fmt: skip


def by_paper(tokens: Array, loss_type: str, beta: float, keys: dict[str, Any]) -> float:
    """The mean loss of a batch; of a sum, of its parts with their weights."""
    names = loss_type.split(PLUS)
    weights, total = keys.get("weights", [1.0] * len(names)), 0.0
    for weight, name in zip(weights, names, strict=True):
        taken = {key.partition(".")[2] for key in loss_named(name).keys} - {"use_weighting"}
        each = PAPERS[name](Pairs(tokens), beta, **{key: value for key, value in keys.items() if key in taken})
        total += weight * float((each * (Pairs(tokens).weight if keys.get("use_weighting") else 1)).mean())
    return total


def slopes(tokens: Array, loss_type: str, beta: float, keys: dict[str, Any], size: float = 1e-5) -> Array:
    """The loss's central difference by each token's log-prob; WPO's weights do not move, which its paper detaches."""
    found = numpy.zeros_like(tokens)
    fixed = Pairs(tokens).weight if keys.get("use_weighting") else None
    kept = {key: value for key, value in keys.items() if key != "use_weighting"}
    name = loss_type

    def loss(moved: Array) -> float:
        if fixed is None:
            return by_paper(moved, loss_type, beta, keys)
        taken = {key.partition(".")[2] for key in loss_named(name).keys}
        each = PAPERS[name](Pairs(moved), beta, **{key: value for key, value in kept.items() if key in taken})
        return float((each * fixed).mean())

    for place in zip(*numpy.nonzero(OWN), strict=True):
        ends = []
        for step in (size, -size):
            moved = tokens.copy()
            moved[place] += step
            ends.append(loss(moved))
        found[place] = (ends[0] - ends[1]) / (2 * size)
    return found


def batch(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, Any, dict[str, torch.Tensor]]:
    """The log-probs as a leaf, a forward's outputs with them, and the batch that they answer."""
    leaf = torch.tensor(TOKENS.reshape(8, WIDTH), dtype=dtype, requires_grad=True)
    squares = torch.tensor(SQUARES.reshape(8, WIDTH), dtype=dtype)
    mask = torch.nn.functional.pad(torch.tensor(OWN.reshape(8, WIDTH)).long(), (1, 0))
    zeros = torch.zeros_like(squares)
    outputs = SimpleNamespace(
        log_probs=leaf, log_sum_sq_probs=squares, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool()
    )
    reference = torch.tensor(REFERENCE, dtype=dtype)
    inputs = {"input_ids": torch.ones_like(mask), "attention_mask": torch.ones_like(mask), "completion_mask": mask}
    return leaf, outputs, inputs | {"ref_chosen_logps": reference[0], "ref_rejected_logps": reference[1]}


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> RunTrainer:
    folder = tmp_path_factory.mktemp("formulas")
    config, store = make_config(write_pairs(folder / "pairs")), Store(folder / "outputs")
    return build_trainer(config, store.run("r"), store, prepare(config, store), [])


def through(trainer: RunTrainer, objective: Objective, dtype: torch.dtype = torch.float64) -> tuple[float, Array]:
    """The trainer's own loss, and its gradient by each token's log-prob."""
    leaf, outputs, inputs = batch(dtype)
    trainer.set_objective(objective)
    loss = trainer._compute_loss(lambda **_: outputs, inputs, return_outputs=False)
    loss.backward()
    return float(loss.detach()), leaf.grad.numpy().reshape(TOKENS.shape) * OWN  # no head computes the rest


@pytest.mark.parametrize("beta", [0.1, 2.0])
@pytest.mark.parametrize(("loss_type", "keys"), CASES, ids=lambda value: json.dumps(value).strip('"'))
def test_every_loss_and_its_gradient_is_that_of_its_paper(
    trainer: RunTrainer, loss_type: str, keys: dict[str, Any], beta: float
) -> None:
    """Values agree to 1e-10, gradients with central differences."""
    found, gradient = through(trainer, Objective(loss_type, beta, keys))
    expected = by_paper(TOKENS, loss_type, beta, keys)
    assert found == pytest.approx(expected, rel=1e-10, abs=1e-10)
    wanted = slopes(TOKENS, loss_type, beta, keys)
    assert numpy.allclose(gradient, wanted, rtol=1e-6, atol=1e-7 * max(1.0, float(numpy.abs(wanted).max())))
    assert numpy.abs(gradient).max() > 0


@pytest.mark.parametrize("alpha", [0.3, 0.5, 2.0])
@pytest.mark.parametrize("loss_type", DIVIDED)
def test_the_alpha_divergence(trainer: RunTrainer, loss_type: str, alpha: float) -> None:
    """TRL computes it in float32 alone."""
    keys = {**SMOOTHED.get(loss_type, {}), "f_divergence": "alpha_divergence", "alpha": alpha}
    found, gradient = through(trainer, Objective(loss_type, 0.1, keys), torch.float32)
    assert found == pytest.approx(by_paper(TOKENS, loss_type, 0.1, keys), rel=1e-5)
    assert numpy.allclose(gradient, slopes(TOKENS, loss_type, 0.1, keys), rtol=1e-3, atol=1e-4)


def test_all_accepted_names_and_keys_are_among_the_cases() -> None:
    """Each paired loss of the installed TRL, each of ours; and each of their keys."""
    names = {loss.name for loss in LOSSES if loss.paired} | trl_losses()
    assert names == PAPERS.keys()
    held = {(name, key) for case, keys in CASES for name in case.split(PLUS) for key in keys}
    for name in names:
        keys = {key.partition(".")[2] for key in loss_named(name).keys} - {"alpha"}
        assert {key for key in keys if (name, key) not in held} == set()


@pytest.mark.parametrize(("loss_type", "keys"), [case for case in CASES if loss_named(case[0]).parts == ()])
def test_the_table_knows_which_losses_have_a_beta(trainer: RunTrainer, loss_type: str, keys: dict[str, Any]) -> None:
    """Of the others every beta is the same loss."""
    first, second = (through(trainer, Objective(loss_type, beta, keys))[0] for beta in (0.1, 0.2))
    assert (first != pytest.approx(second, rel=1e-9)) is loss_named(loss_type).beta


def test_the_draw_tells_losses_apart() -> None:
    """Log-ratios to both sides of 0, for DPOP's penalty; means above 0, for kto_pair's KL; other orders, for AOT."""
    p = Pairs(TOKENS)
    for ratios in (p.c, p.r):
        assert (ratios < 0).any()
        assert ratios.mean() > 0.1
    assert not numpy.array_equal(numpy.argsort(p.sums[0] - p.sums[1]), numpy.argsort(REFERENCE[0] - REFERENCE[1]))
    assert not numpy.array_equal(numpy.argsort(p.c), numpy.argsort(p.r))


def test_no_two_losses_train_the_same_weights(trainer: RunTrainer) -> None:
    """Of all losses with their default keys, the gradients of no two point the same way: no optimizer is told the same.

    Those that would be sigmoid have the least that they need.
    """
    found = {}
    for name in PAPERS:
        _, gradient = through(trainer, Objective(name, 0.1, SMOOTHED.get(name, {})))
        found[name] = gradient.ravel() / numpy.linalg.norm(gradient)
    alike = [(a, b) for a, b in itertools.combinations(found, 2) if abs(found[a] @ found[b]) > 1 - 1e-6]
    assert alike == []
    _, bare = through(trainer, Objective("robust", 0.1))  # which is why it is refused
    assert numpy.allclose(bare, through(trainer, Objective("sigmoid", 0.1))[1], rtol=1e-12)


def test_rewards_are_what_the_papers_call_so(trainer: RunTrainer) -> None:
    """SimPO's mean, CPO's sum, ORPO's log odds, AlphaPO's power, DPO's log-ratio; the metrics are made of them."""
    pairs, beta = Pairs(TOKENS), 0.7
    expected = {
        ("simpo", ()): simpo_rewards(pairs, beta),
        ("simpo", (("length_normalized", False),)): beta * pairs.sums,
        ("cpo", ()): beta * pairs.sums,
        ("orpo", ()): log_odds(pairs),
        ("alphapo", (("alpha", -0.5),)): alphapo_rewards(pairs, beta, -0.5),
        ("sigmoid", ()): beta * numpy.stack([pairs.c, pairs.r]),
        ("dpop", ()): beta * numpy.stack([pairs.c, pairs.r]),
        ("simpo+sft", ()): simpo_rewards(pairs, beta),
        ("sigmoid+sft", ()): beta * numpy.stack([pairs.c, pairs.r]),
    }
    assert REWARDS.keys() <= {name for name, _ in expected}
    trainer.model.eval()
    for (name, keys), (chosen, rejected) in expected.items():
        objective = Objective(name, beta, dict(keys))
        _, outputs, inputs = batch()
        found = torch.stack(completions(outputs, inputs).rewards(objective))
        assert numpy.allclose(found.detach().numpy(), numpy.stack([chosen, rejected]), rtol=1e-12)
        trainer._metrics["eval"].clear()
        through(trainer, objective)
        measured = {key: values[-1] for key, values in trainer._metrics["eval"].items()}
        assert measured["rewards/chosen"] == pytest.approx(chosen.mean())
        assert measured["rewards/rejected"] == pytest.approx(rejected.mean())
        assert measured["rewards/margins"] == pytest.approx((chosen - rejected).mean())
        assert measured["rewards/accuracies"] == pytest.approx((chosen > rejected).mean())


@pytest.mark.parametrize("loss_type", [loss.name for loss in LOSSES if loss.paired])
def test_only_losses_with_a_reference_depend_on_it(trainer: RunTrainer, loss_type: str) -> None:
    """So no table is made for the others, whose batches have no such columns."""
    trainer.set_objective(Objective(loss_type, 0.5, SMOOTHED.get(loss_type, {})))
    _, outputs, inputs = batch()
    bare = {key: value for key, value in inputs.items() if not key.startswith("ref_")}
    with_it, without = (
        float(trainer._compute_loss(lambda **_: outputs, each, return_outputs=False).detach())
        for each in (inputs, bare)
    )
    assert (with_it != pytest.approx(without, rel=1e-9)) is loss_named(loss_type).reference


def test_orpo_stays_finite_where_a_completion_is_certain() -> None:
    """A mean log-prob of 0 has infinite odds; the loss and its gradient are numbers."""
    chosen = torch.zeros(2, requires_grad=True)
    loss = REWARDS["orpo"](chosen, torch.tensor([3, 4])).sum()
    loss.backward()
    assert math.isfinite(float(loss.detach()))
    assert torch.isfinite(chosen.grad).all()
