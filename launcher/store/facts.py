"""The kinds of fact, and what each says: a class for each, with the keys of its file.

Owns: the keys, their types, what a fact of an older version stands for where it lacks one.
Must not know: how a file is read or written (`files`), where it lies, what follows from it.

A key without a default has been written ever since there is such a file. `time` is always when the fact was written, in
seconds since 1970. What is open by nature, such as settings or scores by name, stays a mapping.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from launcher.store.files import Plain

# ------------------------------------------------------------------------------------------------ launches


@dataclass(frozen=True)
class RunRecord:
    """What a launch records of a run: enough to list it without its folder, and to launch it again.

    Attributes:
        axes: its value of each key that varies.
        settings: what belongs to no objective, by section.
        overrides: the command line that gives this run alone.
    """

    run_id: str
    model: str
    dataset: str
    loss_type: str
    beta: float
    seed: int
    axes: Plain
    settings: Plain
    overrides: list[str]


@dataclass(frozen=True)
class Launch:
    """`launches/NNN.json`: one launch of a sweep.

    Attributes:
        axes: the keys that vary.
        runs: those that are new to the sweep, or have other settings than before.
        argv: what was typed.
        provenance: the code, the machine and the versions.
    """

    axes: list[str]
    runs: list[RunRecord]
    argv: list[str] = field(default_factory=list)
    time: float | None = None
    provenance: Plain = field(default_factory=dict)


# ------------------------------------------------------------------------------------------------ jobs


@dataclass(frozen=True)
class Job:
    """`job.json` of an attempt, or of a job that makes a table: a job as its executor knows it.

    Attributes:
        job_id: the executor's name for it; on this machine a process id.
        executor: which one has it.
        log: where the job prints what belongs to no run.
        host, process_start: of a process: its machine, and its start in clock ticks since that machine's boot.
        folder: holds its list of work; None: the job was started by hand.
    """

    job_id: str
    executor: str
    log: str | None = None
    host: str | None = None
    process_start: int | None = None
    folder: str | None = None
    time: float | None = None


@dataclass(frozen=True)
class BatchRecord:
    """`batch.json`: what is handed to an executor in one piece, written before it is.

    Attributes:
        name: unique, so that the executor can be asked for it.
        size: how many jobs.
        resources: what each needs: the section `cluster`.
        root: the output folder.
        code: the snapshot of the code; None: the installed one.
    """

    name: str
    size: int
    resources: Plain
    executor: str
    time: float
    root: str
    code: str | None = None


@dataclass(frozen=True)
class JobList:
    """`<index>/job.json` of a batch: the folders of the attempts that a job makes, one after another.

    Attributes:
        slots: how many such jobs may be at work on this machine at the same time; None: all.
    """

    attempts: list[str] = field(default_factory=list)
    slots: int | None = None


@dataclass(frozen=True)
class TableWork:
    """The same of a job that makes a reference table: the configuration of one of its runs, and the output folder."""

    prepare: Plain
    root: str


@dataclass(frozen=True)
class Prepared:
    """`done.json`: a job has made the reference table."""

    time: float | None = None


# ------------------------------------------------------------------------------------------------ attempts


class Purpose(StrEnum):
    """What an attempt is made for."""

    TRAINING = "training"  # and for what of the evaluation its job does
    EVALUATION = "evaluation"  # of what another attempt trains, or has trained


@dataclass(frozen=True)
class Attempt:
    """`attempt.json`: what was asked for.

    Attributes:
        settings, overrides: as in a RunRecord; of this attempt.
        cost_key: that of runs that need about the same time per step.
        provenance: the code, the machine and the versions.
        batch: the folder of what it was handed over with; None: it was made by hand.
        after: the job that makes its reference table, where there is one.
        follows: the job that trains what it evaluates, where it waits for one.
        purpose: None: an older version made it, which told it by the folder's name.
    """

    settings: Plain = field(default_factory=dict)
    overrides: list[str] = field(default_factory=list)
    cost_key: str | None = None
    provenance: Plain = field(default_factory=dict)
    batch: str | None = None
    after: Job | None = None
    follows: Job | None = None
    time: float | None = None
    purpose: Purpose | None = None


@dataclass(frozen=True)
class Started:
    """`started.json`: the process that took the attempt up last.

    Attributes:
        host: the node.
        gpus: their names.
        job: the scheduler's id of the job, where it is one.
        time: when it did.
    """

    host: str | None = None
    gpus: list[str] = field(default_factory=list)
    pid: int | None = None
    job: str | None = None
    time: float | None = None


@dataclass(frozen=True)
class Cancel:
    """`cancel.json`: the wish that the attempt end."""

    time: float | None = None


@dataclass(frozen=True)
class Failure:
    """`failure.json`: why an attempt ended without a result, or a job without a reference table.

    Attributes:
        status: as what that counts: FAILED, CANCELLED, TIMEOUT or LOST.
    """

    reason: str
    status: str = "FAILED"
    traceback: str = ""
    time: float | None = None


@dataclass(frozen=True)
class Requeue:
    """A line of `requeues.jsonl`: the job went back into the queue. `step`: of its last checkpoint."""

    step: int | None
    time: float


@dataclass(frozen=True)
class Halving:
    """A line of `memory.jsonl`: the run goes on with this micro-batch. `step`: of its last checkpoint."""

    micro_batch_size: int
    step: int | None
    time: float


# ------------------------------------------------------------------------------------------------ results


@dataclass(frozen=True)
class Result:
    """`result.json`: that a run is trained, and how that went.

    Attributes:
        steps, max_steps: optimizer steps, and how many there were to be.
        seconds: of all steps; those that were made twice count once.
        loss: the mean of the last logged steps.
        train_pairs: the rows that were trained on.
        dropped_pairs, dropped: those that were left out, and how many for which reason.
        repeated_pairs, leaked_pairs: those that are there twice, and those that are in the test split too.
        micro_batch_size: as it was in the end.
        device: the GPU's name, or `cpu`.
        threads: of the CPU.
        parameters: how many there are: `total` and `trainable`.
        started, ended: in seconds since 1970.
    """

    steps: int
    max_steps: int
    seconds: float
    loss: float | None = None
    train_pairs: int | None = None
    dropped_pairs: int | None = None
    dropped: Plain = field(default_factory=dict)
    repeated_pairs: int | None = None
    leaked_pairs: int | None = None
    micro_batch_size: int | None = None
    dtype: str | None = None
    device: str | None = None
    threads: int | None = None
    versions: Plain = field(default_factory=dict)
    parameters: Plain = field(default_factory=dict)
    started: float | None = None
    ended: float | None = None


@dataclass(frozen=True)
class Sample:
    """A text that a model wrote, and its golden reward; `prompt` is a text or a list of messages."""

    prompt: str | list[Plain]
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
    pairs: int | None = None
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
    generations: int | None = None
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

    actions: dict[str, float] | None = None
    seconds: float | None = None
    settings: Plain = field(default_factory=dict)
    base: str | None = None


@dataclass(frozen=True)
class ProgramResult:
    """`evaluations/lm_eval.json` and `command.json`: the scores that a program gave, by their names.

    What else stands there, the program's output or the versions of its tasks, is for a reader's eyes.
    """

    scores: dict[str, float] = field(default_factory=dict)
    settings: Plain = field(default_factory=dict)
    base: str | None = None
    seconds: float | None = None
    time: float | None = None


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
    answers: int | None = None
    seconds: float | None = None
    time: float | None = None


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
    unscored: int
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

    judged: int
    unparsable: int
    judge: Plain
    hashes: Plain
    answers: Plain
    base: str | None
    spent: Plain
    time: float | None = None


# By benchmark, what its file holds.
RESULTS: Mapping[str, type[Any]] = {
    "preference": Evaluation,
    "mt_bench": MTBenchResult,
    "lm_eval": ProgramResult,
    "command": ProgramResult,
}


# ------------------------------------------------------------------------------------------------ publishing


@dataclass(frozen=True)
class Revision:
    """`revision.json`: where a model is published.

    Attributes:
        address: what from_pretrained takes, or a link that people can open.
        commit: of the Hub; of a folder, the hash of what it holds.
        content: changes with the model and with every number that is published beside it.
    """

    address: str
    store: str
    repo: str
    revision: str
    commit: str
    content: str
    time: float = 0.0


@dataclass(frozen=True)
class Unpublished:
    """`unpublished.json`: why the attempt's job could not publish a model."""

    reason: str
    time: float = 0.0


# ------------------------------------------------------------------------------------------------ origins


@dataclass(frozen=True)
class DatasetSources:
    """Hub commits by name; what writes the rejected completions, where a weaker model does."""

    commits: dict[str, str] = field(default_factory=dict)
    weaker_model: Plain | None = None


@dataclass(frozen=True)
class Sources:
    """`sources.json`: what a run is trained on; of the model a commit of the Hub, or the hashes of its files."""

    model: Plain = field(default_factory=dict)
    dataset: DatasetSources = field(default_factory=DatasetSources)


@dataclass(frozen=True)
class Pin:
    """`pins/.../*.json`: which commit a branch or a tag on the Hub stands for in this output folder."""

    commit: str
    path: str
    revision: str
    time: float | None = None
