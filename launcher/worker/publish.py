"""The job's part in publishing: what only the node knows of a run's sources, and the push after the evaluation.

Owns: sources.json; what becomes of a push that fails. Must not know: stores, what a revision holds.

A job that only evaluates pushes as well: its scores change the card of what the training has published.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from launcher.config import PrefsweepError, RunConfig
from launcher.files import write_once
from launcher.payload import points_of
from launcher.publish import hub_of, lacks, publish, publishes
from launcher.store import AttemptDir, RunDir, Store
from launcher.worker import base_model
from launcher.worker.reading import hub_commits

LONGEST_REASON = 2000  # characters


def record_sources(config: RunConfig, run: RunDir, store: Store) -> None:
    """Note what the run was trained on, once: Hub commits where there are any, else the hashes of the model's files."""
    if not run.sources_file.exists():
        dataset = {"commits": hub_commits(config.dataset, store)}
        write_once(run.sources_file, {"model": base_model.fingerprint(config.model, store), "dataset": dataset})


def publish_in_job(attempt: AttemptDir, store: Store, stop: Callable[[], bool]) -> None:
    """Publish what the run lacks, where its job is to; what fails is noted, unless the process is about to end."""
    reasons = list(_push(attempt, store, stop)) if publishes(attempt) else []
    for reason in reasons:
        print(f"not published: {reason}", flush=True)
    if reasons and not stop():
        write_once(attempt.unpublished_file, {"reason": "; ".join(reasons)[:LONGEST_REASON], "time": time.time()})


def _push(attempt: AttemptDir, store: Store, stop: Callable[[], bool]) -> Iterator[str]:
    """Push each model that is due; why one could not be pushed, which keeps no other.

    `hub.patience` is that of the run: a GPU is not held for it once for every milestone.
    """
    hub, lost = hub_of(attempt), 0.0
    for point in points_of(attempt.run):
        began = time.monotonic()
        left = replace(hub, patience=max(0, hub.patience - int(lost)))
        try:
            if not stop() and lacks(point, hub):
                print(f"published as {publish(point, left, store, stop)['address']}", flush=True)
        except Exception as error:  # noqa: BLE001 - a store's trouble must not cost a trained run
            lost += time.monotonic() - began
            kind = "" if isinstance(error, PrefsweepError) else f"{point.name}: {type(error).__name__}: "
            yield " ".join(f"{kind}{error}".split())
