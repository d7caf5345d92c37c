"""Which jobs may be cancelled, and what scancel says of them. Pure.

Owns: whose jobs there are, and the texts of a refusal.
Must not know: processes, files, what a run is.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence

from launcher.cluster.slurm_identity import marks, script_of
from launcher.cluster.slurm_ids import folded, task_ids
from launcher.store.facts import Job

REFUSED = re.compile(r"job id (?P<job>[0-9]\S*): (?P<why>.+)$", re.MULTILINE)
_NAMED = re.compile(r"(?P<name>.+?)\|[A-Z_]+(?P<script>\|.*)?")
OVER = re.compile(r"Invalid job id|already complet", re.IGNORECASE)  # there is nothing left to cancel


def names_command(jobs: Iterable[Job]) -> list[str]:
    """Ask squeue for the names and the scripts that these jobs have by now."""
    parents = dict.fromkeys(job.job_id.partition("_")[0] for job in jobs)
    return ["squeue", "-h", "-a", "-r", "-t", "all", "-o", "%i|%j|%T|%o", "-j", ",".join(parents)]


def read_names(text: str) -> dict[str, set[str]]:
    """By id, what squeue answered, as `marks` takes it; lines that are cut or a site's are passed over."""
    names: dict[str, set[str]] = {}
    for line in text.splitlines():
        ids, _, rest = line.strip().partition("|")
        if found := _NAMED.fullmatch(rest):
            for job_id in task_ids(ids):
                names.setdefault(job_id, set()).add(found["name"] + (found["script"] or ""))
    return names


def is_anothers(job: Job, names: Mapping[str, set[str]]) -> bool:
    """Whether a job that is listed under this one's id is another, by its name and its script."""
    said, name = names.get(job.job_id), job.name
    return said is not None and name is not None and not any(marks(each, name, script_of(job)) for each in said)


def refused(stderr: str) -> dict[str, str]:
    """Why scancel could not end jobs that are still there, by id, where several of an array may be one."""
    found = ((match["job"], match["why"].strip()) for match in REFUSED.finditer(stderr))
    return {job_id: why for job_id, why in found if not OVER.search(why)}


def meant(refusals: Iterable[str], asked: Sequence[str]) -> list[str]:
    """Those of the ids asked for that refusals are about, each of a job, of tasks, or of a whole array."""
    ids = {job_id for each in refusals for job_id in task_ids(each)}
    return [job_id for job_id in asked if job_id in ids or job_id.partition("_")[0] in ids]


def denied_in_words(refusals: Mapping[str, str], jobs: Sequence[Job], user: str) -> list[str]:
    """A clause that says why, and of another user's jobs whose they are; none where nothing was refused to `user`."""
    said = []
    for refusal, why in refusals.items():
        owners = (job.user for job in jobs if meant([refusal], [job.job_id]))
        owner = next((each for each in owners if each not in (None, user)), None)
        said.append(f"job {refusal} ({why})" if owner is None else f"job {refusal} is {owner}'s to cancel ({why})")
    return [f"denied: {', '.join(said)}"] if said else []


def in_words(jobs: Collection[Job], end: str) -> list[str]:
    """A clause that says `end` of these jobs; none where there are none."""
    ids = re.sub(r"\[([0-9]+)\]", r"\1", ", ".join(folded(job.job_id for job in jobs)))
    return [f"job {ids} {end}"] if ids else []
