"""What is wrong with a run's configuration.

Owns: the values that a key may take, and the rules between keys; each problem in one line with key, value and remedy.
Must not know: files, Hydra, schedulers but their names, torch; where a configuration comes from.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator
from dataclasses import fields, replace
from operator import attrgetter
from urllib.parse import urlsplit

from launcher.cluster.scheduler import AUTO, EXECUTORS
from launcher.config import Cluster, Evaluation, Judge, Model, RunConfig, Tracking, Trainer
from launcher.errors import UNSAID, ConfigError, near_choice, suggestion
from launcher.losses import UNPAIRED_LOSSES, loss_named
from launcher.planning.cluster_rules import cluster_problems, deepspeed_problems, rank_problems
from launcher.planning.dataset_rules import DTYPES, QUANTIZATIONS, dataset_problems
from launcher.planning.loss_rules import loss_problems
from launcher.planning.secrets import secret_problems
from launcher.planning.stages import OF_THE_TRAINING, evaluation_cluster
from launcher.planning.trainer_rules import offload_problems, trainer_problems
from launcher.store.results import BENCHMARKS

TRACKERS = ("auto", "wandb", "trackio", "tensorboard", "off")
TRACKING_MODES = (None, "online", "offline")
HUB_STORES = ("auto", "huggingface", "folder", "off")
# The words that each of these keys may have, where it has a value.
CHOICES: dict[str, tuple[str, ...]] = {
    "model.dtype": DTYPES,
    "model.quantization": QUANTIZATIONS,
    "dataset.golden_reward": ("vader",),
    "cluster.executor": (AUTO, *sorted(EXECUTORS)),
    "cluster.container_runtime": ("pyxis", "apptainer"),
    "hub.store": HUB_STORES,
    "hub.when": ("job", "login"),
    "tracking.backend": TRACKERS,
}
_QUERY = re.compile(r"(api-version=[A-Za-z0-9.-]+)?")  # of the judge's address, as Azure has it: no secret
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")

SEEDS = 2**32  # as many as numpy takes
SEED_KEYS = ("seed", "evaluation.seed", "evaluation.mt_bench.seed")
COLDEST = 1e-6  # below it, logits are beyond what a float32 holds
_ATTENTIONS = ("eager", "sdpa", "flex_attention", "flash_attention_2", "flash_attention_3", "flash_attention_4")
# What each of these numbers must be at least, where it, and the section that holds it, has a value.
LEAST = {
    1: {
        "trainer": ("batch_size", "micro_batch_size", "max_length", "max_steps"),
        "cluster": (
            "runs_per_job",
            "max_parallel",
            "nodes",
            "cpus_per_gpu",
            "warning_seconds",
            "hang_seconds",
            "memory_growth",
            "max_attempts",
        ),
        "checkpoint": ("every", "keep"),
        "trainer.lora": ("r", "alpha"),
        "dataset": ("train_pairs", "test_pairs"),
        "dataset.weak_rejects": ("max_new_tokens", "batch_size"),
        "evaluation": ("batch_size", "generations", "max_new_tokens"),
        "evaluation.mt_bench": ("questions", "max_new_tokens", "batch_size"),
        "evaluation.judge": ("concurrency", "repeats", "max_tokens", "timeout"),
        "evaluation.lm_eval": ("limit",),
        "tracking": ("every",),
        "hub": ("timeout", "patience"),
    },
    0: {
        "trainer": ("weight_decay", "warmup_steps"),
        "cluster": ("gpus_per_node", "max_requeues", "time_margin"),
        "checkpoint": ("keep_finished",),
        "evaluation": ("samples",),
        "evaluation.lm_eval": ("num_fewshot",),
        "evaluation.judge": ("retries", "unparsable_retries", "temperature"),
    },
}


def check(config: RunConfig, losses: Collection[str], *, recorded: bool = False) -> None:
    """Check one run's configuration, as far as it can be checked without reading a file.

    Args:
        config: the resolved configuration.
        losses: the loss names that the installed TRL computes.
        recorded: whether the run was launched before: then it goes on as what it was launched as.

    Raises:
        ConfigError: the first thing that is wrong: key, value and remedy in one line.
    """
    for problem in _problems(config, losses, recorded=recorded):
        raise problem


def _problems(config: RunConfig, losses: Collection[str], *, recorded: bool = False) -> Iterator[ConfigError]:
    yield from loss_problems(config, losses, recorded=recorded)
    yield from _label_problems(config)
    yield from _judge_problems(config.evaluation.judge)  # it says more of a key there
    yield from secret_problems(config)
    yield from _name_problems(config)
    yield from _source_problems(config)
    yield from trainer_problems(config.trainer)
    yield from cluster_problems(config.cluster)
    yield from _tracking_problems(config.tracking)
    yield from _evaluation_problems(config.evaluation)
    yield from _count_problems(config)
    yield from _milestone_problems(config)
    yield from rank_problems(config)
    yield from deepspeed_problems(config.deepspeed, config.model.quantization)
    yield from offload_problems(config.trainer, config.deepspeed)
    yield from _evaluation_cluster_problems(config, losses, recorded=recorded)


def _label_problems(config: RunConfig) -> Iterator[ConfigError]:
    about = config.dataset.about
    if about is not None and about.labelled and loss_named(config.loss_type).paired:
        yield ConfigError(
            "loss_type",
            config.loss_type,
            f"trains on pairs, and {config.dataset.name} has completions with a label; "
            f"give loss_type={' or '.join(UNPAIRED_LOSSES)}, or another dataset",
        )


def _name_problems(config: RunConfig) -> Iterator[ConfigError]:
    if not config.output_dir:
        yield ConfigError("output_dir", config.output_dir, "give a folder, such as output_dir=outputs")
    names = {"sweep": config.sweep, "model.name": config.model.name, "dataset.name": config.dataset.name}
    for key, name in names.items():
        if name is not None and not _NAME.fullmatch(name):
            yield ConfigError(key, name, "needs letters, digits, '.', '_', '+' or '-', at most 100, the first no sign")


def _source_problems(config: RunConfig) -> Iterator[ConfigError]:
    model, dataset = config.model, config.dataset
    if (model.path is None) == (model.architecture is None):
        yield ConfigError(
            "model.path", model.path, "give either model.path (a Hub id or a folder) or model.architecture"
        )
    yield from dataset_problems(dataset)
    yield from _attention_problems(model)
    if not isinstance(model.revision, str | None):
        yield ConfigError("model.revision", model.revision, "must be text; write it in quotes")
    if model.quantization is not None and config.trainer.lora is None:
        yield ConfigError(
            "model.quantization", model.quantization, "packed weights cannot be trained; give trainer=lora too"
        )
    for key, known in CHOICES.items():
        if (value := attrgetter(key)(config)) is not None and value not in known:
            near = suggestion(value, known) if key == "model.dtype" else near_choice(value, known)  # half is half
            yield ConfigError(key, value, f"must be one of {', '.join(known)}{near}")


def _attention_problems(model: Model) -> Iterator[ConfigError]:
    name, key = model.attn_implementation, "model.attn_implementation"
    if name not in _ATTENTIONS and "/" not in name:
        known = ", ".join(_ATTENTIONS)
        yield ConfigError(key, name, f"must be one of {known}{near_choice(name, _ATTENTIONS)}, or a kernel's Hub id")
    if name.startswith("flash") and model.dtype == "float32":
        yield ConfigError(key, name, "computes in bfloat16 alone, and model.dtype=float32; give sdpa")


def _milestone_problems(config: RunConfig) -> Iterator[ConfigError]:
    milestones, trainer = config.checkpoint.milestones, config.trainer
    if milestones and not trainer.lr_scheduler.startswith("constant"):
        yield ConfigError(
            "trainer.lr_scheduler",
            trainer.lr_scheduler,
            "with checkpoint.milestones the learning rate may not depend "
            "on the end; give constant or constant_with_warmup",
        )
    if milestones and trainer.lr_scheduler == "constant_with_warmup":
        yield from _warmup_problems(trainer)
    for step in milestones or []:
        if step < 1 or (trainer.max_steps is not None and step >= trainer.max_steps):
            yield ConfigError(
                "checkpoint.milestones",
                UNSAID,
                f"{step} is no step before the last, which is kept anyway; leave it out",
            )


def _warmup_problems(trainer: Trainer) -> Iterator[ConfigError]:
    """Of one pass over the data a share is a number that the data give; of other ends it is another number each."""
    by_end = trainer.max_steps is not None or trainer.epochs != 1
    if trainer.warmup_steps is None and trainer.warmup_ratio > 0 and by_end:
        steps = "N" if trainer.max_steps is None else math.ceil(trainer.warmup_ratio * trainer.max_steps)
        yield ConfigError(
            "trainer.warmup_ratio",
            trainer.warmup_ratio,
            "with checkpoint.milestones the warm-up may not depend on the end, as a share of max_steps or of several "
            f"epochs does; give trainer.warmup_steps={steps}",
        )


def _tracking_problems(tracking: Tracking) -> Iterator[ConfigError]:
    if tracking.mode not in TRACKING_MODES:
        yield ConfigError(
            "tracking.mode", tracking.mode, "must be online, offline or null (online where the server answers)"
        )
    for key in ("project", "entity"):
        name = getattr(tracking, key)
        if name is not None and not _NAME.fullmatch(name):
            yield ConfigError(
                f"tracking.{key}", name, "needs letters, digits, '.', '_', '+' or '-', at most 100, the first no sign"
            )


def _evaluation_problems(evaluation: Evaluation) -> Iterator[ConfigError]:
    for name in evaluation.benchmarks:
        if name not in BENCHMARKS:
            near = near_choice(name, BENCHMARKS)
            yield ConfigError(
                "evaluation.benchmarks", name, f"no such benchmark{near}; there are: {', '.join(BENCHMARKS)}"
            )
    if "lm_eval" in evaluation.benchmarks and not evaluation.lm_eval.tasks:
        yield ConfigError(
            "evaluation.lm_eval.tasks",
            evaluation.lm_eval.tasks,
            "names no task; give one or more, as `lm_eval ls tasks` lists them",
        )
    if not (evaluation.temperature >= COLDEST and math.isfinite(evaluation.temperature)):
        yield ConfigError(
            "evaluation.temperature",
            evaluation.temperature,
            f"must be at least {COLDEST:g}, since the KL is one of distributions; 1 is the model's own",
        )
    if not re.fullmatch(r"auto(:[1-9]\d*)?|[1-9]\d*", evaluation.lm_eval.batch_size):
        yield ConfigError(
            "evaluation.lm_eval.batch_size", evaluation.lm_eval.batch_size, "must be a whole number from 1, or auto"
        )
    for name, limit in (("lm_eval", evaluation.lm_eval.minutes), ("command", evaluation.command.minutes)):
        if not limit > 0:
            yield ConfigError(f"evaluation.{name}.minutes", limit, "must be greater than 0")
    argv = evaluation.command.argv
    if "command" in evaluation.benchmarks and not any("{model}" in word for word in argv):
        yield ConfigError(
            "evaluation.command.argv", argv, "give the words of a command, one of them with {model} for the folder"
        )


def _judge_problems(judge: Judge) -> Iterator[ConfigError]:
    try:
        url = urlsplit(judge.base_url or "")
    except ValueError:
        url = urlsplit("")
    if url.username or url.password or not _QUERY.fullmatch(url.query):  # it is written down with each verdict
        remedy = "must hold no secret; export the key and name its variable in judge.key_env"
        yield ConfigError("evaluation.judge.base_url", UNSAID, remedy)
    if judge.base_url is not None and (url.scheme not in ("http", "https") or not url.hostname):
        said = UNSAID if "@" in judge.base_url else judge.base_url  # ME:SECRET@HOST has no scheme, nor a user then
        yield ConfigError("evaluation.judge.base_url", said, "must begin with http:// or https:// and name a host")
    if judge.key_env is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", judge.key_env):
        # Not repeated: it may be the key itself, given by mistake.
        yield ConfigError(
            "evaluation.judge.key_env", UNSAID, "must be the name of an environment variable, never the key itself"
        )


def _count_problems(config: RunConfig) -> Iterator[ConfigError]:
    for least, sections in LEAST.items():
        for section, keys in sections.items():
            held = attrgetter(section)(config)
            for key in keys if held is not None else ():
                value = getattr(held, key)
                if value is not None and not (value >= least and math.isfinite(value)):
                    yield ConfigError(f"{section}.{key}", value, f"must be at least {least}")
    for key in SEED_KEYS:
        if not 0 <= (seed := attrgetter(key)(config)) < SEEDS:
            yield ConfigError(key, seed, f"must be at least 0 and less than {SEEDS}")


def _evaluation_cluster_problems(
    config: RunConfig, losses: Collection[str], *, recorded: bool
) -> Iterator[ConfigError]:
    """Of `evaluation.cluster`, where all else is right: the keys one by one, then the whole, as for any cluster."""
    given = config.evaluation.cluster
    if problem := next((found for entry in given.items() if (found := _entry_problem(*entry))), None):
        yield problem
    elif given:
        nodes, gpus = int(given.get("nodes", 1)), int(given.get("gpus_per_node", 0))
        # At most one rank: no batch is divided here.
        cluster = replace(evaluation_cluster(config), nodes=min(1, nodes), gpus_per_node=min(0, gpus))
        evaluation = replace(config.evaluation, cluster={})
        problems = _problems(replace(config, cluster=cluster, evaluation=evaluation), losses, recorded=recorded)
        yield from (problem.under("evaluation") for problem in problems)


def _entry_problem(key: str, value: object) -> ConfigError | None:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    known, full = {each.name: each.type for each in fields(Cluster)}, f"evaluation.cluster.{key}"
    if key not in known:
        return ConfigError(full, UNSAID, f"no such key{suggestion(key, known)}; see conf/cluster/slurm.yaml")
    if key in OF_THE_TRAINING:
        return ConfigError(full, UNSAID, f"is the same for training and evaluation; set cluster.{key}")
    try:
        OmegaConf.merge(OmegaConf.structured(Cluster), {key: value})
    except OmegaConfBaseException:
        return ConfigError(full, value, f"must be of type {known[key]}")
    return None
