"""A trained model -> a published revision and revision.json. Called by the job on the node and by the login node alike.

Owns: whether a model has changed since it was published, which store takes a revision, the fact about it.
Must not know: which runs are to publish (`work_done` and `publish` do), how a store works, what a revision holds,
schedulers.

A push that fails leaves the run TRAINED: the job notes the reason in `unpublished.json` of its attempt, and
`python -m launcher publish` completes it later.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

from launcher.config import Hub
from launcher.errors import PublishError
from launcher.hub.payload import content_of, payload_of
from launcher.hub.starting_point import payload_of_start, revision_of_start, starting_point
from launcher.model.adapter import Adapter
from launcher.store.facts import Revision
from launcher.store.files import fact_text, read_fact, write_derived, write_once
from launcher.store.measurements import Measured, result_of, revision_of
from launcher.store.origins import Sources
from launcher.store.output_folder import Store
from launcher.store.run_folder import Point


class Shelf(Protocol):
    """A store of revisions: its repository's full name, the revision's address, and the push, which is idempotent."""

    @property
    def repo(self) -> str: ...  # noqa: D102 - see above
    @property
    def address(self) -> str: ...  # noqa: D102
    def push(self, payload: Any, *, anew: bool = False) -> str: ...  # noqa: D102


def lacks(point: Point, hub: Hub) -> bool:
    """Whether a job that publishes has this model to push: it is nowhere, or is where `hub` says as it was before."""
    recorded = revision_of(point.folder)
    return recorded is None or (recorded.is_at(hub.at_step(point.step)) and has_changed(point, recorded))


def outdated_elsewhere(point: Point, hub: Hub) -> str | None:
    """Where else than `hub` says the model is as it was before: no job of ours pushes there, nor here beside it."""
    recorded = revision_of(point.folder)
    if recorded is None or recorded.is_at(hub.at_step(point.step)) or not has_changed(point, recorded):
        return None
    return recorded.address


def has_changed(point: Point, recorded: Revision) -> bool:
    """Whether other things would be published now; never where the weights were removed since they are published."""
    try:
        return recorded.content != content_of(point)
    except PublishError:
        return False


def publish(
    point: Point, hub: Hub, store: Store, stop: Callable[[], bool] = lambda: False, *, anew: bool = False
) -> Revision:
    """Push a model of a trained run and record where it is; what is there already is not pushed again.

    Args:
        point: which model.
        hub: the run's settings.
        store: the output folder.
        stop: whether to give up between two tries.
        anew: push it though its marker says that it is there.

    Returns:
        What revision.json says now.

    Raises:
        PublishError: the store did not take it, or holds another run's revision under its name.
    """
    from launcher.hub.card import card

    hub, file = hub.at_step(point.step), point.folder.revision_file
    shelf = shelf_of(hub, store, stop)
    payload = payload_of(point, card(_subject(point, hub, shelf)), _base(point, hub, store, stop))
    commit = shelf.push(payload, anew=anew)
    place = (shelf.address, hub.store, shelf.repo, hub.revision)
    fact = Revision(*place, commit, payload.content, time.time(), point.name)
    recorded = read_fact(file, Revision)
    if recorded is None:
        write_once(file, fact)
    elif replace(recorded, time=fact.time) != fact:  # of a revision that is no longer the model's
        write_derived(file, fact_text(fact))  # in one step: a published model is never without its record
    return fact


def _base(point: Point, hub: Hub, store: Store, stop: Callable[[], bool]) -> Adapter | None:
    """The model below an adapter, published now if it is nowhere but in this output folder; else None."""
    folder, revision = starting_point(point, store), revision_of_start(point)
    if folder is None or revision is None:
        return None
    shelf = shelf_of(replace(hub, revision=revision), store, stop)
    shelf.push(payload_of_start(folder, point, shelf.address, hub.license))
    return Adapter(shelf.repo, revision) if hub.store == "huggingface" else Adapter(shelf.address)


def shelf_of(hub: Hub, store: Store, stop: Callable[[], bool] = lambda: False) -> Shelf:
    """The store that `hub` names.

    Raises:
        PublishError: it names none.
    """
    if hub.store == "folder":
        from launcher.hub.folder import FolderShelf

        return FolderShelf(hub, store)
    if hub.store == "huggingface":
        from launcher.hub.huggingface import HuggingFaceShelf

        return HuggingFaceShelf(hub, stop)
    raise PublishError(f"hub.store={hub.store}: publishes nothing; choose huggingface or folder")


def _subject(point: Point, hub: Hub, shelf: Shelf) -> Any:
    from launcher.hub.card import Subject

    run, on_hub = point.run, hub.store == "huggingface"
    return Subject(
        point.name,
        run.read_config(),
        sources=read_fact(run.sources_file, Sources) or Sources(),
        result=result_of(run),
        measured=Measured.of(point.folder),
        address=shelf.repo if on_hub else shelf.address,
        revision=hub.revision if on_hub else None,
        license=hub.license,
        step=point.step,
    )
