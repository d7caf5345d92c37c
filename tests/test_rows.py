"""launcher.dataset.rows: files as people have them, read alike by the launcher and the job, or refused in one line."""

from __future__ import annotations

import gzip
import json
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from launcher.config import Dataset
from launcher.dataset.local_files import local_files
from launcher.dataset.rows import read_rows
from launcher.errors import ConfigError
from launcher.store.output_folder import Store
from launcher.worker.dataset.pairs import load_pairs

ROWS = [{"prompt": f"Q{n}", "chosen": f" g\u00fct {n}\u2028", "rejected": " b\U0001f600"} for n in range(3)]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
FILES = {
    "lines.jsonl": LINES.encode(),
    "lines.json": LINES.encode(),
    "no-end.jsonl": LINES.rstrip("\n").encode(),
    "windows.jsonl": LINES.replace("\n", "\r\n").encode(),
    "blank.jsonl": ("\n \n" + LINES.replace("\n", "\n\n")).encode(),
    "mark.jsonl": b"\xef\xbb\xbf" + LINES.encode(),
    "marks.jsonl": b"".join(b"\xef\xbb\xbf" + json.dumps(row).encode() + b"\n" for row in ROWS),
    "array.json": json.dumps(ROWS).encode(),
    "array.jsonl": json.dumps(ROWS).encode(),
    "pretty.json": json.dumps(ROWS, indent=2, ensure_ascii=False).encode(),
    "marked-array.json": b"\xef\xbb\xbf" + json.dumps(ROWS).encode(),
    "pretty-objects.json": "\n".join(json.dumps(row, indent=1) for row in ROWS).encode(),
    "utf-16.jsonl": LINES.encode("utf-16"),
    "utf-16-without-mark.jsonl": LINES.encode("utf-16-le"),
    "utf-16.json": json.dumps(ROWS, indent=1).encode("utf-16"),
    "utf-32.jsonl": LINES.encode("utf-32"),
    "lines.jsonl.gz": gzip.compress(LINES.encode()),
    "array.json.gz": gzip.compress(json.dumps(ROWS).encode()),
    "packed.jsonl": gzip.compress(LINES.encode()),
    "two-frames.jsonl.gz": gzip.compress(LINES.encode()[:50]) + gzip.compress(LINES.encode()[50:]),
}


@pytest.mark.parametrize("name", FILES)
def test_every_form_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    """What a file holds decides how it is read, not what it is called."""
    (tmp_path / name).write_bytes(FILES[name])
    assert list(read_rows(tmp_path / name)) == ROWS


@pytest.mark.parametrize("name", ["lines.jsonl", "array.json", "lines.jsonl.gz", "array.json.gz"])
def test_a_split_is_found_by_its_name(tmp_path: Path, store: Store, name: str) -> None:
    """As a plain file as well as a compressed one, by the job as by the plan."""
    dataset = Dataset(name="d", path=str(tmp_path))
    for split in ("train", "test"):
        file = tmp_path / f"{split}.{name.partition('.')[2]}"
        file.write_bytes(FILES[name])
        assert local_files(dataset, f"{split}_split") == [file]
    assert load_pairs(dataset, store)[0].to_list() == ROWS


def test_parquet_is_known_by_its_first_bytes(tmp_path: Path) -> None:
    """Whatever its name; nulls that its type has put into a mapping are not there."""
    calls: list[dict[str, Any]] = [{"a": {"x": 1}}, {"a": {"y": [{"z": "2"}]}}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(calls), tmp_path / "train.jsonl")
    assert list(read_rows(tmp_path / "train.jsonl")) == calls


NOT_READ = {
    "latin.jsonl": ('{"a": "g\u00fct"}'.encode("latin-1"), "line 1: not UTF-8 (byte 0xfc), perhaps Latin-1; write it"),
    "cut.jsonl.gz": (gzip.compress(LINES.encode() * 99)[:-30], "breaks off, or is damaged"),
    "odd.jsonl": (LINES.encode("utf-16")[:-1], "neither UTF-8 nor whole UTF-16"),
    "list.jsonl": (b'{"a": 1}\n\n[1]\n', "line 3: a list where a row should be"),
    "text.jsonl": (b'"a"\n', "line 1: seems to be JSON, but no object"),
    "three.json": (b"3", "line 1: seems to be JSON, but no object"),
    "number.json": (b'[{"a": 1},\n 3]', "line 2: a number where a row should be"),
    "torn.jsonl": (LINES.encode() + b'{"prompt": "Q', "line 4: not JSON (Unterminated string starting at); give"),
    "torn.json": (b'[{"a": 1},\n{"a": ', "line 2: not JSON"),
    "two.json": (b'[{"a": 1}]\n[{"a": 2}]', "line 1: goes on behind the end of its array"),
    "python.jsonl": (b"{'a': 'b'}\n", "line 1: not JSON"),
    "table.jsonl": (b"prompt,chosen\nQ,a\n", "line 1: seems to be CSV or other text ('prompt,chosen'); give"),
    "page.json": (b"<!DOCTYPE html>\n<html>", "line 1: seems to be a web page"),
    "pointer.jsonl": (b"version https://git-lfs.github.com/spec/v1\n", "is a pointer of Git LFS, not the file"),
    "archive.jsonl": (b"PK\x03\x04zip", "is a zip archive; unpack it"),
    "cut.parquet": (b"PAR1" + bytes(99), "is a Parquet file that breaks off"),
    "deep.json": (b"[" * 10**5, "line 1: not JSON"),
}  # fmt: skip


@pytest.mark.parametrize("name", NOT_READ)
def test_what_cannot_be_read_is_one_line(tmp_path: Path, name: str) -> None:
    """It names the key, the file, the line, what it seems to be and what to do."""
    content, words = NOT_READ[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError) as refusal:
        list(read_rows(tmp_path / name))
    assert str(refusal.value).startswith(f"dataset.path: {tmp_path / name}")
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_folder_in_the_place_of_a_file_is_one_line(tmp_path: Path) -> None:
    """As whatever else the system says."""
    with pytest.raises(ConfigError, match="cannot be read"):
        list(read_rows(tmp_path))


ZSTD = bytes.fromhex("28b52ffd2005290000") + b"{}\n\n\n"


def test_zstd_needs_its_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it one line says how; with it rows are read, also of several frames, and a cut frame is refused."""
    file = tmp_path / "train.jsonl.zst"
    file.write_bytes(ZSTD)
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "zstandard", None)
        with pytest.raises(
            ConfigError, match="is compressed with zstd; pip install zstandard, or unpack it with unzstd"
        ):
            list(read_rows(file))
    import zstandard

    whole = b"".join(zstandard.ZstdCompressor().compress(part) for part in (LINES.encode()[:70], LINES.encode()[70:]))
    file.write_bytes(whole)
    assert list(read_rows(file)) == ROWS
    file.write_bytes(whole[:-4])
    with pytest.raises(ConfigError, match="breaks off, or is damaged"):
        list(read_rows(file))


@pytest.mark.parametrize("name", ["array.json", "lines.jsonl"])
def test_the_first_rows_of_a_large_file_cost_little(tmp_path: Path, name: str) -> None:
    """Rows come as they are asked for: what is wrong far behind them is not met."""
    rows = [ROWS[0]] * 20_000
    text = json.dumps(rows) if name == "array.json" else "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / name).write_text(text[:-1] + "{")
    assert len(list(islice(read_rows(tmp_path / name), 10_000))) == 10_000


@pytest.mark.parametrize("held", [{"data": ROWS}, {"version": "1.0", "data": ROWS}, {"Rows": ROWS[:1]}])
@pytest.mark.parametrize("indent", [None, 1])
def test_an_object_around_the_rows_is_opened(tmp_path: Path, held: dict[str, Any], indent: int | None) -> None:
    """Whatever says what they are beside them; one row alone stays a row."""
    file = tmp_path / "train.json"
    file.write_text(json.dumps(held, indent=indent))
    assert list(read_rows(file)) == list(held.values())[-1]
    turns = {"prompt": [{"role": "user", "content": "Q"}], "chosen": [{"role": "assistant", "content": "A"}]}
    for row in (ROWS[0], turns, {"messages": ROWS}):
        file.write_text(json.dumps(row, indent=indent))
        assert list(read_rows(file)) == [row]


@pytest.mark.parametrize(
    ("held", "words"),
    [
        ({"prompt": ["Q", "R"], "chosen": ["a", "b"]}, "holds columns ({column: values}: prompt, chosen), not rows"),
        ({"prompt": {"0": "Q", "1": "R"}, "chosen": {"0": "a", "1": "b"}}, "as to_json(orient='records', lines=True)"),
        ({"data": [[1, 2]], "columns": ["a", "b"], "index": [0]}, "is one object (data, columns, index) around"),
    ],
)
def test_columns_are_refused_as_what_they_are(tmp_path: Path, held: dict[str, Any], words: str) -> None:
    """In one line, with the remedy."""
    file = tmp_path / "train.json"
    file.write_text(json.dumps(held))
    with pytest.raises(ConfigError) as refusal:
        list(read_rows(file))
    assert words in str(refusal.value)
