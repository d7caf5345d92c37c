"""Values that can never work are refused by the plan: its tables of schedules and optimizers against real trainings."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

import deepspeed
import pytest
import torch
from accelerate.utils.deepspeed import map_pytorch_optim_to_deepspeed
from conftest import clean_environment, sweep_of
from transformers import Trainer, TrainingArguments
from worker_fixtures import Configure

from launcher.config import RunConfig
from launcher.errors import ConfigError
from launcher.machine.installed import package_dir, transformers_names, trl_losses
from launcher.planning import prerequisites
from launcher.planning.rules import check
from launcher.planning.trainer_rules import OFFLOADED, OPTIMIZER_PACKAGES
from launcher.store.files import read_lines
from launcher.store.output_folder import Store
from launcher.worker.training.train import train

SCHEDULES = sorted(transformers_names("trainer_utils.py", "SchedulerType"))
OPTIMIZERS = sorted(transformers_names("training_args.py", "OptimizerNames"))


def accepts(config: RunConfig) -> bool:
    """Whether the plan takes it, here: with what this machine has installed."""
    module, _ = OPTIMIZER_PACKAGES.get(config.trainer.optimizer, ("transformers", ""))
    try:
        check(config, trl_losses())
    except ConfigError:
        return False
    return package_dir(module) is not None


def losses_of(config: RunConfig, store: Store) -> list[float]:
    """The loss at each step of a training of three."""
    run = store.run("r")
    train(config, run, store, lambda: False)
    return [line["loss"] for line in read_lines(run.metrics_file)]


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_that_the_plan_takes_train_and_the_others_cannot(
    configure: Configure, store: Store, name: str
) -> None:
    """Every schedule that the installed transformers knows."""
    config = configure(trainer__lr_scheduler=name, trainer__max_steps=3)
    if accepts(config):
        assert len(losses_of(config, store)) == 3
    else:
        with pytest.raises((ValueError, TypeError)):
            losses_of(config, store)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_that_the_plan_takes_train_and_the_others_cannot(
    configure: Configure, store: Store, name: str, dtype: str
) -> None:
    """Every optimizer that the installed transformers knows, on the weights and on their float32 copies."""
    schedule = {"trainer__lr_scheduler": "constant", "trainer__max_steps": 3}
    config = configure(trainer__optimizer=name, model__dtype=dtype, **schedule)
    if accepts(config):
        first, *_, last = losses_of(config, store)
        assert first == pytest.approx(0.6931, abs=1e-3)
        assert abs(last - first) > 1e-5
    else:
        with pytest.raises((ValueError, ImportError)):
            losses_of(config, store)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.lr_scheduler=cosine_with_min_lr", "needs min_lr, which no key gives; give cosine"),
        ("trainer.lr_scheduler=warmup_stable_decay", "needs num_decay_steps"),
        ("trainer.lr_scheduler=reduce_lr_on_plateau", "in the middle of a training"),
        ("trainer.lr_scheduler=polynomial trainer.learning_rate=1e-7", "trainer.learning_rate=1e-07: a polynomial"),
        ("trainer.optimizer=galore_adamw_8bit_layerwise", "needs optim_target_modules.*; give adamw_torch"),
        ("trainer.optimizer=schedule_free_adamw", "an average of the weights"),
        ("trainer.optimizer=adamw_torch_xla", "is for TPUs"),
        ("trainer.optimizer=sgd deepspeed=zero3_offload", "not computed where deepspeed=zero3_offload keeps its state"),
        ("trainer.learning_rate=-1e-3", "must be a number greater than 0"),
        ("trainer.learning_rate=nan", "must be a number greater than 0"),
        ("trainer.max_grad_norm=-1", "must be a number greater than 0"),
        ("trainer.epochs=0", "must be a number greater than 0"),
        ("trainer.weight_decay=-0.1", "must be at least 0"),
        ("trainer.batch_size=0", "must be at least 1"),
        ("trainer.lora.alpha=0", "must be at least 1"),
        ("evaluation.temperature=0", "must be at least 1e-06, since the KL"),
        ("evaluation.temperature=1e-40", "must be at least 1e-06"),
        ("evaluation.temperature=inf", "must be at least 1e-06"),
        ("evaluation.seed=-1", "must be at least 0 and less than"),
        ("evaluation.lm_eval.batch_size=many", "must be a whole number from 1, or auto"),
        ("model.attn_implementation=spda", "must be one of eager, sdpa.*did you mean 'sdpa'"),
        ("model.attn_implementation=flash_attention_2 model.dtype=float32", "computes in bfloat16 alone"),
    ],
)
def test_what_can_never_work_is_refused_with_key_value_and_remedy(override: str, message: str) -> None:
    """By the key's name; where two keys are given, the first is named unless the message says otherwise."""
    key = override.partition("=")[0]
    with pytest.raises(ConfigError, match=message) as refused:
        sweep_of("model=tiny", "trainer=lora", "loss_type=sigmoid", *override.split())
    assert key in str(refused.value) or "learning_rate" in str(refused.value)


def test_an_optimizer_whose_state_is_kept_elsewhere_stays_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Offloaded, accelerate computes AdamW for those that the plan takes, and Adam for others, or nothing."""
    monkeypatch.setattr(deepspeed.ops.adam, "DeepSpeedCPUAdam", lambda _, **told: told["adamw_mode"])
    stays = set()
    for name in ("adamw_torch", "adamw_torch_fused", "adagrad", "sgd", "rmsprop", "adafactor", "ademamix", "lion_32bit",
                 "lion_8bit", "adamw_8bit", "paged_adamw_32bit", "paged_lion_32bit"):  # fmt: skip
        arguments = TrainingArguments(optim=name, report_to="none", output_dir="unused")
        kind, keywords = Trainer.get_optimizer_cls_and_kwargs(arguments)
        optimizer = kind([torch.nn.Parameter(torch.zeros(2))], **{"lr": 1e-3, **keywords})
        with contextlib.suppress(TypeError):
            stays |= {name} if map_pytorch_optim_to_deepspeed(optimizer) else set()
    assert stays == set(OFFLOADED)


def test_an_optimizer_whose_package_is_missing_is_refused_where_jobs_have_these_packages(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In a dry run too; a job's own Python or container may have it."""
    monkeypatch.setattr(prerequisites, "package_dir", lambda _: None)
    for name, package in (("paged_adamw_8bit", "bitsandbytes"), ("stable_adamw", "torch-optimi")):
        words = rf"trainer\.optimizer={name}: \w+ is not installed here; pip install {package}, or give adamw_torch"
        with pytest.raises(ConfigError, match=words):
            prerequisites.check_sources(sweep_of("model=tiny", f"trainer.optimizer={name}"), dry_run=True)
    elsewhere = ("cluster=slurm", "cluster.container=IMAGE", "cluster.container_runtime=pyxis")
    sweep = sweep_of("model=tiny", "trainer.optimizer=paged_adamw_8bit", *elsewhere)
    assert prerequisites.check_sources(sweep, dry_run=True) == []


def test_the_launch_ends_with_2_and_one_line(tmp_path: Path) -> None:
    """As for every configuration that is wrong."""
    done = subprocess.run(
        [sys.executable, "-m", "launcher", "model=tiny", "dry_run=true", "trainer.optimizer=galore_adamw"],
        cwd=tmp_path, env=clean_environment(), text=True, capture_output=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "trainer.optimizer=galore_adamw: needs optim_target_modules" in done.stderr
