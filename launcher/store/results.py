"""The facts about a trained model: that it is trained, and what was measured of it. `facts` has the others.

Owns: as there, the keys, their types, what a result of an older version stands for where it lacks one; which
benchmarks there are.
In each `model` is RUN or RUN@STEP, whose it is; None: an older version wrote it, or it is of an untrained model.
Must not know: how a file is read or written (`files`), where it lies, how anything is measured.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from launcher.store.files import LEFT_OUT, Count, Plain, Seconds
from launcher.store.throughput import Throughput


@dataclass(frozen=True)
class Result:
    """`result.json`: that a run is trained, and how that went.

    Attributes:
        steps, max_steps: optimizer steps, and how many there were to be.
        seconds: of all steps; those that were made twice count once.
        loss: the mean of the last logged steps.
        train_pairs: the rows that were trained on.
        dropped_pairs, dropped: those that were left out, and how many for which reason.
        tokens_per_pair: the mean over the rows, of both sequences as they are cut.
        throughput: what its steps computed, and how fast; None where an earlier version made all of them.
        repeated_pairs, leaked_pairs: those that are there twice, and those that are in the test split too.
        micro_batch_size: as it was in the end.
        device: the GPU's name, or `cpu`.
        threads: of the CPU.
        parameters: how many there are: `total` and `trainable`.
        started, ended: in seconds since 1970.
        packing: how pairs went through the model: packed, or padded and why.
        sums: the checksums of its model's files (xxh3_128), by name; none where an older version wrote them.
    """

    steps: Count
    max_steps: Count
    seconds: Seconds
    loss: float | None = None
    train_pairs: Count | None = None
    dropped_pairs: Count | None = None
    dropped: Plain = field(default_factory=dict)
    repeated_pairs: Count | None = None
    leaked_pairs: Count | None = None
    tokens_per_pair: float | None = field(default=None, metadata=LEFT_OUT)
    throughput: Throughput | None = field(default=None, metadata=LEFT_OUT)
    micro_batch_size: Count | None = None
    dtype: str | None = None
    device: str | None = None
    threads: Count | None = None
    versions: Plain = field(default_factory=dict)
    parameters: Plain = field(default_factory=dict)
    started: Seconds | None = None
    ended: Seconds | None = None
    model: str | None = field(default=None, metadata=LEFT_OUT)
    packing: str | None = field(default=None, metadata=LEFT_OUT)
    sums: dict[str, str] | None = field(default=None, metadata=LEFT_OUT)


@dataclass(frozen=True)
class Sample:
    """A text that a model wrote, and its golden reward; `prompt` is a text, messages, or messages and their tools."""

    prompt: str | list[Plain] | Plain
    text: str
    reward: float | None = None


@dataclass(frozen=True)
class OtherLoss:
    """The held-out loss of an objective."""

    loss_type: str
    beta: float
    loss: float | None


@dataclass(frozen=True)
class HeldOut:
    """What a trained model makes of the held-out pairs.

    Attributes:
        loss, reward_accuracy, reward_margin: the means over the pairs; None where they cannot be had.
        pairs: how many, or how many completions where they are not paired.
        losses: what the objectives of the sweep, its own too, say of the same pairs.
    """

    loss: float | None = None
    reward_accuracy: float | None = None
    reward_margin: float | None = None
    pairs: Count | None = None
    losses: list[OtherLoss] = field(default_factory=list)


@dataclass(frozen=True)
class Written:
    """What a model, trained or untrained, writes.

    Attributes:
        kl, kl_stderr: to the untrained model, in nats a text; None for that model itself.
        golden_reward, golden_reward_stderr: the mean over the texts; None where the data set has no such reward.
        golden_rewards: of each text.
        generations: how many texts.
        samples: the first of them.
    """

    kl: float | None = None
    kl_stderr: float | None = None
    golden_reward: float | None = None
    golden_reward_stderr: float | None = None
    golden_rewards: list[float] = field(default_factory=list)
    generations: Count | None = None
    samples: list[Sample] = field(default_factory=list)


@dataclass(frozen=True)
class Evaluation(Written, HeldOut):
    """`evaluation.json`: the benchmark `preference`; of an untrained model, what it writes.

    Attributes:
        actions: the probability of each action, where the model is a table of them.
        seconds: what the evaluation took.
        settings: what the texts depend on.
        base: the cache entry of the untrained model's evaluation.
    """

    actions: dict[str, float] | None = field(default=None, metadata=LEFT_OUT)
    seconds: Seconds | None = None
    settings: Plain = field(default_factory=dict)
    base: str | None = None
    model: str | None = field(default=None, metadata=LEFT_OUT)


@dataclass(frozen=True)
class ProgramResult:
    """`evaluations/lm_eval.json` and `command.json`: the scores that a program gave, by their names.

    What else stands there, the program's output or the versions of its tasks, is for a reader's eyes.
    """

    scores: dict[str, float] = field(default_factory=dict)
    settings: Plain = field(default_factory=dict)
    base: str | None = None
    seconds: Seconds | None = None
    time: Seconds | None = None
    model: str | None = field(default=None, metadata=LEFT_OUT)


@dataclass(frozen=True)
class Answered:
    """`mt_bench/answered.json`: that a model has answered all questions.

    Attributes:
        key: that of its lines in answers.jsonl.
        base: the cache entry of the untrained model's answers; None for that model itself.
        settings: what the answers depend on.
        answers: how many questions.
        seconds: what writing them took.
    """

    key: str
    base: str | None = None
    settings: Plain = field(default_factory=dict)
    answers: Count | None = None
    seconds: Seconds | None = None
    time: Seconds | None = None
    model: str | None = field(default=None, metadata=LEFT_OUT)


@dataclass(frozen=True)
class RatedQuestion:
    """The mean rating of each turn's answer, and their mean; None where a verdict could not be read."""

    question_id: int
    category: str
    turns: list[float | None]
    score: float | None


@dataclass(frozen=True)
class MTBenchScores:
    """What the ratings of one model come to.

    Attributes:
        score, stderr: the mean over questions, and its standard error (standard deviation of the questions' scores over
            the root of their number).
        turns, categories: the means of each.
        judge_sd: the standard deviation of the ratings of one and the same answer, pooled, where there are several.
        unscored: how many questions have no score.
    """

    score: float | None
    stderr: float | None
    turns: list[float | None]
    categories: dict[str, float | None]
    judge_sd: float | None
    unscored: Count
    questions: list[RatedQuestion]


@dataclass(frozen=True)
class MTBenchResult(MTBenchScores):
    """`evaluations/mt_bench.json`: the scores of a model, and what they depend on.

    Attributes:
        judged, unparsable: how many verdicts have a rating, and how many none.
        judge: who gave them, and how.
        hashes: of the questions, the references and the judge's prompts.
        answers: the settings of the answers.
        base: the cache entry of the untrained model's answers.
        spent: calls and tokens.
    """

    judged: Count
    unparsable: Count
    judge: Plain
    hashes: Plain
    answers: Plain
    base: str | None
    spent: Plain
    time: Seconds | None = None
    model: str | None = field(default=None, metadata=LEFT_OUT)

    def is_like(self, other: MTBenchResult) -> bool:
        """Whether its scores and those of the other can be compared: same judge, questions, prompts and answers."""
        return (self.judge, self.hashes, self._settings) == (other.judge, other.hashes, other._settings)

    @property
    def _settings(self) -> Plain:
        """Those of the answers, which name the untrained model too."""
        return {key: value for key, value in self.answers.items() if key != "base"}


class Measurement(Protocol):
    """What the file of every benchmark says: `base`, the cache entry of the untrained model's result; `model`."""

    @property
    def base(self) -> str | None: ...
    @property
    def model(self) -> str | None: ...


# Every benchmark, and what its file holds.
BENCHMARKS: dict[str, type[Measurement]] = {
    "preference": Evaluation,
    "mt_bench": MTBenchResult,
    "lm_eval": ProgramResult,
    "command": ProgramResult,
}
