"""What a run's next job asks the cluster for: what its config says, and what earlier attempts and runs have taught.

Owns: time limits from measured throughput; more memory after an out-of-memory; nodes to stay away from. Pure.
Must not know: files, how an executor works.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from launcher.cluster.notation import megabytes
from launcher.cluster.scheduler import warned_early_seconds
from launcher.config import AUTO_TIME, Cluster
from launcher.store.facts import Cause
from launcher.sweep import Run

STARTUP_SECONDS = 300.0  # imports from a busy file system, weights, the rendezvous
ROUNDED_TO_MINUTES = 5
MOST_AVOIDED = 4  # nodes of which a run has learnt; the oldest may have been mended


@dataclass(frozen=True)
class Past:
    """How the run's last attempt ended: why, on which node or list of nodes, and what it had asked for."""

    cause: Cause | None = None
    node: str | None = None
    asked: Mapping[str, Any] | None = None


def adapted(run: Run, past: Past, seconds: float | None, given: Collection[str] = ()) -> tuple[Run, list[str]]:
    """The run as it is to be submitted, and what was changed, in words.

    Args:
        run: as configured.
        past: how its last attempt ended.
        seconds: how long its job will take, be it to train or to evaluate; None where nothing was measured.
        given: keys of `cluster` that the user has set just now: they stay.
    """
    cluster = run.config.cluster
    learnt: dict[str, Any] = {**_time(cluster, seconds), **_memory(cluster, past), **_nodes(cluster, past)}
    changed = {key: value for key, value in learnt.items() if key not in given}
    if not changed:
        return run, []
    new = replace(cluster, **changed)
    config = replace(run.config, cluster=new)
    words = [f"{key} {value}" for key, value in changed.items() if value is not None]
    if changed.get("time", cluster.time) is None and cluster.time == AUTO_TIME:
        words.insert(0, "time: the cluster's own, since nothing was measured yet")
    return replace(run, config=config, settings={**run.settings, "cluster": asdict(new)}), words


def _time(cluster: Cluster, seconds: float | None) -> dict[str, str | None]:
    """A limit with the margin; the cluster's own where nothing was measured yet."""
    if cluster.time != AUTO_TIME:
        return {}
    if seconds is None:
        return {"time": None}
    work = (seconds * (1 + cluster.time_margin) + STARTUP_SECONDS) * (cluster.runs_per_job or 1)
    early = cluster.warning_seconds + warned_early_seconds(cluster.executor)  # at the warning it would save and leave
    return {"time": str(math.ceil((work + early) / 60 / ROUNDED_TO_MINUTES) * ROUNDED_TO_MINUTES)}


def _memory(cluster: Cluster, past: Past) -> dict[str, str | None]:
    """At least what the last attempt had; more, where that was not enough."""
    had = (past.asked or {}).get("mem")
    sizes = [size for size in (megabytes(cluster.mem), megabytes(had)) if size]
    if not sizes:
        return {}
    growth = cluster.memory_growth if past.cause is Cause.OUT_OF_MEMORY else 1
    size = math.ceil(max(sizes) * growth)
    return {} if size == megabytes(cluster.mem) else {"mem": f"{size}M"}


def _nodes(cluster: Cluster, past: Past) -> dict[str, str | None]:
    """What is configured, what the last attempt kept away from, and the node that failed under it.

    Where it was one of several and nobody knows which, none is to blame: the scheduler starts nothing on a dead one.
    """
    configured = _names(cluster.exclude)
    learnt = [name for name in _names((past.asked or {}).get("exclude")) if name not in configured]
    failed = past.cause in (Cause.NODE_FAILED, Cause.HUNG) and cluster.avoid_failed_nodes
    if failed and past.node and not re.search(r"[\[,]", past.node):
        learnt.append(past.node)
    newest = list(dict.fromkeys(reversed(learnt)))[:MOST_AVOIDED]
    exclude = ",".join([*configured, *reversed(newest)]) or None
    return {} if exclude == cluster.exclude else {"exclude": exclude}


def _names(text: str | None) -> list[str]:
    """The parts of a node list; a comma within brackets does not part."""
    return re.findall(r"(?:[^,\[]|\[[^\]]*\])+", text or "")
