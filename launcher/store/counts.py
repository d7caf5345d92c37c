"""What data a run is trained on, as counted with its own tokenizer: by the plan, and again by the job. `data.json`.

Owns: the keys of that fact, the shares that follow from them. Must not know: how anything is counted or shown.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from launcher.store.files import LEFT_OUT

MUCH = 0.05  # a share of rows left out, or cut, that deserves a warning


@dataclass(frozen=True)
class SplitCounts:
    """A split's rows: pairs, or labelled completions for losses that take those.

    Attributes:
        read: rows, after the limits train_pairs and test_pairs; of pairs for an unpaired loss, completions: two each.
        used: those that are trained on, or that the held-out loss is measured with.
        left_out: the others, how many for which reason.
        cut: those of `used` with an answer that does not end within max_length.
        median, percentile_95: tokens of the prompt and the longer answer, uncut, of all rows that have both; None
            where no row has.
        tokens: of prompt and answers, each once, as they are cut: the mean of `used`; None where they are no pairs.
        padded: the mean places of a pair in padded micro-batches of so many pairs, drawn at random.
        desirable, undesirable: labelled completions among `used`; None for pairs.
        rows: how many rows the `read` completions come from, where some of these are pairs; else None.
    """

    read: int
    used: int
    left_out: dict[str, int] = field(default_factory=dict)
    cut: int = 0
    median: float | None = None
    percentile_95: float | None = None
    tokens: float | None = field(default=None, metadata=LEFT_OUT)
    padded: dict[str, float] | None = field(default=None, metadata=LEFT_OUT)
    desirable: int | None = field(default=None, metadata=LEFT_OUT)
    undesirable: int | None = field(default=None, metadata=LEFT_OUT)
    rows: int | None = field(default=None, metadata=LEFT_OUT)

    @property
    def unit(self) -> str:
        """What is counted, in words."""
        return "rows" if self.rows is None else "completions"

    @property
    def share_left_out(self) -> float:
        """Of the rows that were read."""
        return (self.read - self.used) / self.read if self.read else 0.0

    @property
    def share_cut(self) -> float:
        """Of the rows that are used."""
        return self.cut / self.used if self.used else 0.0


@dataclass(frozen=True)
class Answer:
    """An answer as it is trained on, up to max_length.

    Attributes:
        ids: its tokens.
        text: the same, special tokens among them.
        cut: how many more tokens it has, which no run sees.
    """

    ids: list[int]
    text: str
    cut: int = 0


@dataclass(frozen=True)
class ShownRow:
    """A row as it is trained on.

    Attributes:
        prompt: text and tokens of the prompt, rendered with the chat template.
        answers: by name: chosen and rejected, or completion.
        label: whether a completion is desirable; None for a pair.
    """

    prompt: Answer
    answers: dict[str, Answer]
    label: bool | None = field(default=None, metadata=LEFT_OUT)


@dataclass(frozen=True)
class DataCounts:
    """`data.json` of a run, and of a job that makes a reference table.

    Attributes:
        model, dataset: their names.
        max_length: in tokens.
        splits: train and test.
        examples: the first rows of the training split that are used, in the order in which the job has them.
        leaked: held-out rows that also stand in the training split, but for case, spacing and punctuation.
    """

    model: str
    dataset: str
    max_length: int
    splits: dict[str, SplitCounts]
    examples: list[ShownRow] = field(default_factory=list)
    leaked: int = 0


@dataclass(frozen=True)
class RowsManifest:
    """`rows.json` of rows that were prepared once.

    Attributes:
        counts, dropped, repeated, leaked: as whoever made the rows found them; see `Pairs` of the worker.
        notes: what was told of them, for each run that has them.
        files: the SHA-256 of each file, by name.
    """

    counts: DataCounts
    dropped: dict[str, int]
    repeated: int
    leaked: int
    notes: list[str]
    files: dict[str, str]


def in_tokens(length: float) -> str:
    """A median or a percentile of lengths: with one decimal where it has any."""
    return f"{length:.1f}".removesuffix(".0")
