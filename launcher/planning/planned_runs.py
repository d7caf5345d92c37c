"""Composed grid points -> a Sweep of frozen Runs: ids, duplicates, collisions. Writes nothing.

Owns: the run id, which is what makes two runs the same run, and which runs may not stand in one sweep.
Must not know: files, schedulers, Hydra, where models are published (`revisions`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from launcher.config import LOSS, OBJECTIVE, OF_THE_LAUNCH, PACKED_AUTO, RunConfig, canonical, from_plain, objective_in
from launcher.dataset.inputs import digest_of
from launcher.errors import ConfigError, UsageError
from launcher.machine.locate import place_of, spelled_from
from launcher.machine.once import Once
from launcher.planning.loss_rules import trained_by, without_loss
from launcher.planning.rules import check
from launcher.store.config_file import beginning_of
from launcher.store.files import Plain
from launcher.sweep import Run, Sweep, Twin

RETRAIN = "retrain"  # is of one launch: no run keeps it


def run_id(objective: Plain, once: Once | None = None) -> str:
    """The id of an objective: readable parts, then a hash of all of it, as JSON with sorted keys.

    Keys without a value do not count, so that a release that adds an optional key renames no run. What it is trained
    on may be among it: see `named_by_content`.
    """
    texts = {key: of_section(once, _hashed, value) for key, value in objective.items() if value is not None}
    text = ", ".join(f"{json.dumps(key)}: {texts[key]}" for key in sorted(texts))
    digest = hashlib.sha256(f"{{{text}}}".encode()).hexdigest()[:8]
    return f"{beginning_of(objective)}-{digest}"


def _hashed(section: Any) -> str:
    """What of a section the hash is over."""
    return json.dumps(_without_none(canonical(section)), sort_keys=True, ensure_ascii=False)


def of_section(once: Once | None, make: Callable[[Any], Any], section: Any) -> Any:
    """`make(section)`; of a section that runs share, and that is given as one object, once for all of them."""
    return make(section) if once is None or not isinstance(section, dict) else once(make, section)


def portable(objective: Plain) -> Plain:
    """The objective with its paths as a copy of this working directory has them too: what a run is known by."""
    known: Plain = respelled(objective, lambda path: spelled_from(path, Path.cwd()))
    return known


def without_paths(objective: Plain) -> Plain:
    """The objective, but for where on this machine its models and data lie."""
    known: Plain = _without_none(respelled(canonical(objective), lambda _: "./"))
    return known


def named_by_content(run: Run) -> str:
    """The id of a run where its own is that of another one, with the same settings and other files."""
    return run_id({**portable(run.objective), "inputs": digest_of(run.inputs)})


def respelled(value: Any, spelled: Callable[[str], str]) -> Any:
    """A section with each absolute path of this machine spelled in another way."""
    if isinstance(value, list):
        return [respelled(item, spelled) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: spelled(item) if key == "path" and isinstance(item, str) and _is_here(item) else respelled(item, spelled)
        for key, item in value.items()
    }


def _is_here(path: str) -> bool:
    place = place_of(path)
    return place.kind == "disk" and place.path is not None and place.path.is_absolute()


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return [_without_none(item) for item in value] if isinstance(value, list) else value


def _trained(section: Any) -> Any:
    """A section less what is no part of what is trained: what is told of it, for estimates, and `packed: auto`.

    Pairs that go packed make the same model, and no run made before there was such a key is to have another id.
    """
    if not isinstance(section, dict):
        return section
    left_out = ("about", *(("packed",) if section.get("packed") == PACKED_AUTO else ()))
    return {key: item for key, item in section.items() if key not in left_out}


def plan_run(
    config: Plain,
    axes: Plain,
    overrides: Sequence[str],
    losses: Collection[str],
    once: Once | None = None,
    *,
    recorded: bool = False,
) -> Run:
    """One checked run; with `once`, what the sections become is shared with the other runs of those sections.

    `recorded`: it was launched before, and is what it was then.

    Raises:
        ConfigError: the configuration is not valid.
    """
    config = {key: of_section(once, canonical, value) for key, value in config.items()}
    typed = RunConfig(**{key: of_section(once, _TYPED[key], value) for key, value in _known(config).items()})
    check(typed, losses, recorded=recorded)
    objective = {key: of_section(once, _trained, value) for key, value in objective_in(config).items()}
    settings = {key: value for key, value in config.items() if key not in (*OBJECTIVE, LOSS, RETRAIN)}
    kept = tuple(override for override in overrides if override.partition("=")[0] != RETRAIN)
    known = {key: of_section(once, portable, value) for key, value in objective.items()}
    return Run(run_id(known, once), typed, objective, settings, canonical(axes), kept)


def _known(config: Plain) -> Plain:
    """The configuration, whose sections are all ones that we have.

    Raises:
        ConfigError: one is not.
    """
    return config if config.keys() <= _TYPED.keys() else vars(from_plain(config))


def _of_key(key: str, value: Any) -> Any:
    return getattr(from_plain({key: value}), key)


_TYPED = {each.name: partial(_of_key, each.name) for each in fields(RunConfig)}


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
        UsageError: two runs have one id though they differ; a key that is one for the launch has several values.
    """
    runs = list(runs)
    unique: dict[str, Run] = {}
    for run in runs:
        first = unique.setdefault(run.run_id, run)
        if _without_none(first.objective) != _without_none(run.objective):
            raise UsageError(f"{run.run_id}: two different runs have this id; change the seed of one of them")
    _check_axes(runs, unique)
    named, (kept, twins) = _sweep_name(runs, name), _without_twins(unique.values())
    duplicates = len(runs) - len(unique)
    return Sweep(named, tuple(_in_sweep(run, named) for run in kept), tuple(axes), duplicates, tuple(twins))


def _without_twins(runs: Iterable[Run]) -> tuple[list[Run], list[Twin]]:
    """The runs, of those that train the same weights the first, and those that are left out for that."""
    first: dict[str, Run] = {}
    twins = []
    for run in runs:
        trained = {"loss": trained_by(run.config), **_without_none(without_loss(run.objective))}
        other = first.setdefault(json.dumps(trained, sort_keys=True), run)
        if other is not run:
            twins.append(Twin(run.run_id, other.run_id))
    return list(first.values()), twins


def _check_axes(runs: Sequence[Run], unique: Mapping[str, Run]) -> None:
    """Whether no axis is lost: with it those runs would be lost that differ in it alone."""
    others = [run for run in runs if run.config != unique[run.run_id].config]
    launch = [key for key in runs[0].axes if key.lstrip("+") in OF_THE_LAUNCH] if runs else []
    several = next((key for key in launch if any(run.axes[key] != runs[0].axes[key] for run in runs)), None)
    if not others and several is None:
        return
    from launcher.planning.one_run import no_axis, unlike  # these need Hydra, which no other verb waits for

    raise no_axis(several, runs) if several else unlike(unique[others[0].run_id], others[0], runs)


def _in_sweep(run: Run, sweep: str) -> Run:
    """The run with its sweep's name among its settings, where the job finds it; the run id does not know it."""
    return replace(run, config=replace(run.config, sweep=sweep), settings={**run.settings, "sweep": sweep})


def _sweep_name(runs: Sequence[Run], name: str | None) -> str:
    if runs[0].config.sweep or name:
        return runs[0].config.sweep or name or ""
    models = "+".join(dict.fromkeys(run.config.model.name for run in runs))
    datasets = "+".join(dict.fromkeys(run.config.dataset.name for run in runs))
    return f"{models}-{datasets}"[:100]
