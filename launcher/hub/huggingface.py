"""hub=huggingface: revisions on the Hugging Face Hub. It and its neighbours import huggingface_hub in functions only.

Owns: the order of calls that makes a revision exactly once, the collection of some. Must not know: runs, what a
revision holds, which faults pass (`faults`).

A revision is one commit, which holds the marker with the weights: there is never half of one. It names the commit that
it was decided upon as its parent, so that the Hub refuses it (412) where somebody was quicker. Then, and after any
other fault that passes, everything is looked at and decided again; a commit whose answer got lost is found there. Large
files that the Hub has already are not sent again, which is how a killed upload goes on.

Its branch begins at the repository's first commit. Where that holds nothing of anybody's, as in a repository that the
Hub has made, a branch without a marker may be written, whoever made it. Where it holds something, such a branch may be
somebody's and is left alone; so ours is then never without its marker: it is made under another name, as a draft, and
gets its own when it is whole. Whatever ends a push, the next one needs nobody's help.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

from launcher.config import Hub
from launcher.errors import ConfigError, PublishError
from launcher.hub.faults import Overtaken, Persistence, never, passes
from launcher.hub.payload import MARKER, Payload, already_there
from launcher.hub.repository import Held, HubRepo
from launcher.machine.installed import package_dir

NO_WAY = (  # what to do about it
    "; `python -m launcher publish` completes it where there is one, and hub.when=login leaves it to that from the "
    "start"
)


@dataclass
class HuggingFaceShelf:
    """Revisions of a repository on the Hub; `stop` says whether to give up between two tries."""

    hub: Hub
    stop: Callable[[], bool] = never
    repo: str = field(init=False)

    def __post_init__(self) -> None:
        self._persistently = Persistence(self.hub, f"{self.hub.repo}@{self.hub.revision}", NO_WAY, self.stop)
        self.repo = full_name(self.hub, self._persistently)
        self._there = HubRepo(self.repo)

    @property
    def address(self) -> str:
        """What `model=` takes; for from_pretrained, the part behind the @ is `revision`."""
        return f"{self.repo}@{self.hub.revision}"

    def push(self, payload: Payload, *, anew: bool = False) -> str:
        """Make the revision hold the payload and return its commit; `anew`: though its marker says that it does.

        Raises:
            PublishError: it is another run's, or the Hub did not take it within `hub.patience` seconds.
        """
        commit: str = self._persistently(lambda: self._push_once(payload, anew=anew))
        return commit

    def collect(self, title: str, notes: dict[str, str]) -> str:
        """Make the collection hold these repositories, each with its note, and return its address.

        Raises:
            PublishError: the Hub did not take it.
        """
        address: str = self._persistently(lambda: self._collect_once(title, notes))
        return address

    # -------------------------------------------------------------------------------------------- one try

    def _push_once(self, payload: Payload, *, anew: bool) -> str:
        from huggingface_hub import HfApi

        heads = self._there.heads()
        if heads is None:  # asked first: a token that may only write to one repository may not make any
            HfApi().create_repo(self.repo, private=self.hub.private, exist_ok=True)
            heads = self._there.heads() or {}
        draft, head = _draft_of(self.hub, payload), heads.get(self.hub.revision)
        if head is None:
            return self._make(draft, heads.get(draft), payload)
        if draft in heads:
            self._put_away(draft)  # of a push that was cut off, or that somebody was quicker than
        held = self._there.at(head)
        if self._is_there(held, payload) and not anew:
            return head
        self._check_privacy(held)
        return self._commit(self.hub.revision, held, payload)

    def _is_there(self, held: Held, payload: Payload) -> bool:
        """Whether the revision holds what would be pushed; False where it may be written.

        Raises:
            PublishError: it may not.
        """
        found = self._there.marker(held.commit) if MARKER in held.files else None
        if found is None and not held.is_nobodys:
            raise PublishError(
                f"{payload.name}: {self.address} holds what is none of ours, at commit {held.commit}; give another "
                "hub.revision or hub.repo, or remove that branch"
            )
        return already_there(found, payload, self.address)

    def _make(self, draft: str, drafted: str | None, payload: Payload) -> str:
        """Make the revision, by way of its draft where that is needed; it may be there since an earlier try."""
        from huggingface_hub import HfApi
        from huggingface_hub.errors import RevisionNotFoundError

        held = self._there.at(drafted or self._there.first_commit())
        self._check_privacy(held)
        if held.is_nobodys:
            HfApi().create_branch(self.repo, branch=self.hub.revision, revision=held.commit, exist_ok=True)
            return self._commit(self.hub.revision, held, payload)
        HfApi().create_branch(self.repo, branch=draft, revision=held.commit, exist_ok=True)
        try:
            commit = self._commit(draft, held, payload)
        except RevisionNotFoundError as error:
            raise Overtaken(f"{draft} was put away by another push of {payload.name}") from error
        HfApi().create_branch(self.repo, branch=self.hub.revision, revision=commit)
        self._put_away(draft)
        return commit

    def _commit(self, branch: str, held: Held, payload: Payload) -> str:
        """Make a branch hold the payload and nothing else."""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

        files = {**payload.files, MARKER: payload.marker}
        stale = held.files - files.keys() - {".gitattributes"}
        operations = [CommitOperationAdd(name, content) for name, content in files.items()]
        done = HfApi().create_commit(
            self.repo,
            [*operations, *map(CommitOperationDelete, sorted(stale))],
            commit_message=payload.name,
            revision=branch,
            parent_commit=held.commit,
        )
        return str(done.oid)

    def _put_away(self, draft: str) -> None:
        """Remove a draft, if nobody else has; one that stays since the token may not remove it harms nobody."""
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError

        try:
            HfApi().delete_branch(self.repo, branch=draft)
        except HfHubHTTPError as error:
            if passes(error):
                raise

    def _check_privacy(self, held: Held) -> None:
        if self.hub.private and held.public:
            raise PublishError(f"{self.address}: {would_be_public(self.repo)}")

    def _collect_once(self, title: str, notes: dict[str, str]) -> str:
        from huggingface_hub import HfApi

        api = HfApi()
        owner = self.repo.partition("/")[0]
        slug = api.create_collection(title, namespace=owner, private=self.hub.private, exists_ok=True).slug
        collection = api.get_collection(slug)
        there = {item.item_id: item for item in collection.items}
        for repo, note in notes.items():
            if repo not in there:
                api.add_collection_item(slug, item_id=repo, item_type="model", note=note, exists_ok=True)
            elif there[repo].note != note:
                api.update_collection_item(slug, there[repo].item_object_id, note=note)
        return str(collection.url)


def full_name(hub: Hub, persistently: Persistence) -> str:
    """The repository with its owner, who is the token's user where none is named.

    Raises:
        PublishError: huggingface_hub is not here, or the Hub does not say whose the token is.
    """
    if package_dir("huggingface_hub") is None:
        raise PublishError("hub=huggingface: huggingface_hub is not installed here; pip install 'prefsweep[hub]'")
    name = hub.repo or ""
    return name if "/" in name else f"{persistently(_user)}/{name}"


def _user() -> str:
    from huggingface_hub import whoami

    return str(whoami(cache=True)["name"])  # kept for the process: the Hub counts these questions strictly


def would_be_public(repo: str) -> ConfigError:
    """Why nothing is published there, and how to say that it is to be."""
    return ConfigError(
        "hub.private",
        "true",
        f"{repo} is public; to publish there all the same give hub.private=false (to the verb `publish`: --public), "
        "else another hub.repo",
    )


def _draft_of(hub: Hub, payload: Payload) -> str:
    told = f"{hub.revision} {payload.name}"
    return f"prefsweep-draft-{hashlib.sha256(told.encode()).hexdigest()[:12]}"
