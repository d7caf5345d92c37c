"""What a run's files say where its job's scheduler says too little: that it is at work, why it never began, or ended.

Owns: which files those are. Must not know: any scheduler's own words, what a run's state is called.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from launcher.cluster.job_state import JobState, Phase
from launcher.runs.status import SILENT, RunFacts
from launcher.store.age import age
from launcher.store.attempts import Attempts

ALIVE_SECONDS = 300.0  # ten times as long as a process needs to write its progress again
TAIL_BYTES = 4096
LONGEST_WORDS = 200
OURS = "prefsweep: "  # before what we complain of
_OF_THE_SCHEDULER = re.compile(r"(srun|slurmstepd|slurmd|submitit)\b.*", re.IGNORECASE)


def looked_into(attempts: Attempts, facts: RunFacts, job: JobState) -> RunFacts:
    """The facts, with what the files tell beside the scheduler's answer; they are read only where that is needed."""
    if facts.failure is not None or facts.job is None:
        return facts
    if job.phase in SILENT and facts.started:
        return replace(facts, alive=_is_alive(attempts))
    if job.phase is Phase.FAILED and not facts.started and facts.job.log:
        return replace(facts, last_words=last_words(Path(facts.job.log)))
    if job.phase is Phase.FAILED and facts.started and attempts.acting is not None:
        words = last_words(attempts.acting.log_file()) or ""
        told = words.startswith(OURS)  # what it could not record, as on a full disk; else it was cut off amid its work
        return replace(facts, last_words=words.removeprefix(OURS) if told else None)
    return facts


def _is_alive(attempts: Attempts) -> bool:
    acting = attempts.acting
    files = [attempts.run.metrics_file, *([acting.progress_file] if acting else [])]
    ages = [seconds for file in files if (seconds := age(file)) is not None]
    return bool(ages) and min(ages) < ALIVE_SECONDS


def last_words(log: Path) -> str | None:
    """The last line that a job has printed of its own; None where it has printed none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return None
    lines = [line.strip() for line in text.splitlines()]
    own = [line for line in lines if line and not _OF_THE_SCHEDULER.match(line)]
    return own[-1][:LONGEST_WORDS] if own else None
