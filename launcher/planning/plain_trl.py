"""What the same trainings would take in plain TRL: pairs padded, each prompt twice, a live reference model. Pure.

Owns: that comparison, and what it assumes. Must not know: who counts lengths, what was measured.

Assumed is that time goes with the tokens that are computed, times the forwards that they are computed for: TRL's
DPOTrainer with the model as its own reference makes one forward more for each pair (3 become 4 with all weights
trained, 2 become 3 with adapters, one more each where activations are computed again), unless the loss asks none. What
a sweep here pays once, the reference table, is not in the comparison, nor is what a process of its own takes to start
for each run, so that it says too little of plain TRL for short trainings.

Tokens: where the data have been counted, those that padded micro-batches of the run's size would have on average, drawn
at random (`store.counts`). Else as of pairs like UltraFeedback's, by exact arithmetic on drawn lengths: prompts of 185
tokens on average, answers of 287, log-normal with sigma 0.7, cut at 1,024 together; pairs with longer prompts and
shorter answers (Orca's: 295 and 143) have more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from launcher.config import RunConfig
from launcher.losses import loss_named
from launcher.planning.estimate import forwards
from launcher.store.counts import SplitCounts

# By the pairs of a micro-batch: places of the padded pairs over tokens, the prompt once.
LIKE_ULTRAFEEDBACK = {1: 1.52, 2: 1.88, 4: 2.22, 8: 2.50, 16: 2.69, 32: 2.78}


@dataclass(frozen=True)
class Comparison:
    """How often plain TRL would compute what a run computes.

    Attributes:
        times: its tokens and forwards over ours.
        assumed: whether the lengths of the data are not known, and those of UltraFeedback stand for them.
    """

    times: float
    assumed: bool


def compared(config: RunConfig, counts: SplitCounts | None, computed: float | None) -> Comparison:
    """Plain TRL beside a run.

    Args:
        config: of the run.
        counts: of the rows that it trains on; None where they are not known.
        computed: places that runs of its kind have computed for each token of prompts and answers; None where none
            has told.
    """
    ours, known, loss = forwards(config), _padded(config, counts), loss_named(config.loss_type)
    theirs = ours + loss.needs_table
    if not loss.paired:  # whose completions are computed here as they are there
        return Comparison(theirs / ours, assumed=False)
    padded = known or _of_size(LIKE_ULTRAFEEDBACK, config.trainer.micro_batch_size)
    packed = config.trainer.packed is not False
    mine = computed or (1.0 if packed else padded)
    alike = computed is None and not packed  # then the lengths do not matter
    return Comparison(theirs / ours * padded / mine, assumed=known is None and not alike)


def _padded(config: RunConfig, counts: SplitCounts | None) -> float | None:
    if counts is None or not counts.padded or not counts.tokens:
        return None
    return _of_size({int(size): places for size, places in counts.padded.items()}, config.trainer.micro_batch_size) / (
        counts.tokens
    )


def _of_size(known: dict[int, float], size: int) -> float:
    """The value for a micro-batch: between two known sizes, on the line by the logarithm of the size."""
    smaller = max((each for each in known if each <= size), default=min(known))
    larger = min((each for each in known if each >= size), default=max(known))
    if smaller == larger:
        return known[smaller]
    share = math.log(size / smaller) / math.log(larger / smaller)
    return known[smaller] + share * (known[larger] - known[smaller])
