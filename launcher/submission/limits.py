"""Whether the jobs of a plan have the time that they need to save and leave, where they are to go.

Owns: that rule. Must not know: how a scheduler is asked for its limits, how a job is warned.
"""

from __future__ import annotations

from launcher.cluster.notation import minutes
from launcher.cluster.offer import Offer
from launcher.cluster.scheduler import warned_early_seconds
from launcher.config import Cluster
from launcher.errors import UNSET, ConfigError


def check_limits(cluster: Cluster, offer: Offer) -> None:
    """Refuse jobs that the partition would end before they are warned, or never start.

    Raises:
        ConfigError: names the key, the partition and its limit.
    """
    asked = minutes(cluster.time)
    where = f"partition {cluster.partition}" if cluster.partition else "the default partition"
    if asked and offer.most_minutes and asked > offer.most_minutes and cluster.qos is None:
        remedy = f"{where} allows {offer.most_minutes} minutes at most; a job that reaches its limit goes on by itself"
        raise ConfigError("cluster.time", cluster.time, remedy)
    given, early = offer.minutes or offer.most_minutes, cluster.warning_seconds + warned_early_seconds(cluster.executor)
    limit = asked or given
    if limit and limit * 60 <= early:
        minute = "1 minute" if limit == 1 else f"{limit} minutes"
        has = f"a job has {minute} in {where}" if asked else f"{where} gives a job {minute}"
        remedy = (
            f"{has}, and it may be warned {early} s before that limit, which is at its start; give another "
            "cluster.time or partition, or lower cluster.warning_seconds"
        )
        raise ConfigError("cluster.time", UNSET if cluster.time is None else cluster.time, remedy)
