"""launcher.live: a sweep's own page, who may read it, and what it shows of a sweep that is running."""

from __future__ import annotations

import html
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from conftest import clean_environment
from fakes import FakeScheduler
from waiting import LONGEST_WAIT, eventually
from watched_runs import STEPS, recorded, states_of

from launcher.cli import dashboard as verb
from launcher.cli import status
from launcher.errors import SchedulerError, StoreError, UsageError
from launcher.live import page as pages
from launcher.live.now import told as now_told
from launcher.live.page import SweepPage
from launcher.live.report import LiveReport
from launcher.live.server import Answer, Server
from launcher.runs.run_state import RunState
from launcher.runs.status import Status
from launcher.store.curve import Curves
from launcher.store.output_folder import Store
from launcher.views.live import shown_runs

PAGE = Answer(b"<p>secret</p>", "text/html")
HOSTILE = "</script><img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(lambda path, _: PAGE if not path else None, None) as found:
        yield found


def ask(server: Server, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=LONGEST_WAIT)
    connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    try:
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


# ------------------------------------------------------------------------------------------------ who may read it


def test_the_address_opens_the_page(server: Server) -> None:
    """On loopback alone; without its last slash it leads there, so that links on it hold."""
    assert server.address == f"http://127.0.0.1:{server.port}/{server.token}/"
    assert server._listener.server_address[0] == "127.0.0.1"
    assert ask(server, f"/{server.token}/")[::2] == (200, b"<p>secret</p>")
    code, headers, _ = ask(server, f"/{server.token}")
    assert (code, headers["location"]) == (308, f"/{server.token}/")
    assert ask(server, f"/{server.token}/nothing")[0] == 404


@pytest.mark.parametrize(
    "path",
    ["/", "//", "/x/", "/{token}x/", "/x{token}/", "/{half}/", "/%C3%A9/", "/\xe9", "/?{token}", "/x/../{token}/"],
)
def test_without_the_token_nothing_is_told(server: Server, path: str) -> None:
    """Another user of the machine reaches its loopback, and learns nothing, not even what there is."""
    path = path.format(token=server.token, half=server.token[:16])
    with socket.create_connection(("127.0.0.1", server.port), timeout=LONGEST_WAIT) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode("latin-1"))
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert b"secret" not in answer
    assert server.token.encode() not in answer


def test_two_servers_have_two_tokens(server: Server) -> None:
    """Which nobody guesses."""
    with Server(lambda *_: PAGE, None) as other:
        assert other.token != server.token
        assert len(other.token) >= 32


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "localhost.evil:1"])
def test_a_page_under_another_name_is_refused(server: Server, host: str) -> None:
    """As DNS rebinding would ask for it, with the token or not."""
    assert ask(server, f"/{server.token}/", Host=host)[0] == 403


@pytest.mark.parametrize("host", ["localhost", "localhost:9", "127.0.0.1:9", "LOCALHOST:9"])
def test_the_other_end_of_a_tunnel_is_answered(server: Server, host: str) -> None:
    """Whatever port it has there."""
    assert ask(server, f"/{server.token}/", Host=host)[0] == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "NONSENSE"])
def test_the_page_can_only_be_read(server: Server, method: str) -> None:
    """By GET or HEAD; a HEAD has no content."""
    code, headers, content = ask(server, f"/{server.token}/", method)
    assert (code, headers["allow"]) == (405, "GET, HEAD")
    assert b"secret" not in content
    code, headers, content = ask(server, f"/{server.token}/", "HEAD")
    assert (code, headers["content-length"], content) == (200, str(len(PAGE.content)), b"")


@pytest.mark.parametrize("path", ["/", "/{token}", "/{token}/", "/{token}/nothing"])
def test_every_answer_has_the_policies(server: Server, path: str) -> None:
    """Nothing inline, nothing from elsewhere, no frame, no referrer with the token in it, no copy on disk."""
    _, headers, _ = ask(server, path.format(token=server.token))
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert (headers["referrer-policy"], headers["cache-control"]) == ("no-referrer", "no-store")
    assert headers["x-content-type-options"] == "nosniff"


def test_requests_are_told_nobody(server: Server, capfd: pytest.CaptureFixture[str]) -> None:
    """A line of a log would have the token; a browser that goes away is no news either."""
    ask(server, f"/{server.token}/")
    ask(server, "/x")
    assert capfd.readouterr() == ("", "")


def test_a_port_that_is_taken_is_said(server: Server) -> None:
    """In one line, with the way out."""
    with pytest.raises(UsageError, match=f"--port {server.port}: Address already in use; give another"):
        Server(lambda *_: PAGE, server.port)
    with pytest.raises(UsageError, match=r"--port 70000: .*0-65535"):
        Server(lambda *_: PAGE, 70000)


def test_a_browser_is_led_there_by_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which nobody else may read: a command's arguments are everybody's. At the end of ssh there is none."""
    opened: list[tuple[str, str, int]] = []

    def opens(address: str) -> bool:
        file = Path(address.removeprefix("file://"))
        opened.append((address, file.read_text(), file.parent.stat().st_mode & 0o777))
        return True

    monkeypatch.setattr("webbrowser.open", opens)
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.delenv("SSH_CONNECTION", raising=False)
    with verb._opened("http://127.0.0.1:1/TOKEN/", Namespace(no_browser=False)) as was:
        assert was
    ((address, text, mode),) = opened
    assert ("TOKEN" in address, "url=http://127.0.0.1:1/TOKEN/" in text, mode) == (False, True, 0o700)
    monkeypatch.setenv("SSH_CONNECTION", "there")
    with verb._opened("http://127.0.0.1:1/TOKEN/", Namespace(no_browser=False)) as was:
        assert not was
    assert len(opened) == 1


# ------------------------------------------------------------------------------------------------ what it tells


@contextmanager
def many(store: Store, patch: pytest.MonkeyPatch, **states: int) -> Iterator[tuple[SweepPage, list[RunState]]]:
    """The page of 60 runs, which nothing looks up but `look`."""
    directory = recorded(store, 2, 5, 6)
    found = states_of(directory, store, **states)
    patch.setattr(pages, "states_of", lambda *_: list(found))
    patch.setattr(LiveReport, "_start", lambda _: None)
    page = SweepPage(directory, store, FakeScheduler(), None)
    try:
        yield page, found
    finally:
        page.server._listener.server_close()


def told(page: SweepPage) -> Any:
    page._look_again = 0.0
    page.look()
    answer = page.answer("now.json", "")
    assert answer is not None
    assert answer.kind == "application/json"
    return json.loads(answer.content)


def test_a_sweep_that_is_removed_meanwhile_is_told(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was known of it stays on the page, with a line that it is gone; `status --watch` ends with that line."""
    with many(store, monkeypatch) as (page, _):
        told(page)
        store.sweep("many").path.rename(store.root / "elsewhere")
        now = told(page)
        assert (now["total"], len(now["running"])) == (60, 8)
        assert now["notes"] == [f"{store.sweep('many').path}: the sweep is gone; somebody has removed or moved it"]
        with pytest.raises(StoreError, match="the sweep is gone"):
            status._looked(store.sweep("many"), store, FakeScheduler(), print, raises=False)


def test_what_few_wait_for_is_counted_together(store: Store) -> None:
    """Of 60 runs that wait for 12 things, the ten for which most wait are told, and that 10 wait for others."""
    directory = recorded(store, 2, 5, 6)
    states = [
        replace(state, status=Status.PENDING, reason=f"why {place % 12}")
        for place, state in enumerate(states_of(directory, store))
    ]
    now = now_told(directory, shown_runs(directory.run_names(), states, Curves()), [], 0.0)
    assert now["waiting"] == [*([f"why {place}", 5] for place in range(10)), ["something else", 10]]


def test_the_page_is_told_what_there_is(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts, runs at work with curves, failures with the ends of their tracebacks, for what runs wait, every run."""
    with many(store, monkeypatch) as (page, states):
        now = told(page)
    assert (now["total"], dict(map(tuple, now["counts"]))["RUNNING"], now["over"]) == (60, 8, False)
    first = now["running"][0]
    assert first["curves"]["loss"][-1][0] == first["step"]
    assert all(len(run["curves"][key]) > 30 for run in now["running"] for key in run["curves"])
    assert len(now["failed"]) == 4
    assert all(run["traceback"].endswith("ValueError: no number") for run in now["failed"])
    assert now["failed"][0]["command"].startswith(f"python -m launcher logs {now['failed'][0]['run']}")
    assert now["waiting"] == [["Priority", 33]]
    cells = [letter for row in now["grid"]["rows"] for cell in row["cells"] for letter, *_ in cell]
    assert len(cells) == 60
    trained, others = ([each.facts for each in states if each.facts.trained is whole] for whole in (True, False))
    seconds = 3000 * len(trained) + 7.5 * sum(facts.step or 0 for facts in others)
    assert now["cost"]["spent"] == pytest.approx(seconds / 3600)
    assert 0.2 < now["share"] < 0.6
    assert first["max_steps"] == STEPS


def test_nothing_is_sent_twice(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has not changed since has no content."""
    with many(store, monkeypatch) as (page, _):
        assert page.answer("now.json", "").code is HTTPStatus.NO_CONTENT  # type: ignore[union-attr]
        version = told(page)["version"]
        assert page.answer("now.json", f"since={version}").code is HTTPStatus.NO_CONTENT  # type: ignore[union-attr]
        assert page.answer("now.json", "since=0").code is HTTPStatus.OK  # type: ignore[union-attr]


def test_the_scheduler_is_asked_no_oftener_than_it_likes(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its silence is a line on the page, which goes on."""
    asked: list[float] = []
    with many(store, monkeypatch) as (page, states):
        monkeypatch.setattr(pages, "states_of", lambda *_: asked.append(time.monotonic()) or states)
        page._scheduler.poll_seconds = 30.0
        for _ in range(5):
            page.look()
        assert len(asked) == 1

        def silent(*_: object) -> list[RunState]:
            raise SchedulerError("squeue: no answer within 60 s")

        monkeypatch.setattr(pages, "states_of", silent)
        now = told(page)
    assert "squeue: no answer within 60 s" in now["notes"]
    assert now["total"] == 60


@pytest.mark.parametrize(
    "path", ["page.py", "../live/page.py", "..%2fpage.py", "/etc/passwd", "report/../page.py", "now", "__init__.py"]
)
def test_no_file_but_its_own_can_be_read(store: Store, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    """Whatever the address says; nor a report before there is one."""
    with many(store, monkeypatch) as (page, _):
        assert page.answer(path, "") is None
        assert page.answer("report", "") is None


def test_the_report_is_made_when_results_have_changed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for every step, nor while none is trained, nor of what it is made of already."""
    directory, made = recorded(store, 2, 5, 6), list[int]()
    monkeypatch.setattr(LiveReport, "_start", lambda _: made.append(1))
    written = iter(["one", "one", "two", "three"])
    monkeypatch.setattr("launcher.live.report.collect", lambda *_: directory.results_file.write_text(next(written)))
    states = states_of(directory, store)
    report = LiveReport(directory, store)
    report.look([replace(state, facts=replace(state.facts, trained=False)) for state in states])
    assert made == []
    report.look(states)
    report.look([replace(state, facts=replace(state.facts, step=399)) for state in states])
    assert len(made) == 1
    ended = replace(states[15], status=Status.FAILED)
    report.look([*states[:15], ended, *states[16:]])
    assert len(made) == 1  # results.jsonl is the same
    report.look(states)
    assert len(made) == 2
    directory.report.mkdir()
    (directory.report / "report.html").write_text("made")
    after = LiveReport(directory, store)
    assert after.told()["version"] == 1
    directory.results_file.write_text("three")
    os.utime(directory.report / "report.html", (time.time() + 60, time.time() + 60))
    LiveReport(directory, store).look(states)
    assert len(made) == 2  # as it is now, it was made of these


def test_while_runs_are_in_flight_the_report_rests(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as it took to make, since others use the machine, which the page says; not once all runs have ended."""
    directory, made, number = recorded(store, 1, 1, 3), list[int](), iter(range(9))
    monkeypatch.setattr(LiveReport, "_start", lambda _: made.append(1))
    monkeypatch.setattr("launcher.live.report.collect", lambda *_: directory.results_file.write_text(str(next(number))))
    report = LiveReport(directory, store)
    one, two = states_of(directory, store, 2, 0, 1), states_of(directory, store, 1, 0, 2)
    report.look(one)
    report._rested = time.monotonic() + 1000
    report.look(two)
    assert (len(made), report.told()["behind"]) == (1, True)
    report.look(states_of(directory, store, 0, 0, 3))
    assert (len(made), report.told()["behind"]) == (2, False)


def test_a_report_that_cannot_be_made_says_why(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the words of the process that was to make it."""
    directory = recorded(store, 1, 1, 2)
    monkeypatch.setattr("launcher.live.report.collect", lambda *_: directory.results_file.write_text("broken"))
    report = LiveReport(directory, store)
    states = states_of(directory, store, running=0, failed=0, trained=2)
    report.look(states)
    assert report.told()["making"]
    assert eventually(lambda: not report._is_busy())
    assert "results.jsonl" in report.told()["why"]
    assert report.told()["version"] == 0


def test_no_text_becomes_html_in_the_page() -> None:
    """The script has no way to make HTML of a string, and the page no script but that file."""
    folder = Path(pages.__file__).parent
    script, page = (folder / "page.js").read_text(), (folder / "page.html").read_text()
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|Function\(|srcdoc", script)
    assert re.findall(r"<script[^>]*>", page) == ['<script src="page.js" defer>']
    assert not re.search(r"https?:|\son\w+=|style=", page)


# ------------------------------------------------------------------------------------------------ in a browser


def seen(address: str, folder: Path, seconds: int = 8) -> str:
    """The page as headless Chromium has it after so many seconds of its own time."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium to look at it with")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}"]
    command += [f"--virtual-time-budget={1000 * seconds}", "--dump-dom", address]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=LONGEST_WAIT).stdout


def test_hostile_text_is_text(store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """HTML in a reason, a traceback, a node: it can be read, and does nothing."""
    with many(store, monkeypatch) as (page, states):
        facts = replace(states[23].facts, traceback=HOSTILE, failure=HOSTILE)
        states[23] = replace(states[23], facts=facts, reason=HOSTILE)
        states[15] = replace(states[15], reason=HOSTILE, job=replace(states[15].job, node=HOSTILE))
        page.look()
        with page.server:
            dom = seen(page.server.address, tmp_path / "profile")
    assert dom.count(html.escape(HOSTILE, quote=False)) >= 4
    assert "<img" not in dom
    assert "<title>● many</title>" in dom


SWEEP = ["-m", "+sweeps=smoke", "model=tiny", "loss_type=sigmoid", "beta=0.1", "trainer.max_steps=300"]
SWEEP += ["tracking=off", "hub=off"]


def test_a_sweep_that_is_running_is_seen_to_move(tmp_path: Path) -> None:
    """Steps and curves while it trains, then its results; Ctrl-C ends the page cleanly, and whatever it had begun."""
    environment = clean_environment()
    start = [sys.executable, "-m", "launcher"]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": tmp_path}
    launching = subprocess.Popen([*start, *SWEEP], env=environment, **pipes)
    shown = None
    try:
        assert eventually(lambda: list(tmp_path.glob("outputs/sweeps/*/launches/*.json")))
        shown = subprocess.Popen([*start, "dashboard", "--no-browser"], env=environment, **pipes)
        assert shown.stdout is not None
        address = shown.stdout.readline().strip()
        port, token = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/([\w-]{32,})/", address).groups()  # type: ignore[union-attr]
        assert f"ssh -N -L {port}:127.0.0.1:{port} " in shown.stdout.readline()

        def now() -> Any:
            connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=LONGEST_WAIT)
            connection.request("GET", f"/{token}/now.json")
            answer = connection.getresponse()
            return json.loads(answer.read()) if answer.status == 200 else {}

        assert eventually(lambda: any((run["step"] or 0) > 2 for run in now().get("running", [])))
        before = now()["share"]
        dom = seen(address, tmp_path / "profile")
        assert re.search(r"step \d+ of 300", dom)
        assert dom.count("<polyline") == 3
        assert eventually(lambda: now()["share"] > before)
        assert launching.wait(LONGEST_WAIT) == 0, launching.communicate()

        def is_settled() -> bool:
            last = now()
            return bool(last["over"] and last["report"]["version"]) and not (
                last["report"]["making"] or last["report"]["behind"]
            )

        assert eventually(is_settled)
        dom = seen(address, tmp_path / "profile")
        assert "1 TRAINED" in dom
        assert re.search(r'<iframe[^>]*class=""[^>]*style="height: \d{4}', dom)
        assert "no answer any more" not in dom
    finally:
        launching.kill()
        launching.communicate()
        if shown is not None:
            shown.send_signal(signal.SIGINT)
            out, err = shown.communicate(timeout=LONGEST_WAIT)
            assert (shown.returncode, err) == (0, ""), out
