"""What the jobs of a batch are to do: one file for all of them, so that a sweep of thousands has few files.

Owns: reading and writing that file, and the file of each job that older versions wrote.
Must not know: schedulers, how the work is done.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from launcher.errors import StoreError
from launcher.store.facts import JobList, TableWork, WorkList
from launcher.store.files import Plain, plain, read_fact, typed, write_once
from launcher.store.reading import REMEDY
from launcher.store.run_folder import AttemptDir

WORK_FILE = "work.json"


def write_works(batch_folder: Path, works: Sequence[JobList | TableWork]) -> None:
    """Write down what each job of a batch is to do; not flushed yet."""
    write_once(batch_folder / WORK_FILE, WorkList(plain(works)), flushed=False)


def work_of(job_folder: Path) -> JobList | TableWork:
    """What a job is to do: runs, or a reference table; `job_folder` is named by the job's place in its batch.

    Raises:
        StoreError: that is not there.
    """
    file = job_folder / "job.json"
    listed = read_fact(file)
    if listed is None:
        file = job_folder.parent / WORK_FILE
        every, index = read_fact(file, WorkList), int(job_folder.name)
        if every is not None and index >= len(every.jobs):
            raise StoreError(f"{file}: lacks job {index}; {REMEDY}")
        listed = every.jobs[index] if every else {}
    return _work(listed, file)


def works_of(batch_folder: Path) -> list[JobList | TableWork] | None:
    """What each job of a batch is to do; None where an older version recorded it."""
    file = batch_folder / WORK_FILE
    every = read_fact(file, WorkList)
    return None if every is None else [_work(each, file) for each in every.jobs]


def _work(listed: Plain, file: Path) -> JobList | TableWork:
    return typed(listed, TableWork, file) if "prepare" in listed else typed(listed, JobList, file)


def attempts_of(job_folder: Path) -> list[AttemptDir]:
    """What a job is to make; nothing where it makes a reference table."""
    work = work_of(job_folder)
    return listed_in(work) if isinstance(work, JobList) else []


def listed_in(work: JobList) -> list[AttemptDir]:
    """The attempts of a job's list, in order."""
    return [AttemptDir(Path(path)) for path in work.attempts]
