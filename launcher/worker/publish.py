"""The job's part in publishing: what only the node knows of a run's sources, and the push after the evaluation.

Owns: sources.json; what becomes of a push that fails. Must not know: stores, what a revision holds.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from launcher.config import PrefsweepError, RunConfig
from launcher.files import write_once
from launcher.publish import due_in_job, hub_of, publish
from launcher.store import AttemptDir, RunDir, Store
from launcher.worker import models
from launcher.worker.reading import hub_commit

LONGEST_REASON = 2000  # characters


def record_sources(config: RunConfig, run: RunDir, store: Store) -> None:
    """Note what the run was trained on, once: a Hub commit where there is one, else the hashes of the model's files."""
    if not run.sources_file.exists():
        commit = hub_commit(config.dataset)
        dataset = {"hub": config.dataset.path, "commit": commit} if commit else {}
        write_once(run.sources_file, {"model": models.fingerprint(config.model, store), "dataset": dataset})


def publish_in_job(attempt: AttemptDir, store: Store, stop: Callable[[], bool]) -> None:
    """Publish the run where its job is to; what keeps it from that is noted, unless the process is about to end."""
    if not due_in_job(attempt):
        return
    try:
        fact = publish(attempt.run, hub_of(attempt), store, stop)
    except Exception as error:  # noqa: BLE001 - a store's trouble must not cost a trained run
        reason = str(error) if isinstance(error, PrefsweepError) else f"{type(error).__name__}: {error}"
        print(f"not published: {reason}", flush=True)
        if not stop():
            note = {"reason": " ".join(reason.split())[:LONGEST_REASON], "time": time.time()}
            write_once(attempt.unpublished_file, note)
    else:
        print(f"published as {fact['address']}", flush=True)
