"""What is wrong with the keys of a run's loss, and which runs would train the same weights.

Owns: the values that a loss's keys may have, which losses are another one with the values given, what two runs have to
differ in to be two.
Must not know: files, Hydra, torch; how a loss is computed. Which keys it takes stands in its row of `launcher.losses`.

Two runs are the same training where all but names of the same formula agree: what is given as a key's own default, the
beta of a loss that has none, the order of a sum's parts. `trained_by` spells such runs alike.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

from launcher.config import LOSS, RunConfig
from launcher.errors import UNSAID, ConfigError, near_choice
from launcher.losses import LOSSES, OUR_LOSSES, PLUS, Loss, given, loss_named, what_instead
from launcher.store.files import Plain

DIVERGENCES = ("reverse_kl", "forward_kl", "js_divergence", "alpha_divergence")
ALPHA_DIVERGENCE = DIVERGENCES[-1]
SMOOTHED = 0.5  # the share of wrong labels from which on they say nothing, or the opposite


@dataclass(frozen=True)
class Range:
    """Between which numbers a value must lie, and which it must not be, or be `near`, with what the loss then is."""

    above: float = -math.inf
    least: float = -math.inf
    below: float = math.inf
    never: Mapping[float, str] = field(default_factory=dict)
    near: float = 0.0

    def problem(self, value: float) -> str | None:
        """What would be right in place of a value; None where it is."""
        if other := next((words for never, words in self.never.items() if abs(value - never) <= self.near), None):
            return other
        if math.isfinite(value) and self.above < value < self.below and value >= self.least:
            return None
        bounds = {"greater than": self.above, "at least": self.least, "less than": self.below}
        said = [f"{words} {bound:g}" for words, bound in bounds.items() if math.isfinite(bound)]
        return f"must be a number {' and '.join(said)}" if said else "must be a finite number"


def _share(of_none: str) -> Range:
    """A share of wrong labels; `of_none`: what is to be said of 0."""
    return Range(above=0, below=SMOOTHED, never={0: of_none}, near=1e-6)  # float32 loses less


_ABOVE_NONE = Range(above=0)
_SIGMOID = "its formula is then that of loss_type=sigmoid; give that"
# By key, and then by loss where it matters; "" stands for all others.
RANGES: dict[str, dict[str, Range]] = {
    "loss.label_smoothing": {
        "robust": _share(_SIGMOID),
        "cdpo": _share(_SIGMOID),
        "exo_pair": _share("its formula has the logarithm of it; give more, such as 1e-3"),
        "": _share("is what null is; set it to null"),
    },
    "loss.gamma": {"": Range(least=0)},
    "loss.lam": {
        "orpo": Range(
            above=0,
            never={0: "no odds ratio is then left, only the chosen answers; give loss_type=sft"},
            near=1e-6,
        ),
        "dpop": Range(above=0, never={0: _SIGMOID}, near=1e-6),
    },
    "loss.alpha": {
        "cpo": Range(least=0),
        "alphapo": Range(never={0: "its formula is then that of loss_type=simpo; give that"}, near=1e-6),
        "": Range(
            never={
                0: "the alpha divergence is then loss.f_divergence=forward_kl; give that",
                1: "the alpha divergence is then loss.f_divergence=reverse_kl; set both to null",
            },
            near=1e-3,  # in float32 TRL's formula loses digits there: 0.1 % of a loss at 1e-5
        ),
    },
    "loss.tau": {"": _ABOVE_NONE},
    "trainer.desirable_weight": {"": _ABOVE_NONE},
    "trainer.undesirable_weight": {"": _ABOVE_NONE},
}
# What null stands for, by key and loss; "" for all others. `worker.training.losses` has the same in its formulas.
DEFAULTS: dict[str, dict[str, Any]] = {
    "loss.label_smoothing": {"exo_pair": 1e-3, "": 0.0},
    "loss.gamma": {"": 0.5},
    "loss.lam": {"orpo": 0.1, "dpop": 50.0},
    "loss.alpha": {"cpo": 1.0, "alphapo": 0.25, "": 0.5},
    "loss.tau": {"": 0.05},
    "loss.f_divergence": {"": "reverse_kl"},
    "loss.use_weighting": {"": False},
    "loss.length_normalized": {"simpo": True, "": False},
    "trainer.desirable_weight": {"": 1.0},
    "trainer.undesirable_weight": {"": 1.0},
}
EXAMPLES = {"loss.label_smoothing": 0.1, "trainer.micro_batch_size": 2}  # of what some losses cannot do without
KEYS = tuple(dict.fromkeys(key for loss in LOSSES for key in loss.keys))
# Another name of what some keys would make of a loss.
_INSTEAD = {("sigmoid", "loss.length_normalized", True): "DPO of mean log-ratios is loss_type=sigmoid_norm; give that"}


def loss_problems(config: RunConfig, losses: Collection[str], *, recorded: bool = False) -> Iterator[ConfigError]:
    """What is wrong with a run's loss, each in one line with key, value and remedy.

    Args:
        config: the resolved configuration.
        losses: the loss names that the installed TRL computes.
        recorded: whether the run was launched before: then it may be one that now has to be called something else.
    """
    name, loss = config.loss_type, loss_named(config.loss_type)
    yield from _name_problems(name, {*losses, *OUR_LOSSES})
    yield from _sum_problems(config, loss)
    yield from _key_problems(config, loss)
    if not recorded:
        yield from _other_name_problems(config, loss)
    if not loss.paired and loss.neighbours and config.trainer.micro_batch_size == 1:
        yield ConfigError(
            "trainer.micro_batch_size", 1, f"loss_type={name} measures its KL within a micro-batch; give at least 2"
        )
    if not loss.ld_alpha and config.trainer.ld_alpha is not None:
        yield ConfigError(
            "trainer.ld_alpha", config.trainer.ld_alpha, f"not defined for loss_type={name}; leave it null"
        )
    if not (config.beta > 0 and math.isfinite(config.beta)):
        yield ConfigError("beta", config.beta, "must be a number greater than 0 (the reference papers use 0.01 to 1)")


def _name_problems(name: str, known: Collection[str]) -> Iterator[ConfigError]:
    there = ", ".join(sorted(known))
    for part in name.split(PLUS):
        if part not in known:
            remedy = f"not a loss of the installed TRL{what_instead(part, sorted(known))}; there are: {there}"
            yield ConfigError("loss_type", name, remedy if part == name else f"{part!r} is {remedy}")


def _sum_problems(config: RunConfig, loss: Loss) -> Iterator[ConfigError]:
    name, weights = loss.name, config.loss.weights
    if not loss.parts:
        if weights is not None:
            yield ConfigError("loss.weights", weights, f"loss_type={name} is no sum, as {name}+sft is; set it to null")
        return
    names = [part.name for part in loss.parts]
    if twice := next((each for each in names if names.count(each) > 1), None):
        yield ConfigError("loss_type", name, f"{twice} is in it twice; give it once, with its loss.weights")
    if alone := next((part.name for part in loss.parts if not part.paired), None):
        yield ConfigError("loss_type", name, f"{alone} trains on completions with a label, and cannot be in a sum")
    if config.loss.label_smoothing is None and "exo_pair" in names and (other := {"aot", "aot_unpaired"} & {*names}):
        remedy = f"TRL has one for all parts, exo_pair's null is 1e-3, that of {min(other)} 0; give one"
        yield ConfigError("loss.label_smoothing", UNSAID, remedy)
    if weights is not None and len(weights) != len(names):
        remedy = f"has {len(weights)} for the {len(names)} losses of {name}; give one each, in that order"
        yield ConfigError("loss.weights", weights, remedy)
    if not all(each > 0 and math.isfinite(each) for each in weights or ()):
        yield ConfigError("loss.weights", weights, "each must be a number greater than 0; leave out what has no weight")


def _key_problems(config: RunConfig, loss: Loss) -> Iterator[ConfigError]:
    """Of keys that the loss does not take, and of values that they may not have."""
    for key in KEYS:
        value = attrgetter(key)(config)
        if value is None:
            continue
        if (instead := _INSTEAD.get((loss.name, key, value))) is not None:
            yield ConfigError(key, value, instead)
        elif key not in loss.keys:
            yield ConfigError(key, value, _not_taken(key, loss))
        else:
            yield from _value_problems(key, value, loss)
    if config.loss.alpha is not None and not _is_alpha_taken(config, loss):
        remedy = f"loss_type={loss.name} takes it with loss.f_divergence={ALPHA_DIVERGENCE} alone; give that, or null"
        yield ConfigError("loss.alpha", config.loss.alpha, remedy)


def _is_alpha_taken(config: RunConfig, loss: Loss) -> bool:
    own = any(part.ours and "loss.alpha" in part.keys for part in loss.terms)
    return own or config.loss.f_divergence == ALPHA_DIVERGENCE


def _not_taken(key: str, loss: Loss) -> str:
    takers = [each.name for each in LOSSES if key in each.keys]
    if any(part.name in takers for part in loss.parts):
        lacking = " and ".join(part.name for part in loss.parts if part.name not in takers)
        return f"every part of a sum has to take it, and {lacking} cannot; set it to null"
    return f"only loss_type={' or '.join(takers)} takes it; set it to null"


def _value_problems(key: str, value: Any, loss: Loss) -> Iterator[ConfigError]:
    if key == "loss.f_divergence" and value not in DIVERGENCES:
        yield ConfigError(key, value, f"must be one of {', '.join(DIVERGENCES)}{near_choice(value, DIVERGENCES)}")
    if (ranges := RANGES.get(key)) is None:
        return
    for part in loss.terms:
        if key in part.keys and (problem := ranges.get(part.name, ranges.get("", _ABOVE_NONE)).problem(value)):
            of = f"of {part.name}, " if loss.parts else ""
            yield ConfigError(key, value, of + problem)


def _other_name_problems(config: RunConfig, loss: Loss) -> Iterator[ConfigError]:
    """Of a loss whose formula is that of another one, with the values given."""
    for key in loss.needs:
        if attrgetter(key)(config) is None:
            needing = next(part.name for part in loss.terms if key in part.needs)
            remedy = (
                f"loss_type={needing} needs one, such as {EXAMPLES[key]}: without it, its formula is that of sigmoid"
            )
            yield ConfigError(key, UNSAID, remedy)
    sorting = [part.name for part in loss.terms if part.name in ("aot", "aot_unpaired")]
    if sorting and config.trainer.micro_batch_size == 1:
        remedy = (
            f"loss_type={sorting[0]} sorts the pairs of a micro-batch, and of one is loss_type=sigmoid; give 2 or more"
        )
        yield ConfigError("trainer.micro_batch_size", 1, remedy)


def trains_as_recorded(config: RunConfig) -> str | None:
    """What a run trains that was launched under a name which now needs more, in words; None where it needs no more."""
    problem = next(_other_name_problems(config, loss_named(config.loss_type)), None)
    if problem is None:
        return None
    told = f"loss_type={config.loss_type} goes on with the formula of loss_type=sigmoid, as it was launched"
    return f"{told}; a new run of it needs {problem.key}, such as {EXAMPLES[problem.key]}"


def trained_by(config: RunConfig) -> Plain:
    """The loss of a run, spelt the same for all that train the same weights on the same data."""
    loss = loss_named(config.loss_type)
    weights = config.loss.weights or [1.0] * len(loss.terms)
    found = [{"weight": weight, **_term(config, part)} for weight, part in zip(weights, loss.terms, strict=False)]
    whole = config.trainer.ld_alpha in (None, 1.0)
    return {"terms": sorted(found, key=json.dumps), "ld_alpha": None if whole else config.trainer.ld_alpha}


def _term(config: RunConfig, loss: Loss) -> Plain:
    """A loss with all that its formula has; under the other name where it is another one's formula."""
    values = {key: _value(config, key, loss) for key in loss.keys}
    if values.get("loss.f_divergence") != ALPHA_DIVERGENCE and not loss.ours:
        values.pop("loss.alpha", None)
    name = loss.name
    if name == "cpo" and not values["loss.alpha"]:
        name, values = "simpo", {"loss.gamma": 0.0, "loss.length_normalized": values["loss.length_normalized"]}
    return {"name": name, "beta": config.beta if loss.beta else None, "keys": values}


def _value(config: RunConfig, key: str, loss: Loss) -> Any:
    value, defaults = attrgetter(key)(config), DEFAULTS.get(key, {})
    return defaults.get(loss.name, defaults.get("")) if value is None else value


def without_loss(objective: Plain) -> Plain:
    """An objective, but for what `trained_by` says."""
    kept = {key: value for key, value in objective.items() if key not in ("loss_type", "beta", LOSS)}
    own = ("ld_alpha", *(key.partition(".")[2] for key in KEYS if key.startswith("trainer.")))
    trainer = {key: value for key, value in kept["trainer"].items() if key not in own}
    return {**kept, "trainer": trainer}


def keys_in_words(config: RunConfig) -> str:
    """The keys of a run's loss that have a value, as they are typed; empty where none has."""
    return " ".join(f"{_place(key)}={_word(value)}" for key, value in given(config).items())


def _place(key: str) -> str:
    return next((full for full in KEYS if full.partition(".")[2] == key), f"{LOSS}.{key}")


def _word(value: Any) -> str:
    if isinstance(value, list):
        return f"[{','.join(map(_word, value))}]"
    if isinstance(value, float):
        return f"{value:.12g}"
    return str(value).lower() if isinstance(value, bool) else str(value)
