"""A look at the Hub before anything is decided: which revisions are there, and whose they are.

Owns: that each repository is asked for its branches once per command; how long an answer is waited for on which no
model depends. Must not know: runs' states, what follows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from launcher.config import Hub
from launcher.errors import PublishError
from launcher.hub.faults import Persistence
from launcher.hub.huggingface import full_name
from launcher.hub.payload import owner_of
from launcher.hub.repository import Held, HubRepo
from launcher.store.files import Plain

PATIENCE, TIMEOUT = 10, 30  # seconds: for a question that meets faults, and for one answer

T = TypeVar("T")


@dataclass(frozen=True)
class HubLook:
    """The answers of one command: nothing is asked twice, also where there was no answer.

    Each question raises a PublishError where the Hub cannot be asked.
    """

    _answers: dict[tuple[str | None, str], Any] = field(default_factory=dict)

    def head(self, hub: Hub) -> str | None:
        """The commit that a revision is at; None where there is no such revision, or no such repository."""
        heads = self._once(hub, "heads", HubRepo.heads)
        return None if heads is None else heads.get(hub.revision)

    def marker(self, hub: Hub, commit: str) -> Plain | None:
        """What a commit says of whose revision it is; None where it is none of ours."""
        return self._once(hub, f"marker {commit}", lambda repo: repo.marker(commit))

    def changed(self, hub: Hub, since: str, now: str) -> list[str]:
        """The files, the card aside, that differ between two commits."""
        return self._once(hub, f"changed {since} {now}", lambda repo: repo.changed(since, now))

    def holder(self, hub: Hub) -> str | None:
        """The model that a revision holds, RUN or RUN@STEP; empty: it is none of ours; None: it may be written."""
        commit = self.head(hub)
        if commit is None:
            return None
        marker = self.marker(hub, commit)
        if marker is not None:
            return owner_of(marker)
        return None if self._held(hub, commit).is_nobodys else ""

    def is_public(self, hub: Hub) -> bool:
        """Whether there is such a repository, and everybody sees it."""
        commit = self.head(replace(hub, revision="main"))
        return commit is not None and self._held(hub, commit).public

    def _held(self, hub: Hub, commit: str) -> Held:
        return self._once(hub, f"held {commit}", lambda repo: repo.at(commit))

    def _once(self, hub: Hub, what: str, question: Callable[[HubRepo], T]) -> T:
        asked = hub.repo, what
        if asked not in self._answers:
            self._answers[asked] = _answer(hub, question)
        answer: T | PublishError = self._answers[asked]
        if isinstance(answer, PublishError):
            raise answer
        return answer


def _answer(hub: Hub, question: Callable[[HubRepo], T]) -> T | PublishError:
    soon = replace(hub, patience=min(PATIENCE, hub.patience), timeout=min(TIMEOUT, hub.timeout))
    persistently = Persistence(soon, str(hub.repo))
    try:
        repo = HubRepo(full_name(hub, persistently))
        answer: T = persistently(lambda: question(repo))
    except PublishError as error:
        return error
    return answer
