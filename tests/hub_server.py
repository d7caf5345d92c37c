"""A Hub on loopback for tests: repositories, branches, LFS, commits, collections, downloads, and faults on demand.

It speaks as much of the Hub's HTTP protocol as huggingface_hub 2.4 uses, which drives it in the tests. Everything is
in memory. A commit is an immutable mapping of paths to content, named by a hash; a branch is the name of its newest.
"""

from __future__ import annotations

import base64
import hashlib
import json
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

USER, TOKEN = "me", "hf_PlantedTokenOfTheTests"
LFS = re.compile(r".*\.(safetensors|bin|gguf)")
DATE = "2026-01-01T00:00:00.000Z"
Answer = tuple[int, Any, dict[str, str]]
FAULTS = ("429", "500", "412", "cut", "lost", "slow")


@dataclass
class Commit:
    id: str
    parent: str | None
    title: str
    files: dict[str, bytes]


@dataclass
class Repo:
    private: bool
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def add(self, branch: str, title: str, files: dict[str, bytes]) -> Commit:
        parent = self.branches.get(branch)
        told = repr((parent, title, sorted((name, hashlib.sha1(data).hexdigest()) for name, data in files.items())))  # noqa: S324
        commit = Commit(hashlib.sha1(told.encode()).hexdigest(), parent, title, files)  # noqa: S324 - as git does
        self.commits[commit.id], self.branches[branch] = commit, commit.id
        return commit

    def find(self, revision: str) -> Commit | None:
        return self.commits.get(self.branches.get(revision, revision))

    def history(self, revision: str) -> Iterator[Commit]:
        commit = self.find(revision)
        while commit:
            yield commit
            commit = self.commits.get(commit.parent or "")


class Refusal(Exception):
    """An answer that is an error, with the headers from which huggingface_hub makes its typed exceptions."""

    def __init__(self, status: int, message: str, code: str | None = None, **more: str) -> None:
        super().__init__(message)
        headers = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {})}
        self.answer: Answer = (status, {"error": message, **more}, headers)


class HubServer:
    """The state, and each endpoint as a method; `fault` says which fault a request meets, None for none."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.collections: dict[str, dict[str, Any]] = {}
        self.objects: dict[str, bytes] = {}
        self.lock = threading.Lock()
        self.requests: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.uploads: Counter[str] = Counter()
        self.hold: Callable[[str], None] = lambda _: None
        self.fault: Callable[[str, str], str | None] = lambda *_: None
        self.slow_seconds = 1.6
        self.xet: dict[str, str] | None = None  # where large files go through xet: sha256 -> xet's own hash
        self.xet_storage = ""
        self.url = ""

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

    def environment(self, home: str) -> dict[str, str]:
        """What a process needs to take this server for the Hub."""
        return {
            "HF_ENDPOINT": self.url, "HF_TOKEN": TOKEN, "HF_HOME": home, "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1",
        }  # fmt: skip

    # ---------------------------------------------------------------------------------------- endpoints

    def answer(self, method: str, path: str, body: bytes) -> Answer:
        for wanted, pattern, work in ROUTES:
            match = re.fullmatch(pattern, path)
            if match and method in wanted:
                self.requests[work.__name__] += 1
                parts = [unquote(part) for part in match.groups()]
                if work is HubServer.upload:  # large and slow: not under the lock
                    return work(self, body, *parts)
                with self.lock:
                    return work(self, body, *parts)
        raise Refusal(404, f"no route for {method} {path}")

    def repo(self, name: str) -> Repo:
        if name not in self.repos:
            raise Refusal(404, "Repository not found", "RepoNotFound")
        return self.repos[name]

    def commit_at(self, name: str, revision: str) -> Commit:
        commit = self.repo(name).find(revision)
        if commit is None:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    def whoami(self, _: bytes) -> Answer:
        return 200, {"name": USER, "type": "user", "orgs": []}, {}

    def validate(self, body: bytes) -> Answer:
        assert json.loads(body)["content"].startswith("---\n")
        return 200, {"errors": [], "warnings": []}, {}

    def create(self, body: bytes) -> Answer:
        asked = json.loads(body)
        name = f"{asked.get('organization') or USER}/{asked['name']}"
        if name in self.repos:
            raise Refusal(409, "You already created this model repo", url=f"{self.url}/{name}")
        self.repos[name] = Repo(private=asked.get("visibility") == "private")
        self.repos[name].add("main", "initial commit", {".gitattributes": b"*.safetensors filter=lfs\n"})
        return 200, {"url": f"{self.url}/{name}", "name": name}, {}

    def commits(self, _: bytes, name: str, revision: str) -> Answer:
        self.commit_at(name, revision)
        listed = [
            {"id": c.id, "title": c.title, "message": "", "authors": [{"user": USER}], "date": DATE}
            for c in self.repo(name).history(revision)
        ]
        return 200, listed, {}

    def branch(self, body: bytes, name: str, branch: str) -> Answer:
        repo = self.repo(name)
        if branch in repo.branches:
            raise Refusal(409, f"Reference already exists: {branch}")
        repo.branches[branch] = self.commit_at(name, json.loads(body or b"{}").get("startingPoint", "main")).id
        return 200, {}, {}

    def delete_branch(self, _: bytes, name: str, branch: str) -> Answer:
        if self.repo(name).branches.pop(branch, None) is None:
            raise Refusal(404, f"Invalid rev id: {branch}", "RevisionNotFound")
        return 200, {}, {}

    def refs(self, _: bytes, name: str) -> Answer:
        branches = self.repo(name).branches.items()
        listed = [{"name": b, "ref": f"refs/heads/{b}", "targetCommit": commit} for b, commit in branches]
        return 200, {"branches": listed, "converts": [], "tags": []}, {}

    def info(self, _: bytes, name: str, revision: str = "main") -> Answer:
        commit = self.commit_at(name, revision)
        siblings = [{"rfilename": path} for path in sorted(commit.files)]
        return 200, {"id": name, "sha": commit.id, "private": self.repo(name).private, "siblings": siblings}, {}

    def tree(self, _: bytes, name: str, revision: str) -> Answer:
        files = self.commit_at(name, revision).files
        return 200, [{"type": "file", "path": p, "size": len(d), "oid": _blob(d)} for p, d in files.items()], {}

    def preupload(self, body: bytes, name: str, revision: str) -> Answer:
        there = self.commit_at(name, revision).files

        def mode(path: str) -> dict[str, Any]:
            lfs = bool(LFS.fullmatch(path))
            oid = None if path not in there else _sha256(there[path]) if lfs else _blob(there[path])
            return {"path": path, "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False, "oid": oid}

        return 200, {"files": [mode(file["path"]) for file in json.loads(body)["files"]]}, {}

    def batch(self, body: bytes, name: str) -> Answer:
        self.repo(name)

        def action(asked: dict[str, Any]) -> dict[str, Any]:
            signed = f"{self.url}/lfs/{asked['oid']}?X-Amz-Signature=PlantedSignature"
            needed = {} if asked["oid"] in self.objects else {"actions": {"upload": {"href": signed, "header": {}}}}
            return {"oid": asked["oid"], "size": asked["size"], **needed}

        return 200, {"transfer": "basic", "objects": [action(each) for each in json.loads(body)["objects"]]}, {}

    def xet_token(self, _: bytes, name: str, __: str, ___: str) -> Answer:
        self.repo(name)
        expiry = int(time.time()) + 3600
        named = {"X-Xet-Cas-Url": self.xet_storage, "X-Xet-Access-Token": "none", "X-Xet-Token-Expiration": str(expiry)}
        return 200, {"casUrl": self.xet_storage, "accessToken": "none", "exp": expiry}, named

    def upload(self, body: bytes, oid: str) -> Answer:
        self.hold(oid)
        with self.lock:
            assert _sha256(body) == oid
            self.objects[oid] = body
            self.uploads[oid] += 1
        return 200, {}, {}

    def commit(self, body: bytes, name: str, branch: str) -> Answer:
        lines = [json.loads(line) for line in body.splitlines()]
        header, files = lines[0]["value"], dict(self.commit_at(name, branch).files)
        if header.get("parentCommit") not in (None, self.commit_at(name, branch).id):
            raise Refusal(412, "A commit has happened since. Please refresh and try again.")
        for line in lines[1:]:
            value, path = line["value"], line["value"]["path"]
            if line["key"] == "deletedFile":
                del files[path]
            elif line["key"] == "lfsFile":
                files[path] = self.objects[value["oid"]]
            else:
                files[path] = base64.b64decode(value["content"])
        done = self.repo(name).add(branch, header["summary"], files)
        return (
            200,
            {"commitUrl": f"{self.url}/{name}/commit/{done.id}", "commitOid": done.id, "pullRequestUrl": None},
            {},
        )

    def resolve(self, _: bytes, name: str, revision: str, path: str) -> Answer:
        commit = self.commit_at(name, revision)
        if path not in commit.files:
            raise Refusal(404, "Entry not found", "EntryNotFound")
        digest = _sha256(commit.files[path])
        headers = {"X-Repo-Commit": commit.id, "ETag": f'"{digest}"'}
        if self.xet is not None and LFS.fullmatch(path):
            route = f'<{self.url}/api/models/{name}/xet-read-token/{commit.id}>; rel="xet-auth"'
            headers |= {"X-Xet-Hash": self.xet[digest], "Link": route, "X-Linked-Size": str(len(commit.files[path]))}
            return 200, b"" if self.xet_storage else commit.files[path], headers
        return 200, commit.files[path], headers

    def collection(self, body: bytes) -> Answer:
        asked = json.loads(body)
        slug = f"{asked['namespace']}/{re.sub(r'[^a-z0-9]+', '-', asked['title'].lower())}-0123456789abcdef01234567"
        if slug in self.collections:
            return 409, {"slug": slug, "error": "exists"}, {}
        made = {"slug": slug, "owner": {"name": USER}, "items": [], "lastUpdated": DATE, "position": 0}
        self.collections[slug] = {
            **made,
            "title": asked["title"],
            "private": asked["private"],
            "theme": "pink",
            "upvotes": 0,
        }
        return 200, self.collections[slug], {}

    def get_collection(self, _: bytes, slug: str) -> Answer:
        return 200, self.collections[slug], {}

    def add_item(self, body: bytes, slug: str) -> Answer:
        asked, items = json.loads(body), self.collections[slug]["items"]
        item = {"_id": str(len(items)), "position": len(items), **asked["item"], "note": {"text": asked["note"]}}
        items.append(item)
        return 200, self.collections[slug], {}

    def change_item(self, body: bytes, slug: str, item: str) -> Answer:
        self.collections[slug]["items"][int(item)]["note"] = {"text": json.loads(body)["note"]}
        return 200, {}, {}


NAME = r"([\w.-]+/[\w.-]+)"
ROUTES: list[tuple[tuple[str, ...], str, Callable[..., Answer]]] = [
    (("GET",), r"/api/whoami-v2", HubServer.whoami),
    (("POST",), r"/api/validate-yaml", HubServer.validate),
    (("POST",), r"/api/repos/create", HubServer.create),
    (("GET",), rf"/api/models/{NAME}/commits/([^/]+)", HubServer.commits),
    (("POST",), rf"/api/models/{NAME}/branch/([^/]+)", HubServer.branch),
    (("DELETE",), rf"/api/models/{NAME}/branch/([^/]+)", HubServer.delete_branch),
    (("GET",), rf"/api/models/{NAME}/refs", HubServer.refs),
    (("GET",), rf"/api/models/{NAME}/revision/([^/]+)", HubServer.info),
    (("GET",), rf"/api/models/{NAME}/xet-(write|read)-token/([^/]+)", HubServer.xet_token),
    (("GET",), rf"/api/models/{NAME}/tree/([^/]+)", HubServer.tree),
    (("GET",), rf"/api/models/{NAME}", HubServer.info),
    (("POST",), rf"/api/models/{NAME}/preupload/([^/]+)", HubServer.preupload),
    (("POST",), rf"/api/models/{NAME}/commit/([^/]+)", HubServer.commit),
    (("POST",), rf"/{NAME}\.git/info/lfs/objects/batch", HubServer.batch),
    (("PUT",), r"/lfs/([0-9a-f]{64})", HubServer.upload),
    (("POST",), r"/api/collections", HubServer.collection),
    (("GET",), rf"/api/collections/{NAME}", HubServer.get_collection),
    (("POST",), rf"/api/collections/{NAME}/items", HubServer.add_item),
    (("PATCH",), rf"/api/collections/{NAME}/items/(\w+)", HubServer.change_item),
    (("GET", "HEAD"), rf"/{NAME}/resolve/([^/]+)/(.+)", HubServer.resolve),
]


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _blob(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()  # noqa: S324 - git's name of a file


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def hub(self) -> HubServer:
        return self.server.hub  # type: ignore[attr-defined]

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def serve(self) -> None:
        path = urlsplit(self.path).path
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.hub.fault(self.command, path)
        self.hub.faults[fault or "none"] += 1
        if fault == "slow":
            time.sleep(self.hub.slow_seconds)
        if fault and fault.isdigit():
            self.send((int(fault), f"<html>{fault}</html>".encode(), {"Retry-After": "0"}))
        elif fault == "cut":
            self.hang_up()
        else:
            answer = self.answer(path, body)
            self.hang_up() if fault == "lost" else self.send(answer)

    def answer(self, path: str, body: bytes) -> Answer:
        if not path.startswith("/lfs/") and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return Refusal(401, "Invalid credentials in Authorization header").answer
        try:
            return self.hub.answer(self.command, path, body)
        except Refusal as refusal:
            return refusal.answer

    def hang_up(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(2)

    def send(self, answer: Answer) -> None:
        status, content, headers = answer
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        with suppress(BrokenPipeError, ConnectionResetError):  # a client that was killed, or lost patience
            self.send_response(status)
            for name, value in {"Content-Length": str(len(data)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = serve  # noqa: N815 - http.server's names


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True
    hub: HubServer

    def handle_error(self, *_: object) -> None:
        """A connection that a client cut is no news."""


@contextmanager
def serving() -> Iterator[HubServer]:
    """A Hub that answers until the block is left."""
    hub = HubServer()
    server = _Quiet(("127.0.0.1", 0), Handler)
    server.hub = hub
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
