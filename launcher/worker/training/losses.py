"""The trainer whose losses a sweep compares: TRL's DPOTrainer, plus our own, on a table of reference values.

Owns: how losses and their sums are computed from one forward, what of DPOTrainer has to be left out once the reference
table exists, and how a trainer's loss is looked at from outside.
Must not know: the formulas (`formulas`, TRL); where the table, the model and the data come from.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from datasets import Dataset
from trl import DPOTrainer

from launcher.config import RunConfig
from launcher.losses import LOG_RATIO, Loss, given, loss_named
from launcher.worker.scoring import head
from launcher.worker.scoring.forward import forward
from launcher.worker.training.formulas import FORMULAS, REWARDS

EXO_SMOOTHING = 1e-3  # the EXO paper's own value
DISCOPOP_TAU, DIVERGENCE_ALPHA = 0.05, 0.5  # TRL's own
REFERENCE_COLUMNS = ("ref_chosen_logps", "ref_rejected_logps")


@dataclass(frozen=True)
class Objective:
    """A loss with its numbers: `keys` are those of `launcher.losses.given`, of which each part takes its own."""

    loss_type: str
    beta: float
    keys: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, config: RunConfig) -> Objective:
        """What a run trains."""
        return cls(config.loss_type, config.beta, given(config))

    @property
    def loss(self) -> Loss:
        """The row of it, or of the sum."""
        return loss_named(self.loss_type)

    @property
    def terms(self) -> list[tuple[float, Loss]]:
        """The losses that it is the sum of, each with its weight."""
        weights = self.keys.get("weights") or [1.0] * len(self.loss.terms)
        return list(zip(weights, self.loss.terms, strict=True))

    @property
    def ours(self) -> list[tuple[float, Loss]]:
        """Those of them that `formulas` has."""
        return [(weight, loss) for weight, loss in self.terms if loss.name in FORMULAS]

    @property
    def theirs(self) -> list[tuple[float, Loss]]:
        """Those that TRL computes."""
        return [(weight, loss) for weight, loss in self.terms if loss.name not in FORMULAS]

    def keys_of(self, loss: Loss) -> dict[str, Any]:
        """The keys of one of its losses that have a value."""
        taken = {key.partition(".")[2] for key in loss.keys}
        return {key: value for key, value in self.keys.items() if key in taken}


@dataclass(frozen=True)
class Completions:
    """What a forward says of the completions of a batch of pairs, chosen and then rejected: sums, and their tokens."""

    log_probs: tuple[torch.Tensor, torch.Tensor]
    ratios: tuple[torch.Tensor, torch.Tensor]
    tokens: tuple[torch.Tensor, torch.Tensor]

    def loss(self, loss: Loss, objective: Objective) -> torch.Tensor:
        """One of our losses."""
        told = self.ratios if loss.reference else (*self.log_probs, *self.tokens)
        return FORMULAS[loss.name](*told, objective.beta, **objective.keys_of(loss))

    def rewards(self, objective: Objective) -> tuple[torch.Tensor, torch.Tensor]:
        """The rewards whose differences are accuracy and margin, as the loss defines them."""
        named = next((loss for _, loss in objective.terms if loss.reward == objective.loss.reward), objective.loss)
        if named.name not in REWARDS:
            return objective.beta * self.ratios[0], objective.beta * self.ratios[1]
        reward, keys = REWARDS[named.name], objective.keys_of(named)
        chosen, rejected = zip(self.log_probs, self.tokens, strict=True)
        return reward(*chosen, objective.beta, **keys), reward(*rejected, objective.beta, **keys)


def completions(outputs: Any, inputs: dict[str, Any], ld_alpha: float | None = None) -> Completions:
    """What the outputs of a forward say of a batch."""
    sums, _ = sums_and_tails(outputs.log_probs, inputs["completion_mask"])
    tokens = inputs["completion_mask"][:, 1:].sum(dim=1).clamp(min=1).to(sums.device)
    return Completions(_halves(sums), logratios(outputs, with_reference(inputs), ld_alpha), _halves(tokens))


def _halves(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    chosen, rejected = values.chunk(2)
    return chosen, rejected


def with_reference(inputs: dict[str, Any]) -> dict[str, Any]:
    """The batch with the columns of a reference, of 0 where it has none, so that log-ratios are log-probs."""
    if all(name in inputs for name in REFERENCE_COLUMNS):
        return inputs
    none = torch.zeros(len(inputs["completion_mask"]) // 2, device=inputs["completion_mask"].device)
    return inputs | dict.fromkeys(REFERENCE_COLUMNS, none)


class PreferenceTrainer(DPOTrainer):
    """DPOTrainer on tokenised pairs that carry their reference log-probs; it holds no reference model.

    The policy may be any callable of the model's signature, so that one forward can serve several losses
    (`pair_losses`) and a test can supply outputs.
    """

    def __init__(self, *args: Any, objective: Objective, **kwargs: Any) -> None:
        self.objective = objective
        super().__init__(*args, **kwargs)
        head.of_training(self.model, weighted=self.use_weighting)
        self.precompute_ref_logps = True
        self.set_objective(objective)

    def set_objective(self, objective: Objective) -> None:
        """Compute this loss from now on.

        TRL does not know those of ours: of them alone it is told sigmoid, whose metrics are the same.
        """
        self.objective, self.loss_name = objective, objective.loss_type
        told = loss_arguments(objective)
        self.loss_types, self.loss_weights, self.beta = told["loss_type"], told["loss_weights"], objective.beta
        self.label_smoothing, self.use_weighting = told["label_smoothing"], told["use_weighting"]
        self.f_divergence_type = told["f_divergence_type"]
        self.f_alpha_divergence_coef = told["f_alpha_divergence_coef"]
        self.args.discopop_tau = told["discopop_tau"]  # which TRL reads there

    def _prepare_dataset(self, dataset: Dataset, *_args: Any) -> Dataset:
        """Leave the data alone: it was tokenised, filtered and measured once for the whole sweep."""
        return dataset

    def _precompute_ref_logps(self, dataset: Dataset, *_args: Any) -> Dataset:
        """Leave the data alone: the reference values are there."""
        missing = set(REFERENCE_COLUMNS) - set(dataset.column_names)
        if missing and self.objective.loss.needs_table:
            raise ValueError(f"the tokenised pairs lack {sorted(missing)}")
        return dataset

    def create_model_card(self, *_args: Any, **_kwargs: Any) -> None:
        """Write no card into checkpoints; a published revision gets its own."""

    def scorer(self, model: Any) -> Callable[..., Any]:
        """How `model` scores a micro-batch: packed where it is set to that."""
        return partial(forward, model)

    def _compute_loss(self, model: Callable[..., Any], inputs: dict[str, Any], return_outputs: bool) -> Any:
        inputs, watched = with_reference(inputs), Watched(head.Filled(model))
        if not self.objective.ours:
            return super()._compute_loss(watched, inputs, return_outputs)
        theirs = super()._compute_loss(watched, inputs, return_outputs=False)  # also for its metrics
        (outputs,) = watched.outputs
        told = completions(outputs, inputs, self.ld_alpha)
        loss = sum(weight * told.loss(each, self.objective) for weight, each in self.objective.ours)
        if self.objective.theirs:
            loss = loss + theirs
        elif self.aux_loss_enabled:  # experts' balance, as in TRL's own losses
            loss = loss + self.router_aux_loss_coef * outputs.aux_loss
        if self.objective.loss.reward != LOG_RATIO:
            self._measure_rewards(*(each.detach() for each in told.rewards(self.objective)))
        return (loss, outputs) if return_outputs else loss

    def _measure_rewards(self, chosen: torch.Tensor, rejected: torch.Tensor) -> None:
        """Put the metrics of these rewards in place of those that TRL has just made of log-ratios."""
        chosen, rejected = self.accelerator.gather(chosen), self.accelerator.gather(rejected)
        measured = {
            "rewards/chosen": chosen,
            "rewards/rejected": rejected,
            "rewards/accuracies": (chosen > rejected).float(),
            "rewards/margins": chosen - rejected,
        }
        metrics = self._metrics["train" if self.model.training else "eval"]
        for name, values in measured.items():
            metrics[name][-1] = values.mean().item()

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """As TRL does, without the metrics of what the head leaves out."""
        head.forget_unlogged(self)
        super().log(logs, *args, **kwargs)

    def place(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch on the model's device."""
        placed: dict[str, Any] = self._prepare_inputs(batch)
        return placed

    def loss_of(self, outputs: Any, inputs: dict[str, Any]) -> float:
        """The loss of a forward that was made elsewhere; nothing is logged."""
        return loss_of(self, [outputs], inputs)

    def scored(self, outputs: Sequence[Any], inputs: dict[str, Any]) -> list[Scored]:
        """What the loss is told of a batch by its one forward: the chosen completions, then the rejected."""
        ratios = torch.cat(logratios(outputs[0], inputs, self.ld_alpha))
        reference = torch.cat([inputs[name] for name in REFERENCE_COLUMNS])
        kinds = torch.arange(2, device=ratios.device).repeat_interleave(len(ratios) // 2)
        tails = None
        if self.ld_alpha is not None:
            tails = sums_and_tails(outputs[0].log_probs, inputs["completion_mask"])[1]
        return [Scored(outputs[0], ratios, reference, inputs["completion_mask"], kinds, tails, self.ld_alpha)]


class Watched:
    """A model whose outputs can be looked at afterwards."""

    def __init__(self, model: Callable[..., Any]) -> None:
        self.model = model
        self.outputs: list[Any] = []

    def __call__(self, **inputs: Any) -> Any:
        """The model's answer."""
        self.outputs.append(self.model(**inputs))
        return self.outputs[-1]


@dataclass(frozen=True)
class Scored:
    """What a trainer's loss is told of some completions by one forward of the policy.

    Attributes:
        outputs: the forward's.
        ratios: log pi - log pi_ref of each completion.
        reference: its log pi_ref.
        completion_mask: 1 where a token belongs to it, (completions, length).
        kinds: a number for each, the same for those that the loss treats alike.
        tails: under `ld_alpha`, the policy's log-prob of the part of each that `ld_alpha` weighs.
    """

    outputs: Any
    ratios: torch.Tensor
    reference: torch.Tensor
    completion_mask: torch.Tensor
    kinds: torch.Tensor
    tails: torch.Tensor | None = None
    ld_alpha: float | None = None

    @property
    def tokens(self) -> torch.Tensor:
        """The length of each completion."""
        return self.completion_mask.sum(dim=1)

    def at(self, ratios: torch.Tensor) -> Any:
        """The outputs of a policy that has these log-ratios.

        A completion's log-prob stands on its first token, so that the sum has no rounding. What `ld_alpha` weighs
        stands on its last: the sum with weights is then the given one, and the plain sum, which WPO's weights and
        `sft` go by, has all of it.
        """
        own = self.completion_mask[:, 1:]
        place = own.cumsum(dim=1)
        first, sums = (own == 1) & (place == 1), self.reference + ratios
        if self.tails is None or self.ld_alpha is None:
            return replace(self.outputs, log_probs=first * sums[:, None])
        last = (own == 1) & (place == place[:, -1:])
        weighed = first * (sums - self.ld_alpha * self.tails)[:, None]
        return replace(self.outputs, log_probs=weighed + last * self.tails[:, None])


@contextmanager
def unlogged(trainer: Any) -> Iterator[None]:
    """Within, nothing that a TRL trainer computes is logged or counted."""
    kept = {name: getattr(trainer, name) for name in ("_metrics", "_total_train_tokens")}
    trainer._metrics = {mode: defaultdict(list) for mode in kept["_metrics"]}  # noqa: SLF001 - TRL has no other way
    try:
        yield
    finally:
        for name, value in kept.items():
            setattr(trainer, name, value)


def loss_of(trainer: Any, outputs: Sequence[Any], inputs: dict[str, Any]) -> float:
    """The loss of forwards that were made elsewhere, in the order in which it asks for them; nothing is logged."""
    made = iter(outputs)
    with unlogged(trainer):
        return float(trainer._compute_loss(lambda **_: next(made), inputs, return_outputs=False))  # noqa: SLF001


def logratios(outputs: Any, inputs: dict[str, Any], ld_alpha: float | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """The log pi - log pi_ref of the chosen and of the rejected completions of a batch."""
    sums, tails = sums_and_tails(outputs.log_probs, inputs["completion_mask"])
    chosen, rejected = (sums if ld_alpha is None else sums - (1 - ld_alpha) * tails).chunk(2)
    return chosen - inputs["ref_chosen_logps"], rejected - inputs["ref_rejected_logps"]


def sums_and_tails(log_probs: torch.Tensor, completion_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Summed log-probs of each completion, and of its part beyond the length of its pair's shorter completion.

    LD-DPO (arXiv:2409.06411) weighs that part with alpha; its sum is then `sums - (1 - alpha) * tails`.

    Args:
        log_probs: of the tokens from the second on, (2 pairs, length - 1); the chosen completions first.
        completion_mask: 1 where a token belongs to a completion, (2 pairs, length).
    """
    place = completion_mask[:, 1:].to(log_probs.device).cumsum(dim=1)
    log_probs = log_probs[:, -place.shape[1] :]
    chosen, rejected = place[:, -1].chunk(2)
    shared = torch.minimum(chosen, rejected).repeat(2)
    return log_probs.sum(dim=1), (log_probs * (place > shared[:, None])).sum(dim=1)


def loss_arguments(objective: Objective, ld_alpha: float | None = None) -> dict[str, Any]:
    """What DPOConfig must be told for this loss; for unpaired completions see `kto.kto_arguments`.

    What is null has TRL's own default, but for exo_pair's smoothing: TRL refuses it without one. `robust` without one
    is a run of an earlier version, which knew no such key.
    """
    theirs, keys = objective.theirs, objective.keys
    names = [loss.name for _, loss in theirs] or ["sigmoid"]
    told = {key: keys.get(key) for key in ("label_smoothing", "use_weighting", "tau", "f_divergence", "alpha")}
    smoothing = EXO_SMOOTHING if told["label_smoothing"] is None and "exo_pair" in names else told["label_smoothing"]
    return {
        "loss_type": names,
        "loss_weights": [weight for weight, _ in theirs] or [1.0],
        "beta": objective.beta,
        "label_smoothing": (theirs and smoothing) or 0.0,
        "ld_alpha": ld_alpha,
        "use_weighting": bool(theirs and told["use_weighting"]),
        "discopop_tau": DISCOPOP_TAU if told["tau"] is None else told["tau"],
        "f_divergence_type": (theirs and told["f_divergence"]) or "reverse_kl",
        "f_alpha_divergence_coef": DIVERGENCE_ALPHA if told["alpha"] is None else told["alpha"],
    }
