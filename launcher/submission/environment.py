"""What the environment of whoever launches has to do with the jobs: what it says of them, and what they do not get.

Owns: putting into the runs what the configuration leaves open and the environment says; a judge's key, which jobs lack.
Must not know: an executor's variables; it reads them itself.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

from launcher.cluster.scheduler import Scheduler
from launcher.config import Cluster
from launcher.errors import ConfigError
from launcher.machine.once import Once
from launcher.planning.cluster_rules import cluster_problems
from launcher.planning.options import as_keys, overruled
from launcher.planning.secrets import masked, secrets_of
from launcher.planning.stages import evaluation_cluster
from launcher.sweep import Run, Sweep

Completed = tuple[Cluster, dict[str, Any], Sequence[str]]


def in_environment(sweep: Sweep, scheduler: Scheduler) -> tuple[Sweep, list[str]]:
    """The sweep with what the environment says of its jobs, and what of that counts and what does not, in lines.

    Raises:
        ConfigError: what it says is wrong; nothing was done.
    """
    once = Once()
    completed = [once(completed_by, run.config.cluster, scheduler) for run in sweep.runs]
    runs = tuple(_with(run, *found[:2]) for run, found in zip(sweep.runs, completed, strict=True))
    lines = list(dict.fromkeys(line for found in completed for line in found[2]))
    _check_evaluations([run for run, before in zip(runs, sweep.runs, strict=True) if run is not before], lines)
    return replace(sweep, runs=runs), lines


def _check_evaluations(runs: Sequence[Run], lines: Sequence[str]) -> None:
    """Look whether what was taken goes with what the runs' evaluations ask for themselves."""
    own = {json.dumps([run.settings["cluster"], run.config.evaluation.cluster], sort_keys=True): run for run in runs}
    for run in own.values():
        for problem in cluster_problems(evaluation_cluster(run.config)) if run.config.evaluation.cluster else ():
            said = f"{problem.remedy} ({'; '.join(lines)})"
            raise ConfigError(problem.key, problem.value, said).under("evaluation")


@contextlib.contextmanager
def without_keys(sweep: Sweep) -> Iterator[None]:
    """Within, jobs are handed over that do not get the key of the judge, which only this machine asks.

    A program of the user's own (`evaluation=command`) may need it, and then it is theirs to keep.
    """
    evaluations = [run.config.evaluation for run in sweep.runs]
    is_theirs = any("command" in each.benchmarks for each in evaluations)
    ours = set() if is_theirs else {each.judge.key_env for each in evaluations}
    kept = {name: os.environ.pop(name) for name in ours if name and name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)


def _with(run: Run, cluster: Cluster, settings: dict[str, Any]) -> Run:
    if cluster is run.config.cluster:
        return run
    before, config = as_keys(run.config.cluster), replace(run.config, cluster=cluster)
    keys = [key for key, value in vars(cluster).items() if key != "extra" and value != vars(before)[key]]
    left_open = (*keys, *(f"extra.{key}" for key in cluster.extra if key not in before.extra))
    return replace(run, config=config, settings={**run.settings, "cluster": settings}, left_open=left_open)


def completed_by(cluster: Cluster, scheduler: Scheduler) -> Completed:
    """The resources, completed where there is anything, the same plain, and what of the environment counts.

    Raises:
        ConfigError: what it says is wrong, or there is no such cluster.
        SchedulerError: that cluster does not answer.
    """
    given = as_keys(cluster)
    ambient = scheduler.ambient(given)
    words = tuple(map(masked, (*overruled(cluster), *ambient.words)))  # terminals are copied from, a CI's logs kept
    if given is cluster and not (ambient.keys or ambient.extra):
        scheduler.destination(cluster)
        return cluster, {}, words
    new = replace(given, **ambient.keys, extra={**given.extra, **ambient.extra})
    for problem in secrets_of(new):
        raise ConfigError(problem.key, problem.value, f"{problem.remedy}; it comes from the environment")
    try:
        for problem in cluster_problems(new):
            raise problem
        scheduler.destination(new)
    except ConfigError as problem:
        said = f"{problem.remedy} ({'; '.join(words)})" if words else problem.remedy
        raise ConfigError(problem.key, problem.value, said) from problem
    return new, asdict(new), words
