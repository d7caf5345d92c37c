"""The job's part in publishing: what only the node knows of a run's sources, and the push after the evaluation.

Owns: sources.json; what becomes of a push that fails. Must not know: stores, what a revision holds.

A job that only evaluates pushes as well: its scores change the card of what the training has published.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from launcher.config import RunConfig
from launcher.dataset.inputs import Inputs, changes, inputs_of
from launcher.errors import PrefsweepError, StoreError, Unread, UsageError
from launcher.hub.push import lacks, outdated_elsewhere, publish
from launcher.machine import disk
from launcher.machine.terminal import say
from launcher.store.attempt_config import hub_of
from launcher.store.facts import Unpublished
from launcher.store.files import fact_text, look_first, read_fact, write_derived, write_once
from launcher.store.hashes import Hashes
from launcher.store.origins import DatasetSources, Sources
from launcher.store.output_folder import Store
from launcher.store.run_folder import AttemptDir, RunDir, points_of
from launcher.store.work_done import publishes
from launcher.worker.dataset.reading import hub_commits
from launcher.worker.model import base_model
from launcher.worker.training import checkpoints

LONGEST_REASON = 2000  # characters
_WAYS_ON = "put that back, or launch with retrain=true to train it anew"


def record_sources(config: RunConfig, run: RunDir, store: Store, planned: Inputs | None = None) -> None:
    """Note what a run is trained on: Hub commits, or the hashes of files. One that has begun is held to what it noted.

    `planned`: what lay on this machine when it was launched; the same has to be there now.

    Raises:
        UsageError: its model or its data are others by now.
    """
    sources = _sources(config, store)
    if planned is not None and (files := changes(planned, sources.inputs or {})):
        raise UsageError(f"{run.run_id}: {', '.join(files)}: changed since the run was launched; launch it again")
    if planned is not None:  # with paths as they were spelled there
        sources = replace(sources, inputs=dict(planned))
    if not run.result_file.exists() and run.last_checkpoint_step() is None:  # nothing is left of an earlier training
        look_first()
        run.sources_file.unlink(missing_ok=True)
        write_once(run.sources_file, sources)
    elif (recorded := _recorded(run, sources)) is not None:
        _compare(run, recorded, sources)


def _recorded(run: RunDir, sources: Sources) -> Sources | None:
    """What a run that has begun noted; None where that is lost, and noted again, unless its checkpoints say otherwise.

    Raises:
        StoreError: it cannot be read, and no checkpoint tells that it was this.
        UsageError: it is lost, and was something else.
    """
    said = checkpoints.sources_of(run)
    is_told = said == checkpoints.Training.on(run.run_id, sources).sources
    try:
        recorded = read_fact(run.sources_file, Sources)
    except StoreError as error:
        if isinstance(error, Unread) or not is_told:
            raise
        say(f"{error}: noted again, as its checkpoints tell what it was")
    else:
        if recorded is not None:
            return recorded
        if said is not None and not is_told:
            raise UsageError(
                f"{run.run_id}: its model or its data are not those that it was trained on so far, as its checkpoints "
                f"tell ({run.checkpoints}); {_WAYS_ON}"
            )
    write_derived(run.sources_file, fact_text(sources))
    return None


def _sources(config: RunConfig, store: Store) -> Sources:
    weak = config.dataset.weak_rejects
    weaker = None if weak is None else base_model.fingerprint(weak.model, store)
    dataset = DatasetSources(hub_commits(config.dataset, store), weaker)
    known = Hashes(store)
    inputs = dict(inputs_of(config, known)) or None
    known.keep()
    return Sources(base_model.fingerprint(config.model, store), dataset, inputs)


def _compare(run: RunDir, recorded: Sources, sources: Sources) -> None:
    now = sources.dataset.commits
    moved = [path for path, commit in recorded.dataset.commits.items() if now.get(path, commit) != commit]
    other = ["its model is not the one"] if recorded.model != sources.model else []
    weaker = recorded.dataset.weaker_model
    other += ["its weaker model is not the one"] if weaker not in (None, sources.dataset.weaker_model) else []
    other += [f"{path} is not at the commit" for path in moved]
    if recorded.inputs is not None:
        data = [
            {key: each for key, each in (inputs or {}).items() if key.startswith("dataset")}
            for inputs in (recorded.inputs, sources.inputs)
        ]
        other += [f"{file} is not the one" for file in changes(*data)]
    if other:
        raise UsageError(
            f"{run.run_id}: {' and '.join(other)} that it was trained on so far ({run.sources_file}); {_WAYS_ON}"
        )


def publish_in_job(attempt: AttemptDir, store: Store, stop: Callable[[], bool]) -> None:
    """Publish what the run lacks, where its job is to; what fails is noted, unless the process is about to end."""
    reasons = list(_push(attempt, store, stop)) if publishes(attempt) else []
    for reason in reasons:
        say(f"not published: {reason}")
    if reasons and not stop():
        write_once(attempt.unpublished_file, Unpublished("; ".join(reasons)[:LONGEST_REASON], time.time()))


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
                look_first()
                say(f"published as {publish(point, left, store, stop).address}")
            elif not stop() and (address := outdated_elsewhere(point, hub)):
                yield f"{point.name}: was published as {address}, which lacks the new scores"
        except Exception as error:  # noqa: BLE001 - a store's trouble must not cost a trained run
            lost += time.monotonic() - began
            kind = "" if isinstance(error, PrefsweepError) else f"{point.name}: {type(error).__name__}: "
            yield disk.fault(error, store.root, then="publish") or " ".join(f"{kind}{error}".split())
