"""Whose a published model is: what its record and its own marker say.

Owns: both questions, asked before anything is told or measured of it. Must not know: how it is pushed.

A `revision.json` that was copied from another run leads to that one's model. It names its own since it does so; of an
older version's, the marker in the revision tells.
"""

from __future__ import annotations

from pathlib import Path

from launcher.errors import Foreign, StoreError
from launcher.hub.payload import MARKER, owner_of
from launcher.store.facts import Revision
from launcher.store.files import read_fact
from launcher.store.measurements import revision_of
from launcher.store.model_marker import model_name
from launcher.store.run_folder import RunDir


def published_of(run: RunDir) -> Revision | None:
    """Where the model of a run, or milestone, is published; of a folder its marker is asked too, where it is there.

    Raises:
        StoreError: that cannot be read, or is another's.
    """
    revision = revision_of(run)
    if revision is not None and revision.model is None and revision.store == "folder":
        _check(run, read_fact(Path(revision.address) / MARKER), revision.address)
    return revision


def check_fetched(run: RunDir, folder: Path, address: str) -> None:
    """Look whether the revision in a folder is of this run, or milestone, before it stands in for its model.

    Raises:
        StoreError: it is another's, or does not say whose it is.
    """
    marker = read_fact(folder / MARKER)
    if marker is None:
        raise StoreError(f"{run.revision_file}: {address} is there without a {MARKER}, so nobody knows whose it is")
    _check(run, marker, address)


def _check(run: RunDir, marker: dict[str, object] | None, address: str) -> None:
    if marker is not None and (owner := owner_of(marker)) != (own := model_name(run)):
        remedy = "put its own there, or remove it and publish again"
        raise Foreign(f"{run.revision_file}: {address} is the model of {owner}, not of {own}; {remedy}")
