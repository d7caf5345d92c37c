"""Options of `cluster.extra` with the name of the key that they replace: they count as that key.

Owns: that they do, so that whatever checks, learns or asks by the key sees what the job will have.
Must not know: any scheduler's own options (its executor names them).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from launcher.cluster.scheduler import replaced
from launcher.config import Cluster


def keys_in_extra(cluster: Cluster) -> dict[str, Any]:
    """By key what `cluster.extra` says in its place; null there leaves the option out, which no key says."""
    said = {key: cluster.extra[key] for key in replaced(cluster) if key in cluster.extra}
    return {key: str(value) for key, value in said.items() if value is not None and not isinstance(value, bool)}


def as_keys(cluster: Cluster) -> Cluster:
    """The resources with these in their keys; the very same where there are none."""
    if not (found := keys_in_extra(cluster)):
        return cluster
    return replace(cluster, **found, extra={key: value for key, value in cluster.extra.items() if key not in found})


def overruled(cluster: Cluster) -> list[str]:
    """A line for each key that has another value, which does not count."""
    found = keys_in_extra(cluster).items()
    pairs = [(key, vars(cluster)[key], value) for key, value in found]
    return [
        f"cluster.{key}={ours} does not count: cluster.extra.{key}={value}"
        for key, ours, value in pairs
        if ours not in (None, value)
    ]
