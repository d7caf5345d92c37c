"""Whether somebody chose the settings that a model of one's own, or a large one, is trained with.

Owns: which models the default trainer is not for. Must not know: where overrides come from, files, what trainers hold.

The default trainer is the demo's: a learning rate for 135 million weights, and texts of 48 tokens. On another model it
trains all the same, and the result looks like one.
"""

from __future__ import annotations

from collections.abc import Collection

from launcher.config import PRESET, Model
from launcher.errors import ConfigError
from launcher.machine.locate import place_of
from launcher.planning.estimate import parameters
from launcher.sweep import Run, Sweep

LARGE = 1e9  # weights
CHOSEN = ("trainer.learning_rate", "trainer.max_length")  # with both given, the demo's file decides little
REMEDY = {"trainer.learning_rate": "5e-6", "trainer.max_length": "1024"}


def check_named(sweep: Sweep) -> None:
    """Whether each run of such a model names its trainer, a preset, which names one, or both of CHOSEN.

    Raises:
        ConfigError: one does not, and what it would be trained with.
    """
    for run in sweep.runs:
        given = {override.partition("=")[0].lstrip("+") for override in run.overrides}
        if given.isdisjoint({"trainer", PRESET}) and not given.issuperset(CHOSEN) and not _suits_demo(run, given):
            raise _unnamed(run, given)


def _suits_demo(run: Run, given: Collection[str]) -> bool:
    """Whether the model comes from conf/, and is known to be small."""
    return "model.path" not in given and not _is_large(run.config.model)


def _is_large(model: Model) -> bool:
    if model.architecture is not None:
        return False
    size = parameters(model)
    return place_of(model.path).kind != "package" if size is None else size >= LARGE


def _unnamed(run: Run, given: Collection[str]) -> ConfigError:
    trainer = run.config.trainer
    keys = " ".join(f"{key}={REMEDY[key]}" for key in CHOSEN if key not in given)
    return ConfigError(
        "trainer",
        trainer.name,
        f"is the demo's (learning rate {trainer.learning_rate:g}, max_length {trainer.max_length}), and was not chosen "
        f"for model={run.config.model.name}; give trainer=lora or trainer=full, whose other keys can be given too, "
        f"or {keys}",
    )
