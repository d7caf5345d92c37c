"""Files come into being whole or not at all."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest
from fakes import FakeScheduler
from finished_runs import keep_milestones, revision_at, trained_runs

from launcher.cluster.job_state import JobState, Phase
from launcher.config import OBJECTIVE
from launcher.errors import StoreError
from launcher.runs.run_state import last_metrics, read_facts, states_of
from launcher.store.attempts import Attempts
from launcher.store.facts import Attempt
from launcher.store.files import append_line, building, read_fact, read_lines, write_once
from launcher.store.output_folder import Store


def test_the_first_writer_of_a_fact_wins(tmp_path: Path) -> None:
    """A second writer changes nothing, is told so, and leaves no file behind."""
    fact = tmp_path / "a" / "result.json"
    assert write_once(fact, {"by": 1})
    assert not write_once(fact, {"by": 2})
    assert read_fact(fact) == {"by": 1}
    assert [file.name for file in fact.parent.iterdir()] == ["result.json"]


def test_exactly_one_of_many_writers_wins(tmp_path: Path) -> None:
    """Of writers at the same moment one wins, and its fact is whole."""
    fact, won = tmp_path / "result.json", []

    def write(number: int) -> None:
        if write_once(fact, {"by": number, "text": "x" * 10_000}):
            won.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [(read_fact(fact) or {})["by"]] == won


def test_attempts_asked_for_at_once_get_their_own_numbers(store: Store) -> None:
    """Two launchers never share an attempt."""
    run, numbers = store.run("r"), []
    threads = [threading.Thread(target=lambda: numbers.append(run.new_attempt(Attempt()).number)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers) == list(range(1, 9))


@pytest.mark.parametrize("text", ["", "{", "[1]", "nul"])
def test_a_torn_fact_is_refused_with_its_name(tmp_path: Path, text: str) -> None:
    """A fact that is no JSON object is an error that names the file, never a guess."""
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(StoreError, match=r"result\.json"):
        read_fact(tmp_path / "result.json")


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    """A crash while appending costs that line only, for both readers."""
    log = tmp_path / "metrics.jsonl"
    append_line(log, {"step": 1})
    append_line(log, {"step": 2, "text": "é" * 5000})
    with log.open("a") as file:
        file.write('{"step": 3, "los')
    assert [line["step"] for line in read_lines(log)] == [1, 2]
    log.write_text(json.dumps({"step": 9}) + "\n" + '{"step": 10')
    assert last_metrics(log)["step"] == 9
    log.write_text(
        "".join(f'{{"step": {step}, "seconds_per_step": {pace}}}\n' for step, pace in enumerate((1.0, 1.5, 90)))
    )
    assert last_metrics(log) == {"step": 2, "seconds_per_step": 1.5}  # a restart's first step compiles
    log.write_bytes(b'\xff\x00\n[1]\n7\n{"step": 9}\n')  # what a broken disk may leave
    assert read_lines(log) == [{"step": 9}]


def test_a_torn_last_line_is_not_continued(tmp_path: Path) -> None:
    """What is appended after a crash is a line of its own."""
    log = tmp_path / "metrics.jsonl"
    append_line(log, {"step": 1})
    log.write_text(log.read_text() + '{"step": 2, "lo')
    append_line(log, {"step": 3})
    append_line(log, {"step": 4})
    assert read_lines(log) == [{"step": 1}, {"step": 3}, {"step": 4}]


@pytest.mark.parametrize("text", [b"", b"model: {name: x}\ntrainer:", b"a: [", b"\xff\xfe", b"- 1\n"])
def test_a_torn_config_is_refused_with_its_name(store: Store, text: bytes) -> None:
    """A config.yaml that ends early may still be YAML: it is never taken for the whole objective."""
    run = store.run("r")
    run.write_config(dict.fromkeys(OBJECTIVE))
    assert set(run.read_config()) == set(OBJECTIVE)
    run.config_file.write_bytes(text)
    with pytest.raises(StoreError, match=r"runs/r/config\.yaml: .*; put it right, or move it away"):
        run.read_config()


def test_a_cache_entry_is_built_once_and_whole(tmp_path: Path) -> None:
    """A builder that fails leaves nothing that looks like an entry; the next one builds; the one after that uses it."""
    folder = tmp_path / "cache" / "entry"
    with pytest.raises(RuntimeError), building(folder) as empty:
        assert empty is not None
        (empty / "half").write_text("x")
        raise RuntimeError
    assert not folder.exists()
    with building(folder) as empty:
        assert empty is not None
        (empty / "whole").write_text("x")
    with building(folder) as empty:
        assert empty is None
    assert [file.name for file in folder.iterdir()] == ["whole"]


def test_what_others_left_among_runs_and_sweeps_is_passed_over(store: Store) -> None:
    """A file browser's file or folder is no run and no sweep, and keeps nobody from launching."""
    store.run("mine").path.mkdir(parents=True)
    (store.sweep("mine").path / "launches").mkdir(parents=True)
    for folder in ("runs", "sweeps"):
        (store.root / folder / ".DS_Store").write_text("")
    (store.root / "sweeps" / ".ipynb_checkpoints").mkdir()
    assert [run.run_id for run in store.runs()] == ["mine"]
    assert [sweep.name for sweep in store.sweeps()] == ["mine"]


def test_the_sweep_launched_last_is_the_last_one(store: Store) -> None:
    """Whatever else is written into the folder of another: results, what is collected of it, copies of code."""
    for second, name in enumerate(("early", "late")):
        folder = store.sweep(name).path / "launches"
        folder.mkdir(parents=True)
        (folder / "001.json").write_text("{}")
        os.utime(folder / "001.json", (1000 + second, 1000 + second))
    (store.sweep("early").path / "results.jsonl").write_text("")
    (store.sweep("early").path / "launches" / "001.json~").write_text("")
    assert [sweep.name for sweep in store.sweeps()] == ["early", "late"]


def test_facts_of_an_empty_run_are_empty(store: Store) -> None:
    """A run that was never launched has no attempt, step or checkpoint."""
    facts = read_facts(store.run("nothing"))
    assert (facts.attempts, facts.step, facts.checkpoint_step, facts.trained) == (0, None, None, False)


# ------------------------------------------------------------------------------------------------ how often

touched: list[str] = []  # what this process opens and lists, once somebody looks
looking = False


def look(event: str, arguments: tuple[object, ...]) -> None:
    if looking and event in ("open", "os.listdir", "os.scandir"):
        touched.append(str(arguments[0]))


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths, in the order in which they are opened or listed. A hook can be had, but never be taken back."""
    sys.addaudithook(look)
    touched.clear()
    monkeypatch.setattr(sys.modules[__name__], "looking", True)
    return touched


def test_status_reads_each_file_of_a_run_once(store: Store, looked: list[str]) -> None:
    """And lists each folder once, whatever state it is in: on a busy file system each of these is a round trip."""
    grid = ["beta=0.1,0.2,0.3,0.4", "evaluation=command", "evaluation.command.argv=[score,'{model}']", "hub=folder"]
    waiting, training, trained, published = runs = trained_runs(store, *grid)
    for run in (waiting, training):
        run.result_file.unlink()
    write_once(Attempts.of(training).training.started_file, {"host": "n1"})
    for run in (trained, published):
        keep_milestones(run, step1=0.5, step2=0.6)
        write_once(run.evaluations.job_file("command"), {"scores": {}})
    write_once(Attempts.of(trained).training.unpublished_file, {"reason": "no token", "time": 1.0})
    for folder in (published, *(milestone for _, milestone in published.milestones())):
        write_once(folder.revision_file, revision_at("there", time=2.0))
    scheduler = FakeScheduler()  # of a job that it says has ended the run is looked at once more
    open_jobs = [job for run in runs if (job := Attempts.of(run).training.job)]
    scheduler.phases = {job.job_id: JobState(Phase.RUNNING) for job in open_jobs}
    looked.clear()
    states_of(runs, scheduler)
    for run in runs:
        mine = Counter(path for path in looked if path.startswith(str(run.path)))
        assert mine[str(run.path)] == 1
        assert set(mine.values()) == {1}, mine
