"""checkpoint.milestones: models on the way as points of their own, from one training."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import xxhash
from fakes import FakeScheduler
from finished_runs import keep_milestones, trained_runs
from safetensors.torch import load_file
from worker_fixtures import LORA, Configure

from launcher.config import Checkpoint, Hub
from launcher.errors import ConfigError, PublishError
from launcher.hub.look import HubLook
from launcher.hub.publish import act, decide
from launcher.hub.push import publish
from launcher.machine.installed import trl_losses
from launcher.planning.rules import check
from launcher.runs.collect import with_milestones
from launcher.runs.run_state import states_of
from launcher.store.facts import Purpose, Revision
from launcher.store.files import read_fact, read_lines, write_derived, write_once
from launcher.store.output_folder import Store
from launcher.store.run_folder import AttemptDir, Point, RunDir, points_of
from launcher.worker import hub as worker_publish
from launcher.worker.evaluation.preference import evaluate
from launcher.worker.hub import publish_in_job
from launcher.worker.training.milestones import keep
from launcher.worker.training.train import Stopped, train

CONSTANT = {"trainer__lr_scheduler": "constant", "trainer__warmup_ratio": 0.0}


def weights(run: RunDir) -> dict[str, Any]:
    (file,) = run.model.glob("*.safetensors")
    return load_file(file)


def same(one: dict[str, Any], two: dict[str, Any]) -> bool:
    return one.keys() == two.keys() and all(bool((one[name] == two[name]).all()) for name in one)


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
def test_a_milestone_is_the_model_of_a_training_of_so_many_steps(configure: Configure, store: Store, lora: Any) -> None:
    """Under a constant rate the model kept after 3 of 6 steps is, bit for bit, that of a training of 3 steps."""
    config = configure(**CONSTANT, trainer__lora=lora, checkpoint=Checkpoint(every=4, milestones=[3]))
    train(config, store.run("long"), store, lambda: False)
    shorter = replace(config, trainer=replace(config.trainer, max_steps=3), checkpoint=Checkpoint(every=4))
    train(shorter, store.run("short"), store, lambda: False)
    kept = store.run("long").milestone(3)
    assert same(weights(kept), weights(store.run("short")))
    assert not same(weights(kept), weights(store.run("long")))
    evaluate(config, store.run("long"), store)
    evaluate(shorter, store.run("short"), store)
    scores, expected = (read_fact(run.evaluation_file) or {} for run in (kept, store.run("short")))
    assert [scores[key] for key in ("loss", "reward_margin", "kl")] == [
        expected[key] for key in ("loss", "reward_margin", "kl")
    ]


def test_a_warm_up_does_not_depend_on_the_end(
    configure: Configure, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in steps_scan, a share of an epoch: the model after 3 of 4 steps is that of a training of 3, bit for bit."""
    schedule = {"trainer__lr_scheduler": "constant_with_warmup", "trainer__warmup_ratio": 0.5}
    config = configure(**schedule, trainer__max_steps=None, checkpoint=Checkpoint(every=50, milestones=[1, 3]))
    check(config, trl_losses())
    train(config, store.run("long"), store, lambda: False)
    assert "has trainer.warmup_steps=2\n" in capsys.readouterr().out  # half of 32 / 8 steps
    short = replace(config.trainer, warmup_steps=2)
    for step in (1, 3):
        run = store.run(f"short-{step}")
        ended = replace(config, trainer=replace(short, max_steps=step), checkpoint=Checkpoint(every=50))
        train(ended, run, store, lambda: False)
        assert same(weights(store.run("long").milestone(step)), weights(run))
    rates = [line["learning_rate"] for line in read_lines(store.run("long").metrics_file)]
    assert rates == pytest.approx([0.0, 5e-4, 1e-3, 1e-3])


def test_an_interrupted_training_keeps_its_milestones(configure: Configure, store: Store) -> None:
    """One that is stopped after a milestone and resumed has it once, and goes on to the next."""
    config = configure(**CONSTANT, checkpoint=Checkpoint(every=100, milestones=[2, 5]))
    calls = iter([False, False, False, True, True])
    with pytest.raises(Stopped):
        train(config, store.run("r"), store, lambda: next(calls))
    assert [step for step, _ in store.run("r").milestones()] == [2]
    train(config, store.run("r"), store, lambda: False)
    assert [step for step, _ in store.run("r").milestones()] == [2, 5]
    assert not store.run("r").checkpoints.exists()
    models = [point.folder.model for point in points_of(store.run("r"))]
    for model, name in zip(models, ("r@2", "r@5", "r"), strict=True):
        content = {path.name: path.read_bytes() for path in model.glob("[!.]*") if path.suffix != ".md"}
        sizes = {file: len(data) for file, data in content.items()}
        sums = {file: xxhash.xxh3_128_hexdigest(data) for file, data in content.items()}
        assert read_fact(model / ".trained.json") == {"model": name, "files": sizes, "sums": sums}
    assert (read_fact(store.run("r").result_file) or {})["sums"] == sums


def test_a_milestone_behind_the_last_step_is_told(
    configure: Configure, store: Store, capfd: pytest.CaptureFixture[str]
) -> None:
    """With epochs the number of steps is known on the node alone: its log says which milestones there cannot be."""
    config = configure(
        **CONSTANT, trainer__max_steps=None, trainer__epochs=0.5, checkpoint=Checkpoint(every=100, milestones=[1, 99])
    )
    train(config, store.run("r"), store, lambda: False)
    assert [step for step, _ in store.run("r").milestones()] == [1]
    steps = (read_fact(store.run("r").result_file) or {})["steps"]
    assert f"checkpoint.milestones=[99]: never reached, the training has {steps} steps" in capfd.readouterr().out


def test_results_have_a_row_for_each_evaluated_milestone(store: Store) -> None:
    """Rows before the run's own, named RUN@STEP, with their own scores, step and curve; without them none."""
    run = store.run("r")
    row = {"run_id": "r", "axes": {"beta": 0.1}, "step": 5, "max_steps": 6, "status": "RUNNING", "gpu_hours": 2.0}
    row |= {"milestone": None, "curve": [{"step": 2}, {"step": 4}], "revision": {"address": "me/r@r"}}
    assert with_milestones(row, run) == [row]
    for step in (2, 4):
        run.milestone(step).model.mkdir(parents=True)
    run.milestone(2).evaluation_file.write_text('{"loss": 0.5, "golden_rewards": [1.0]}')
    point, own = with_milestones(row, run)
    assert (point["run_id"], point["step"], point["milestone"], point["status"]) == ("r@2", 2, 2, "TRAINED")
    assert (point["axes"], own["axes"]) == ({"beta": 0.1, "step": 2}, {"beta": 0.1, "step": 6})
    assert (point["evaluation"]["loss"], point["golden_rewards"], point["curve"]) == (0.5, [1.0], [{"step": 2}])
    assert (point["gpu_hours"], point["revision"]) == (None, None)  # the run's; not published
    assert (own["gpu_hours"], own["revision"]) == (2.0, {"address": "me/r@r"})


MODEL = (
    "config.json", "generation_config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
    "model.safetensors.index.json", "adapter_config.json", "adapter_model.safetensors", "tokenizer.json",
    "tokenizer_config.json", "tokenizer.model", "spiece.model", "qwen.tiktoken", "source.spm", "vocab.json",
    "vocab.txt", "merges.txt", "special_tokens_map.json", "chat_template.jinja",
    "additional_chat_templates/tool_use.jinja", "modeling_ours.py", "modules/attention.py", "1_Pooling/config.json",
)  # fmt: skip
TRAINING = (
    "trainer_state.json", "complete.json", "zero_to_fp32.py", "optimizer.pt", "optimizer.bin", "scheduler.pt",
    "rng_state.pth", "rng_state_0.pth", "training_args.bin", "pytorch_model.bin", "latest", "README.md",
    "global_step3/zero_pp_rank_0_mp_rank_00_optim_states.pt", "global_step3/weights.safetensors", ".hidden.json",
    ".cache/config.json", "checkpoint-1/model.safetensors", "runs/events.out.tfevents.1", "modules/state.pkl",
)  # fmt: skip


def fill(folder: Path) -> None:
    """Make the folder of a trainer with every kind of file, each with its name as content."""
    for name in (*MODEL, *TRAINING):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}" if name.endswith("adapter_config.json") else name)


def names_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_milestone_survives_its_checkpoint(tmp_path: Path) -> None:
    """All that loading needs stays when the checkpoint goes, what only training needs does not; once is enough."""
    checkpoint = tmp_path / "checkpoint-3"
    fill(checkpoint)
    keep(checkpoint, tmp_path / "kept")
    shutil.rmtree(checkpoint)
    keep(checkpoint, tmp_path / "kept")
    assert names_in(tmp_path / "kept") == set(MODEL)
    assert (tmp_path / "kept/modules/attention.py").read_text() == "modules/attention.py"


def test_a_revision_holds_of_a_model_what_a_milestone_keeps(store: Store) -> None:
    """One rule says what makes a model, of whichever folder, so that no milestone lacks what its revision needs."""
    (run,) = trained_runs(store, "hub=folder", "sweep=scan", "loss_type=ipo")
    shutil.rmtree(run.model)
    fill(run.model)
    keep(run.model, run.milestone(2).model)
    records = {"config.yaml", "metrics.jsonl", "README.md", "prefsweep.json"}
    for point, own in ((Point(run, 2), set()), (Point(run), {"result.json", "evaluation.json"})):
        revision = Path(publish(point, Hub(store="folder", repo="x", revision="ipo"), store).address)
        assert names_in(revision) == {*MODEL, *records, *own}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"trainer__lr_scheduler": "cosine"},
            r"trainer\.lr_scheduler=cosine: .* give constant or constant_with_warmup",
        ),
        (
            {"trainer__lr_scheduler": "constant_with_warmup", "trainer__warmup_ratio": 0.3, "trainer__max_steps": 21},
            r"trainer\.warmup_ratio=0\.3: with checkpoint\.milestones the warm-up .* give trainer\.warmup_steps=7",
        ),
        (
            {
                "trainer__lr_scheduler": "constant_with_warmup",
                "trainer__warmup_ratio": 0.3,
                "trainer__max_steps": None,
                "trainer__epochs": 2.0,
            },
            r"trainer\.warmup_ratio=0\.3: with checkpoint\.milestones the warm-up .* give trainer\.warmup_steps=N",
        ),
        ({"trainer__warmup_steps": -1}, r"trainer\.warmup_steps=-1: must be at least 0"),
        ({"trainer__max_steps": 3}, r"checkpoint\.milestones: 3 is no step before the last"),
    ],
)
def test_what_would_make_no_sense_is_refused(configure: Configure, changes: dict[str, Any], message: str) -> None:
    """A schedule that depends on the end, and a milestone at or after it."""
    config = configure(**CONSTANT | changes, checkpoint=Checkpoint(every=1, milestones=[3]))
    with pytest.raises(ConfigError, match=message):
        check(config, trl_losses())


# ------------------------------------------------------------------------------------------------ published by jobs


def published_by_its_job(store: Store, *argv: str) -> tuple[RunDir, AttemptDir]:
    """A finished run with two milestones whose job has published what it could."""
    (run,) = trained_runs(store, "hub=folder", "hub.when=job", "sweep=scan", "loss_type=ipo", *argv)
    keep_milestones(run, step2=0.25, step4=0.5)
    attempt = run.attempts()[-1]
    publish_in_job(attempt, store, lambda: False)
    return run, attempt


def reason(run: RunDir) -> str | None:
    return states_of([run], FakeScheduler())[0].reason


def evaluation_of(run: RunDir) -> AttemptDir:
    """A job that has measured a benchmark of the trained run."""
    asked = run.attempts()[-1].record
    attempt = run.new_attempt(replace(asked, purpose=Purpose.EVALUATION))
    write_once(run.evaluations.result_file("command"), {"scores": {"speed": 3.5}})
    return attempt


def test_a_job_publishes_every_point_and_notes_which_it_could_not(store: Store) -> None:
    """The milestone whose folder is somebody else's is named, the others are there; `publish` completes the run."""
    foreign = store.published("tiny-scan", "ipo-0.1-step2")
    foreign.mkdir(parents=True)
    run, attempt = published_by_its_job(store)
    assert sorted(path.name for path in foreign.parent.iterdir() if path.suffix != ".lock") == [
        "ipo-0.1", "ipo-0.1-step2", "ipo-0.1-step4",
    ]  # fmt: skip
    note = read_fact(attempt.unpublished_file) or {}
    assert note["reason"].startswith(f"{run.run_id}@2: {foreign} is there and is no revision of ours")
    assert reason(run) == f"not published: {note['reason']}"
    assert not attempt.failure_file.exists()
    foreign.rmdir()
    assert [
        act(each, store).error for each in decide(run, HubLook(), trained=True, in_flight=False, store=None, repo=None)
    ] == [None] * 3
    assert reason(run) is None


def test_a_job_that_evaluates_publishes_its_scores(store: Store) -> None:
    """The final model's revision is made anew, the milestones' stay; one published elsewhere is left, which is told."""
    run, _ = published_by_its_job(store)
    before = read_fact(run.milestone(4).revision_file)
    publish_in_job(evaluation_of(run), store, lambda: False)
    folder = store.published("tiny-scan", "ipo-0.1")
    assert (read_fact(folder / "evaluations" / "command.json") or {})["scores"] == {"speed": 3.5}
    assert "| command: speed | 3.5 |" in (folder / "README.md").read_text()
    assert read_fact(run.milestone(4).revision_file) == before
    elsewhere = (read_fact(run.revision_file) or {}) | {"repo": "else"}
    write_derived(run.revision_file, json.dumps(elsewhere))
    write_derived(run.evaluations.result_file("command"), json.dumps({"scores": {"speed": 7.0}}))
    publish_in_job(run.attempts()[-1], store, lambda: False)
    assert "| command: speed | 3.5 |" in (folder / "README.md").read_text()
    assert read_fact(run.revision_file) == elsewhere
    assert reason(run) == f"not published: {run.run_id}: was published as {folder}, which lacks the new scores"


def test_scores_that_cannot_be_published_are_kept_and_told(store: Store) -> None:
    """A revision that has become another run's stays; the evaluation stands, and status says why its card is old."""
    run, _ = published_by_its_job(store)
    marker = store.published("tiny-scan", "ipo-0.1") / "prefsweep.json"
    own = marker.read_text()
    write_derived(marker, '{"run_id": "other", "content": ""}')
    attempt = evaluation_of(run)
    publish_in_job(attempt, store, lambda: False)
    assert "is the revision of other" in (reason(run) or "")
    assert run.evaluations.result_file("command").exists()
    assert not attempt.failure_file.exists()
    write_derived(marker, own)
    assert [
        act(each, store).error for each in decide(run, HubLook(), trained=True, in_flight=False, store=None, repo=None)
    ] == [None] * 3
    assert reason(run) is None


def test_a_run_waits_for_its_hub_once_and_not_for_each_milestone(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a push that failed has taken is taken from the patience of the next ones, which are tried all the same."""
    clock, patiences = [0.0], []

    def in_vain(_: Point, hub: Hub, *__: Any) -> Revision:
        patiences.append(hub.patience)
        clock[0] += hub.patience * 0.75
        raise PublishError("the Hub is away")

    monkeypatch.setattr(worker_publish, "publish", in_vain)
    monkeypatch.setattr(worker_publish, "time", SimpleNamespace(monotonic=lambda: clock[0], time=time.time))
    _, attempt = published_by_its_job(store, "hub.patience=160")
    assert patiences == [160, 40, 10]
    assert (read_fact(attempt.unpublished_file) or {})["reason"] == "; ".join(["the Hub is away"] * 3)
