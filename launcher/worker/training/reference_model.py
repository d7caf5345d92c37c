"""The untrained model, ready to score: whole on one rank, or divided among several.

Owns: that choice, and the head that scores.
Must not know: what is scored, tables.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from trl.trainer.utils import add_fused_lm_head

from launcher.config import RunConfig
from launcher.store.output_folder import Store
from launcher.worker.distributed import zero
from launcher.worker.model import base_model, precision, weights


@contextmanager
def reference_model(config: RunConfig, store: Store) -> Iterator[torch.nn.Module]:
    """The base module, ready to score; under ZeRO-3 divided among the ranks, since one may not hold it."""
    if not zero.divides_weights(config.deepspeed):
        with weights.in_use(weights.load(config.model, store)) as base, weights.scoring(base):
            yield base
        return
    folder, dtype = base_model.ensure_base(config.model, store), precision.dtype_of(config.model)

    def load() -> torch.nn.Module:
        base = weights.from_folder(folder, config.model, dtype).requires_grad_(requires_grad=False)
        add_fused_lm_head(base)
        return base

    with zero.sharded(config.deepspeed, dtype, load) as base:
        yield base
