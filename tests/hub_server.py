"""A Hub on loopback for tests: models and data sets to read, models to publish, and faults on demand.

It speaks as much of the Hub's HTTP protocol as huggingface_hub 2.4, transformers 5.23 and datasets 5.2 use, which drive
it in the tests. Everything is in memory. `hub_reading` and `hub_writing` have its endpoints, `hub_http` its wire,
`hub_repos` what it holds. Large files lie in a storage under an address of its own, as the Hub's do.
"""

from __future__ import annotations

import random
import re
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import hub_reading
import hub_storage
import hub_writing
from hub_http import TOKEN, Answer, Refusal, Request, listening
from hub_repos import Commit, Repo, address_of, content_of

__all__ = ["FAULTS", "TOKEN", "Commit", "HubServer", "serving"]
FAULTS = ("429", "500", "412", "cut", "lost", "slow")


class HubServer:
    """The state; `fault` says which fault a request meets, None for none (`hub_http` has them all).

    `repos` are by their path on the Hub, such as `org/name` and `datasets/org/name`. `requests` counts what was asked
    for by endpoint, `downloads` by file, such as `org/name/config.json`: its `requests`, of these for a part of it its
    `ranges`, and the bytes `sent` of it.
    """

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.collections: dict[str, dict[str, Any]] = {}
        self.objects: dict[str, bytes] = {}
        self.lock = threading.Lock()
        self.requests: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.uploads: Counter[str] = Counter()
        self.downloads: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.spoils: defaultdict[str, list[str]] = defaultdict(list)
        self.hold: Callable[[str], None] = lambda _: None
        self.fault: Callable[[str, str], str | None] = lambda *_: None
        self.slow_seconds = 1.6
        self.xet: dict[str, str] | None = None  # where large files go through xet: sha256 -> xet's own hash
        self.xet_storage = ""
        self.url = self.storage = ""

    def plant(
        self,
        kind: str,
        name: str,
        content: dict[str, bytes] | Path,
        *,
        commit: str | None = None,
        branch: str = "main",
        private: bool = False,
        gated: str | None = None,
    ) -> Repo:
        """Let a branch of a model or dataset hold this content and no other, as a commit that may be prescribed.

        `private` and `gated` say how a repository is made; of one that is there they are attributes.
        """
        address = address_of(kind, name)
        files = content_of(content) if isinstance(content, Path) else content
        with self.lock:
            repo = self.repos.setdefault(address, Repo(address, private=private, gated=gated))
            repo.add(branch, "planted", files, commit)
        return repo

    # ---------------------------------------------------------------------------------------- faults

    def inject(self, rate: float, seed: int = 0) -> None:
        """Let this share of all requests meet a fault; 412 only where the Hub answers it."""
        draw = random.Random(seed)  # noqa: S311 - which request fails is no secret

        def fault(_: str, path: str) -> str | None:
            with self.lock:
                kind = draw.choice(FAULTS) if draw.random() < rate else None
            return None if kind == "412" and "/commit/" not in path else kind

        self.fault = fault

    def fail_once(self, **faults: str) -> None:
        """Let the first request whose path holds such a word meet such a fault."""
        waiting = dict(faults)

        def fault(_: str, path: str) -> str | None:
            with self.lock:
                word = next((word for word in waiting if f"/{word}" in path), None)
                return waiting.pop(word) if word else None

        self.fault = fault

    def spoil(self, file: str, fault: str, times: int = 1) -> None:
        """Let the next downloads of a file, such as `org/name/model.safetensors`, meet a fault.

        Asking where it lies, or how large it is, is no download.
        """
        self.spoils[file] += [fault] * times

    def spoilt(self, file: str) -> str | None:
        """The fault that this download of the file meets."""
        with self.lock:
            return self.spoils[file].pop() if self.spoils[file] else None

    def count(self, file: str, **more: int) -> None:
        with self.lock:
            self.downloads[file].update(more)

    def environment(self, home: str) -> dict[str, str]:
        """What a process needs to take this server for the Hub; the slow answer of a busy machine is no fault."""
        return {
            "HF_HUB_DOWNLOAD_TIMEOUT": "60", "HF_HUB_ETAG_TIMEOUT": "60",
            "HF_ENDPOINT": self.url, "HF_TOKEN": TOKEN, "HF_HOME": home, "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1",
        }  # fmt: skip

    # ---------------------------------------------------------------------------------------- answers

    def answer(self, request: Request, path: str) -> Answer:
        """What the endpoint of this path says; writers need a token, the storage's addresses are signed."""
        for module in (hub_reading, hub_writing, hub_storage):
            for methods, pattern, work in module.ROUTES:
                match = re.fullmatch(pattern, path)
                if match is None or request.method not in methods:
                    continue
                if module is hub_writing and not request.known:
                    raise Refusal(401, "Invalid username or password.")
                with self.lock:
                    self.requests[work.__name__] += 1
                with nullcontext() if module is hub_storage else self.lock:  # what is large is slow, and held by tests
                    return work(self, request, *[unquote(part or "") for part in match.groups()])
        raise Refusal(404, f"no route for {request.method} {path}")

    def repo(self, request: Request, kind: str, name: str) -> Repo:
        """The repository, where this client may know of it."""
        repo = self.repos.get(address_of(kind, name))
        if repo is not None and (request.known or not repo.private):
            return repo
        if request.known:
            raise Refusal(404, "Repository not found", "RepoNotFound")
        raise Refusal(401, "Invalid username or password.", "RepoNotFound")


@contextmanager
def serving() -> Iterator[HubServer]:
    """A Hub that answers until the block is left."""
    hub = HubServer()
    with listening(hub) as hub.url, listening(hub) as hub.storage:
        yield hub
