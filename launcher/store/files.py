"""How a file comes into being: whole, or not at all.

Owns: the three kinds of file, no others: write-once facts (`write_once`), append-only logs (`append_line`), and
derived files (`write_derived`) that may be deleted at any time; their reading, and folders built once.
A file that is whole may still be wrong, after a repair by hand for one: whatever it lacks is told when it is read.
Must not know: where a file lies (`output_folder` and `run_folder` do), what a fact means (`facts`).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import glob
import hashlib
import io
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, overload

import msgspec

from launcher.errors import StoreError
from launcher.machine import disk, rights
from launcher.store.file_system import name_once
from launcher.store.locks import turn
from launcher.store.reading import REMEDY, opened, read_content, rest_of

Plain = dict[str, Any]  # a JSON object as it is
# Python's JSON knows Infinity, and numbers of any length, with which nobody can reckon.
Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e12)]  # a span, or a time since 1970
Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]
Kind = TypeVar("Kind")
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
LEFT_OUT = {"left out": True}  # the metadata of a key that is not written where it has no value
TAIL_BYTES = 4096  # of a log, enough for its last line
END_BYTES = 65536  # of a log, enough for what is said of a crash: the stacks of a process, srun's line for each rank


_looks: list[Callable[[], None]] = []


@contextlib.contextmanager
def guarded(look: Callable[[], None]) -> Iterator[None]:
    """Within, `look` is called before this process makes a file, or adds to one, by way of this module."""
    _looks.append(look)
    try:
        yield
    finally:
        _looks.remove(look)


def look_first() -> None:
    """What `guarded` promises; for whoever removes a fact himself."""
    for look in tuple(_looks):
        look()


def _write_aside(path: Path, text: str, *, flushed: bool) -> str:
    """Write `text` beside `path`, where asked flushed to disk, and return where."""
    look_first()
    folder, name = os.path.split(path)
    aside = f"{folder}/.{name}.{secrets.token_hex(6)}"
    try:
        handle = _opened(aside)
    except PermissionError as error:
        error.filename = str(path)  # nobody knows the other name
        raise
    try:
        with os.fdopen(handle, "wb", buffering=0) as file:
            _write_all(file, text.encode())
            if flushed:
                os.fsync(handle)
    except OSError as error:  # a full disk takes the name, and not the content
        Path(aside).unlink(missing_ok=True)
        error.filename = str(path)  # a write does not say of what
        raise
    return aside


def _opened(aside: str) -> int:
    try:
        return os.open(aside, _NEW, rights.NEW_FILE)
    except FileNotFoundError:
        Path(aside).parent.mkdir(parents=True, exist_ok=True)
        return os.open(aside, _NEW, rights.NEW_FILE)


def _write_all(file: io.FileIO, content: bytes) -> None:
    """Write all of it: a single write may be cut short, by a disk that is full for one."""
    written = file.write(content)
    while written < len(content):
        written += file.write(content[written:])


def write_once(path: Path, fact: Any, *, flushed: bool = True) -> bool:
    """Make the fact `path` appear whole; a second writer changes nothing. Returns whether we were the first.

    `flushed=False` leaves it to `flush` to have it on disk, together with many others.
    """
    return name_once(_write_aside(path, fact_text(fact), flushed=flushed), path)


def flush(folder: Path) -> None:
    """Have all that was written to the file system of `folder` on its disk, at once: file by file takes ms each.

    Raises:
        OSError: it could not be written.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(handle):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(folder))
    finally:
        os.close(handle)


def fact_text(fact: Any) -> str:
    """What the file of a fact holds; of a list of objects, which may be thousands, a line has one."""
    content = plain(fact)
    if not (isinstance(content, dict) and any(map(_is_table, content.values()))):
        return json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    entries = (f" {json.dumps(key, ensure_ascii=False)}: {_entry_text(value)}" for key, value in content.items())
    return "{\n" + ",\n".join(entries) + "\n}\n"


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def _entry_text(value: Any) -> str:
    if not _is_table(value):
        return json.dumps(value, indent=1, ensure_ascii=False).replace("\n", "\n ")
    return "[\n" + ",\n".join(f"  {json.dumps(each, ensure_ascii=False)}" for each in value) + "\n ]"


def write_derived(path: Path, text: str, *, flushed: bool = True) -> None:
    """Replace the derived file `path` in one step; `flushed` as of `write_once`."""
    os.replace(_write_aside(path, text, flushed=flushed), path)  # noqa: PTH105 - a launch does this for each run


def append_line(path: Path, record: Plain) -> None:
    """Append one JSON line; a single write, so that a crash tears at most the last line, which then ends before it."""
    look_first()
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("ab+") as file:
            is_torn = file.seek(0, os.SEEK_END) and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n"
            file.write(b"\n" * bool(is_torn) + json.dumps(record, ensure_ascii=False).encode() + b"\n")
    except OSError as error:
        error.filename = str(path)  # a write does not say of what
        raise


def link(source: Path, target: Path) -> None:
    """A second name for a file that is never changed in place; a copy where the filesystem has no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def plain(fact: Any) -> Any:
    """A fact of whichever kind as the JSON object that its file holds; a mapping, or another JSON value, as it is."""
    if isinstance(fact, list | tuple):
        return [plain(each) for each in fact]
    if isinstance(fact, dict):
        return {key: plain(value) for key, value in fact.items()}
    if not is_dataclass(fact):
        return fact
    values = {each: getattr(fact, each.name) for each in fields(fact)}
    return {key.name: plain(value) for key, value in values.items() if value is not None or key.metadata != LEFT_OUT}


def _parsed(text: str) -> Any:
    """The JSON of a text.

    Raises:
        ValueError: it is none, or none to be used: too deep, or with half a pair of surrogates, which no file has.
    """
    try:
        content = json.loads(text)
        if "\\u" in text:
            json.dumps(content, ensure_ascii=False).encode()
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    return content


@overload
def read_fact(path: Path) -> Plain | None: ...
@overload
def read_fact(path: Path, kind: type[Kind]) -> Kind | None: ...
def read_fact(path: Path, kind: Any = dict) -> Any:
    """The fact at `path`, of this kind, or None where there is none; without a kind, the JSON object as it is.

    Raises:
        StoreError: the file is there and is not a JSON object (facts are never half written by us), lacks a key that
            such a fact has, or has another value there than can be.
        Unread: the system does not let it be read.
    """
    text = read_content(path)
    if text is None:
        return None
    if kind is not dict:
        with contextlib.suppress(msgspec.DecodeError, ValueError, RecursionError):  # found out below; NaN is right
            return msgspec.json.decode(text, type=kind)
    try:
        content = _parsed(text.decode())
    except ValueError as error:
        raise StoreError(f"{path}: not readable as JSON ({error}); {REMEDY}") from error
    if not isinstance(content, dict):
        raise StoreError(f"{path}: holds no JSON object; {REMEDY}")
    return typed(content, kind, path)


def typed(content: Plain, kind: type[Kind], path: Path) -> Kind:
    """A JSON object as a fact of this kind; keys that such a fact does not have are passed over.

    Raises:
        StoreError: names `path`, where it was read, and what it lacks or cannot have.
    """
    try:
        return msgspec.convert(content, kind)
    except msgspec.ValidationError as error:
        raise StoreError(f"{path}: {_fault(content, str(error))}; {REMEDY}") from error


def _fault(content: Plain, said: str) -> str:
    """What msgspec finds wrong, in our words: `lacks KEY`, or `KEY cannot be VALUE`; keys within others with a dot."""
    where = said.partition(" - at `$.")[2].rstrip("`")
    if lacking := re.search(r"missing required field `(.+?)`", said):
        return "lacks " + ".".join(filter(None, (where, lacking[1])))
    value: Any = content
    for key in re.findall(r"[^.\[\]]+", where.partition("[...]")[0]):
        value = value[int(key) if isinstance(value, list) else key]
    return f"{where} cannot be {json.dumps(value)[:40]}"


def tail(path: Path, size: int = TAIL_BYTES) -> bytes:
    """The last `size` bytes of a log, however long it is; its first line may be cut.

    Raises:
        FileNotFoundError: there is none.
        StoreError: it cannot be read.
    """
    with opened(path) as (handle, length):
        os.lseek(handle, max(0, length - size), os.SEEK_SET)
        return rest_of(handle, size)


def read_lines(path: Path) -> list[Plain]:
    """All whole lines of a log; a torn one is left out.

    Raises:
        StoreError: it cannot be read.
    """
    try:
        with opened(path) as (handle, size):
            text = rest_of(handle, size).decode(errors="replace")
    except FileNotFoundError:
        return []
    lines = []
    for line in text.split("\n"):  # splitlines() would also split at U+2028, which a text may hold
        with contextlib.suppress(ValueError):
            lines.append(_parsed(line))
    return [line for line in lines if isinstance(line, dict)]


@contextlib.contextmanager
def building(folder: Path, is_there: Callable[[Path], bool] = Path.is_dir) -> Iterator[Path | None]:
    """Build a folder once: yields a scratch folder to fill, or None where `folder` is there already.

    The lock makes others wait and then use it; a killed builder leaves only a scratch folder, which the next one
    removes. A folder that `is_there` does not take is replaced.

    Raises:
        StoreError: this process was asked to stop while it waited.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with turn(folder.with_name(f".{folder.name}.lock"), f"another process that makes {folder}"):
        for stale in folder.parent.glob(f".{glob.escape(folder.name)}.*"):  # of builders that were killed
            if stale.is_dir():
                shutil.rmtree(stale, ignore_errors=True)
        if is_there(folder):
            yield None
            return
        with _scratch(folder) as scratch:
            filled = scratch / folder.name
            filled.mkdir()
            with disk.asked_at_once(filled):
                yield filled
                rights.follow_umask(filled)
            if folder.is_dir():
                folder.rename(scratch / "before")
            _settle(filled, folder, is_there)


def _settle(filled: Path, folder: Path, is_there: Callable[[Path], bool]) -> None:
    """Give what was built its place, unless somebody else has built it meanwhile: a lease may be lost."""
    try:
        filled.replace(folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or not is_there(folder):
            raise


@contextlib.contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """A folder beside it, with the umask's rights, unlike `tempfile`'s: another user may remove a killed builder's."""
    scratch = folder.with_name(f".{folder.name}.{secrets.token_hex(6)}")
    scratch.mkdir()
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextlib.contextmanager
def whole_or_gone(folder: Path) -> Iterator[None]:
    """What is written into a folder within; where that fails the folder goes: a full disk then has room to say so."""
    try:
        with disk.asked_at_once(folder):
            yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def file_hash(path: Path) -> str:
    """The SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_key(value: Any, digits: int = 16) -> str:
    """The name of a cache entry that was made from `value`: the beginning of the hash of its JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:digits]
