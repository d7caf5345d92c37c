"""launcher.store.hashes: a file's hash is remembered as long as the file is the same, and no longer."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from launcher.store import hashes
from launcher.store.files import file_hash
from launcher.store.hashes import Hashes, file_sha256
from launcher.store.output_folder import Store


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files count as old as soon as they are written: nobody can set the time that says so."""
    monkeypatch.setattr(hashes, "SETTLED_SECONDS", 0.0)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were read, in order."""
    found: list[Path] = []

    def recorded(path: Path) -> str:
        found.append(path)
        return file_hash(path)

    monkeypatch.setattr(hashes, "file_hash", recorded)
    return found


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("in_place", [True, False])
def test_content_of_the_same_size_and_time_is_another(store: Store, tmp_path: Path, in_place: bool) -> None:
    """As after `cp -p` over the file, or a rename of another onto it."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"one")
    before = path.stat()
    assert file_sha256(path, store) == sha256(b"one")
    target = path if in_place else tmp_path / "other"
    target.write_bytes(b"two")
    os.utime(target, ns=(before.st_atime_ns, before.st_mtime_ns))
    target.rename(path)
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert file_sha256(path, store) == sha256(b"two")


@pytest.mark.usefixtures("settled")
def test_an_unchanged_file_is_read_once(store: Store, tmp_path: Path, read: list[Path]) -> None:
    """One that is touched is read again, and has the same hash."""
    path = tmp_path / "train.jsonl"
    path.write_bytes(b"one")
    assert [file_sha256(path, store) for _ in range(3)] == [sha256(b"one")] * 3
    assert read == [path]
    os.utime(path, (1.0, 1.0))
    assert file_sha256(path, store) == sha256(b"one")
    assert read == [path, path]


def test_a_file_that_has_just_changed_is_not_remembered(store: Store, tmp_path: Path, read: list[Path]) -> None:
    """It may change again within the tick of the clock that times it; a time of modification says nothing of that."""
    path = tmp_path / "train.jsonl"
    path.write_bytes(b"one")
    os.utime(path, (1.0, 1.0))
    assert [file_sha256(path, store) for _ in range(2)] == [sha256(b"one")] * 2
    assert read == [path, path]
    assert not store.cache("hashes", "x").parent.exists()


def test_a_file_that_has_settled_is_remembered(store: Store, tmp_path: Path, read: list[Path]) -> None:
    """By the clock, two seconds after its last change."""
    path = tmp_path / "train.jsonl"
    path.write_bytes(b"one")
    time.sleep(hashes.SETTLED_SECONDS + 0.1)
    assert [file_sha256(path, store) for _ in range(2)] == [sha256(b"one")] * 2
    assert read == [path]


@pytest.mark.usefixtures("settled")
def test_a_file_that_changes_while_it_is_read_is_not_remembered(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read then is of neither content."""
    path = tmp_path / "train.jsonl"
    path.write_bytes(b"one")

    def reading(file: Path) -> str:
        digest = file_hash(file)
        file.write_bytes(b"two!")
        return digest

    monkeypatch.setattr(hashes, "file_hash", reading)
    file_sha256(path, store)
    assert not store.cache("hashes", "x").parent.exists()


@pytest.mark.usefixtures("settled")
def test_nothing_is_written_until_it_is_kept(store: Store, tmp_path: Path, read: list[Path]) -> None:
    """A launch may still be refused; but no file is read twice by one."""
    path = tmp_path / "train.jsonl"
    path.write_bytes(b"one")
    known = Hashes(store)
    assert [known.of(path), known.of(path)] == [sha256(b"one")] * 2
    assert not store.root.exists()
    known.keep()
    assert file_sha256(path, store) == sha256(b"one")
    assert read == [path]


def test_a_large_file_is_announced(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it is read, with its size; one that is remembered is not."""
    path, said = tmp_path / "model.safetensors", list[str]()
    path.write_bytes(bytes(10))
    monkeypatch.setattr(hashes, "LARGE_BYTES", 10)
    monkeypatch.setattr(hashes, "SETTLED_SECONDS", 0.0)
    for _ in range(2):
        known = Hashes(store, said.append)
        known.of(path)
        known.keep()
    assert said == [f"reading {path}, 0.0 GB, to know its content from now on"]
