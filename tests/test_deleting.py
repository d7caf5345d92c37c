"""`list`, `du`, `rm` and `gc`: what there is, what it takes, and what may go."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from conftest import sweep_of
from fakes import FakeScheduler, submit
from finished_runs import finish

from launcher.cli.main import main
from launcher.cluster.job_state import Phase
from launcher.errors import StoreError
from launcher.runs.run_state import states_of
from launcher.store.disk_use import remove, space
from launcher.store.entries import LIST
from launcher.store.facts import CacheUse, Revision
from launcher.store.files import write_derived, write_once
from launcher.store.output_folder import Store
from launcher.store.run_folder import RunDir

RUN = ("model=tiny", "trainer=full", "hub.when=login", "evaluation=none")


@pytest.fixture
def scheduler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeScheduler:
    fake = FakeScheduler()
    for module in ("remove", "garbage", "list_sweeps", "selection", "report"):
        monkeypatch.setattr(f"launcher.cli.{module}.scheduler_to_ask", lambda: fake)
    monkeypatch.chdir(tmp_path)
    return fake


def launched(store: Store, scheduler: FakeScheduler, *argv: str, finished: bool = True) -> list[RunDir]:
    sweep = sweep_of(*RUN, *argv)
    submit(sweep, store, scheduler, [])
    runs = [store.run(run.run_id) for run in sweep.runs]
    for run in runs if finished else ():
        if not run.result_file.exists():
            finish(run)
    for job in list(scheduler.phases) if finished else ():
        scheduler.end(job, Phase.COMPLETED)
    return runs


def listed(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_sweep_goes_with_its_runs_but_not_with_those_of_others(
    store: Store, scheduler: FakeScheduler, capsys: pytest.CaptureFixture[str]
) -> None:
    """What another sweep holds stays, and is as well known there as before."""
    shared, own = launched(store, scheduler, "beta=0.1,0.2", "sweep=one")
    launched(store, scheduler, "beta=0.1", "sweep=two")
    (before,) = states_of([shared], scheduler)
    assert main(["rm", "one", "--yes"]) == 0
    told = capsys.readouterr().out
    assert f"deleting run {own.run_id}: " in told
    assert f"kept: {shared.run_id}, which two holds too" in told
    assert (own.path.exists(), shared.path.exists()) == (False, True)
    assert [sweep.name for sweep in store.sweeps()] == ["two"]
    (state,) = states_of([shared], scheduler)
    assert (state.status, state.facts.job, state.facts.unreadable) == (before.status, before.facts.job, ())
    assert state.facts.job_id is not None


def test_nothing_goes_without_a_yes(
    store: Store, scheduler: FakeScheduler, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dry run shows what would go; without a terminal at which to ask, --yes is needed; at one, a yes is."""
    launched(store, scheduler, "beta=0.1", "sweep=one")
    before = listed(store.root)
    assert main(["rm", "one", "--dry-run"]) == 0
    assert "would delete run tiny-sigmoid-beta0.1" in capsys.readouterr().out
    assert main(["rm", "one"]) == 2
    assert "add --yes" in capsys.readouterr().err
    monkeypatch.setattr("launcher.cli.remove.can_ask", lambda: True)
    monkeypatch.setattr("launcher.cli.remove.is_confirmed", lambda _: False)
    assert main(["rm", "one"]) == 0
    assert listed(store.root) == before
    monkeypatch.setattr("launcher.cli.remove.is_confirmed", lambda _: True)
    assert main(["rm", "one"]) == 0
    assert not store.sweep("one").path.exists()


def test_what_is_in_flight_is_refused(
    store: Store, scheduler: FakeScheduler, capsys: pytest.CaptureFixture[str]
) -> None:
    """The line names the runs and what to do; nothing is deleted, also not by `gc`."""
    runs = launched(store, scheduler, "beta=0.1,0.2", "sweep=one", finished=False)
    before = listed(store.root)
    assert main(["rm", "one", "--yes"]) == 2
    error = capsys.readouterr().err
    assert "2 runs are in flight" in error
    assert "`cancel one` first" in error
    assert main(["rm", "one", runs[0].run_id, "--yes"]) == 2
    assert main(["gc", "--yes"]) == 0
    assert [path for path in listed(store.root) if ".lock" not in path] == [p for p in before if ".lock" not in p]


def test_some_runs_of_a_sweep(store: Store, scheduler: FakeScheduler, capsys: pytest.CaptureFixture[str]) -> None:
    """They are no runs of the sweep any more, and their results are not in results.jsonl."""
    gone, left = launched(store, scheduler, "beta=0.1,0.2", "sweep=one")
    write_derived(store.sweep("one").results_file, "{}\n")
    assert main(["rm", "one", gone.run_id[:-4], "--yes"]) == 0
    assert [named.run_id for named in store.sweep("one").run_names()] == [left.run_id]
    assert [record.run_id for record in store.sweep("one").run_records()] == [left.run_id]
    assert store.sweep("one").faults() == []
    assert not store.sweep("one").results_file.exists()
    assert main(["rm", "one", "nothing", "--yes"]) == 2
    assert "nothing: no run of one is called so" in capsys.readouterr().err


def published(store: Store, run: RunDir) -> Path:
    folder = store.published("tiny-s", "ipo-0.1")
    folder.mkdir(parents=True)
    os.link(next(run.model.glob("*.safetensors")), folder / "model.safetensors")
    (folder / "prefsweep.json").write_text(json.dumps({"run_id": run.run_id, "model": run.run_id}))
    write_once(run.revision_file, Revision(str(folder), "folder", "tiny-s", "ipo-0.1", "0a", "0a", model=run.run_id))
    return folder


def test_published_models_stay_unless_asked(
    store: Store, scheduler: FakeScheduler, capsys: pytest.CaptureFixture[str]
) -> None:
    """A published file that is the run's takes no space of its own, and is not said to be freed with the run."""
    (run,) = launched(store, scheduler, "beta=0.1", "sweep=one")
    folder = published(store, run)
    assert space([run.path]).freed < space([run.path]).taken
    assert space([run.path, folder]).freed == space([run.path, folder]).taken
    assert main(["rm", "one", "--dry-run", "--published"]) == 0
    assert "published revision hub/tiny-s/ipo-0.1" in capsys.readouterr().out
    assert main(["rm", "one", "--yes"]) == 0
    assert "--published deletes them too" in capsys.readouterr().out
    assert (folder / "model.safetensors").exists()


def test_links_are_not_followed_and_nothing_outside_goes(
    store: Store, scheduler: FakeScheduler, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run's folder that is a link, or a folder above it, is left to the user; links within go as links."""
    (run,) = launched(store, scheduler, "beta=0.1", "sweep=one")
    outside = tmp_path / "precious"
    outside.mkdir()
    (outside / "data").write_text("x")
    (run.path / "data").symlink_to(outside)
    assert main(["rm", "one", "--yes"]) == 0
    assert (outside / "data").exists()
    (run,) = launched(store, scheduler, "beta=0.3", "sweep=one")
    run.path.rename(tmp_path / "elsewhere")
    run.path.symlink_to(tmp_path / "elsewhere")
    assert main(["rm", "one", "--yes"]) == 1
    assert "is a link" in capsys.readouterr().err
    assert (tmp_path / "elsewhere" / "config.yaml").exists()
    for path in (outside, store.root / ".." / "precious", store.root):
        with pytest.raises(StoreError, match="remove it by hand"):
            remove(store.root, path)


def test_a_sweep_that_cannot_be_read_holds_everything(
    store: Store, scheduler: FakeScheduler, capsys: pytest.CaptureFixture[str]
) -> None:
    """What it holds is not known, so neither another sweep's runs nor what seems to be nobody's is deleted."""
    launched(store, scheduler, "beta=0.1", "sweep=one")
    launched(store, scheduler, "beta=0.1", "sweep=two")
    (store.sweep("two").path / "launches" / "001.json").write_text("{")
    for words in (["rm", "one", "--yes"], ["gc", "--yes"]):
        assert main(words) == 1
        assert "nothing is deleted" in capsys.readouterr().err


def test_gc_takes_what_nothing_refers_to(
    store: Store, scheduler: FakeScheduler, capsys: pytest.CaptureFixture[str]
) -> None:
    """Runs of no sweep, entries that no run names, old parts, code that no job runs; all else stays."""
    (kept,) = launched(store, scheduler, "beta=0.1", "sweep=one")
    (alone,) = launched(store, scheduler, "beta=0.2", "sweep=two")
    remove(store.root, store.sweep("two").path)
    needed, unneeded = store.cache("models", "needed"), store.cache("reference", "unneeded")
    old, young = store.root / "cache" / "models" / ".a.0123456789ab", store.root / "hub" / ".b.removed.0123456789ab"
    for folder in (needed, unneeded, old, young):
        folder.mkdir(parents=True)
    for entry in (needed, unneeded):
        (entry / LIST).write_text("{}")
    os.utime(old, (time.time() - 2 * 86400,) * 2)
    assert main(["gc", "--dry-run"]) == 0
    assert "are all kept" in capsys.readouterr().err  # the run that stays does not say what it needs
    write_once(kept.cache_file, CacheUse(["models/needed"]))
    assert main(["gc", "--yes"]) == 0
    told = capsys.readouterr().out
    assert f"runs that no sweep holds: 1 ({alone.run_id})" in told
    assert [path.exists() for path in (kept.path, needed, young)] == [True, True, True]
    assert [path.exists() for path in (alone.path, unneeded, old)] == [False, False, False]
    assert main(["gc", "--yes"]) == 0
    assert "nothing to delete" in capsys.readouterr().out


def test_gc_leaves_alone_what_others_call_so(
    store: Store, scheduler: FakeScheduler, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Folders of other programs in `runs/` and `cache/` stay, in a folder that is ours and in one that is not."""
    launched(store, scheduler, "beta=0.1", "sweep=one")
    foreign = [store.root / "runs/exp1/weights", store.root / "cache/models/theirs", store.root / "cache/reference/a"]
    elsewhere = tmp_path / "project"
    for folder in (*foreign, elsewhere / "runs/exp1", elsewhere / "cache/models/theirs"):
        folder.mkdir(parents=True)
        (folder / "best.pt").write_bytes(b"weights")
    assert main(["gc", "--yes"]) == 0
    assert "and no runs of ours, so left alone: exp1" in capsys.readouterr().err
    assert main(["gc", "--yes", "--output-dir", str(elsewhere)]) == 2
    assert "nobody has launched into this folder" in capsys.readouterr().err
    assert all((folder / "best.pt").exists() for folder in (*foreign, elsewhere / "runs/exp1"))


@pytest.mark.parametrize(
    "words", [["rm", ""], ["rm", "one", ""], ["cancel", ""], ["status", ""], ["cancel", "one", ""]]
)
def test_an_empty_name_names_nothing(
    store: Store, scheduler: FakeScheduler, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """`rm "$SWEEP"` with a variable that nobody has set must not take the latest sweep, nor all runs of one."""
    (run,) = launched(store, scheduler, "beta=0.1", "sweep=one", finished=words[0] != "cancel")
    for more in ([], ["--output-dir", ""]):
        assert main([*words, *(["--yes"] if words[0] == "rm" else []), *more]) == 2
        assert "empty" in capsys.readouterr().err
    assert main(["gc", "--yes", "--output-dir", ""]) == 2
    assert run.path.exists()


def test_a_report_is_on_what_there_is_by_now(
    store: Store, scheduler: FakeScheduler, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody has typed `collect` since the runs ended; results that lie elsewhere are read as they are."""
    first, second = launched(store, scheduler, "beta=0.1,0.2", "sweep=one", finished=False)
    finish(first)
    assert main(["collect", "one"]) == 0
    finish(second)
    capsys.readouterr()
    for named in ("one", "outputs/sweeps/one"):
        assert main(["report", named, "--json"]) == 0
    rows = [json.loads(line) for line in store.sweep("one").results_file.read_text().splitlines()]
    assert {row["run_id"]: row["status"] for row in rows if row["kind"] == "run"} == {
        run.run_id: "TRAINED" for run in (first, second)
    }
    elsewhere = store.root.parent / "copy"
    elsewhere.mkdir()
    (elsewhere / "results.jsonl").write_text(store.sweep("one").results_file.read_text())
    assert main(["report", "copy", "--json"]) == 0


def test_list_and_du(store: Store, scheduler: FakeScheduler, capsys: pytest.CaptureFixture[str]) -> None:
    """Each sweep with its states, and what takes the disk, also for programs; a sweep by its folder, too."""
    first, _ = launched(store, scheduler, "beta=0.1,0.2", "sweep=one")
    assert main(["list"]) == 0
    assert "2 TRAINED" in capsys.readouterr().out
    assert main(["list", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["sweep"], row["runs"], row["states"]) == ("one", 2, {"TRAINED": 2})
    assert row["disk"] > 2 * 32000  # of weights
    assert main(["du", "outputs/sweeps/one", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert f"run {first.run_id}" in {part["name"] for part in told["parts"]}
    assert told["disk"] == row["disk"]
    assert main(["du", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["disk"] >= row["disk"]


def test_the_folder_of_everything(
    store: Store, scheduler: FakeScheduler, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:  # fmt: skip
    """PREFSWEEP_OUTPUT_DIR says it where the command does not; a sweep's folder says it too."""
    launched(store, scheduler, "beta=0.1", "sweep=one")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    assert main(["du", str(store.sweep("one").path)]) == 0
    assert main(["du", str(store.sweep("one").path), "--output-dir", "."]) == 2
    assert main(["du", "one"]) == 2
    assert "holds no sweep yet" in capsys.readouterr().err
    monkeypatch.setenv("PREFSWEEP_OUTPUT_DIR", str(store.root))
    assert main(["du", "one"]) == 0
    assert main(["du", "one", "--output-dir", "."]) == 2
    assert main(["du", "onne"]) == 2
    assert "did you mean 'one'" in capsys.readouterr().err
