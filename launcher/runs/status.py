"""What state a run is in: a pure function of its facts and of the scheduler's answer.

Owns: the words for a run's state (NEW ... LOST) and the rules by which facts and jobs become one.
Must not know: files, any scheduler's own words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from launcher.cluster.job_state import BAD_ENDS, LAG_SECONDS, UNKNOWN, JobState, Phase
from launcher.store.facts import Cause, FailureStatus, Job, Revision
from launcher.store.progress import Progress
from launcher.store.throughput import Throughput


class Status(StrEnum):
    """A run's state, as `status` prints it."""

    NEW = "NEW"
    PENDING = "PENDING"
    RUNNING = "RUNNING"
    TRAINED = "TRAINED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    TIMEOUT = "TIMEOUT"
    LOST = "LOST"
    UNREADABLE = "UNREADABLE"


IN_FLIGHT = frozenset({Status.PENDING, Status.RUNNING})
UNSUCCESSFUL = frozenset(map(Status, FailureStatus))
BAD = UNSUCCESSFUL | {Status.UNREADABLE}  # for an exit code, and to the eye


Gone = tuple[Job, str]  # of an attempt whose record is gone: its job, and what is said of it


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What the run directory says of a run; of several attempts, the one that acts (`Attempts.acting`).

    Attributes:
        attempts: how many attempts were made to train it.
        submitted, began: when the last attempt was made, and taken up, in seconds since 1970, by the clock of the file
            system; only to be compared with one another.
        submitted_seconds: how long ago it was made.
        job: the last attempt's job, as its executor recorded it; None where submission did not get so far.
        job_id: the scheduler's id of it.
        started: whether the job has taken up this run.
        put_back: whether it went back into the queue since then, and has not taken it up again.
        host: the node on which it did.
        failure: why the last attempt ended without a result.
        ended: as what that counts.
        cause: the failure in a word, where something follows from it.
        lost: what the other ranks have noticed of one that is gone, in words beside the scheduler's.
        lost_on: the node of a rank that is gone or hung.
        progress: what its process was doing some seconds ago, if it has been at work.
        alive: whether it has written something within the last minutes, whatever its scheduler says.
        lasted: seconds from its start to its failure, where both are known.
        last_words: what its job printed last, where that ended before it came to this run, or the job that was to make
            its table; or of what it has complained last, where it could not record that.
        cluster: the settings of the last attempt's job.
        cancelled: whether somebody has asked it to stop.
        table: the job that makes its reference table, as its executor recorded it; None where it is not one of its own.
        table_failure, table_cause: why that job ended without a table.
        table_made: whether the table is there, as far as that is recorded.
        traceback: where it failed.
        trained, evaluated: whether result.json, and all that is to be measured, by this attempt or behind it, is there.
        step, max_steps: the last logged optimizer step, and how many there will be.
        seconds_per_step: as logged last.
        throughput: what its steps computed and how fast: all of them, or, while it trains, those logged last; None
            where an earlier version made them.
        checkpoint_step: the step of the last complete checkpoint.
        publishing: whether the last attempt's job, or one behind it, still has to publish the model.
        unpublished: why it could not.
        revision: where its model is published.
        unreached: the milestones behind the end of the training.
        damage: what is said of the last checkpoint that was found damaged.
        unreadable: of each fact that cannot be read, the file, why, and what to do; the others say what is known.
        gone: the jobs that were handed over to make attempts whose records are gone.
        original: the output folder whose jobs make it, where this one is a copy; None: it is not, or they have ended.
    """

    attempts: int = 0
    submitted: float = 0.0
    began: float | None = None
    submitted_seconds: float = 0.0
    job: Job | None = None
    job_id: str | None = None
    started: bool = False
    put_back: bool = False
    host: str | None = None
    failure: str | None = None
    ended: FailureStatus = FailureStatus.FAILED
    cause: Cause | None = None
    lost: str | None = None
    lost_on: str | None = None
    progress: Progress | None = None
    alive: bool = False
    lasted: float | None = None
    last_words: str | None = None
    cluster: Mapping[str, Any] = field(default_factory=dict)
    cancelled: bool = False
    table: Job | None = None
    table_failure: str | None = None
    table_cause: Cause | None = None
    table_made: bool = False
    traceback: str = ""
    trained: bool = False
    evaluated: bool = False
    step: int | None = None
    max_steps: int | None = None
    seconds_per_step: float | None = None
    throughput: Throughput | None = None
    checkpoint_step: int | None = None
    publishing: bool = False
    unpublished: str | None = None
    revision: Revision | None = None
    unreached: tuple[int, ...] = ()
    damage: str | None = None
    unreadable: tuple[str, ...] = ()
    gone: tuple[Gone, ...] = ()
    original: str | None = None

    @property
    def waits_for(self) -> str | None:
        """The id of the job that makes its reference table."""
        return None if self.table is None else self.table.job_id

    @property
    def address(self) -> str | None:
        """Where the published model is."""
        return None if self.revision is None else self.revision.address

    @property
    def finished(self) -> bool:
        """Whether a job has nothing left to do for this run."""
        return self.trained and self.evaluated and not self.publishing


def status_of(facts: RunFacts, job: JobState, table: JobState = UNKNOWN) -> tuple[Status, str | None]:
    """The run's status and, where it is not simply on its way, the reason.

    Args:
        facts: what the run directory says.
        job: the scheduler's answer for `facts.job_id`; UNKNOWN where there is none.
        table: its answer for `facts.table`, likewise.
    """
    if facts.unreadable:
        return Status.UNREADABLE, "; ".join(facts.unreadable)
    if facts.trained:
        unpublished = facts.unpublished and f"not published: {facts.unpublished}"
        about = facts.failure or _about_what_follows(facts, job) or unpublished
        return Status.TRAINED, "; ".join(filter(None, [about, _unreached(facts), facts.damage])) or None
    if facts.attempts == 0:
        return Status.NEW, None
    if facts.failure is not None:
        return (Status.NEW if facts.cause is Cause.QUEUE_FULL else Status(facts.ended)), facts.failure
    if facts.job_id is None:
        return _without_job(facts)
    return _status_of_job(facts, job, table)


def _without_job(facts: RunFacts) -> tuple[Status, str | None]:
    if facts.original is not None:
        return Status.NEW, f"its job is that of the original of this copy, {facts.original}"
    if facts.alive:
        asked = ASKED if facts.cancelled else None
        lost = f"no file names its job any more, but it still trains on {facts.host}"
        return Status.RUNNING, "; ".join(filter(None, [asked, lost]))
    return _unless_recent(facts, "the launcher ended while it was submitting")


def cause_of(facts: RunFacts, job: JobState, table: JobState = UNKNOWN) -> Cause | None:
    """Why the last attempt ended, where its successor can learn from that; the arguments are those of `status_of`."""
    if facts.failure is not None:
        return facts.cause
    if _lacks_table(facts, job, table):
        return facts.table_cause if facts.table_failure else table.cause
    return job.cause


def _unreached(facts: RunFacts) -> str | None:
    steps = ", ".join(map(str, facts.unreached))
    return f"milestones never reached: {steps}; the training had {facts.step} steps" if steps else None


def _about_what_follows(facts: RunFacts, job: JobState) -> str | None:
    """How far a trained run is with what else is to be done; a job that nobody knows has told nothing."""
    if facts.finished or facts.job_id is None or job.phase is Phase.UNKNOWN:
        return None
    doing, done = ("publishing", "published") if facts.evaluated else ("evaluating", "evaluated")
    if job.phase is Phase.RUNNING:
        return "; ".join(filter(None, [doing, job.reason]))
    if job.phase is Phase.HIDDEN:
        return job.reason
    if job.phase is Phase.PENDING:
        waits = f"waits to be {done}: {job.reason or f'job {facts.job_id}'}"
        return "; ".join(filter(None, [waits, _release(facts.job_id, job)]))
    return f"not {done}: {job.reason or f'its job has {job.phase}'}"


ASKED = "asked to stop"  # and its job is there yet
SILENT = frozenset({Phase.UNKNOWN, Phase.HIDDEN})
ENDS = {Phase.CANCELLED: (Status.CANCELLED, "cancelled"), Phase.TIMEOUT: (Status.TIMEOUT, "the time limit")}


def _status_of_job(facts: RunFacts, job: JobState, table: JobState) -> tuple[Status, str | None]:
    if job.phase is Phase.PENDING:
        return Status.PENDING, _why_pending(facts, job, table)
    if job.phase is Phase.RUNNING:
        return (Status.RUNNING if facts.started else Status.PENDING), _why_at_work(facts, job)
    if job.phase in SILENT and (facts.alive or not facts.cancelled):
        return _status_unseen(facts, job)
    if _lacks_table(facts, job, table):
        return Status.FAILED, _no_table(facts, job, table)
    return _status_at_end(facts, job)


def _status_unseen(facts: RunFacts, job: JobState) -> tuple[Status, str | None]:
    """Of a run whose job its scheduler does not show."""
    if facts.alive:
        trains = f"its scheduler does not know job {facts.job_id}, but it still trains on {facts.host}"
        said = [ASKED if facts.cancelled else None, job.reason if job.phase is Phase.HIDDEN else trains]
        return Status.RUNNING, "; ".join(filter(None, said))
    if job.phase is Phase.HIDDEN:
        return (Status.RUNNING if facts.started else Status.PENDING), job.reason
    return _unless_recent(facts, "the scheduler does not know its job, and it left no result")


def _lacks_table(facts: RunFacts, job: JobState, table: JobState) -> bool:
    """Whether what the job waited for has failed: then a scheduler cancels it, and may not know why any more.

    Where the table is there, or still being made, somebody has cancelled the job by hand.
    """
    none = table.phase in BAD_ENDS or (table.phase in SILENT and not facts.table_made)
    dropped = none and job.phase is Phase.CANCELLED and not facts.cancelled
    return bool(facts.waits_for and not facts.started and (facts.table_failure or dropped))


def _no_table(facts: RunFacts, job: JobState, table: JobState) -> str:
    told = facts.table and why_no_table(facts.table, facts.table_failure, table, facts.last_words, job.reason)
    return f"no reference table: {told}"


def why_no_table(
    table: Job, failure: str | None, state: JobState, words: str | None, otherwise: str | None = None
) -> str:
    """Why this job has made no reference table, where that was, what it printed last, and its log.

    Args:
        table: as its executor recorded it.
        failure: the reason that it has recorded itself.
        state: the scheduler's answer.
        words: what it printed last.
        otherwise: what is said of a job that nobody knows any more.
    """
    ended = state.reason if state.phase in BAD_ENDS else None
    if failure is None and ended and state.node and state.node not in ended:
        ended = f"{ended} on {state.node}"
    said = f": {failure or ended}" if failure or ended else f" failed ({otherwise})"
    words = words if failure is None else None
    return "; ".join(filter(None, [": ".join(filter(None, [f"job {table.job_id}{said}", words])), _log_of(table)]))


def _log_of(job: Job) -> str | None:
    return f"its log is {job.log}" if job.log else None


def _status_at_end(facts: RunFacts, job: JobState) -> tuple[Status, str | None]:
    if job.phase is Phase.TIMEOUT and (facts.put_back or not facts.started):
        return Status.TIMEOUT, _out_of_time(facts)
    if job.phase in ENDS:
        status, reason = ENDS[job.phase]
        return status, _beside(status, job.reason) or reason
    if job.phase in SILENT:
        return ENDS[Phase.CANCELLED]
    if not facts.started:
        ended = f"ended on {job.node} before it began" if job.node else "its job ended before it came to this run"
        return Status.FAILED, ": ".join(filter(None, [ended, _beside(Status.FAILED, job.reason), facts.last_words]))
    ended = "; ".join(filter(None, [job.reason, facts.lost])) or "its process ended without a result"
    return Status.FAILED, ": ".join(filter(None, [ended, facts.last_words]))


def _out_of_time(facts: RunFacts) -> str:
    """Of a run to which its job has not come: what took so long came before it, the site's setup for one."""
    given = facts.cluster.get("time")
    key = "cluster.time" if given is None else f"cluster.time={given}"
    ended = f"the time limit ({key}) ended its job before it came {'back ' if facts.put_back else ''}to this run"
    printed = facts.last_words and f"it last printed: {facts.last_words}"
    return "; ".join(filter(None, [ended, printed, _log_of(facts.job) if facts.job else None]))


def _beside(status: Status, said: str | None) -> str:
    """A scheduler's words less the status, where they begin with it: both are shown, side by side."""
    first, _, rest = (said or "").partition(" ")
    return rest if first == status else said or ""


def _why_at_work(facts: RunFacts, job: JobState) -> str | None:
    asked = ASKED if facts.cancelled else None
    ran = f"has run for {job.minutes} min and " if job.minutes else ""
    has_come = facts.started and not facts.put_back
    about = facts.damage if has_come else f"its job {ran}has not come to it yet"
    return "; ".join(filter(None, [asked, job.reason, about])) or None


def _why_pending(facts: RunFacts, job: JobState, table: JobState) -> str | None:
    asked, lacks_table = ASKED if facts.cancelled else None, facts.waits_for and not facts.table_made
    if lacks_table and job.cause in (Cause.DEPENDENCY, Cause.IN_VAIN):
        return "; ".join(filter(None, [asked, _why_without_table(facts, job, table)]))
    waits = " ".join(filter(None, ["requeued" if facts.started else "", job.reason]))
    if facts.cancelled and job.cause is Cause.HELD:
        return f"{ASKED}; {waits}; `cancel` ends it, or `{scontrol(job)} release {facts.job_id}`"
    said = [asked, waits, _release(facts.job_id, job)]
    if lacks_table and table.cause is Cause.HELD:
        said += [f"job {facts.waits_for}, for its reference table, is held too", _release(facts.waits_for, table)]
    return "; ".join(filter(None, said)) or None


def scontrol(job: JobState) -> str:
    """The command that is to change this job, as whoever asks has to give it."""
    return f"scontrol -M {job.cluster}" if job.cluster else "scontrol"


def _release(job_id: str | None, job: JobState) -> str | None:
    return f"`{scontrol(job)} release {job_id}` lets it go on" if job.cause is Cause.HELD else None


def _why_without_table(facts: RunFacts, job: JobState, table: JobState) -> str:
    """Of a job that waits for its table, be that on its way or not."""
    if job.cause is Cause.IN_VAIN:  # and its site leaves it in the queue
        remedy = f"job {facts.job_id} waits in vain: `cancel` it, then launch again"
        return f"{_no_table(facts, job, table)}; {remedy}"
    if facts.table_failure or table.phase in BAD_ENDS:
        return _no_table(facts, job, table)
    waits = f"waits for its reference table, job {facts.waits_for}"
    if table.phase is not Phase.RUNNING:
        said = ": ".join(filter(None, [waits, table.reason]))
        return "; ".join(filter(None, [said, _release(facts.waits_for, table)]))
    ran = f"which has run for {table.minutes} min" if table.minutes else None
    return ", ".join(filter(None, [waits, table.reason, ran]))


def _unless_recent(facts: RunFacts, reason: str) -> tuple[Status, str | None]:
    if facts.submitted_seconds < LAG_SECONDS:
        return Status.PENDING, "just submitted"
    return Status.LOST, reason
