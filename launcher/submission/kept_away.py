"""The nodes from which jobs are kept away, beside those that the user has excluded.

Owns: what was learnt of nodes, for how long it holds, and for which runs.
Must not know: files but attempts' records, how an executor excludes a node.

What a run's attempts have excluded, and its configuration does not, was learnt. It holds for a week after it was
learnt: a node is mended, or gone, by then. What several runs of a sweep keep away from, all of them do.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from launcher.cluster.node_list import names
from launcher.errors import StoreError
from launcher.runs.black_holes import black_holes, ends_everywhere
from launcher.runs.run_state import RunState
from launcher.runs.status import UNSUCCESSFUL
from launcher.store.attempt_config import section
from launcher.store.attempts import Attempts
from launcher.store.run_folder import AttemptDir, RunDir
from launcher.sweep import Run

HOLDS_SECONDS = 7 * 86400.0
SEVERAL = 2
SET_UP = ("clusters", "setup", "python", "container", "container_runtime")
AS_BEFORE = "as before"


def kept_away(runs: Iterable[Run], states: Sequence[RunState]) -> dict[str, str] | None:
    """The nodes that every run of a sweep is to keep away from, each with the reason; None: it is not the nodes."""
    runs = list(runs)
    tried = [(run, state.run) for run, state in zip(runs, states, strict=True) if _failed(state)]
    learnt_of = Counter(node for run, folder in tried for node in _learnt_if_readable(run, folder))
    alike = [state for run, state in zip(runs, states, strict=True) if is_set_up_alike(run, state.facts.cluster)]
    if ends_everywhere(alike, learnt_of):
        return None
    known = {node: AS_BEFORE for node, times in learnt_of.items() if times >= SEVERAL}
    holes = black_holes(alike, learnt_of)
    return known | {node: f"{hole.runs} runs ended there before they began" for node, hole in holes.items()}


def is_set_up_alike(run: Run, asked: Mapping[str, Any]) -> bool:
    """Whether a job of these settings has begun as the run's next one will: else how it ended says nothing of that."""
    now = asdict(run.config.cluster)
    return all(asked.get(key, now[key]) == now[key] for key in SET_UP)


def _failed(state: RunState) -> bool:
    return state.status in UNSUCCESSFUL


def _learnt_if_readable(run: Run, folder: RunDir) -> list[str]:
    with contextlib.suppress(StoreError):  # told where it is decided what happens to this run
        return learnt_by(run, Attempts.of(folder).trainings)
    return []


def learnt_by(run: Run, attempts: Sequence[AttemptDir]) -> list[str]:
    """The nodes that the last of a run's attempts was kept away from, though its configuration does not say so."""
    configured = names(run.config.cluster.exclude)
    if not attempts or not is_set_up_alike(run, section(attempts[-1], "cluster")):
        return []
    nodes = [node for node in _excluded(attempts[-1]) if node not in configured]
    return [node for node in nodes if _learnt_seconds(node, attempts) < HOLDS_SECONDS]


def _learnt_seconds(node: str, attempts: Sequence[AttemptDir]) -> float:
    """How long ago the first of the last attempts was made that all exclude the node."""
    first = attempts[-1]
    for attempt in reversed(attempts):
        if node not in _excluded(attempt):
            break
        first = attempt
    return time.time() - (first.record.time or 0.0)


def _excluded(attempt: AttemptDir) -> list[str]:
    cluster = attempt.record.settings.get("cluster")
    return names(cluster.get("exclude")) if isinstance(cluster, dict) else []
