"""What depends on how long a training is: whether its warm-up ends, and its milestones are reached.

Owns: these checks of a launch, where the number of steps is known. Must not know: how rows are counted, torch.
"""

from __future__ import annotations

from launcher.errors import ConfigError
from launcher.planning.data_counts import Look
from launcher.planning.trainer_rules import WITHOUT_WARMUP, steps_of, warmup_steps
from launcher.sweep import Run, Sweep


def check_lengths(sweep: Sweep, data: Look) -> list[str]:
    """Check warm-up and milestones of each run against its steps, where `max_steps` or the counted data give these.

    Returns:
        What is to be known: a warm-up that a schedule ignores, a single step whose learning rate is 0.

    Raises:
        ConfigError: the learning rate, or a milestone, would never be reached.
    """
    notes = []
    for run in sweep.runs:
        steps = _steps(run, data)
        notes += _ignored_warmup(run)
        notes += _check_run(run, steps) if steps else []
    return list(dict.fromkeys(notes))


def _steps(run: Run, data: Look) -> int | None:
    """How many optimizer steps its training has; None where that is not known."""
    trainer = run.config.trainer
    if trainer.max_steps is not None:
        return trainer.max_steps
    rows = data.rows_for(run.config)
    return steps_of(trainer, rows) if rows else None


def _ignored_warmup(run: Run) -> list[str]:
    """That a warm-up was asked for which the schedule does not have."""
    trainer = run.config.trainer
    key = "warmup_ratio" if trainer.warmup_steps is None else "warmup_steps"
    is_asked = any(each.lstrip("+").startswith(f"trainer.{key}=") for each in run.overrides)
    value, name = getattr(trainer, key), trainer.lr_scheduler
    if name not in WITHOUT_WARMUP or not value or not is_asked:
        return []
    return [f"trainer.{key}={value}: ignored, trainer.lr_scheduler={name} has no warm-up; {name}_with_warmup has one"]


def _check_run(run: Run, steps: int) -> list[str]:
    trainer = run.config.trainer
    late = [step for step in run.config.checkpoint.milestones or () if step >= steps]
    if late:
        end = f"the training has {steps} steps, and the last is kept anyway"
        raise ConfigError("checkpoint.milestones", late[0], f"is no step before the last: {end}; leave it out")
    warmup = warmup_steps(trainer, steps)
    if warmup < steps:
        return []
    key = "warmup_ratio" if trainer.warmup_steps is None else "warmup_steps"
    if steps == 1 and trainer.max_steps is not None:
        return [f"trainer.{key}={getattr(trainer, key)}: the only step has learning rate 0 and trains nothing"]
    if steps == 1:
        lost = "all pairs make one step, whose learning rate is 0: nothing is trained"
        return [f"trainer.batch_size={trainer.batch_size}: {lost}; give less, or more trainer.epochs"]
    lost = f"the warm-up takes {warmup} steps and the training has {steps}, so that it never comes to"
    remedy = f"{lost} trainer.learning_rate={trainer.learning_rate:g}; give trainer.warmup_steps={steps - 1} or less"
    raise ConfigError(f"trainer.{key}", getattr(trainer, key), remedy)
