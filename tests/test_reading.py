"""What the system does not let be read, or is no file of ours: it is told as one run's, and the others go on."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeScheduler
from test_unreadable import WORDS, batch_of, fake, started  # noqa: F401 - fixtures

from launcher.cli import main
from launcher.errors import StoreError, Unread
from launcher.machine import disk
from launcher.store import entries
from launcher.store.facts import Attempt, EntryFiles
from launcher.store.files import read_fact, read_lines, tail, write_once
from launcher.store.reading import is_there, read_mapping
from launcher.store.run_folder import RunDir
from launcher.worker.training import checkpoints

DEEP = '{"a":' * 3000 + "1" + "}" * 3000
FILES = ("attempt", "jobs", "work", "launch")


def refuse(monkeypatch: pytest.MonkeyPatch, path: Path, number: int) -> None:
    """The system answers so whoever opens or lists `path`, or looks below it."""

    def refusing(name: str) -> Callable[..., Any]:
        act = getattr(os, name)

        def instead(at: Any, *rest: Any, **more: Any) -> Any:
            inside = not isinstance(at, int) and path in (Path(at), *Path(at).parents)
            if inside and (name != "stat" or Path(at) != path):
                raise OSError(number, os.strerror(number), str(at))
            return act(at, *rest, **more)

        return instead

    for name in ("open", "listdir", "scandir", "stat"):
        monkeypatch.setattr(os, name, refusing(name))


def file_of(run: RunDir, which: str) -> Path:
    batch = batch_of(run)
    named = {"attempt": run.attempts()[0].attempt_file, "jobs": batch / "jobs.json", "work": batch / "work.json"}
    return named.get(which) or next(batch.parents[1].glob("launches/*.json"))


def shown(capsys: pytest.CaptureFixture[str]) -> tuple[int, list[dict[str, str]], str]:
    capsys.readouterr()
    code = main.main(["status", "s", "--json"])
    said = capsys.readouterr()
    return code, json.loads(said.out)["runs"], said.err


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE, errno.ELOOP])
@pytest.mark.parametrize("which", [*FILES, "folder"])
def test_a_refusal_blocks_no_other_run(
    started: list[RunDir],  # noqa: F811
    fake: FakeScheduler,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    which: str,
) -> None:
    """Every run has its line, the file is named with what helps, and the others are submitted and cancelled."""
    path = started[0].path if which == "folder" else file_of(started[0], which)
    refuse(monkeypatch, path, number)
    code, runs, said = shown(capsys)
    assert (code, len(runs)) == (which != "work", 4)  # who makes what is known without the list
    assert [run["status"] == "UNREADABLE" for run in runs].count(True) == (which not in {"launch", "work"})
    assert f"{path}: " in said
    remedies = {
        errno.EACCES: "Permission denied); give yourself the right to it: chmod",
        errno.EIO: "input/output error",
        errno.ESTALE: "stale file",
    }
    assert remedies.get(number, "put it right, or move it away") in said
    before = len(fake.submitted)
    assert main.main(WORDS) == (which != "work")
    assert len(fake.submitted) == before + (4 if which in ("launch", "work") else 3)
    main.main(["cancel", "s"])
    assert "runs of s cancelled" in capsys.readouterr().out


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
@pytest.mark.parametrize("folder", ["sweeps/s/jobs", "cache/prepare"])
def test_a_folder_that_cannot_be_listed_hides_no_run(
    started: list[RunDir],  # noqa: F811
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    folder: str,
) -> None:
    """The lists of work or the tables below it are not known; that is told, and the runs are shown."""
    path = started[0].path.parent.parent / folder

    def refusing(act: Callable[..., Any]) -> Callable[..., Any]:
        def instead(at: Any = ".", *rest: Any) -> Any:
            if at is not None and not isinstance(at, int) and Path(os.fspath(at)) == path:
                raise OSError(number, os.strerror(number), str(at))
            return act(at, *rest)

        return instead

    for name in ("listdir", "scandir"):
        monkeypatch.setattr(os, name, refusing(getattr(os, name)))
    assert main.main(["status", "s"]) == 0
    said = capsys.readouterr()
    assert f"{path}: " in said.err
    assert "4 FAILED" in said.out
    main.main(["cancel", "s"])
    assert "0 runs of s cancelled" in capsys.readouterr().out


@pytest.mark.parametrize("which", FILES)
@pytest.mark.parametrize("way", ["deep", "surrogate", "folder", "pipe", "loop", "no text", "large"])
def test_what_is_no_fact_blocks_no_other_run(
    started: list[RunDir],  # noqa: F811
    capsys: pytest.CaptureFixture[str],
    which: str,
    way: str,
) -> None:
    """Neither a traceback nor a wait."""
    path = file_of(started[0], which)
    spoil(path, way)
    code, runs, said = shown(capsys)
    assert (code, len(runs)) == (which != "work", 4), said
    assert f"{path}: " in said
    assert "put it right, or move it away" in said
    for verb in (["status", "s"], [*WORDS, "dry_run=true"], ["cancel", "s"], ["collect", "s"]):
        assert main.main(verb) in (0, 1)
    assert "Traceback" not in capsys.readouterr().err


def spoil(path: Path, way: str) -> None:
    text = path.read_text()
    path.unlink()
    if way == "folder":
        path.mkdir()
    elif way == "pipe":
        os.mkfifo(path)
    elif way == "loop":
        path.symlink_to(path.name)
    elif way == "large":
        path.touch()
        os.truncate(path, 1 << 30)
    else:
        torn = text.replace('": "', '": "\\ud800', 1) if '": "' in text else '{"runs": ["\\ud800"]}'
        path.write_bytes({"deep": DEEP.encode(), "no text": b"\xff" + text.encode(), "surrogate": torn.encode()}[way])


def test_every_way_of_reading_says_what_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's own error is behind ours, so that a job says of its disk what it said before."""
    path = tmp_path / "fact.json"
    path.write_text("{}")
    refuse(monkeypatch, path, errno.EIO)
    for read in (read_fact, read_lines, tail, read_mapping):
        with pytest.raises(Unread, match="input/output error") as caught:
            read(path)
        assert "fails on" in (disk.fault(caught.value, tmp_path) or "")
    monkeypatch.undo()
    with pytest.raises(StoreError, match="cannot be read"):
        read_fact(tmp_path / "a\0b", Attempt)
    assert not is_there(path / "below")


def test_what_cannot_be_read_is_not_thrown_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache entry or a checkpoint that a disk does not show just now may be whole."""
    write_once(tmp_path / entries.LIST, EntryFiles({}))
    (tmp_path / checkpoints.MARKER).write_text("{}")
    refuse(monkeypatch, tmp_path, errno.ESTALE)
    for ask in (entries.lost_files, checkpoints.missing_in):
        with pytest.raises(Unread):
            ask(tmp_path)


FLAT = "a: [" + "1, " * 500 + "[{b: 1}]]\nb: 'x [[[[ - - - '\nc:\n" + "- 1\n" * 500
NESTED = {
    "lists": "[" * 200_000,
    "whole lists": "a: " + "[" * 3000 + "]" * 3000,
    "mappings": "{a: " * 200_000,
    "mappings by lines": "\n".join(f"{' ' * depth}a:" for depth in range(300)),
    "lists by lines": "- " * 200_000,
    "keys": "? " * 200_000,
    "tabs": "-\t" * 200_000,
}


@pytest.mark.parametrize("way", NESTED)
def test_a_configuration_that_is_nested_too_deeply_is_damaged(tmp_path: Path, way: str) -> None:
    """The process that reads it does not end; in another, since it once did."""
    file = tmp_path / "config.yaml"
    file.write_text(NESTED[way])
    code = (
        f"from pathlib import Path; from launcher.store.reading import read_mapping; read_mapping(Path({str(file)!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"launcher.errors.StoreError: {file}: ")
    assert last.endswith("put it right, or move it away to have it made again")


def test_a_configuration_with_many_brackets_is_read(tmp_path: Path) -> None:
    """Long lists, and texts that hold what opens one, are not deep."""
    file = tmp_path / "config.yaml"
    file.write_text(FLAT)
    assert read_mapping(file)["c"] == [1] * 500
