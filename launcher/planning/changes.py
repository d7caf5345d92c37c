"""New settings for runs that are there: `resume KEY=VALUE`, `evaluate evaluation.KEY=VALUE`.

Owns: which settings may change, and composing them. Must not know: what becomes of the runs.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from launcher.config import LOSS, OBJECTIVE, OF_THE_LAUNCH, PRESET, RunConfig, canonical
from launcher.errors import UNSAID, ConfigError, UsageError, near_choice, suggestion
from launcher.machine.installed import trl_losses
from launcher.planning.compose import apply_override, free_mappings, full_keys
from launcher.planning.kinds import is_free
from launcher.planning.one_run import one_value
from launcher.planning.overrides import chooses_group, parse, wrong
from launcher.planning.planned_runs import plan_run
from launcher.store.files import Plain
from launcher.store.results import BENCHMARKS
from launcher.sweep import Run, Sweep


def change_settings(settings: Plain, overrides: Sequence[str]) -> Plain:
    """A run's recorded settings with these overrides, `cluster.time=4:00:00` for one.

    Raises:
        UsageError: an override is wrong, would change what is trained, or has no meaning for runs that are there.
    """
    parsed = [parse(override) for override in overrides]
    for override in parsed:
        section = override.key_or_group.split(".")[0]
        if section in (*OBJECTIVE, LOSS, PRESET):
            raise wrong(override, f"{section} says what is trained; another value is another run")
        if section in OF_THE_LAUNCH:
            raise wrong(override, f"{section} is for launching; nothing was done")
        if override.is_sweep_override() or chooses_group(override):
            given = (override.input_line or "").partition("=")[2]
            such_as = " of one key, such as cluster.time=4:00:00"
            raise wrong(override, one_value(override.key_or_group, given, such_as))
        key, known = override.key_or_group, sorted(full_keys(settings))
        if key not in known and not (override.is_add() or is_free(key)):
            raise ConfigError(key, UNSAID, f"no such key{suggestion(key, known)}")
    config = cast(DictConfig, OmegaConf.merge(OmegaConf.structured(RunConfig), canonical(settings)))
    free_mappings(config)
    for override in parsed:
        apply_override(override, config)
    return {key: OmegaConf.to_container(v) if OmegaConf.is_config(v := config[key]) else v for key in settings}


def changing(overrides: Sequence[str]) -> Callable[[Plain], Plain]:
    """`change_settings` for the runs of a sweep, of which most have the same: each kind is composed once."""
    sections = {parse(override).key_or_group.split(".")[0] for override in overrides}
    known: dict[str, Plain] = {}

    def changed(settings: Plain) -> Plain:
        own = {section: settings[section] for section in sections & settings.keys()}
        kind = json.dumps(own, sort_keys=True)
        if kind not in known:
            whole = change_settings(settings, overrides)
            known[kind] = {section: whole[section] for section in own}
        return {**settings, **known[kind]}

    return changed


def with_evaluation(sweep: Sweep, names: Sequence[str], overrides: Sequence[str]) -> Sweep:
    """The sweep with the evaluation that is asked for now, in place of the one that it was launched with.

    Args:
        sweep: as it was launched.
        names: the benchmarks to do; none: those of the configuration.
        overrides: `evaluation...=value`, as when launching.

    Raises:
        UsageError: a name or an override is wrong.
    """
    for name in names:
        if name not in BENCHMARKS:
            near = near_choice(name, BENCHMARKS)
            raise UsageError(f"--benchmark {name}: no such benchmark{near}; there are: {', '.join(BENCHMARKS)}")
    for override in overrides:
        if not _is_ours(override):
            raise wrong(override, "only evaluation=... and evaluation.KEY=... can be given to a trained run")
    return dataclasses.replace(sweep, runs=tuple(_asked_run(run, names, tuple(overrides)) for run in sweep.runs))


def _is_ours(override: str) -> bool:
    key, sign, _ = override.partition("=")
    return bool(sign) and key.lstrip("+~").split(".")[0] == "evaluation"


def _asked_run(run: Run, names: Sequence[str], overrides: tuple[str, ...]) -> Run:
    evaluation = run.settings["evaluation"]
    if overrides:
        replaced = {override.partition("=")[0] for override in overrides}
        recorded = [o for o in run.overrides if _is_ours(o) and o.partition("=")[0] not in replaced]
        evaluation = _composed((*recorded, *overrides))
    if names:
        evaluation = {**evaluation, "benchmarks": list(names)}
    config = {**run.objective, **run.settings, "evaluation": evaluation}
    planned = plan_run(config, run.axes, run.overrides, trl_losses(), recorded=True)
    return dataclasses.replace(planned, run_id=run.run_id)


@cache
def _composed(overrides: tuple[str, ...]) -> dict[str, Any]:
    """The evaluation section of a command line; composed as at a launch, so that the same mistakes are found."""
    from launcher.planning.compose import compose

    evaluation: dict[str, Any] = compose(overrides, multirun=False)[1][0].config["evaluation"]
    return evaluation
