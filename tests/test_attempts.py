"""launcher.store.attempts: which attempt trains a run, which evaluates it, which of them has it in its hands."""

from __future__ import annotations

import pytest

from launcher.errors import StoreError
from launcher.store.attempt_config import hub_of, wanted_by
from launcher.store.attempts import Attempts
from launcher.store.facts import Attempt, Failure, Job, Purpose
from launcher.store.files import write_once
from launcher.store.output_folder import Store
from launcher.store.run_folder import AttemptDir, RunDir

WAITS = Job("7", "slurm")
HUB = {"hub": {"store": "folder", "repo": "r", "revision": "x", "when": "job"}}


@pytest.fixture
def run(store: Store) -> RunDir:
    return store.run("r")


def to_train(run: RunDir, **settings: object) -> AttemptDir:
    return run.new_attempt(Attempt(settings=settings, purpose=Purpose.TRAINING))


def to_evaluate(run: RunDir, follows: Job | None = WAITS) -> AttemptDir:
    settings = {"evaluation": {"benchmarks": ["command"]}}
    return run.new_attempt(Attempt(settings=settings, follows=follows, purpose=Purpose.EVALUATION))


def train(run: RunDir) -> None:
    write_once(run.result_file, {"steps": 1, "max_steps": 1, "seconds": 1.0})
    write_once(run.evaluation_file, {"loss": 0.5})


def test_nothing_was_attempted(run: RunDir) -> None:
    """Of a run that was never launched nothing is at work."""
    attempts = Attempts.of(run)
    assert (attempts.training, attempts.evaluating, attempts.acting) == (None, None, None)
    assert attempts.current == attempts.open == attempts.without_job == []


def test_the_run_goes_from_hand_to_hand(run: RunDir) -> None:
    """It is the training's until that has trained, measured and published; then the evaluation's that waited for it."""
    training, evaluating = to_train(run, **HUB), to_evaluate(run)
    assert Attempts.of(run).acting == training
    assert Attempts.of(run).open == [training, evaluating]
    train(run)
    assert Attempts.of(run).acting == training  # it still has to publish
    write_once(run.revision_file, {})
    assert Attempts.of(run).acting == evaluating
    assert Attempts.of(run).open == [evaluating]
    assert [Attempts.of(run).is_over(each) for each in (training, evaluating)] == [True, False]
    write_once(evaluating.failure_file, Failure("no"))
    assert Attempts.of(run).open == []


def test_an_evaluation_of_what_is_trained_waits_for_nobody(run: RunDir) -> None:
    """It has the run at once, whatever the training left undone; one that is made later takes its place."""
    training = to_train(run)
    write_once(run.result_file, {"steps": 1, "max_steps": 1, "seconds": 1.0})
    first = to_evaluate(run, follows=None)
    assert Attempts.of(run).acting == first
    second = to_evaluate(run, follows=None)
    attempts = Attempts.of(run)
    assert (attempts.acting, attempts.trainings, attempts.is_over(first)) == (second, [training], True)


def test_training_again_leaves_the_evaluation_before_behind(run: RunDir) -> None:
    """An evaluation belongs to the training before it: behind a new one, there is none until it is made."""
    to_train(run)
    to_evaluate(run)
    again = to_train(run)
    assert (Attempts.of(run).evaluating, Attempts.of(run).acting) == (None, again)


def test_those_of_a_dead_launcher_are_without_a_job(run: RunDir) -> None:
    """Neither a job is recorded of them, nor that there is none."""
    training, evaluating = to_train(run), to_evaluate(run)
    write_once(training.job_file, WAITS)
    assert Attempts.of(run).without_job == [evaluating]
    write_once(evaluating.failure_file, Failure("never submitted", "LOST"))
    assert Attempts.of(run).without_job == []


def test_what_an_attempt_is_for_is_in_its_record(run: RunDir) -> None:
    """Not in its folder's name, but where an older version made it, or its record was lost."""
    evaluating = to_evaluate(run)
    evaluating.attempt_file.rename(run.path / "attempt-001.json")
    (moved,) = run.attempts()
    assert moved.evaluates
    moved.attempt_file.unlink()
    lost, older = (run.path / "attempts" / name for name in ("001", "002.evaluation"))
    lost.mkdir(parents=True)
    write_once(older / "attempt.json", {"settings": {}})
    assert [attempt.evaluates for attempt in run.attempts()] == [False, True]


def test_a_damaged_record_of_the_past_is_in_nobodys_way(run: RunDir) -> None:
    """Which attempt acts is known by the folders' names, too: only who reads the damaged one's settings is told."""
    past, last = to_train(run), to_train(run, **HUB)
    past.attempt_file.write_text('{"settings": {')
    attempts = Attempts.of(run)
    assert (attempts.trainings, attempts.acting) == ([past, last], last)
    with pytest.raises(StoreError, match=r"r/attempt-001\.json"):
        wanted_by(attempts.trainings[0])


@pytest.mark.parametrize("section", ["hub", "evaluation"])
@pytest.mark.parametrize("value", [[], None, "x", 3, ["x"]])
def test_settings_that_are_none_of_ours_are_told_with_their_file(run: RunDir, section: str, value: object) -> None:
    """A section that was put right by hand, and wrongly, is one line; none at all is what nothing was asked of."""
    attempt = to_train(run, **{section: value})
    ask = {"hub": hub_of, "evaluation": wanted_by}[section]
    if not value:
        assert ask(attempt) == ask(to_train(run))
    else:
        with pytest.raises(StoreError, match=rf"attempt-001.json: settings.{section} cannot be "):
            ask(attempt)


def test_a_key_of_settings_that_is_none_of_ours_is_told_with_its_file(run: RunDir) -> None:
    """Nobody has typed it, so the file is named."""
    with pytest.raises(StoreError, match=r"attempt-001.json: settings.hub.stor: no such key"):
        hub_of(to_train(run, hub={"stor": "off"}))
