"""The wire of a Hub on loopback: requests, answers, parts of files, and the faults that a connection can meet.

A fault is a status, or `cut` and `lost` (no answer, before and after the work is done), `slow` (a late one), `cut:N`
(the connection ends after N bytes of the body) or `drip:N` (N bytes of the body a second).
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    from hub_server import HubServer

TOKEN = "hf_PlantedTokenOfTheTests"  # noqa: S105 - of a Hub that is none
STORAGE = "/lfs/"  # what is asked of the storage that the Hub sends to, by signed addresses
PARTS_OF_A_SECOND = 20
Answer = tuple[int, Any, dict[str, str]]


@dataclass(frozen=True)
class Request:
    """What an endpoint is asked; `known` says whether by somebody with a token."""

    method: str
    query: dict[str, list[str]]
    body: bytes
    known: bool

    def asks_for(self, name: str) -> bool:
        """Whether the query sets this switch."""
        return self.query.get(name, [""])[0].lower() in {"true", "1"}


@dataclass(frozen=True)
class File:
    """A file as the content of an answer; its downloads are counted under `name`."""

    name: str
    data: bytes


class Refusal(Exception):
    """An answer that is an error, with the headers from which huggingface_hub makes its typed exceptions."""

    def __init__(
        self, status: int, message: str, code: str | None = None, commit: str | None = None, **more: str
    ) -> None:
        super().__init__(message)
        named = {"X-Error-Message": message, "X-Error-Code": code, "X-Repo-Commit": commit}
        headers = {name: value for name, value in named.items() if value is not None}
        self.answer: Answer = (status, {"error": message, **more}, headers)


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
        fault = self.hub.fault(self.command, path) or "none"
        self.hub.faults[fault] += 1
        if fault == "slow":
            time.sleep(self.hub.slow_seconds)
        if fault == "cut":
            self.hang_up()
        elif fault.isdigit():
            self.send(self.trouble(fault))
        else:
            answer = self.answer(path, body)
            self.hang_up() if fault == "lost" else self.send(answer)

    def answer(self, path: str, body: bytes) -> Answer:
        credentials = self.headers.get("Authorization")
        if credentials and path.startswith(STORAGE):
            return Refusal(400, "Only one auth mechanism allowed: the address is signed").answer
        if credentials not in (None, f"Bearer {TOKEN}"):
            return Refusal(401, "Invalid credentials in Authorization header").answer
        request = Request(self.command, parse_qs(urlsplit(self.path).query), body, known=credentials is not None)
        try:
            return self.hub.answer(request, path)
        except Refusal as refusal:
            return refusal.answer

    def hang_up(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(2)

    def trouble(self, status: str) -> Answer:
        return int(status), f"<html>{status}</html>".encode(), {"Retry-After": "0"}

    def send(self, answer: Answer) -> None:
        status, content, headers = answer
        if isinstance(content, File):
            self.send_file(content, headers)
        else:
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.write((status, data, headers), [data])

    def send_file(self, file: File, headers: dict[str, str]) -> None:
        """A file, or the part of it that is asked for; its downloads are counted, and meet the faults meant for it."""
        answer, fault = self.part_of(file.data, headers), "none"
        if self.command == "GET":
            fault = self.hub.spoilt(file.name) or "none"
            self.hub.count(file.name, requests=1, ranges=int(answer[0] == HTTPStatus.PARTIAL_CONTENT))
        if fault.isdigit():
            self.send(self.trouble(fault))
        else:
            self.write(answer, self.counted(file.name, self.pieces(answer[1], fault)))

    def part_of(self, data: bytes, headers: dict[str, str]) -> Answer:
        size, headers = len(data), {"Accept-Ranges": "bytes", **headers}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked is None:
            return 200, data, headers
        start, end = int(asked[1]), min(int(asked[2] or size), size - 1)
        if start >= size:
            return 416, b"", {"Content-Range": f"bytes */{size}"}
        return 206, data[start : end + 1], {**headers, "Content-Range": f"bytes {start}-{end}/{size}"}

    def write(self, answer: Answer, pieces: Iterable[bytes]) -> None:
        """The head of the answer, and its body in pieces."""
        status, data, headers = answer
        with suppress(BrokenPipeError, ConnectionResetError):  # a client that was killed, or lost patience
            self.send_response(status)
            for name, value in {"Content-Length": str(len(data)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            for piece in pieces if self.command != "HEAD" else ():
                self.wfile.write(piece)

    def counted(self, name: str, pieces: Iterable[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            self.hub.count(name, sent=len(piece))
            yield piece

    def pieces(self, data: bytes, fault: str) -> Iterator[bytes]:
        """The body, as the fault lets it out."""
        kind, _, number = fault.partition(":")
        if kind == "drip":
            step = max(1, int(number) // PARTS_OF_A_SECOND)
            for start in range(0, len(data), step):
                yield data[start : start + step]
                time.sleep(1 / PARTS_OF_A_SECOND)
        elif kind == "cut":
            yield data[: int(number)]
            self.hang_up()
        else:
            yield data

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = serve  # noqa: N815 - http.server's names


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, hub: HubServer) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.hub = hub

    def handle_error(self, *_: object) -> None:
        """A connection that a client cut is no news."""


@contextmanager
def listening(hub: HubServer) -> Iterator[str]:
    """An address under which the Hub answers until the block is left."""
    server = _Quiet(hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
