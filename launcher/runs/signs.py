"""What a run's files say where its job's scheduler says too little: that it is at work, why it never began, or ended.

Owns: which files those are. Must not know: any scheduler's own words, what a run's state is called.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from launcher.cluster.job_state import UNKNOWN, JobState, Phase
from launcher.errors import StoreError
from launcher.runs.moved import log_and_words
from launcher.runs.status import SILENT, RunFacts
from launcher.store.age import age
from launcher.store.facts import Job
from launcher.store.files import END_BYTES, tail
from launcher.store.run_folder import AttemptDir

ALIVE_SECONDS = 300.0  # ten times as long as a process needs to write its progress again
LONGEST_WORDS = 200
OURS = "prefsweep: "  # before what we complain of
# As faulthandler prints it, with the stacks of all threads.
_CRASH = re.compile(r"(Fatal Python error: [^\n]*)\n.*?\nExtension modules: [^\n]*", re.DOTALL)
_OF_THE_SCHEDULER = re.compile(r"(srun|slurmstepd|slurmd|submitit)\b.*", re.IGNORECASE)


def looked_into(
    acting: AttemptDir | None,
    facts: RunFacts,
    job: JobState,
    table: JobState = UNKNOWN,
    table_words: Callable[[Path], str | None] | None = None,
) -> RunFacts:
    """The facts, with what the files tell beside the scheduler's answers; they are read only where that is needed.

    `table_words` is `last_words`, or what remembers them: many runs wait for one table.
    """
    if acting is None or facts.failure is not None:
        return facts
    if job.phase in SILENT and facts.started:
        return replace(facts, alive=_is_alive(acting))
    if facts.job is not None and facts.table and _waits_for_none(facts, job, table):
        asked, words = log_and_words(facts.table, acting.run.path.parents[1], table_words or last_words)
        return replace(facts, table=asked, last_words=words)
    return facts if facts.job is None else _with_last_words(acting, facts, facts.job, job)


def _with_last_words(acting: AttemptDir, facts: RunFacts, asked: Job, job: JobState) -> RunFacts:
    if job.phase in (Phase.FAILED, Phase.TIMEOUT) and not facts.started:
        return replace(facts, last_words=log_and_words(asked, acting.run.path.parents[1], last_words)[1])
    if job.phase in (Phase.FAILED, Phase.COMPLETED) and facts.started:
        return replace(facts, last_words=_words_at_end(acting, facts, job))
    return facts


def _waits_for_none(facts: RunFacts, job: JobState, table: JobState) -> bool:
    """Whether its job waits, or has waited, for a table that another has perhaps not made, without saying why."""
    unexplained = facts.table_failure is None and (table.phase is Phase.FAILED or table.phase in SILENT)
    return unexplained and not facts.started and job.phase in (Phase.PENDING, Phase.CANCELLED)


def _words_at_end(acting: AttemptDir, facts: RunFacts, job: JobState) -> str | None:
    """What a run that has left no failure says of its end, where nobody else knows why.

    What it complained of it could not record, as on a full disk; any other line tells only where it was cut off.
    """
    words = last_words(acting.log_file())
    if words and words.startswith(OURS):
        return words.removeprefix(OURS)
    words = words or (facts.job and facts.job.log and last_words(Path(facts.job.log))) or None
    explained = job.cause is not None or job.rank_told or facts.lost is not None
    return f"last printed: {words}" if words and not explained else None


def _is_alive(acting: AttemptDir) -> bool:
    files = (acting.run.metrics_file, acting.progress_file)
    ages = [seconds for file in files if (seconds := age(file)) is not None]
    return bool(ages) and min(ages) < ALIVE_SECONDS


def last_words(log: Path) -> str | None:
    """The last line that a job has printed of its own; None where it has printed none."""
    try:
        text = tail(log, END_BYTES).decode(errors="replace")
    except (OSError, StoreError):
        return None
    lines = [line.strip() for line in _CRASH.sub(r"\1", text).splitlines()]
    own = [line for line in lines if line and not _OF_THE_SCHEDULER.match(line)]
    return own[-1][:LONGEST_WORDS] if own else None
