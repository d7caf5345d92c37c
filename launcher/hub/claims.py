"""The names under which a launch's models are to be published, looked for in their stores before anything is submitted.

Owns: the look, which saves a training whose model could not be published.
Must not know: how names are made (`revisions`), how a store is asked, what becomes of a run.

A run that is trained keeps the names that it was launched with, so nothing is asked about it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from launcher.config import Hub
from launcher.errors import PublishError
from launcher.hub.folder import FolderShelf
from launcher.hub.huggingface import would_be_public
from launcher.hub.look import HubLook
from launcher.hub.revisions import Key, models_of, with_revisions
from launcher.store.facts import RunRecord
from launcher.store.output_folder import Store
from launcher.store.reading import may_be_there
from launcher.sweep import Run, Sweep


def claim_revisions(sweep: Sweep, store: Store, *, token: bool) -> tuple[Sweep, list[str]]:
    """The sweep with its runs' revisions settled, and what could not be checked of them.

    Raises:
        ConfigError: a name that was asked for is taken, or everybody would see what is to be private; besides,
            whatever is wrong with the names themselves.
    """
    # Also of other sweeps: what is trained there, or is to be, takes its names when it is published.
    others = [record for each in store.sweeps() if each.name != sweep.name for record in each.run_records()]
    recorded = [*(record for record in others if _is_taken(record, store)), *store.sweep(sweep.name).run_records()]
    named = with_revisions(sweep, recorded, token=token)
    holders: dict[Key, str] = {}
    notes = []
    try:
        holders.update(_ask_holders(named.runs, store))
    except PublishError as error:
        notes.append(f"hub.store=huggingface: not checked which revisions are taken: {error}")
    return with_revisions(sweep, recorded, token=token, holders=holders), notes


def _is_taken(record: RunRecord, store: Store) -> bool:
    """Whether a recorded run is still there, and is to be published."""
    hub = record.settings.get("hub", {})
    return hub.get("store", "off") != "off" and store.run(record.run_id).path.is_dir()


def _ask_holders(runs: Iterable[Run], store: Store) -> Iterator[tuple[Key, str]]:
    """Which revisions of these runs are in their store already, and the model that each holds."""
    look = HubLook()
    waiting = [run for run in runs if not may_be_there(store.run(run.run_id).result_file)]
    for hub in (hub for run in waiting for hub in models_of(run).values() if hub.store != "off"):
        holder = FolderShelf(hub, store).holder() if hub.store == "folder" else _on_hub(hub, look)
        if holder is not None:
            yield (hub.repo, hub.revision), holder


def _on_hub(hub: Hub, look: HubLook) -> str | None:
    if hub.private and look.is_public(hub):
        raise would_be_public(str(hub.repo))
    return look.holder(hub)
