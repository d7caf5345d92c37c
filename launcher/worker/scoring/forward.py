"""A forward of pairs with the signature and the result of `model(**inputs)`: packed where the model is set to it.

Owns: that forward, and whether a model can be packed: what is tried, compared and refused.
Must not know: losses, where a model comes from, when it is asked.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from launcher.worker.scoring import attention
from launcher.worker.scoring.rounding import moved_by, precision_of_products
from launcher.worker.scoring.rows import UNSCORED, pack

PER_TOKEN = ("log_probs", "entropy", "log_sum_sq_probs", "mean_logits", "is_top1")
OWN = ("input_ids", "attention_mask", "labels")
# Two pairs that are tried: the tokens of their prompts, chosen and rejected completions.
TRIED = ((7, 5, 9), (4, 6, 3))
# What rounding may move a completion's log-prob by, in nats / sqrt(tokens + 16): see `first_step.rounding`. What is
# refused by mistake goes padded, which costs time and nothing else: so these are narrower, and beside them stands the
# model's own rounding, by which the padded batch differs from itself in another order; on a CPU, that is nothing.
# In bfloat16, of SmolLM2-135M on a CPU, 12 drawn batches: packed 0.02 to 0.16; where rejected completions do not see
# their prompts, 0.43 to 4.3. In one of them eager attention moved sums by as much, and all were as far from float32.
NATS = {torch.float32: 1e-4}
OTHER_NATS = 0.25
TIMES_OWN = 8
LONGEST_WORDS = 200  # characters of what a model complains of


class NotPackable(Exception):
    """A forward of packed pairs is not what the model computes."""


def forward(model: Any, **inputs: Any) -> Any:
    """What `model(**inputs)` gives for a padded batch of pairs, by way of one row where its attention is set to that.

    Args:
        model: with TRL's fused head, maybe within adapters and what divides it among ranks.
        inputs: input_ids, attention_mask and labels, (2 pairs, length), chosen then rejected; and the head's keywords.

    Raises:
        NotPackable: not every layer of the model has computed with the row's layout.
    """
    if not attention.is_packed(model):
        return model(**inputs)
    packed = pack(*(inputs[name] for name in OWN))
    if not packed.here.numel():
        return model(**inputs)  # the result has to hang on the model, and each rank has to make a forward
    others = {name: value for name, value in inputs.items() if name not in OWN}
    with attention.laid_out(packed.layout):
        outputs = model(**packed.inputs, **others)
    layers = _layers(model)
    if packed.layout.refusal or packed.layout.calls != layers:
        raise NotPackable(packed.layout.refusal or f"{packed.layout.calls} of its {layers} layers see all before them")
    fields = {name: getattr(outputs, name) for name in PER_TOKEN}
    made = {name: None if values is None else packed.unpack(values) for name, values in fields.items()}
    return replace(outputs, label_mask=packed.scored, **made)


def _layers(model: Any) -> int | None:
    """How many layers the model says that it has."""
    inner = attention.model_in(model)
    layers: int | None = getattr(inner.config.get_text_config(), "num_hidden_layers", None) if inner else None
    return layers


@torch.no_grad()
def why_not(model: Any) -> str | None:
    """Why pairs cannot go through the model packed, in words; None where they can.

    Two short pairs are tried, beside the model's own attention, which is to be set and is set again afterwards. Ranks
    that share the weights come here together.
    """
    if (own := attention.computes_own(model)) is not None:
        return own
    training = model.training
    model.eval()
    try:
        padded, moved = _sums(model), _sums(model, turned=True)
        with attention.of_pairs(model, packed=True):
            packed = _tried_packed(model)
    except NotPackable as reason:
        return str(reason)
    finally:
        model.train(training)
    apart, explained = (packed - padded).abs(), _rounding(model, padded, (moved - padded).abs())
    worst = int((apart - explained).argmax())  # nan counts as the largest
    if apart[worst] <= explained[worst]:
        return None
    return f"log-probs differ from padded ones by {apart[worst]:.2g} nats, rounding explains {explained[worst]:.2g}"


def longest_steady(model: Any) -> int | None:
    """Up to how many tokens a row may have for a token's position to mean the same in each batch; None: any number.

    Rotary embeddings of the types `dynamic` and `longrope` change all positions of a batch with its longest row, and
    packed that is shorter by the last token, from which nothing is predicted.
    """
    found = []
    for module in model.modules():
        types = getattr(module, "rope_type", None)
        for layer, kind in types.items() if isinstance(types, dict) else [(None, types)]:
            if kind == "longrope":
                told = module.config.rope_parameters
                found.append((told if layer is None else told[layer])["original_max_position_embeddings"])
            elif kind and "dynamic" in kind:
                found.append(module.original_max_seq_len)
    return min(found, default=None)


def _tried_packed(model: Any) -> torch.Tensor:
    try:
        return _sums(model)
    except (NotPackable, torch.OutOfMemoryError):
        raise
    except Exception as error:
        words = " ".join(str(error).split())[:LONGEST_WORDS]
        raise NotPackable(f"its attention takes no packed row ({type(error).__name__}: {words})") from error


def _sums(model: Any, *, turned: bool = False) -> torch.Tensor:
    """The log-probs of the completions that are tried; `turned`: made in another order and with more padding."""
    inner = attention.model_in(model)
    if inner is None:
        raise NotPackable("there is no model")
    ids, mask, labels = _tried(inner.config.get_text_config().vocab_size, 5 * turned)
    order = torch.arange(len(ids)).flip(0) if turned else torch.arange(len(ids))
    given = {name: each[order].to(inner.device) for name, each in zip(OWN, (ids, mask, labels), strict=True)}
    outputs = forward(model, **given, use_cache=False, fused_lm_head=True)
    sums: torch.Tensor = outputs.log_probs.sum(dim=1).float().cpu()
    return sums[order]


def _tried(vocabulary: int, more: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The batch of the pairs that are tried, with so many tokens more of padding."""
    draw = torch.Generator().manual_seed(0)
    length = max(prompt + max(answers) for prompt, *answers in TRIED) + more
    ids, mask = (torch.zeros((2 * len(TRIED), length), dtype=torch.long) for _ in range(2))
    labels = torch.full_like(ids, UNSCORED)
    for number, (prompt, *answers) in enumerate(TRIED):
        shared = torch.randint(vocabulary, (prompt,), generator=draw)
        for side, answer in enumerate(answers):
            row, stop = side * len(TRIED) + number, prompt + answer
            own = torch.randint(vocabulary, (answer,), generator=draw)
            ids[row, :stop], mask[row, :stop], labels[row, prompt:stop] = torch.cat([shared, own]), 1, own
    return ids, mask, labels


def _rounding(model: Any, sums: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """By how many nats rounding may move each sum."""
    precision = precision_of_products(getattr(attention.model_in(model), "dtype", torch.float32))
    tokens = torch.tensor([answers[side] for side in range(2) for _, *answers in TRIED])
    return moved_by(NATS.get(precision, OTHER_NATS), tokens, sums) + TIMES_OWN * own.max()
