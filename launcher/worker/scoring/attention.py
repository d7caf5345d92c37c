"""Two kinds of attention in transformers' registry: for packed pairs, and for pairs padded on the right.

Owns: their names, what models hand on as a mask, which module computes with which of them.
Must not know: how a row is made, what is scored, losses.

Of a layout that is told by a keyword alone some models lose sight between layer and attention, silently; their masks
all of them hand on, and one that looks into its mask fails at once. So the layout goes where a mask would.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from launcher.worker.scoring import kernels
from launcher.worker.scoring.rows import Layout

PACKED, PADDED = "packed_pairs", "right_padded_pairs"  # as transformers knows them; they are written into no file
TORCHS = "sdpa"  # torch's own, of which PADDED is a special case
NATIVE = (TORCHS, "eager")  # what PACKED may stand for: another one is a user's wish

_layout: ContextVar[Layout | None] = ContextVar("layout")  # not set where no forward is under way
_OUTSIDE: Any = object()


class NotPackable(Exception):
    """A forward of packed pairs is not what the model computes."""


def model_in(module: Any) -> PreTrainedModel | None:
    """The transformers model within adapters, and within what divides it among ranks; None where there is none."""
    while not isinstance(module, PreTrainedModel):
        if hasattr(module, "get_base_model"):
            module = module.get_base_model()
        elif isinstance(module, torch.nn.Module) and hasattr(module, "module"):
            module = module.module
        else:
            return None
    return module


def computes_own(module: Any) -> str | None:
    """Why a module's attention cannot be replaced, in words; None where it can."""
    model = model_in(module)
    if model is None or not model._can_set_attn_implementation():  # noqa: SLF001 - else it only warns
        return f"{type(model or module).__name__} computes attention in its own code"
    name = model.config._attn_implementation  # noqa: SLF001 - transformers has no other word for it
    return None if name in (*NATIVE, PACKED, PADDED) else f"attention is computed by {name}"


def is_packed(module: Any) -> bool:
    """Whether the module's attention is that of packed pairs."""
    return (model := model_in(module)) is not None and model.config._attn_implementation == PACKED  # noqa: SLF001


def turn(module: Any, *, packed: bool) -> None:
    """Let the module compute attention as pairs need it, from now on. Padded ones need no mask with torch's attention.

    A layer whose activations are recomputed looks for its attention anew: so it stays for the backward as well.

    Args:
        module: the model, maybe with adapters, maybe divided among ranks.
        packed: whether pairs go through it packed.
    """
    model = model_in(module)
    if model is None or computes_own(model):
        return
    if packed or model.config._attn_implementation == TORCHS:  # noqa: SLF001 - as above
        _set(model, PACKED if packed else PADDED)


def _set(model: PreTrainedModel, name: str) -> None:
    """Let the model, and those inside, compute attention by what has this name."""
    model.set_attn_implementation(name)
    for part in model.modules():  # a copy of the model's own configuration transformers 5.17 passes over
        if isinstance(part, PreTrainedModel) and type(part.config) is type(model.config):
            part.config._attn_implementation = name  # noqa: SLF001 - as above


@contextmanager
def restored(module: Any) -> Iterator[None]:
    """Afterwards the module computes attention as it did before, whatever `turn` has done to it within."""
    model = model_in(module)
    native = None if model is None else model.config._attn_implementation  # noqa: SLF001 - as above
    try:
        yield
    finally:
        if model is not None and native and model.config._attn_implementation != native:  # noqa: SLF001 - as above
            _set(model, native)


@contextmanager
def of_pairs(module: Any, *, packed: bool) -> Iterator[None]:
    """Within, the module computes attention as pairs need it; see `turn`."""
    with restored(module):
        turn(module, packed=packed)
        yield


@contextmanager
def laid_out(layout: Layout | None) -> Iterator[None]:
    """Within, a forward's row has this layout; None: it is a padded batch all the same."""
    token = _layout.set(layout)
    try:
        yield
    finally:
        _layout.reset(token)


def _mask_of_row(**told: Any) -> Any:
    """The layout of the row in hand.

    Raises:
        NotPackable: a layer asks for its mask again as it is computed again, in the backward, which knows of no row.
    """
    if _layout.get(_OUTSIDE) is _OUTSIDE:
        raise NotPackable("its layers make their masks themselves, and again where activations are recomputed")
    return _mask(**told)


def _mask(
    *,
    config: Any,
    attention_mask: torch.Tensor | None = None,
    local_size: int | None = None,
    use_vmap: bool = False,
    **told: Any,
) -> Any:
    """The layout of the row in hand; without one, the mask of torch's attention, as far as it needs one."""
    layout, is_causal = _layout.get(None), not use_vmap and "allow_is_bidirectional_skip" not in told
    if layout is None:
        if is_causal and attention_mask is not None and bool((attention_mask[:, 1:] <= attention_mask[:, :-1]).all()):
            attention_mask = None  # no token sees what is padded behind it
        return sdpa_mask(config=config, attention_mask=attention_mask, local_size=local_size, use_vmap=use_vmap, **told)
    if not is_causal:
        layout.refuse("its attention is more than causal")
    if local_size is not None and local_size != getattr(config, "sliding_window", None):
        layout.refuse("its attention sees chunks")
    return layout.within(local_size)


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    position_bias: torch.Tensor | None = None,
    **told: Any,
) -> tuple[torch.Tensor, None]:
    """(1, heads, tokens, head size) -> (1, tokens, heads, head size), as transformers has it."""
    scores = kernels.Scores(scaling, softcap, s_aux)
    if isinstance(attention_mask, Layout):
        layout = attention_mask
        layout.count()
        if position_bias is not None:
            layout.refuse("its positions are a bias of the attention")
        if dropout:
            layout.refuse("its attention drops weights")
        made = kernels.attend(layout, query, key, value, scores)
    elif scores.are_plain:
        made, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, position_bias=position_bias, **told
        )
        return made, None
    else:  # a batch in which nothing is scored, of a model that does not compute with torch's attention
        key, value = (kernels.repeated(each, query.shape[1]) for each in (key, value))
        made = kernels.by_hand(query, key, value, attention_mask, scores)
    return made.transpose(1, 2).contiguous(), None


for _name, _masked in ((PACKED, _mask_of_row), (PADDED, _mask)):
    AttentionInterface.register(_name, _attention)
    AttentionMaskInterface.register(_name, _masked)
