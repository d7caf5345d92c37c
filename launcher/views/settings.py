"""The settings that a sweep's runs are trained with, in a line above the plan, and in its JSON.

Owns: which settings these are, their words; how those that vary are shown. Must not know: what is right.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from launcher.config import RunConfig, Trainer
from launcher.errors import number_of
from launcher.losses import given
from launcher.planning.loss_rules import keys_in_words
from launcher.planning.trainer_rules import WITHOUT_WARMUP
from launcher.store.files import Plain
from launcher.sweep import Sweep


def settings_line(sweep: Sweep) -> str:
    """What the runs are trained with; of what varies all values, and at the end its name once more."""
    settings = settings_json(sweep)
    said = _same(run.config for run in sweep.runs)
    words = ", ".join(f"{name} {value}".strip() for name, value in said.items())
    return f"settings: {words}" + (f"; of these vary: {', '.join(settings['vary'])}" if settings["vary"] else "")


def settings_json(sweep: Sweep) -> Plain:
    """The same for programs: by key its value, or a list of all values where it varies; `vary` names those keys."""
    each = [_values(run.config) for run in sweep.runs]
    distinct = {key: _distinct(values[key] for values in each) for key in each[0]}
    shown = {key: values[0] if len(values) == 1 else values for key, values in distinct.items()}
    return {**shown, "vary": [key for key, values in distinct.items() if len(values) > 1]}


def _distinct(values: Iterable[Any]) -> list[Any]:
    found: list[Any] = []
    for value in values:
        if value not in found:
            found.append(value)
    return found


def _same(configs: Iterable[RunConfig]) -> dict[str, str]:
    """Each part of the line by its first words: what all runs say, or what they say in turn."""
    configs = list(configs)
    keyed = any(given(config) for config in configs)
    each = [_words(config, keyed=keyed) for config in configs]
    return {name: " | ".join(_distinct(words[name] for words in each)) for name in each[0]}


def _devices(config: RunConfig) -> int:
    return config.cluster.nodes * max(1, config.cluster.gpus_per_node)


def _accumulated(config: RunConfig) -> int:
    """Micro-batches of a step on each device."""
    return max(1, config.trainer.batch_size // (config.trainer.micro_batch_size * _devices(config)))


def _values(config: RunConfig) -> Plain:
    trainer = config.trainer
    steps = {"epochs": None if trainer.max_steps is not None else trainer.epochs, "max_steps": trainer.max_steps}
    fixed = 0 if trainer.lr_scheduler in WITHOUT_WARMUP else trainer.warmup_steps
    return {
        "trainer": trainer.name,
        "learning_rate": trainer.learning_rate,
        "lr_scheduler": trainer.lr_scheduler,
        "warmup_ratio": trainer.warmup_ratio if fixed is None else None,
        "warmup_steps": fixed,
        "batch_size": trainer.batch_size,
        "micro_batch_size": trainer.micro_batch_size,
        "accumulation": _accumulated(config),
        "devices": _devices(config),
        **steps,
        "max_length": trainer.max_length,
        "dtype": config.model.dtype,
        "quantization": config.model.quantization,
        "lora_r": None if trainer.lora is None else trainer.lora.r,
        "loss": given(config),
    }


def _words(config: RunConfig, *, keyed: bool) -> dict[str, str]:
    """`keyed`: whether some run gives its loss a key."""
    trainer, devices = config.trainer, _devices(config)
    batch = f"{trainer.micro_batch_size} micro x {_accumulated(config)} accumulated x {number_of(devices, 'device')}"
    packed = f" ({config.model.quantization})" if config.model.quantization else ""
    return {
        "trainer": trainer.name,
        "learning rate": f"{trainer.learning_rate:g}",
        "schedule": f"{trainer.lr_scheduler} {_warmup(trainer)}",
        "batch": f"{trainer.batch_size} ({batch})",
        "for": _length(trainer),
        "max_length": str(trainer.max_length),
        "dtype": config.model.dtype + packed,
        "weights": "all" if trainer.lora is None else f"LoRA r {trainer.lora.r}",
        **({"keys of the loss": keys_in_words(config) or "none"} if keyed else {}),
    }


def _warmup(trainer: Trainer) -> str:
    ratio, steps = trainer.warmup_ratio, trainer.warmup_steps
    if trainer.lr_scheduler in WITHOUT_WARMUP or not (ratio if steps is None else steps):
        return "without warm-up"
    return f"with warm-up over {f'{ratio:.0%} of the' if steps is None else steps} steps"


def _length(trainer: Trainer) -> str:
    if trainer.max_steps is not None:
        return number_of(trainer.max_steps, "step")
    return number_of(trainer.epochs, "epoch")
