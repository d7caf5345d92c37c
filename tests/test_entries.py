"""What a scratch disk has purged: every kind of cache entry is noticed that lacks a file, and made again."""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path

import pytest
from conftest import sweep_of
from fakes import FakeScheduler, submit
from worker_fixtures import ARCHITECTURE, Configure

from launcher.cluster.job_state import Phase
from launcher.config import Model
from launcher.dataset import three_actions
from launcher.machine import snapshot
from launcher.store import entries
from launcher.store.entries import LIST, is_whole, lost_files, making
from launcher.store.facts import Prepared
from launcher.store.files import fact_text, write_derived
from launcher.store.output_folder import Store
from launcher.submission.reference_job import lost_tables

GRID = ("loss_type=sigmoid,ipo", "beta=0.1,0.2,0.3", "model=tiny")


def _make(folder: Path) -> bool:
    with making(folder) as empty:
        if empty is not None:
            (empty / "sub").mkdir()
            (empty / "sub" / "b").write_text("two")
            (empty / "a").write_text("one")
        return empty is not None


def _spoil(folder: Path, how: str) -> None:
    match how:
        case "gone":
            (folder / "sub" / "b").unlink()
        case "shorter":
            (folder / "a").write_text("o")
        case "changed":
            (folder / "sub" / "b").write_text("TWO")
        case "restored":  # with its time
            was = (folder / "a").stat()
            (folder / "a").unlink()
            (folder / "a").write_text("ONE")
            os.utime(folder / "a", ns=(was.st_atime_ns, was.st_mtime_ns))
        case "list":
            (folder / LIST).unlink()
        case "torn list":
            (folder / LIST).write_text('{"files"')


@pytest.mark.parametrize("how", ["gone", "shorter", "changed", "restored", "list", "torn list"])
def test_an_entry_that_lost_a_file_is_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture, how: str) -> None:
    """Or whose file holds something else, or that does not say which it had; one that is whole is used."""
    folder = tmp_path / "kind" / "key"
    assert [_make(folder), _make(folder)] == [True, False]
    _spoil(folder, how)
    assert not is_whole(folder)
    with caplog.at_level(logging.WARNING):
        assert [_make(folder), _make(folder)] == [True, False]
    assert f"{folder} " in caplog.text
    assert "making it again" in caplog.text
    assert (folder / "sub" / "b").read_text() == "two"
    assert is_whole(folder)
    assert [path.name for path in folder.parent.iterdir() if path.is_dir()] == ["key"]


def test_a_copy_of_an_entry_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its files are others, and hold the same; a file that nobody has touched is not read."""
    _make(folder := tmp_path / "entry")
    shutil.copytree(folder, tmp_path / "copy", copy_function=shutil.copy)
    assert is_whole(tmp_path / "copy")
    read: list[str] = []
    monkeypatch.setattr(entries, "checksums", lambda _folder, names: read.extend(names) or {})
    assert is_whole(folder)
    assert read == []


def test_an_entry_of_an_older_version_is_known_by_its_sizes(tmp_path: Path) -> None:
    """It has no checksums."""
    _make(folder := tmp_path / "entry")
    sizes = json.loads((folder / LIST).read_text())["files"]
    (folder / LIST).write_text(json.dumps({"files": sizes}))
    (folder / "a").write_text("ONE")
    assert is_whole(folder)
    (folder / "a").write_text("o")
    assert lost_files(folder) == ["a"]


def test_what_came_later_is_no_fault(tmp_path: Path) -> None:
    """A lock or a copy that a library puts beside the files; what was lost is named."""
    _make(folder := tmp_path / "entry")
    (folder / ".lock").write_text("")
    assert (is_whole(folder), lost_files(folder)) == (True, [])
    (folder / "a").unlink()
    assert lost_files(folder) == ["a"]


def test_a_builders_pairs_are_made_again(store: Store) -> None:
    """Half of them are not pairs."""
    folder = three_actions.ensure_pairs(store)
    (folder / "test.jsonl").unlink()
    assert three_actions.ensure_pairs(store) == folder
    assert (folder / "test.jsonl").is_file()


def test_a_copy_of_the_code_is_mended(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What jobs in the queue are to run is put back, in the same folder."""
    code = snapshot.take(tmp_path)
    before = (code / "launcher" / "__main__.py").read_bytes()
    (code / "launcher" / "__main__.py").unlink()
    (code / "launcher" / "errors.py").write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        assert snapshot.take(tmp_path) == code
    assert "has lost 2 of its files" in caplog.text
    assert (code / "launcher" / "__main__.py").read_bytes() == before
    assert (code / "launcher" / "errors.py").stat().st_size > 0


def test_a_table_that_was_purged_is_made_by_a_job_again(store: Store) -> None:
    """Though `done.json` says that it was made; the plan says what is gone. While it is whole nobody waits for one."""
    scheduler = FakeScheduler()
    submit(sweep_of(*GRID), store, scheduler, [])
    _make(store.cache("reference", "abc"))
    done = scheduler.tables[0].folder.parent / "done.json"
    write_derived(done, fact_text(Prepared(1.0, ["reference/abc"])))
    more = sweep_of(*GRID[:1], "beta=0.7,0.8", "model=tiny")
    assert lost_tables(more, store) == []
    submit(more, store, scheduler, [])
    assert len(scheduler.tables) == 1
    scheduler.end(scheduler.jobs[scheduler.tables[0].name][0].job_id, Phase.COMPLETED)
    (store.cache("reference", "abc") / "a").unlink()
    more = sweep_of(*GRID[:1], "beta=0.9,1.0", "model=tiny")
    (line,) = lost_tables(more, store)
    assert line == f"{store.cache('reference', 'abc')}: was made, and has lost a; it is made again"
    submit(more, store, scheduler, [])
    assert len(scheduler.tables) == 2


def test_a_model_that_was_made_here_is_made_again(store: Store) -> None:
    """Without its weights, or with half of them, it is no model."""
    from launcher.worker.model import base_model

    model = Model(name="tiny", architecture=dict(ARCHITECTURE), dtype="float32")
    folder = Path(base_model.ensure_base(model, store))
    before = (folder / "model.safetensors").read_bytes()
    for spoilt in (b"", before[:-1]):
        (folder / "model.safetensors").write_bytes(spoilt)
        assert base_model.ensure_base(model, store) == str(folder)
        assert (folder / "model.safetensors").read_bytes() == before
    (folder / "tokenizer.json").unlink()
    base_model.ensure_tokenizer(model, store)
    assert (folder / "tokenizer.json").is_file()


def test_a_table_and_token_ids_are_made_again(configure: Configure, store: Store) -> None:
    """Both are entries of the cache; a job notes which of them stand behind its table."""
    from launcher.worker.training import reference_table

    config = configure()
    values = list(reference_table.prepare(config, store).train["ref_chosen_logps"])
    entries = reference_table.entries_of(config, store)
    assert [name.partition("/")[0] for name in entries] == ["reference", "models"]
    assert all(is_whole(store.root / "cache" / name) for name in entries)
    tokens = list((store.root / "cache" / "tokens").glob("*/rows.parquet"))
    assert tokens
    for file in (store.root / "cache" / entries[0] / "table.parquet", *tokens):
        file.unlink()
        shutil.rmtree(store.root / "cache" / "rows")  # which need neither while they are whole themselves
        reference_table.forget_prepared()
        assert list(reference_table.prepare(config, store).train["ref_chosen_logps"]) == values
        assert file.is_file()
