"""Facts that the version before this one has written: every one is read, and means what it meant."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from launcher.cli import main
from launcher.cluster.local import LocalScheduler
from launcher.machine.installed import trl_losses
from launcher.planning.launches import recorded_sweep
from launcher.store import facts, node_facts, origins, results
from launcher.store.attempts import Attempts
from launcher.store.files import plain, read_fact, read_lines, typed
from launcher.store.output_folder import Store
from launcher.submission.decide import decide
from launcher.submission.reference_job import preparation_of
from launcher.submission.timings import read_costs

HERE = Path(__file__).parent / "version_before"
SWEEPS = ("grid", "limit", "mixed", "refused", "bench")
SAID = json.loads((HERE / "said.json").read_text())
KINDS: dict[str, type[Any]] = {
    "runs/*/result.json": results.Result,
    "runs/*/evaluation.json": results.Evaluation,
    "runs/*/milestones/*/evaluation.json": results.Evaluation,
    "cache/base/*/evaluation.json": results.Evaluation,
    "runs/*/evaluations/command.json": results.ProgramResult,
    "runs/*/evaluations/mt_bench.json": results.MTBenchResult,
    "runs/*/evaluations/mt_bench/answered.json": results.Answered,
    "runs/*/revision.json": facts.Revision,
    "runs/*/sources.json": origins.Sources,
    "runs/*/attempts/*/attempt.json": facts.Attempt,
    "runs/*/attempts/*/job.json": facts.Job,
    "runs/*/attempts/*/started.json": facts.Started,
    "runs/*/attempts/*/cancel.json": facts.Cancel,
    "runs/*/attempts/*/failure.json": facts.Failure,
    "runs/*/attempts/*/unpublished.json": facts.Unpublished,
    "runs/*/checkpoints/*/complete.json": node_facts.CheckpointMarker,
    "sweeps/*/launches/001.json": facts.Launch,
    "sweeps/*/jobs/*/batch.json": facts.BatchRecord,
    "sweeps/*/jobs/*/*/job.json": facts.JobList,
    "cache/prepare/*/001/batch.json": facts.BatchRecord,
    "cache/prepare/*/001/job.json": facts.Job,
    "cache/prepare/*/001/0/job.json": facts.TableWork,
    "cache/prepare/*/done.json": facts.Prepared,
    "cache/reference/*/manifest.json": node_facts.TableManifest,
    "cache/hashes/*.json": origins.FileHash,
    "pins/*/*.json": origins.Pin,
}
FOR_READERS = {"output", "printed"}  # of a benchmark's program: nothing of ours reads them


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder as it would lie here."""
    shutil.copytree(HERE / "output_folder", tmp_path / "outputs")
    for path in (tmp_path / "outputs").rglob("*"):
        if path.is_file():
            path.write_text(path.read_text().replace("/OUTPUTS", str(tmp_path / "outputs")))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "outputs"


def then(root: Path, said: Any) -> Any:
    """What the version before said, of the folder where it lies now."""
    return json.loads(json.dumps(said).replace("/OUTPUTS", str(root)))


@pytest.mark.parametrize("sweep", SWEEPS)
def test_every_verb_says_what_it_said(root: Path, sweep: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The states, the rows of results.jsonl, and, where no Hub is asked, what is to be published."""
    before = (root / "sweeps" / sweep / "results.jsonl").read_text().splitlines()
    assert main.main(["status", sweep, "--json"]) == 0
    shown, said = json.loads(capsys.readouterr().out)["runs"], then(root, SAID["status"][sweep])
    assert [{key: row[key] for key in old} for row, old in zip(shown, said, strict=True)] == said  # keys may be new
    assert main.main(["collect", sweep]) == 0
    rows = (root / "sweeps" / sweep / "results.jsonl").read_text().splitlines()
    now, then_said = list(map(json.loads, rows)), list(map(json.loads, before))
    assert [of_these_keys(row, old) for row, old in zip(now, then_said, strict=True)] == then_said
    capsys.readouterr()
    if sweep in SAID["publish"]:
        assert main.main(["publish", sweep, "--dry-run", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["runs"] == then(root, SAID["publish"][sweep])


NOT_PUBLISHED = ", not published: use `publish`"


def test_a_launch_decides_as_it_did(root: Path) -> None:
    """What is done is left alone, what failed or was cancelled goes on, and earlier runs tell how long that takes."""
    store = Store(root)
    for name in SWEEPS:
        decisions = decide(recorded_sweep(store.sweep(name), store, trl_losses()), store, LocalScheduler())
        why = [d.why.removesuffix(NOT_PUBLISHED) for d in decisions]  # which that version did not say
        now = [[d.run.run_id, d.action, said, d.seconds] for d, said in zip(decisions, why, strict=True)]
        assert now == SAID["decisions"][name]
    found = {key: {"seconds_per_step": cost.seconds_per_step, "steps": cost.steps} for key, cost in
             read_costs(store).trainings.items()}  # fmt: skip
    assert found == SAID["costs"]


def test_a_reference_pass_has_the_name_that_it_had(root: Path) -> None:
    """A table that is made, or is on its way, is not made again."""
    store = Store(root)
    runs = recorded_sweep(store.sweep("grid"), store, trl_losses()).runs
    assert {preparation_of(run, store).folder for run in runs} == set((root / "cache" / "prepare").iterdir())


def says(now: Any, before: Any) -> bool:
    """Whether a fact has all keys of another, with the same values; None may have been left out."""
    if not isinstance(before, dict):
        return bool(now == before)
    return all(says((now or {}).get(key), value) for key, value in before.items() if key not in FOR_READERS)


def of_these_keys(now: Any, before: Any) -> Any:
    """What a row says, without the keys that it did not have before, at any depth."""
    if not isinstance(now, dict) or not isinstance(before, dict):
        return now
    return {key: of_these_keys(value, before[key]) for key, value in now.items() if key in before}


@pytest.mark.parametrize("pattern", KINDS)
def test_a_fact_of_each_kind_says_all_that_it_said(root: Path, pattern: str) -> None:
    """Each of its keys has its value in the typed fact, under the same name."""
    paths = list(root.glob(pattern))
    assert paths
    for path in paths:
        assert says(plain(read_fact(path, KINDS[pattern])), read_fact(path)), path


def test_the_lines_of_logs_are_read(root: Path) -> None:
    """Those of memory.jsonl and requeues.jsonl too."""
    for pattern, kind in (
        ("runs/*/memory.jsonl", node_facts.Halving),
        ("runs/*/attempts/*/requeues.jsonl", node_facts.Requeue),
    ):
        (path,) = root.glob(pattern)
        (line,) = read_lines(path)
        assert plain(typed(line, kind, path)) == line


def test_what_attempts_were_for_is_told_by_their_names(root: Path) -> None:
    """No fact said it then: one trains, one evaluates what that has trained, and has the run in its hands."""
    (run,) = (run for run in Store(root).runs() if run.run_id.startswith("tiny-ipo-beta0.1-8e48dbb4"))
    attempts = Attempts.of(run)
    assert [attempt.record.purpose for attempt in attempts.all] == [None, None]
    assert [attempt.path.name for attempt in (attempts.training, attempts.evaluating) if attempt] == [
        "001",
        "002.evaluation",
    ]
    assert attempts.acting == attempts.evaluating
    assert all(attempts.is_over(attempt) for attempt in attempts.all)
