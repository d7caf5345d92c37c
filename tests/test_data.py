"""launcher.worker.data: pairs from files and folders, their columns, their token ids."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from worker_fixtures import Configure, write_pairs

from launcher.config import ConfigError, Dataset
from launcher.store import Store
from launcher.worker import data, models
from launcher.worker.data import collator, load_pairs, tokenised

PAIR = {"prompt": "Q", "chosen": " yes", "rejected": " no"}
USER, YES, NO = ({"role": r, "content": c} for r, c in (("user", "Q"), ("assistant", "yes"), ("assistant", "no")))


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def folder_of(tmp_path: Path, rows: list[dict[str, Any]]) -> Dataset:
    write(tmp_path / "train.jsonl", rows)
    write(tmp_path / "test.jsonl", rows)
    return Dataset(name="d", path=str(tmp_path))


def test_a_folder_holds_a_file_for_each_split(tmp_path: Path, store: Store) -> None:
    """jsonl, json and parquet are read alike, under the splits' own names."""
    write(tmp_path / "a.jsonl", [PAIR, PAIR])
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([PAIR]), tmp_path / "b.parquet")
    train, test = load_pairs(Dataset(name="d", path=str(tmp_path), train_split="a", test_split="b"), store)
    assert (len(train), len(test), train[0], test[0]) == (2, 1, PAIR, PAIR)
    (tmp_path / "c.json").write_text(json.dumps([PAIR]))
    assert load_pairs(Dataset(name="d", path=str(tmp_path), train_split="c", test_split="b"), store)[0][0] == PAIR


def test_limits_take_the_first_pairs(tmp_path: Path, store: Store) -> None:
    """train_pairs and test_pairs keep the order of the split; a limit above its size is no error."""
    rows = [PAIR | {"prompt": str(number)} for number in range(5)]
    dataset = folder_of(tmp_path, rows)
    dataset.train_pairs, dataset.test_pairs = 3, 99
    train, test = load_pairs(dataset, store)
    assert train["prompt"][:] == ["0", "1", "2"]
    assert len(test) == 5


def test_a_single_file_is_divided(tmp_path: Path, store: Store) -> None:
    """The last test_pairs rows of a file are held out, and only they."""
    rows = [PAIR | {"prompt": str(number)} for number in range(10)]
    path = write(tmp_path / "all.jsonl", rows)
    train, test = load_pairs(Dataset(name="d", path=str(path), test_pairs=3), store)
    assert train["prompt"][:] + test["prompt"][:] == [str(number) for number in range(10)]
    assert len(test) == 3
    with pytest.raises(ConfigError, match=r"dataset\.test_pairs=10: the file has only 10 pairs"):
        load_pairs(Dataset(name="d", path=str(path), test_pairs=10), store)


def test_columns_are_renamed(tmp_path: Path, store: Store) -> None:
    """dataset.columns maps our names to theirs, and other columns are left out."""
    dataset = folder_of(tmp_path, [{"question": "Q", "good": " yes", "bad": " no", "score": 3}])
    dataset.columns = {"prompt": "question", "chosen": "good", "rejected": "bad"}
    assert load_pairs(dataset, store)[0][0] == PAIR


def test_missing_columns_name_those_that_were_found(tmp_path: Path, store: Store) -> None:
    """The error says which column is missing and which there are."""
    with pytest.raises(ConfigError, match="dataset d: no column prompt, rejected; found chosen, worse"):
        load_pairs(folder_of(tmp_path, [{"chosen": "a", "worse": "b"}]), store)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": [USER], "chosen": [YES], "rejected": [NO]},
        {"prompt": "Q", "chosen": [USER, YES], "rejected": [USER, NO]},
        {"chosen": [USER, YES], "rejected": [USER, NO]},
        {"prompt": "Q", "chosen": [YES], "rejected": [NO]},
    ],
)
def test_conversations_come_out_with_the_prompt_apart(tmp_path: Path, store: Store, row: dict[str, Any]) -> None:
    """Every common way of writing a conversation pair gives the same three lists of messages."""
    found = load_pairs(folder_of(tmp_path, [row]), store)[0][0]
    assert found == {"prompt": [USER], "chosen": [YES], "rejected": [NO]}


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (Dataset(name="d"), r"dataset\.path: neither a path nor a builder"),
        (Dataset(name="d", path="./nowhere"), r"dataset\.path=\./nowhere: there is no such folder or file"),
        (Dataset(name="d", builder="poems"), r"dataset\.builder=poems: unknown; there is movie_reviews"),
    ],
)
def test_a_data_set_that_is_not_there(store: Store, dataset: Dataset, message: str) -> None:
    """The error names the key and the value."""
    with pytest.raises(ConfigError, match=message):
        load_pairs(dataset, store)


def test_a_missing_split_names_the_files_that_there_are(tmp_path: Path, store: Store) -> None:
    """A folder with other files is described."""
    write(tmp_path / "train.jsonl", [PAIR])
    with pytest.raises(ConfigError, match=r"dataset\.test_split=test: no test\.jsonl.*found train\.jsonl"):
        load_pairs(Dataset(name="d", path=str(tmp_path)), store)


def test_a_broken_or_empty_file_is_named(tmp_path: Path, store: Store) -> None:
    """Half a line of JSON, or no line at all, is an error with the file's or the split's name."""
    dataset = folder_of(tmp_path, [PAIR])
    (tmp_path / "train.jsonl").write_text('{"prompt": ')
    with pytest.raises(ConfigError, match=r"train\.jsonl is not readable as jsonl"):
        load_pairs(dataset, store)
    (tmp_path / "train.jsonl").write_text("")
    with pytest.raises(ConfigError, match=r"train_split: .* holds no pairs there"):
        load_pairs(dataset, store)


def test_token_ids_are_the_texts_with_an_end_token(configure: Configure, store: Store) -> None:
    """Prompt and completion decode to what was written, and the completion ends with the model's end token."""
    config = configure()
    pairs, tokens = tokenised(config, store), models.tokenizer(config.model, store)
    text = load_pairs(config.dataset, store)[0][0]
    assert tokens.decode(pairs.train[0]["prompt_ids"]) == text["prompt"]
    assert tokens.decode(pairs.train[0]["rejected_ids"]) == text["rejected"] + tokens.eos_token
    assert pairs.dropped == 0


def test_pairs_whose_prompt_fills_max_length_are_dropped_and_counted(
    configure: Configure, store: Store, tmp_path: Path
) -> None:
    """A prompt of max_length tokens leaves nothing to learn from; one that is a token shorter stays."""
    rows = [PAIR | {"prompt": "p" * length} for length in (9, 10, 11)]
    config = configure(dataset=folder_of(tmp_path, rows), trainer__max_length=10)
    pairs = tokenised(config, store)
    assert (len(pairs.train), len(pairs.test), pairs.dropped) == (1, 1, 2)


def test_no_pair_left_is_an_error_with_the_lengths(configure: Configure, store: Store, tmp_path: Path) -> None:
    """It names max_length and the shortest prompt's length in tokens."""
    rows = [PAIR | {"prompt": "p" * length} for length in (12, 14)]
    config = configure(dataset=folder_of(tmp_path, rows), trainer__max_length=10)
    with pytest.raises(ConfigError, match=r"trainer\.max_length=10: every prompt fills it; the shortest has 12 tokens"):
        tokenised(config, store)


def test_batches_are_cut_at_max_length(configure: Configure, store: Store) -> None:
    """Long answers lose their end, the prompt stays."""
    config = configure(trainer__max_length=12)
    batch = collator(config, store)([tokenised(config, store).train[0]])
    assert batch["input_ids"].shape == (2, 12)
    assert batch["completion_mask"].sum(dim=1).tolist() == [6, 6]  # "Story:" has 6 bytes


def test_the_pairs_folder_of_the_fixtures_is_deterministic(tmp_path: Path) -> None:
    """The other tests compare runs, so their data must be the same each time."""
    one, two = write_pairs(tmp_path / "1"), write_pairs(tmp_path / "2")
    assert (one / "train.jsonl").read_text() == (two / "train.jsonl").read_text()


def test_the_commit_of_a_hub_data_set_is_the_one_that_was_loaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It is read from the addresses that `datasets` kept with the rows; local files and unclear cases have none."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    rows = datasets.Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}])
    rows.info.download_checksums = {
        f"hf://datasets/org/pairs@{commit}/data/{split}.parquet": {"num_bytes": 1, "checksum": None} for split in "ab"
    }
    monkeypatch.setattr(data, "_read_hub", lambda *_: rows)
    pairs = Dataset(name="pairs", path="org/pairs")
    assert data.hub_commit(pairs) == commit
    rows.info.download_checksums = None
    assert data.hub_commit(pairs) is None
    assert data.hub_commit(Dataset(name="mine", path=str(tmp_path))) is None
    assert data.hub_commit(Dataset(name="built", builder="movie_reviews")) is None
