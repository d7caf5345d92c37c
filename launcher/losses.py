"""What has to be known of a loss beside its formula, which stands under the same name in `worker.training.losses`.

Owns: the table of losses: ours, and those of TRL that differ from the rest of TRL's.
Must not know: torch, TRL; which losses the installed TRL computes (`installed` does); how one is computed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from difflib import SequenceMatcher

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
ALIASES = {"dpo": "sigmoid"}  # what a method is called, and TRL's name of its loss
_NO_LOSSES = {  # what is here in place of methods whose names are no names of losses
    "its hinge loss, on the log-ratios to a reference, is loss_type=hinge": "slic slic_hf",
    "its loss on the pairs as they are is loss_type=hinge; its sampling of pairs is not done here": "rso",
    "it has no reference model, and the losses on pairs here are functions of the log-ratios to one": (
        "simpo orpo cpo rrhf"
    ),
    "it trains on answers that it samples, and all here is trained on a fixed data set": (
        "ppo grpo rloo dapo gspo reinforce online_dpo xpo nash_md raft"
    ),
    "its loss on pairs is loss_type=bco_pair": "bco",
    "its loss on pairs is loss_type=nca_pair": "nca",
    "its loss on pairs is loss_type=exo_pair": "exo",
    "its loss with hard labels is loss_type=sppo_hard": "sppo",
    "its losses are loss_type=apo_zero and loss_type=apo_down": "apo",
    "DPO for noisy labels is loss_type=robust": "rdpo robust_dpo",
    "it is loss_type=sigmoid with trainer.ld_alpha": "ld_dpo",
    "DPO of mean log-ratios is loss_type=sigmoid_norm": "ln_dpo dpo_norm",
    "that method's loss is not computed here": (
        "cdpo tdpo rpo wpo tpo spo mpo mdpo sdpo odpo epo gpo bpo dro dpop spin kpo lipo rebel f_dpo beta_dpo alpha_dpo"
    ),
}
_METHODS = {name: instead for instead, names in _NO_LOSSES.items() for name in names.split()}
_LONG_NAME, _ALIKE = 6, 0.75  # letters; of difflib's measure
LOSS_KEYS = tuple(dict.fromkeys(key for loss in LOSSES for key in loss.keys))


def loss_named(name: str) -> Loss:
    """The row of a loss; one without a row is like most of TRL's."""
    return next((loss for loss in LOSSES if loss.name == name), Loss(name))


def what_instead(name: str, known: Collection[str]) -> str:
    """What to say of a name that is none of these losses: of a method's what is here instead, of a typo what is meant.

    No method's name is taken for another's that is spelt alike.
    """
    plain = name.lower().replace("-", "_")
    if plain in (*known, *ALIASES):
        return f"; did you mean {plain!r}?"
    if plain in _METHODS:
        return f"; {_METHODS[plain]}"
    near = [each for each in (*known, *ALIASES, *_METHODS) if _is_misspelt(plain, each)]
    if len(near) != 1 or near[0] in _METHODS:
        return f"; {near[0]} is no loss here: {_METHODS[near[0]]}" if len(near) == 1 else ""
    return f"; did you mean {near[0]!r}?"


def _is_misspelt(word: str, name: str) -> bool:
    """Whether the same letters stand in another order, or one is missing or doubled; in long names also more."""
    missing = any(name[:i] + name[i + 1 :] == word for i in range(len(name)))
    doubled = any(name[: i + 1] + name[i:] == word for i in range(len(name)))
    likely = len(name) >= _LONG_NAME and SequenceMatcher(None, word, name).ratio() >= _ALIKE
    return sorted(word) == sorted(name) or missing or doubled or likely
