"""hub=folder: a folder for each revision on the shared filesystem.

Owns: how a revision gets into its folder. Must not know: runs, what a revision holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from launcher.config import Hub
from launcher.errors import PublishError, StoreError
from launcher.hub.payload import MARKER, Payload, already_there, owner_of
from launcher.store.files import Plain, building, link, read_fact
from launcher.store.output_folder import Store


@dataclass(frozen=True)
class FolderShelf:
    """Revisions below `<output>/hub`."""

    hub: Hub
    store: Store

    @property
    def repo(self) -> str:
        """The repository's name."""
        return self.hub.repo or ""

    @property
    def folder(self) -> Path:
        """The revision's folder."""
        return self.store.published(self.repo, self.hub.revision).absolute()

    @property
    def address(self) -> str:
        """What from_pretrained takes."""
        return str(self.folder)

    def push(self, payload: Payload, *, anew: bool = False) -> str:
        """Make the folder hold the payload, whole, or what it held before; returns the payload's hash, for a commit.

        `anew`: though its marker says that it does.

        Raises:
            PublishError: the folder is another run's, or is none of ours.
        """
        if self._is_there(payload) and not anew:
            return payload.content
        with building(self.folder, lambda _: self._is_there(payload) and not anew) as empty:
            if empty is not None:
                _fill(empty, payload)
        if not self._is_there(payload):  # somebody else was quicker
            raise PublishError(f"{payload.name}: {self.folder} was written by somebody else just now; publish again")
        return payload.content

    def holder(self) -> str | None:
        """The model that the folder holds, RUN or RUN@STEP; empty: it is none of ours; None: there is none."""
        if not self.folder.exists():
            return None
        found = self.marker()
        return "" if found is None else owner_of(found)

    def marker(self) -> Plain | None:
        """What the folder says of whose revision it is; None where it is none of ours."""
        try:
            return read_fact(self.folder / MARKER)
        except (StoreError, OSError):
            return None

    def _is_there(self, payload: Payload) -> bool:
        found = self.marker()
        if found is None and self.folder.exists():
            raise PublishError(f"{payload.name}: {self.folder} is there and is no revision of ours; move it away")
        return already_there(found, payload, str(self.folder))


def _fill(folder: Path, payload: Payload) -> None:
    for name, content in {**payload.files, MARKER: payload.marker}.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            target.write_bytes(content)
        else:
            link(content, target)
