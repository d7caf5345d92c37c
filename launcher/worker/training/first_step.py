"""Whether a training starts at the reference model, where log-ratios are 0 and the loss is what it is at 0.

Owns: that check, how much of a difference rounding explains, what a user is told of the rest.
Must not know: how a trainer computes its loss; where the table and the model come from.

A policy that is another model than the one of the reference table trains without any other sign: its rewards and its
KL are measured from where it never was.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from launcher.errors import TrainingError
from launcher.losses import loss_named
from launcher.worker.scoring.rounding import EPSILON, ULPS, moved_by, precision_of_products
from launcher.worker.training.losses import Scored, loss_of

NATS = {torch.float32: 5e-4, torch.bfloat16: 0.4}  # see `rounding`
CAUSES = (
    "the weights were changed after the table was made (remove cache/reference below output_dir)",
    "dropout in the model's own code (set it to 0 in its config.json)",
    "an adapter loaded on top of the base (merge it, and give model.path the merged weights)",
    "router noise of a model with experts (set it to 0 in its config.json)",
    "another attention kernel (keep to one model.attn_implementation and one kind of device)",
)


@dataclass(frozen=True)
class Farthest:
    """The log-ratio that is farthest from 0 beyond what rounding explains of it."""

    ratio: float
    tokens: int
    explained: float

    def is_too_far(self) -> bool:
        """Whether something else than rounding moved it; nan is too far as well."""
        return not self.ratio <= self.explained

    def __str__(self) -> str:
        explained = f"rounding explains {self.explained:.2g}"
        return f"log-ratios up to {self.ratio:.2g} nats over {self.tokens} tokens; {explained}"


@dataclass(frozen=True)
class Start:
    """A loss at log-ratios of 0, and how far from it log-ratios lead that rounding explains."""

    loss: float
    within: float


@torch.no_grad()
def check(trainer: Any, loss: float, outputs: Sequence[Any], inputs: dict[str, Any]) -> None:
    """Look at a micro-batch of the first step: its loss, and the forwards that it comes from. All ranks take part.

    Raises:
        TrainingError: the policy is not the reference model, or its loss is not what it is there.
    """
    if not loss_named(trainer.loss_name).needs_table:  # nothing is known of its start
        return
    scored = trainer.scored(outputs, inputs)
    bounds = [rounding(part.tokens, part.reference, trainer.precision) for part in scored]
    farthest, wrong = _farthest(scored, bounds), ""
    if loss_named(trainer.loss_name).reference:
        start = known_start(trainer, scored, bounds, inputs)
        if not abs(loss - start.loss) <= start.within:
            wrong = f"the loss is {_apart(loss, start.loss)} as of {trainer.loss_name} at the start: "
    if farthest.is_too_far():
        causes = "; ".join(CAUSES)
        told = f"the policy is not the model of the reference table ({farthest}). Likely causes: {causes}"
    elif wrong:
        told = (
            f"yet the policy is the model of the reference table ({farthest}). Likely cause: another version of TRL; "
        )
        told += "install the one in constraints.txt"
    else:
        return
    raise TrainingError(f"step 1: {wrong}{told}")


def rounding(tokens: torch.Tensor, reference: torch.Tensor, precision: torch.dtype) -> torch.Tensor:
    """By how many nats rounding may move the log-probs of completions of so many tokens.

    In training a completion meets other neighbours and another padding than in the reference pass, hence another
    blocking of the same products: each token's log-prob moves a little, to either side, and the sum over T of them by
    about sqrt(T). A single token may move farther, so T counts as 16 more. Their sum then has a rounding of its own.

    Measured on a CPU, the largest |log-ratio| / sqrt(T + 16) of 4,900, of completions of 2 to 499 tokens, in
    micro-batches of 1 to 8 after a pass in batches of 8, full and LoRA, with and without gradient checkpointing:

        float32    SmolLM2-135M 5e-6; random Llama, GPT-2 and Mixtral, some on 4-bit weights, 2e-5: all of it one or
                   two units in the last place of the sum
        bfloat16   SmolLM2-135M 0.08 (0.5 nats over 33 tokens), on 4-bit weights 0.09 (1.4 nats over 209), with eager
                   attention 6e-6; random models 0.02

    Two ranks, with and without ZeRO-3, are in float32 where one is. A false alarm costs a sweep, and no GPU and no
    large model was seen: so the bounds are 4 times what was seen in bfloat16, 25 times in float32. That is below
    0.05 nats a token in bfloat16, and below 1e-4 in float32, where a completion has 100 tokens.
    """
    return moved_by(NATS[precision_of_products(precision)], tokens, reference)


def _farthest(scored: Sequence[Scored], bounds: Sequence[torch.Tensor]) -> Farthest:
    ratios, tokens = torch.cat([part.ratios for part in scored]).abs(), torch.cat([part.tokens for part in scored])
    explained = torch.cat(list(bounds))
    worst = (ratios - explained).argmax()  # nan counts as the largest
    return Farthest(ratios[worst].item(), int(tokens[worst]), explained[worst].item())


def known_start(
    trainer: Any, scored: Sequence[Scored], bounds: Sequence[torch.Tensor], inputs: dict[str, Any]
) -> Start:
    """By the trainer's own loss, from outputs as they would be there."""

    def loss_at(ratios: Sequence[torch.Tensor]) -> float:
        return loss_of(trainer, [part.at(values) for part, values in zip(scored, ratios, strict=True)], inputs)

    start = loss_at([torch.zeros_like(bound) for bound in bounds])
    moved = max(abs(loss_at(corner) - start) for corner in _corners(scored, bounds))
    return Start(start, moved + ULPS * EPSILON * abs(start))


def _corners(scored: Sequence[Scored], bounds: Sequence[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """Log-ratios as far from 0 as rounding may move them, all of a kind to the same side.

    Losses are monotone or convex in the log-ratios of each kind near 0, so nothing between is farther from the start.
    """
    kinds = 1 + max(int(part.kinds.max()) for part in scored)
    for sides in itertools.product((-1.0, 1.0), repeat=kinds):
        side = torch.tensor(sides, device=bounds[0].device)
        yield [side[part.kinds] * bound for part, bound in zip(scored, bounds, strict=True)]


def _apart(loss: float, start: float) -> str:
    """Both, with as many digits as tell them apart."""
    digits = next((digits for digits in (4, 6) if f"{loss:.{digits}g}" != f"{start:.{digits}g}"), 8)
    return f"{loss:.{digits}g}, not {start:.{digits}g}"
