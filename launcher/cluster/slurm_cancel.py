"""Which jobs may be cancelled, and what scancel says of them. Pure.

Owns: whose a job is by its name, and the texts of a refusal.
Must not know: processes, files, what a run is.

An id alone says little: a cluster that was set up anew counts from the beginning, and an id may have been recorded
wrongly. A batch's name is unique.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence

from launcher.cluster import slurm_words as words
from launcher.store.facts import Job

REFUSED = re.compile(r"job id (?P<job>[0-9]\S*): (?P<why>.+)$", re.MULTILINE)
OVER = re.compile(r"Invalid job id|already complet", re.IGNORECASE)  # there is nothing left to cancel


def names_command(jobs: Iterable[Job]) -> list[str]:
    """Ask squeue for the names that these jobs have by now."""
    parents = dict.fromkeys(job.job_id.partition("_")[0] for job in jobs)
    return ["squeue", "-h", "-a", "-r", "-t", "all", "-o", "%i|%j|%T", "-j", ",".join(parents)]


def read_names(text: str) -> dict[str, set[str]]:
    """By id, what squeue answered; lines that are cut or a site's are passed over."""
    names: dict[str, set[str]] = {}
    for line in text.splitlines():
        ids, _, rest = line.strip().partition("|")
        name, _, state = rest.rpartition("|")
        for job_id in words.task_ids(ids) if name and words.STATE.fullmatch(state) else ():
            names.setdefault(job_id, set()).add(name)
    return names


def refused(stderr: str) -> dict[str, str]:
    """Why scancel could not end jobs that are still there, by id, where several of an array may be one."""
    found = ((match["job"], match["why"].strip()) for match in REFUSED.finditer(stderr))
    return {job_id: why for job_id, why in found if not OVER.search(why)}


def meant(refusals: Iterable[str], asked: Sequence[str]) -> list[str]:
    """Those of the ids asked for that refusals are about, each of a job, of tasks, or of a whole array."""
    ids = {job_id for each in refusals for job_id in words.task_ids(each)}
    return [job_id for job_id in asked if job_id in ids or job_id.partition("_")[0] in ids]


def in_words(jobs: Collection[Job], end: str) -> list[str]:
    """A clause that says `end` of these jobs; none where there are none."""
    ids = re.sub(r"\[([0-9]+)\]", r"\1", ", ".join(words.folded(job.job_id for job in jobs)))
    return [f"job {ids} {end}"] if ids else []
