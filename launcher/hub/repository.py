"""A repository on the Hub as it is: its branches, what a commit holds and whose it is, whether everybody sees it.

Owns: the questions, each asked once and without patience. Must not know: why they are asked, what follows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus

from launcher.hub.payload import CARD, MARKER
from launcher.store.files import Plain

NOBODYS = frozenset({".gitattributes", CARD})  # what the Hub itself puts into a new repository


@dataclass(frozen=True)
class Held:
    """The names of the files at a commit, and whether everybody sees them."""

    commit: str
    files: frozenset[str]
    public: bool

    @property
    def is_nobodys(self) -> bool:
        """Whether nothing of anybody's is there."""
        return not self.files - NOBODYS


@dataclass(frozen=True)
class HubRepo:
    """The repository `OWNER/NAME`; each method raises what huggingface_hub raises."""

    name: str

    def heads(self) -> Mapping[str, str] | None:
        """The commit that each branch is at; None where there is no such repository."""
        from huggingface_hub import HfApi
        from huggingface_hub.errors import RepositoryNotFoundError

        try:
            refs = HfApi().list_repo_refs(self.name)
        except RepositoryNotFoundError as error:
            if error.response.status_code == HTTPStatus.NOT_FOUND:
                return None
            raise  # who has no token is told the same of what is there, and private
        return {branch.name: branch.target_commit for branch in refs.branches}

    def first_commit(self) -> str:
        """The oldest one of main."""
        from huggingface_hub import HfApi

        return str(HfApi().list_repo_commits(self.name)[-1].commit_id)

    def at(self, revision: str) -> Held:
        """What the repository holds at a commit or a branch."""
        from huggingface_hub import HfApi

        info = HfApi().model_info(self.name, revision=revision)
        files = frozenset(sibling.rfilename for sibling in info.siblings or [])
        return Held(str(info.sha), files, public=info.private is False)

    def marker(self, commit: str) -> Plain | None:
        """What a commit says of whose revision it is; None where it is none of ours."""
        from huggingface_hub import hf_hub_url
        from huggingface_hub.errors import EntryNotFoundError
        from huggingface_hub.utils import (  # type: ignore[attr-defined]  # public, and exported in its own way
            build_hf_headers,
            hf_raise_for_status,
            http_backoff,
        )

        answer = http_backoff("GET", hf_hub_url(self.name, MARKER, revision=commit), headers=build_hf_headers())
        try:
            hf_raise_for_status(answer)
        except EntryNotFoundError:
            return None
        try:
            found = json.loads(answer.content)
        except ValueError:  # whatever it is, we have not written it
            return None
        return found if isinstance(found, dict) else None

    def changed(self, since: str, now: str) -> list[str]:
        """The files, the card aside, that differ between two commits; of one that is not there any more, all."""
        before, after = self._contents(since), self._contents(now)
        names = (before.keys() | after.keys()) - NOBODYS
        return sorted(name for name in names if before.get(name) != after.get(name))

    def _contents(self, commit: str) -> dict[str, str]:
        """A name by content for each file at a commit."""
        from huggingface_hub import HfApi
        from huggingface_hub.errors import RevisionNotFoundError
        from huggingface_hub.hf_api import RepoFile

        try:
            listed = list(HfApi().list_repo_tree(self.name, recursive=True, revision=commit))
        except RevisionNotFoundError:
            return {}
        files = [entry for entry in listed if isinstance(entry, RepoFile)]
        return {entry.path: entry.lfs.sha256 if entry.lfs else entry.blob_id for entry in files}
