"""The run directory: every path and file name.

Owns: where things lie below the output folder.
Must not know: how a file is written (`files` does), what a fact means, what a scheduler is, what is trained.

    <output>/runs/<run_id>/config.yaml               the objective, written once
                          /attempts/001/attempt.json what was asked for: settings, provenance, time, batch
                          /attempts/001/job.json     what the scheduler made of it: executor, job id
                          /attempts/001/started.json the process that took it up: host, pid
                          /attempts/001/cancel.json  the wish that it end
                          /attempts/001/failure.json why it ended without a result
                          /attempts/001/unpublished.json  why its model could not be published
                          /attempts/001/requeues.jsonl  a line each time that its job was put back into the queue
                          /attempts/001/rank0.log    what it printed
                          /attempts/002.evaluation/  one that evaluates what the one before it trains
                          /checkpoints/              the trainer's own
                          /model/                    the final model
                          /milestones/<step>/        model/, evaluation.json and revision.json after so many steps
                          /metrics.jsonl             one line per logged step, by rank 0
                          /memory.jsonl              a line for each halving of the micro-batch
                          /tracking/                 derived: what an offline tracker keeps until `sync`
                          /result.json, evaluation.json
                          /sources.json              what it was trained on: commits, or the hashes of files
                          /revision.json             where the model was published
                          /evaluations/              the other benchmarks: <benchmark>.json, and a folder for each
    <output>/sweeps/<sweep>/launches/001.json        argv, axes and the runs that it added or changed, in order
                           /jobs/<batch>/batch.json  what is handed to the executor in one piece, before it is
                           /jobs/<batch>/            pickles, script and logs of the executor
                           /jobs/<batch>/0/job.json  one job's list of attempts
                           /code/<hash>/             the code that the jobs run
                           /results.jsonl, report/   derived
                           /tracking/                derived: a local tracker's data, a dashboard's definition
    <output>/pins/<models|datasets>/<source>.json    which commit a branch on the Hub stands for in this folder
    <output>/cache/<kind>/<key>/                     models, datasets, reference tables, base evaluations
    <output>/cache/tokens/<key>/rows.parquet         token ids of one text by one tokenizer
    <output>/cache/prepare/<key>/done.json           that a job made the table; a hint, the runs check the table itself
                                /001/batch.json      such a job, as for a sweep's
                                    /job.json        what the scheduler made of it
                                    /failure.json    why it ended without a table
                                    /0/job.json      its work: the configuration of one of the runs
    <output>/hub/<repo>/<revision>/                  published models, where hub=folder
"""

from __future__ import annotations

import errno
import os
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml
from filelock import FileLock

from launcher.config import OBJECTIVE, StoreError
from launcher.files import Fact, read_fact, write_derived, write_once

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
        return self.path.suffix == EVALUATION_SUFFIX

    @property
    def attempt_file(self) -> Path:
        return self.path / "attempt.json"

    @cached_property
    def record(self) -> Fact:
        """What was asked for: there before the folder has its name, and never changed; empty where it was lost."""
        return read_fact(self.attempt_file) or {}

    @property
    def job_file(self) -> Path:
        return self.path / "job.json"

    @property
    def started_file(self) -> Path:
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
    def model(self) -> Path:
        return self.path / "model"

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def tracking(self) -> Path:
        return self.path / "tracking"

    @property
    def result_file(self) -> Path:
        return self.path / "result.json"

    def last_checkpoint_step(self) -> int | None:
        """The step of the newest complete checkpoint: one with the marker that its writer makes last."""
        marked = self.checkpoints.glob(f"checkpoint-*/{CHECKPOINT_MARKER}")
        return max((int(marker.parent.name.rpartition("-")[2]) for marker in marked), default=None)

    @property
    def evaluation_file(self) -> Path:
        return self.path / "evaluation.json"

    @property
    def sources_file(self) -> Path:
        return self.path / "sources.json"

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

    def write_config(self, objective: Fact) -> None:
        """Write the objective once; the run id is its hash, so that a second writer has the same."""
        if not self.config_file.exists():
            write_derived(self.config_file, yaml.safe_dump(objective, sort_keys=False, allow_unicode=True))

    def read_config(self) -> Fact:
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
        """The attempts to train it so far, oldest first."""
        return [attempt for attempt in self.all_attempts() if not attempt.evaluates]

    def evaluation_attempt(self) -> AttemptDir | None:
        """The last attempt that evaluates what the last of `attempts` trains; numbers are given in order."""
        last = self.all_attempts()[-1:]
        return last[0] if last and last[0].evaluates else None

    def last_attempts(self) -> list[AttemptDir]:
        """The last attempt to train it, and the one that evaluates what that trains, where they are."""
        return [attempt for attempt in (*self.attempts()[-1:], self.evaluation_attempt()) if attempt]

    def all_attempts(self) -> list[AttemptDir]:
        """The attempts of both kinds, oldest first."""
        folder = self.path / "attempts"
        names = sorted(os.listdir(folder)) if folder.is_dir() else []
        return [AttemptDir(folder / name) for name in names if name.removesuffix(EVALUATION_SUFFIX).isdigit()]

    def new_attempt(self, fact: Fact, *, evaluates: bool = False) -> AttemptDir:
        """Make the next attempt, its folder with the fact in it; of two that ask at once each gets its own number."""
        folder = self.path / "attempts"
        folder.mkdir(parents=True, exist_ok=True)
        aside = AttemptDir(Path(tempfile.mkdtemp(prefix=".new.", dir=folder)))
        write_once(aside.attempt_file, fact)
        aside.path.chmod(0o755)
        number = max((attempt.number for attempt in self.all_attempts()), default=0) + 1
        while True:
            try:
                return AttemptDir(aside.path.rename(folder / f"{number:03d}{EVALUATION_SUFFIX if evaluates else ''}"))
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                number += 1


@dataclass(frozen=True)
class SeenRun(RunDir):
    """A run as it is found at one moment: its attempts are listed once, so that each one's record is read once."""

    @cached_property
    def _seen(self) -> list[AttemptDir]:
        return super().all_attempts()

    def all_attempts(self) -> list[AttemptDir]:
        return self._seen


@dataclass(frozen=True)
class PreparingDir:
    """`cache/prepare/<key>/NNN`: one job that was to make a reference table."""

    path: Path

    @property
    def job_file(self) -> Path:
        return self.path / "job.json"

    @property
    def failure_file(self) -> Path:
        return self.path / "failure.json"

    @property
    def done_file(self) -> Path:
        """Shared by all jobs of the key."""
        return self.path.parent / "done.json"


@dataclass(frozen=True)
class SweepDir:
    """`sweeps/<sweep>`."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def results_file(self) -> Path:
        return self.path / "results.jsonl"

    @property
    def report(self) -> Path:
        return self.path / "report"

    @property
    def tracking(self) -> Path:
        return self.path / "tracking"

    @property
    def jobs(self) -> Path:
        return self.path / "jobs"

    @property
    def code(self) -> Path:
        return self.path / "code"

    def launches(self) -> list[Fact]:
        """What was launched under this name, oldest first.

        Raises:
            StoreError: a file there is not what a launch writes.
        """
        folder = self.path / "launches"
        names = sorted(os.listdir(folder)) if folder.is_dir() else []
        facts = {name: read_fact(folder / name) for name in names if name.endswith(".json")}
        for name, fact in facts.items():
            if fact is not None and not ({"runs", "axes"} <= fact.keys() and _are_facts(fact["runs"])):
                raise StoreError(f"{folder / name}: names no runs; move it away and launch the sweep again")
        return [fact for fact in facts.values() if fact is not None]

    def add_launch(self, launch: Fact) -> None:
        """Record one launch under the next free number."""
        number = len(self.launches()) + 1
        while not write_once(self.path / "launches" / f"{number:03d}.json", launch):
            number += 1

    def run_records(self) -> list[Fact]:
        """The sweep's runs as they were recorded last, each once, in the order in which they were added."""
        records = (record for launch in self.launches() for record in launch["runs"])
        return list({record["run_id"]: record for record in records}.values())

    def axes(self) -> list[str]:
        """The keys that vary, over all launches."""
        return list(dict.fromkeys(axis for launch in self.launches() for axis in launch["axes"]))


def _are_facts(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, dict) for value in values)


def _folders(parent: Path) -> list[Path]:
    """The folders in it, by name; a file that somebody, or a file browser, has left there is none of ours."""
    if not parent.is_dir():
        return []
    with os.scandir(parent) as entries:
        return [parent / name for name in sorted(entry.name for entry in entries if entry.is_dir())]


@dataclass(frozen=True)
class Store:
    """The output folder."""

    root: Path

    def run(self, run_id: str) -> RunDir:
        return RunDir(self.root / "runs" / run_id)

    def runs(self) -> list[RunDir]:
        """Every run in the folder, of whatever sweep."""
        return [RunDir(folder) for folder in _folders(self.root / "runs")]

    def sweep(self, name: str) -> SweepDir:
        return SweepDir(self.root / "sweeps" / name)

    def sweeps(self) -> list[SweepDir]:
        """Every sweep, oldest launch first."""
        found = [folder for folder in _folders(self.root / "sweeps") if (folder / "launches").is_dir()]
        return [SweepDir(folder) for folder in sorted(found, key=lambda folder: folder.stat().st_mtime)]

    def published(self, repo: str, revision: str) -> Path:
        # `--` may not stand in a repository's name, so `a/b` and a revision `b` of `a` never meet.
        return self.root / "hub" / repo.replace("/", "--") / revision

    def pin_file(self, kind: str, path: str, revision: str) -> Path:
        return self.root / "pins" / kind / f"{path.replace('/', '--')}@{quote(revision, safe='')}.json"

    def cache(self, kind: str, key: str) -> Path:
        return self.root / "cache" / kind / key

    @cached_property
    def submission_lock(self) -> FileLock:
        """Held from the decision to the last recorded job id, so that two launchers never submit one run twice."""
        self.root.mkdir(parents=True, exist_ok=True)
        return FileLock(self.root / ".submit.lock")
