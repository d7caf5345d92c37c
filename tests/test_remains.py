"""launcher.worker.remains: a run that is trained again is trained as if it had never been."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from ranks import new_attempt
from test_milestones import CONSTANT, same, weights
from test_training import stop_at
from worker_fixtures import Configure

from launcher.config import Checkpoint, RunConfig
from launcher.store.facts import Revision
from launcher.store.files import append_line, plain, read_fact, read_lines, write_once
from launcher.store.node_facts import Halving
from launcher.store.output_folder import Store
from launcher.store.results import Evaluation, Result
from launcher.store.run_folder import RunDir
from launcher.worker.attempt import make_attempt
from launcher.worker.interruption import StopRequest
from launcher.worker.outcome import Kind
from launcher.worker.training.train import Stopped, train


def attempted(config: RunConfig, run: RunDir, store: Store) -> None:
    assert make_attempt(new_attempt(config, run), store, StopRequest()).kind is Kind.DONE


@pytest.mark.parametrize("kept", [0, 1])
def test_nothing_of_the_old_training_is_in_the_new_one(
    configure: Configure, store: Store, capsys: pytest.CaptureFixture[str], kept: int
) -> None:
    """Its metrics, milestones, checkpoints and halved micro-batch go, with a line; then all is as in another folder."""
    base: dict[str, Any] = {**CONSTANT, "loss_type": "ipo", "hub": replace(configure().hub, store="off")}
    old = configure(**base, checkpoint=Checkpoint(every=2, milestones=[2, 4], keep_finished=kept))
    run, other = store.run("again"), store.run("fresh")
    attempted(old, run, store)
    append_line(run.memory_log, plain(Halving(2, 2, 1.0)))
    run.result_file.unlink()
    capsys.readouterr()
    new = configure(**base, checkpoint=Checkpoint(every=5, milestones=[3]), tracking__every=4)
    attempted(new, run, store)
    said = capsys.readouterr().out
    names = "metrics.jsonl, memory.jsonl, saves.jsonl, milestones" + ", checkpoints" * kept
    assert f"again: its result was removed, so that training goes too: {names}\n" in said
    attempted(new, other, store)
    assert [step for step, _ in run.milestones()] == [3]
    assert [line["step"] for line in read_lines(run.metrics_file)] == [3, 4, 5, 6]
    assert not run.memory_log.exists()
    result, evaluation = read_fact(run.result_file, Result), read_fact(run.evaluation_file, Evaluation)
    expected, scores = read_fact(other.result_file, Result), read_fact(other.evaluation_file, Evaluation)
    assert result is not None
    assert evaluation is not None
    assert expected is not None
    assert scores is not None
    assert (result.loss, result.micro_batch_size) == (expected.loss, expected.micro_batch_size)
    assert (evaluation.loss, evaluation.kl) == (scores.loss, scores.kl)
    assert same(weights(run), weights(other))


def test_an_interrupted_training_goes_on(configure: Configure, store: Store) -> None:
    """It has no result either, and keeps all that it has."""
    config, run = configure(**CONSTANT, checkpoint=Checkpoint(every=2, milestones=[2])), store.run("r")
    with pytest.raises(Stopped):
        train(config, run, store, stop_at(3))
    append_line(run.memory_log, plain(Halving(2, 3, 1.0)))
    before = read_lines(run.metrics_file)
    attempted(config, run, store)
    assert read_lines(run.metrics_file)[:3] == before
    assert run.memory_log.exists()
    assert [step for step, _ in run.milestones()] == [2]


def test_a_training_that_was_published_is_a_finished_one(configure: Configure, store: Store) -> None:
    """Whatever else is there, such as checkpoints that were kept."""
    config, run = configure(**CONSTANT, checkpoint=Checkpoint(every=2, milestones=[2])), store.run("r")
    with pytest.raises(Stopped):
        train(config, run, store, stop_at(4))
    write_once(run.milestone(2).revision_file, Revision("a", "folder", "x", "y", "0a", "1b"))
    attempted(config, run, store)
    assert [line["step"] for line in read_lines(run.metrics_file)] == [1, 2, 3, 4, 5, 6]
    assert not run.milestone(2).revision_file.exists()
