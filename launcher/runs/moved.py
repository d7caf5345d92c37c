"""An output folder that has another name than when a job was handed over: the job does not find what it was to do.

Owns: when that is so, where the job's log lies now, what is said.
Must not know: schedulers, what a job does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from launcher.store.facts import Job
from launcher.store.reading import may_be_there
from launcher.store.run_folder import BATCH_PARTS

Words = Callable[[Path], str | None]


def has_moved(job: Job | None, root: Path) -> bool:
    """Whether the folder of a job's batch is not where it was; `root`: the output folder. No node can help that.

    By what mount it is seen does not matter, since the number of a folder stays.
    """
    if job is None or job.folder is None:
        return False
    batch = _batch_of(Path(job.folder))
    try:
        return batch.stat().st_ino != _here(batch, batch, root).stat().st_ino
    except OSError:
        return True


def log_and_words(job: Job, root: Path, words: Words) -> tuple[Job, str | None]:
    """The job with its log as it lies now, if that is there, and what it has printed last; or that it has moved."""
    if job.log is None:
        return job, None
    if not has_moved(job, root):
        return job, words(Path(job.log))
    batch = _batch_of(Path(str(job.folder)))
    log = _here(Path(job.log), batch, root)
    was = f"what it was to do lay in {batch}, and the output folder has had another name since; launch again"
    if not may_be_there(log):
        return replace(job, log=None), was
    return replace(job, log=str(log)), "; ".join(filter(None, [words(log), was]))


def _batch_of(folder: Path) -> Path:
    """The folder of its batch; a job that makes a reference table has no other."""
    return folder if folder.parent.parent.name == "prepare" else folder.parent


def _here(path: Path, batch: Path, root: Path) -> Path:
    """A path of a batch, in this output folder."""
    return root / path.relative_to(batch.parents[BATCH_PARTS - 1]) if path.is_relative_to(batch) else path
