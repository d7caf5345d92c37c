"""hub=huggingface: revisions on the Hugging Face Hub. The only importer of huggingface_hub, inside its functions.

Owns: the order of calls that makes a revision exactly once, which faults pass, what of an error may be told.
Must not know: runs, what a revision holds.

A revision is one commit, which holds the marker with the weights: there is never half of one. It names the commit
that it was decided upon as its parent, so that the Hub refuses it (412) where somebody was quicker. Then, and after
any other fault that passes, everything is looked at and decided again; a commit whose answer got lost is found there.
Large files that the Hub has already are not sent again, which is how a killed upload goes on.

A compute node may have no way to the internet at all. So where nothing has answered this process yet, it does not wait
for `hub.patience`, while its GPUs idle, but for SILENCE_SECONDS; for each further model it then knocks only once. An
answer, an error too, ends that for good.
"""

from __future__ import annotations

import json
import logging
import re
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from http import HTTPStatus
from typing import Any

from launcher.config import Hub, PublishError
from launcher.payload import MARKER, Payload, already_there
from launcher.resources import package_dir

LOG = logging.getLogger(__name__)
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds; the pause is drawn below a bound that doubles from one to the other
CONNECT_SECONDS = 30.0
SILENCE_SECONDS, KNOCK_SECONDS = 60.0, 10.0  # for the first answer of all; for one connection that is to bring it
PASSING = frozenset({
    HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.CONFLICT, HTTPStatus.PRECONDITION_FAILED, HTTPStatus.TOO_EARLY,
    HTTPStatus.TOO_MANY_REQUESTS,
})  # fmt: skip
_ADVICE = re.compile(r"For more information check: \S+")
_SIGNED = re.compile(r"(https?://[^\s?'\"]+)\?[^\s'\"]*")


def _never() -> bool:
    return False


@dataclass
class HuggingFaceShelf:
    """Revisions of a repository on the Hub; `stop` says whether to give up between two tries."""

    hub: Hub
    stop: Callable[[], bool] = _never
    repo: str = field(init=False)

    def __post_init__(self) -> None:
        if package_dir("huggingface_hub") is None:
            raise PublishError("hub=huggingface: huggingface_hub is not installed here; pip install 'prefsweep[hub]'")
        name = self.hub.repo or ""
        self.repo = name if "/" in name else f"{self._persistently(self._user)}/{name}"

    @property
    def address(self) -> str:
        """What `model=` takes; for from_pretrained, the part behind the @ is `revision`."""
        return f"{self.repo}@{self.hub.revision}"

    def push(self, payload: Payload) -> str:
        """Make the revision hold the payload and return its commit.

        Raises:
            PublishError: it is another run's, or the Hub did not take it within `hub.patience` seconds.
        """
        commit: str = self._persistently(lambda: self._push_once(payload))
        return commit

    def collect(self, title: str, notes: dict[str, str]) -> str:
        """Make the collection hold these repositories, each with its note, and return its address.

        Raises:
            PublishError: the Hub did not take it.
        """
        address: str = self._persistently(lambda: self._collect_once(title, notes))
        return address

    def _user(self) -> str:
        from huggingface_hub import whoami

        return str(whoami(cache=True)["name"])  # kept for the process: the Hub counts these questions strictly

    # -------------------------------------------------------------------------------------------- one try

    def _push_once(self, payload: Payload) -> str:
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

        api, revision = HfApi(), self.hub.revision
        first = self._first_commit(api)
        api.create_branch(self.repo, branch=revision, revision=first, exist_ok=True)
        info = api.model_info(self.repo, revision=revision)
        head, there = str(info.sha), {sibling.rfilename for sibling in info.siblings or []}
        found = self._marker(head) if MARKER in there else None
        if found is None and head != first:
            raise PublishError(f"{payload.name}: {self.address} holds what is none of ours; give another hub.revision")
        if already_there(found, payload, self.address):
            return head
        files = {**payload.files, MARKER: payload.marker}
        stale = there - files.keys() - {".gitattributes"}
        operations = [CommitOperationAdd(name, content) for name, content in files.items()]
        done = api.create_commit(
            self.repo,
            [*operations, *map(CommitOperationDelete, sorted(stale))],
            commit_message=payload.name,
            revision=revision,
            parent_commit=head,
        )
        return str(done.oid)

    def _first_commit(self, api: Any) -> str:
        """The repository's first commit, from which its branches are made; the repository is made where there is none.

        Asked before making: a token that may only write to one repository may not make any.
        """
        from huggingface_hub.errors import RepositoryNotFoundError

        try:
            commits = api.list_repo_commits(self.repo)
        except RepositoryNotFoundError:
            api.create_repo(self.repo, private=self.hub.private, exist_ok=True)
            commits = api.list_repo_commits(self.repo)
        return str(commits[-1].commit_id)

    def _marker(self, commit: str) -> dict[str, Any]:
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import (  # type: ignore[attr-defined]  # public, and exported in its own way
            build_hf_headers,
            hf_raise_for_status,
            http_backoff,
        )

        answer = http_backoff("GET", hf_hub_url(self.repo, MARKER, revision=commit), headers=build_hf_headers())
        hf_raise_for_status(answer)
        found: dict[str, Any] = answer.json()
        return found

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

    # -------------------------------------------------------------------------------------------- faults

    def _say(self, state: Any) -> None:
        LOG.warning("%s: again in %.0f s: %s", self._name, state.next_action.sleep, told(state.outcome.exception()))

    @property
    def _name(self) -> str:
        return f"{self.hub.repo}@{self.hub.revision}"

    def _persistently(self, work: Callable[[], Any]) -> Any:
        """What `work` returns, tried again while its faults pass; any other fault as one line without secrets."""
        import tenacity

        try:
            _be_careful(self.hub.timeout)
            self._find_way()
            return self._tries(passes, tenacity.stop_after_delay(self.hub.patience))(work)
        except PublishError:
            raise
        except Exception as error:  # noqa: BLE001 - the client's, the network's, the server's: there are many families
            raise PublishError(f"{self._name}: {told(error)}") from None

    def _find_way(self) -> None:
        """Have something answer this process once.

        Raises:
            PublishError: nothing does.
        """
        import httpx2

        end = _silence_ends(min(SILENCE_SECONDS, self.hub.patience))
        try:
            self._tries(is_silence, lambda state: time.monotonic() + state.upcoming_sleep >= end)(_knock)
        except httpx2.TransportError as error:
            raise PublishError(
                f"{self._name}: no way to the Hub from {socket.gethostname()} ({told(error)}); `python -m launcher "
                "publish` completes it where there is one, and hub.when=login leaves it to that from the start"
            ) from None

    def _tries(self, passing: Callable[[BaseException], bool], enough: Callable[[Any], bool]) -> Any:
        """What calls a function again while its faults are passing ones, and it is not enough."""
        import tenacity

        return tenacity.Retrying(
            retry=tenacity.retry_if_exception(passing),
            wait=pause,
            stop=lambda state: self.stop() or enough(state),
            before_sleep=self._say,
            reraise=True,
        )


def passes(error: BaseException) -> bool:
    """Whether a fault is one that goes away by itself: contention, quota, the server's or the network's trouble."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        return status in PASSING or status >= HTTPStatus.INTERNAL_SERVER_ERROR
    if isinstance(error, (OfflineModeIsEnabled, httpx2.LocalProtocolError, httpx2.UnsupportedProtocol)):
        return False
    # A server in trouble answers with a page where JSON was expected.
    if isinstance(error, (httpx2.TransportError, json.JSONDecodeError, ConnectionError, TimeoutError)):
        return True
    return error.__cause__ is not None and passes(error.__cause__)  # an upload's fault comes wrapped


def is_silence(error: BaseException) -> bool:
    """Whether no connection came about: no route, no name, nobody there, or a proxy that does not let us through."""
    import httpx2

    return isinstance(error, (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError))


@cache
def _silence_ends(seconds: float) -> float:
    """When the process, which knocks for the first time, will have waited so long for an answer."""
    return time.monotonic() + seconds


@cache
def _knock() -> None:
    """Ask the Hub for anything; once it has answered, the process asks no more.

    Raises:
        httpx2.TransportError: no connection came about. What else may be wrong, the first question in earnest will say.
    """
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=KNOCK_SECONDS)
    except Exception as error:
        if is_silence(error):
            raise


def pause(state: Any) -> float:
    """Seconds until the next try: random, so that runs that collided do not again; longer where the Hub asks for it."""
    import tenacity

    drawn = tenacity.wait_random_exponential(multiplier=FIRST_PAUSE, max=LONGEST_PAUSE)(state)
    headers = getattr(getattr(state.outcome.exception(), "response", None), "headers", {})
    asked = str(headers.get("Retry-After", ""))
    return float(drawn) + (float(asked) if asked.isdecimal() else 0.0)


def told(error: BaseException) -> str:
    """An error as one line that holds neither a token nor the signature of an address."""
    from huggingface_hub import get_token

    text = "the answer was no JSON" if isinstance(error, json.JSONDecodeError) else str(error)
    if type(error) is RuntimeError and error.__cause__ is not None:  # an upload's fault comes wrapped
        text += f" {error.__cause__}"
    text = _SIGNED.sub(r"\1", " ".join(_ADVICE.sub("", text).split())) or type(error).__name__
    token = get_token()
    return text.replace(token, "***") if token else text


@cache
def _be_careful(seconds: float) -> None:
    """Set huggingface_hub a time limit on answers, which it has not; silence it, for its warnings tell secrets."""
    import httpx2
    from huggingface_hub import set_client_factory
    from huggingface_hub.utils import disable_progress_bars, logging  # type: ignore[attr-defined]
    from huggingface_hub.utils._http import default_client_factory  # public under no name; it has the hooks

    def factory() -> httpx2.Client:
        client = default_client_factory()
        client.timeout = httpx2.Timeout(seconds, connect=min(seconds, CONNECT_SECONDS))
        return client

    logging.get_logger("huggingface_hub").setLevel("ERROR")
    disable_progress_bars()
    set_client_factory(factory)
