"""The sweep as the environment of whoever launches completes it: what the configuration leaves open, and it says.

Owns: putting that into the runs. Must not know: an executor's variables; it reads them itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from launcher.cluster.scheduler import Scheduler
from launcher.config import Cluster
from launcher.errors import ConfigError
from launcher.machine.once import Once
from launcher.planning.cluster_rules import cluster_problems
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
    return replace(sweep, runs=runs), list(dict.fromkeys(line for found in completed for line in found[2]))


def _with(run: Run, cluster: Cluster, settings: dict[str, Any]) -> Run:
    if cluster is run.config.cluster:
        return run
    return replace(run, config=replace(run.config, cluster=cluster), settings={**run.settings, "cluster": settings})


def completed_by(cluster: Cluster, scheduler: Scheduler) -> Completed:
    """The resources, completed where there is anything, the same plain, and what of the environment counts.

    Raises:
        ConfigError: what it says is wrong.
    """
    ambient = scheduler.ambient(cluster)
    if not (ambient.keys or ambient.extra):
        return cluster, {}, ambient.words
    new = replace(cluster, **ambient.keys, extra={**cluster.extra, **ambient.extra})
    for problem in cluster_problems(new):
        raise ConfigError(problem.key, problem.value, f"{problem.remedy} ({'; '.join(ambient.words)})")
    return new, asdict(new), ambient.words
