"""What is wrong with where and how a run is to be computed.

Owns: the rules of `cluster` and `deepspeed`, and between them and the batch.
Must not know: what a cluster offers, how a job is submitted, any scheduler's own options (its executor names them).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from launcher.cluster.notation import minutes
from launcher.cluster.scheduler import kept_options, replaced, switches, warned_early_seconds
from launcher.config import AUTO_TIME, WEIGHTS_DIVIDED, Cluster, DeepSpeed, RunConfig
from launcher.errors import UNSAID, ConfigError
from launcher.planning.options import as_keys, keys_in_extra

ZERO_STAGES = (1, 2, 3)
_JOB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")  # also of a folder
_CLUSTER = re.compile(r"[\w.@+-]+")
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
    """Each in one line, with key, value and remedy: of what `cluster.extra` says in a key's place, too."""
    typed = {f"cluster.{key}": f"cluster.extra.{key}" for key in keys_in_extra(cluster)}
    yield from (problem.renamed(typed) for problem in _problems(as_keys(cluster)))


def _problems(cluster: Cluster) -> Iterator[ConfigError]:
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
    if cluster.clusters is not None and (cluster.clusters.lower() == "all" or not _CLUSTER.fullmatch(cluster.clusters)):
        remedy = "give one name: jobs of a sweep wait for one another, which works within one cluster alone"
        yield ConfigError("cluster.clusters", cluster.clusters, remedy)
    yield from _option_problems(cluster)
    yield from _doubled_problems(cluster)
    if cluster.gpu_tflops is not None and not cluster.gpu_tflops > 0:
        yield ConfigError(
            "cluster.gpu_tflops", cluster.gpu_tflops, "must be greater than 0 (312 for an A100, 989 for an H100)"
        )


def _option_problems(cluster: Cluster) -> Iterator[ConfigError]:
    """Of `cluster.extra`; what begins an option's name stands for it, as its executor takes it."""
    homes, plain = kept_options(cluster.executor), switches(cluster.executor)
    for key, value in cluster.extra.items():
        option = key.replace("_", "-")
        kept = option if option in homes else next((each for each in homes if each.startswith(option)), None)
        if kept is not None:
            instead = f"set {homes[kept]}" if homes[kept] else "leave it out"
            yield ConfigError(f"cluster.extra.{key}", value, f"the launcher counts on its own; {instead}")
        elif value is True and plain is not None and option not in plain:
            remedy = f"--{option} needs a value; true is for {', '.join(sorted(plain))}"
            yield ConfigError(f"cluster.extra.{key}", value, remedy)


def _doubled_problems(cluster: Cluster) -> Iterator[ConfigError]:
    """Of what is said in several words, of which a job has one: an option of a key's own name merely wins over it."""
    extra = {option.replace("_", "-"): value for option, value in cluster.extra.items()}
    for key, options in replaced(cluster).items():
        said = {f"cluster.extra.{option}": extra[option] for option in options if extra[option] is not None}
        if key not in options and vars(cluster)[key] is not None:
            said = {f"cluster.{key}": vars(cluster)[key], **said}
        if len(said) > 1:
            (first, value), *others = said.items()
            beside = ", ".join(f"{other}={given}" for other, given in others)
            yield ConfigError(first, value, f"a job has one of this and {beside}; set the others to null")


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
