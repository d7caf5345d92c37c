"""Facts and the scheduler's answer -> a run's state."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from launcher.cluster.job_state import UNKNOWN, JobState, Phase
from launcher.cluster.offer import Offer
from launcher.cluster.slurm_words import read_queue
from launcher.config import Cluster
from launcher.errors import ConfigError
from launcher.runs.run_state import RunState
from launcher.runs.status import RunFacts, Status, cause_of, status_of
from launcher.store.facts import Cause, Failure, FailureStatus, Job
from launcher.store.output_folder import SweepDir
from launcher.store.run_folder import RunDir
from launcher.submission.limits import check_limits
from launcher.views.states import show_status
from launcher.worker import progress

OLD = 1000.0
SUBMITTED = RunFacts(attempts=1, submitted_seconds=OLD, job_id="7")
STARTED = RunFacts(attempts=1, submitted_seconds=OLD, job_id="7", started=True)
WAITING = RunFacts(attempts=1, submitted_seconds=OLD, job_id="7", table=Job("5", "slurm"))


@pytest.mark.parametrize("reason", ["JobHeldUser", "job requeued in held state"])
def test_a_job_that_is_held_is_told_with_the_command_that_lets_it_go_on(reason: str) -> None:
    """By a user, by an administrator, or by SLURM, which could not start it: nothing else would."""
    job = read_queue(f"7|PENDING|{reason}||x\n")["7"]
    assert status_of(SUBMITTED, job) == (Status.PENDING, f"{reason}; `scontrol release 7` lets it go on")
    there = status_of(SUBMITTED, replace(job, cluster="c2"))
    assert there == (Status.PENDING, f"{reason}; `scontrol -M c2 release 7` lets it go on")


@pytest.mark.parametrize(
    ("facts", "phase", "expected"),
    [
        (RunFacts(), Phase.UNKNOWN, Status.NEW),
        (SUBMITTED, Phase.PENDING, Status.PENDING),
        (SUBMITTED, Phase.RUNNING, Status.PENDING),
        (STARTED, Phase.RUNNING, Status.RUNNING),
        (STARTED, Phase.COMPLETED, Status.FAILED),
        (STARTED, Phase.FAILED, Status.FAILED),
        (SUBMITTED, Phase.FAILED, Status.FAILED),
        (SUBMITTED, Phase.COMPLETED, Status.FAILED),
        (SUBMITTED, Phase.HIDDEN, Status.PENDING),
        (STARTED, Phase.HIDDEN, Status.RUNNING),
        (replace(STARTED, cancelled=True), Phase.HIDDEN, Status.CANCELLED),
        (replace(STARTED, alive=True), Phase.UNKNOWN, Status.RUNNING),
        (replace(STARTED, alive=True, cancelled=True), Phase.UNKNOWN, Status.RUNNING),
        (replace(STARTED, alive=True), Phase.FAILED, Status.FAILED),
        (STARTED, Phase.CANCELLED, Status.CANCELLED),
        (STARTED, Phase.TIMEOUT, Status.TIMEOUT),
        (STARTED, Phase.UNKNOWN, Status.LOST),
        (RunFacts(attempts=1, submitted_seconds=OLD), Phase.UNKNOWN, Status.LOST),
        (RunFacts(attempts=1, submitted_seconds=1.0), Phase.UNKNOWN, Status.PENDING),
        (RunFacts(attempts=1, submitted_seconds=1.0, job_id="7"), Phase.UNKNOWN, Status.PENDING),
        (RunFacts(attempts=1, job_id="7", failure="x"), Phase.RUNNING, Status.FAILED),
        (RunFacts(attempts=1, job_id="7", failure="x", ended=FailureStatus.CANCELLED), Phase.RUNNING, Status.CANCELLED),
        (RunFacts(attempts=1, job_id="7", trained=True), Phase.UNKNOWN, Status.TRAINED),
        (RunFacts(attempts=1, failure="not submitted: full", cause=Cause.QUEUE_FULL), Phase.UNKNOWN, Status.NEW),
    ],
)
def test_status_follows_from_facts_and_job(facts: RunFacts, phase: Phase, expected: Status) -> None:
    """COMPLETED without a result is FAILED; forgotten without a trace is LOST; absent for a moment means nothing."""
    assert status_of(facts, JobState(phase))[0] is expected


@pytest.mark.parametrize("phase", list(Phase))
def test_every_end_without_result_has_a_reason(phase: Phase) -> None:
    """A run that ended badly always says why, in the scheduler's words where it has any."""
    status, reason = status_of(STARTED, JobState(phase))
    if status not in (Status.RUNNING, Status.PENDING):
        assert reason
    if phase in (Phase.FAILED, Phase.CANCELLED, Phase.TIMEOUT):
        assert status_of(STARTED, JobState(phase, "NODE_FAIL n3"))[1] == "NODE_FAIL n3"


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (JobState(Phase.TIMEOUT, "TIMEOUT"), "job 5: TIMEOUT"),
        (JobState(Phase.FAILED, "OUT_OF_MEMORY"), "job 5: OUT_OF_MEMORY"),
        (JobState(Phase.UNKNOWN), "job 5 failed (CANCELLED)"),
    ],
)
def test_what_became_of_the_table_is_the_reason(table: JobState, expected: str) -> None:
    """Not that SLURM has therefore cancelled the run's own job, as long as it knows better."""
    found = status_of(WAITING, JobState(Phase.CANCELLED, "CANCELLED"), table)
    assert found == (Status.FAILED, f"no reference table: {expected}")


@pytest.mark.parametrize(
    ("table", "made"),
    [
        (JobState(Phase.COMPLETED), True),
        (JobState(Phase.COMPLETED), False),
        (JobState(Phase.RUNNING), False),
        (JobState(Phase.UNKNOWN), True),
    ],
)
def test_what_somebody_has_cancelled_by_hand_does_not_lack_its_table(table: JobState, made: bool) -> None:
    """The table's job has ended well, is at work, or is forgotten and has left the table."""
    found = status_of(replace(WAITING, table_made=made), JobState(Phase.CANCELLED, "CANCELLED by 7"), table)
    assert found == (Status.CANCELLED, "by 7")


def test_what_never_began_says_where_and_why() -> None:
    """The node, SLURM's words, and what the job printed last; what is said beside the status is not said twice."""
    ended = JobState(Phase.FAILED, "FAILED exit code 1", "n2")
    told = replace(SUBMITTED, last_words="setup: line 3: module: command not found")
    expected = "ended on n2 before it began: exit code 1: setup: line 3: module: command not found"
    assert status_of(told, ended) == (Status.FAILED, expected)
    assert status_of(SUBMITTED, JobState(Phase.FAILED)) == (Status.FAILED, "its job ended before it came to this run")
    assert status_of(STARTED, JobState(Phase.CANCELLED, "CANCELLED")) == (Status.CANCELLED, "cancelled")
    assert status_of(STARTED, JobState(Phase.TIMEOUT, "TIMEOUT")) == (Status.TIMEOUT, "the time limit")


@pytest.mark.parametrize(
    ("given", "put_back", "expected"),
    [
        ("2", False, "the time limit (cluster.time=2) ended its job before it came to this run"),
        (None, True, "the time limit (cluster.time) ended its job before it came back to this run"),
    ],
)
def test_a_limit_that_came_before_the_run_names_its_key(given: str | None, put_back: bool, expected: str) -> None:
    """Of a job whose setup hung, in its first life or after a requeue: with its log, and what it printed last."""
    facts = replace(SUBMITTED, cluster={"time": given}, started=put_back, put_back=put_back)
    assert status_of(facts, JobState(Phase.TIMEOUT, "TIMEOUT")) == (Status.TIMEOUT, expected)
    facts = replace(facts, job=Job("7", "slurm", log="/o/7.log"), last_words="loading modules")
    told = f"{expected}; it last printed: loading modules; its log is /o/7.log"
    assert status_of(facts, JobState(Phase.TIMEOUT, "TIMEOUT")) == (Status.TIMEOUT, told)


@pytest.mark.parametrize(("ran", "said"), [("0:59", ""), ("1:11", "has run for 1 min and ")])
def test_the_minutes_of_a_job_are_those_that_have_passed(ran: str, said: str) -> None:
    """As squeue counts them, so that both say the same."""
    job = read_queue(f"7|RUNNING|None|n1|x|{ran}\n")["7"]
    assert status_of(SUBMITTED, job)[1] == f"its job {said}has not come to it yet"


def test_a_run_that_still_trains_is_not_lost() -> None:
    """Its job is not known any more, and its host says that it goes on; a hidden job says where it is."""
    alive = replace(STARTED, alive=True, host="n2")
    reason = "its scheduler does not know job 7, but it still trains on n2"
    assert status_of(alive, UNKNOWN) == (Status.RUNNING, reason)
    hidden = JobState(Phase.HIDDEN, "runs elsewhere: job 7 is ann's")
    assert status_of(STARTED, hidden) == (Status.RUNNING, "runs elsewhere: job 7 is ann's")
    asked = replace(alive, cancelled=True)
    assert status_of(asked, UNKNOWN) == (Status.RUNNING, f"asked to stop; {reason}")
    assert status_of(asked, hidden) == (Status.RUNNING, "asked to stop; runs elsewhere: job 7 is ann's")
    nameless = replace(alive, job=None, job_id=None)
    assert status_of(nameless, UNKNOWN) == (
        Status.RUNNING,
        "no file names its job any more, but it still trains on n2",
    )


KILLED = JobState(Phase.FAILED, "FAILED", "n1", Cause.OUT_OF_MEMORY)
DROPPED = JobState(Phase.CANCELLED)


def failed(reason: str) -> RunFacts:
    return replace(STARTED, failure=reason, cause=Failure(reason).known_cause)


def without_table(reason: str) -> RunFacts:
    return replace(WAITING, table_failure=reason, table_cause=Failure(reason).known_cause)


@pytest.mark.parametrize(
    ("facts", "job", "table", "expected"),
    [
        (STARTED, KILLED, UNKNOWN, Cause.OUT_OF_MEMORY),
        (STARTED, JobState(Phase.FAILED, "FAILED exit code 1"), UNKNOWN, None),
        (WAITING, DROPPED, KILLED, Cause.OUT_OF_MEMORY),
        (replace(WAITING, cancelled=True), DROPPED, KILLED, None),
        (
            without_table("x: oom"),
            DROPPED,
            UNKNOWN,
            Cause.OUT_OF_MEMORY,
        ),
        (failed("RuntimeError: CUDA_ERROR_OUT_OF_MEMORY"), UNKNOWN, UNKNOWN, Cause.OUT_OF_MEMORY),
        (failed("KeyError: 'bloom'"), UNKNOWN, UNKNOWN, None),
    ],
)
def test_the_cause_is_that_of_what_failed(
    facts: RunFacts, job: JobState, table: JobState, expected: Cause | None
) -> None:
    """What the job said itself, else its scheduler; for a run that had no table, of the job that was to make it."""
    assert cause_of(facts, job, table) is expected


def test_a_run_that_waits_for_its_table_says_so() -> None:
    """By the cause, whatever words a scheduler has for it; another wait keeps its words."""
    waits = JobState(Phase.PENDING, "PSUSP", cause=Cause.DEPENDENCY)
    assert status_of(WAITING, waits) == (Status.PENDING, "waits for its reference table, job 5")
    assert status_of(WAITING, JobState(Phase.PENDING, "Dependency")) == (Status.PENDING, "Dependency")
    told = "waits for its reference table, job 5, which has run for 14 min"
    assert status_of(WAITING, waits, JobState(Phase.RUNNING, minutes=14)) == (Status.PENDING, told)


@pytest.mark.parametrize(
    ("facts", "job", "expected"),
    [
        (SUBMITTED, JobState(Phase.RUNNING, minutes=14), "its job has run for 14 min and has not come to it yet"),
        (
            replace(STARTED, put_back=True),
            JobState(Phase.RUNNING, minutes=3),
            "its job has run for 3 min and has not come to it yet",
        ),
        (SUBMITTED, JobState(Phase.RUNNING), "its job has not come to it yet"),
        (STARTED, JobState(Phase.RUNNING, "suspended", minutes=3), "suspended"),
        (replace(STARTED, trained=True), JobState(Phase.RUNNING, "suspended"), "evaluating; suspended"),
        (STARTED, JobState(Phase.RUNNING, minutes=3), None),
    ],
)
def test_a_job_that_has_its_nodes_and_says_nothing_is_told(facts: RunFacts, job: JobState, expected: str) -> None:
    """Since when; also in a job's second life. Whoever is suspended does not hang."""
    assert status_of(facts, job)[1] == expected


def test_a_table_that_is_held_is_told_with_the_command_that_lets_it_go_on() -> None:
    """Also where both are; who was asked to stop is not told how to go on."""
    waits, held = (
        JobState(Phase.PENDING, "Dependency", cause=Cause.DEPENDENCY),
        read_queue("5|PENDING|JobHeldUser||x\n"),
    )
    told = "waits for its reference table, job 5: JobHeldUser; `scontrol release 5` lets it go on"
    assert status_of(WAITING, waits, held["5"]) == (Status.PENDING, told)
    asked = replace(WAITING, cancelled=True)
    assert status_of(asked, waits, held["5"]) == (Status.PENDING, f"asked to stop; {told}")
    both = "JobHeldUser; `scontrol release 7` lets it go on; job 5, for its reference table, is held too; "
    both += "`scontrol release 5` lets it go on"
    assert status_of(WAITING, held["5"], held["5"]) == (Status.PENDING, both)
    assert status_of(WAITING, held["5"], JobState(Phase.PENDING))[1] == both.partition("; job 5")[0]
    said = "asked to stop; JobHeldUser; `cancel` ends it, or `scontrol release 7`"
    assert status_of(asked, held["5"], held["5"]) == (Status.PENDING, said)


def test_what_is_suspended_is_told_with_the_command_that_lets_it_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    """An array once, and the job for a table."""
    stands, run = JobState(Phase.RUNNING, "suspended"), RunDir(Path("/runs/r"))
    facts = replace(WAITING, job_id="7_0", job=Job("7_0", "slurm"))
    one = RunState(run, facts, Status.PENDING, None, stands, None, stands)
    two = replace(one, facts=replace(facts, job=Job("7_1", "slurm"), table=None), table=UNKNOWN)
    show_status(SweepDir(Path("/sweeps/s")), [one, two, replace(two, job=UNKNOWN)], [], as_json=False)
    said = [f"job {job} is suspended; `scontrol resume {job}` lets it go on" for job in ("7", "5")]
    assert [line for line in capsys.readouterr().out.splitlines() if "resume" in line] == said


@pytest.mark.parametrize("reason", ["PartitionDown", "JobHeldUser", "requeued"])
def test_a_run_that_waits_for_its_table_says_for_what_that_waits(reason: str) -> None:
    """Where the table is there, it is something else for which the job waits."""
    waits = JobState(Phase.PENDING, "Dependency", cause=Cause.DEPENDENCY)
    told = status_of(WAITING, waits, JobState(Phase.PENDING, reason))
    assert told == (Status.PENDING, f"waits for its reference table, job 5: {reason}")
    assert status_of(replace(WAITING, table_made=True), waits) == (Status.PENDING, "Dependency")


@pytest.mark.parametrize(
    ("facts", "table", "why"),
    [
        (
            replace(WAITING, last_words="no module"),
            JobState(Phase.FAILED, "FAILED exit code 3", "n1"),
            ": FAILED exit code 3 on n1: no module",
        ),
        (WAITING, JobState(Phase.FAILED, "NODE_FAIL n1", "n1"), ": NODE_FAIL n1"),
        (replace(WAITING, table_failure="torn"), JobState(Phase.FAILED, "FAILED", "n1"), ": torn"),
        (WAITING, UNKNOWN, " failed (DependencyNeverSatisfied)"),
    ],
)
def test_a_job_that_waits_in_vain_says_for_what_and_what_to_do(facts: RunFacts, table: JobState, why: str) -> None:
    """SLURM leaves it in the queue where a site wants that."""
    facts = replace(facts, table=Job("5", "slurm", log="/o/5.out"))
    (waits,) = read_queue("7|PENDING|DependencyNeverSatisfied||a").values()
    told = f"no reference table: job 5{why}; its log is /o/5.out"
    remedy = "job 7 waits in vain: `cancel` it, then launch again"
    assert status_of(facts, waits, table) == (Status.PENDING, f"{told}; {remedy}")
    if table != UNKNOWN:
        assert status_of(facts, JobState(Phase.CANCELLED, "CANCELLED"), table) == (Status.FAILED, told)
        not_noticed = JobState(Phase.PENDING, "Dependency", cause=Cause.DEPENDENCY)
        assert status_of(facts, not_noticed, table) == (Status.PENDING, told)


def test_a_process_has_been_starting_since_it_began() -> None:
    """Not since 1970."""
    assert 0 <= time.time() - progress._stack[0].since < 86400


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (None, "cluster.time is not set, and partition main gives a job 1 minute"),
        ("1", "cluster.time=1: a job has 1 minute in partition main"),
    ],
)
def test_a_time_that_nobody_gave_is_not_said_to_be_one(asked: str | None, said: str) -> None:
    """`cluster.time=None` is nothing that anybody typed."""
    with pytest.raises(ConfigError) as refused:
        check_limits(replace(Cluster(), partition="main", time=asked, executor="slurm"), Offer(minutes=1))
    assert str(refused.value).startswith(f"{said}, and it may be warned")
