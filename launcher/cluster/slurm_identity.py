"""Whether a job of SLURM's is the one that we know by its id. Pure.

Owns: the marks of a batch's jobs. Must not know: processes, files, what a run is.

An id alone says little: a cluster that was set up anew counts from the beginning, and an id may have been recorded
wrongly. A batch's name is unique, and so is its script's path, which stays as it is when somebody renames the job.
"""

from __future__ import annotations

from pathlib import Path

from launcher.store.facts import Job

SCRIPT = "script.sh"  # in a batch's folder, beside its logs


def script_of(job: Job) -> str | None:
    """The script that it runs, as `squeue -o %o` shows it; None where that was not recorded."""
    return None if job.log is None else str(Path(job.log).with_name(SCRIPT))


def marks(said: str, name: str, script: str | None) -> bool:
    """Whether what squeue says of a job, `NAME|SCRIPT` or `NAME`, is said of the one of this name, or of this script.

    Either may hold a `|`, and the end of a line may be cut off.
    """
    return said == name or said.startswith(f"{name}|") or (script is not None and said.endswith(f"|{script}"))
