"""What is published, under which name, and what is recorded of it; hub=folder."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import yaml
from conftest import sweep_of
from fakes import FakeScheduler, submit
from finished_runs import NEVER_PUBLISHED, evaluation, files_holding, finish, keep_milestones, trained_runs
from huggingface_hub import ModelCard

from launcher.cli.main import verb_parser
from launcher.cluster.job_state import Phase
from launcher.config import Hub
from launcher.errors import ConfigError, PublishError, UsageError
from launcher.hub.card import Subject, card, measures
from launcher.hub.faults import passes, told
from launcher.hub.look import HubLook
from launcher.hub.payload import payload_of
from launcher.hub.publish import Outcome, Publication, best_models
from launcher.hub.publish import act as push
from launcher.hub.publish import decide as decide_publication
from launcher.hub.push import lacks, publish
from launcher.hub.revisions import default_name, missing_token, with_revisions
from launcher.machine.accounts import has_token
from launcher.planning.launches import record_of
from launcher.runs.run_state import RunState, read_facts, states_of
from launcher.runs.status import Status
from launcher.store import files
from launcher.store.attempt_config import hub_of
from launcher.store.facts import Attempt, Revision
from launcher.store.files import append_line, read_fact, write_derived, write_once
from launcher.store.measurements import Measured
from launcher.store.origins import DatasetSources, Sources
from launcher.store.output_folder import Store
from launcher.store.results import BENCHMARKS, Result
from launcher.store.run_folder import Point, RunDir
from launcher.store.work_done import due_in_job
from launcher.submission.decide import decide
from launcher.sweep import Sweep
from launcher.views import results
from launcher.views.states import show_status

FOLDER = ("hub=folder", "sweep=scan", "loss_type=ipo")


def published(run: RunDir, store: Store) -> Path:
    """The folder of the run's revision, after publishing it."""
    return Path(publish(Point(run), hub_of(run.attempts()[-1]), store).address)


# ------------------------------------------------------------------------------------------------ the folder store


def test_a_revision_is_a_folder_with_what_loading_needs(store: Store) -> None:
    """Weights are the same bytes on disk, not a second copy; optimizer states, pickles and hidden files stay behind."""
    (run,) = trained_runs(store, *FOLDER)
    folder = published(run, store)
    assert folder == store.root / "hub" / "tiny-scan" / "ipo-0.1"
    assert sorted(path.name for path in folder.rglob("*")) == [
        "README.md", "config.json", "config.yaml", "evaluation.json", "metrics.jsonl",
        "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "prefsweep.json", "result.json",
        "tokenizer.json",
    ]  # fmt: skip
    assert not {path.relative_to(folder).as_posix() for path in folder.rglob("*")} & set(NEVER_PUBLISHED)
    assert (folder / "model-00001-of-00002.safetensors").stat().st_nlink == 2
    assert (folder / "metrics.jsonl").stat().st_nlink == 1  # a log that may be appended to must not be shared
    revision = read_fact(run.revision_file) or {}
    assert (revision["store"], revision["repo"], revision["revision"]) == ("folder", "tiny-scan", "ipo-0.1")


def test_publishing_again_leaves_a_revision_alone_until_it_changed(store: Store) -> None:
    """The same content is not written twice; a new evaluation makes the folder anew, whole."""
    (run,) = trained_runs(store, *FOLDER)
    folder = published(run, store)
    before, recorded = (folder / "README.md").stat().st_mtime_ns, read_fact(run.revision_file)
    assert (published(run, store) / "README.md").stat().st_mtime_ns == before
    assert read_fact(run.revision_file) == recorded
    write_derived(run.evaluation_file, json.dumps(evaluation(0.875)))
    assert (published(run, store) / "README.md").stat().st_mtime_ns != before
    assert json.loads((folder / "evaluation.json").read_text())["golden_reward"] == 0.875
    assert [path.name for path in folder.parent.iterdir() if path.suffix != ".lock"] == ["ipo-0.1"]


def test_a_published_model_is_never_without_its_record(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full when the new record is written leaves the one before; publishing again completes it."""
    (run,) = trained_runs(store, *FOLDER)
    published(run, store)
    before = read_fact(run.revision_file)
    write_derived(run.evaluation_file, json.dumps(evaluation(0.875)))
    opened = files._opened

    def full(aside: str) -> int:
        if ".revision.json." in aside:
            raise OSError(errno.ENOSPC, "No space left on device", aside)
        return opened(aside)

    with monkeypatch.context() as patch:
        patch.setattr("launcher.store.files._opened", full)
        with pytest.raises(OSError, match="No space left"):
            published(run, store)
    assert before is not None
    assert read_fact(run.revision_file) == before
    published(run, store)
    assert (read_fact(run.revision_file) or {})["content"] != before["content"]


def test_a_push_that_fails_leaves_the_revision_that_is_there(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full half-way through the new one: the one before is there, whole, and nothing else is left."""
    (run,) = trained_runs(store, *FOLDER)
    folder = published(run, store)
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    write_derived(run.evaluation_file, json.dumps(evaluation(0.875)))

    def full(_: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(target))

    with monkeypatch.context() as patch:
        patch.setattr("launcher.hub.folder.link", full)
        with pytest.raises(OSError, match="No space left"):
            published(run, store)
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
    assert [path.name for path in folder.parent.iterdir() if path.suffix != ".lock"] == [folder.name]
    assert json.loads((published(run, store) / "evaluation.json").read_text())["golden_reward"] == 0.875


def test_an_earlier_revision_that_may_not_be_removed_keeps_no_new_one(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files are another user's, in folders that are sticky: the new one has its place all the same."""
    (run,) = trained_runs(store, *FOLDER)
    folder = published(run, store)
    write_derived(run.evaluation_file, json.dumps(evaluation(0.875)))

    def refuse(_: Path, *, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            raise PermissionError(1, "Operation not permitted", "metrics.jsonl")

    monkeypatch.setattr(shutil, "rmtree", refuse)
    assert published(run, store) == folder
    assert json.loads((folder / "evaluation.json").read_text())["golden_reward"] == 0.875


def test_another_runs_folder_is_refused(store: Store) -> None:
    """A folder that holds another run, or that somebody made by hand, stays as it is."""
    (owner,) = trained_runs(store, *FOLDER, "hub.repo=shared")
    (other,) = trained_runs(store, "hub=folder", "sweep=two", "loss_type=ipo", "hub.repo=shared", "seed=7")
    folder = published(owner, store)
    before = sorted((path.name, path.stat().st_mtime_ns) for path in folder.iterdir())
    with pytest.raises(PublishError, match=f"the revision of {owner.run_id}"):
        published(other, store)
    assert sorted((path.name, path.stat().st_mtime_ns) for path in folder.iterdir()) == before
    (folder / "prefsweep.json").unlink()
    with pytest.raises(PublishError, match="no revision of ours"):
        published(owner, store)


def _publish_in_a_process(path: Path, root: Path) -> None:
    published(RunDir(path), Store(root))


def test_processes_that_publish_one_run_at_once_make_one_revision(store: Store) -> None:
    """Of several at the same moment one builds the folder and the others find it; all record the same."""
    (run,) = trained_runs(store, *FOLDER)
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=_publish_in_a_process, args=(run.path, store.root)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    folder = store.published("tiny-scan", "ipo-0.1")
    assert (read_fact(run.revision_file) or {})["content"] == (read_fact(folder / "prefsweep.json") or {})["content"]
    assert [path.name for path in folder.parent.iterdir() if path.suffix != ".lock"] == ["ipo-0.1"]


def test_a_disk_that_takes_no_revision_says_why(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the sentence that a launch would say, and with nothing half published."""
    (run,) = trained_runs(store, *FOLDER)
    folder, copied = store.published("tiny-scan", "ipo-0.1"), shutil.copyfile

    def copy(source: str, target: str, **options: bool) -> str:
        if str(target).startswith(str(folder.parent)):
            raise OSError(errno.EDQUOT, "Disk quota exceeded", str(target))
        return copied(source, target, **options)

    (state,) = states_of([run], FakeScheduler())
    (publication,) = decided(state)
    monkeypatch.setattr(os, "link", copy)
    monkeypatch.setattr(shutil, "copyfile", copy)
    results.say_outcome(push(publication, store), 1, 1, quiet=False)
    said = capsys.readouterr().out
    assert re.fullmatch(r"\[1/1\] .*: not published: your quota on the disk of .* is used up; .*\n", said)
    assert said.endswith("then publish again\n")
    assert not folder.exists()


def test_a_run_without_weights_is_refused(store: Store) -> None:
    """A model folder that was emptied is named, and nothing is published."""
    (run,) = trained_runs(store, *FOLDER)
    for path in run.model.glob("*.safetensors"):
        path.unlink()
    with pytest.raises(PublishError, match="holds no weights"):
        published(run, store)
    assert not store.published("tiny-scan", "ipo-0.1").exists()


def test_a_model_made_here_is_published_beside_its_adapters(store: Store) -> None:
    """Once, as a revision of its own that the adapters name; what has a name elsewhere keeps that name."""
    runs = trained_runs(store, *FOLDER, "beta=0.1,0.2,0.3")
    made = store.cache("models", "merged-0123")
    made.mkdir(parents=True)
    (made / "model.safetensors").write_bytes(b"weights")
    (made / "config.json").write_text("{}")
    for run, base in zip(runs, [str(made), "/moved/outputs/cache/models/merged-0123", "org/base"], strict=True):
        config = {"base_model_name_or_path": base, "revision": "abc", "r": 4}
        (run.model / "adapter_config.json").write_text(json.dumps(config))
    folders = [published(run, store) for run in runs]
    named = [json.loads((folder / "adapter_config.json").read_text()) for folder in folders]
    start = Path(named[0]["base_model_name_or_path"])
    assert start.parent == folders[0].parent
    assert start.name.startswith("start-")
    assert (start / "model.safetensors").read_bytes() == b"weights"
    assert "starting point of the adapters here" in (start / "README.md").read_text()
    assert named[1] == named[0] == {"base_model_name_or_path": str(start), "revision": None, "r": 4}
    assert named[2] == {"base_model_name_or_path": "org/base", "revision": "abc", "r": 4}
    assert [folder.name for folder in start.parent.iterdir()].count(start.name) == 1


@pytest.mark.parametrize("damage", ["weights gone", "weights changed", "another run's", "none of ours", "a file"])
def test_a_folder_is_looked_into_before_it_is_said_to_be_published(store: Store, damage: str) -> None:
    """What was damaged is made anew; what is somebody else's now is an error, and keeps no other."""
    one, two = trained_runs(store, *FOLDER, "beta=0.1,0.2")
    folder, other = published(one, store), published(two, store)
    weights = next(folder.glob("*.safetensors"))
    match damage:
        case "weights gone":
            weights.unlink()
        case "weights changed":
            size = weights.stat().st_size
            weights.unlink()
            weights.write_bytes(b"x" * size)
        case "another run's":
            shutil.rmtree(folder)
            shutil.copytree(other, folder)
        case "none of ours":
            (folder / "prefsweep.json").write_text("[]")
        case _:
            shutil.rmtree(folder)
            folder.write_text("a file")
    outcomes = {name: error for run in (one, two) for name, error in pushed_by_the_verb(run, store).items()}
    assert outcomes[two.run_id] is None
    if damage.startswith("weights"):
        assert outcomes[one.run_id] is None
        assert weights.samefile(one.model / weights.name)
    else:
        assert str(folder) in (outcomes[one.run_id] or "")


# ------------------------------------------------------------------------------------------------ milestones


def decided(state: RunState, store: str | None = None, repo: str | None = None) -> list[Publication]:
    """What `publish` does to a run's models."""
    known = {"trained": state.facts.trained, "in_flight": state.in_flight}
    return decide_publication(state.run, HubLook(), store=store, repo=repo, **known)


def pushed_by_the_verb(run: RunDir, store: Store) -> dict[str, str | None]:
    """What became of each model, by its name: None, or the error."""
    (state,) = states_of([run], FakeScheduler())
    outcomes = [push(each, store) for each in decided(state)]
    return {outcome.point.name: outcome.error for outcome in outcomes}


def test_a_milestone_is_a_revision_of_its_own(store: Store) -> None:
    """Its weights, linked; a card with its step, its own scores and how to load it; the log up to it; its own fact."""
    (run,) = trained_runs(store, *FOLDER)
    append_line(run.metrics_file, {"step": 3, "max_steps": 9, "loss": 0.25})
    write_derived(
        run.result_file, json.dumps({"steps": 9, "max_steps": 9, "seconds": 81.0, "loss": 0.5, "device": "a GPU"})
    )
    keep_milestones(run, step2=0.625)
    assert pushed_by_the_verb(run, store) == {f"{run.run_id}@2": None, run.run_id: None}
    folder, final = (store.published("tiny-scan", name) for name in ("ipo-0.1-step2", "ipo-0.1"))
    marker = read_fact(folder / "prefsweep.json") or {}
    assert (marker["run_id"], marker["step"]) == (run.run_id, 2)
    name = "model-00001-of-00002.safetensors"
    assert (folder / name).read_bytes() == (run.milestone(2).model / name).read_bytes() != (final / name).read_bytes()
    assert (folder / name).stat().st_nlink == 2
    assert not {path.relative_to(folder).as_posix() for path in folder.rglob("*")} & {*NEVER_PUBLISHED, "result.json"}
    assert [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()] == [1]
    text = (folder / "README.md").read_text()
    assert f"# {run.run_id}@2\n" in text
    assert "The model after step 2 of 9, in one run" in text
    assert "| golden reward | 0.625 | ± 0.0625 |" in text
    assert f'from_pretrained("{folder}")' in text
    assert "| result.steps | 2 |" in text
    assert "result.seconds" not in text  # of the whole training
    assert "result.loss" not in text
    own, whole = (read_fact(each.revision_file) or {} for each in (run.milestone(2), run))
    assert (own["address"], whole["address"]) == (str(folder), str(final))
    assert "step" not in (read_fact(final / "prefsweep.json") or {})


def test_a_milestone_that_cannot_be_pushed_keeps_no_other(store: Store) -> None:
    """The others are there and status says what is not; publishing again pushes only that."""
    (run,) = trained_runs(store, *FOLDER)
    keep_milestones(run, step2=0.5, step4=0.5)
    foreign = store.published("tiny-scan", "ipo-0.1-step2")
    foreign.mkdir(parents=True)
    told = pushed_by_the_verb(run, store)
    assert told[f"{run.run_id}@4"] is told[run.run_id] is None
    assert "no revision of ours" in (told[f"{run.run_id}@2"] or "")
    (state,) = states_of([run], FakeScheduler())
    assert state.reason == "not published: waits for the verb `publish` (hub.when=login)"
    foreign.rmdir()
    due = [each.point.step for each in decided(state) if each.verdict.due]
    assert due == [2]
    assert set(pushed_by_the_verb(run, store).values()) == {None}
    (state,) = states_of([run], FakeScheduler())
    assert state.reason is None


def test_neither_a_run_nor_its_milestone_overwrites_the_other(store: Store) -> None:
    """A revision that holds a run's milestone is refused to its final model, and the other way round."""
    (run,) = trained_runs(store, *FOLDER)
    keep_milestones(run, step2=0.5)
    final = hub_of(run.attempts()[-1])
    publish(Point(run, 2), final, store)
    with pytest.raises(PublishError, match=f"{run.run_id}: .*is the revision of {run.run_id}@2, which is never"):
        publish(Point(run), replace(final, revision="ipo-0.1-step2"), store)
    publish(Point(run), replace(final, revision="x-step4"), store)
    keep_milestones(run, step4=0.5)
    with pytest.raises(PublishError, match=f"{run.run_id}@4: .*is the revision of {run.run_id}, which is never"):
        publish(Point(run, 4), replace(final, revision="x"), store)


# ------------------------------------------------------------------------------------------------ names


def settled(*argv: str, recorded: Sweep | None = None, token: bool = False) -> list[tuple[str | None, str]]:
    """Repository and revision of each run of a command line, after a launch of `recorded`."""
    records = [record_of(run) for run in recorded.runs] if recorded else []
    sweep = with_revisions(replace(sweep_of(*argv)), records, token=token)
    return [(run.config.hub.repo, run.config.hub.revision) for run in sweep.runs]


def test_the_default_repository_is_named_by_model_and_sweep() -> None:
    """Each model of a sweep has its own repository, in the organisation that was given."""
    assert settled("model=tiny", "sweep=scan") == [("tiny-scan", "sigmoid-0.1")]
    assert settled("model=tiny,smollm2", "sweep=scan", "hub.org=us") == [
        ("us/tiny-scan", "sigmoid-0.1"),
        ("us/smollm2-135m-scan", "sigmoid-0.1"),
    ]
    assert settled("model=tiny") == [("tiny-movie-reviews", "sigmoid-0.1")]


def test_a_default_repository_does_not_repeat_the_models() -> None:
    """A sweep that was given no name is called by all its models; each one's repository by that one alone."""
    assert settled("model=tiny,smollm2") == [
        ("tiny-movie-reviews", "sigmoid-0.1"),
        ("smollm2-135m-movie-reviews", "sigmoid-0.1"),
    ]
    assert settled("model=tiny", "sweep=tiny") == [("tiny", "sigmoid-0.1")]


def test_a_recorded_default_stays() -> None:
    """What an earlier version called the repository of this sweep is where its models are."""
    first = sweep_of("model=tiny,smollm2")
    asked = [replace(run, config=replace(run.config, hub=replace(run.config.hub, repo=None))) for run in first.runs]
    sweep = replace(first, runs=tuple(asked))
    before = {"tiny": "tiny-tiny-smollm2-135m-movie-reviews", "smollm2-135m": "smollm2-135m-movie-reviews"}
    records = [
        replace(record, settings={**record.settings, "hub": {**record.settings["hub"], "repo": before[record.model]}})
        for record in map(record_of, first.runs)
    ]
    found = with_revisions(sweep, records, token=False)
    assert [run.config.hub.repo for run in found.runs] == list(before.values())


@pytest.mark.parametrize(
    ("model", "sweep", "name"),
    [
        ("a", "b+c", "a-b-c"),
        ("a--b", "c..d", "a-b-c-d"),
        ("a", "x.git", "a-x"),
        ("a", "a", "a"),
        ("a", "a-x", "a-x"),
        ("a", "scan-a", "scan-a"),
        ("a", "scan-of-a+x", "scan-of-a-x"),
        ("a", "ab-x", "a-ab-x"),
        ("a", "b" * 200, "a-" + "b" * 94),
    ],
)
def test_default_names_are_names_that_the_hub_takes(model: str, sweep: str, name: str) -> None:
    """What a model or a sweep may be called and a repository may not is replaced."""
    from huggingface_hub.utils import validate_repo_id

    assert default_name(model, sweep) == name
    validate_repo_id(f"me/{name}")


@pytest.mark.parametrize(
    "override",
    [
        "hub.repo=../x", "hub.repo=a/b/c", "hub.repo=a--b", "hub.repo=.a", "hub.repo=a/b.git", "hub.repo=/etc/x",
        "hub.repo=''", "hub.org=../x", "hub.revision=../x", "hub.revision=a/b", "hub.revision=.a", "hub.revision=-a",
        "hub.revision=a.lock", "hub.revision=a..b", "hub.revision=''", "hub.revision=0123456789abcdef",
    ],
)  # fmt: skip
def test_names_that_lead_elsewhere_are_refused(override: str) -> None:
    """Neither the Hub nor a folder could have such a name; the line tells the key and the rule."""
    with pytest.raises(ConfigError, match=r"^hub\.(repo|revision)=.*: needs"):
        sweep_of(override)


def test_a_revision_of_an_earlier_launch_is_taken() -> None:
    """A launch that adds runs to a sweep may not take a revision that another of its runs has, but keeps its own."""
    earlier = sweep_of("model=tiny", "sweep=scan", "seed=1", "hub=folder")
    assert settled("model=tiny", "sweep=scan", "seed=1", "hub=folder", recorded=earlier) == [
        ("tiny-scan", "sigmoid-0.1")
    ]
    with pytest.raises(ConfigError, match=r"hub\.revision=sigmoid-0\.1: .*\$\{seed\}"):
        settled("model=tiny", "sweep=scan", "seed=1,2", "hub=folder", recorded=earlier)
    with pytest.raises(ConfigError, match=r"hub\.revision=sigmoid-0\.1"):
        settled("model=tiny", "sweep=scan", "seed=2", "hub=folder", recorded=earlier)


STEPS = ("model=tiny", "sweep=scan", "trainer.lr_scheduler=constant", "checkpoint.milestones=[5]")


def test_the_names_of_milestones_are_taken_too() -> None:
    """A run whose revision would be another's milestone is refused, also one that was launched before."""
    clash = "hub.revision='${trainer.name}'"
    grid = (*STEPS, "hub=folder", "trainer=full", "trainer.name=a,a-step5", clash)
    with pytest.raises(
        ConfigError, match=r"hub\.revision=a-step5: .* would both write it to tiny-scan; .*trainer\.name"
    ):
        settled(*grid)
    earlier = sweep_of(*STEPS, "hub=folder", "hub.revision=a")
    with pytest.raises(ConfigError, match=r"hub\.revision=a-step5: "):
        settled(*STEPS[:2], "hub=folder", "hub.revision=a-step5", "seed=2", recorded=earlier)
    assert settled(*STEPS, "hub=folder", "hub.revision=a", recorded=earlier) == [("tiny-scan", "a")]


def test_the_name_of_a_milestone_has_to_fit() -> None:
    """`-step5` counts among the characters that a revision may have."""
    long = "r" * 91
    assert settled(*STEPS[:2], "hub=folder", f"hub.revision={long}") == [("tiny-scan", long)]
    with pytest.raises(ConfigError, match=rf"hub\.revision={long}-step5: needs .* at most 96"):
        settled(*STEPS, "hub=folder", f"hub.revision={long}")


def test_where_nobody_asked_for_names_the_run_id_tells_runs_apart() -> None:
    """hub=auto never refuses a grid for its revisions' names."""
    names = [revision for _, revision in settled("model=tiny", "sweep=scan", "seed=1,2")]
    ids = [run.run_id for run in sweep_of("model=tiny", "sweep=scan", "seed=1,2").runs]
    assert names == ["sigmoid-0.1", ids[1]]


def test_auto_is_the_hub_only_where_it_is_named_and_there_is_a_token(tmp_path: Path) -> None:
    """The choice is made when planning, by looking for a token, and is what the attempts record."""
    assert not has_token({"HOME": str(tmp_path)})
    assert has_token({"HOME": str(tmp_path), "HF_TOKEN": "x"})
    (tmp_path / ".cache/huggingface").mkdir(parents=True)
    (tmp_path / ".cache/huggingface/token").write_text("x")
    assert has_token({"HOME": str(tmp_path)})
    assert not has_token({"HOME": str(tmp_path), "HF_HOME": str(tmp_path / "other")})
    for overrides, token, store in (
        (["hub=auto"], True, "folder"),  # nobody has asked for an upload
        (["hub=auto", "hub.org=us"], True, "huggingface"),
        (["hub=auto", "hub.repo=us/scan"], True, "huggingface"),
        (["hub=auto", "hub.org=us"], False, "folder"),
        (["hub=off"], True, "off"),
    ):
        planned = replace(sweep_of("hub=off"), runs=_unsettled(*overrides))
        (run,) = with_revisions(planned, [], token=token).runs
        assert run.settings["hub"]["store"] == run.config.hub.store == store


def _unsettled(*overrides: str) -> tuple:  # type: ignore[type-arg]
    from launcher.planning.compose import compose
    from launcher.planning.planned_runs import plan_run

    _, (point,) = compose(overrides, multirun=False)
    return (plan_run(point.config, point.axes, point.overrides, {"sigmoid"}),)


# ------------------------------------------------------------------------------------------------ the verb


def test_what_publish_does_to_each_run(store: Store) -> None:
    """Only what is trained, not in flight, and not there already is pushed."""
    sweep, scheduler = sweep_of("model=tiny", *FOLDER, "beta=0.1,0.2,0.3"), FakeScheduler()
    submit(sweep, store, scheduler, None)
    done, evaluating, waiting = (store.run(run.run_id) for run in sweep.runs)
    finish(done)
    finish(evaluating)
    evaluating.evaluation_file.unlink()
    scheduler.phases = dict.fromkeys(scheduler.phases, scheduler.phases["1"])
    scheduler.end("2", Phase.COMPLETED)

    def whys() -> list[str]:
        states = states_of([done, evaluating, waiting], scheduler)
        return [each.verdict.why for state in states for each in decided(state)]

    assert whys() == ["to be published", "in flight", "in flight"]
    (state,) = states_of([done], scheduler)
    (publication,) = decided(state)
    assert push(publication, store).error is None
    assert whys()[0].startswith("is published as ")
    (elsewhere,) = decided(state, "folder", "else/where")
    assert (elsewhere.verdict.due, elsewhere.hub.repo) == (True, "else/where")


@pytest.mark.parametrize("name", ["sources.json", "config.yaml", "evaluation.json"])
@pytest.mark.parametrize("left", ["pipe", "/dev/zero"])
def test_what_can_never_be_read_to_its_end_is_waited_for_by_nobody(store: Store, name: str, left: str) -> None:
    """A file of a published run that somebody has replaced: what is published stands, and `publish` ends."""
    sweep, scheduler = sweep_of("model=tiny", *FOLDER), FakeScheduler()
    submit(sweep, store, scheduler, None)
    run = store.run(sweep.runs[0].run_id)
    finish(run)
    scheduler.end("1", Phase.COMPLETED)
    (state,) = states_of([run], scheduler)
    (publication,) = decided(state)
    assert push(publication, store).error is None
    file = run.path / name
    file.unlink(missing_ok=True)
    os.mkfifo(file) if left == "pipe" else file.symlink_to(left)
    (publication,) = decided(state)
    assert publication.verdict.why.startswith("is published as ")
    with pytest.raises(PublishError, match=re.escape(f"{file}: is no regular file")):
        payload_of(publication.point, "")


def whys_of(run: RunDir, store: str | None = None) -> list[str]:
    """What `publish` says of each of the run's models before it pushes any."""
    (state,) = states_of([run], FakeScheduler())
    return [each.verdict.why.partition(" as ")[0] for each in decided(state, store)]


def test_a_published_run_whose_model_was_removed_keeps_no_other(store: Store) -> None:
    """Whoever frees the disk of models that are published can still publish the rest of the sweep."""
    (run,) = trained_runs(store, *FOLDER)
    keep_milestones(run, step2=0.5)
    pushed_by_the_verb(run, store)
    shutil.rmtree(run.model)
    assert whys_of(run) == ["is published", "is published"]
    write_derived(run.evaluation_file, json.dumps(evaluation(0.9)))  # measured anew, from the revision
    assert not lacks(Point(run), hub_of(run.attempts()[-1]))


def test_a_revision_whose_folder_was_removed_is_published_again(store: Store) -> None:
    """revision.json says where it was; what counts is whether it is there."""
    (run,) = trained_runs(store, *FOLDER)
    folder = published(run, store)
    assert whys_of(run) == ["is published"]
    shutil.rmtree(folder)
    assert whys_of(run) == ["no longer where it was published"]
    assert pushed_by_the_verb(run, store) == {run.run_id: None}
    assert (folder / "config.json").exists()


def test_a_revision_moves_with_its_output_folder(store: Store, tmp_path: Path) -> None:
    """Where the folder has another name, status and `publish` find it there; the record stays as it was written."""
    (run,) = trained_runs(store, *FOLDER)
    keep_milestones(run, step2=0.5)
    pushed_by_the_verb(run, store)
    recorded = run.revision_file.read_bytes()
    moved = Store(store.root.rename(tmp_path / "elsewhere"))
    run = moved.run(run.run_id)
    assert read_facts(run).address == str(moved.published("tiny-scan", "ipo-0.1"))
    assert whys_of(run) == ["is published", "is published"]
    assert run.revision_file.read_bytes() == recorded
    shutil.rmtree(moved.published("tiny-scan", "ipo-0.1"))
    assert whys_of(run) == ["is published", "no longer where it was published"]


def test_what_was_never_submitted_is_not_said_to_have_the_hub_off(store: Store) -> None:
    """A run without an attempt has no hub settings yet; that it is not trained is why it cannot be published."""
    sweep = sweep_of("model=tiny", *FOLDER)
    assert whys_of(store.run(sweep.runs[0].run_id)) == ["not trained"]


def test_the_best_models_are_the_best_by_mt_bench_where_that_was_rated(store: Store) -> None:
    """As in the report: MT-Bench before golden reward; models without the score stand behind, here nowhere."""
    runs = trained_runs(store, *FOLDER, "beta=0.1,0.2,0.3")
    for run, golden, rated in zip(runs, (0.9, 0.1, 0.5), (4.0, 6.0, None), strict=True):
        write_derived(run.evaluation_file, json.dumps(evaluation(golden)))
        if rated is not None:
            write_once(run.evaluations.result_file("mt_bench"), MT_BENCH | {"score": rated, "stderr": 0.5})
    outcomes = [Outcome(Point(run), "", Revision("a", "huggingface", "r", run.run_id, "c", "c")) for run in runs]
    best = [told.partition(": ")[2] for told, _ in best_models(outcomes)]
    assert best == ["mt_bench 6.000 ± 0.500", "mt_bench 4.000 ± 0.500"]
    ((told, _),) = best_models(outcomes[2:])
    assert told.endswith("golden_reward 0.500 ± 0.062")  # none of these has been rated


def test_the_best_models_are_those_of_one_judge(store: Store) -> None:
    """A score of another judge, or of texts that were made otherwise, has no place in the order, however high."""
    runs = trained_runs(store, *FOLDER, "beta=0.1,0.2,0.3")
    for run, rated, name in zip(runs, (4.0, 6.0, 9.9), ("strict", "strict", "generous"), strict=True):
        who = {"judge": {"model": name}, "answers": {"base": run.run_id, "dtype": "float32"}}
        write_once(run.evaluations.result_file("mt_bench"), MT_BENCH | {"score": rated, "stderr": None} | who)
    outcomes = [Outcome(Point(run), "", Revision("a", "huggingface", "r", run.run_id, "c", "c")) for run in runs]
    assert [told.partition(": ")[2] for told, _ in best_models(outcomes)] == ["mt_bench 6.000", "mt_bench 4.000"]
    for run, golden, count in zip(runs, (0.9, 0.1, 0.5), (16, 256, 256), strict=True):
        run.evaluations.result_file("mt_bench").unlink()
        write_derived(run.evaluation_file, json.dumps(evaluation(golden) | {"settings": {"generations": count}}))
    assert [told.partition(": ")[2][:19] for told, _ in best_models(outcomes)] == [
        "golden_reward 0.500",
        "golden_reward 0.100",
    ]


@pytest.mark.parametrize("count", ["0", "-1", "x"])
def test_a_collection_of_no_models_is_refused(count: str) -> None:
    """-1 would have been all but the worst."""
    with pytest.raises(UsageError, match=f"--collection: {count} is no number of at least 1"):
        verb_parser("publish").parse_args(["scan", f"--collection={count}"])


def test_runs_launched_with_hub_off_have_revisions_of_their_own(store: Store) -> None:
    """`publish` cannot be given names: the second of two runs of one name, also of a later launch, has its run id."""
    first = settled("hub=off", "sweep=scan", "seed=1,2")
    runs = sweep_of("hub=off", "sweep=scan", "seed=1,2,3").runs
    assert [revision for _, revision in first] == ["sigmoid-0.1", runs[1].run_id]
    recorded = sweep_of("hub=off", "sweep=scan", "seed=1")
    later = settled("hub=off", "sweep=scan", "seed=3", recorded=recorded)
    assert later == [(None, runs[2].run_id)]
    for run in trained_runs(store, "hub=off", "sweep=scan", "seed=1,2"):
        (state,) = states_of([run], FakeScheduler())
        (publication,) = decided(state, "folder", "scan")
        assert push(publication, store).error is None


def test_runs_launched_with_hub_off_can_be_published_later(store: Store) -> None:
    """--hub and --repo stand in for what was not asked for at launch; without a repository there is no name."""
    (run,) = trained_runs(store, "hub=off", "sweep=scan")
    (state,) = states_of([run], FakeScheduler())
    assert ["hub=off" in each.verdict.why for each in decided(state)] == [True]
    with pytest.raises(UsageError, match="--repo"):
        decided(state, "folder")
    (publication,) = decided(state, "folder", "scan")
    assert push(publication, store).error is None
    assert (store.published("scan", "sigmoid-0.1") / "config.json").exists()


# ------------------------------------------------------------------------------------------------ facts and status


def test_a_run_that_its_job_is_to_publish_is_in_flight_until_it_has(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    """TRAINED all the while; a noted failure ends the wait and is the reason that status shows; so does the push."""
    sweep, scheduler = sweep_of("model=tiny", *FOLDER), FakeScheduler()
    submit(sweep, store, scheduler, None)
    run = store.run(sweep.runs[0].run_id)
    finish(run)
    attempt = run.attempts()[-1]
    (state,) = states_of([run], scheduler)
    assert (state.status, state.in_flight, due_in_job(attempt)) == (Status.TRAINED, True, True)
    scheduler.end("1", Phase.COMPLETED)
    (state,) = states_of([run], scheduler)
    assert (state.status, state.in_flight) == (Status.TRAINED, False)
    assert decide(sweep, store, scheduler)[0].why == "finished, not published: use `publish`"
    write_once(attempt.unpublished_file, {"reason": "the Hub was away"})
    (state,) = states_of([run], scheduler)
    assert (state.status, state.reason) == (Status.TRAINED, "not published: the Hub was away")
    assert state.facts.finished
    show_status(store.sweep(sweep.name), [state], [], as_json=False)
    assert (
        f"1 run is not published: use `python -m launcher publish {sweep.name} --output-dir" in capsys.readouterr().out
    )
    assert decide(sweep, store, scheduler)[0].why == "finished, not published: use `publish`"
    published(run, store)
    (state,) = states_of([run], scheduler)
    assert (state.status, state.reason, state.facts.finished) == (Status.TRAINED, None, True)
    assert decide(sweep, store, scheduler)[0].why == "finished"
    assert state.facts.address == str(store.published("tiny-scan", "ipo-0.1"))


def test_a_run_that_waits_for_the_login_node_says_so(store: Store) -> None:
    """With hub.when=login the job leaves it; the run is finished, and status names the verb that is still to come."""
    (run,) = trained_runs(store, *FOLDER)
    (state,) = states_of([run], FakeScheduler())
    assert (state.status, state.facts.finished, state.in_flight) == (Status.TRAINED, True, False)
    assert state.reason == "not published: waits for the verb `publish` (hub.when=login)"


def test_a_launch_for_the_hub_without_a_token_is_told(tmp_path: Path) -> None:
    """One line at launch, long before a job would find out; none where there is a token, or nothing for the Hub."""
    nothing = {"HOME": str(tmp_path)}
    sweep = sweep_of("hub=huggingface")
    assert "hf auth login" in missing_token(sweep, nothing)[0]
    assert missing_token(sweep, {**nothing, "HF_TOKEN": "x"}) == []
    assert missing_token(sweep_of("hub=folder"), nothing) == []


def test_an_attempt_of_an_earlier_release_publishes_nothing(store: Store) -> None:
    """Settings that were recorded without a store mean none: an old sweep's runs stay finished."""
    run = store.run("old")
    attempt = run.new_attempt(Attempt(settings={"hub": {"repo": None, "revision": "sigmoid-0.1"}}))
    run.write_config({"beta": 0.1})
    finish(run)
    assert not due_in_job(attempt)
    assert read_facts(run).finished


# ------------------------------------------------------------------------------------------------ the card


def measured(**benchmarks: object) -> Measured:
    """What was measured of a model: `preference`, and what is given, as their files have it."""
    found = {"preference": evaluation(0.5), **benchmarks}
    return Measured({name: msgspec.convert(fact, BENCHMARKS[name]) for name, fact in found.items()})


def subject(**changes: object) -> Subject:
    objective = {
        "model": {"name": "zephyr", "path": "alignment-handbook/zephyr-7b-sft-full", "revision": "main"},
        "dataset": {"name": "uf", "path": "HuggingFaceH4/ultrafeedback_binarized", "revision": None, "test_split": "t"},
        "trainer": {"name": "lora", "lora": {"r": 16}, "max_steps": None},
        "loss_type": "ipo", "beta": 0.01, "seed": 1,
    }  # fmt: skip
    data = DatasetSources(commits={"HuggingFaceH4/ultrafeedback_binarized": "b" * 40})
    sources, result = Sources({"commit": "a" * 40}, data), Result(3, 3, 1.0)
    whole = Subject("zephyr-ipo", objective, sources, result, measured(), "me/scan", "ipo-0.01", "apache-2.0")
    return replace(whole, **changes)  # type: ignore[arg-type]


def test_the_hub_reads_the_cards_metadata() -> None:
    """huggingface_hub finds base model, data set, licence and results where the Hub looks for them."""
    data = ModelCard(card(subject())).data
    assert data.base_model == "alignment-handbook/zephyr-7b-sft-full"
    assert data.datasets == ["HuggingFaceH4/ultrafeedback_binarized"]
    assert (data.license, data.library_name, data.to_dict()["base_model_relation"]) == ("apache-2.0", "peft", "adapter")
    results = {result.metric_type: result.metric_value for result in data.eval_results or []}
    assert results == {"reward_accuracy": 0.75, "golden_reward": 0.5}


def test_the_card_tells_commits_error_bars_and_how_to_load_it() -> None:
    """Base model and data set with their commits, each result with its standard error, the lines that load it."""
    text = card(subject())
    assert f"zephyr-7b-sft-full) (commit `{'a' * 40}`)" in text
    assert f"ultrafeedback_binarized) (commit `{'b' * 40}`)" in text
    assert "| golden reward | 0.5 | ± 0.0625 |" in text
    assert "| reward accuracy | 0.75 | ± 0.05413 |" in text  # sqrt(0.75 * 0.25 / 64) = 0.054127
    assert 'AutoPeftModelForCausalLM.from_pretrained("me/scan", revision="ipo-0.01")' in text
    assert "| Once \\| upon | a \\`time\\` there |" in text
    assert "stand in the training split" not in text
    leaks = card(subject(result=Result(3, 3, 1.0, leaked_pairs=7)))
    assert "7 of the held-out pairs stand in the training split, too." in leaks
    whole = card(subject(measured=measured(preference=evaluation(0.5) | {"reward_accuracy": 1.0})))
    assert "| reward accuracy | 1 |  |" in whole  # an error of 0 would say that it is sure
    full = card(subject(objective={**subject().objective, "trainer": {"name": "full"}}, revision=None, address="/x"))
    assert 'AutoModelForCausalLM.from_pretrained("/x")' in full


def test_the_card_has_the_loss_with_its_numbers() -> None:
    """Its own keys, a beta where its formula has one, and what its margin is made of, where that is no log-ratio."""
    simpo = {**subject().objective, "loss_type": "simpo", "beta": 2.0, "loss": {"gamma": 0.5, "lam": None}}
    text = card(subject(objective=simpo))
    assert "with the loss `simpo` at beta 2.0, `loss.gamma` 0.5." in text
    assert "| loss.gamma | 0.5 |" in text
    assert "lam" not in text.partition("## How it was trained")[2].partition("##")[0].replace("lambda", "")
    assert "Accuracy and margin are of the reward `beta / |y| log pi`; those of other rewards do not compare." in text
    orpo = card(subject(objective={**subject().objective, "loss_type": "orpo", "loss": {"lam": 0.1}}))
    assert "with the loss `orpo` at `loss.lam` 0.1." in orpo
    ipo = card(subject())
    assert "with the loss `ipo` at beta 0.01." in ipo
    assert "of the reward" not in ipo


def test_the_card_names_all_that_the_pairs_come_from() -> None:
    """The parts of a mixture and the instructions of weak_rejects with their commits; a folder's path stays here."""
    mixture = [{"path": "org/a", "revision": None}, {"path": "/home/me/secret"}, {"path": "org/b", "revision": "v1"}]
    weak = {"path": "org/a", "revision": None, "model": {"name": "smollm2", "path": "/home/me/secret/weak"}}
    a = f"[org/a](https://huggingface.co/datasets/org/a) (commit `{'c' * 40}`)"
    b = "[org/b](https://huggingface.co/datasets/org/b) (commit `v1`)"
    written = "what smollm2 writes, rejected for the answers of"
    expected = {
        "mixture": (["org/a", "org/b"], f"mine (a mixture of {a}, a local file or folder, {b})"),
        "weak_rejects": (["org/a"], f"mine (prefsweep's `weak_rejects`: {written} {a})"),
    }
    for key, value in (("mixture", mixture), ("weak_rejects", weak)):
        dataset = {"name": "mine", "path": None, "builder": None, "test_split": "test", key: value}
        told = subject(
            objective={**subject().objective, "dataset": dataset},
            sources=Sources(dataset=DatasetSources({"org/a": "c" * 40})),
        )
        names, words = expected[key]
        assert ModelCard(card(told)).data.datasets == names
        assert words in card(told)
        assert "secret" not in card(told)


def test_what_is_not_on_the_hub_is_not_linked_and_its_folder_is_not_told() -> None:
    """A local base model gives no base_model metadata, and the path of this machine stays here."""
    objective = {**subject().objective, "model": {"name": "mine", "path": "/home/me/secret/model"}}
    text = card(subject(objective=objective, measured=Measured(), license=None))
    front = yaml.safe_load(text.split("---")[1])
    assert not {"base_model", "license", "model-index"} & front.keys()
    assert "secret" not in text
    assert "mine (a local folder)" in text


def test_measures_take_any_number_with_its_error() -> None:
    """An evaluation that is added later appears on the card without further ado; counts and texts do not."""
    found = list(measures({"new": 1.5, "new_stderr": 0.25, "pairs": 3, "text": "x", "flag": True, "none": None}))
    assert found == [("new", 1.5, 0.25)]


QUESTIONS = [
    {"question_id": 1, "category": "writing", "turns": [9.0, 7.0], "score": 8.0},
    {"question_id": 2, "category": "writing", "turns": [7.0, 5.0], "score": 6.0},
    {"question_id": 3, "category": "math", "turns": [4.0, 2.0], "score": 3.0},
    {"question_id": 4, "category": "math", "turns": [4.0, None], "score": None},
]
MT_BENCH = {"score": 17 / 3, "stderr": 1.4529663145135578, "turns": [20 / 3, 14 / 3], "questions": QUESTIONS,
            "categories": {"writing": 7.0, "math": 3.0}, "judge_sd": None, "unscored": 1, "judged": 7, "unparsable": 1,
            "judge": {"model": "a judge"}, "hashes": {"questions": "ab"}, "answers": {}, "base": None,
            "spent": {}}  # fmt: skip
LM_EVAL = {"scores": {"ifeval/acc,strict": 0.25, "ifeval/acc_stderr,strict": 0.125, "arc/acc": 0.5},
           "settings": {"tasks": ["ifeval"]}, "n-samples": {"arc": 9}}  # fmt: skip
COMMAND = {"scores": {"speed": 3.5, "speed_stderr": 0.5}, "settings": {"argv": ["x", "--key=PlantedKey"], "minutes": 1},
           "output": {"key": "PlantedKey"}, "printed": "PlantedKey"}  # fmt: skip


def test_the_card_has_the_scores_of_benchmarks() -> None:
    """Each with its error bar and the judge's name; in the metadata, each under the benchmark or task as data set.

    Of MT-Bench's 8, 6, 3 and 7, 5, 2 the error is sqrt(19/3)/sqrt(3), of the writing's 8, 6 it is sqrt(2)/sqrt(2).
    """
    told = subject(measured=measured(mt_bench=MT_BENCH, lm_eval=LM_EVAL, command=COMMAND))
    text = card(told)
    for row in ("MT-Bench: score | 5.667 | ± 1.453", "MT-Bench: turn 2 | 4.667 | ± 1.453", "MT-Bench: math | 3 | ",
                "MT-Bench: writing | 7 | ± 1", "ifeval: acc,strict | 0.25 | ± 0.125", "arc: acc | 0.5 | ",
                "command: speed | 3.5 | ± 0.5", "golden reward | 0.5 | ± 0.0625"):  # fmt: skip
        assert f"| {row} |" in text
    assert "3 of 4 questions have a rating, by `a judge`" in text
    assert "stderr" not in text
    results = ModelCard(text).data.eval_results or []
    found = {(each.dataset_type, each.dataset_name, each.metric_type): each.metric_value for each in results}
    assert found["mt-bench", "MT-Bench", "score"] == pytest.approx(17 / 3)
    assert found["ifeval", "ifeval", "acc,strict"] == 0.25
    assert found["command", "command", "speed"] == 3.5
    assert found["HuggingFaceH4/ultrafeedback_binarized", "uf", "golden_reward"] == 0.5


def test_a_revision_holds_what_benchmarks_found(store: Store) -> None:
    """A benchmark that is measured later makes the revision anew; what a program printed or was given stays here."""
    (run,) = trained_runs(store, *FOLDER)
    keep_milestones(run, step2=0.5)
    pushed_by_the_verb(run, store)
    write_once(run.evaluations.result_file("lm_eval"), LM_EVAL)
    write_once(run.evaluations.result_file("command"), COMMAND)
    append_line(run.evaluations.judgements_log, {"words": "of the judge"})
    (state,) = states_of([run], FakeScheduler())
    whys = [each.verdict.why.partition(" as ")[0] for each in decided(state)]
    assert whys == ["is published", "changed since it was published"]
    pushed_by_the_verb(run, store)
    folder = store.published("tiny-scan", "ipo-0.1")
    assert sorted(path.name for path in (folder / "evaluations").iterdir()) == ["command.json", "lm_eval.json"]
    assert read_fact(folder / "evaluations" / "lm_eval.json") == LM_EVAL
    assert read_fact(folder / "evaluations" / "command.json") == {
        "scores": COMMAND["scores"],
        "settings": {"minutes": 1},
    }
    assert files_holding(folder, "PlantedKey", "of the judge") == []
    assert "| command: speed | 3.5 | ± 0.5 |" in (folder / "README.md").read_text()


# ------------------------------------------------------------------------------------------------ errors


def test_an_error_is_told_without_token_or_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever library wrote it, and also where it hides in the cause."""
    monkeypatch.setenv("HF_TOKEN", "hf_PlantedToken")
    error = RuntimeError("upload\n failed")
    error.__cause__ = ValueError("b'Bearer hf_PlantedToken' at https://x.example/a?X-Amz-Signature=abc&y=1 (403)")
    assert told(error) == "upload failed b'Bearer ***' at https://x.example/a (403)"


def test_a_wrapped_fault_passes_as_what_it_is() -> None:
    """An upload that gave up on a failing server is tried again; a wrong argument is not."""
    wrapped = RuntimeError("Error while uploading")
    wrapped.__cause__ = ConnectionResetError()
    assert passes(wrapped)
    assert not passes(ValueError("no"))
    assert not passes(PermissionError("no"))


def test_hub_off_publishes_nothing(store: Store) -> None:
    """Asking for it all the same is an error, not silence."""
    (run,) = trained_runs(store, "hub=off", "sweep=scan")
    assert not due_in_job(run.attempts()[-1])
    with pytest.raises(PublishError, match="choose huggingface or folder"):
        publish(Point(run), Hub(revision="x"), store)
    assert not os.path.lexists(store.root / "hub")
