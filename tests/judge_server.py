"""A loopback endpoint that speaks enough of OpenAI's protocol to judge, by a rule that tests can compute too.

It rates an answer by its length, and misbehaves on demand: `faults` holds what happens to the next requests.
"""

from __future__ import annotations

import json
import re
import select
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from waiting import eventually

ANSWER = re.compile(r"\[The Start of Assistant's Answer\]\n(.*)\n\[The End of Assistant's Answer\]", re.DOTALL)
SECOND = re.compile(r"### Assistant A:\n(.*)\n\n<\|The End of Assistant A's Conversation", re.DOTALL)


def rule(answer: str) -> int:
    """1 to 10, by what was written."""
    return 1 + sum(answer.encode()) % 10


def judged_answer(prompt: str) -> str:
    """The answer that a prompt asks to have rated."""
    first = ANSWER.search(prompt)
    if first:
        return first[1]
    conversation = prompt.rpartition("<|The Start of Assistant A's Conversation")[2]
    (second,) = SECOND.findall(conversation)
    return str(second.rpartition("### Assistant A:\n")[2])


class Judge(ThreadingHTTPServer):
    """Counts what it was asked, and what it has answered, which is what would be paid for."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.lock = threading.Lock()
        self.requests: list[dict[str, Any]] = []
        self.keys: set[str] = set()
        self.paths: set[str] = set()
        self.paid: Counter[str] = Counter()
        self.readable: Counter[str] = Counter()  # of these, the prompts that got a rating
        self.in_flight, self.most_in_flight = 0, 0
        self.faults: list[str] = []
        self.always: dict[str, str] = {}  # a piece of the prompt -> the fault that meets it each time
        self.hold_after: int | None = None  # so many are answered, then none
        self.admitted, self.held = 0, 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def admits(self) -> bool:
        """Whether one more request is answered now."""
        with self.lock:
            admitted = self.hold_after is None or self.admitted < self.hold_after
            self.admitted += admitted
        return admitted

    def holding(self, count: int) -> None:
        """Wait until so many requests are held: of a client that sends no more at a time, all others are done with."""
        assert eventually(lambda: self.held == count)

    def left_alone(self) -> None:
        """Wait until a killed client's requests are dropped, then answer again."""
        assert eventually(lambda: not self.in_flight)
        self.hold_after = None

    def handle_error(self, *_: object) -> None:
        """A client that has gone away is what some tests are about."""


class _Handler(BaseHTTPRequestHandler):
    server: Judge
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.requests.append(body)
            self.server.paths.add(self.path)
            self.server.keys.add(self.headers.get("Authorization", ""))
            self.server.in_flight += 1
            self.server.most_in_flight = max(self.server.most_in_flight, self.server.in_flight)
        try:
            self._answer(body, self._fault(body["messages"][-1]["content"]))
        finally:
            with self.server.lock:
                self.server.in_flight -= 1

    def _fault(self, prompt: str) -> str:
        with self.server.lock:
            constant = [fault for piece, fault in self.server.always.items() if piece in prompt]
            return constant[0] if constant else self.server.faults.pop(0) if self.server.faults else ""

    def _answer(self, body: dict[str, Any], fault: str) -> None:
        if not self._admitted():
            return
        if fault.isdigit():
            self._send(int(fault), {"error": {"message": f"made up {fault}, sent {self.headers['Authorization']}"}})
        elif fault == "cut":
            self.close_connection = True
            self.connection.close()
        else:
            time.sleep(0.2 if fault == "slow" else 0.01)
            self._verdict(body, fault)

    def _admitted(self) -> bool:
        """Whether the request is answered; one that is held back until its client is dead never is."""
        if self.server.admits():
            return True
        with self.server.lock:
            self.server.held += 1
        try:
            while not (admitted := self.server.admits()) and not self._is_alone():
                time.sleep(0.02)
        finally:
            with self.server.lock:
                self.server.held -= 1
        return admitted

    def _is_alone(self) -> bool:
        readable, _, _ = select.select([self.connection], [], [], 0)
        try:
            return bool(readable) and not self.connection.recv(1, socket.MSG_PEEK)
        except ConnectionError:
            return True

    def _verdict(self, body: dict[str, Any], fault: str) -> None:
        prompt = body["messages"][-1]["content"]
        words = {"": f"Fair.\n\nRating: [[{rule(judged_answer(prompt))}]]", "garbage": "I would say eight.",
                 "surrogate": "\ud800 [[3]]", "separator": "a\u2028b [[4]]", "empty": ""}  # fmt: skip
        text = words.get(fault, words[""])
        with self.server.lock:
            self.server.paid[prompt] += 1
            self.server.readable[prompt] += "[[" in text
        message = {"role": "assistant", "content": text}
        usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        named = {"id": "1", "object": "chat.completion", "created": 0, "model": "rule-2026"}
        self._send(200, {**named, "choices": [choice], "usage": usage})

    def _send(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("retry-after-ms", "10")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Silent."""


@contextmanager
def serving() -> Iterator[Judge]:
    """A judge that answers until the block is left."""
    server = Judge()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.hold_after = None
        server.shutdown()
        server.server_close()


@pytest.fixture
def judge_server() -> Iterator[Judge]:
    with serving() as server:
        yield server
