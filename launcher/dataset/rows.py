"""The rows of a file, whatever its name says that it is: Parquet, Arrow, JSON lines or a JSON array, compressed or not.

Owns: what a file is, by its first bytes; every way in which it cannot be read, in one line.
Must not know: columns, what a sweep is, torch.

A file is read as its rows are asked for, so that a look at the first ones costs the same for a large file.
"""

from __future__ import annotations

import gzip
import importlib
import io
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from launcher.dataset.messages import bare_kind
from launcher.errors import UNSAID, ConfigError

Row = dict[str, Any]

FORMATS = "JSON lines, a JSON array of objects, or Parquet"
BATCH = 1000  # rows of a Parquet file at a time
HOLDERS = {"data", "rows", "examples", "instances", "records", "items"}  # of an object around the rows of a file
CHUNK = 2**20  # characters of a JSON array at a time
LONGEST = 2**27  # characters of one row, beyond which something is wrong
HEAD = 64  # bytes
GZIP, ZSTD, PARQUET = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PAR1"
ARROW_FILE, ARROW_STREAM = b"ARROW1", b"\xff\xff\xff\xff"  # the latter is what `save_to_disk` writes
# What else comes under the name of a data file: how it begins, what it is, and what to do.
FOREIGN = {
    b"version https://git-lfs": ("a pointer of Git LFS, not the file itself", "fetch it with git lfs pull"),
    b"PK\x03\x04": ("a zip archive", "unpack it"),
    b"BZh": ("compressed with bzip2", "unpack it with bunzip2"),
    b"\xfd7zXZ": ("compressed with xz", "unpack it with unxz"),
    b"SQLite": ("a database", f"export its rows as {FORMATS}"),
    b"\x89HDF": ("an HDF5 file", f"export its rows as {FORMATS}"),
}
NO_CHARACTER = re.compile("[\ud800-\udfff]")  # in text that was read with surrogateescape: bytes that are no text


class Unreadable(Exception):
    """What is wrong with the file, behind its name."""


def read_rows(file: Path, key: str = "dataset.path") -> Iterator[Row]:
    """The rows of a file, read as they are asked for; `key` is whose value has led to it.

    Raises:
        ConfigError: the file cannot be read: its name, the line, what it seems to be, and what to do.
    """
    try:
        yield from _rows(file)
    except Unreadable as error:
        raise ConfigError(key, UNSAID, f"{file}{error}") from error
    except OSError as error:
        raise ConfigError(key, UNSAID, f"{file} cannot be read ({error.strerror or error})") from error


def read_all(files: Iterable[Path], key: str = "dataset.path") -> Iterator[Row]:
    """The rows of several files, one file behind the other; see `read_rows`."""
    for file in files:
        yield from read_rows(file, key)


def _rows(file: Path) -> Iterator[Row]:
    with file.open("rb") as content:
        head = content.read(HEAD)
    if head.startswith(PARQUET):
        yield from _parquet_rows(file)
        return
    if head.startswith((ARROW_FILE, ARROW_STREAM)):
        yield from _arrow_rows(file, "open_file" if head.startswith(ARROW_FILE) else "open_stream")
        return
    try:
        with _unpacked(file, head) as content:
            head = content.peek(HEAD)[:HEAD]
            _check_kind(head)
            # Without a mark at the beginning, UTF-16 and UTF-32 are known by their zeros.
            encoding = json.detect_encoding(head[:4]) if head else "utf-8"
            loosely = "surrogateescape" if encoding.startswith("utf-8") else "strict"
            with io.TextIOWrapper(content, encoding, loosely) as text:
                yield from _json_rows(text)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise Unreadable(f" breaks off, or is damaged ({error}); fetch it again") from error
    except UnicodeError as error:
        raise Unreadable(f" is neither UTF-8 nor whole UTF-16 ({error}); write it as UTF-8") from error


def _unpacked(file: Path, head: bytes) -> io.BufferedReader:
    if head.startswith(GZIP):
        return io.BufferedReader(gzip.open(file))
    if head.startswith(ZSTD):
        return io.BufferedReader(_Zstd(file))
    return file.open("rb")


class _Zstd(io.RawIOBase):
    """A file that is compressed with zstd, as what it holds."""

    def __init__(self, file: Path) -> None:
        try:
            self.packed = importlib.import_module("zstandard")
        except ImportError as error:
            raise Unreadable(" is compressed with zstd; pip install zstandard, or unpack it with unzstd") from error
        self.content, self.left = file.open("rb"), b""
        self.frame: Any = None

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self.content.close()
        super().close()

    def readinto(self, target: Any) -> int:
        """The next bytes; an end within a frame is an error, which the library would not say."""
        while not self.left:
            packed = (self.frame.unused_data if self.frame and self.frame.eof else b"") or self.content.read(CHUNK)
            if not packed:
                if self.frame and not self.frame.eof:
                    raise EOFError("it ends within a frame")
                return 0
            if self.frame is None or self.frame.eof:
                self.frame = self.packed.ZstdDecompressor().decompressobj()
            try:
                self.left = self.frame.decompress(packed)
            except self.packed.ZstdError as error:
                raise EOFError(str(error)) from error
        size = min(len(target), len(self.left))
        target[:size], self.left = self.left[:size], self.left[size:]
        return size


def _check_kind(head: bytes) -> None:
    for beginning, (kind, remedy) in FOREIGN.items():
        if head.startswith(beginning):
            raise Unreadable(f" is {kind}; {remedy}")
    if head.startswith(PARQUET):
        raise Unreadable(" is a compressed Parquet file; unpack it, Parquet compresses by itself")


def _parquet_rows(file: Path) -> Iterator[Row]:
    parquet, arrow = importlib.import_module("pyarrow.parquet"), importlib.import_module("pyarrow")
    try:
        for batch in parquet.ParquetFile(file).iter_batches(BATCH):
            yield from map(without_nulls, batch.to_pylist())
    except arrow.ArrowException as error:
        said = str(error).strip().splitlines()[0]
        raise Unreadable(f" is a Parquet file that breaks off, or is damaged ({said}); fetch it again") from error


def _arrow_rows(file: Path, form: str) -> Iterator[Row]:
    """Of an Arrow file, or of a stream, as `save_to_disk` writes it."""
    arrow, ipc = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.ipc")
    try:
        with arrow.memory_map(str(file)) as content, getattr(ipc, form)(content) as reader:
            batches = (reader.get_batch(n) for n in range(reader.num_record_batches)) if form == "open_file" else reader
            for batch in batches:
                yield from map(without_nulls, batch.to_pylist())
    except (arrow.ArrowException, OSError) as error:
        said = str(error).strip().splitlines()[0]
        raise Unreadable(f" is an Arrow file that breaks off, or is damaged ({said}); fetch it again") from error


def without_nulls(value: Any) -> Any:
    """A row of a typed table without the nulls that its type has put into each mapping that lacks a key."""
    if isinstance(value, dict):
        return {key: without_nulls(inner) for key, inner in value.items() if inner is not None}
    return list(map(without_nulls, value)) if isinstance(value, list) else value


# ------------------------------------------------------------------------------------------------ JSON


def _json_rows(text: IO[str]) -> Iterator[Row]:
    """Of lines, or of an array, or of one object that holds the array."""
    objects = _objects(text)
    first, second = next(objects, None), next(objects, None)
    if first is not None and second is None:
        yield from _of_one_object(first)
        return
    yield from (row for row in (first, second) if row is not None)
    yield from objects


def _of_one_object(row: Row) -> list[Row]:
    """The rows that a file's only object holds, under a name that says so, beside what is no row; else itself."""
    held = [name for name, value in row.items() if isinstance(value, list | dict)]
    rows = row.get(held[0]) if len(held) == 1 and held[0].casefold() in HOLDERS else None
    if isinstance(rows, list) and rows and all(isinstance(each, dict) for each in rows):
        return rows
    if _is_columns(row):
        remedy = "write one object for each row, as to_json(orient='records', lines=True) of pandas does"
        raise Unreadable(f" holds columns ({{column: values}}: {', '.join(map(str, row))}), not rows; {remedy}")
    if rows is not None or (len(row) > 1 and HOLDERS & {name.casefold() for name in held}):
        names = ", ".join(map(str, row))
        raise Unreadable(f" is one object ({names}) around what may be its rows; give {FORMATS}, one object a row")
    return [row]


def _is_columns(row: Row) -> bool:
    """Whether an object's values are as long as one another, and hold a value for each row by its number."""
    values = list(row.values())
    if len(values) > 1 and all(isinstance(value, dict) and value for value in values):
        numbers = values[0].keys()
        return all(value.keys() == numbers for value in values) and all(number.isdigit() for number in numbers)
    is_lists = len(values) > 1 and all(isinstance(value, list) and value for value in values)
    return is_lists and len({len(value) for value in values}) == 1 and not all(_are_messages(value) for value in values)


def _are_messages(values: list[Any]) -> bool:
    return all(isinstance(each, dict) for each in values)


def _objects(text: IO[str]) -> Iterator[Row]:
    """Of lines, or of an array; an object that is spread over several lines is one too."""
    number, first = _first_line(text)
    if first.lstrip()[:1] not in ("{", "["):
        yield from _refused_line(number, first)
    elif first.lstrip()[0] == "{" and _parsed(first) is not None:
        yield from _rows_of_lines(number, first, text)
    else:
        yield from _rows_of_values(number, first, text)


def _first_line(text: IO[str]) -> tuple[int, str]:
    """The first line with something in it, and its number; a part of it where the whole file is one line."""
    number = 1
    while line := text.readline(CHUNK):
        if line.strip():
            if line.lstrip()[:1] == "{":
                while not line.endswith("\n") and len(line) < LONGEST and (more := text.readline(CHUNK)):
                    line += more
            return number, line
        number += line.endswith("\n")
    return number, ""


def _refused_line(number: int, line: str) -> Iterator[Row]:
    if not line.strip():
        return
    _check_characters(number, line)
    beginning = line.strip()[:40]
    kind = "a web page" if beginning.startswith("<") else "CSV or other text"
    if _parsed(line) is not None:
        kind = "JSON, but no object"
    raise Unreadable(f", line {number}: seems to be {kind} ({beginning!r}); give {FORMATS}")
    yield


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _rows_of_lines(number: int, line: str, text: IO[str]) -> Iterator[Row]:
    while line:
        if line.strip():
            _check_characters(number, line)
            try:
                row = json.loads(line.lstrip("\ufeff"))  # where files were put together, each with its mark
            except (ValueError, RecursionError) as error:
                raise Unreadable(f", line {number}: not JSON ({_shortly(error)}); give one object a line") from error
            yield _object(row, f", line {number}")
        number, line = number + 1, text.readline()


def _rows_of_values(line: int, read: str, text: IO[str]) -> Iterator[Row]:
    """The objects of an array, or objects behind one another; `read` is what has been read of `text` from that line."""
    decoder, is_array = json.JSONDecoder(), read.lstrip()[0] == "["
    buffer, place, size = read, read.index("[") + 1 if is_array else 0, CHUNK
    while True:
        begin = _next_value(buffer, place)
        line, place = line + buffer.count("\n", place, begin), begin
        if is_array and buffer[place : place + 1] == "]":
            _check_end(line, buffer[place + 1 :] + text.read(CHUNK))
            return
        try:
            row, end = decoder.raw_decode(buffer, place)
        except (ValueError, RecursionError) as error:
            more = text.read(size) if len(buffer) - place < LONGEST else ""
            if not more and place == len(buffer) and not is_array:
                return
            if not more:
                line += buffer.count("\n", place, getattr(error, "pos", place))
                raise Unreadable(f", line {line}: not JSON ({_shortly(error)}); give {FORMATS}") from error
            buffer, place, size = buffer[place:] + more, 0, 2 * size
            continue
        _check_characters(line, buffer[place:end])
        yield _object(row, f", line {line}")
        line, place, size = line + buffer.count("\n", place, end), end, CHUNK


def _check_end(line: int, rest: str) -> None:
    if rest.strip():
        raise Unreadable(f", line {line}: goes on behind the end of its array ({rest.strip()[:40]!r}); give one array")


def _next_value(buffer: str, place: int) -> int:
    """Behind what stands between two values, and the mark of a file that was put behind another."""
    while place < len(buffer) and buffer[place] in " \t\r\n,\ufeff":
        place += 1
    return place


def _object(row: Any, where: str) -> Row:
    if not isinstance(row, dict):
        raise Unreadable(f"{where}: {bare_kind(row)} where a row should be; each row is an object {{column: value}}")
    return row


def _shortly(error: Exception) -> str:
    return f"{getattr(error, 'msg', error)}"


def _check_characters(line: int, text: str) -> None:
    if not text.isascii() and (found := NO_CHARACTER.search(text)):
        byte = ord(found[0]) & 0xFF
        raise Unreadable(
            f", line {line}: not UTF-8 (byte 0x{byte:02x}), perhaps Latin-1; "
            "write it as UTF-8 (iconv -f WINDOWS-1252 -t UTF-8)"
        )
