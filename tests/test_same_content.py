"""What a run was trained on is part of which run it is: changed files are refused, moved ones are found."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from conftest import Launch, sweep_of
from fakes import FakeScheduler
from finished_runs import revision_at
from safetensors.numpy import load_file
from worker_fixtures import Configure, write_pairs

from launcher.cluster.job_state import JobState, Phase
from launcher.config import OBJECTIVE
from launcher.dataset.inputs import inputs_of
from launcher.errors import UsageError
from launcher.planning.launches import recorded_sweep
from launcher.planning.planned_runs import run_id
from launcher.store.facts import Attempt
from launcher.store.files import plain, read_fact, write_derived, write_once
from launcher.store.hashes import Hashes
from launcher.store.origins import Sources
from launcher.store.output_folder import Store
from launcher.store.run_folder import RunDir
from launcher.submission.decide import Action, decide
from launcher.submission.other_names import under_other_names
from launcher.submission.plan import Plan, plan_batches
from launcher.submission.same_content import compare, identified, with_inputs
from launcher.submission.submit import act
from launcher.sweep import Run
from launcher.worker.attempt import make_attempt
from launcher.worker.hub import record_sources
from launcher.worker.interruption import StopRequest
from launcher.worker.outcome import Kind

SHORT = ["trainer=full", "trainer.max_length=64", "loss_type=ipo", "hub=off", "tracking=off"]
MORE = '{"prompt": "Story:", "chosen": " warm", "rejected": " cold"}\n'


class Project:
    """A folder with data and a model, from which sweeps are launched; its jobs are taken and never run."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.scheduler, self._enter = folder, FakeScheduler(), monkeypatch.chdir
        self.said: list[str] = []

    @property
    def store(self) -> Store:
        return Store(self.folder / "outputs")

    def plan(self, *argv: str, retrain: bool = False, dry_run: bool = False, given: tuple[str, ...] = ()) -> Plan:
        """What a launch of these runs does; it is done unless it is a dry run."""
        self._enter(self.folder)
        sweep = sweep_of(*SHORT, *(given or ("model=tiny", "dataset=./pairs")), *argv)
        known = Hashes(self.store, self.said.append)
        sweep = identified(sweep, known, dry_run=dry_run)
        compared = compare(sweep, self.store, self.scheduler, retrain=retrain)
        self.said += compared.notes
        decisions = decide(sweep, self.store, self.scheduler, retrain=compared.retrain)
        planned = plan_batches(sweep, decisions, self.store, self.scheduler)
        if not dry_run:
            known.keep()
            act(planned, self.store, self.scheduler, list(argv))
        return planned

    def train(self, planned: Plan) -> list[RunDir]:
        """End the runs that were submitted, as their jobs would."""
        runs = [d.run for d in planned.decisions if d.action is Action.SUBMIT]
        for run in runs:
            finish(self.store.run(run.run_id), run)
        self.scheduler.phases = dict.fromkeys(self.scheduler.phases, JobState(Phase.COMPLETED))
        return [self.store.run(run.run_id) for run in runs]


def finish(folder: RunDir, run: Run) -> None:
    write_once(folder.sources_file, Sources(inputs=dict(run.inputs) or None))
    write_once(folder.result_file, {"steps": 4, "max_steps": 4, "seconds": 8.0})
    write_once(folder.evaluation_file, {"loss": 1.0})


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    write_pairs(tmp_path / "here" / "pairs")
    return Project(tmp_path / "here", monkeypatch)


def ids(planned: Plan) -> list[str]:
    return [decision.run.run_id for decision in planned.decisions]


def actions(planned: Plan) -> list[Action]:
    return [decision.action for decision in planned.decisions]


def append(path: Path) -> None:
    path.write_text(path.read_text() + MORE)


def write_model(folder: Path, weights: str = "one") -> Path:
    """Files with the names of a model's; nobody loads them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_text("{}")
    (folder / "model.safetensors").write_text(weights)
    return folder


# ------------------------------------------------------------------------------------------------ what is compared


@pytest.mark.parametrize("name", ["train.jsonl", "test.jsonl"])
def test_changed_data_are_refused_until_they_are_back(project: Project, name: str) -> None:
    """The same command, and one that adds a beta, name file and runs; `resume` does too; nothing is submitted."""
    file = project.folder / "pairs" / name
    first = project.plan("beta=0.1,0.2")
    runs = project.train(first)
    kept = file.read_bytes()
    append(file)
    for argv in ("beta=0.1,0.2", "beta=0.1,0.2,0.3", "beta=0.3"):
        for dry_run in (True, False):
            with pytest.raises(UsageError) as refusal:
                project.plan(argv, dry_run=dry_run)
            assert str(refusal.value).startswith(f"{file}: the content differs from what {', '.join(ids(first))} ")
            assert all(each in str(refusal.value) for each in ("sweep=NAME", "retrain=true", "nothing was submitted"))
    again = recorded_sweep(project.store.sweep("tiny-pairs"), project.store, {"ipo"})
    again = with_inputs(again, Hashes(project.store))
    with pytest.raises(UsageError, match="the content differs"):
        compare(again, project.store, project.scheduler)
    assert len(project.scheduler.submitted) == 2
    assert all(len(run.attempts()) == 1 for run in runs)
    file.write_bytes(kept)
    assert actions(project.plan("beta=0.1,0.2,0.3")) == [Action.SKIP, Action.SKIP, Action.SUBMIT]


@pytest.mark.parametrize(
    "given",
    [
        pytest.param(("model=tiny", "dataset=./one.jsonl"), id="one file"),
        pytest.param(("model=./sft", "dataset=./pairs"), id="weights"),
        pytest.param(("model=./lora", "dataset=./pairs"), id="an adapter's base"),
        pytest.param(("model=./packed", "model.gguf_file=one.gguf", "dataset=./pairs"), id="gguf"),
        pytest.param(("model=tiny", "dataset=mixture", "+dataset.mixture=[{path:HERE/pairs},{path:HERE/one.jsonl}]",
                      "dataset.name=mixed"), id="a mixture's part"),
        pytest.param(("model=tiny", "dataset=weak_rejects", "dataset.name=weak", "dataset.weak_rejects.path=HERE/said",
                      "dataset.weak_rejects.model.name=w", "dataset.weak_rejects.model.path=org/weak"),
                     id="instructions"),
        pytest.param(("model=tiny", "dataset=weak_rejects", "dataset.name=weak", "dataset.weak_rejects.path=org/said",
                      "dataset.weak_rejects.model.name=w", "dataset.weak_rejects.model.path=HERE/sft",
                      "dataset.weak_rejects.model.gguf_file=null"),
                     id="the weaker model"),
    ],
)  # fmt: skip
def test_every_local_file_that_decides_what_is_trained_counts(project: Project, given: tuple[str, ...]) -> None:
    """Each kind of data file and of model; one that decides nothing does not."""
    here = project.folder
    shutil.copy(here / "pairs/train.jsonl", here / "one.jsonl")
    write_pairs(here / "said")
    write_model(here / "sft")
    (here / "packed").mkdir()
    (here / "packed/one.gguf").write_text("one")
    (here / "lora").mkdir()
    base = {"base_model_name_or_path": str(here / "sft"), "peft_type": "LORA"}
    (here / "lora/adapter_config.json").write_text(json.dumps(base))
    (here / "lora/adapter_model.safetensors").write_text("one")
    given = tuple(each.replace("HERE", str(here)) for each in given)
    changed = {"dataset=./one": "one.jsonl", "model=./packed": "packed/one.gguf", "dataset=mixture": "one.jsonl",
               "dataset.weak_rejects.path=/": "said/train.jsonl"}  # fmt: skip
    file = next(
        (here / changed[start] for start in changed if any(each.startswith(start) for each in given)),
        here / "sft/model.safetensors",
    )
    project.train(project.plan("beta=0.1", given=given))
    (here / "sft/README.md").write_text("more")
    assert actions(project.plan("beta=0.1", given=given)) == [Action.SKIP]
    file.write_text(file.read_text()[:-1] + " ")
    with pytest.raises(UsageError) as refusal:
        project.plan("beta=0.1", given=given)
    assert str(refusal.value).startswith(f"{file}: the content differs")


def test_runs_in_flight_and_partly_trained_ones_count(project: Project) -> None:
    """Not those that have failed before they had anything: they are trained on what is there now."""
    file = project.folder / "pairs/train.jsonl"
    first = project.plan("beta=0.1")
    (run,) = ids(first)
    kept = file.read_bytes()
    append(file)
    with pytest.raises(UsageError, match=run):
        project.plan("beta=0.1")
    with pytest.raises(UsageError, match="cancel these runs first"):
        project.plan("beta=0.1", retrain=True)
    project.scheduler.phases = dict.fromkeys(project.scheduler.phases, JobState(Phase.FAILED))
    assert actions(project.plan("beta=0.1")) == [Action.SUBMIT]
    folder = project.store.run(run)
    recorded = folder.attempts()[-1].record.inputs
    assert recorded is not None
    assert recorded["dataset.path"].files["train.jsonl"] == hashlib.sha256(file.read_bytes()).hexdigest()
    project.scheduler.phases = dict.fromkeys(project.scheduler.phases, JobState(Phase.FAILED))
    write_once(folder.sources_file, Sources(inputs=recorded))
    (folder.checkpoints / "checkpoint-2").mkdir(parents=True)
    (folder.checkpoints / "checkpoint-2/complete.json").write_text("{}")
    assert actions(project.plan("beta=0.1", dry_run=True)) == [Action.RESUME]
    file.write_bytes(kept)
    with pytest.raises(UsageError, match=run):
        project.plan("beta=0.1", dry_run=True)


def test_runs_of_which_nothing_is_recorded_are_counted_and_left_alone(project: Project) -> None:
    """An older version trained them; `retrain=true` trains them anew, for whoever knows that the files have changed."""
    runs = project.train(project.plan("beta=0.1,0.2"))
    for run in runs:
        write_derived(run.sources_file, json.dumps({"model": {}, "dataset": {"commits": {}}}))
    append(project.folder / "pairs/train.jsonl")
    assert actions(project.plan("beta=0.1,0.2,0.3")) == [Action.SKIP, Action.SKIP, Action.SUBMIT]
    assert [each for each in project.said if each.startswith("2 runs of sweep tiny-pairs: trained before files")]
    assert actions(project.plan("beta=0.1", retrain=True, dry_run=True)) == [Action.SUBMIT]


def test_a_plan_that_remembers_reads_no_file(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a dry run without anything to compare with reads none either, nor does it write."""
    monkeypatch.setattr("launcher.store.hashes.SETTLED_SECONDS", 0.0)
    read: list[Path] = []
    known = hashlib.file_digest

    def counted(file: Any, name: str) -> Any:
        read.append(Path(file.name))
        return known(file, name)

    monkeypatch.setattr(hashlib, "file_digest", counted)
    project.plan("beta=0.1", dry_run=True)
    assert not read
    assert not project.store.root.exists()
    project.plan("beta=0.1,0.2")
    assert len(read) == 2
    project.plan("beta=0.1,0.2,0.3")
    assert len(read) == 2


# ------------------------------------------------------------------------------------------------ training anew


def test_a_run_that_is_trained_anew_keeps_nothing_of_the_old_one(project: Project) -> None:
    """The old result is set aside whole, under a number, but for its checkpoints; the run keeps its id."""
    first = project.plan("beta=0.1,0.2")
    runs = project.train(first)
    left = ["metrics.jsonl", "memory.jsonl", "revision.json", "model/config.json", "evaluations/command.json",
            "milestones/000002/evaluation.json", "evaluation.001.json"]  # fmt: skip
    for name in [*left, "checkpoints/checkpoint-4/complete.json"]:
        (runs[0].path / name).parent.mkdir(parents=True, exist_ok=True)
        (runs[0].path / name).write_text("{}\n")
    write_derived(runs[0].revision_file, json.dumps(plain(revision_at("somewhere"))))
    append(project.folder / "pairs/train.jsonl")
    with pytest.raises(UsageError, match=f"{runs[1].run_id} .* launch these runs too"):
        project.plan("beta=0.1", retrain=True)
    assert runs[0].result_file.exists()
    planned = project.plan("beta=0.1,0.2", retrain=True)
    assert ids(planned) == ids(first)
    assert actions(planned) == [Action.SUBMIT] * 2
    assert planned.decisions[0].why.startswith(f"trained anew: other files: {project.folder}/pairs/train.jsonl")
    kept = runs[0].before / "001"
    assert all((kept / name).exists() for name in [*left, "result.json", "evaluation.json", "sources.json"])
    asked = {"attempt-001.json", "attempt-002.json"}
    assert {path.name for path in runs[0].path.iterdir()} == {"config.yaml", *asked, "before"}
    project.train(planned)
    assert actions(project.plan("beta=0.1,0.2", retrain=True)) == [Action.SKIP] * 2  # for one launch, and these files


def test_another_sweep_trains_on_the_changed_files(project: Project) -> None:
    """Under ids of their own, so that no run has two contents; each command finds its own again."""
    file = project.folder / "pairs/train.jsonl"
    first = project.plan("beta=0.1", "sweep=one")
    project.train(first)
    assert ids(project.plan("beta=0.1", "sweep=two")) == ids(first)  # one run, while nothing differs
    shutil.rmtree(project.store.sweep("two").path)
    kept = file.read_bytes()
    append(file)
    second = project.plan("beta=0.1", "sweep=two")
    assert actions(second) == [Action.SUBMIT]
    assert ids(second) != ids(first)
    project.train(second)
    assert ids(project.plan("beta=0.1", "sweep=two")) == ids(second)
    file.write_bytes(kept)
    again = project.plan("beta=0.1", "sweep=one")
    assert (ids(again), actions(again)) == (ids(first), [Action.SKIP])


# ------------------------------------------------------------------------------------------------ ids


def test_a_copy_of_a_project_finds_its_runs(project: Project, tmp_path: Path) -> None:
    """With its outputs they are finished; what is new is trained on the copy's files, and a changed one is refused."""
    first = project.plan("beta=0.1,0.2")
    project.train(first)
    shutil.copytree(project.folder, tmp_path / "there")
    project.folder = tmp_path / "there"
    shutil.rmtree(tmp_path / "here")
    again = project.plan("beta=0.1,0.2,0.3")
    assert ids(again)[:2] == ids(first)
    assert actions(again) == [Action.SKIP, Action.SKIP, Action.SUBMIT]
    for run in ids(again):
        assert project.store.run(run).read_config()["dataset"]["path"] == str(tmp_path / "there/pairs")
    append(project.folder / "pairs/train.jsonl")
    with pytest.raises(UsageError, match=ids(first)[0]):
        project.plan("beta=0.4")


def test_a_run_is_found_from_another_folder(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """The path is spelled otherwise from there; the place is the same."""
    first = project.plan("beta=0.1,0.2")
    project.train(first)
    (project.folder / "below").mkdir()
    monkeypatch.setattr(project, "_enter", lambda folder: monkeypatch.chdir(folder / "below"))
    given = ("model=tiny", "dataset=../pairs")
    assert ids(project.plan("beta=0.1,0.2", given=given)) == ids(first)
    append(project.folder / "pairs/train.jsonl")
    for argv in ("beta=0.1", "beta=0.3"):
        with pytest.raises(UsageError, match="the content differs"):
            project.plan(argv, given=given)


@pytest.mark.parametrize("recorded", [True, False])
def test_runs_of_older_versions_keep_their_ids(project: Project, recorded: bool) -> None:
    """Those hashed absolute paths; with a record of their files, or without one, they are found at their place."""
    project._enter(project.folder)
    sweep = sweep_of(*SHORT, "model=tiny", "dataset=./pairs", "beta=0.1,0.2")
    old = [run_id(run.objective) for run in sweep.runs]
    assert old != [run.run_id for run in sweep.runs]
    inputs = with_inputs(sweep, Hashes(project.store)).runs[0].inputs
    for name, run in zip(old, sweep.runs, strict=True):
        folder = project.store.run(name)
        folder.write_config(run.objective)
        write_once(folder.result_file, {"steps": 4, "max_steps": 4, "seconds": 8.0})
        write_once(folder.evaluation_file, {"loss": 1.0})
        write_once(folder.sources_file, plain(Sources(inputs=dict(inputs) if recorded else None)))
    planned = project.plan("beta=0.1,0.2")
    assert (ids(planned), actions(planned)) == (old, [Action.SKIP] * 2)


def test_two_models_of_one_name_are_two_runs(project: Project) -> None:
    """In one sweep, and one after the other."""
    for name in ("A", "B"):
        write_model(project.folder / name / "final", name)
    both = project.plan("beta=0.1", given=("model=./A/final,./B/final", "dataset=./pairs"))
    assert len(set(ids(both))) == 2
    one, other = (project.plan("beta=0.1", given=(f"model=./{n}/final", "dataset=./pairs", "sweep=s")) for n in "AB")
    project.train(one)
    assert ids(one) != ids(other)
    assert actions(other) == [Action.SUBMIT]


def test_a_model_under_another_name_is_told(project: Project) -> None:
    """Two models of one name in a sweep get longer ones: that one of them was trained before is said, once."""
    for name in ("A", "B"):
        write_model(project.folder / name / "final", name)
    data, both = "dataset=./pairs", "model=./A/final,./B/final"
    (first,) = project.train(project.plan("beta=0.1", given=("model=./A/final", data, "sweep=one")))
    known = Hashes(project.store, project.said.append)
    new = identified(sweep_of(*SHORT, both, data, "sweep=two", "beta=0.1"), known, dry_run=True)
    (line,) = under_other_names(new, known)
    assert line.startswith(f"{new.runs[0].run_id}: the same training as {first.run_id}, of the same model under")
    assert under_other_names(sweep_of(*SHORT, both, data, "sweep=two", "beta=0.2"), known) == []
    (project.folder / "A/final/model.safetensors").write_text("changed")
    known = Hashes(project.store, project.said.append)
    assert under_other_names(sweep_of(*SHORT, both, data, "sweep=two", "beta=0.1"), known) == []


def test_projects_that_share_an_output_folder_share_no_run_of_other_content(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both say ./pairs; in one sweep that is refused, in another it is another run."""
    first = project.plan("beta=0.1", "sweep=one")
    project.train(first)
    write_pairs(tmp_path / "there/pairs", train=20)
    monkeypatch.setattr(project, "_enter", lambda _: monkeypatch.chdir(tmp_path / "there"))
    with pytest.raises(UsageError, match="the content differs"):
        project.plan("beta=0.1", "sweep=one")
    assert ids(project.plan("beta=0.1", "sweep=two")) != ids(first)


# ------------------------------------------------------------------------------------------------ in the job


def test_a_job_trains_on_what_was_planned_or_not_at_all(configure: Configure, store: Store, tmp_path: Path) -> None:
    """A file that changes while the run waits in the queue fails it with one line, before anything is trained."""
    config, file = configure(hub=replace(configure().hub, store="off")), tmp_path / "pairs/train.jsonl"
    settings = {key: value for key, value in asdict(config).items() if key not in OBJECTIVE}
    run, planned = store.run("r"), dict(inputs_of(config, Hashes(store)))
    run.write_config({key: asdict(config)[key] for key in OBJECTIVE})
    kept = file.read_bytes()
    append(file)
    outcome = make_attempt(run.new_attempt(Attempt(settings, inputs=planned)), store, StopRequest())
    assert outcome.kind is Kind.FAILED
    assert outcome.reason == f"r: {file}: changed since the run was launched; launch it again"
    assert not run.result_file.exists()
    assert not run.sources_file.exists()
    file.write_bytes(kept)
    assert make_attempt(run.new_attempt(Attempt(settings, inputs=planned)), store, StopRequest()).kind is Kind.DONE
    sources = read_fact(run.sources_file, Sources)
    assert sources is not None
    assert sources.inputs == planned
    digest = hashlib.sha256(kept).hexdigest()
    assert planned["dataset.path"].files["train.jsonl"] == digest
    append(file)
    with pytest.raises(UsageError, match=f"{file} is not the one that it was trained on so far"):
        record_sources(config, run, store)


# ------------------------------------------------------------------------------------------------ as it is typed


@pytest.fixture
def typed(launch: Launch) -> Callable[..., Any]:
    """Launch a sweep on ./train.jsonl with the real command line."""
    fixed = ["model=tiny", "dataset=./train.jsonl", "trainer.max_steps=2", "evaluation=none", *SHORT]
    return lambda *argv: launch("-m", *fixed, *argv)


@pytest.mark.long
def test_a_sweep_whose_data_are_edited(typed: Callable[..., Any], launch: Launch, tmp_path: Path) -> None:
    """Refused, put back, trained anew, and trained under another name: with real jobs."""
    file = tmp_path / "train.jsonl"
    shutil.copy(write_pairs(tmp_path / "pairs") / "train.jsonl", file)
    kept = file.read_bytes()
    done = typed("beta=0.1,0.2")
    assert done.returncode == 0, done.stdout + done.stderr
    runs = sorted((tmp_path / "outputs/runs").iterdir())
    before = [load_file(run / "model/model.safetensors") for run in runs]
    append(file)
    for argv in (["beta=0.1,0.2"], ["beta=0.1,0.2,0.3"], ["beta=0.1,0.2", "dry_run=true", "--json"]):
        done = typed(*argv)
        assert done.returncode == 2
        assert not done.stdout
        assert done.stderr.count("\n") == 1
        assert done.stderr.startswith(
            f"prefsweep: {file}: the content differs from what {runs[0].name}, {runs[1].name}"
        )
    assert launch("resume", "tiny-train.jsonl").returncode == 2
    assert sorted((tmp_path / "outputs/runs").iterdir()) == runs
    assert [len(list(run.glob("attempt-*.json"))) for run in runs] == [1, 1]
    file.write_bytes(kept)
    assert "2 runs, 2 skip" in typed("beta=0.1,0.2").stdout
    append(file)
    done = typed("beta=0.1,0.2", "retrain=true")
    assert done.returncode == 0, done.stdout + done.stderr
    results = tmp_path / "outputs/sweeps/tiny-train.jsonl/results.jsonl"
    rows = [json.loads(line) for line in results.read_text().splitlines()]
    assert sorted(row["run_id"] for row in rows) == [run.name for run in runs]
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert all(row["sources"]["inputs"]["dataset.path"]["train.jsonl"] == digest for row in rows)
    assert all(read_fact(run / "before/001/result.json") for run in runs)
    after = [load_file(run / "model/model.safetensors") for run in runs]
    assert all(
        (new[name] != old[name]).any() for new, old in zip(after, before, strict=True) for name in ["lm_head.weight"]
    )
    assert "2 runs, 2 skip" in typed("beta=0.1,0.2").stdout
    file.write_bytes(kept)
    done = typed("beta=0.1", "sweep=other")
    assert done.returncode == 0, done.stdout + done.stderr
    (other,) = set((tmp_path / "outputs/runs").iterdir()) - set(runs)
    again = load_file(other / "model/model.safetensors")
    assert all((again[name] == before[0][name]).all() for name in again)
