"""What becomes of a split's rows: how many are used, how long they are, and the first of them as they are trained on.

Owns: these numbers, of token ids. Must not know: how rows become token ids, where the numbers are written or shown.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from launcher.config import RunConfig
from launcher.store.counts import Answer, DataCounts, ShownRow, SplitCounts, in_tokens
from launcher.worker.dataset.lengths import Lengths

EXAMPLES = 3  # that a job writes down
MICRO_BATCHES = (1, 2, 4, 8, 16, 32)  # for which it is told how much padding they would have

Row = Mapping[str, list[int]]


@dataclass(frozen=True)
class Usable:
    """A split as token ids.

    Attributes:
        rows: all that have a prompt and answers.
        fitting: those that are used.
        left_out: how many rows of the split are not, for each reason.
        answers: the columns of a row's answers, by their names.
        read: rows that completions come from, where some of them are halves of pairs; else None.
    """

    rows: Dataset
    fitting: Dataset
    left_out: dict[str, int]
    answers: Mapping[str, str]
    read: int | None = None

    def counts(self, max_length: int) -> SplitCounts:
        """The numbers of the split."""
        lengths = [self._length(row) for row in self.rows]
        labels = self.fitting["label"][:] if "label" in self.fitting.column_names else None
        pairs = Lengths.of(self.fitting, max_length) if len(self.answers) > 1 and len(self.fitting) else None
        return SplitCounts(
            read=len(self.fitting) + sum(self.left_out.values()),
            used=len(self.fitting),
            left_out=self.left_out,
            cut=sum(self._length(row) > max_length for row in self.fitting),
            median=float(statistics.median(lengths)) if lengths else None,
            percentile_95=float(numpy.percentile(lengths, 95)) if lengths else None,
            tokens=float(pairs.once.mean()) if pairs else None,
            padded={str(size): pairs.padded(size) for size in MICRO_BATCHES} if pairs else None,
            desirable=None if labels is None else sum(labels),
            undesirable=None if labels is None else len(labels) - sum(labels),
            rows=self.read,
        )

    def _length(self, row: Row) -> int:
        return len(row["prompt_ids"]) + max(len(row[column]) for column in self.answers.values())

    def examples(self, number: int, max_length: int, tokens: PreTrainedTokenizerBase) -> list[ShownRow]:
        """The first rows that are used, with the tokens that the collator leaves of them."""
        first = self.fitting.select(range(min(number, len(self.fitting))))
        return [self._shown(row, max_length, tokens) for row in first]

    def _shown(self, row: Row, max_length: int, tokens: PreTrainedTokenizerBase) -> ShownRow:
        room = max_length - len(row["prompt_ids"])
        answers = {name: _answer(row[column], room, tokens) for name, column in self.answers.items()}
        label = row.get("label")
        return ShownRow(_answer(row["prompt_ids"], max_length, tokens), answers, None if label is None else bool(label))


def _answer(ids: Sequence[int], room: int, tokens: PreTrainedTokenizerBase) -> Answer:
    kept = list(ids[:room])
    text = tokens.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return Answer(kept, str(text), len(ids) - len(kept))


def of_splits(
    config: RunConfig, train: Usable, test: Usable, tokens: PreTrainedTokenizerBase, examples: int, leaked: int
) -> DataCounts:
    """The numbers of both splits, so many examples, and how many held-out rows are training rows."""
    limit = config.trainer.max_length
    splits = {"train": train.counts(limit), "test": test.counts(limit)}
    shown = train.examples(examples, limit, tokens)
    return DataCounts(config.model.name, config.dataset.name, limit, splits, shown, leaked)


def sentences(counts: DataCounts, what: str) -> Iterable[str]:
    """For a log: the lengths of each split, and how many rows are cut."""
    for name, split in counts.splits.items():
        if split.median is not None and split.percentile_95 is not None:
            yield (
                f"{name} split: {split.used} of {split.read} {what} used, median {in_tokens(split.median)} tokens, "
                f"95th percentile {in_tokens(split.percentile_95)}, {split.cut} cut at max_length {counts.max_length}"
            )
