"""The named sweeps: each plans as its header says, without a model hub, in seconds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from conftest import Launch, sweep_of

from launcher.errors import ConfigError
from launcher.machine.installed import data_dir, transformers_names
from launcher.planning import prerequisites
from launcher.planning.budget import budgets

NAMES = sorted(path.stem for path in data_dir("sweeps").glob("*.yaml"))


@pytest.mark.parametrize("name", NAMES)
def test_a_sweep_has_as_many_runs_as_its_header_says(name: str) -> None:
    """The header names source, runs, hardware, GPU-hours and disk, and its number of runs is the plan's."""
    lines = (data_dir("sweeps") / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    header = " ".join(line.lstrip("# ") for line in lines if line.startswith("#"))
    assert all(f"{word}:" in header for word in ("Source", "Runs", "Hardware", "GPU-hours", "Disk"))
    runs = re.search(r"Runs: (\d+)", header)
    assert runs is not None
    assert len(sweep_of(f"+sweeps={name}").runs) == int(runs[1])


def test_pref_align_scan_is_the_published_grid() -> None:
    """60 runs, each model with its own data set only, values as in the recipe that docs/recipes.md lists."""
    runs = sweep_of("+sweeps=pref_align_scan").runs
    pairs = {(run.config.model.path, run.config.dataset.path) for run in runs}
    assert pairs == {
        ("alignment-handbook/zephyr-7b-sft-full", "HuggingFaceH4/ultrafeedback_binarized"),
        ("teknium/OpenHermes-2.5-Mistral-7B", "HuggingFaceH4/orca_dpo_pairs"),
    }
    betas = {run.config.beta for run in runs}
    assert betas == {0.01, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9}
    trainer, dataset = runs[0].config.trainer, runs[0].config.dataset
    assert (trainer.learning_rate, trainer.lr_scheduler, trainer.warmup_ratio) == (5e-7, "cosine", 0.1)
    assert (trainer.batch_size, trainer.micro_batch_size, trainer.epochs) == (128, 8, 1.0)
    assert (trainer.max_length, trainer.gradient_checkpointing, runs[0].config.seed) == (1024, True, 42)
    assert (dataset.train_split, dataset.test_split) == ("train_prefs", "test_prefs")


def test_the_fine_scan_shares_its_runs_with_the_coarse_one() -> None:
    """At the betas that both hold, a run of one is a run of the other."""
    coarse, fine = ({run.run_id for run in sweep_of(f"+sweeps=pref_align_{name}").runs} for name in ("scan", "fine"))
    assert len(coarse & fine) == 18


def test_estimates_are_no_part_of_a_run() -> None:
    """What is told of a model or a data set renames no run."""
    one, two = (
        sweep_of("model=qwen_0_6b", "dataset=orca_dpo_pairs", *more).runs[0]
        for more in ([], ["model.about.parameters=1", "dataset.about.train_pairs=2"])
    )
    assert one.run_id == two.run_id
    assert "about" not in one.objective["model"]


def test_packed_weights_need_adapters() -> None:
    """model.quantization with a trainer of all weights is refused when the sweep is planned, and not with adapters."""
    with pytest.raises(ConfigError, match=r"model\.quantization=4bit: packed weights cannot be trained; give trainer"):
        sweep_of("model=qwen_0_6b", "model.quantization=4bit", "trainer=full")
    assert sweep_of("model=qwen_0_6b", "model.quantization=4bit", "trainer=zephyr_lora").runs


def test_packed_weights_are_not_divided() -> None:
    """Under ZeRO-3 no rank has weights to pack; under ZeRO-2 each has."""
    packed = ("model=qwen_0_6b", "model.quantization=4bit", "trainer=zephyr_lora")
    with pytest.raises(ConfigError, match=r"model\.quantization=4bit: packed weights cannot be divided; give deeps"):
        sweep_of(*packed, "deepspeed=zero3")
    assert sweep_of(*packed, "deepspeed=zero2").runs


@pytest.mark.parametrize(
    ("override", "near"), [("trainer.optimizer=adamw_troch", "adamw_torch"), ("trainer.lr_scheduler=cosin", "cosine")]
)
def test_optimizers_and_schedules_are_those_of_the_installed_transformers(override: str, near: str) -> None:
    """A name that it lacks is refused before anything is submitted, with the nearest and all that it has."""
    with pytest.raises(ConfigError, match=rf"{override}: no such name \(did you mean '{near}'.*; the installed"):
        prerequisites.check_sources(sweep_of("model=tiny", override), dry_run=True)
    names = (("training_args.py", "OptimizerNames"), ("trainer_utils.py", "SchedulerType"))
    optimizers, schedules = (transformers_names(*each) for each in names)
    assert {"adamw_torch", "adafactor", "paged_adamw_8bit"} <= optimizers
    assert {"cosine", "constant_with_warmup"} <= schedules
    assert not optimizers & schedules


def test_what_packs_weights_must_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where jobs use this Python and bitsandbytes is not there, a launch says how to get it; a dry run notes it."""
    monkeypatch.setattr(prerequisites, "package_dir", lambda _: None)
    sweep = sweep_of("model=qwen_0_6b", "model.quantization=4bit", "trainer=zephyr_lora", "dataset=orca_dpo_pairs")
    with pytest.raises(ConfigError, match=r"model\.quantization=4bit: bitsandbytes is not installed here; pip install"):
        prerequisites.check_sources(sweep, dry_run=False)
    assert len(prerequisites.check_sources(sweep, dry_run=True)) == 1
    weak = ("path=a/b", "model.path=a/weak", "model.gguf_file=null", "model.quantization=4bit")
    named = ("dataset=weak_rejects", "dataset.name=w", *(f"dataset.weak_rejects.{each}" for each in weak))
    with pytest.raises(ConfigError, match=r"model\.quantization=4bit: bitsandbytes is not installed"):
        prerequisites.check_sources(sweep_of("model=tiny", *named), dry_run=False)


def test_a_plan_of_60_runs_asks_no_hub(launch: Launch, tmp_path: Path) -> None:
    """dry_run=true shows ids, revisions, resources, GPU-hours and disk, and writes nothing."""
    done = launch("-m", "+sweeps=pref_align_scan", "dry_run=true")
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^(?:zephyr-7b-sft|openhermes-2.5-7b)-\w+-beta[\d.]+-[0-9a-f]{8} ", done.stdout, re.MULTILINE)
    assert len(rows) == 60
    assert "HuggingFaceH4/ultrafeedback_binarized@3949bf5f8c17c394422ccfab0c31ea9c20bdeb85" in done.stdout
    assert "1 x 8 GPUs zero3" in done.stdout
    assert "estimate: about 940 to 4,700 GPU-hours, at 5 to 25 % of an A100's 312 TFLOP/s (3 or 2" in done.stdout
    assert not re.search("at most|<= ", done.stdout)
    assert "disk: about 869 GB of final models" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "losses", "settings", "seeds"), [("fair_losses", 9, 9, 3), ("fair_losses_small", 6, 3, 2)]
)
def test_fair_sweeps_give_each_loss_the_same(name: str, losses: int, settings: int, seeds: int) -> None:
    """As many settings and seeds for each loss, whose revisions tell all runs apart in one repository."""
    sweep = sweep_of(f"+sweeps={name}", "hub=folder", "hub.repo=one")
    given = budgets(sweep.runs)
    assert {each.size for each in given} == {(settings, seeds, seeds)}
    assert (len(given), sweep.duplicates, sweep.twins) == (losses, 0, ())
    assert len({run.config.hub.revision for run in sweep.runs}) == len(sweep.runs) == losses * settings * seeds


def test_fair_losses_state_their_budget_and_take_a_larger_model(launch: Launch) -> None:
    """In the plan, also of one override for 7B weights, and of the loss that is asked for."""
    done = launch("-m", "+sweeps=fair_losses", "dry_run=true", "model=zephyr_7b_sft", "loss_type=orpo,sigmoid+sft")
    assert done.returncode == 0, done.stderr
    assert "\nbudget: 9 settings x 3 seeds for each of sigmoid+sft, orpo\n" in done.stdout
    assert "zephyr-7b-sft-orpo-" in done.stdout
    assert "loss_type=orpo,sigmoid+sft leaves out 7 of the 9 grids of sweeps/fair_losses.yaml" in done.stderr
