"""`runs/<run_id>` and its attempts: every path and file name of a run.

Owns: where a run's files lie, its attempts in order, the models that there are of it.
Must not know: what a fact means, schedulers, training. `output_folder` draws the whole tree.
"""

from __future__ import annotations

import errno
import os
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import yaml

from launcher.config import OBJECTIVE
from launcher.errors import StoreError
from launcher.store.facts import Attempt, Damage, JobList, Purpose, TableWork
from launcher.store.files import Plain, read_fact, read_lines, typed, write_derived, write_once


def work_of(job_folder: Path) -> JobList | TableWork:
    """What a job is to do: runs, or a reference table."""
    file = job_folder / "job.json"
    listed = read_fact(file) or {}
    return typed(listed, TableWork, file) if "prepare" in listed else typed(listed, JobList, file)


def attempts_of(job_folder: Path) -> list[AttemptDir]:
    """What a job is to make; nothing where it makes a reference table."""
    work = work_of(job_folder)
    return listed_in(work) if isinstance(work, JobList) else []


def listed_in(work: JobList) -> list[AttemptDir]:
    """The attempts of a job's list, in order."""
    return [AttemptDir(Path(path)) for path in work.attempts]


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


EVALUATION_SUFFIX = ".evaluation"


CHECKPOINT_MARKER = "complete.json"  # in a checkpoint's folder, written last


@dataclass(frozen=True)
class AttemptDir:
    """`attempts/NNN` of one run, or `attempts/NNN.evaluation`, which trains nothing."""

    path: Path

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
        return self.path / "attempt.json"

    @cached_property
    def record(self) -> Attempt:
        """What was asked for: there before the folder has its name, and never changed; empty where it was lost."""
        return read_fact(self.attempt_file, Attempt) or Attempt()

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
        return RunDir(self.path.parent.parent)

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
    """`runs/<run_id>`, shared by every sweep that holds the run."""

    path: Path

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
        damaged = {self.checkpoints / damage.checkpoint for damage in self.damages()}
        patterns = (f"checkpoint-*/{CHECKPOINT_MARKER}", f"*/checkpoint-*/{CHECKPOINT_MARKER}")
        marked = [marker.parent for pattern in patterns for marker in self.checkpoints.glob(pattern)]
        steps = (int(folder.name.rpartition("-")[2]) for folder in marked if folder not in damaged)
        return max(steps, default=None)

    @property
    def damage_log(self) -> Path:
        """A line for each checkpoint that was found damaged."""
        return self.path / "damage.jsonl"

    def damages(self) -> list[Damage]:
        """The checkpoints that were found damaged so far."""
        return [typed(line, Damage, self.damage_log) for line in read_lines(self.damage_log)]

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
    def revision_file(self) -> Path:
        return self.path / "revision.json"

    def milestone(self, step: int) -> RunDir:
        """The model after so many steps, in a folder laid out as a run's: model/, evaluation.json, revision.json."""
        return RunDir(self.path / "milestones" / f"{step:06d}")

    def milestones(self) -> list[tuple[int, RunDir]]:
        """Those whose model is there, by step."""
        found = sorted(self.path.glob("milestones/*/model"))
        return [(int(model.parent.name), RunDir(model.parent)) for model in found]

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
        if anew or not self.config_file.exists():
            write_derived(self.config_file, yaml.safe_dump(objective, sort_keys=False, allow_unicode=True))

    def read_config(self) -> Plain:
        """The objective that the run was made for.

        Raises:
            StoreError: there is no config.yaml, or it is not whole.
        """
        try:
            config = yaml.safe_load(self.config_file.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise StoreError(f"{self.config_file}: not readable as YAML") from error
        except OSError as error:
            why = error.strerror
            raise StoreError(f"{self.config_file}: cannot be read ({why}); launch the run again with -m") from error
        if not isinstance(config, dict):
            raise StoreError(f"{self.config_file}: holds no mapping")
        if lacking := [key for key in OBJECTIVE if key not in config]:
            raise StoreError(f"{self.config_file}: lacks {', '.join(lacking)}; put it back, or remove the run's folder")
        return {str(key): value for key, value in config.items()}

    def attempts(self) -> list[AttemptDir]:
        """All attempts, to train it and to evaluate it, oldest first; `Attempts` knows which is which."""
        folder = self.path / "attempts"
        names = sorted(os.listdir(folder)) if folder.is_dir() else []
        return [AttemptDir(folder / name) for name in names if name.removesuffix(EVALUATION_SUFFIX).isdigit()]

    def new_attempt(self, fact: Attempt) -> AttemptDir:
        """Make the next attempt, its folder with the fact in it; of two that ask at once each gets its own number."""
        folder = self.path / "attempts"
        folder.mkdir(parents=True, exist_ok=True)
        aside = AttemptDir(Path(tempfile.mkdtemp(prefix=".new.", dir=folder)))
        write_once(aside.attempt_file, fact)
        aside.path.chmod(0o755)
        number = max((attempt.number for attempt in self.attempts()), default=0) + 1
        suffix = EVALUATION_SUFFIX if fact.purpose is Purpose.EVALUATION else ""
        while True:
            try:
                return AttemptDir(aside.path.rename(folder / f"{number:03d}{suffix}"))
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                number += 1
