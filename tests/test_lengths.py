"""What depends on the length of a training: its warm-up, its milestones; and what the plan says of a schedule."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import Launch, sweep_of
from fakes import FakeScheduler
from finished_runs import trained_runs
from transformers import get_scheduler
from worker_fixtures import Configure, write_pairs

from launcher.errors import ConfigError
from launcher.machine.installed import transformers_names
from launcher.planning.data_counts import Counted, Look
from launcher.planning.lengths import check_lengths
from launcher.planning.trainer_rules import SCHEDULES_REFUSED, WITHOUT_WARMUP, steps_of
from launcher.runs.run_state import states_of
from launcher.store.counts import DataCounts, SplitCounts
from launcher.store.files import read_fact, read_lines
from launcher.store.output_folder import Store
from launcher.store.results import Result
from launcher.views.settings import settings_json, settings_line
from launcher.worker.training.train import train

TAKEN = sorted(set(transformers_names("trainer_utils.py", "SchedulerType")) - set(SCHEDULES_REFUSED))
FULL = ("model=tiny", "trainer=full", "trainer.max_steps=null")


def notes_of(*argv: str, rows: int | None = 40) -> list[str]:
    """What a launch notes of its runs' lengths, their data having so many rows to train on."""
    sweep = sweep_of(*FULL, *argv)
    split = SplitCounts(read=50, used=rows or 0)
    counts = DataCounts("tiny", "p", 48, {"train": split, "test": SplitCounts(4, 4)}) if rows else None
    return check_lengths(sweep, Look((Counted(sweep.runs[0].config, counts),)))


@pytest.mark.parametrize("name", TAKEN)
def test_a_plan_tells_of_the_warmup_that_transformers_makes(name: str) -> None:
    """With a warm-up the first step has learning rate 0; where there is none the line and its JSON have none."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = get_scheduler(name, optimizer, num_warmup_steps=5, num_training_steps=20)
    warms_up = schedule.get_last_lr() == [0.0]
    assert warms_up == (name not in WITHOUT_WARMUP)
    sweep = sweep_of("model=tiny", "trainer=full", f"trainer.lr_scheduler={name}", "trainer.warmup_steps=5")
    assert ("with warm-up over 5 steps" in settings_line(sweep)) == warms_up
    assert (f"schedule {name} without warm-up" in settings_line(sweep)) == (not warms_up)
    assert settings_json(sweep)["warmup_steps"] == (5 if warms_up else 0)
    assert settings_json(sweep)["warmup_ratio"] is None


def test_a_warmup_of_nothing_is_none() -> None:
    """Zero steps, or a share of zero."""
    for given in ("trainer.warmup_steps=0", "trainer.warmup_ratio=0"):
        assert "schedule cosine without warm-up" in settings_line(sweep_of("model=tiny", "trainer=full", given))


def test_a_warmup_that_is_asked_for_and_ignored_is_told() -> None:
    """Of a schedule without one; the default share is nobody's wish."""
    constant = "trainer.lr_scheduler=constant"
    assert notes_of(constant) == []
    assert notes_of("trainer.warmup_ratio=0.2") == []
    for given in ("trainer.warmup_ratio=0.2", "trainer.warmup_steps=3"):
        (note,) = notes_of(constant, given)
        assert note.startswith(f"{given}: ignored, {constant} has no warm-up; constant_with_warmup has one")


@pytest.mark.parametrize(("epochs", "rows"), [(1.0, 8), (1.5, 7), (0.5, 5), (2.0, 2)])
def test_the_steps_are_those_of_the_trainer(
    configure: Configure, store: Store, tmp_path: Path, epochs: float, rows: int
) -> None:
    """As many as a training on so many rows then makes, whole batches or not."""
    data = write_pairs(tmp_path / "data", rows)
    config = configure(
        dataset__path=str(data),
        dataset__builder=None,
        dataset__train_pairs=None,
        trainer__max_steps=None,
        trainer__epochs=epochs,
        trainer__batch_size=4,
        trainer__micro_batch_size=2,
    )
    train(config, store.run("r"), store, lambda: False)
    result = read_fact(store.run("r").result_file, Result)
    assert result is not None
    assert result.max_steps == steps_of(config.trainer, result.train_pairs or 0)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("trainer.warmup_steps=5",), r"warmup_steps=5: the warm-up takes 5 steps and the training has 5, .*steps=4"),
        (("trainer.warmup_steps=100",), r"warmup_steps=100: .* the training has 5,"),
        (("trainer.warmup_steps=20", "trainer.max_steps=10"), r"warmup_steps=20: .* the training has 10,"),
        (("trainer.warmup_ratio=0.95", "trainer.max_steps=10"), r"warmup_ratio=0\.95: the warm-up takes 10 steps"),
        (("trainer.warmup_steps=9", "trainer.epochs=1.5"), r"warmup_steps=9: .* the training has 8,"),
    ],
)
def test_a_warmup_that_does_not_end_is_refused(argv: tuple[str, ...], message: str) -> None:
    """Where `max_steps` or the counted rows, here 40 in batches of 8, give the steps: the rate is never reached."""
    with pytest.raises(ConfigError, match=rf"trainer\.{message}"):
        notes_of(*argv)
    assert notes_of("trainer.warmup_steps=4") == []
    assert notes_of("trainer.warmup_steps=100", rows=None) == []
    (note,) = notes_of("trainer.max_steps=1")
    assert "the only step has learning rate 0" in note
    (note,) = notes_of("trainer.batch_size=128")
    assert note.startswith(
        "trainer.batch_size=128: all pairs make one step, whose learning rate is 0: nothing is trained"
    )
    assert notes_of("trainer.batch_size=128", "trainer.epochs=3") == []
    assert notes_of("trainer.batch_size=128", "trainer.warmup_steps=0") == []


def test_a_warmup_that_does_not_end_never_comes_to_the_learning_rate(configure: Configure, store: Store) -> None:
    """What is refused, and what is just taken, as a real training logs it."""
    for warmup, reached in ((3, False), (2, True)):
        config = configure(trainer__warmup_steps=warmup, trainer__max_steps=3, trainer__learning_rate=1e-3)
        train(config, store.run(str(warmup)), store, lambda: False)
        rates = [line["learning_rate"] for line in read_lines(store.run(str(warmup)).metrics_file)]
        assert (max(rates) == pytest.approx(1e-3)) == reached


def test_milestones_behind_the_end_are_refused_where_it_is_known() -> None:
    """Key, value and the number of steps; where the data are not counted the plan cannot know."""
    constant = "trainer.lr_scheduler=constant"
    for step in (5, 99):
        with pytest.raises(ConfigError, match=rf"checkpoint\.milestones={step}: .*the training has 5 steps"):
            notes_of(constant, f"checkpoint.milestones=[2,{step}]")
    assert notes_of(constant, "checkpoint.milestones=[2,4]") == []
    assert notes_of(constant, "checkpoint.milestones=[99]", rows=None) == []


def test_milestones_that_were_not_reached_are_told_by_status(store: Store) -> None:
    """As the reason of the run, in every table and in results.jsonl."""
    more = ("trainer.lr_scheduler=constant", "trainer.max_steps=null", "hub=off", "checkpoint.milestones=[1,7,9]")
    (run,) = trained_runs(store, "loss_type=ipo", "sweep=scan", *more)
    (state,) = states_of([run], FakeScheduler())
    assert state.reason == "milestones never reached: 7, 9; the training had 1 steps"


@pytest.fixture
def program(tmp_path: Path) -> Callable[[str], str]:
    """The override that measures by a program which prints this."""

    def make(printed: str) -> str:
        file = tmp_path / "program.py"
        file.write_text(f"print({printed!r})\n")
        return f"evaluation.command.argv=[{sys.executable},{file},'{{model}}']"

    return make


@pytest.mark.long
def test_a_launch_whose_evaluations_failed_ends_with_1(
    launch: Launch, tmp_path: Path, program: Callable[[str], str]
) -> None:
    """As `evaluate` does; and with 0 once a later launch has measured what was lacking."""
    data = write_pairs(tmp_path / "pairs", 8)
    short = ("trainer.max_steps=1", "trainer.max_length=64", "trainer.learning_rate=1e-3", "trainer.warmup_steps=0")
    argv = ("-m", "model=tiny", "trainer=full", "cluster=local", f"dataset={data}", "hub=off", *short)
    asked = ("evaluation=command", "evaluation.benchmarks=[command]")
    failed = launch(*argv, *asked, program('{"quality": NaN}'))
    assert failed.returncode == 1, failed.stderr
    assert "TRAINED" in failed.stdout
    done = launch(*argv, *asked, program('{"quality": 0.5}'))
    assert done.returncode == 0, done.stderr
