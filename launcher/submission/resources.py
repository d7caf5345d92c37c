"""What a run's next job asks the cluster for: what its config says, and what earlier attempts and runs have taught.

Owns: time limits from measured throughput; a warning in time for a save; more memory after an out-of-memory; nodes to
stay away from. Pure.
Must not know: files, how an executor works.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from launcher.cluster.node_list import names
from launcher.cluster.notation import megabytes, minutes
from launcher.cluster.offer import Offer
from launcher.cluster.scheduler import replaced, warned_early_seconds
from launcher.config import AUTO_TIME, Cluster
from launcher.machine.once import Once
from launcher.store.facts import Cause
from launcher.submission.kept_away import AS_BEFORE
from launcher.sweep import Run

STARTUP_SECONDS = 300.0  # imports from a busy file system, weights, the rendezvous
ROUNDED_TO_MINUTES = 5
SAVES_WITHIN = 2  # times what a save takes, from the warning on: it begins at the end of a step, on a busy disk
ROUNDED_TO_SECONDS = 10
_ONCE = Once()


@dataclass(frozen=True)
class Past:
    """How the run's last attempt ended, and what else is known of where the next one goes.

    Attributes:
        cause, node: why it ended, and on which node.
        asked: what it had asked for.
        away: nodes to keep away from, each with the reason; None: all that it was kept away from.
        offer: what the scheduler gives such a job.
        saving: the seconds that a checkpoint takes, as measured, or as its size lets expect; None: nothing is saved.
    """

    cause: Cause | None = None
    node: str | None = None
    asked: Mapping[str, Any] | None = None
    away: Mapping[str, str] | None = None
    offer: Offer = field(default_factory=Offer)
    saving: float | None = None


def adapted(run: Run, past: Past, seconds: float | None, given: Collection[str] = ()) -> tuple[Run, list[str]]:
    """The run as it is to be submitted, and what was changed, in words.

    Args:
        run: as configured.
        past: how its last attempt ended.
        seconds: how long its job will take, be it to train or to evaluate; None where nothing was measured.
        given: keys of `cluster` that the user has set just now: they stay.
    """
    cluster = run.config.cluster
    typed = {each.lstrip("+").partition("=")[0].removeprefix("cluster.") for each in run.overrides}
    warning = {} if "warning_seconds" in {*given, *typed} else _warning(cluster, past)
    learnt: dict[str, Any] = {
        **_time(replace(cluster, **warning), seconds, past.offer),
        **_memory(cluster, past),
        **_nodes(cluster, past),
    }
    if learnt and cluster.extra:  # in whose place nothing that was learnt would count
        instead = replaced(cluster)
        learnt = {key: value for key, value in learnt.items() if key not in instead}
    changed = warning | {key: value for key, value in learnt.items() if key not in given}
    if not changed:
        return run, []
    new, settings = _ONCE(_changed, cluster, sys.intern(json.dumps(changed)))
    config = replace(run.config, cluster=new)
    words = [f"{key} {value}" for key, value in changed.items() if value is not None]
    if "exclude" in changed:
        words += [f"{node}: {why}" for node, why in (past.away or {}).items() if why != AS_BEFORE]
    if changed.get("time", cluster.time) is None and cluster.time == AUTO_TIME:
        words.insert(0, "time: the cluster's own, since nothing was measured yet")
    return replace(run, config=config, settings={**run.settings, "cluster": settings}), words


def _changed(cluster: Cluster, changes: str) -> tuple[Cluster, dict[str, Any]]:
    """The cluster with these changes, a JSON object, and the same plain; runs with the same ones share both."""
    new = replace(cluster, **json.loads(changes))
    return new, asdict(new)


def _time(cluster: Cluster, seconds: float | None, offer: Offer) -> dict[str, str | None]:
    """A limit with the margin, within what may be asked for; the cluster's own where nothing was measured yet."""
    if cluster.time != AUTO_TIME:
        return {}
    if seconds is None:
        return {"time": None}
    work = (seconds * (1 + cluster.time_margin) + STARTUP_SECONDS) * (cluster.runs_per_job or 1)
    early = cluster.warning_seconds + warned_early_seconds(cluster.executor)  # at the warning it would save and leave
    needed = math.ceil((work + early) / 60 / ROUNDED_TO_MINUTES) * ROUNDED_TO_MINUTES
    return {"time": str(min(needed, offer.most_minutes or needed))}


def _warning(cluster: Cluster, past: Past) -> dict[str, Any]:
    """A warning that leaves time for a save, where the time limit has room for it."""
    early, limit = warned_early_seconds(cluster.executor), minutes(cluster.time)
    needed = math.ceil(SAVES_WITHIN * (past.saving or 0) / ROUNDED_TO_SECONDS) * ROUNDED_TO_SECONDS
    has_room = limit is None or limit * 60 > needed + early
    return {"warning_seconds": needed} if needed > cluster.warning_seconds and has_room else {}


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
    """What the user and earlier attempts keep away from, and the node that failed under the last one.

    Of what was learnt nothing holds where it would leave the job too few nodes (`Offer.has_enough`).
    """
    configured = names(cluster.exclude)
    learnt = list(past.away) if past.away is not None else names((past.asked or {}).get("exclude"))
    failed = past.cause in (Cause.NODE_FAILED, Cause.HUNG)
    if failed and past.node and not re.search(r"[\[,]", past.node):  # of several, nobody knows which it was
        learnt.append(past.node)
    if not (cluster.avoid_failed_nodes and past.offer.has_enough(cluster.nodes, {*configured, *learnt})):
        learnt = []
    exclude = ",".join(dict.fromkeys([*configured, *learnt])) or None
    return {} if exclude == cluster.exclude else {"exclude": exclude}
