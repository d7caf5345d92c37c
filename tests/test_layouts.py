"""Which files are a split: the layouts of the Hub and of `save_to_disk`, as the plan and the job read them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from conftest import sweep_of

from launcher.config import Dataset, Part
from launcher.dataset.layouts import Listing, check_shards
from launcher.dataset.local_files import local_files
from launcher.dataset.naming import Naming, piece_of
from launcher.errors import ConfigError
from launcher.planning.prerequisites import check_sources
from launcher.store.output_folder import Store
from launcher.worker.dataset import reading

CARD = """---
license: mit
configs:
- config_name: helpful
  data_files:
  - split: train
    path: helpful/train-*
  - split: test
    path: helpful/test-*
- config_name: harmless
  data_files: {train: "harmless/*.jsonl", test: [harmless/held/*.jsonl]}
%s---
# A data set
"""


def rows(name: str, count: int = 3) -> list[dict[str, Any]]:
    return [{"prompt": f"Q{name}{n}", "chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(count)]


def put(folder: Path, *names: str) -> None:
    """A file for each name, whose rows say from which."""
    for name in names:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".parquet"):
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows(name)), file)
        else:
            file.write_text("".join(json.dumps(row) + "\n" for row in rows(name)))


def read(folder: Path, store: Store, **keys: Any) -> tuple[list[str], list[str]]:
    """The prompts of both splits, as the job reads them; the plan looks at the same files."""
    dataset = Dataset(name="d", path=str(folder), **keys)
    train, test = reading.read_source(dataset, store)
    if train and folder.is_dir():
        assert local_files(dataset, "train_split")
    return [row["prompt"] for row in train], [row["prompt"] for row in test]


def of(*names: str) -> list[str]:
    return [row["prompt"] for name in names for row in rows(name)]


LAYOUTS: dict[str, tuple[list[str], list[str]]] = {
    "data": (["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"],
             ["data/test-00000-of-00001.parquet"]),
    "top": (["train-00000-of-00001.parquet"], ["test-00000-of-00001-0a1b2c3d.parquet"]),
    "json lines": ([f"train-{n:05d}-of-00011.jsonl" for n in range(11)], ["test.jsonl"]),
    "from one": (["train-1-of-2.jsonl", "train-2-of-2.jsonl"], ["test.jsonl"]),
    "folders": (["train/0000.parquet", "train/0001.parquet"], ["test/0000.parquet"]),
    "default": (["default/train/0000.parquet"], ["default/test/0000.parquet"]),
    "default shards": (["default/train-00000-of-00001.parquet"], ["default/test-00000-of-00001.parquet"]),
    "numbers": ([f"train_{n}.jsonl" for n in range(12)], ["data/test.jsonl"]),
    "numbers in a folder": ([f"train/part-{n}.jsonl" for n in range(12)], ["test/part-0.jsonl"]),
    "other words": (["training.jsonl"], ["eval.jsonl"]),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_split_may_be_several_files(tmp_path: Path, store: Store, name: str) -> None:
    """In the order of their numbers, in each of the Hub's layouts."""
    train, test = LAYOUTS[name]
    put(tmp_path, *train, *test)
    assert read(tmp_path, store) == (of(*train), of(*test))


def test_a_card_says_which_files_are_a_split(tmp_path: Path, store: Store) -> None:
    """By its configurations: the one that is asked for, the default one; without a default they are named."""
    names = ["helpful/train-00000-of-00002.parquet", "helpful/train-00001-of-00002.parquet",
             "helpful/test-00000-of-00001.parquet", "harmless/a.jsonl", "harmless/held/b.jsonl"]  # fmt: skip
    put(tmp_path, *names)
    (tmp_path / "README.md").write_text(CARD % "")
    assert read(tmp_path, store, config="helpful") == (of(*names[:2]), of(names[2]))
    assert read(tmp_path, store, config="harmless") == (of(names[3]), of(names[4]))
    with pytest.raises(ConfigError, match=r"dataset\.config: .* several configurations; .* helpful, harmless"):
        read(tmp_path, store)
    with pytest.raises(ConfigError, match=r"dataset\.config=helpless: .* no such configuration; it has helpful, harm"):
        read(tmp_path, store, config="helpless")
    (tmp_path / "README.md").write_text(CARD % "  default: true\n")
    assert read(tmp_path, store) == (of(names[3]), of(names[4]))


def test_a_folder_or_files_within_may_be_named(tmp_path: Path, store: Store) -> None:
    """By `data_dir`, `data_files` and, without a card, a configuration; a name that is not there is one line."""
    put(tmp_path, "en/train.jsonl", "en/test.jsonl", "de/train.jsonl", "de/test.jsonl", "x/pairs-1.jsonl", "x/y.jsonl")
    assert read(tmp_path, store, data_dir="de") == (of("de/train.jsonl"), of("de/test.jsonl"))
    assert read(tmp_path, store, config="en") == (of("en/train.jsonl"), of("en/test.jsonl"))
    both = {"train": ["*/train.jsonl", "x/pairs-*.jsonl"], "test": "x/y.jsonl"}
    found = read(tmp_path, store, data_files=both)
    assert found == (of("de/train.jsonl", "en/train.jsonl", "x/pairs-1.jsonl"), of("x/y.jsonl"))
    below = {"train": "pairs-?.jsonl", "test": "**/y.jsonl"}
    assert read(tmp_path, store, data_dir="x", data_files=below) == (of("x/pairs-1.jsonl"), of("x/y.jsonl"))
    for keys, words in (
        ({"data_dir": "fr"}, r"dataset\.data_dir=fr: .* no such folder; it has de/, en/, x/"),
        ({"config": "fr"}, r"dataset\.config=fr: .* no such configuration; it has de/, en/, x/"),
        ({"data_files": {"train": "fr/*", "test": "x/y.jsonl"}}, r"dataset\.data_files=fr/\*: .* no such file; it has"),
    ):
        with pytest.raises(ConfigError, match=words):
            read(tmp_path, store, **keys)


def test_what_was_saved_to_disk_is_read(tmp_path: Path, store: Store) -> None:
    """Of a DatasetDict its splits, of one table its rows, the last of them held out; a lost file is named."""
    datasets = pytest.importorskip("datasets")
    train, test = (datasets.Dataset.from_list(rows(split, 40)) for split in ("train", "test"))
    datasets.DatasetDict(train=train, test=test).save_to_disk(tmp_path / "dict", num_shards={"train": 3, "test": 1})
    assert len(list((tmp_path / "dict" / "train").glob("*.arrow"))) == 3
    assert read(tmp_path / "dict", store) == (train["prompt"][:], test["prompt"][:])
    train.save_to_disk(tmp_path / "one")
    assert read(tmp_path / "one", store) == (train["prompt"][:36], train["prompt"][36:])
    (tmp_path / "dict" / "train" / "data-00001-of-00003.arrow").unlink()
    with pytest.raises(ConfigError, match=r"lacks train/data-00001-of-00003\.arrow"):
        read(tmp_path / "dict", store)


WRONG: dict[str, tuple[list[str], str]] = {
    "a missing shard": (["train-00000-of-00003.jsonl", "train-00002-of-00003.jsonl", "test.jsonl"],
                        r"dataset\.path: .* lacks train-00001-of-00003\.jsonl; fetch the rest of the 3 files"),
    "two forms": (["train.jsonl", "train.parquet", "test.jsonl"], r"has train\.jsonl and train\.parquet, and each may"),
    "a file and a folder": (["train.jsonl", "train/0.jsonl", "test.jsonl"], r"has train/ and train\.jsonl, and each"),
    "two sets": (["train-0-of-1.jsonl", "train-0-of-2.jsonl", "train-1-of-2.jsonl"], r"-of-1.* and .*of-2"),
    "sizes": (["train-1000.jsonl", "train-500.jsonl", "test.jsonl"], r"dataset\.train_split=train: no train\.jsonl"),
    "another": (["dev.jsonl", "test.jsonl"], r"dataset\.train_split=train: .*; splits: dev, test; a piece of one is"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_told_is_one_line_at_the_plan(tmp_path: Path, store: Store, name: str) -> None:
    """And in the job."""
    names, words = WRONG[name]
    put(tmp_path, *names)
    with pytest.raises(ConfigError, match=words):
        read(tmp_path, store)
    sweep = sweep_of("model=tiny", f"dataset={tmp_path}")
    with pytest.raises(ConfigError, match=words):
        check_sources(sweep, dry_run=True)


HOLES: dict[str, tuple[list[str], Naming, str, str]] = {
    "data": (["data/train-00000-of-00003.jsonl", "data/train-00002-of-00003.jsonl"], Naming(), "train", "train-00001"),
    "top": (["train-00001-of-00002.parquet"], Naming(), "train[:90%]", "train-00000"),
    "folder": (["train/part-00000-of-00002.csv"], Naming(), "train", "part-00001"),
    "alias": (["data/dev-00000-of-00002.csv"], Naming(), "validation", "dev-00001"),
    "no names": (["part-00000-of-00002.txt"], Naming(), "train", "part-00001"),
    "data_dir": (["en/train-00000-of-00002.jsonl"], Naming(data_dir="en"), "train", "train-00001"),
    "patterns": (["a/x-00000-of-00002.jsonl"], Naming(data_files={"train": "a/x-*"}), "train", "x-00001"),
    "configs": (
        ["helpful/train-00001-of-00002.jsonl", "helpful/test-0.jsonl"], Naming("helpful"), "train", "train-00000"
    ),
}  # fmt: skip


def test_a_shard_that_is_named_itself_is_all_that_is_wanted(tmp_path: Path, store: Store) -> None:
    """The way to a part of a large data set; a pattern stands for all of its files."""
    names = ["train-00000-of-00003.jsonl", "train-00002-of-00003.jsonl", "test.jsonl"]
    put(tmp_path, *names)
    files = {"train": names[:1], "test": "test.jsonl"}
    assert read(tmp_path, store, data_files=files) == (of(names[0]), of("test.jsonl"))
    with pytest.raises(ConfigError, match=r"lacks train-00001-of-00003\.jsonl"):
        read(tmp_path, store, data_files={**files, "train": "train-*"})


@pytest.mark.parametrize("name", HOLES)
def test_a_missing_shard_of_a_repository_is_seen_by_the_names(name: str) -> None:
    """In whatever format; other splits, weights and shards that were named one by one are none of it."""
    names, naming, split, lost = HOLES[name]
    card = CARD % "" if naming.config else None
    listing = Listing("org/x", [*names, "README.md"], lambda _: card)
    with pytest.raises(ConfigError, match=f"lacks {lost}"):
        check_shards(listing, naming, split)
    total = int(names[0].partition("-of-")[2][:5])
    whole = {re.sub(r"\d{5}-of", f"{number:05d}-of", names[0]) for number in range(total)} | {*names, "README.md"}
    others = ["model-00001-of-00009.safetensors", ".cache/train-00000-of-00004.jsonl"]
    check_shards(Listing("org/x", [*sorted(whole), *others], lambda _: card), naming, split)
    alone = Naming(data_files={split: names[:1]})
    check_shards(listing, alone, split)


def test_a_smaller_file_beside_a_split_is_none_of_it(tmp_path: Path, store: Store) -> None:
    """train-1000.jsonl is no shard of train.jsonl."""
    put(tmp_path, "train.jsonl", "train-1000.jsonl", "test.jsonl")
    assert read(tmp_path, store) == (of("train.jsonl"), of("test.jsonl"))


@pytest.mark.parametrize(
    ("split", "places"),
    [("train", range(10)), ("train[:3]", range(3)), ("train[-2:]", range(8, 10)), ("train[10%:50%]", range(1, 5)),
     ("train[:-90%]", range(1)), ("train[25%:]", range(2, 10)), ("train[4:40]", range(4, 10))],
)  # fmt: skip
def test_a_piece_of_a_split_is_that_of_datasets(split: str, places: range) -> None:
    """Row for row, with `datasets`' rounding."""
    datasets = pytest.importorskip("datasets")
    piece = piece_of(split)
    assert piece is not None
    found = list(range(10))[piece.rows(10)]
    assert found == list(places)
    info = datasets.SplitDict({"train": datasets.SplitInfo(name="train", num_examples=10)})
    (own,) = datasets.arrow_reader.ReadInstruction.from_spec(split).to_absolute(
        {name: each.num_examples for name, each in info.items()}
    )
    assert found == list(range(10))[own.from_ : own.to]


def test_a_piece_is_held_out_of_the_only_split_there_is(tmp_path: Path, store: Store) -> None:
    """Of a folder, and of one file; one piece alone of a file says too little."""
    put(tmp_path, "train.jsonl")
    every = of("train.jsonl")
    pieces = {"train_split": "train[:2]", "test_split": "train[2:]"}
    assert read(tmp_path, store, **pieces) == (every[:2], every[2:])
    assert read(tmp_path / "train.jsonl", store, **pieces) == (every[:2], every[2:])
    sweep = sweep_of("model=tiny", f"dataset={tmp_path / 'train.jsonl'}", "dataset.train_split='train[:2]'")
    with pytest.raises(ConfigError, match=r"dataset\.test_split=test: .* one table without splits; give a piece here"):
        check_sources(sweep, dry_run=True)


@pytest.mark.parametrize("split", ["train+test", "train[", "train[a:b]", "train[:10", "train[1]"])
def test_other_forms_are_refused(split: str) -> None:
    """In one line that says which there are."""
    with pytest.raises(ConfigError, match=r"dataset\.train_split=.*: must be the name of a split, or a piece of one"):
        sweep_of("model=tiny", "dataset=org/data", f"dataset.train_split='{split}'")


def test_keys_that_mean_nothing_together_are_refused() -> None:
    """A configuration and files; either without a path; patterns that are none."""
    for words, *keys in (
        ("dataset.data_dir=x: says which files", "dataset=org/data", "dataset.config=a", "dataset.data_dir=x"),
        ("dataset.config=a: goes with", "dataset=movie_reviews", "dataset.config=a"),
        ("dataset.data_files.train=", "dataset=org/data", "dataset.data_files={train:3}"),
    ):
        with pytest.raises(ConfigError) as refusal:
            sweep_of("model=tiny", *keys)
        assert words in str(refusal.value)


def test_parts_of_a_mixture_name_their_own(tmp_path: Path, store: Store) -> None:
    """Configuration and folder of one are not another's."""
    put(tmp_path, "en/train.jsonl", "en/test.jsonl", "de/train.jsonl", "de/test.jsonl")
    parts = [Part(path=str(tmp_path), config="en"), Part(path=str(tmp_path), data_dir="de", fraction=0.5)]
    each = reading.sources_of(Dataset(name="m", mixture=parts))
    prompts = [[row["prompt"] for row in reading.read_source(source, store)[0]] for source in each]
    assert prompts == [of("en/train.jsonl"), of("de/train.jsonl")]


Ids = Callable[..., list[str]]


@pytest.fixture
def ids() -> Ids:
    def of_sweep(*keys: str) -> list[str]:
        return [run.run_id for run in sweep_of("model=tiny", "dataset=org/data", *keys).runs]

    return of_sweep


def test_a_configuration_is_a_part_of_what_is_trained(ids: Ids) -> None:
    """Where it is set; not set it changes no id. Two of a sweep have two names."""
    keys = ("dataset.config=a", "dataset.config=b", "dataset.data_dir=a", "dataset.data_files={train:a,test:b}")
    every = [*ids(), *(each for key in keys for each in ids(key))]
    assert len(set(every)) == 5
    assert ids("dataset.config=null") == ids()
    names = [run.config.dataset.name for run in sweep_of("model=tiny", "dataset=org/data", "dataset.config=a,b").runs]
    assert names == ["data-a", "data-b"]
