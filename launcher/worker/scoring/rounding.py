"""By how much rounding may move what completions score.

Owns: how that grows with a completion's length. Must not know: the bounds, who compares what with what.
"""

from __future__ import annotations

import torch

SHORTEST = 16  # tokens that a completion counts as having more: a single one may move farther
ULPS = 4  # of a sum in float32, in which log-probs and losses are added up whatever the weights are
EPSILON = torch.finfo(torch.float32).eps


def precision_of_products(precision: torch.dtype) -> torch.dtype:
    """In what weights of this precision are multiplied: products of float32 may be rounded to about bfloat16."""
    return precision if torch.get_float32_matmul_precision() == "highest" else torch.bfloat16


def moved_by(nats: float, tokens: torch.Tensor, sums: torch.Tensor) -> torch.Tensor:
    """Nats by which each sum of log-probs may move, of so many tokens each; `nats`: / sqrt(tokens + 16)."""
    return nats * (tokens + SHORTEST).sqrt() + ULPS * EPSILON * sums.abs()
