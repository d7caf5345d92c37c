"""What an attempt was asked for: its run's objective with its own settings, typed.

Owns: how the two become one configuration, with a micro-batch that was halved since.
Must not know: who asks, what is done with it.
"""

from __future__ import annotations

from dataclasses import replace

from launcher.config import Hub, RunConfig, from_plain
from launcher.store.facts import Halving
from launcher.store.files import read_lines, typed
from launcher.store.run_folder import AttemptDir, RunDir

BEFORE_BENCHMARKS = ("preference",)  # what attempts wanted that were made before there was a choice


def wanted_by(attempt: AttemptDir) -> list[str]:
    """The benchmarks that an attempt was made for."""
    return list(attempt.record.settings.get("evaluation", {}).get("benchmarks", BEFORE_BENCHMARKS))


def hub_of(attempt: AttemptDir) -> Hub:
    """The hub settings of an attempt; those of an attempt that recorded none publish nothing."""
    hub: Hub = from_plain(attempt.record.settings.get("hub", {}), Hub, "hub.")
    return hub


def read_config(attempt: AttemptDir) -> RunConfig:
    """The run's configuration: the objective of the run, the settings of the attempt."""
    return fitted(from_plain({**attempt.run.read_config(), **attempt.record.settings}), attempt.run)


def fitted(config: RunConfig, run: RunDir) -> RunConfig:
    """The configuration with the micro-batch that the run has come down to."""
    lines = read_lines(run.memory_log)
    if not lines:
        return config
    last = typed(lines[-1], Halving, run.memory_log)
    size = min(config.trainer.micro_batch_size, last.micro_batch_size)
    return replace(config, trainer=replace(config.trainer, micro_batch_size=size))
