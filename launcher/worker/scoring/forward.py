"""A forward of pairs with the signature and the result of `model(**inputs)`: packed where the model is set to it.

Owns: that forward, and whether a model can be packed: what is tried, compared and refused.
Must not know: losses, where a model comes from, when it is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from launcher.worker.scoring import attention
from launcher.worker.scoring.attention import NotPackable
from launcher.worker.scoring.rounding import moved_by, precision_of_products
from launcher.worker.scoring.rows import UNSCORED, pack

PER_TOKEN = ("log_probs", "entropy", "log_sum_sq_probs", "mean_logits", "is_top1")
OWN = ("input_ids", "attention_mask", "labels")
ATTENTION = frozenset({"full_attention", "sliding_attention"})
Part = tuple[int, int]  # a pair's number, and which of its prompt, chosen and rejected completion
Positions = Callable[[int], torch.Tensor]
# Two pairs that are tried: the tokens of their prompts, chosen and rejected completions.
TRIED = ((7, 5, 9), (4, 6, 3))
# The parts of one sequence, the first and the last of the row, and its place among the sums.
KEPT: dict[tuple[Part, ...], int] = {((0, 0), (0, 1)): 0, ((1, 0), (1, 2)): 3}
PLACED, MISPLACED = torch.arange, lambda length: torch.arange(length).flip(0)
# What rounding may move a completion's log-prob by, in nats / sqrt(tokens + 16): see `first_step.rounding`. What is
# refused by mistake goes padded, which costs time and nothing else: so these are narrower, and beside them stands the
# model's own rounding, by which the padded batch differs from itself in another order; on a CPU, that is nothing.
# In bfloat16, of SmolLM2-135M on a CPU, 12 drawn batches: packed 0.02 to 0.16; where rejected completions do not see
# their prompts, 0.43 to 4.3. In one of them eager attention moved sums by as much, and all were as far from float32.
NATS = {torch.float32: 1e-4}
OTHER_NATS = 0.25
TIMES_OWN = 8
LONGEST_WORDS = 200  # characters of what a model complains of


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
        with attention.laid_out(None):
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

    Two short pairs are tried, beside the model's own attention, which is to be set and is set again afterwards. In half
    precision rounding hides much; so what should make no difference at all is tried as well. Ranks that share the
    weights come here together.
    """
    if (known := attention.computes_own(model) or _more_than_attention(model)) is not None:
        return known
    training = model.training
    model.eval()
    try:
        return _verdict(_trial(model), _precision(model))
    except NotPackable as reason:
        return str(reason)
    finally:
        model.train(training)


@dataclass(frozen=True)
class _Trial:
    """The sums of log-probs that a model gives the completions that are tried, (2 pairs,) each, chosen then rejected.

    Attributes:
        padded: as they are.
        turned: in another order and with more padding.
        placed: with the positions told that they have.
        misplaced: with others told.
        beside: with other tokens everywhere but in one sequence, by the parts of that.
        packed: in one row.
        packed_beside: in one row, with other tokens beside, as in `beside`.
    """

    padded: torch.Tensor
    turned: torch.Tensor
    placed: torch.Tensor
    misplaced: torch.Tensor
    beside: dict[tuple[Part, ...], torch.Tensor]
    packed: torch.Tensor
    packed_beside: dict[tuple[Part, ...], torch.Tensor]


def _trial(model: Any) -> _Trial:
    """All of them, whatever is found: ranks that share the weights make each forward together."""
    with _complaints_of("it does not take the pairs that are tried"):
        padded, turned = _sums(model), _sums(model, turned=True)
        placed, misplaced = (_sums(model, positions=way) for way in (PLACED, MISPLACED))
        beside = {kept: _sums(model, kept=kept) for kept in KEPT}
    with _complaints_of("its attention takes no packed row"), attention.of_pairs(model, packed=True):
        packed, packed_beside = _sums(model), {kept: _sums(model, kept=kept) for kept in KEPT}
    return _Trial(padded, turned, placed, misplaced, beside, packed, packed_beside)


@contextmanager
def _complaints_of(what: str) -> Iterator[None]:
    """Whatever a model complains of within speaks against packing; its memory does not."""
    try:
        yield
    except (NotPackable, torch.OutOfMemoryError):
        raise
    except Exception as error:
        words = " ".join(str(error).split())[:LONGEST_WORDS]
        raise NotPackable(f"{what} ({type(error).__name__}: {words})") from error


def _verdict(tried: _Trial, precision: torch.dtype) -> str | None:
    """What in it speaks against packing, in words; whatever is nan does."""
    if not tried.padded.isfinite().all():
        return "its log-probs are not finite"
    own = TIMES_OWN * (tried.turned - tried.padded).abs().max()
    steady = _rounding(torch.float32, tried.padded) + own
    if not ((tried.placed - tried.padded).abs() <= steady).all():
        return "it counts positions in another way than it is told"
    if torch.equal(tried.misplaced, tried.padded):
        return "the positions that it is told make no difference"
    for kept, row in KEPT.items():
        of_experts = TIMES_OWN * (tried.beside[kept] - tried.padded)[row].abs()  # who compute with all rows at once
        if not (tried.packed_beside[kept] - tried.packed)[row].abs() <= steady[row] + of_experts:
            return "what stands beside a completion in the row changes its log-prob"
    apart, explained = (tried.packed - tried.padded).abs(), _rounding(precision, tried.padded) + own
    worst = int((apart - explained).argmax())  # nan counts as the largest
    if apart[worst] <= explained[worst]:
        return None
    return f"log-probs differ from padded ones by {apart[worst]:.2g} nats, rounding explains {explained[worst]:.2g}"


def _more_than_attention(model: Any) -> str | None:
    """Which layers the model says that it has beside attention to all before, or to a window: these know no layout."""
    inner = attention.model_in(model)
    kinds = getattr(inner.config.get_text_config(), "layer_types", None) if inner else None
    others = sorted({str(kind) for kind in kinds or ()} - ATTENTION)
    return f"it has layers of the kind {', '.join(others)}" if others else None


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


def _sums(
    model: Any, *, turned: bool = False, kept: Sequence[Part] | None = None, positions: Positions | None = None
) -> torch.Tensor:
    """The log-probs of the completions that are tried, chosen then rejected, (2 pairs,).

    Args:
        model: whose they are.
        turned: made in another order and with more padding.
        kept: the only parts that are drawn as before; None: all.
        positions: of the tokens, told to the model, of so many rows and columns; None: told nothing.
    """
    inner = attention.model_in(model)
    if inner is None:
        raise NotPackable("there is no model")
    batch = _tried(inner.config.get_text_config().vocab_size, 5 * turned, kept)
    order = torch.arange(len(batch[0])).flip(0) if turned else torch.arange(len(batch[0]))
    given = {name: each[order].to(inner.device) for name, each in zip(OWN, batch, strict=True)}
    if positions is not None:
        given["position_ids"] = positions(batch[0].shape[1]).expand_as(batch[0]).to(inner.device)
    outputs = forward(model, **given, use_cache=False, fused_lm_head=True)
    sums: torch.Tensor = outputs.log_probs.sum(dim=1).float().cpu()
    return sums[order]


def _tried(vocabulary: int, more: int, kept: Sequence[Part] | None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The batch of the pairs that are tried, with so many tokens more of padding; see `_sums`."""
    length = max(prompt + max(answers) for prompt, *answers in TRIED) + more
    ids, mask = (torch.zeros((2 * len(TRIED), length), dtype=torch.long) for _ in range(2))
    labels = torch.full_like(ids, UNSCORED)

    def drawn(number: int, part: int) -> torch.Tensor:
        again = kept is not None and (number, part) not in kept
        draw = torch.Generator().manual_seed(10 * number + part + 100 * again)
        return torch.randint(vocabulary, (TRIED[number][part],), generator=draw)

    for number, (prompt, *answers) in enumerate(TRIED):
        for side, answer in enumerate(answers):
            row, stop = side * len(TRIED) + number, prompt + answer
            own = drawn(number, 1 + side)
            ids[row, :stop], mask[row, :stop], labels[row, prompt:stop] = torch.cat([drawn(number, 0), own]), 1, own
    return ids, mask, labels


def _precision(model: Any) -> torch.dtype:
    return precision_of_products(getattr(attention.model_in(model), "dtype", torch.float32))


def _rounding(precision: torch.dtype, sums: torch.Tensor) -> torch.Tensor:
    """By how many nats rounding may move each sum in this precision."""
    tokens = torch.tensor([answers[side] for side in range(2) for _, *answers in TRIED])
    return moved_by(NATS.get(precision, OTHER_NATS), tokens, sums)
