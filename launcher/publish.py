"""A trained run -> a published revision and revision.json. Called by the job on the node and by the login node alike.

Owns: when a job is to publish, which store takes a revision, the fact about it.
Must not know: how a store works, what a revision holds, schedulers. Imports nothing heavy: `status` asks it too.

A push that fails leaves the run TRAINED: the job notes the reason in `unpublished.json` of its attempt, and
`python -m launcher publish` completes it later.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

from launcher.config import Hub, PublishError, from_plain
from launcher.files import Fact, read_fact, write_once
from launcher.store import AttemptDir, RunDir, Store


class Shelf(Protocol):
    """A store of revisions: its repository's full name, the revision's address, and the push, which is idempotent."""

    @property
    def repo(self) -> str: ...  # noqa: D102 - see above
    @property
    def address(self) -> str: ...  # noqa: D102
    def push(self, payload: Any) -> str: ...  # noqa: D102


def hub_of(attempt: AttemptDir) -> Hub:
    """The hub settings of an attempt; those of an attempt that recorded none publish nothing."""
    settings = (read_fact(attempt.attempt_file) or {}).get("settings", {})
    hub: Hub = from_plain(settings.get("hub", {}), Hub, "hub.")
    return hub


def due_in_job(attempt: AttemptDir) -> bool:
    """Whether the attempt's job has to publish the run, and has neither done it nor noted why it could not."""
    if attempt.run.revision_file.exists() or attempt.unpublished_file.exists():
        return False
    hub = hub_of(attempt)
    return hub.store != "off" and hub.when == "job"


def unpublished(attempt: AttemptDir) -> str | None:
    """Why a run that is evaluated and to be published is not published, and nothing is about to; None where it is."""
    if attempt.run.revision_file.exists():
        return None
    hub = hub_of(attempt)
    waits = "waits for the verb `publish` (hub.when=login)" if hub.store != "off" and hub.when == "login" else None
    return (read_fact(attempt.unpublished_file) or {}).get("reason") or waits


def publish(run: RunDir, hub: Hub, store: Store, stop: Callable[[], bool] = lambda: False) -> Fact:
    """Push a trained run's model and record where it is; what is there already is not pushed again.

    Returns:
        revision.json: store, repo, revision, commit, address, content.

    Raises:
        PublishError: the store did not take it, or holds another run's revision under its name.
    """
    from launcher.card import card
    from launcher.payload import payload_of

    shelf = shelf_of(hub, store, stop)
    payload = payload_of(run, card(_subject(run, hub, shelf)))
    commit = shelf.push(payload)
    place = {"store": hub.store, "repo": shelf.repo, "revision": hub.revision, "commit": commit}
    fact = {**place, "address": shelf.address, "content": payload.content, "time": time.time()}
    recorded = read_fact(run.revision_file)
    if recorded is not None and {**recorded, "time": None} != {**fact, "time": None}:
        run.revision_file.unlink()  # of a revision that is no longer the run's
    write_once(run.revision_file, fact)
    return fact


def shelf_of(hub: Hub, store: Store, stop: Callable[[], bool] = lambda: False) -> Shelf:
    """The store that `hub` names.

    Raises:
        PublishError: it names none.
    """
    if hub.store == "folder":
        from launcher.hub_folder import FolderShelf

        return FolderShelf(hub, store)
    if hub.store == "huggingface":
        from launcher.hub import HuggingFaceShelf

        return HuggingFaceShelf(hub, stop)
    raise PublishError(f"hub.store={hub.store}: publishes nothing; choose huggingface or folder")


def _subject(run: RunDir, hub: Hub, shelf: Shelf) -> Any:
    from launcher.card import Subject

    on_hub = hub.store == "huggingface"
    return Subject(
        run.run_id,
        run.read_config(),
        sources=read_fact(run.sources_file) or {},
        result=read_fact(run.result_file) or {},
        evaluation=read_fact(run.evaluation_file) or {},
        address=shelf.repo if on_hub else shelf.address,
        revision=hub.revision if on_hub else None,
        license=hub.license,
    )
