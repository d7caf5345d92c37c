"""What has to be known of a loss beside its formula, which stands under the same name in `worker.training.losses`.

Owns: the table of losses, which keys each takes, what a sum of them is.
Must not know: torch, TRL; which losses the installed TRL computes (`installed` does); how one is computed; what values
a key may have, and which formulas coincide (`planning.loss_rules`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

from launcher.config import RunConfig

PLUS = "+"  # between the parts of a sum, `sigmoid+sft`
LOG_RATIO = "beta (log pi - log pi_ref)"  # the reward of a completion, where its row says nothing else
LOG_PROB, MEAN_LOG_PROB = "beta log pi", "beta / |y| log pi"
WEIGHTING = ("loss.use_weighting",)
DIVERGENCES = ("loss.f_divergence", "loss.alpha")  # alpha is that of the alpha divergence
WEIGHTS = ("loss.weights",)
OF_LABELS = ("trainer.desirable_weight", "trainer.undesirable_weight")


@dataclass(frozen=True)
class Loss:
    """A loss as rules, evaluation and out-of-memory handling see it. The defaults are those of most losses of TRL.

    Attributes:
        name: the value of `loss_type`; of a sum, its parts with `+` between them.
        ours: whether it is there though TRL's DPOTrainer does not compute it.
        paired: whether it trains on pairs; else on completions with a label, by TRL's KTOTrainer.
        neighbours: whether the loss of a pair depends on the others in its micro-batch: then that is a part of the
            objective, and may not be halved.
        reference: whether it is a function of the log-ratios to the reference model, so that its start is known.
        reward: what the reward of a completion is, whose differences are accuracy and margin. Only rewards of one
            definition can be compared.
        beta: whether its formula has a beta.
        ld_alpha: whether `trainer.ld_alpha` is defined for it.
        keys: which keys are for this loss, and for those alone that name them too. All are null by default, for the
            formula's own default, and a null enters no run's id.
        needs: those of the keys without which it is no loss of its own.
        parts: of a sum, its losses.
    """

    name: str
    ours: bool = False
    paired: bool = True
    neighbours: bool = False
    reference: bool = True
    reward: str = LOG_RATIO
    beta: bool = True
    ld_alpha: bool = True
    keys: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    parts: tuple[Loss, ...] = ()

    @property
    def needs_table(self) -> bool:
        """Whether its loss, or its reward, is a function of what the reference model says of the completions."""
        return self.reference or self.reward == LOG_RATIO

    @property
    def terms(self) -> tuple[Loss, ...]:
        """Its parts; of one that is no sum, itself."""
        return self.parts or (self,)


LOSSES = (
    # ours
    Loss("kto_pair", ours=True, neighbours=True, ld_alpha=False),  # its KL is estimated within the micro-batch
    Loss("cdpo", ours=True, keys=("loss.label_smoothing",), needs=("loss.label_smoothing",)),
    Loss("dpop", ours=True, keys=("loss.lam",)),
    Loss(
        "simpo", ours=True, reference=False, reward=MEAN_LOG_PROB, ld_alpha=False,
        keys=("loss.gamma", "loss.length_normalized"),
    ),
    Loss(
        "cpo", ours=True, reference=False, reward=LOG_PROB, ld_alpha=False,
        keys=("loss.alpha", "loss.length_normalized"),
    ),
    Loss(
        "orpo", ours=True, reference=False, reward="log odds of pi^(1/|y|)", ld_alpha=False, beta=False,
        keys=("loss.lam",),
    ),
    Loss(
        "alphapo", ours=True, reference=False, reward="beta (1 - pi^(-alpha/|y|)) / alpha", ld_alpha=False,
        keys=("loss.alpha", "loss.gamma"),
    ),
    # ours, by TRL's KTOTrainer; the KL of the first is estimated within the micro-batch
    Loss("kto", ours=True, paired=False, neighbours=True, ld_alpha=False, keys=OF_LABELS),
    Loss("apo_zero_unpaired", ours=True, paired=False, ld_alpha=False, keys=OF_LABELS),
    # TRL's
    Loss("sigmoid", keys=(*DIVERGENCES, *WEIGHTING)),
    Loss("sigmoid_norm", keys=(*DIVERGENCES, *WEIGHTING)),
    Loss("hinge", keys=DIVERGENCES),  # weighted, TRL 1.16 has no backward of it: it changes what relu has kept
    Loss("ipo", keys=(*DIVERGENCES, *WEIGHTING)),
    Loss("exo_pair", keys=("loss.label_smoothing", *DIVERGENCES, *WEIGHTING)),
    Loss("robust", keys=("loss.label_smoothing", *DIVERGENCES, *WEIGHTING), needs=("loss.label_smoothing",)),
    Loss("discopop", keys=("loss.tau", *DIVERGENCES, *WEIGHTING)),
    Loss("nca_pair", keys=WEIGHTING),
    Loss("bco_pair", neighbours=True, keys=WEIGHTING),  # in some releases of TRL: running moments of the rewards
    Loss("sppo_hard", keys=WEIGHTING),
    Loss("apo_zero", keys=WEIGHTING),
    Loss("apo_down", keys=WEIGHTING),
    Loss("aot", neighbours=True, keys=("loss.label_smoothing",)),  # sorted over the micro-batch
    Loss("aot_unpaired", neighbours=True, keys=("loss.label_smoothing",)),  # the same
    Loss("sft", neighbours=True, reference=False, beta=False),  # a mean over the micro-batch's tokens
)  # fmt: skip
_BY_NAME = {loss.name: loss for loss in LOSSES}
OUR_LOSSES = tuple(loss.name for loss in LOSSES if loss.ours)
UNPAIRED_LOSSES = tuple(loss.name for loss in LOSSES if not loss.paired)  # their trainer is `worker.training.kto`
# The keys of `trainer` that are some losses' own.
TRAINER_KEYS = tuple(
    dict.fromkeys(key.removeprefix("trainer.") for loss in LOSSES for key in loss.keys if key.startswith("trainer."))
)
ALIASES = {"dpo": "sigmoid", "dpo_positive": "dpop"}  # what a method is called, and TRL's name of its loss
_NO_LOSSES = {  # what is here in place of methods whose names are no names of losses
    "its hinge loss, on the log-ratios to a reference, is loss_type=hinge": "slic slic_hf",
    "its loss on the pairs as they are is loss_type=hinge; its sampling of pairs is not done here": "rso",
    "it trains on answers that it samples, and all here is trained on a fixed data set": (
        "ppo grpo rloo dapo gspo reinforce online_dpo xpo nash_md raft"
    ),
    "its loss on pairs is loss_type=bco_pair": "bco",
    "its loss on pairs is loss_type=nca_pair": "nca",
    "its loss on pairs is loss_type=exo_pair": "exo",
    "its loss with hard labels is loss_type=sppo_hard": "sppo",
    "its losses are loss_type=apo_zero and loss_type=apo_down": "apo",
    "DPO for noisy labels is loss_type=robust, with loss.label_smoothing": "rdpo robust_dpo",
    "it is loss_type=sigmoid with trainer.ld_alpha": "ld_dpo",
    "it is loss_type=sigmoid+sft with loss.weights": "rpo irpo",
    "it is loss_type=sigmoid+bco_pair+sft with loss.weights=[0.8,0.2,1]": "mpo",
    "it is loss_type=sigmoid with loss.use_weighting=true": "wpo",
    "it is loss_type=sigmoid with loss.f_divergence": "f_dpo",
    "it is loss_type=simpo+sft with loss.weights": "cpo_simpo",
    "DPO of mean log-ratios is loss_type=sigmoid_norm": "ln_dpo dpo_norm",
    "that method's loss is not computed here": (
        "tdpo tpo spo mdpo sdpo odpo epo gpo bpo dro spin kpo lipo rebel beta_dpo alpha_dpo rrhf"
    ),
}
_METHODS = {name: instead for instead, names in _NO_LOSSES.items() for name in names.split()}
_LONG_NAME, _ALIKE = 6, 0.75  # letters; of difflib's measure


def loss_named(name: str) -> Loss:
    """The row of a loss, or of a sum of losses; one without a row is like most of TRL's."""
    if PLUS not in name:
        return _BY_NAME.get(name) or Loss(name)
    parts = tuple(loss_named(part) for part in name.split(PLUS))
    keys = dict.fromkeys(key for part in parts for key in part.keys if _of_all(key, parts))
    return Loss(
        name,
        paired=all(part.paired for part in parts),
        neighbours=any(part.neighbours for part in parts),
        reference=any(part.reference for part in parts),
        reward=next((part.reward for part in parts if part.name != "sft"), LOG_RATIO),
        beta=any(part.beta for part in parts),
        ld_alpha=all(part.ld_alpha for part in parts),
        keys=(*keys, *WEIGHTS),
        needs=tuple(dict.fromkeys(key for part in parts for key in part.needs)),
        parts=parts,
    )


def reward_of(name: str, keys: Mapping[str, Any]) -> str:
    """What the reward of a completion is under a loss with these keys, in words that only the same reward has."""
    loss = loss_named(name)
    if not loss.paired:  # their accuracy and margin are of desirable and undesirable ones, whatever their prompts
        return f"{loss.reward}, of unpaired completions"
    if loss.reward in (LOG_PROB, MEAN_LOG_PROB) and keys.get("length_normalized") is not None:
        return MEAN_LOG_PROB if keys["length_normalized"] else LOG_PROB
    shaped = any(part.name == "alphapo" and part.reward == loss.reward for part in loss.terms)
    return f"{loss.reward}, alpha {keys['alpha']:g}" if shaped and keys.get("alpha") is not None else loss.reward


def _of_all(key: str, parts: Collection[Loss]) -> bool:
    """Whether a key can be given to a sum: TRL divides and weighs all of a sum's parts alike, or none of them."""
    if key not in (*DIVERGENCES, *WEIGHTING):
        return True
    free = ("sft",) if key in DIVERGENCES else ()  # which has no score that would change
    ours = any(part.ours and key in part.keys for part in parts)  # cpo's alpha is another one
    return ours or all(key in part.keys or part.name in free for part in parts)


def given(config: RunConfig) -> dict[str, Any]:
    """The keys of a run's loss that have a value, for its formula; without the sections that they stand in."""
    taken = loss_named(config.loss_type).keys
    of_trainer = {key: getattr(config.trainer, key) for key in TRAINER_KEYS if f"trainer.{key}" in taken}
    return {key: value for key, value in {**of_trainer, **vars(config.loss)}.items() if value is not None}


def what_instead(name: str, known: Collection[str]) -> str:
    """What to say of a name that is none of these losses: of a method's what is here instead, of a typo what is meant.

    No method's name is taken for another's that is spelt alike.
    """
    plain = name.lower().replace("-", "_")
    if plain in (*known, *ALIASES):
        return f" (did you mean {plain!r}?)"
    if plain in _METHODS:
        return f"; {_METHODS[plain]}"
    near = [each for each in (*known, *ALIASES, *_METHODS) if _is_misspelt(plain, each)]
    if len(near) != 1 or near[0] in _METHODS:
        return f"; {near[0]} is no loss here: {_METHODS[near[0]]}" if len(near) == 1 else ""
    return f" (did you mean {near[0]!r}?)"


def _is_misspelt(word: str, name: str) -> bool:
    """Whether the same letters stand in another order, or one is missing or doubled; in long names also more."""
    missing = any(name[:i] + name[i + 1 :] == word for i in range(len(name)))
    doubled = any(name[: i + 1] + name[i:] == word for i in range(len(name)))
    likely = len(name) >= _LONG_NAME and SequenceMatcher(None, word, name).ratio() >= _ALIKE
    return sorted(word) == sorted(name) or missing or doubled or likely
