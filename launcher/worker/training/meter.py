"""What a training computes, how much of that is of use, and the memory that it takes: counted, and told for each line.

Owns: the counts of a batch, their sums since the last line and over the ranks, the peak of memory.
Must not know: losses, files, how rates and shares follow from the sums (`store.throughput`, `model.operations`).

The collator counts each batch on the CPU, where its masks are, and lays the counts beside the tensors; the trainer adds
up those of the batches that it really computes, since batches are fetched ahead. So no micro-batch waits for a GPU, and
the ranks meet once for each logged line.

**What a forward computes is told in one place**, the trainer's `_computed`: rows x length of the padded batch, or
`Counts.packed` where pairs go through the model in one row.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from dataclasses import astuple, dataclass, replace
from typing import Any

import torch
import torch.distributed

from launcher.model.operations import CPU, peak_tflops, per_token, share_of_peak
from launcher.store.throughput import Throughput, measured
from launcher.worker.model import weights
from launcher.worker.model.size import multiplied

COUNTS = "counts"  # their key in a batch
PREFIXES = ("", "KL_")  # of the tensors of each forward; an unpaired loss makes another of foreign completions


@dataclass(frozen=True)
class Counts:
    """What one or more batches hold.

    Attributes:
        rows: pairs, or completions with a label.
        tokens: of prompts and answers, as they are cut, each once: what is of use.
        computed: the places that the model's forward computes.
        padding: how many of these hold no token.
    """

    rows: int = 0
    tokens: int = 0
    computed: int = 0
    padding: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))

    @property
    def packed(self) -> Counts:
        """The same pairs in one row without padding: see `dataset.lengths.Lengths.packed`."""
        return replace(self, computed=self.tokens - self.rows, padding=0)


Collate = Callable[[list[dict[str, Any]]], dict[str, Any]]


def counting(collate: Collate) -> Collate:
    """A collator whose batches say what they hold."""

    def counted(rows: list[dict[str, Any]]) -> dict[str, Any]:
        batch = collate(rows)
        return {**batch, COUNTS: count(batch)}

    return counted


def count(batch: dict[str, Any]) -> Counts:
    """What a padded batch holds: of pairs, or of completions with foreign ones beside them."""
    forwards = [prefix for prefix in PREFIXES if f"{prefix}input_ids" in batch]
    places = sum(batch[f"{prefix}input_ids"].numel() for prefix in forwards)
    given = sum(int(batch[f"{prefix}attention_mask"].sum()) for prefix in forwards)
    answers = sum(int(batch[f"{prefix}completion_mask"].sum()) for prefix in forwards)
    sequences = 1 if forwards == [""] and "label" in batch else 2  # that each prompt stands in
    rows = len(batch["input_ids"]) // (1 if "label" in batch else 2)
    return Counts(rows, answers + (given - answers) // sequences, places, places - given)


class Meter:
    """Adds up what a training computes.

    Args:
        paired: whether it trains on pairs.
        tflops: the peak of a GPU that is not known by its name; None: not known either.
    """

    def __init__(self, *, paired: bool = True, tflops: float | None = None) -> None:
        self._sum, self._paired, self._tflops = Counts(), paired, tflops
        self._per_token = 0.0

    def begin(self, model: torch.nn.Module) -> None:
        """A training of this model begins: on a GPU, the peak of memory is its own from now on."""
        found = multiplied(model)
        self._sum, self._per_token = Counts(), per_token(found.weights, found.trained, paired=self._paired)
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()

    def add(self, counts: Counts) -> None:
        """A batch is about to be computed."""
        self._sum += counts

    def window(self, seconds: float) -> Throughput:
        """What has been added since this was asked last, and took so long. All ranks take part, and all are told."""
        mine = [*astuple(self._sum), peak_bytes()]
        self._sum = Counts()
        of_ranks = _gathered(mine) if torch.distributed.is_initialized() else [mine]
        *sums, peaks = zip(*of_ranks, strict=True)
        counts = Counts(*map(sum, sums))
        tflops = peak_tflops(torch.cuda.get_device_name() if torch.cuda.is_available() else CPU, self._tflops)
        share = share_of_peak(self._per_token * counts.tokens, seconds, len(of_ranks), tflops)
        return measured(counts.tokens, counts.computed, counts.padding, seconds, max(peaks), share)


def _gathered(mine: list[int]) -> list[list[int]]:
    """The numbers of each rank, by one collective."""
    own = torch.tensor(mine, dtype=torch.int64, device=weights.device())
    found = [torch.empty_like(own) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(found, own)
    return [each.tolist() for each in found]


def peak_bytes() -> int:
    """The most memory that this rank's training has had at a time.

    On a GPU, what PyTorch had given to tensors, without what it keeps or a library takes beside it. On a CPU, what the
    process had resident, with the libraries themselves, and with whatever it did before this training.
    """
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
