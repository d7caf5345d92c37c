"""Rows that are prepared once: filtered, in order, as token ids, for every rank and every run that has the same.

Owns: all that they depend on, their cache entry and its checks.
Must not know: how rows become token ids, reference values.

    <cache>/rows/<key>/train.arrow, test.arrow    the rows, each with its hash; mapped into memory, so that the ranks of
                                                  a node share its pages
                      /rows.json                  what is to be known of them, and the files' hashes

Of several ranks rank 0 makes or checks the entry, and the others read it. One that is torn or damaged is made again.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import shutil
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path

import numpy
import pyarrow
from datasets import Dataset

from launcher.config import RunConfig
from launcher.dataset.inputs import content_of, inputs_of
from launcher.errors import StoreError
from launcher.losses import loss_named
from launcher.store.counts import RowsManifest
from launcher.store.entries import making
from launcher.store.files import Plain, content_key, file_hash, read_fact, write_once
from launcher.store.hashes import Hashes
from launcher.store.locks import held
from launcher.store.output_folder import Store
from launcher.worker.dataset import pairs as of_pairs
from launcher.worker.dataset import reading, unpaired, weak_rejects
from launcher.worker.dataset.pairs import IDS, Pairs
from launcher.worker.distributed import ranks
from launcher.worker.model import base_model

LOG = logging.getLogger(__name__)
TOLD = logging.getLogger("launcher.data")  # what the makers of rows tell of them: again, to each run that has these
CODE = ("dataset", "worker/dataset", "worker/model")  # below launcher/: what makes rows, in any of its versions
LIBRARIES = ("trl", "transformers", "tokenizers", "datasets")
SPLITS = ("train", "test")
ROW = "row"
ROWS_AT_ONCE = 1000  # in a batch of the file


def prepared(config: RunConfig, store: Store) -> Pairs:
    """The run's rows as token ids, made by whoever is first.

    Raises:
        ConfigError: the data are not there, or none of them can be used.
    """
    folder, is_new = ranks.first(lambda: _ensure(config, store))
    return _read(Path(folder), told=is_new and ranks.is_first())


def entry(config: RunConfig, store: Store) -> Path:
    """Where the rows lie, be they there or not."""
    return store.cache("rows", content_key(_made_from(config, store)))


def _ensure(config: RunConfig, store: Store) -> tuple[str, bool]:
    """Where they are, and whether they were made just now."""
    folder = entry(config, store)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with held(folder.with_name(f".{folder.name}.check.lock")):  # only its holder may throw damaged rows away
        if (fault := _fault(folder)) is not None:
            LOG.warning("%s: %s; making it again", folder, fault)
            shutil.rmtree(folder)
        with making(folder) as empty:
            if empty is not None:
                _write(empty, config, store)
    return str(folder), empty is not None


def _fault(folder: Path) -> str | None:
    """What is wrong with the files of an entry; one that lacks some is seen by `making`."""
    try:
        manifest = read_fact(folder / "rows.json", RowsManifest)
        files = {} if manifest is None else manifest.files
        damaged = [name for name, digest in files.items() if file_hash(folder / name) != digest]
    except FileNotFoundError:
        return None
    except (StoreError, OSError) as error:
        return str(error)
    return f"{', '.join(damaged)}: not as written" if damaged else None


def _made_from(config: RunConfig, store: Store) -> Plain:
    """All that changes a row, its place or what is told of it."""
    order = None if loss_named(config.loss_type).paired else [config.seed, config.trainer.micro_batch_size]
    return {**text_identity(config, store), "max_length": config.trainer.max_length, "order": order}


def text_identity(config: RunConfig, store: Store) -> Plain:
    """All that changes the text of a data set as a model is shown it; the weights are among the model's files."""
    known, dataset = Hashes(store), config.dataset
    of_data = {key: files for key, files in content_of(inputs_of(config, known)).items() if key.startswith("dataset")}
    known.keep()
    return {
        "code": _code(),
        "libraries": {name: version(name) for name in LIBRARIES},
        "model": [config.model.name, base_model.fingerprint(config.model, store)],
        "dataset": {key: value for key, value in asdict(dataset).items() if key != "about"},
        "files": of_data,
        "commits": reading.hub_commits(dataset, store),
        "weaker": None if dataset.weak_rejects is None else weak_rejects.settings_of(dataset.weak_rejects, store),
    }


@cache
def _code() -> str:
    """The hash of the code that makes rows: after a change of it none made before count."""
    launcher = Path(__file__).parents[2]
    digest = hashlib.sha256()
    for file in sorted(file for folder in CODE for file in (launcher / folder).glob("*.py")):
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def _write(folder: Path, config: RunConfig, store: Store) -> None:
    make = of_pairs.tokenise if loss_named(config.loss_type).paired else unpaired.tokenise
    with _noting() as notes:
        pairs = make(config, store)
    for name, rows in zip(SPLITS, (pairs.train, pairs.test), strict=True):
        table = rows.with_format("arrow")[:]
        table = table.append_column(ROW, pyarrow.array([row_of(row) for row in rows], pyarrow.string()))
        with (
            pyarrow.OSFile(str(folder / f"{name}.arrow"), "wb") as file,
            pyarrow.ipc.new_stream(file, table.schema) as to,
        ):
            to.write_table(table.combine_chunks(), ROWS_AT_ONCE)
    files = {path.name: file_hash(path) for path in sorted(folder.glob("*.arrow"))}
    told = (pairs.counts, pairs.dropped, pairs.repeated, pairs.leaked)
    write_once(folder / "rows.json", RowsManifest(*told, notes, files))


@contextlib.contextmanager
def _noting() -> Iterator[list[str]]:
    """What is told of the rows meanwhile."""
    notes: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: notes.append(record.getMessage())  # type: ignore[method-assign]
    TOLD.addHandler(handler)
    try:
        yield notes
    finally:
        TOLD.removeHandler(handler)


def _read(folder: Path, *, told: bool) -> Pairs:
    manifest = read_fact(folder / "rows.json", RowsManifest)
    if manifest is None:
        raise StoreError(f"{folder / 'rows.json'}: is gone, just after it was looked at; launch the run again")
    for note in () if told else manifest.notes:
        TOLD.warning("%s", note)
    train, test = (_mapped(folder / f"{name}.arrow") for name in SPLITS)
    return Pairs(
        train=Dataset(train.drop_columns([ROW])),
        test=Dataset(test.drop_columns([ROW])),
        counts=manifest.counts,
        dropped=manifest.dropped,
        repeated=manifest.repeated,
        leaked=manifest.leaked,
        rows=(train[ROW].to_pylist(), test[ROW].to_pylist()),
    )


def _mapped(file: Path) -> pyarrow.Table:
    """A table whose columns stay in the file, which the ranks of a node share."""
    with pyarrow.memory_map(str(file)) as source:
        return pyarrow.ipc.open_stream(source).read_all()


# ------------------------------------------------------------------------------------------------ of rows


def row_of(pair: dict[str, list[int]]) -> str:
    """The hash of a pair's token ids."""
    digest = hashlib.sha256()
    for name in IDS:
        ids = numpy.asarray(pair[name], dtype="<i8")
        digest.update(len(ids).to_bytes(8, "little") + ids.tobytes())
    return digest.hexdigest()[:32]


def with_rows(pairs: Pairs) -> Pairs:
    """The pairs with the hash of each, also where they were made just now."""
    if pairs.rows is not None:
        return pairs
    return replace(pairs, rows=([row_of(pair) for pair in pairs.train], [row_of(pair) for pair in pairs.test]))


def highest_id(pairs: Pairs) -> int:
    """The largest token id that stands in a pair."""
    tables = [split.with_format("arrow")[:] for split in (pairs.train, pairs.test)]
    columns = [table[name].combine_chunks().flatten() for table in tables for name in IDS]
    return max((int(numpy.max(ids)) for ids in columns if len(ids)), default=0)
