"""What has to be known of a loss beside its formula, which stands under the same name in `worker.training.losses`.

Owns: the table of losses: ours, and those of TRL that differ from the rest of TRL's.
Must not know: torch, TRL; which losses the installed TRL computes (`installed` does); how one is computed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from launcher.config import Trainer


@dataclass(frozen=True)
class Loss:
    """A loss as rules, evaluation and out-of-memory handling see it. The defaults are those of most losses of TRL.

    Attributes:
        name: the value of `loss_type`.
        ours: whether it is there though TRL's DPOTrainer does not compute it.
        paired: whether it trains on pairs; else on completions with a label, by TRL's KTOTrainer.
        neighbours: whether the loss of a pair depends on the others in its micro-batch: then that is a part of the
            objective, and may not be halved.
        reference: whether it is a function of the log-ratios to the reference model, so that its start is known.
        ld_alpha: whether `trainer.ld_alpha` is defined for it.
        label_smoothing: the share of wrong labels that TRL is told to assume.
        keys: which keys of `trainer` are for this loss alone, and the number that each one's value must exceed. All
            are null by default, for the formula's own default, and a null enters no run's id.
    """

    name: str
    ours: bool = False
    paired: bool = True
    neighbours: bool = False
    reference: bool = True
    ld_alpha: bool = True
    label_smoothing: float = 0.0
    keys: Mapping[str, float] = field(default_factory=dict)

    def given(self, trainer: Trainer) -> dict[str, float]:
        """Its keys that have a value, for its formula."""
        values = {key: getattr(trainer, key) for key in self.keys}
        return {key: value for key, value in values.items() if value is not None}


LOSSES = (
    # ours
    Loss("kto_pair", ours=True, neighbours=True, ld_alpha=False),  # its KL is estimated within the micro-batch
    Loss(  # by TRL's KTOTrainer; its KL is estimated within the micro-batch
        "kto", ours=True, paired=False, neighbours=True, ld_alpha=False,
        keys={"desirable_weight": 0, "undesirable_weight": 0},
    ),
    # TRL's
    Loss("aot", neighbours=True),  # sorted over the micro-batch
    Loss("aot_unpaired", neighbours=True),  # the same
    Loss("bco_pair", neighbours=True),  # in some releases of TRL: running moments of the rewards
    Loss("exo_pair", label_smoothing=1e-3),  # the EXO paper's own value; TRL refuses it without one
    Loss("sft", neighbours=True, reference=False),  # a mean over the micro-batch's tokens
)  # fmt: skip
OUR_LOSSES = tuple(loss.name for loss in LOSSES if loss.ours)
UNPAIRED_LOSSES = tuple(loss.name for loss in LOSSES if not loss.paired)  # their trainer is `worker.training.kto`
LOSS_KEYS = tuple(dict.fromkeys(key for loss in LOSSES for key in loss.keys))


def loss_named(name: str) -> Loss:
    """The row of a loss; one without a row is like most of TRL's."""
    return next((loss for loss in LOSSES if loss.name == name), Loss(name))
