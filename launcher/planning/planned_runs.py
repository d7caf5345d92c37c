"""Composed grid points -> a Sweep of frozen Runs: ids, duplicates, collisions. Pure.

Owns: the run id, which is what makes two runs the same run, and which runs may not stand in one sweep.
Must not know: files, schedulers, Hydra, where models are published (`revisions`).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any

from launcher.config import OBJECTIVE, RunConfig, canonical, from_plain
from launcher.errors import ConfigError, UsageError
from launcher.planning.rules import check
from launcher.store.files import Plain
from launcher.sweep import Run, Sweep


def run_id(objective: Plain) -> str:
    """The id of an objective: readable parts, then a hash of all of it.

    Keys without a value do not count, so that a release that adds an optional key renames no run.
    """
    text = json.dumps(_without_none(canonical(objective)), sort_keys=True, ensure_ascii=False)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    beta = re.sub(r"\.0$", "", repr(canonical(float(objective["beta"]))))
    return f"{objective['model']['name']}-{objective['loss_type']}-beta{beta}-{digest}"


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return [_without_none(item) for item in value] if isinstance(value, list) else value


def _without_about(section: Any) -> Any:
    """A section less what is only told of it, for estimates: that is no part of what is trained."""
    return {key: item for key, item in section.items() if key != "about"} if isinstance(section, dict) else section


def plan_run(config: Plain, axes: Plain, overrides: Sequence[str], losses: Collection[str]) -> Run:
    """One checked run.

    Raises:
        ConfigError: the configuration is not valid.
    """
    config = canonical(config)
    typed: RunConfig = from_plain(config)
    check(typed, losses)
    objective = {key: _without_about(config[key]) for key in OBJECTIVE}
    settings = {key: value for key, value in config.items() if key not in OBJECTIVE}
    return Run(run_id(objective), typed, objective, settings, canonical(axes), tuple(overrides))


def executor_of(runs: Iterable[Run]) -> str:
    """The one executor to which these runs go.

    Raises:
        ConfigError: there are several.
    """
    names = list(dict.fromkeys(run.config.cluster.executor for run in runs))
    if len(names) > 1:
        raise ConfigError(
            "cluster.executor",
            ",".join(names),
            "one command submits to one executor; submit the runs of each by a command of its own",
        )
    return names[0]


def plan(runs: Iterable[Run], axes: Sequence[str], name: str | None) -> Sweep:
    """The sweep of these runs.

    Args:
        runs: the grid points, checked.
        axes: the keys that vary.
        name: the sweep file's name, used where `sweep=` is not given.

    Raises:
        UsageError: two runs have one id though they differ.
    """
    runs = list(runs)
    unique: dict[str, Run] = {}
    for run in runs:
        first = unique.setdefault(run.run_id, run)
        if _without_none(first.objective) != _without_none(run.objective):
            raise UsageError(f"{run.run_id}: two different runs have this id; change the seed of one of them")
    named = _sweep_name(runs, name)
    return Sweep(named, tuple(_in_sweep(run, named) for run in unique.values()), tuple(axes), len(runs) - len(unique))


def _in_sweep(run: Run, sweep: str) -> Run:
    """The run with its sweep's name among its settings, where the job finds it; the run id does not know it."""
    return replace(run, config=replace(run.config, sweep=sweep), settings={**run.settings, "sweep": sweep})


def _sweep_name(runs: Sequence[Run], name: str | None) -> str:
    if runs[0].config.sweep or name:
        return runs[0].config.sweep or name or ""
    models = "+".join(dict.fromkeys(run.config.model.name for run in runs))
    datasets = "+".join(dict.fromkeys(run.config.dataset.name for run in runs))
    return f"{models}-{datasets}"[:100]
