"""How files come into being, with a process that dies, or a disk that fails, at each single call of the system.

A child process makes one write and is killed as it is about to make its n-th call; so for every n, until it gets
through. What it has left is read then, and written once more.
"""

from __future__ import annotations

import errno
import itertools
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from launcher.store.entries import is_whole, making
from launcher.store.facts import Attempt, Purpose
from launcher.store.files import append_line, building, read_fact, read_lines, write_derived, write_once
from launcher.store.run_folder import RunDir

KILLED, FAILED = 77, 78
LONGEST = 400  # calls that one write may take


def _is_call(function: Any) -> bool:
    """Whether it asks the system for something, or fills the buffer before that."""
    if getattr(function, "__module__", None) == "posix":
        return True
    return type(getattr(function, "__self__", None)).__module__ == "_io"


def ends(write: Callable[[], object], number: int, *, killed: bool) -> int:
    """How a child process ends that makes this write, where its call of that number is its last, or fails."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    calls = itertools.count()

    def watch(_frame: FrameType, event: str, function: Any) -> None:
        if event == "c_call" and _is_call(function) and next(calls) == number:
            if killed:
                os._exit(KILLED)
            raise OSError(errno.ENOSPC, "No space left on device")

    code = FAILED
    try:
        sys.setprofile(watch)
        write()
        code = 0
    finally:
        sys.setprofile(None)
        os._exit(code)


def moments(write: Callable[[Path], object], folder: Path, before: Callable[[Path], object]) -> Iterator[Path]:
    """A folder for each moment at which the write, over what `before` has written, can end; and the last, whole one."""
    for killed in (True, False):
        for number in range(LONGEST):
            where = folder / f"{'killed' if killed else 'failed'}-{number}"
            where.mkdir()
            before(where)
            code = ends(lambda where=where: write(where), number, killed=killed)
            assert code in (0, KILLED if killed else FAILED)
            yield where
            if code == 0:
                break
        else:
            pytest.fail(f"more than {LONGEST} calls")


def left(folder: Path, *known: str) -> list[str]:
    """What lies there beside what is known, and what nobody looks at."""
    return sorted(name for name in os.listdir(folder) if not name.startswith(".") and name not in known)


@dataclass(frozen=True)
class Fact:
    text: str


OLD, NEW, NEXT = Fact("old " * 999), Fact("new " * 999), Fact("next")


@pytest.mark.parametrize("there", [False, True])
def test_a_fact_is_whole_or_not_there(tmp_path: Path, there: bool) -> None:
    """One that is there stays; one that is not can be written by the next."""
    first = (lambda where: write_once(where / "fact.json", OLD)) if there else (lambda _: None)
    for where in moments(lambda where: write_once(where / "fact.json", NEW), tmp_path, first):
        fact = read_fact(where / "fact.json", Fact)
        assert fact in ((OLD,) if there else (None, NEW))
        assert write_once(where / "fact.json", NEXT) == (fact is None)
        assert read_fact(where / "fact.json", Fact) == (fact or NEXT)
        assert left(where, "fact.json") == []


@pytest.mark.parametrize("there", [False, True])
def test_a_derived_file_is_the_old_or_the_new_one(tmp_path: Path, there: bool) -> None:
    """Never a part, and never nothing where there was something."""
    first = (lambda where: write_derived(where / "file", OLD.text)) if there else (lambda _: None)
    seen = set()
    for where in moments(lambda where: write_derived(where / "file", NEW.text), tmp_path, first):
        text = (where / "file").read_text() if (where / "file").exists() else None
        seen.add(text)
        write_derived(where / "file", NEXT.text)
        assert (where / "file").read_text() == NEXT.text
        assert left(where, "file") == []
    assert seen == {OLD.text if there else None, NEW.text}


@pytest.mark.parametrize("torn", [0, 5])
def test_a_log_keeps_its_lines(tmp_path: Path, torn: int) -> None:
    """A crash costs the line that was being written; also behind one that another crash has torn."""

    def before(where: Path) -> None:
        append_line(where / "log", {"line": 1})
        with (where / "log").open("a") as file:
            file.write('{"line": 2, "rest'[:torn])

    def write(where: Path) -> None:
        append_line(where / "log", {"line": 3})

    for where in moments(write, tmp_path, before):
        lines = [line["line"] for line in read_lines(where / "log")]
        assert lines in ([1], [1, 3])
        write(where)
        assert [line["line"] for line in read_lines(where / "log")] == [*lines, 3]


def build(where: Path, text: str) -> bool:
    with making(where / "entry") as empty:
        if empty is not None:
            (empty / "a").write_text(text)
            (empty / "b").write_text(text)
        return empty is not None


@pytest.mark.parametrize("spoilt", [False, True])
@pytest.mark.long
def test_an_entry_is_whole_or_made_again(tmp_path: Path, spoilt: bool) -> None:
    """Also where it replaces one that has lost a file; what a builder leaves is removed by the next."""

    def before(where: Path) -> None:
        if spoilt:
            build(where, "old")
            (where / "entry" / "b").unlink()

    for where in moments(lambda where: build(where, "new"), tmp_path, before):
        whole = is_whole(where / "entry")
        assert not whole or {(where / "entry" / name).read_text() for name in "ab"} == {"new"}
        assert build(where, "next") is not whole
        assert {(where / "entry" / name).read_text() for name in "ab"} == {"new" if whole else "next"}
        assert left(where, "entry") == []
        assert [name for name in os.listdir(where) if (where / name).is_dir()] == ["entry"]


@pytest.mark.long
def test_a_folder_is_built_whole(tmp_path: Path) -> None:
    """Whoever sees it sees all of it."""

    def write(where: Path) -> None:
        with building(where / "folder") as empty:
            if empty is not None:
                (empty / "a").write_text("a")
                (empty / "b").write_text("b")

    for where in moments(write, tmp_path, lambda _: None):
        assert not (where / "folder").exists() or sorted(os.listdir(where / "folder")) == ["a", "b"]
        write(where)
        assert sorted(os.listdir(where / "folder")) == ["a", "b"]
        assert left(where, "folder") == []


def test_an_attempt_has_its_record_and_a_number_of_its_own(tmp_path: Path) -> None:
    """None is seen without what was asked for; the next is numbered behind those that there are."""

    def write(where: Path) -> None:
        RunDir(where).new_attempt(Attempt(settings={"a": 1}, time=time.time(), purpose=Purpose.EVALUATION))

    for where in moments(write, tmp_path, lambda where: RunDir(where).new_attempt(Attempt(settings={"a": 0}))):
        attempts = RunDir(where).attempts()
        assert [attempt.record.settings for attempt in attempts] == [{"a": 0}, {"a": 1}][: len(attempts)]
        write(where)
        assert [attempt.number for attempt in RunDir(where).attempts()] == list(range(1, len(attempts) + 2))
        assert left(where, *(attempt.attempt_file.name for attempt in RunDir(where).attempts())) == []
