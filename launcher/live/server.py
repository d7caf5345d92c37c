"""A page on loopback for one user of a machine that others use, too: who is answered, and with which headers.

Owns: the token, what is refused, the policies that a browser is told. Must not know: what the pages say.

Every user of a login node reaches its loopback, and so does every page that a browser there has open. Hence a token in
the address, without which nothing is told; the name in `Host`, which is another's where a page elsewhere had its own
name lead here (DNS rebinding); and nothing that could change anything.
"""

from __future__ import annotations

import secrets
import socketserver
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import urlsplit

from launcher.errors import UsageError

LOOPBACK = "127.0.0.1"
NAMES = frozenset({LOOPBACK, "localhost"})  # behind `ssh -L`, the port may be another
TOKEN_BYTES = 24
IDLE_SECONDS = 30  # after which a connection is closed
# Only what this server has, nothing inline, and nobody may put it into a frame.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "frame-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True)
class Answer:
    """What a request gets: content, its kind, and what a browser may do with it."""

    content: bytes
    kind: str
    policy: str = POLICY
    code: HTTPStatus = HTTPStatus.OK


Pages = Callable[[str, str], Answer | None]  # path behind the token, query -> what is there


class Server:
    """Answers in threads of its own from `start` to `close`."""

    def __init__(self, pages: Pages, port: int | None) -> None:
        """Listen on this port of loopback; on any that is free where none, or 0, is given.

        Raises:
            UsageError: nobody may, or somebody listens there already.
        """
        self.token = secrets.token_urlsafe(TOKEN_BYTES)
        try:
            self._listener = _Listener(port or 0, self.token, pages)
        except (OSError, OverflowError) as error:
            why = getattr(error, "strerror", None) or error
            raise UsageError(f"--port {port}: {why}; give another, or none to have one chosen") from error
        self._thread = threading.Thread(target=self._listener.serve_forever, args=(0.2,), daemon=True)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._listener.server_address[1])

    @property
    def address(self) -> str:
        """What to open in a browser; whoever has it can read the page."""
        return f"http://{LOOPBACK}:{self.port}/{self.token}/"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown()
        self._listener.server_close()


class _Listener(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, port: int, token: str, pages: Pages) -> None:
        self.token, self.pages = token, pages
        super().__init__((LOOPBACK, port), _Handler)

    def server_bind(self) -> None:
        """Bind without asking a name server who we are, as HTTPServer does."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = LOOPBACK, int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that has gone is no news."""


class _Handler(BaseHTTPRequestHandler):
    server: _Listener
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "prefsweep", ""
    timeout = IDLE_SECONDS

    def do_GET(self) -> None:
        """Answer, if the request is one of ours."""
        if not self._is_allowed():
            self.send_error(HTTPStatus.FORBIDDEN, "this page is its owner's: open the address that `dashboard` printed")
            return
        parts = urlsplit(self.path)
        path = parts.path.removeprefix(f"/{self.server.token}")
        if not path:
            self._send(Answer(b"", "text/plain", code=HTTPStatus.PERMANENT_REDIRECT))
            return
        answer = self.server.pages(path.removeprefix("/"), parts.query)
        if answer is None:
            self.send_error(HTTPStatus.NOT_FOUND, "there is no such page")
        else:
            self._send(answer)

    do_HEAD = do_GET  # noqa: N815 - http.server's

    def _is_allowed(self) -> bool:
        """Whether the request is for this server by its own name, and has its token."""
        hosts = self.headers.get_all("Host") or []
        name = hosts[0].rpartition(":")[0] or hosts[0] if len(hosts) == 1 else ""
        given = urlsplit(self.path).path.split("/")[1:2] or [""]
        has_token = secrets.compare_digest(given[0].encode(errors="replace"), self.server.token.encode())
        return has_token and name.lower() in NAMES

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.code)
        for name, value in {**HEADERS, "Content-Security-Policy": answer.policy}.items():
            self.send_header(name, value)
        if answer.code is HTTPStatus.PERMANENT_REDIRECT:
            self.send_header("Location", f"/{self.server.token}/")
        if answer.code is not HTTPStatus.NO_CONTENT:
            self.send_header("Content-Type", answer.kind)
            self.send_header("Content-Length", str(len(answer.content)))
        self.end_headers()
        if self.command != "HEAD" and answer.code is not HTTPStatus.NO_CONTENT:
            self.wfile.write(answer.content)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002 - http.server's
        """Say no in a line of text, and close; a body that came with the request is not read."""
        self.close_connection = True
        status = HTTPStatus(code)
        if status is HTTPStatus.NOT_IMPLEMENTED:  # http.server's word for a method for which there is no function
            status, message = HTTPStatus.METHOD_NOT_ALLOWED, "this page can only be read: GET or HEAD"
        text = f"{status.value} {status.phrase}: {message or status.description}\n"
        self.send_response(status)
        if status is HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET, HEAD")
        for name, value in {**HEADERS, "Content-Security-Policy": POLICY, "Connection": "close"}.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text.encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's
        """Tell nobody: the address in a log would be the token."""
