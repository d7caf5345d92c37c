"""How long rows are, as the collator cuts them: what they cost to compute, packed, padded and as they are.

Owns: these counts. Must not know: how rows become token ids, who computes them, how long that takes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy
import pyarrow.compute
from datasets import Dataset

Counts = numpy.ndarray[tuple[int], numpy.dtype[numpy.int64]]
COLUMNS = ("prompt_ids", "chosen_ids", "rejected_ids")


@dataclass(frozen=True)
class Lengths:
    """Tokens of each row, cut on the right at max_length: three arrays of one number a row.

    Attributes:
        prompt: of the prompt.
        chosen, rejected: of its two completions; of an unpaired row, of its own and of the foreign one.
    """

    prompt: Counts
    chosen: Counts
    rejected: Counts

    @classmethod
    def of(cls, rows: Dataset, max_length: int) -> Lengths:
        """The lengths of tokenised rows."""
        table = rows.with_format("arrow")[:]
        found = (pyarrow.compute.list_value_length(table[name]).to_numpy() for name in COLUMNS)
        return cls.cut(*(each.astype(numpy.int64) for each in found), max_length=max_length)

    @classmethod
    def cut(cls, prompt: Counts, chosen: Counts, rejected: Counts, *, max_length: int) -> Lengths:
        """The lengths of rows that are this long before the collator cuts them."""
        prompt = numpy.minimum(prompt, max_length)
        return cls(prompt, *(numpy.minimum(answer, max_length - prompt) for answer in (chosen, rejected)))

    @property
    def once(self) -> Counts:
        """A row's tokens, its prompt once: what there is to be computed."""
        return self.prompt + self.chosen + self.rejected

    @property
    def twice(self) -> Counts:
        """The tokens of its two sequences, the prompt in each."""
        return self.once + self.prompt

    @property
    def packed(self) -> Counts:
        """The places of a pair in a packed row: its prompt once, no answer's last token, which predicts nothing.

        The prompt's last token stands before each answer, since it predicts the first token of both.
        """
        return self.once - 1

    def padded(self, size: int) -> float:
        """How many places a pair has, on average, in TRL's padded micro-batches of `size` pairs drawn at random.

        A micro-batch of n pairs has 2 n sequences as long as its longest. The mean of the longest of n rows drawn from
        N without putting any back, where m(k) is the k-th shortest, is the sum of m(k) (F(k) - F(k - 1)), with
        F(k) = C(k, n) / C(N, n) the share of draws from the k shortest alone.
        """
        longest = numpy.sort(self.prompt + numpy.maximum(self.chosen, self.rejected))
        rows = len(longest)
        size = min(size, rows)
        shortest = numpy.arange(1, rows + 1, dtype=float)
        among = numpy.ones(rows)
        for drawn in range(size):
            among *= numpy.maximum(shortest - drawn, 0) / (rows - drawn)
        return float(2 * (longest * numpy.diff(among, prepend=0.0)).sum())
