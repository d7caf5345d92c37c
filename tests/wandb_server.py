"""A loopback server that speaks as much of W&B's protocol as wandb's own client needs to track and to sync a run.

It keeps what it is told as W&B does: a line of a run's history lies at its offset, so that an upload that begins at an
offset replaces what came after it. What wandb wrote into a folder is read back here too, by wandb's own reader.
"""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

Plain = dict[str, Any]


@dataclass
class TrackedRun:
    """What the server knows of one run."""

    asked: Plain = field(default_factory=dict)  # of each variable of UpsertBucket, the last value that was given
    history: list[Plain] = field(default_factory=list)
    summary: Plain = field(default_factory=dict)
    exit_codes: list[int] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)

    @property
    def steps(self) -> list[int]:
        return [line["_step"] for line in self.history]


@dataclass
class WandbServer:
    """Its address, its runs by id, the views that were saved, and every request's path."""

    url: str
    runs: dict[str, TrackedRun] = field(default_factory=dict)
    views: list[Plain] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    status: int = 200  # another: every request is refused with it

    def answer(self, query: str, given: Plain) -> Plain:
        """The data of a GraphQL answer."""
        if "upsertView" in query:
            self.views.append(given)
            return {"upsertView": {"view": {**VIEW, "name": "v", "displayName": given.get("displayName")}}}
        if "upsertBucket" in query:
            run = self.runs.setdefault(given["name"], TrackedRun())
            run.asked |= {key: value for key, value in given.items() if value is not None}
            return {"upsertBucket": {"bucket": self._bucket(given["name"]), "inserted": not run.history}}
        if "RunResumeStatus" in query:
            known = given["name"] in self.runs
            return {"model": {**PROJECT, "bucket": self._bucket(given["name"]) if known else None}}
        if "createRunFiles" in query:
            files = [{"name": name, "uploadUrl": f"{self.url}/upload/{name}"} for name in given["files"]]
            return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}
        if "projects" in query.lower() and "models" in query:
            page = {"startCursor": None, "endCursor": None, "hasNextPage": False, "hasPreviousPage": False}
            return {"models": {"edges": [{"cursor": "c", "node": {**PROJECT, **MORE}}], "pageInfo": page}}
        return {"viewer": VIEWER, "serverInfo": {"features": []}, "project": {**PROJECT, "internalId": "1"}}

    def _bucket(self, name: str) -> Plain:
        run = self.runs[name]
        tail = json.dumps([json.dumps(line) for line in run.history[-1:]])
        counts = {"historyLineCount": len(run.history), "eventsLineCount": 0, "logLineCount": 0}
        texts = {"historyTail": tail, "eventsTail": "[]", "summaryMetrics": json.dumps(run.summary), "config": "{}"}
        texts["wandbConfig"] = json.dumps({"t": 1})  # the client's mark of a run that has begun
        return {"id": "r", "name": name, "displayName": name, "project": PROJECT, "tags": [], **counts, **texts}

    def stream(self, name: str, body: Plain) -> None:
        """Take a piece of a run's file stream."""
        run, files = self.runs.setdefault(name, TrackedRun()), body.get("files") or {}
        if history := files.get("wandb-history.jsonl"):
            run.offsets.append(history["offset"])
            run.history[history["offset"] :] = [json.loads(line) for line in history["content"]]
        if summary := files.get("wandb-summary.json"):
            run.summary = json.loads(summary["content"][-1])
        if "exitcode" in body:
            run.exit_codes.append(body["exitcode"])


PROJECT = {"id": "p", "name": "prefsweep", "entityName": "me", "entity": {"id": "e", "name": "me"}}
MORE = {"createdAt": "2026-11-01T00:00:00Z", "isBenchmark": False, "user": None}
VIEWER = {
    "id": "u",
    "entity": "me",
    "username": "me",
    "email": "",
    "admin": False,
    "flags": "{}",
    "teams": {"edges": []},
}
VIEW = {
    "id": "view",
    "type": "runs",
    "description": "",
    "spec": "{}",
    "project": {"name": "prefsweep", "entityName": "me"},
}


def _handler(server: WandbServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            server.requests.append(self.path)
            answer: Plain = {}
            if server.status == 200 and self.path.endswith("graphql"):
                asked = json.loads(body)
                answer = {"data": server.answer(asked["query"], asked.get("variables") or {})}
            elif server.status == 200 and self.path.endswith("file_stream"):
                server.stream(self.path.split("/")[-2], json.loads(body))
            self._say(answer)

        do_GET = do_PUT = do_POST  # noqa: N815 - the names that http.server looks for

        def _say(self, answer: Plain) -> None:
            content = json.dumps(answer).encode()
            self.send_response(server.status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    return Handler


@contextmanager
def serving() -> Iterator[WandbServer]:
    """A server on loopback, for as long as the context lasts."""
    state = WandbServer("")
    with ThreadingHTTPServer(("127.0.0.1", 0), _handler(state)) as listener:
        state.url = f"http://127.0.0.1:{listener.server_port}"
        threading.Thread(target=listener.serve_forever, daemon=True).start()
        yield state
        listener.shutdown()


def records(folder: Path) -> list[Plain]:
    """What wandb wrote into a folder, as wandb's own reader shows it."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder)
    return [json.loads(line) for line in done.stdout.splitlines()]


def history(folder: Path) -> list[tuple[int, float]]:
    items = [record["history"]["item"] for record in records(folder) if record["type"] == "history"]
    assert all(item["_step"] == item["train/step"] for item in items)
    return [(item["_step"], item["train/loss"]) for item in items]
