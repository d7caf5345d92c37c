"""What is wrong with where and how a run is to be computed.

Owns: the rules of `cluster` and `deepspeed`, and between them and the batch.
Must not know: what a cluster offers, how a job is submitted, any scheduler's own options (its executor names them).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from launcher.cluster.notation import minutes
from launcher.cluster.scheduler import kept_options, warned_early_seconds
from launcher.config import AUTO_TIME, WEIGHTS_DIVIDED, Cluster, DeepSpeed, RunConfig
from launcher.errors import UNSAID, ConfigError

ZERO_STAGES = (1, 2, 3)
_JOB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")  # also of a folder
# Keys of DeepSpeed's JSON whose value is the run's, and the keys that hold it.
DEEPSPEED_HOMES = {
    "optimizer": "trainer.optimizer, learning_rate and weight_decay",
    "scheduler": "trainer.lr_scheduler and warmup_ratio",
    "gradient_clipping": "trainer.max_grad_norm",
    "train_batch_size": "trainer.batch_size",
    "train_micro_batch_size_per_gpu": "trainer.micro_batch_size",
    "gradient_accumulation_steps": "trainer.batch_size and micro_batch_size",
    "fp16": "model.dtype",
}


def cluster_problems(cluster: Cluster) -> Iterator[ConfigError]:
    """Each in one line, with key, value and remedy."""
    limit, early = minutes(cluster.time), warned_early_seconds(cluster.executor)
    if cluster.time not in (None, AUTO_TIME) and limit is None:
        yield ConfigError(
            "cluster.time",
            cluster.time,
            f"give {AUTO_TIME}, minutes, hours:minutes:seconds, or days-hours:minutes:seconds",
        )
    if limit and limit * 60 <= cluster.warning_seconds + early:
        yield ConfigError(
            "cluster.time",
            cluster.time,
            f"a job may be warned {early} s earlier than "
            f"cluster.warning_seconds={cluster.warning_seconds} before that limit, which is at its start; raise the "
            "one or lower the other",
        )
    for key, value in (*vars(cluster).items(), *cluster.extra.items()):
        if isinstance(value, str) and ("\n" in value or "\r" in value):
            yield ConfigError(f"cluster.{key}", repr(value), "must be one line")
    if cluster.job_name is not None and not _JOB_NAME.fullmatch(cluster.job_name):
        remedy = "needs letters, digits, '.', '_', '+' or '-', at most 64, the first no sign"
        yield ConfigError("cluster.job_name", cluster.job_name, remedy)
    homes = kept_options(cluster.executor)
    for key, value in cluster.extra.items():
        if (option := key.replace("_", "-")) in homes:
            home = homes[option]
            instead = f"set {home}" if home else "leave it out"
            yield ConfigError(f"cluster.extra.{key}", value, f"the launcher counts on its own; {instead}")
    if cluster.gpu_tflops is not None and not cluster.gpu_tflops > 0:
        yield ConfigError(
            "cluster.gpu_tflops", cluster.gpu_tflops, "must be greater than 0 (312 for an A100, 989 for an H100)"
        )


def rank_problems(config: RunConfig) -> Iterator[ConfigError]:
    """One task a GPU, or one a node without GPUs: each takes whole micro-batches of every optimizer step."""
    cluster, trainer = config.cluster, config.trainer
    ranks = cluster.nodes * max(1, cluster.gpus_per_node)
    at_once = trainer.micro_batch_size * ranks
    if ranks > 1 and at_once > 0 and trainer.batch_size % at_once:
        yield ConfigError(
            "trainer.batch_size",
            trainer.batch_size,
            "must be a multiple of trainer.micro_batch_size="
            f"{trainer.micro_batch_size} x cluster.nodes={cluster.nodes} x cluster.gpus_per_node="
            f"{cluster.gpus_per_node}, that is of {at_once}",
        )


def deepspeed_problems(deepspeed: DeepSpeed, packed: str | None) -> Iterator[ConfigError]:
    """Of a model whose weights are `packed` in that manner, if any."""
    if not deepspeed.config:
        return
    zero = deepspeed.config.get("zero_optimization")
    stage = zero.get("stage") if isinstance(zero, dict) else None
    if stage not in ZERO_STAGES:
        yield ConfigError("deepspeed.config.zero_optimization.stage", stage, "must be 1, 2 or 3")
    elif stage == WEIGHTS_DIVIDED and zero.get("stage3_gather_16bit_weights_on_model_save") is not True:  # type: ignore[union-attr]
        yield ConfigError(
            "deepspeed.config.zero_optimization.stage3_gather_16bit_weights_on_model_save",
            UNSAID,
            "must be true, or the final model would be saved without its weights",
        )
    elif stage == WEIGHTS_DIVIDED and packed is not None:
        yield ConfigError(
            "model.quantization", packed, "packed weights cannot be divided; give deepspeed=zero2 or none"
        )
    for key, ours in DEEPSPEED_HOMES.items():
        if deepspeed.config.get(key, "auto") != "auto":
            yield ConfigError(
                f"deepspeed.config.{key}", deepspeed.config[key], f"set {ours} instead and leave this to auto"
            )
