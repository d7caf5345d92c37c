"""Whether a run's pairs go through its model packed, and if not, why.

Owns: what a configuration rules out, the verdict on a base model, which is kept, how ranks agree, what is said.
Must not know: how pairs are packed, and how a model is tried (`scoring` does).

    <cache>/packed/<key>.json    why pairs cannot go packed through a base model; null where they can, and how long ones

It decides which reference table a run has, before any of it is there, and under ZeRO-3 to try a model means to load it
once more: so it is found once for each model and kind of device. Each training compares once more, with what it trains.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers

from launcher.config import RunConfig
from launcher.errors import StoreError
from launcher.losses import loss_named
from launcher.machine.terminal import say
from launcher.store.files import content_key, fact_text, read_fact, write_derived
from launcher.store.node_facts import Packable
from launcher.store.output_folder import Store
from launcher.worker import progress
from launcher.worker.distributed import ranks
from launcher.worker.model import base_model, precision, weights
from launcher.worker.scoring import attention
from launcher.worker.scoring.forward import longest_steady, why_not
from launcher.worker.training.reference_model import reference_model

PACKED = "packed"
TRIAL = 3  # of how a model is tried: a verdict of another one does not count


def why_padded(config: RunConfig, store: Store) -> str | None:
    """Why pairs go padded through the untrained model of a run, in words; None: packed. All ranks take part."""
    if config.trainer.packed is False:
        return "trainer.packed=false"
    if not loss_named(config.loss_type).paired:
        return f"loss_type={config.loss_type} has no pairs"
    name, longest = config.model.attn_implementation, config.trainer.max_length
    if name not in attention.NATIVE:
        return f"model.attn_implementation={name}"
    base = _of_base(config, store)
    if base.why_not is None and base.up_to is not None and longest > base.up_to:
        return f"trainer.max_length={longest}, and with more than {base.up_to} tokens its positions depend on the batch"
    return base.why_not


def why_trained_padded(config: RunConfig, store: Store, trainer: Any) -> str | None:
    """The same of a training, whose model may drop activations and whose loss may look at each row."""
    lora = config.trainer.lora
    if (why := why_padded(config, store)) is not None:
        return why
    if lora is not None and lora.dropout:
        return f"trainer.lora.dropout={lora.dropout:g} would drop the same of a prompt for both of its completions"
    return _of_balance(trainer)


def _of_balance(trainer: Any) -> str | None:
    return "the experts' balance would count each prompt once" if trainer.aux_loss_enabled else None


def _of_base(config: RunConfig, store: Store) -> Packable:
    """The verdict on the base model, found now where there is none yet."""
    key = ranks.first(lambda: content_key(_tried(config, store)))
    file = store.cache("packed", f"{key}.json")
    known = ranks.first(lambda: _known(file))
    if known is not None:
        return Packable(**known)
    with progress.phase("trying to pack pairs", progress.LOADING), reference_model(config, store) as base:
        found = Packable(agreed(why_not(base)), longest_steady(base))
    ranks.first(lambda: write_derived(file, fact_text(found)))
    return found


def _known(file: Path) -> dict[str, Any] | None:
    try:
        found = read_fact(file, Packable)
    except StoreError:
        return None
    return None if found is None else asdict(found)


def _tried(config: RunConfig, store: Store) -> list[Any]:
    """All that may change a verdict."""
    return [
        TRIAL,
        base_model.fingerprint(config.model, store),
        str(precision.dtype_of(config.model)),
        config.model.attn_implementation,
        weights.device().type,
        torch.__version__,
        transformers.__version__,
    ]


def agreed(why: str | None) -> str | None:
    """What holds on every rank: packed only where nothing speaks against it on any."""
    against = ranks.gather([why])
    return ranks.first(lambda: next((each for each in against if each is not None), None))


def words(why: str | None) -> str:
    """How pairs go, for people."""
    return PACKED if why is None else f"padded: {why}"


@dataclass(frozen=True)
class Way:
    """How the pairs of a training go through its model: to the end as they began, unless its configuration forbids it.

    Attributes:
        why: why they go padded; None: packed, as far as is known.
        began: how they went up to the checkpoint from which the training goes on, in words; None: it begins here, or
            goes on from one that does not say.
        step: that of the checkpoint.
        doubt: what speaks against a packed training, found in its trained model.
        is_tried: whether that model was tried, so that no doubt means that there is none.
    """

    why: str | None = None
    began: str | None = None
    step: int = 0
    doubt: str | None = None
    is_tried: bool = False

    @property
    def packed(self) -> bool:
        """Whether they go packed."""
        return self.why is None

    def settled(self, model: Any) -> Way:
        """What holds for this process. All ranks take part.

        A model that is trained in part may be found to round otherwise than at the start: it is not tried again.
        """
        if self.began not in (None, PACKED):
            return replace(self, why=self.why or self.began)
        return self if self.why or self.began else replace(self, why=agreed(why_not(model)))

    def looked_back_on(self, model: Any) -> Way:
        """After the training: what weights of 0 kept still at its start may have grown. All ranks take part."""
        return replace(self, doubt=agreed(why_not(model)), is_tried=True) if self.packed else self

    @property
    def words(self) -> str:
        """For people."""
        if self.began not in (None, PACKED):
            return str(self.began)
        if self.began and self.why:
            return f"packed up to step {self.step}, then padded: {self.why}"
        if self.doubt:
            return f"packed, which was not exact: in the trained model, {self.doubt}; trainer.packed=false avoids that"
        return words(self.why)


@contextmanager
def of_held_out(trainer: Any, config: RunConfig, store: Store) -> Iterator[None]:
    """Within, held-out pairs go through a trainer's model packed, unless something is against it, which is said."""
    why = why_padded(config, store) or _of_balance(trainer)
    if why is None:
        why = trainer.way.doubt if trainer.way.is_tried else why_not(trainer.model)
    if why not in (None, trainer.way.why):
        say(f"held-out pairs go through the model {words(why)}")
    with attention.of_pairs(trainer.model, packed=why is None):
        yield
