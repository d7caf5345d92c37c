"""Attention over a row of sequences, given its layout: one call of torch for each of them, or one for all.

Owns: which kernel computes it where.
Must not know: models, what a row is made of.

One call for all there is on CUDA only:

    at_once     FlashAttention's for sequences of unequal lengths, of torch 2.10 on, in half precision
    flexibly    torch's flex attention, compiled: for soft caps, and for heads of a size that the other does not take

Neither was run on a GPU yet (`make gpu` does): so each is used only where, at its first use in a process, it gives what
one call for each gives, gradients too.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention

from launcher.worker.scoring.rows import Layout, Span

HALF = (torch.bfloat16, torch.float16)
LARGEST_HEAD, HEAD_STEP = 256, 8  # of FlashAttention
# Of the largest value: what rounding may make of it; another mask makes all of it.
ALIKE = {torch.float32: 1e-4}
OTHERS_ALIKE = 0.05


@dataclass(frozen=True)
class Scores:
    """How a layer makes weights of queries and keys.

    Attributes:
        scaling: of their products; None: 1 / sqrt(head size).
        softcap: the bound to which a tanh holds them; None: none.
        sinks: of each head, a score that takes weight from all others and has no value; None: none.
    """

    scaling: float | None = None
    softcap: float | None = None
    sinks: torch.Tensor | None = None

    @property
    def are_plain(self) -> bool:
        """Whether torch's own attention computes them."""
        return self.softcap is None and self.sinks is None


def attend(layout: Layout, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scores: Scores) -> torch.Tensor:
    """Attention within the sequences of the row.

    Args:
        layout: where they lie.
        query: (1, heads, tokens, head size).
        key: the same, of as many heads or a whole fraction of them.
        value: like `key`; its head size may be another.
        scores: how the layer makes weights.

    Returns:
        (1, heads, tokens, head size of `value`)
    """
    places = layout.keys_of_all(query.device)
    key, value = key.index_select(2, places), value.index_select(2, places)
    way = way_of(query, key, value, scores, windowed=layout.window is not None)
    return way(layout, query, key, value, scores)


def way_of(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scores: Scores, *, windowed: bool
) -> Callable[..., torch.Tensor]:
    """One call for all sequences of such states, where there is one that is right; else one for each."""
    if not query.is_cuda or scores.sinks is not None:
        return one_by_one
    sizes, heads = (query.shape[-1], value.shape[-1]), (query.shape[1], key.shape[1])
    usual = scores.are_plain and sizes[0] == sizes[1] <= LARGEST_HEAD and sizes[0] % HEAD_STEP == 0
    if usual and query.dtype not in HALF:
        return one_by_one
    way = at_once if usual else flexibly
    right = gives_the_same(way, query.device, query.dtype, heads, sizes, scores, windowed=windowed)
    return way if right else one_by_one


def one_by_one(
    layout: Layout, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scores: Scores
) -> torch.Tensor:
    """One call for each sequence, on any device; `key` and `value` as they are seen, span after span."""
    if not scores.are_plain:
        key, value = (repeated(each, query.shape[1]) for each in (key, value))
    keys = [span.keys for span in layout.spans]
    parts = zip(
        layout.spans, query.split([span.queries for span in layout.spans], 2), key.split(keys, 2), value.split(keys, 2),
        strict=True,
    )  # fmt: skip
    made = [within(q, k, v, layout.mask(span, query.device), scores) for span, q, k, v in parts]
    return torch.cat(made, dim=2)


def at_once(
    layout: Layout, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scores: Scores
) -> torch.Tensor:
    """One call for all sequences: the last query of each sees its last key, and so on backwards."""
    from torch.nn.attention.varlen import varlen_attn

    query_ends, key_ends, most_queries, most_keys = layout.bounds(query.device)
    window = (-1 if layout.window is None else layout.window - 1, 0)
    told: dict[str, Any] = {"scale": scores.scaling, "window_size": window}
    if "enable_gqa" in inspect.signature(varlen_attn).parameters:  # earlier versions ask for no leave
        told["enable_gqa"] = query.shape[1] != key.shape[1]
    q, k, v = (each[0].transpose(0, 1).contiguous() for each in (query, key, value))  # (tokens, heads, head size)
    made: Any = varlen_attn(q, k, v, query_ends, key_ends, most_queries, most_keys, **told)
    result: torch.Tensor = made.transpose(0, 1)[None]
    return result


def flexibly(
    layout: Layout, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scores: Scores
) -> torch.Tensor:
    """One call for all sequences, with soft caps and heads of any size; blocks that nobody sees are not computed.

    On a CPU, where torch has no gradients for it, as it is without being compiled.
    """
    first, last = layout.seen_by_each(query.device)

    def sees(_batch: Any, _head: Any, token: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
        return (place >= first[token]) & (place <= last[token])

    def make() -> Any:
        return create_block_mask(sees, None, None, query.shape[2], key.shape[2], device=query.device)

    attention: Callable[..., Any] = flex_attention
    if query.is_cuda:
        attention = _compiled_flex()
    made: torch.Tensor = attention(
        query, key, value,
        score_mod=_capped_at(scores.softcap),
        block_mask=layout.once(("blocks", layout.window, query.device), make),
        scale=scores.scaling,
        enable_gqa=query.shape[1] != key.shape[1],
        kernel_options={"FORCE_USE_FLEX_ATTENTION": True},  # else a short row has another kernel, for decoding
    )  # fmt: skip
    return made


def _capped_at(softcap: float | None) -> Callable[..., torch.Tensor] | None:
    """What flex attention is to make of a score; None: nothing."""
    if softcap is None:
        return None

    def capped(score: torch.Tensor, _batch: Any, _head: Any, _token: Any, _place: Any) -> torch.Tensor:
        return torch.tanh(score / softcap) * softcap

    return capped


@cache
def _compiled_flex() -> Callable[..., Any]:
    """Compiled for one row's length, then, at another one, for all."""
    return torch.compile(flex_attention)


@cache
def gives_the_same(
    way: Callable[..., torch.Tensor],
    device: torch.device,
    dtype: torch.dtype,
    heads: tuple[int, int],
    sizes: tuple[int, int],
    scores: Scores,
    *,
    windowed: bool,
) -> bool:
    """Whether one call for all sequences is there, and gives what one for each does in float32, values and gradients.

    Args:
        way: the call. It is made for rows of two lengths, since one that is compiled is compiled anew for the second.
        device: where it computes.
        dtype: in what.
        heads: how many of queries, and of keys and values.
        sizes: of a head of queries and keys, and of one of values.
        scores: how the layer makes weights, without sinks. Where they are capped, the cap is reached.
        windowed: whether a token sees only some before it.
    """
    draw = torch.Generator().manual_seed(0)
    spans = (Span(0, 200), Span(200, 290, 0, 150), Span(290, 320), Span(320, 450))
    for row in (spans, spans[:2]):
        layout = Layout(row, 80 if windowed else None)
        shapes = zip((heads[0], heads[1], heads[1], heads[0]), (sizes[0], sizes[0], sizes[1], sizes[1]), strict=True)
        query, *others = (torch.randn((1, count, row[-1].stop, size), generator=draw) for count, size in shapes)
        states = [each.to(device, dtype) for each in (query * (scores.softcap or 1.0), *others)]
        try:
            ours = _with_gradients(way, layout, states, scores)
        except (ImportError, RuntimeError, TypeError, ValueError):
            return False
        theirs = _with_gradients(one_by_one, layout, [each.float() for each in states], scores)
        if not all(_alike(one, other, ALIKE.get(dtype, OTHERS_ALIKE)) for one, other in zip(ours, theirs, strict=True)):
            return False
    return True


def _alike(one: torch.Tensor, other: torch.Tensor, share: float) -> bool:
    return float((one - other).abs().max()) <= share * float(other.abs().max())


def _with_gradients(
    way: Callable[..., torch.Tensor], layout: Layout, states: list[torch.Tensor], scores: Scores
) -> list[torch.Tensor]:
    """What a way of computing makes of query, key and value, and the gradients of its sum with the last of `states`."""
    with torch.enable_grad():
        *leaves, weights = [each.clone().requires_grad_() for each in states]
        query, *others = leaves
        places = layout.keys_of_all(query.device)
        made = way(layout, query, *(each.index_select(2, places) for each in others), scores)
        gradients = torch.autograd.grad((made * weights).sum(), leaves)
    return [each.detach().float() for each in (made, *gradients)]


def within(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, scores: Scores
) -> torch.Tensor:
    """Attention within one sequence; without a mask each token sees all before it, and there are as many keys."""
    if not scores.are_plain:
        return by_hand(query, key, value, mask, scores)
    grouped = query.shape[1] != key.shape[1]
    return scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=mask is None, scale=scores.scaling, enable_gqa=grouped
    )


def by_hand(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, scores: Scores
) -> torch.Tensor:
    """The same, of as many heads of keys as of queries, for what torch's own attention does not know.

    Weights are made in float32, as in the models' own code.
    """
    scaling = query.shape[-1] ** -0.5 if scores.scaling is None else scores.scaling
    products = torch.matmul(query, key.transpose(2, 3)) * scaling
    if scores.softcap is not None:
        products = torch.tanh(products / scores.softcap) * scores.softcap
    if mask is None:
        mask = torch.ones(products.shape[-2:], dtype=torch.bool, device=query.device).tril()
    products = products.masked_fill(~mask, float("-inf"))
    if scores.sinks is not None:
        sinks = scores.sinks.reshape(1, -1, 1, 1).expand(*products.shape[:3], 1)
        products = torch.cat([products, sinks], dim=-1)
    weights = torch.softmax(products, dim=-1, dtype=torch.float32).to(query.dtype)
    return torch.matmul(weights[..., : key.shape[2]], value)


def repeated(states: torch.Tensor, heads: int) -> torch.Tensor:
    """Each head of keys or values as often as there are heads of queries for it."""
    return states if states.shape[1] == heads else states.repeat_interleave(heads // states.shape[1], dim=1)
