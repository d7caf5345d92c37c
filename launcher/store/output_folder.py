"""The output folder: every path and file name.

Owns: where things lie in it, but for those in a run's folder, which `run_folder` has.
Must not know: how a file is written (`files` does), what a fact means, what a scheduler is, what is trained.

    <output>/runs/<run_id>/config.yaml               the objective, written once
                          /attempt-001.json          what was asked for, and what it is for: settings, provenance
                          /attempts/001/job.json     of one that was started by hand: the process as a job
                          /attempts/001/cancel.json  the wish that it end
                          /attempts/001/failure.json why it ended without a result
                          /attempts/001/unpublished.json  why its model could not be published
                          /attempts/001/requeues.jsonl  a line each time that its job was put back into the queue
                          /attempts/001/rank0.log    what it printed
                          /attempt-002.evaluation.json, attempts/002.evaluation/
                                                     one that evaluates what the one before it trains
                          /starts/001.0002.json      who has taken attempt 1 up the second time: host, pid, job
                          /checkpoints/001.0002/     the trainer's own, of one start
                          /damage.jsonl              a line for each checkpoint that was found damaged
                          /model/                    the final model; .trained.json: whose it is
                          /milestones/<step>/        model/, evaluation.json and revision.json after so many steps
                          /metrics.jsonl             one line per logged step, by rank 0; of several the last counts
                          /saves.jsonl               the seconds of each save of a checkpoint
                          /memory.jsonl              a line for each halving of the micro-batch
                          /tracking/                 derived: what an offline tracker keeps until `sync`
                          /result.json, evaluation.json
                          /sources.json              what it was trained on: commits, or the hashes of files
                          /before/001/               a training that was set aside by retrain=true: all that it left
                          /data.json                 its rows: used, left out, lengths; made again by each attempt
                          /cache.json                its table and model in the cache, as `gc` asks; by each attempt
                          /revision.json             where the model was published
                          /evaluations/              the other benchmarks: <benchmark>.json, and a folder for each
    <output>/sweeps/<sweep>/launches/001.json        argv, axes and the runs that it added or changed, in order
                           /jobs/<batch>/batch.json  what is handed to the executor in one piece, before it is
                           /jobs/<batch>/work.json   the attempts that each of its jobs is to make
                           /jobs/<batch>/jobs.json   what the scheduler made of it: executor and id of each job
                           /jobs/<batch>/            script and logs of the executor
                           /jobs/<batch>/0/          where the ranks of a job meet
                           /code/<hash>/             the code that the jobs run
                           /results.jsonl, report/   derived
                           /tracking/                derived: a local tracker's data, a dashboard's definition
    <output>/pins/<models|datasets>/<source>.json    which commit a branch on the Hub stands for in this folder
    <output>/cache/<kind>/<key>/                     models, datasets, reference tables, base evaluations
    <output>/cache/hashes/<key>.json                 the hash of a file, by its path, size, times and inode
    <output>/cache/tokens/<key>/rows.parquet         token ids of one text by one tokenizer
    <output>/cache/rows/<key>/                       rows as runs train on them: filtered, in order, with their counts
    <output>/cache/prompts/<key>/prompts.json        the openings that models continue when they are evaluated
    <output>/cache/packed/<key>.json                 whether pairs can go through a base model packed; derived
    <output>/cache/prepare/<key>/done.json           that a job made the table, and what it made for that; derived
                                /data.json           the rows of the table, as in a run's folder
                                /001/batch.json      such a job, as for a sweep's
                                    /job.json        what the scheduler made of it
                                    /failure.json    why it ended without a table
                                    /cancel.json     that it was cancelled, since no run waits for it
                                     /work.json       its work: the configuration of one of the runs
    <output>/.submit.lock, .submit.lock.holder       whose turn it is to submit; derived: who that is
    <output>/hub/<repo>/<revision>/                  published models, where hub=folder
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from launcher.errors import StoreError, Unread
from launcher.store.facts import JobList, Launch, NamedRuns, RunName, RunRecord
from launcher.store.files import guarded, read_fact, typed, write_once
from launcher.store.launch_record import divided, whole
from launcher.store.locks import turn
from launcher.store.names import launch_in
from launcher.store.reading import may_be_there, unread
from launcher.store.run_folder import BATCH_FILE, AttemptDir, RunDir
from launcher.store.seen import names_in
from launcher.store.work_list import listed_in, works_of


@dataclass(frozen=True)
class PreparingDir:
    """`cache/prepare/<key>/NNN`: one job that was to make a reference table."""

    path: Path

    @property
    def job_file(self) -> Path:
        return self.path / "job.json"

    @property
    def batch_file(self) -> Path:
        return self.path / BATCH_FILE

    @property
    def failure_file(self) -> Path:
        return self.path / "failure.json"

    @property
    def cancel_file(self) -> Path:
        return self.path / "cancel.json"

    @property
    def done_file(self) -> Path:
        """Shared by all jobs of the key."""
        return self.path.parent / "done.json"

    @property
    def has_made(self) -> bool:
        """Whether this job has made the table, as far as files tell: there is no other after the one that has."""
        is_last = not self.path.with_name(f"{int(self.path.name) + 1:03d}").exists()
        return is_last and self.done_file.exists() and not self.failure_file.exists()

    @property
    def data_file(self) -> Path:
        """Shared in the same way."""
        return self.path.parent / "data.json"


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

    def launches(self) -> list[Launch]:
        """What was launched under this name, oldest first, as far as it can be read; `damages` has the rest."""
        return [each for each in self._found() if isinstance(each, Launch)]

    def damages(self) -> list[str]:
        """What is wrong with the files here that are not what a launch writes, a line for each, with the remedy."""
        return [str(each) for each in self._found() if isinstance(each, StoreError)]

    def check_there(self) -> None:
        """For whoever looks at a sweep again and again.

        Raises:
            StoreError: it was removed, or moved.
        """
        if not may_be_there(self.path):
            raise StoreError(f"{self.path}: the sweep is gone; somebody has removed or moved it")

    def faults(self) -> list[str]:
        """`damages`; where there are none, that a launch is gone: none records runs that have had jobs."""
        if damages := self.damages():
            return damages
        recorded = {record.run_id for record in self.run_records()}
        missing = [run_id for run_id in self._handed_over() if run_id not in recorded]
        if not missing:
            return []
        lacks = f"lacks a launch: none records {len(missing)} runs that have had jobs, such as {missing[0]}"
        return [f"{self.path / 'launches'}: {lacks}; put its file back, or launch them again with -m"]

    def _found(self) -> list[Launch | StoreError | None]:
        try:
            return [_launch_in(path) for path in self.launch_files()]
        except StoreError as error:
            return [error]

    def launch_files(self) -> list[Path]:
        """The files of `launches`, oldest first."""
        folder = self.path / "launches"
        numbered = sorted((number, name) for name in names_in(folder) if (number := launch_in(name)) is not None)
        return [folder / name for _, name in numbered]

    def add_launch(self, launch: Launch) -> None:
        """Record one launch under the next free number."""
        number = max((launch_in(path.name) or 0 for path in self.launch_files()), default=0) + 1
        while not write_once(self.path / "launches" / f"{number:03d}.json", divided(launch)):
            number += 1

    def launched(self) -> float:
        """When it was launched last, by the clock of its disk; whatever else is written here changes nothing."""
        with contextlib.suppress(OSError, StoreError, IndexError):
            return self.launch_files()[-1].stat().st_mtime
        return 0.0

    def run_names(self) -> list[RunName]:
        """The runs of `run_records`, without what would need much memory where there are thousands.

        Where a launch cannot be read, or is gone, its runs are found by the jobs that they have had.
        """
        try:
            every = [fact for path in self.launch_files() if (fact := read_fact(path, NamedRuns))]
        except StoreError:
            every = [NamedRuns([name_of(record) for record in self.run_records()]), NamedRuns(self._names_by_jobs())]
        names = {run.run_id: run for launch in every for run in launch.runs}
        store = Store(self.path.parent.parent)
        return [*names.values(), *(_name_in(store.run(each)) for each in self._handed_over() if each not in names)]

    def _handed_over(self) -> list[str]:
        """The ids of the runs that are in the lists of its batches, and whose folders are there."""
        there, found = set(names_in(self.path.parents[1] / "runs")), dict[str, None]()
        with contextlib.suppress(StoreError):  # told by whoever needs them
            for batch in folders_in(self.jobs):
                for work in _works_if_readable(batch):
                    found |= dict.fromkeys(attempt.run.run_id for attempt in listed_in(work))
        return [run_id for run_id in found if run_id in there]

    def _names_by_jobs(self) -> list[RunName]:
        """The runs in the output folder of which an attempt was handed over with a batch of this sweep."""
        runs = Store(self.path.parent.parent).runs()
        return [_name_in(run) for run in runs if any(map(self._is_of_here, run.attempts()))]

    def _is_of_here(self, attempt: AttemptDir) -> bool:
        try:
            return attempt.batch is not None and attempt.batch.parent == self.jobs
        except StoreError:
            return False

    def run_records(self) -> list[RunRecord]:
        """The sweep's runs as they were recorded last, each once, in the order in which they were added."""
        records = (record for launch in self.launches() for record in launch.runs)
        return list({record.run_id: record for record in records}.values())

    def axes(self) -> list[str]:
        """The keys that vary, over all launches."""
        return list(dict.fromkeys(axis for launch in self.launches() for axis in launch.axes))


def _launch_in(path: Path) -> Launch | StoreError | None:
    """The launch that a file holds, or what is wrong with it; None where it is gone."""
    try:
        fact = read_fact(path)
        if fact is not None and not {"runs", "axes"} <= fact.keys():
            return StoreError(f"{path}: names no runs; move it away and launch the sweep again")
        return None if fact is None else whole(typed(fact, Launch, path))
    except StoreError as error:
        return error


def _works_if_readable(batch: Path) -> list[JobList]:
    with contextlib.suppress(StoreError):
        return [work for work in works_of(batch) or () if isinstance(work, JobList)]
    return []


def _name_in(run: RunDir) -> RunName:
    """What a run's own folder tells a listing; of one that cannot be read, the id."""
    try:
        config = run.read_config()
        return RunName(run.run_id, str(config["model"]["name"]), str(config["loss_type"]), float(config["beta"]))
    except (StoreError, KeyError, TypeError, ValueError):
        return RunName(run.run_id, "", "", 0.0)


def name_of(record: RunRecord) -> RunName:
    """What a listing tells of a run."""
    return RunName(record.run_id, record.model, record.loss_type, record.beta)


def folders_in(parent: Path) -> list[Path]:
    """The folders in it, by name; a file that somebody, or a file browser, has left there is none of ours."""
    try:
        with os.scandir(parent) as entries:
            return [parent / name for name in sorted(entry.name for entry in entries if entry.is_dir())]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise unread(parent, error) from error


@dataclass(frozen=True)
class Store:
    """The output folder."""

    root: Path

    def run(self, run_id: str) -> RunDir:
        return RunDir(self.root / "runs" / run_id)

    def runs(self) -> list[RunDir]:
        """Every run in the folder, of whatever sweep."""
        return [RunDir(folder) for folder in folders_in(self.root / "runs")]

    def sweep(self, name: str) -> SweepDir:
        return SweepDir(self.root / "sweeps" / name)

    def sweeps(self) -> list[SweepDir]:
        """Every sweep, oldest launch first."""
        parts = ("launches", "jobs")  # the first may be gone, by a hand or with a disk
        every = folders_in(self.root / "sweeps")
        found = [folder for folder in every if any(may_be_there(folder / part) for part in parts)]
        return sorted(map(SweepDir, found), key=SweepDir.launched)

    def published(self, repo: str, revision: str) -> Path:
        # `--` may not stand in a repository's name, so `a/b` and a revision `b` of `a` never meet.
        return self.root / "hub" / repo.replace("/", "--") / revision

    def pin_file(self, kind: str, path: str, revision: str) -> Path:
        return self.root / "pins" / kind / f"{path.replace('/', '--')}@{quote(revision, safe='')}.json"

    def cache(self, kind: str, key: str) -> Path:
        return self.root / "cache" / kind / key

    @property
    def _lock(self) -> Path:
        return self.root / ".submit.lock"

    def written_by_all(self) -> list[Path]:
        """The lock and the folders that are there and that each launch, or job, writes."""
        places = [self._lock, *(self.root / name for name in ("runs", "sweeps", "cache", "pins"))]
        with contextlib.suppress(Unread):  # then the cache itself is told
            places += folders_in(self.root / "cache")
        return list(filter(may_be_there, places))

    @property
    def is_used(self) -> bool:
        """Whether anybody has launched into this folder."""
        return may_be_there(self._lock) or bool(self.sweeps())

    @contextlib.contextmanager
    def submitting(self) -> Iterator[None]:
        """From the decision to the last recorded job id, so that two launchers never submit one run twice.

        Raises:
            StoreError: as of `turn`; as something is written, that it is another's turn by now.
        """
        with turn(self._lock, "another launch") as lock, guarded(lock.check):
            yield
