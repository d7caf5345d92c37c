"""What is wrong with how a run is to be trained.

Owns: the rules of `trainer`; which of transformers' schedules and optimizers a run here can have, what the others lack
and which package some need.
Must not know: files, what is installed (`prerequisites` looks), torch; the keys that belong to one loss.

A schedule or an optimizer of transformers that is in no table here works as it is; a test trains with each.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from operator import attrgetter

from launcher.config import PACKED_AUTO, DeepSpeed, Trainer
from launcher.errors import ConfigError

# Of transformers' schedules those that no run can have, and why.
_EVALUATES = "changes with scores on held-out rows in the middle of a training, where there are none"
SCHEDULES_REFUSED = {
    "reduce_lr_on_plateau": _EVALUATES,
    "greedy": _EVALUATES,
    "cosine_with_min_lr": "needs min_lr, which no key gives",
    "cosine_warmup_with_min_lr": "needs min_lr, which no key gives",
    "warmup_stable_decay": "needs num_decay_steps, which no key gives",
}
WITHOUT_WARMUP = ("constant",)  # of the others those that ignore any warm-up
POLYNOMIAL_END = 1e-7  # the learning rate at which transformers' polynomial schedule ends

# The same of its optimizers, by the beginning of the name.
OPTIMIZERS_REFUSED = {
    "galore_": "needs optim_target_modules, which no key gives",
    "apollo_": "needs optim_target_modules, which no key gives",
    "lomo": "updates weights within each backward pass, past trainer.batch_size and max_grad_norm",
    "adalomo": "updates weights within each backward pass, past trainer.batch_size and max_grad_norm",
    "schedule_free_": "its model is an average of the weights, which would not be what is saved",
    "adamw_anyprecision": "its package, torchdistx, is no longer made",
    "adamw_torch_xla": "is for TPUs; a run computes on GPUs or on the CPU",
    "adamw_torch_npu_fused": "is for NPUs; a run computes on GPUs or on the CPU",
}
# The module that an optimizer needs beside torch and transformers, and how it is called on the package index.
_BITSANDBYTES = (
    "adamw_bnb_8bit", "adamw_8bit", "ademamix", "ademamix_8bit", "lion_8bit", "lion_32bit", "paged_adamw_32bit",
    "paged_adamw_8bit", "paged_ademamix_32bit", "paged_ademamix_8bit", "paged_lion_32bit", "paged_lion_8bit",
    "rmsprop_bnb", "rmsprop_bnb_8bit", "rmsprop_bnb_32bit",
)  # fmt: skip
OPTIMIZER_PACKAGES = {
    **dict.fromkeys(_BITSANDBYTES, ("bitsandbytes", "bitsandbytes")),
    "adamw_torch_4bit": ("torchao", "torchao"),
    "adamw_torch_8bit": ("torchao", "torchao"),
    "grokadamw": ("grokadamw", "grokadamw"),
    "stable_adamw": ("optimi", "torch-optimi"),
}
POSITIVE = ("learning_rate", "epochs", "max_grad_norm")
SHARES = ("warmup_ratio", "lora.dropout")  # from 0, and less than 1
# Its state in the nodes' memory, these stay AdamW; accelerate makes plain Adam of any other without a word, or fails.
OFFLOADED = ("adamw_torch", "adamw_torch_fused", "paged_adamw_32bit")


def trainer_problems(trainer: Trainer) -> Iterator[ConfigError]:
    """Each in one line, with key, value and remedy."""
    if trainer.micro_batch_size > 0 and trainer.batch_size % trainer.micro_batch_size:
        yield ConfigError(
            "trainer.batch_size",
            trainer.batch_size,
            f"must be a multiple of trainer.micro_batch_size={trainer.micro_batch_size}",
        )
    if trainer.ld_alpha is not None and not 0 <= trainer.ld_alpha <= 1:
        yield ConfigError("trainer.ld_alpha", trainer.ld_alpha, "must be from 0 to 1; null: every token counts in full")
    if trainer.packed is not False and trainer.packed != PACKED_AUTO:
        yield ConfigError("trainer.packed", trainer.packed, f"must be {PACKED_AUTO} or false")
    for key in SHARES if trainer.lora is not None else SHARES[:1]:
        if not 0 <= (share := attrgetter(key)(trainer)) < 1:
            yield ConfigError(f"trainer.{key}", share, "must be at least 0 and less than 1")
    for key in POSITIVE:
        if not (getattr(trainer, key) > 0 and math.isfinite(getattr(trainer, key))):
            yield ConfigError(f"trainer.{key}", getattr(trainer, key), "must be a number greater than 0")
    yield from _schedule_problems(trainer)
    yield from _optimizer_problems(trainer.optimizer)


def _schedule_problems(trainer: Trainer) -> Iterator[ConfigError]:
    name = trainer.lr_scheduler
    if (lack := SCHEDULES_REFUSED.get(name)) is not None:
        yield ConfigError("trainer.lr_scheduler", name, f"{lack}; give cosine, linear or constant_with_warmup")
    if name == "polynomial" and trainer.learning_rate <= POLYNOMIAL_END:
        remedy = f"a polynomial schedule falls to {POLYNOMIAL_END:g}; give more, or another trainer.lr_scheduler"
        yield ConfigError("trainer.learning_rate", trainer.learning_rate, remedy)


def _optimizer_problems(name: str) -> Iterator[ConfigError]:
    if (lack := lack_of_optimizer(name)) is not None:
        yield ConfigError("trainer.optimizer", name, f"{lack}; give adamw_torch, adafactor or paged_adamw_8bit")


def warmup_steps(trainer: Trainer, steps: int) -> int:
    """Over how many of so many steps the learning rate rises from 0."""
    if trainer.lr_scheduler in WITHOUT_WARMUP:
        return 0
    return math.ceil(trainer.warmup_ratio * steps) if trainer.warmup_steps is None else trainer.warmup_steps


def steps_of(trainer: Trainer, rows: float) -> int:
    """Optimizer steps of a training on so many rows: an epoch's last may be smaller than the others."""
    if trainer.max_steps is not None:
        return trainer.max_steps
    return math.ceil(trainer.epochs * max(1, math.ceil(rows / trainer.batch_size)))


def offload_problems(trainer: Trainer, deepspeed: DeepSpeed) -> Iterator[ConfigError]:
    """Of an optimizer that would become another because its state does not live on the GPUs."""
    zero = deepspeed.config.get("zero_optimization")
    offload = zero.get("offload_optimizer") if isinstance(zero, dict) else None
    device = offload.get("device", "none") if isinstance(offload, dict) else "none"
    if device not in (None, "none") and trainer.optimizer not in OFFLOADED:
        remedy = f"is not computed where deepspeed={deepspeed.name} keeps its state; give one of {', '.join(OFFLOADED)}"
        yield ConfigError("trainer.optimizer", trainer.optimizer, remedy)


def lack_of_optimizer(name: str) -> str | None:
    """Why no run can have this optimizer; None where one can."""
    return next((lack for beginning, lack in OPTIMIZERS_REFUSED.items() if name.startswith(beginning)), None)
