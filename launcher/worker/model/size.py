"""How many weights a module has, and how many of them each token is multiplied by.

Owns: these counts, under ZeRO-3 and of packed weights too. Must not know: what is trained on them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

EXPERTS = ".experts."  # in the names of weights of which a token meets some; not in those of a shared expert
CHOSEN, ALL = ("num_experts_per_tok", "top_k_experts"), ("num_local_experts", "num_experts", "n_routed_experts")


@dataclass(frozen=True)
class Multiplied:
    """The weights that a token is multiplied by; see `launcher.model.operations`."""

    weights: float
    trained: float


def parameters(model: torch.nn.Module) -> dict[str, int]:
    """How many there are: `total` and `trainable`."""
    sizes = [(_size(each), each.requires_grad) for each in model.parameters()]
    return {"total": sum(size for size, _ in sizes), "trainable": sum(size for size, trained in sizes if trained)}


def multiplied(model: torch.nn.Module) -> Multiplied:
    """Those that each token is multiplied by, on average."""
    looked_up = _looked_up(model)
    share = _share_of_experts(getattr(model, "config", None))
    weights = trained = 0.0
    for name, each in model.named_parameters():
        if each is looked_up:
            continue
        size = _size(each) * (share if EXPERTS in name else 1.0)
        weights += size
        trained += size if each.requires_grad else 0.0
    return Multiplied(weights, trained)


def _size(parameter: Any) -> int:
    """Its elements. Under ZeRO-3 a rank holds none of them; weights packed into 4 bits stand two in a byte."""
    packed = getattr(parameter, "quant_state", None)
    if packed is not None:
        return int(torch.Size(packed.shape).numel())
    return int(getattr(parameter, "ds_numel", parameter.numel()))


def _looked_up(model: Any) -> Any:
    """The table of embeddings, where it is not the head as well."""
    try:
        table, head = model.get_input_embeddings(), model.get_output_embeddings()
    except (AttributeError, NotImplementedError):  # a module that is no language model of transformers
        return None
    weight = getattr(table, "weight", None)
    return None if head is None or getattr(head, "weight", None) is weight else weight


def _share_of_experts(config: Any) -> float:
    """Of how many experts a token goes to how many."""
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    chosen, of = (next((n for name in names if (n := getattr(text, name, None))), None) for names in (CHOSEN, ALL))
    return chosen / of if chosen and of else 1.0
