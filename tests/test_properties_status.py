"""launcher.runs.status and run_state: what holds of a run's status whatever the facts and the answers, in any order."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from conftest import sweep_of
from fakes import FakeScheduler
from finished_runs import revision_at
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from launcher.cluster.job_state import JobState, Phase
from launcher.runs.run_state import RunState, states_of
from launcher.runs.status import UNSUCCESSFUL, RunFacts, Status, cause_of, status_of
from launcher.store.attempts import Attempts
from launcher.store.facts import Cancel, Cause, Failure, FailureStatus, Job, Started, Unpublished
from launcher.store.files import write_once
from launcher.store.output_folder import Store
from launcher.store.results import Evaluation, Result
from launcher.store.run_folder import AttemptDir
from launcher.submission.decide import decide
from launcher.submission.submit import new_attempt

WORDS = st.text(min_size=1, max_size=12).filter(str.strip)
CAUSES = st.none() | st.sampled_from(Cause)
STEPS = st.none() | st.integers(0, 100)
JOBS = st.builds(Job, WORDS, st.just("fake"))
ANSWERS = st.builds(JobState, st.sampled_from(Phase), st.none() | WORDS, st.none() | WORDS, CAUSES)
FACTS = st.builds(
    RunFacts,
    attempts=st.integers(0, 3),
    submitted_seconds=st.floats(0, 1e6),
    job=st.none() | JOBS,
    job_id=st.none() | WORDS,
    started=st.booleans(),
    host=st.none() | WORDS,
    failure=st.none() | WORDS,
    ended=st.sampled_from(FailureStatus),
    cause=CAUSES,
    cancelled=st.booleans(),
    table=st.none() | JOBS,
    table_failure=st.none() | WORDS,
    table_cause=CAUSES,
    trained=st.booleans(),
    evaluated=st.booleans(),
    step=STEPS,
    max_steps=STEPS,
    checkpoint_step=STEPS,
    publishing=st.booleans(),
    unpublished=st.none() | WORDS,
    unreached=st.lists(st.integers(1, 9), max_size=2).map(tuple),
)
OPEN = (Phase.PENDING, Phase.RUNNING)


@given(FACTS, ANSWERS, ANSWERS)
def test_a_status_for_whatever_is_known(facts: RunFacts, job: JobState, table: JobState) -> None:
    """It never raises; TRAINED means that there is a result, and nothing else; every bad end has a reason."""
    status, reason = status_of(facts, job, table)
    cause_of(facts, job, table)
    assert (status is Status.TRAINED) == facts.trained
    assert reason is None or reason.strip()
    assert reason or status not in UNSUCCESSFUL


@given(FACTS, ANSWERS.filter(lambda answer: answer.phase in OPEN), ANSWERS)
def test_an_open_job_is_never_lost(facts: RunFacts, job: JobState, table: JobState) -> None:
    """A job that waits or runs has its run, whatever else lies there, unless the attempt has said that it ended."""
    known = replace(facts, attempts=max(1, facts.attempts), job_id="7", failure=None)
    assert status_of(known, job, table)[0] in (Status.PENDING, Status.RUNNING, Status.TRAINED)


@given(FACTS, WORDS, ANSWERS, ANSWERS)
def test_a_recorded_failure_stands(facts: RunFacts, failure: str, job: JobState, table: JobState) -> None:
    """No answer of a scheduler changes as what the end counts that the job itself has recorded, or why it ended."""
    ended = replace(facts, attempts=max(1, facts.attempts), failure=failure, trained=False)
    counts_as = Status.NEW if facts.cause is Cause.QUEUE_FULL else Status(facts.ended)  # that one was never submitted
    assert status_of(ended, job, table) == (counts_as, failure)


class Life(RuleBasedStateMachine):
    """A run whose facts appear in any order, with jobs of which anything is said."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="life."))
        self.store, self.scheduler = Store(self.folder), FakeScheduler()
        self.sweep = sweep_of("model=tiny", "cluster=slurm", "hub=folder", "hub.repo=x")
        (run,) = self.sweep.runs
        self.run = self.store.run(run.run_id)
        self.run.write_config(run.objective)
        self.trained = False

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    @property
    def attempts(self) -> list[AttemptDir]:
        return self.run.attempts()

    def state(self) -> RunState:
        (state,) = states_of([self.run], self.scheduler)
        return state

    @rule(evaluates=st.booleans())
    def attempt(self, evaluates: bool) -> None:
        if len(self.attempts) < 4:
            new_attempt(self.sweep.runs[0], self.store, evaluates=evaluates)

    @precondition(lambda self: self.attempts)
    @rule(data=st.data(), phase=st.sampled_from(Phase))
    def job(self, data: st.DataObject, phase: Phase) -> None:
        attempt = data.draw(st.sampled_from(self.attempts))
        job_id = str(attempt.number)
        write_once(attempt.job_file, Job(job_id, "fake"))
        self.scheduler.phases[job_id] = JobState(phase)

    @precondition(lambda self: self.attempts)
    @rule(data=st.data(), kind=st.sampled_from(["started", "failure", "cancel", "unpublished"]))
    def fact(self, data: st.DataObject, kind: str) -> None:
        attempt = data.draw(st.sampled_from(self.attempts))
        facts = {
            "started": (attempt.started_file, Started("n1", time=1.0)),
            "failure": (attempt.failure_file, Failure("it broke", data.draw(st.sampled_from(FailureStatus)), time=1.0)),
            "cancel": (attempt.cancel_file, Cancel(1.0)),
            "unpublished": (attempt.unpublished_file, Unpublished("no network", 1.0)),
        }
        write_once(*facts[kind])

    @rule(kind=st.sampled_from(["result", "evaluation", "revision"]))
    def outcome(self, kind: str) -> None:
        facts = {
            "result": (self.run.result_file, Result(4, 4, 8.0)),
            "evaluation": (self.run.evaluation_file, Evaluation()),
            "revision": (self.run.revision_file, revision_at("somewhere")),
        }
        write_once(*facts[kind])

    @invariant()
    def holds(self) -> None:
        """Trained once, it is for ever; a bad end has its reason; what has failed is nothing to wait for."""
        state = self.state()
        assert not self.trained or state.status is Status.TRAINED
        self.trained = state.status is Status.TRAINED
        assert state.reason or state.status not in UNSUCCESSFUL
        acting = Attempts.of(self.run).acting
        assert not (state.in_flight and acting is not None and acting.failure_file.exists())

    @invariant()
    def can_be_decided(self) -> None:
        """Launching again has a word for it, whatever lies there."""
        (decision,) = decide(self.sweep, self.store, self.scheduler)
        assert decision.why


Life.TestCase.settings = settings(
    max_examples=25, stateful_step_count=12, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestLife = Life.TestCase
