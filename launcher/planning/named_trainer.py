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
OF_THE_DEMO = {"lora": "zephyr_lora", "full": "zephyr_full"}  # each with what stands for it on a 7B
REMEDY = {"trainer.learning_rate": "5e-6", "trainer.max_length": "1024"}


def check_named(sweep: Sweep) -> None:
    """Whether each run of such a model names its trainer, a preset, which names one, or both of CHOSEN.

    Raises:
        ConfigError: one does not, and what it would be trained with.
    """
    for run in sweep.runs:
        given = _given(run)
        if given.isdisjoint({"trainer", PRESET}) and not given.issuperset(CHOSEN) and not _suits_demo(run, given):
            raise _unnamed(run, given)


def demo_named(sweep: Sweep) -> list[str]:
    """A word where the demo's own trainer is named for such a model, with neither of CHOSEN: it stays the demo's."""
    for run in sweep.runs:
        given, trainer = _given(run), run.config.trainer
        if trainer.name in OF_THE_DEMO and given.isdisjoint({*CHOSEN, PRESET}) and not _suits_demo(run, given):
            settings = f"learning rate {trainer.learning_rate:g}, max_length {trainer.max_length}"
            instead = f"trainer={OF_THE_DEMO[trainer.name]} has those of a 7B, or give {' and '.join(CHOSEN)}"
            return [f"trainer={trainer.name} on model={run.config.model.name}: {settings} are the demo's; {instead}"]
    return []


def _given(run: Run) -> set[str]:
    """The keys and groups that somebody chose a value for."""
    return {override.partition("=")[0].lstrip("+") for override in run.overrides}


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
        f"for model={run.config.model.name}; give trainer=zephyr_lora or trainer=zephyr_full (those of a 7B), "
        f"or {keys}",
    )
