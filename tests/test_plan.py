"""Runs, their ids, duplicates and collisions."""

from __future__ import annotations

import pytest
from conftest import sweep_of

from launcher.errors import ConfigError
from launcher.planning.planned_runs import executor_of, run_id


def test_run_id_is_readable_and_the_hash_of_the_objective() -> None:
    """The id names model, loss and beta, and does not depend on how a number was written."""
    (one,) = sweep_of("beta=0.1").runs
    (other,) = sweep_of("beta=1e-1").runs
    assert one.run_id == other.run_id
    assert one.run_id.startswith("smollm2-135m-sigmoid-beta0.1-")
    assert len(one.run_id.rsplit("-", 1)[1]) == 8


@pytest.mark.parametrize(
    "override",
    [
        "output_dir=/elsewhere",
        "sweep=other",
        "cluster=local",
        "hub.repo=me/x",
        "evaluation.generations=3",
        "checkpoint.every=3",
    ],
)
def test_run_id_ignores_where_and_how(override: str) -> None:
    """Cluster, hub, tracking, paths and the sweep's name are not what is trained."""
    assert sweep_of(override).runs[0].run_id == sweep_of().runs[0].run_id


@pytest.mark.parametrize(
    "override",
    ["seed=1", "trainer=full", "trainer.max_steps=3", "dataset.train_pairs=5", "model.dtype=float32", "beta=1"],
)
def test_run_id_changes_with_what_is_trained(override: str) -> None:
    """Everything that changes the trained weights changes the id."""
    assert sweep_of(override).runs[0].run_id != sweep_of().runs[0].run_id


def test_an_optional_key_without_value_renames_nothing() -> None:
    """A later release that adds an optional key keeps the ids of earlier runs."""
    objective = sweep_of().runs[0].objective
    later = {**objective, "trainer": {**objective["trainer"], "new_option": None}}
    assert run_id(later) == run_id(objective)


def test_duplicates_are_dropped_and_counted() -> None:
    """range() yields 0.30000000000000004 and a list may name a value twice: one run each."""
    sweep = sweep_of("beta=0.3,0.30,3e-1,0.4")
    assert [run.config.beta for run in sweep.runs] == [0.3, 0.4]
    assert sweep.duplicates == 2
    ranged = sweep_of("beta=range(0.1,0.6,0.1)").runs
    assert [run.config.beta for run in ranged] == [0.1, 0.2, 0.3, 0.4, 0.5]
    assert ranged[2].run_id == sweep.runs[0].run_id


def test_two_runs_may_not_write_one_revision() -> None:
    """Runs that differ only in the seed would overwrite each other on the Hub: refused, with the remedy."""
    with pytest.raises(ConfigError, match=r"hub\.revision=sigmoid-0\.1: .*\$\{seed\}"):
        sweep_of("seed=1,2", "hub.repo=me/scan")
    assert len(sweep_of("seed=1,2", "hub.repo=me/scan", "hub.revision='${loss_type}-${seed}'").runs) == 2
    assert len(sweep_of("seed=1,2").runs) == 2


def test_what_is_submitted_together_goes_to_one_executor() -> None:
    """No run is silently sent elsewhere than it says."""
    here, there = sweep_of("cluster=local").runs, sweep_of("cluster=slurm", "seed=1,2").runs
    assert executor_of(there) == "slurm"
    with pytest.raises(ConfigError, match=r"cluster\.executor=local,slurm: one command submits to one executor"):
        executor_of([*here, *there])


def test_sweep_names() -> None:
    """The name given wins, then the sweep file's, then model and data set."""
    assert sweep_of("sweep=mine", "+sweeps=smoke").name == "mine"
    assert sweep_of("+sweeps=smoke").name == "smoke"
    assert sweep_of("beta=1,2").name == "smollm2-135m-movie-reviews"
    assert sweep_of("model=tiny,smollm2").name == "tiny+smollm2-135m-movie-reviews"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("beta=-1", "beta=-1"),
        ("beta=0", "beta=0"),
        ("beta=nan", "beta=nan"),
        ("beta=inf", "beta=inf"),
        ("loss_type=sigmod", "did you mean 'sigmoid'"),
        ("sweep=../x", "sweep=../x"),
        ("sweep=.hidden", "sweep=.hidden"),
        ("trainer.micro_batch_size=3", "trainer.batch_size=8"),
        ("trainer.batch_size=0", "trainer.batch_size=0"),
        ("trainer.learning_rate=0", "trainer.learning_rate=0"),
        ("trainer.warmup_ratio=1.5", "trainer.warmup_ratio=1.5"),
        ("model.path=null", "model.path"),
        ("dataset.path=x/y", "dataset.path"),
        ("model.dtype=float8", "model.dtype=float8"),
        ("model.dtype=float16", "model.dtype=float16: must be one of auto, float32, bfloat16 (did you mean 'bfloat16'"),
        ("+dataset.columns.choosen=a", "dataset.columns.choosen: no column of ours (did you mean 'chosen'?); there"),
        ("dataset.mixture=[{path:a/b,columns:{text:b}}]", "dataset.mixture[0].columns.text: no column of ours; there"),
        ("cluster.executor=slum", "did you mean 'slurm'"),
        ("cluster.time=soon", "days-hours"),
        (
            "cluster.time=2",
            "cluster.warning_seconds=120 before that limit, which is at its start; raise the one or lower the other",
        ),
        ("cluster.nodes=0", "cluster.nodes=0"),
        ("cluster.gpus_per_node=8", "x cluster.nodes=1 x cluster.gpus_per_node=8, that is of 64"),
        ("++deepspeed.config.zero_optimization.stage=4", "zero_optimization.stage=4: must be 1, 2 or 3"),
        ("++deepspeed.config.zero_optimization.stage=3", "stage3_gather_16bit_weights_on_model_save: must be true"),
        ("cluster.gpu_tflops=0", "cluster.gpu_tflops=0"),
        ("model.quantization=8bit", "must be one of 4bit"),
        ("trainer.lora.r=0", "trainer.lora.r=0: must be at least 1"),
        ("trainer.lora.dropout=1", "trainer.lora.dropout=1.0: must be at least 0 and less than 1"),
        ("trainer.weight_decay=nan", "trainer.weight_decay=nan: must be at least 0"),
        ("evaluation.temperature=-1", "evaluation.temperature=-1.0: must be at least 1e-06"),
        ("cluster.gpus_per_node=-1", "cluster.gpus_per_node=-1: must be at least 0"),
        ("cluster.memory_growth=0.5", "cluster.memory_growth=0.5: must be at least 1"),
        ("checkpoint.milestones=[1,[2]]", "checkpoint.milestones=[1, [2]]: must be a plain list"),
        ("dataset.golden_reward=bert", "must be one of vader"),
        ("evaluation.judge.base_url='http://[::1'", "must begin with http:// or https:// and name a host"),
        ("output_dir=", "output_dir=: give a folder"),
        ("seed=-1", "seed=-1: must be at least 0 and less than 4294967296"),
        ("dataset.mixture=[]", "dataset.mixture=[]"),
        ("dataset.mixture=[{path:a/b,fraction:2}]", "dataset.mixture[0].fraction=2"),
        ("dataset.mixture=[{path:./b}]", "give one of dataset.path"),
        ("cluster.container_runtime=docker", "pyxis"),
        ('cluster.account="a\nb"', "one line"),
        ("evaluation.generations=0", "evaluation.generations=0"),
        ("cluster.job_name=a/b", "cluster.job_name=a/b: needs letters, digits"),
        ("cluster.job_name=../x", "cluster.job_name=../x: needs letters, digits"),
        (
            "+cluster.extra.job_name=x",
            "cluster.extra.job_name=x: the launcher counts on its own; set sweep and cluster.job_name",
        ),
        ("+cluster.extra.clusters=c2", "extra.clusters=c2: the launcher counts on its own; set cluster.clusters"),
        ("+cluster.extra.M=c2", "cluster.extra.M=c2: the launcher counts on its own; set cluster.clusters"),
        ("cluster.clusters='a,b'", "cluster.clusters=a,b: give one name"),
        ("cluster.clusters=all", "cluster.clusters=all: give one name"),
        ("+evaluation.cluster.clusters=c2", "evaluation.cluster.clusters: is the same for training and evaluation"),
        ("+cluster.extra.wait=true", "cluster.extra.wait=True: the launcher counts on its own; leave it out"),
        ("evaluation.command.minutes=0", "evaluation.command.minutes=0.0: must be greater than 0"),
        ("evaluation.lm_eval.minutes=nan", "evaluation.lm_eval.minutes=nan: must be greater than 0"),
        ("evaluation.lm_eval.limit=0", "evaluation.lm_eval.limit=0: must be at least 1"),
        ("evaluation.lm_eval.num_fewshot=-1", "evaluation.lm_eval.num_fewshot=-1: must be at least 0"),
        ("dataset=kto_mix", "loss_type=sigmoid: trains on pairs, and kto-mix has completions with a label; give"),
        ("+extra=1", "extra: no such key"),
        ("+trainer.extra=1", "trainer.extra"),
    ],
)
def test_wrong_values_are_one_clear_line(override: str, words: str) -> None:
    """Each rule between the values names the key, the value and what would be right."""
    with pytest.raises(ConfigError) as caught:
        sweep_of(override)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_deepspeed_is_how_a_run_is_made_not_what_it_is() -> None:
    """The same run in another way has the same id, and stands in the sweep once."""
    ways = [sweep_of(f"deepspeed={way}").runs[0] for way in ("none", "zero2", "zero3", "zero3_offload")]
    assert len({run.run_id for run in ways}) == 1
    assert [run.config.deepspeed.name for run in ways] == ["none", "zero2", "zero3", "zero3_offload"]
    assert ways[2].settings["deepspeed"]["config"]["zero_optimization"]["stage"] == 3


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("deepspeed.config.train_batch_size=16", "set trainer.batch_size instead"),
        ("+deepspeed.config.optimizer.type=AdamW", "set trainer.optimizer, learning_rate and weight_decay instead"),
        ("deepspeed.config.gradient_clipping=0.5", "set trainer.max_grad_norm instead"),
        ("deepspeed.config.zero_optimization.stage3_gather_16bit_weights_on_model_save=false", "must be true"),
    ],
)
def test_what_a_run_decides_has_one_home(override: str, words: str) -> None:
    """DeepSpeed's JSON may not contradict the run, nor lose its weights; all else in it may be changed or added."""
    with pytest.raises(ConfigError) as caught:
        sweep_of("deepspeed=zero3", override)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    run = sweep_of("deepspeed=zero3", "deepspeed.config.zero_optimization.sub_group_size=1000").runs[0]
    assert run.config.deepspeed.config["zero_optimization"]["sub_group_size"] == 1000


def test_every_rank_takes_whole_micro_batches() -> None:
    """8 pairs a step: two nodes of two GPUs take 2 each, and cannot take 4."""
    sweep_of("cluster.nodes=2", "cluster.gpus_per_node=2", "trainer.micro_batch_size=2")
    with pytest.raises(ConfigError, match=r"trainer\.batch_size=8: must be a multiple of .* of 16"):
        sweep_of("cluster.nodes=2", "cluster.gpus_per_node=2", "trainer.micro_batch_size=4")
