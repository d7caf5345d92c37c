"""What is printed: text is shown as it is and never obeyed, on any terminal, and commands work when pasted."""

from __future__ import annotations

import ast
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.table import Table

from launcher.machine import terminal
from launcher.machine.terminal import Screen, command, complain, legible, prepare_streams, say

ROOT = Path(__file__).parents[1]
SOURCES = sorted([*(ROOT / "launcher").rglob("*.py"), *(ROOT / "analysis").rglob("*.py")])
ENCODINGS = ("ascii", "latin-1", "utf-8")


def stream(encoding: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True)


def printed(text: str, encoding: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a line, a complaint and a table leave on terminals of an encoding."""
    found = []
    for show in (say, complain, on_screen):
        with monkeypatch.context() as patch:
            out, err = stream(encoding), stream(encoding)
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", err)
            prepare_streams()
            show(text)
            found.append((out.buffer.getvalue() + err.buffer.getvalue()).decode(encoding))  # type: ignore[attr-defined]
    return found


def on_screen(text: str) -> None:
    screen = Screen()
    table = Table(title=text, box=None, show_header=False)
    table.add_row(text, "x")
    screen.print(table)
    screen.print(text, soft_wrap=True)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("out[/b]", "out[/b]"),
        ("[a] [bold]x[/bold] \\[b]", "[a] [bold]x[/bold] \\[b]"),
        (":smile:", ":smile:"),
        ("\x1b[31mred\x1b]0;title\x07", "\\x1b[31mred\\x1b]0;title\\x07"),
        ("a\rb\x08c", "a\\x0db\\x08c"),
        ("half \ud800 pair", "half \\ud800 pair"),
        ("byte \udcff", "byte \\xff"),
        ("turned \u202eround", "turned \\u202eround"),
        ("line\u2028break", "line\\u2028break"),
    ],
)
def test_text_is_shown_and_not_obeyed(text: str, shown: str, encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Markup, emoji codes, escapes, half surrogates: in lines, complaints, cells and titles, in any encoding."""
    for found in printed(text, encoding, monkeypatch):
        assert shown in found
        assert not set(found) & {"\x1b", "\x07", "\x08", "\r"}


@pytest.mark.parametrize(
    ("text", "ascii_text"), [("1 ± 2 \u00d7 3 …", "1 +- 2 x 3 ..."), ("modèle", "mod\\xe8le"), ("模", "\\u6a21")]
)
def test_what_a_terminal_cannot_show_is_replaced(text: str, ascii_text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what looks alike, or by its number; where it can be shown it stays."""
    assert all(ascii_text in found for found in printed(text, "ascii", monkeypatch))
    assert all(text in found for found in printed(text, "utf-8", monkeypatch))


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(codec=None)), st.sampled_from(ENCODINGS))
def test_no_text_ends_a_program(text: str, encoding: str) -> None:
    """Whatever stands in it."""
    with pytest.MonkeyPatch.context() as patch:
        for found in printed(text, encoding, patch):
            assert "\x1b" not in found
    assert legible(legible(text)) == legible(text)


WORDS = [
    "a b",
    "it's",
    'say "x"',
    "[/b]",
    "$HOME",
    "a;b",
    "données",
    "模型",
    "\udcff\udcfe",
    "x\ny",
    "%s\\n",
    "\x1b[1m",
    "*",
    "",
]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_commands_may_be_pasted(encoding: str, shell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell hands on the words that were meant, also when the terminal cannot show them."""
    monkeypatch.setattr(sys, "stdout", stream(encoding))
    line = command(
        sys.executable,
        "-c",
        "import os, sys; sys.stdout.buffer.write(b'|'.join(map(os.fsencode, sys.argv[1:])))",
        *WORDS,
    )
    line.encode(encoding)
    assert legible(line) == line
    found = subprocess.run([shell, "-c", line], capture_output=True, check=True).stdout
    assert found == b"|".join(map(os.fsencode, WORDS))


def test_nobody_else_prints() -> None:
    """No print(), no console of rich's, no write to stdout or stderr, no markup but in the one module that does."""
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in SOURCES
        if path != Path(terminal.__file__)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if _prints(node)
    ]
    assert found == []


def _prints(node: ast.AST) -> bool:
    if isinstance(node, ast.ImportFrom):
        console = node.module == "rich.console" and any(each.name == "Console" for each in node.names)
        return console or node.module in {"rich.markup", "rich"}
    if isinstance(node, ast.Call):
        return ast.unparse(node.func) in {"print", "sys.stdout.write", "sys.stderr.write", "rich.print"}
    return False


NAMES = ["out[/b]", "[a] it's", "dönnées ±", "x\x1b[31m", "byte\udcff"]


@pytest.mark.parametrize("name", NAMES)
def test_every_verb_prints_any_path_on_an_ascii_terminal(tmp_path: Path, name: str) -> None:
    """With the exit code that it has elsewhere; a command that it prints works as it stands."""
    folder = tmp_path / name
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "LANG": "C", "HF_HUB_OFFLINE": "1"}
    environment |= {"PYTHONPATH": str(ROOT), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    (folder / "sweeps").mkdir(parents=True)

    def run(*words: str) -> tuple[int, str, str]:
        done = subprocess.run(
            [sys.executable, "-m", "launcher", *words], cwd=tmp_path, env=environment, capture_output=True, check=False
        )
        return done.returncode, done.stdout.decode("ascii"), done.stderr.decode("ascii")

    shown = _in_ascii(name)
    for verb in ("status", "cancel", "resume", "collect", "publish", "dashboard", "sync", "evaluate"):
        sweep = [] if verb in {"status", "collect", "dashboard", "sync"} else ["x"]
        code, _, err = run(verb, *sweep, "--output-dir", str(folder))
        assert (code, err.count("\n")) == (2, 1), err
        assert shown in err
    code, _, err = run("run", str(folder))
    assert (code, err.count("\n")) == (2, 1), err
    assert shown.rpartition("/")[2] in err
    assert run("doctor", "--output-dir", str(folder))[0] == 0


def _in_ascii(name: str) -> str:
    return legible(name).replace("±", "+-").encode("ascii", "backslashreplace").decode("ascii")
