"""What sbatch's answer says: which job it made, that it made none, or neither. Pure.

Owns: the texts of a submission, and of SLURM's refusals.
Must not know: processes, files, what is done next.

Only a text with which SLURM is known to refuse is a refusal. Whatever else a failed sbatch says, or does not say since
a signal has ended it, leaves it open whether its job is in the queue: that is then asked by the batch's name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, auto

from launcher.cluster.slurm_words import complaint

SUBMITTED = re.compile(r"Submitted batch job ([0-9]+)(?: on cluster (\S+))?")
PARSABLE = re.compile(r"([0-9]+)(?:;(\S+))?")  # --parsable, which a site may have put into its own sbatch
QUEUE_FULL = re.compile(r"(Assoc|QOS)\w*SubmitJob\w*Limit|temporarily unable to accept job", re.IGNORECASE)
ARRAYS = re.compile(r"\barrays?\b", re.IGNORECASE)  # "Invalid job array specification", or a site's own words
COMES_LATE = re.compile(r"timed out|timeout|unable to contact|communication|connect|zero bytes", re.IGNORECASE)
# How slurm_strerror's texts begin for what slurmctld does not take.
REFUSALS = (
    "Access denied to ", "Access/permission denied", "Configuration unavailable", "CPU count", "Invalid ",
    "Job dependency problem", "Job request does not", "Job violates", "Memory required by task",
    "More processors requested", "Multiple partition job request", "No partition specified", "Node count",
    "Partition in DOWN", "Pathname of ", "Requested ", "Required ", "Reservation ", "System submissions disabled",
    "Task count", "The job has too many", "Too many ", "Unable to allocate resources", "Unspecified error",
    "User's group not permitted", "Job size", "Script ",
)  # fmt: skip
REFUSED = re.compile(
    r"^(?:/\S*/)?sbatch: (?:error: |fatal: )?"
    rf"(?:Batch job submission failed: (?:{'|'.join(map(re.escape, REFUSALS))})"
    r"|unrecognized option|option .* requires an argument|Invalid |Unable to open file )",  # said before it asks
    re.MULTILINE,
)
SIGNALLED = 128  # a shell's exit code less the number of the signal that has ended its child
ITS_OWN = 255  # sbatch's, for an option that it cannot read; and ssh's, whatever has gone wrong


class Verdict(Enum):
    """What a failed sbatch has said."""

    REFUSED = auto()  # SLURM has no job of ours
    FULL = auto()  # likewise: as many as may be are there
    SAID_NO = auto()  # in words that we do not know
    OPEN = auto()  # nobody knows, and a job may still appear


@dataclass(frozen=True)
class Accepted:
    """The job, or array, that sbatch has made, and its cluster where sbatch names it."""

    job_id: str
    cluster: str | None = None


def accepted(stdout: str) -> Accepted | None:
    """The job that sbatch names last, whatever a site prints before and behind; None where it names none."""
    lines = [line.strip() for line in stdout.splitlines()]
    for pattern in (SUBMITTED, PARSABLE):
        if found := [match for line in lines if (match := pattern.fullmatch(line))]:
            return Accepted(*found[-1].groups())
    return None


def verdict(returncode: int, message: str) -> Verdict:
    """What it means that sbatch has named no job, and ended with this code and complaint."""
    refused = REFUSED.search(message)
    unknown_end = returncode <= 0 or returncode > SIGNALLED
    if (unknown_end and not (returncode == ITS_OWN and refused)) or COMES_LATE.search(message):
        return Verdict.OPEN
    if QUEUE_FULL.search(message):
        return Verdict.FULL
    return Verdict.REFUSED if refused else Verdict.SAID_NO


def in_words(returncode: int, message: str, size: int = 1) -> str:
    """What sbatch has complained of, with what to do where the queue is full, or an array of so many jobs refused."""
    said = f"sbatch: ended by signal {-returncode}" if returncode < 0 else f"sbatch: {complaint(message)}"
    if size > 1 and ARRAYS.search(message):
        return f"{said}; cluster.arrays=false submits each job by itself"
    if not QUEUE_FULL.search(message):
        return said
    return f"{said}; launch again when some jobs have ended, or put more runs into each (cluster.runs_per_job)"
