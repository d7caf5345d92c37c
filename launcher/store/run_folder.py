"""`runs/<run_id>` and its attempts: every path and file name of a run.

Owns: where a run's files lie, its attempts in order, the models that there are of it.
Must not know: what a fact means, schedulers, training. `output_folder` draws the whole tree.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from launcher.errors import StoreError
from launcher.store import checkpoint_folders, config_file
from launcher.store.facts import Attempt, Job, JobRecords, Purpose
from launcher.store.files import Plain, read_fact, read_lines, typed, write_derived, write_once
from launcher.store.names import EVALUATION_SUFFIX, attempt_in, is_attempt, milestone_in
from launcher.store.node_facts import Damage
from launcher.store.reading import REMEDY, is_there, may_be_there
from launcher.store.seen import Seen, names_in
from launcher.store.whose import check

Kind = TypeVar("Kind")


@dataclass(frozen=True)
class Point:
    """A model that is published: a run's final one, or a milestone, the model after `step` steps."""

    run: RunDir
    step: int | None = None

    @property
    def folder(self) -> RunDir:
        """Where its model, its evaluation and its revision.json lie."""
        return self.run if self.step is None else self.run.milestone(self.step)

    @property
    def name(self) -> str:
        """RUN or RUN@STEP, as in results.jsonl."""
        return name_of(self.run.run_id, self.step)


def name_of(run_id: str, step: int | None) -> str:
    """RUN or RUN@STEP."""
    return run_id if step is None else f"{run_id}@{step}"


def points_of(run: RunDir) -> list[Point]:
    """What there is to publish of a trained run: its milestones by step, then the final model."""
    return [*(Point(run, step) for step, _ in run.milestones()), Point(run)]


# Nobody makes it again: without it, its job is not known any more, and goes on.
RECORD_REMEDY = "put it right, or move it away once its job has ended: cancel that by hand where it has not"
BATCH_PARTS = 4  # of its path, below the output folder: sweeps, the sweep, jobs, its name
BATCH_FILE = "batch.json"  # in a batch's folder: what is handed over
JOBS_FILE = "jobs.json"  # in a batch's folder: what the executor made of it


@dataclass(frozen=True)
class AttemptDir:
    """`attempts/NNN` of one run, or `attempts/NNN.evaluation`, which trains nothing.

    The folder holds what the attempt leaves, and is made with the first of that; what was asked for lies beside it.
    """

    path: Path
    seen: Seen | None = field(default=None, compare=False, repr=False)

    @property
    def number(self) -> int:
        return int(self.path.name.partition(".")[0])

    @property
    def evaluates(self) -> bool:
        """Whether it trains nothing, as its record says; where that is of an older version or lost, its name does.

        A damaged record is told by whoever needs more of it: that of an attempt long past is in nobody's way.
        """
        try:
            purpose = self.record.purpose
        except StoreError:
            purpose = None
        return self.path.suffix == EVALUATION_SUFFIX if purpose is None else purpose is Purpose.EVALUATION

    @property
    def attempt_file(self) -> Path:
        """What was asked for; within the folder where an older version made it."""
        beside = self.path.parent.parent / f"attempt-{self.path.name}.json"
        return beside if self.has(beside) else self.path / "attempt.json"

    @cached_property
    def record(self) -> Attempt:
        """What was asked for: there before the folder has its name, and never changed; empty where it was lost.

        Raises:
            StoreError: it cannot be read, or is another run's.
        """
        try:
            fact = read_fact(self.attempt_file, Attempt) or Attempt()
        except StoreError as error:
            raise StoreError(str(error).replace(REMEDY, RECORD_REMEDY)) from error
        check(self.attempt_file, fact.run, self.run.run_id)
        return fact

    @cached_property
    def batch(self) -> Path | None:
        """The folder of what it was handed over with, also where the output folder has another name since."""
        recorded = self.record.batch
        root = self.path.parents[3]
        return None if recorded is None else root.joinpath(*Path(recorded).parts[-BATCH_PARTS:])

    @property
    def job(self) -> Job | None:
        """What the scheduler made of it; None where nothing that is recorded.

        Raises:
            StoreError: the batch's record has no such job.
        """
        own, index = self.read(self.job_file, Job), self.record.index
        if own is not None or self.batch is None or index is None:
            return own
        return self.job_in(self.batch, index)

    @property
    def was_submitted(self) -> bool:
        """Whether it has a job; what that is need not be read for it."""
        batch = None if self.record.index is None else self.batch
        return self.has(self.job_file) or (batch is not None and is_there(batch / JOBS_FILE))

    def job_in(self, batch: Path, index: int) -> Job | None:
        """That job of the batch in a folder, which is to make it; None where none are recorded.

        Raises:
            StoreError: the record has no such job.
        """
        jobs = self._jobs_of(batch)
        if jobs is not None and not 0 <= index < len(jobs):
            raise StoreError(f"{batch / JOBS_FILE}: lacks the job of {self.attempt_file}; {REMEDY}")
        return None if jobs is None else jobs[index]

    def _jobs_of(self, batch: Path) -> list[Job] | None:
        known = {} if self.seen is None else self.seen.batches
        if str(batch) not in known:
            recorded = read_fact(batch / JOBS_FILE, JobRecords)
            known[str(batch)] = None if recorded is None else recorded.jobs
        return known[str(batch)]

    def has(self, file: Path) -> bool:
        """Whether a file of the attempt, or of its run, is there."""
        return is_there(file) if self.seen is None else self.seen.has(file)

    def read(self, file: Path, kind: type[Kind]) -> Kind | None:
        """A fact of the attempt, or of its run; None where it is not there."""
        return read_fact(file, kind) if self.seen is None or self.seen.has(file) else None

    @property
    def job_file(self) -> Path:
        return self.path / "job.json"

    @property
    def started_file(self) -> Path:
        """Of older versions; `starts` reads it with what is written now."""
        return self.path / "started.json"

    @property
    def failure_file(self) -> Path:
        return self.path / "failure.json"

    @property
    def unpublished_file(self) -> Path:
        return self.path / "unpublished.json"

    @property
    def cancel_file(self) -> Path:
        return self.path / "cancel.json"

    @property
    def progress_file(self) -> Path:
        return self.path / "progress.json"

    def lost_file(self, start: str) -> Path:
        """What was noticed of a rank that a start of it has lost."""
        return self.path / "lost" / f"{start}.json"

    @property
    def run(self) -> RunDir:
        return RunDir(self.path.parent.parent, self.seen)

    @property
    def requeue_log(self) -> Path:
        return self.path / "requeues.jsonl"

    def log_file(self, rank: int = 0) -> Path:
        return self.path / f"rank{rank}.log"


@dataclass(frozen=True)
class EvaluationDir:
    """`evaluations/` of a run; of an untrained model, one folder of the cache for each benchmark and its settings."""

    path: Path

    def result_file(self, benchmark: str) -> Path:
        return self.path / f"{benchmark}.json"

    def folder(self, benchmark: str) -> Path:
        """What a benchmark leaves beside its result."""
        return self.path / benchmark

    @property
    def answers_log(self) -> Path:
        return self.folder("mt_bench") / "answers.jsonl"

    @property
    def answered_file(self) -> Path:
        return self.folder("mt_bench") / "answered.json"

    @property
    def judgements_log(self) -> Path:
        return self.folder("mt_bench") / "judgements.jsonl"

    def job_file(self, benchmark: str) -> Path:
        """What is there when a job has done its part: of mt_bench the answers, which are judged elsewhere."""
        return self.answered_file if benchmark == "mt_bench" else self.result_file(benchmark)


@dataclass(frozen=True)
class RunDir:
    """`runs/<run_id>`, shared by every sweep that holds the run.

    `seen`: what was in it when it was looked at; None: each question is answered by what is there now.
    """

    path: Path
    seen: Seen | None = field(default=None, compare=False, repr=False)

    def at_a_look(self, batches: dict[str, list[Job] | None]) -> RunDir:
        """The run as it is at one moment, whose folders are listed once each."""
        return RunDir(self.path, Seen(self.path, batches))

    def has(self, file: Path) -> bool:
        """Whether a file of the run is there."""
        return is_there(file) if self.seen is None else self.seen.has(file)

    def read(self, file: Path, kind: type[Kind]) -> Kind | None:
        """A fact of the run; None where it is not there."""
        return read_fact(file, kind) if self.has(file) else None

    def names(self, folder: Path) -> Collection[str]:
        """What is in a folder of the run."""
        return names_in(folder) if self.seen is None else self.seen.names(folder)

    @property
    def run_id(self) -> str:
        return self.path.name

    @property
    def config_file(self) -> Path:
        return self.path / "config.yaml"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def starts(self) -> Path:
        """A file for each process group that has taken the run up."""
        return self.path / "starts"

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def saves_log(self) -> Path:
        return self.path / "saves.jsonl"

    @property
    def tracking(self) -> Path:
        return self.path / "tracking"

    @property
    def result_file(self) -> Path:
        return self.path / "result.json"

    def last_checkpoint_step(self) -> int | None:
        """The step of the newest complete checkpoint: with the marker that its writer makes last, and no damage known.

        Of any start; an older version had one folder for all.
        """
        if not self.has(self.checkpoints):
            return None
        damaged = {self.checkpoints / damage.checkpoint for damage in self.damages()}
        found = (each for each in checkpoint_folders.newest_first(self.checkpoints) if each not in damaged)
        marked = (each for each in found if is_there(each / checkpoint_folders.MARKER))
        return next(map(checkpoint_folders.step_of, marked), None)

    @property
    def damage_log(self) -> Path:
        """A line for each checkpoint that was found damaged."""
        return self.path / "damage.jsonl"

    def damages(self) -> list[Damage]:
        """The checkpoints that were found damaged so far."""
        lines = read_lines(self.damage_log) if self.has(self.damage_log) else []
        return [typed(line, Damage, self.damage_log) for line in lines]

    @property
    def evaluation_file(self) -> Path:
        return self.path / "evaluation.json"

    @property
    def sources_file(self) -> Path:
        return self.path / "sources.json"

    @property
    def data_file(self) -> Path:
        return self.path / "data.json"

    @property
    def cache_file(self) -> Path:
        """Derived: which entries of the cache it needs."""
        return self.path / "cache.json"

    @property
    def revision_file(self) -> Path:
        return self.path / "revision.json"

    def milestone(self, step: int) -> RunDir:
        """The model after so many steps, in a folder laid out as a run's: model/, evaluation.json, revision.json."""
        return RunDir(self.path / "milestones" / f"{step:06d}")

    def milestones(self) -> list[tuple[int, RunDir]]:
        """Those whose model is there, by step."""
        steps = sorted(
            step for name in self.names(self.path / "milestones") if (step := milestone_in(name)) is not None
        )
        return [(step, each) for step in steps if is_there((each := self.milestone(step)).model)]

    @property
    def memory_log(self) -> Path:
        """A line each time that the run went on with a smaller micro-batch."""
        return self.path / "memory.jsonl"

    @property
    def evaluations(self) -> EvaluationDir:
        return EvaluationDir(self.path / "evaluations")

    @property
    def before(self) -> Path:
        """Trainings that were set aside, numbered."""
        return self.path / "before"

    def write_config(self, objective: Plain, *, anew: bool = False) -> None:
        """Write the objective once; the run id is its hash, so that a second writer has the same.

        `anew`: what it names lies elsewhere by now, after the project was moved or copied.
        """
        if anew or not may_be_there(self.config_file):
            write_derived(self.config_file, config_file.text_of(self.run_id, objective), flushed=False)

    def read_config(self) -> Plain:
        """The objective that the run was made for.

        Raises:
            StoreError: there is no config.yaml, it is not whole, or another run's.
        """
        return config_file.read(self.config_file, self.run_id)

    def attempts(self) -> list[AttemptDir]:
        """All attempts, to train it and to evaluate it, oldest first; `Attempts` knows which is which."""
        folder = self.path / "attempts"
        names = {found for name in self.names(self.path) if (found := attempt_in(name))}
        if not any(int(name.partition(".")[0]) == 1 for name in names):  # then an older version made the first ones
            names |= {name for name in self.names(folder) if is_attempt(name)}
        return [AttemptDir(folder / name, self.seen) for name in sorted(names)]

    def new_attempt(self, fact: Attempt) -> AttemptDir:
        """The next attempt, with what is asked for on disk; of two that ask at once each gets its own number."""
        number = max((attempt.number for attempt in self.attempts()), default=0) + 1
        fact = replace(fact, run=self.run_id)
        suffix = EVALUATION_SUFFIX if fact.purpose is Purpose.EVALUATION else ""
        while not write_once(self.path / f"attempt-{number:03d}{suffix}.json", fact, flushed=False):
            number += 1
        return AttemptDir(self.path / "attempts" / f"{number:03d}{suffix}")
