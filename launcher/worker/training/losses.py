"""The trainer whose losses a sweep compares: TRL's DPOTrainer, plus our own, on a table of reference values.

Owns: the formulas of our paired losses, what of DPOTrainer has to be left out once the reference table exists, and how
a trainer's loss is looked at from outside.
Must not know: where the table, the model and the data come from.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from datasets import Dataset
from trl import DPOTrainer

from launcher.losses import loss_named
from launcher.worker.scoring import head
from launcher.worker.scoring.forward import forward

REFERENCE_COLUMNS = ("ref_chosen_logps", "ref_rejected_logps")


def kto_pair_loss(chosen_logratios: torch.Tensor, rejected_logratios: torch.Tensor, beta: float) -> torch.Tensor:
    """The paired KTO loss, as TRL computed it up to 0.9.4 (`DPOTrainer.dpo_loss`, loss_type="kto_pair").

    With r = log pi(y|x) - log pi_ref(y|x), summed over the completion's tokens:

        KL_c = max(0, mean(r_c))      KL_r = max(0, mean(r_r))      over this device's micro-batch
        loss = mean over the 2n terms  1 - sigmoid(beta (r_c - KL_r))  and  1 - sigmoid(beta (KL_c - r_r))

    The KL estimates are neither gathered over devices nor detached, so the micro-batch size belongs to the objective.
    Where a mean is exactly 0, as at the start, the clamp has a kink: a mean of +1e-7 lets its gradient through,
    0 and -1e-7 do not. Rounding of the reference values therefore decides the first gradients, and Adam, which scales
    them, carries that on: on a model of 30,000 weights six steps at a rate of 1e-3 with the reference table ended 4e-3
    from the same steps with a live reference, where sigmoid and ipo ended 6e-8 apart. Away from the kink they agree.
    """
    chosen_kl = chosen_logratios.mean().clamp(min=0)
    rejected_kl = rejected_logratios.mean().clamp(min=0)
    chosen_losses = 1 - torch.sigmoid(beta * (chosen_logratios - rejected_kl))
    rejected_losses = 1 - torch.sigmoid(beta * (chosen_kl - rejected_logratios))
    return torch.cat([chosen_losses, rejected_losses]).mean()


# Each by the name of its row in `launcher.losses`: the mean loss of the log-ratios of the chosen and of the rejected
# completions, beta, and what of its keys has a value.
FORMULAS: dict[str, Callable[..., torch.Tensor]] = {"kto_pair": kto_pair_loss}


class PreferenceTrainer(DPOTrainer):
    """DPOTrainer on tokenised pairs that carry their reference log-probs; it holds no reference model.

    The policy may be any callable of the model's signature, so that one forward can serve several losses
    (`pair_losses`) and a test can supply outputs.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        head.of_training(self.model)
        self.precompute_ref_logps = True
        self.set_objective(self.loss_types[0], self.beta)

    def set_objective(self, loss_type: str, beta: float, **keys: float) -> None:
        """Compute this loss, with these values of its keys, from now on.

        TRL does not know those of ours: it is told sigmoid, whose metrics are the same.
        """
        self.loss_name, self.loss_keys, self.formula = loss_type, keys, FORMULAS.get(loss_type)
        told = loss_arguments("sigmoid" if self.formula else loss_type, beta)
        self.loss_types, self.beta, self.label_smoothing = told["loss_type"], beta, told["label_smoothing"]

    def _prepare_dataset(self, dataset: Dataset, *_args: Any) -> Dataset:
        """Leave the data alone: it was tokenised, filtered and measured once for the whole sweep."""
        return dataset

    def _precompute_ref_logps(self, dataset: Dataset, *_args: Any) -> Dataset:
        """Leave the data alone: the reference values are there."""
        missing = set(REFERENCE_COLUMNS) - set(dataset.column_names)
        if missing:
            raise ValueError(f"the tokenised pairs lack {sorted(missing)}")
        return dataset

    def create_model_card(self, *_args: Any, **_kwargs: Any) -> None:
        """Write no card into checkpoints; a published revision gets its own."""

    def scorer(self, model: Any) -> Callable[..., Any]:
        """How `model` scores a micro-batch: packed where it is set to that."""
        return partial(forward, model)

    def _compute_loss(self, model: Callable[..., Any], inputs: dict[str, Any], return_outputs: bool) -> Any:
        watched = Watched(head.Filled(model))
        if self.formula is None:
            return super()._compute_loss(watched, inputs, return_outputs)
        super()._compute_loss(watched, inputs, return_outputs=False)  # for its metrics
        (outputs,) = watched.outputs
        loss = self.formula(*logratios(outputs, inputs, self.ld_alpha), self.beta, **self.loss_keys)
        if self.aux_loss_enabled:  # experts' balance, as in TRL's own losses
            loss = loss + self.router_aux_loss_coef * outputs.aux_loss
        return (loss, outputs) if return_outputs else loss

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
        return [Scored(outputs[0], ratios, reference, inputs["completion_mask"], kinds)]


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
    """

    outputs: Any
    ratios: torch.Tensor
    reference: torch.Tensor
    completion_mask: torch.Tensor
    kinds: torch.Tensor

    @property
    def tokens(self) -> torch.Tensor:
        """The length of each completion."""
        return self.completion_mask.sum(dim=1)

    def at(self, ratios: torch.Tensor) -> Any:
        """The outputs of a policy that has these log-ratios.

        A completion's whole log-prob stands on its first token: so the sum has no rounding, and `ld_alpha`, which
        weighs the last tokens of a pair's longer completion, changes nothing.
        """
        own = self.completion_mask[:, 1:]
        first = (own == 1) & (own.cumsum(dim=1) == 1)
        return replace(self.outputs, log_probs=first * (self.reference + ratios)[:, None])


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


def loss_arguments(loss_type: str, beta: float, ld_alpha: float | None = None) -> dict[str, Any]:
    """What DPOConfig must be told for this loss; for unpaired completions see `kto.kto_arguments`."""
    smoothing = loss_named(loss_type).label_smoothing
    return {"loss_type": [loss_type], "beta": beta, "label_smoothing": smoothing, "ld_alpha": ld_alpha}
