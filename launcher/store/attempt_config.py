"""What an attempt was asked for: its run's objective with its own settings, typed.

Owns: how the two become one configuration, with a micro-batch that was halved since.
Must not know: who asks, what is done with it.
"""

from __future__ import annotations

import json
from dataclasses import replace

from launcher.config import Hub, RunConfig, from_plain
from launcher.errors import ConfigError, StoreError
from launcher.store.files import Plain, read_lines, typed
from launcher.store.node_facts import Halving
from launcher.store.run_folder import RECORD_REMEDY, AttemptDir, RunDir

BEFORE_BENCHMARKS = ("preference",)  # what attempts wanted that were made before there was a choice


def wanted_by(attempt: AttemptDir) -> list[str]:
    """The benchmarks that an attempt was made for."""
    return list(section(attempt, "evaluation").get("benchmarks", BEFORE_BENCHMARKS))


def hub_of(attempt: AttemptDir) -> Hub:
    """The hub settings of an attempt; those of an attempt that recorded none publish nothing."""
    try:
        hub: Hub = from_plain(section(attempt, "hub"), Hub, "hub.")
    except ConfigError as error:  # nobody has typed it
        raise StoreError(f"{attempt.attempt_file}: settings.{error}") from error
    return hub


def section(attempt: AttemptDir, name: str) -> Plain:
    """A section of an attempt's settings; empty where it recorded none.

    Raises:
        StoreError: it is no mapping.
    """
    section = attempt.record.settings.get(name) or {}
    if not isinstance(section, dict):
        raise StoreError(
            f"{attempt.attempt_file}: settings.{name} cannot be {json.dumps(section)[:40]}; {RECORD_REMEDY}"
        )
    return section


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
