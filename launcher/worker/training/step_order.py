"""In which order the pairs of an epoch are trained on where several ranks share each optimizer step.

Owns: that order, and which pairs of a step meet in which micro-batch of which rank.
Must not know: losses, what makes a pair costly, how ranks talk to each other.

accelerate cuts the order into micro-batches and deals these to the ranks in turn: of W ranks, rank r has the
micro-batches r, W + r, 2 W + r, ... In each of these rounds the ranks wait for one another (under ZeRO-3 in each
layer), so that a step takes as long as the slowest rank of each round, added up. Which pairs a step has is drawn by the
seed and the epoch alone, as on one device; where a loss is a mean over pairs, who computes which changes nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from accelerate.data_loader import SeedableRandomSampler  # type: ignore[import-untyped]
from torch.utils.data import Sampler


@dataclass(frozen=True)
class Ranks:
    """How a step is shared out.

    Attributes:
        count: of the ranks.
        micro_batch: pairs of a micro-batch.
        batch: pairs of an optimizer step, a whole number of rounds of one micro-batch for each rank.
    """

    count: int
    micro_batch: int
    batch: int

    @property
    def round(self) -> int:
        """Pairs of a round: a micro-batch for each rank."""
        return self.count * self.micro_batch


class StepOrder(Sampler[int]):
    """Places of pairs, epoch after epoch, as they are dealt to the ranks; the same on all of them.

    Args:
        seed: draws the order of each epoch, with the epoch's number.
        epoch: asked for that number when an epoch begins. It cannot be told: where the batches are skipped that a
            resumed training has behind it, accelerate's loaders pass `set_epoch` on to a sampler of its own only.
        ranks: how a step is shared out.
        costs: of each pair.
    """

    def __init__(self, seed: int, epoch: Callable[[], int], ranks: Ranks, costs: Sequence[int]) -> None:
        self.seed, self.epoch, self.ranks, self.costs = seed, epoch, ranks, costs

    def __len__(self) -> int:
        return len(self.costs)

    def __iter__(self) -> Iterator[int]:
        drawn = SeedableRandomSampler(range(len(self)), data_seed=self.seed)  # as accelerate has it on one device
        drawn.set_epoch(self.epoch())
        order = list(drawn)
        for start in range(0, len(order), self.ranks.batch):
            step = order[start : start + self.ranks.batch]
            yield from step if self._stays(start) else self._dealt(step)

    def _stays(self, start: int) -> bool:
        """Whether the step that begins there is left as it is drawn.

        One that the epoch's end cuts short is: its micro-batches count as one device's would, whole or not. To fill it,
        accelerate gives ranks that have none the first micro-batches of the epoch once more: they stay, too, so that
        these are the pairs that were drawn first, and not the longest ones.
        """
        borrows = len(self) % self.ranks.round > 0
        return start + self.ranks.batch > len(self) or (borrows and start == 0)

    def _dealt(self, step: Sequence[int]) -> list[int]:
        return [step[place] for place in deal([self.costs[pair] for pair in step], self.ranks)]


def deal(costs: Sequence[int], ranks: Ranks) -> list[int]:
    """The places of a whole step's pairs, in an order in which all ranks have about as much to do in each round.

    The costliest pairs come first, so that the pairs of a round are alike, which also spares padding. Within a round
    each goes to the rank that has least by then, of those whose micro-batch has room (Graham, "Bounds on
    multiprocessing timing anomalies", 1969: longest processing time first). Pairs of one cost keep their order.
    """
    costliest = sorted(range(len(costs)), key=lambda place: -costs[place])
    order: list[int] = []
    for start in range(0, len(costs), ranks.round):
        shares: list[list[int]] = [[] for _ in range(ranks.count)]
        loads = [0] * ranks.count
        for place in costliest[start : start + ranks.round]:
            rank = min((r for r in range(ranks.count) if len(shares[r]) < ranks.micro_batch), key=loads.__getitem__)
            shares[rank].append(place)
            loads[rank] += costs[place]
        order += (place for share in shares for place in share)
    return order
