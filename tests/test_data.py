"""launcher.worker.dataset.pairs: pairs from files and folders, their columns, their token ids."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from conftest import sweep_of
from worker_fixtures import Configure, make_config, write_pairs

from launcher.config import Dataset, Model, Part, WeakRejects
from launcher.errors import ConfigError
from launcher.hub.sources import Source, pin
from launcher.planning.prerequisites import check_sources
from launcher.store.output_folder import Store
from launcher.worker.dataset import pairs as data
from launcher.worker.dataset import reading, unpaired
from launcher.worker.dataset.pairs import collator, load_pairs, tokenise
from launcher.worker.model import weights

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


def test_a_text_may_hold_a_line_separator(tmp_path: Path, store: Store) -> None:
    """JSON allows U+2028 and U+0085 in a text as they are; only a newline ends a row."""
    row = PAIR | {"chosen": " one\u2028two\x85three"}
    for split in ("train", "test"):
        (tmp_path / f"{split}.jsonl").write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    assert load_pairs(Dataset(name="d", path=str(tmp_path)), store)[0][:]["chosen"] == [row["chosen"]]


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
    with pytest.raises(ConfigError, match=r"dataset\.name=d: no column rejected; found chosen, worse"):
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
    with pytest.raises(ConfigError, match=r"train\.jsonl, line 1: not JSON"):
        load_pairs(dataset, store)
    (tmp_path / "train.jsonl").write_text("")
    with pytest.raises(ConfigError, match=r"train_split: .* holds no pairs there"):
        load_pairs(dataset, store)


def test_token_ids_are_the_texts_with_an_end_token(configure: Configure, store: Store) -> None:
    """Prompt and completion decode to what was written, and the completion ends with the model's end token."""
    config = configure()
    pairs, tokens = tokenise(config, store), weights.tokenizer(config.model, store)
    text = load_pairs(config.dataset, store)[0][0]
    assert tokens.decode(pairs.train[0]["prompt_ids"]) == text["prompt"]
    assert tokens.decode(pairs.train[0]["rejected_ids"]) == text["rejected"] + tokens.eos_token
    assert pairs.dropped == {}


def test_pairs_whose_prompt_fills_max_length_are_dropped_and_counted(
    configure: Configure, store: Store, tmp_path: Path
) -> None:
    """A prompt of max_length tokens leaves nothing to learn from; one that is a token shorter stays."""
    rows = [{"prompt": "p" * length, "chosen": "yes", "rejected": "no"} for length in (9, 10, 11)]
    config = configure(dataset=folder_of(tmp_path, rows), trainer__max_length=10)
    pairs = tokenise(config, store)
    assert (len(pairs.train), len(pairs.test), pairs.dropped) == (1, 1, {"prompt too long": 2})


def test_pairs_from_which_nothing_can_be_learnt_are_dropped_with_the_reason(
    configure: Configure, store: Store, tmp_path: Path
) -> None:
    """An empty completion, twice the same completion and a prompt that fills max_length are counted apart."""
    useless = [PAIR | {"chosen": "  "}, PAIR | {"rejected": ""}, PAIR | {"chosen": " no "}, PAIR | {"prompt": "p" * 64}]
    pairs = tokenise(configure(dataset=folder_of(tmp_path, [PAIR, *useless])), store)
    assert pairs.dropped == {"empty completion": 2, "chosen == rejected": 1, "prompt too long": 1}
    assert (len(pairs.train), len(pairs.test)) == (1, 1)


def test_repeated_and_leaked_pairs_are_counted_and_stay(configure: Configure, store: Store, tmp_path: Path) -> None:
    """Case, spacing and punctuation do not make a pair another one; the same completions the other way round do."""
    turned = {"prompt": "Q", "chosen": " no", "rejected": " yes"}
    write(tmp_path / "train.jsonl", [PAIR, {"prompt": "q?", "chosen": " YES!", "rejected": "no"}, turned])
    write(tmp_path / "test.jsonl", [PAIR | {"chosen": "Yes."}, PAIR | {"prompt": "R"}])
    pairs = tokenise(configure(dataset=Dataset(name="d", path=str(tmp_path))), store)
    assert (pairs.repeated, pairs.leaked, len(pairs.train), len(pairs.test)) == (1, 1, 3, 2)


def test_no_usable_pair_is_an_error_with_the_reasons(configure: Configure, store: Store, tmp_path: Path) -> None:
    """It names the data set and counts why."""
    config = configure(dataset=folder_of(tmp_path, [PAIR | {"rejected": " yes"}] * 2))
    with pytest.raises(ConfigError, match=r"dataset\.name=d: none of its pairs can be used: 2 chosen == rejected"):
        tokenise(config, store)


def part_of(folder: Path, prefix: str, count: int, **keys: Any) -> Part:
    folder.mkdir()
    for split in ("train", "test"):
        write(folder / f"{split}.jsonl", [PAIR | {"prompt": f"{prefix}{split}{n}"} for n in range(count)])
    return Part(path=str(folder), **keys)


def test_a_mixture_takes_shares_of_training_pairs_and_every_held_out_pair(tmp_path: Path, store: Store) -> None:
    """fraction takes the first pairs of a part; the training pairs are shuffled alike each time; train_pairs cuts."""
    parts = [part_of(tmp_path / "a", "a", 4, fraction=0.5), part_of(tmp_path / "b", "b", 3)]
    dataset = Dataset(name="two", mixture=parts)
    train, test = load_pairs(dataset, store)
    assert sorted(train["prompt"]) == ["atrain0", "atrain1", "btrain0", "btrain1", "btrain2"]
    assert test["prompt"][:] == ["atest0", "atest1", "atest2", "atest3", "btest0", "btest1", "btest2"]
    shorter, _ = load_pairs(replace(dataset, train_pairs=3), store)
    assert shorter["prompt"][:] == train["prompt"][:3]


def test_the_parts_of_a_mixture_may_differ_in_columns_but_not_in_kind(tmp_path: Path, store: Store) -> None:
    """Each part has its own columns and splits; text and messages do not mix."""
    write(tmp_path / "x.jsonl", [{"question": "Q", "good": " yes", "bad": " no"}] * 2)
    write(tmp_path / "y.jsonl", [{"chosen": [USER, YES], "rejected": [USER, NO]}] * 2)
    columns = {"prompt": "question", "chosen": "good", "rejected": "bad"}
    text = part_of(tmp_path / "a", "a", 2)
    mapped = Part(path=str(tmp_path), columns=columns, train_split="x", test_split="x")
    train, _ = load_pairs(Dataset(name="d", mixture=[text, mapped]), store)
    assert sorted(train["prompt"]) == ["Q", "Q", "atrain0", "atrain1"]
    messages = Part(path=str(tmp_path), train_split="y", test_split="y")
    with pytest.raises(ConfigError, match=r"dataset\.mixture: the parts of d are plain text in one and messages"):
        load_pairs(Dataset(name="d", mixture=[text, messages]), store)


def test_plain_text_may_hold_the_prompt_in_both_completions(tmp_path: Path, store: Store) -> None:
    """The common beginning is the prompt; without one, the error says how to name a prompt column."""
    row = {"chosen": "Q: why? A: because", "rejected": "Q: why? A: dunno"}
    found = load_pairs(folder_of(tmp_path, [row]), store)[0][0]
    assert found == {"prompt": "Q: why? A:", "chosen": " because", "rejected": " dunno"}
    with pytest.raises(ConfigError, match=r"has no column prompt, and a pair's completions do not begin alike"):
        load_pairs(folder_of(tmp_path, [row, {"chosen": "yes", "rejected": "no"}]), store)


CONVERSATION = {"prompt": [USER], "chosen": [YES], "rejected": [NO]}
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }} {% endfor %}{{ 'assistant:' * add_generation_prompt }}"


@pytest.mark.parametrize(
    ("rows", "reason", "halves"),
    [
        ([{**PAIR, "chosen": None}, PAIR], "empty completion", 1),
        ([PAIR, {"prompt": "Q", "chosen": " yes"}], "empty completion", 1),
        ([PAIR, {**PAIR, "prompt": None}], "no prompt", 2),
        ([{"chosen": "Q: a", "rejected": None}, {"chosen": "Q: a", "rejected": "Q: b"}], "empty completion", 2),
        ([{**CONVERSATION, "chosen": None}, CONVERSATION], "empty completion", 1),
        ([CONVERSATION, {**CONVERSATION, "rejected": [{"role": "x", "content": None}]}], "empty completion", 1),
        ([{"chosen": None, "rejected": [NO]}, {"chosen": [USER, YES], "rejected": [USER, NO]}], "empty completion", 2),
    ],
)
def test_what_a_row_lacks_is_why_it_is_left_out(
    configure: Configure, store: Store, tmp_path: Path, rows: list[dict[str, Any]], reason: str, halves: int
) -> None:
    """A null, as data sets have them, crashes no job; of a pair that is split for kto, only the half that lacks."""
    config = configure(dataset=folder_of(tmp_path, rows * 8), model__chat_template=TEMPLATE)
    found = tokenise(config, store)
    assert (len(found.train), found.dropped) == (8, {reason: 8})
    split = unpaired.tokenise(replace(config, loss_type="kto"), store)
    assert (len(split.train), split.dropped) == (32 - 8 * halves, {reason: 8 * halves})
    assert all(data.load_prompts(config.dataset, store))


@pytest.mark.parametrize("lacking", ["prompt", "completion"])
def test_a_labelled_row_may_lack_something_too(
    configure: Configure, store: Store, tmp_path: Path, lacking: str
) -> None:
    """It is left out and counted, in text as in messages."""
    reason = {"prompt": "no prompt", "completion": "empty completion"}[lacking]
    text, messages = {"prompt": "Q", "completion": " yes"}, {"prompt": "Q", "completion": [YES]}
    for name, row in (("text", text), ("messages", messages)):
        (tmp_path / name).mkdir()
        rows = [{**row, "label": True}, {**row, lacking: None, "label": False}] * 8
        config = configure(dataset=folder_of(tmp_path / name, rows), model__chat_template=TEMPLATE, loss_type="kto")
        found = unpaired.tokenise(config, store)
        assert len(found.train) == 8
        assert found.dropped == {reason: 8}


def test_no_pair_left_is_an_error_with_the_lengths(configure: Configure, store: Store, tmp_path: Path) -> None:
    """It names max_length and the shortest prompt's length in tokens."""
    rows = [PAIR | {"prompt": "p" * length} for length in (12, 14)]
    config = configure(dataset=folder_of(tmp_path, rows), trainer__max_length=10)
    with pytest.raises(ConfigError, match=r"trainer\.max_length=10: every prompt fills it; the shortest has 12 tokens"):
        tokenise(config, store)


def test_batches_are_cut_at_max_length(configure: Configure, store: Store) -> None:
    """Long answers lose their end, the prompt stays."""
    config = configure(trainer__max_length=12)
    batch = collator(config, store)([tokenise(config, store).train[0]])
    assert batch["input_ids"].shape == (2, 12)
    assert batch["completion_mask"].sum(dim=1).tolist() == [6, 6]  # "Story:" has 6 bytes


def test_the_pairs_folder_of_the_fixtures_is_deterministic(tmp_path: Path) -> None:
    """The other tests compare runs, so their data must be the same each time."""
    one, two = write_pairs(tmp_path / "1"), write_pairs(tmp_path / "2")
    assert (one / "train.jsonl").read_text() == (two / "train.jsonl").read_text()


def test_the_commits_of_all_that_rows_come_from_are_known(store: Store, tmp_path: Path) -> None:
    """Of the parts of a mixture, and of the instructions that a weaker model answers; what is pinned asks nobody."""
    commits = {"org/a": "a" * 40, "org/b": "b" * 40}
    for path, commit in commits.items():
        pin(Source("dataset", path), commit, store)
    mixture = [Part(path="org/a"), Part(path="org/b"), Part(path=str(tmp_path))]
    assert reading.hub_commits(Dataset(name="m", mixture=mixture), store) == commits
    weak = WeakRejects(path="org/b", model=Model(name="weaker"))
    weaker = Dataset(name="w", builder="weak_rejects", weak_rejects=weak)
    assert reading.hub_commits(weaker, store) == {"org/b": "b" * 40}
    assert reading.hub_commits(Dataset(name="a", path="org/a"), store) == {"org/a": "a" * 40}
    assert reading.hub_commits(Dataset(name="mine", path=str(tmp_path)), store) == {}
    twice = Dataset(name="t", mixture=[Part(path="org/a"), Part(path="org/a", revision="c" * 40)])
    assert reading.hub_commits(twice, store) == {"org/a@main": "a" * 40, f"org/a@{'c' * 40}": "c" * 40}


def test_a_text_is_tokenised_once_for_a_sweep(
    configure: Configure, store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Runs of another loss, beta or length find the ids on disk, other text does not; a torn file does no harm."""
    calls: list[int] = []
    token_ids = data.token_ids
    monkeypatch.setattr(data, "token_ids", lambda pairs, tokens: calls.append(len(pairs)) or token_ids(pairs, tokens))
    first = tokenise(configure(), store)
    assert calls == [32, 6]
    again = tokenise(configure(loss_type="ipo", beta=0.7, trainer__max_length=40), store)
    assert calls == [32, 6]
    assert again.train[:] == first.train[:]
    tokenise(configure(dataset__train_pairs=5), store)
    assert calls == [32, 6, 5]
    for file in store.cache("tokens", "x").parent.glob("*/rows.parquet"):
        file.write_bytes(file.read_bytes()[:100])
    assert tokenise(configure(), store).train[:] == first.train[:]
    assert "tokenising again" in caplog.text


SHORT, LONG = {"prompt": "Q:", "chosen": " a", "rejected": " b"}, {"prompt": "Q " * 99, "chosen": "a", "rejected": "b"}


def with_test(folder: Path, test: list[dict[str, str]]) -> Dataset:
    """A data set whose training rows are right."""
    for split, rows in (("train", [SHORT] * 20), ("test", test)):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Dataset(name="d", path=str(folder))


@pytest.mark.parametrize(
    ("test", "message"),
    [
        ([], r"dataset\.test_split=test: \S+test\.jsonl has no rows"),
        (
            [SHORT | {"rejected": " a"}],
            r"dataset\.test_split=test: \S+test\.jsonl: none of its rows can be used: 1 ch",
        ),
        ([{"prompt": "Q:", "good": "a"}], r"test\.jsonl has no column chosen, rejected; it has good, prompt"),
        ([LONG], r"max_length=64: the shortest prompt of dataset\.test_split=test has 198 tokens"),
    ],
)
def test_a_held_out_split_that_cannot_be_used_is_named_by_the_plan(
    tmp_path: Path, test: list[dict[str, str]], message: str
) -> None:
    """With its key, its value and its file, before anything is submitted."""
    overrides = ("model=tiny", "dataset=custom", "dataset.name=d", "trainer.max_length=64")
    sweep = sweep_of(*overrides, f"dataset.path={with_test(tmp_path, test).path}")
    with pytest.raises(ConfigError, match=message):
        check_sources(sweep, dry_run=True)


@pytest.mark.parametrize(
    ("test", "message"),
    [
        ([SHORT | {"rejected": " a"}], r"dataset\.test_split=test: the held-out pairs of d cannot be used: .*1 chosen"),
        ([LONG], r"dataset\.test_split=test: the held-out .*trainer\.max_length=64: every prompt fills it; .* name a"),
        ([{"prompt": "Q:", "good": "a"}], r"no column chosen, rejected; found prompt, good in \S+, held-out split"),
    ],
)
def test_a_held_out_split_that_cannot_be_used_is_named_by_the_job(
    tmp_path: Path, store: Store, test: list[dict[str, str]], message: str
) -> None:
    """Where the plan has not seen the rows, as those of the Hub."""
    with pytest.raises(ConfigError, match=message):
        tokenise(make_config(tmp_path, dataset=with_test(tmp_path, test)), store)


def test_held_out_rows_that_are_left_out_are_told_with_their_reasons(
    tmp_path: Path, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """As those of the training split, and under the split's key."""
    rows = [SHORT, LONG, SHORT | {"rejected": ""}]
    assert len(tokenise(make_config(tmp_path, dataset=with_test(tmp_path, rows)), store).test) == 1
    words = "2 of 3 held-out pairs dropped: 1 empty completion, 1 prompt too long (of dataset.test_split)"
    assert words in caplog.text


def test_a_folder_without_a_held_out_split_and_a_file_too_small_for_one(tmp_path: Path) -> None:
    """Both are told by the plan, with what to do."""
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "train.jsonl").write_text(json.dumps(SHORT))
    (tmp_path / "one.jsonl").write_text(f"{json.dumps(SHORT)}\n" * 4)
    cases = {
        "only": (r"dataset\.test_split=test: no test\.jsonl, .* in \S+; found train\.jsonl; .* give one file", ()),
        "one.jsonl": (r"dataset\.test_pairs=4: the file has only 4 pairs", ("dataset.test_pairs=4",)),
    }
    for name, (message, more) in cases.items():
        sweep = sweep_of("model=tiny", "dataset=custom", "dataset.name=d", f"dataset.path={tmp_path / name}", *more)
        with pytest.raises(ConfigError, match=message):
            check_sources(sweep, dry_run=True)
