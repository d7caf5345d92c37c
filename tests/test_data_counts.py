"""What a plan and a job say of the data: rows used and left out, lengths, examples; and the settings of a sweep.

The tiny model's tokenizer has a token for each byte, so lengths are counted here by the texts alone.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import Launch, sweep_of
from test_analysis_read import base_row, run_row, write_rows
from worker_fixtures import ARCHITECTURE, LORA, Configure

import analysis
from analysis.page import data as page_data
from analysis.report import write
from launcher.config import Dataset, Model, RunConfig, from_plain
from launcher.errors import ConfigError
from launcher.planning import data_counts
from launcher.planning.data_counts import Counted, Look
from launcher.planning.named_trainer import check_named, demo_named
from launcher.store.counts import DataCounts, SplitCounts
from launcher.store.facts import Attempt, TableWork
from launcher.store.files import plain, read_fact
from launcher.store.hashes import Hashes
from launcher.store.output_folder import PreparingDir, Store
from launcher.submission.same_content import with_inputs
from launcher.views.data import count_lines, example_lines, told_once, warnings
from launcher.views.settings import settings_json, settings_line
from launcher.worker.count import answer
from launcher.worker.dataset import pairs, unpaired
from launcher.worker.make_table import make_table
from launcher.worker.model import base_model
from launcher.worker.model import weights as models
from launcher.worker.training.train import train

END = 1  # token behind a plain answer
Pair = tuple[str, str, str]
SHORT: Pair = ("Say: ", "good word", "bad")
LONG_PROMPT: Pair = ("Say it " * 10, "yes", "no")
LONG_ANSWER: Pair = ("Tell: ", "word " * 20, "no")
ALIKE: Pair = ("Ask: ", "same", "same")
ALIKE_WHEN_CUT: Pair = ("Ask: ", "same " * 20 + "a", "same " * 20 + "b")
EMPTY: Pair = ("Ask: ", "", "no")
LIMIT = 48


def write_rows_of(file: Path, rows: list[Pair]) -> None:
    """Pairs as a file of lines."""
    file.parent.mkdir(parents=True, exist_ok=True)
    named = [dict(zip(("prompt", "chosen", "rejected"), row, strict=True)) for row in rows]
    file.write_text("".join(json.dumps(row) + "\n" for row in named))


def write_data(folder: Path, train: list[Pair], test: list[Pair]) -> Path:
    """A data set of two files."""
    write_rows_of(folder / "train.jsonl", train)
    write_rows_of(folder / "test.jsonl", test)
    return folder


def length(pair: Pair) -> int:
    """Tokens of a pair's prompt and its longer answer."""
    return len(pair[0].encode()) + max(len(pair[1].encode()), len(pair[2].encode())) + END


def once(pair: Pair) -> int:
    """Tokens of a pair's prompt and both answers, as they are cut."""
    prompt, *answers = (len(part.encode()) for part in pair)
    return prompt + sum(min(answer + END, LIMIT - prompt) for answer in answers)


def padded(size: int) -> float:
    """Places of a pair in micro-batches of `mixed`: twice the limit, unless only its short pairs are drawn."""
    only_short = math.comb(23, size) / math.comb(43, size)
    return 2 * (only_short * length(SHORT) + (1 - only_short) * LIMIT)


def percentile(values: list[int], share: float) -> float:
    """The value below which a share lies, linear between two."""
    ordered, place = sorted(values), share * (len(values) - 1)
    low = math.floor(place)
    high = min(low + 1, len(values) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """80 pairs, of which 43 can be used within 48 tokens, 20 of these cut; and 10 held-out ones, 2 without answers."""
    train = [SHORT] * 23 + [LONG_ANSWER] * 20 + [LONG_PROMPT] * 17 + [ALIKE] * 9 + [ALIKE_WHEN_CUT] * 11
    return write_data(tmp_path / "mixed", train, [SHORT] * 8 + [EMPTY] * 2)


def own_model(folder: Path, store: Store) -> Path:
    """A model in a folder, as somebody's fine-tuning leaves it."""
    made = base_model.ensure_base(Model(name="x", architecture=dict(ARCHITECTURE)), store)
    shutil.copytree(made, folder)
    return folder


# ------------------------------------------------------------------------------------------------ numbers


def test_a_split_is_counted_as_by_hand(configure: Configure, store: Store, mixed: Path) -> None:
    """Rows by reason, lengths of all that have both answers, cuts of those that are used."""
    config = configure(dataset=Dataset(name="mixed", path=str(mixed)), trainer__max_length=LIMIT)
    found = pairs.tokenise(config, store)
    counted = [length(pair) for pair in [SHORT] * 23 + [LONG_ANSWER] * 20 + [LONG_PROMPT] * 17 + [ALIKE_WHEN_CUT] * 11]
    assert found.counts.splits["train"] == SplitCounts(
        read=80,
        used=43,
        left_out={"chosen == rejected": 9, "prompt too long": 17, "chosen == rejected within max_length": 11},
        cut=20,
        median=sorted(counted)[len(counted) // 2],
        percentile_95=pytest.approx(percentile(counted, 0.95)),
        tokens=pytest.approx((23 * once(SHORT) + 20 * once(LONG_ANSWER)) / 43),
        padded={str(size): pytest.approx(padded(size)) for size in (1, 2, 4, 8, 16, 32)},
    )
    assert len(found.train) == 43
    test = found.counts.splits["test"]
    assert replace(test, tokens=None, padded=None) == SplitCounts(
        10, 8, {"empty completion": 2}, 0, length(SHORT), length(SHORT)
    )
    assert test.tokens == once(SHORT)
    assert list((test.padded or {}).values()) == [pytest.approx(2 * length(SHORT))] * 6
    assert found.counts.splits["train"].share_left_out == pytest.approx(37 / 80)
    assert found.counts.splits["train"].share_cut == pytest.approx(20 / 43)


def test_a_log_has_the_numbers(
    configure: Configure, store: Store, mixed: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each split has its line."""
    pairs.tokenise(configure(dataset=Dataset(name="mixed", path=str(mixed)), trainer__max_length=LIMIT), store)
    assert "train split: 43 of 80 pairs used" in caplog.text
    assert "20 cut at max_length 48" in caplog.text


def test_unpaired_rows_are_counted_by_label(configure: Configure, store: Store, tmp_path: Path) -> None:
    """Completions, desirable and not, of a file with labels; what fills no micro-batch is left out and said."""
    rows = [{"prompt": "Say: ", "completion": f"word {n}", "label": n < 6} for n in range(9)]
    rows.append({"prompt": "Say: " * 20, "completion": "x", "label": True})
    for split in ("train", "test"):
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = configure(
        dataset=Dataset(name="kto", path=str(tmp_path)), loss_type="kto", trainer__micro_batch_size=3,
        trainer__max_length=LIMIT,
    )  # fmt: skip
    found = unpaired.tokenise(config, store)
    split = found.counts.splits["train"]
    assert (split.read, split.used, split.left_out) == (10, 9, {"prompt too long": 1})
    assert (split.desirable, split.undesirable) == (6, 3)
    assert split.median == len("Say: word 0") + END
    four = unpaired.tokenise(replace(config, trainer=replace(config.trainer, micro_batch_size=4)), store)
    assert four.counts.splits["train"].used == len(four.train) == 8
    assert four.counts.splits["train"].left_out == {"prompt too long": 1, "too few for another micro-batch": 1}
    assert "desirable" in count_lines(found.counts)[0]


# ------------------------------------------------------------------------------------------------ examples


def trained_on(config: RunConfig, store: Store, row: dict[str, Any]) -> list[list[int]]:
    """What the collator of the training makes of a row: the tokens of each of its two sequences."""
    batch = pairs.collator(config, store)([row])
    each = zip(batch["input_ids"].tolist(), batch["attention_mask"].tolist(), strict=True)
    return [[token for token, seen in zip(ids, mask, strict=True) if seen] for ids, mask in each]


def test_examples_are_the_tokens_that_are_trained_on(configure: Configure, store: Store, mixed: Path) -> None:
    """Prompt and answer together are what the collator gives the model, to the last token before the cut."""
    config = configure(dataset=Dataset(name="mixed", path=str(mixed)), trainer__max_length=LIMIT)
    found = pairs.tokenise(config, store, examples=30)
    assert len(found.counts.examples) == 30
    for shown, row in zip(found.counts.examples, found.train, strict=False):
        chosen, rejected = trained_on(config, store, row)
        assert shown.prompt.ids + shown.answers["chosen"].ids == chosen
        assert shown.prompt.ids + shown.answers["rejected"].ids == rejected
        assert len(chosen) <= LIMIT
    cut = found.counts.examples[-1].answers["chosen"]
    assert cut.cut == length(LONG_ANSWER) - LIMIT
    assert cut.text == LONG_ANSWER[1][: LIMIT - len(LONG_ANSWER[0])]


def test_an_example_shows_the_template_and_special_tokens(configure: Configure, store: Store, tmp_path: Path) -> None:
    """The text between the marks is the template's own rendering, and its tokens are those of that text."""
    user, said = {"role": "user", "content": "Why?"}, [{"role": "assistant", "content": each} for each in ("Yes", "No")]
    row = {"prompt": [user], "chosen": said[:1], "rejected": said[1:]}
    for split in ("train", "test"):
        (tmp_path / f"{split}.jsonl").write_text(json.dumps(row) + "\n")
    config = configure(dataset=Dataset(name="chat", path=str(tmp_path)), trainer__max_length=200)
    counts = pairs.tokenise(config, store).counts
    tokens = models.tokenizer(config.model, store)
    prompt = "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n"
    (shown,) = counts.examples
    assert shown.prompt.text == prompt
    assert shown.answers["chosen"].text == "Yes<|im_end|>\n"
    assert shown.prompt.ids == tokens(prompt, add_special_tokens=False)["input_ids"]
    assert example_lines(counts, 1)[2:] == [
        f"«prompt»{prompt}«/prompt»",
        "«chosen»Yes<|im_end|>\n«/chosen»",
        "«rejected»No<|im_end|>\n«/rejected»",
    ]


def test_unpaired_examples_are_the_rows_that_are_trained_on(configure: Configure, store: Store, mixed: Path) -> None:
    """Each shown completion is that of the row at its place, in the order of the training."""
    config = configure(
        dataset=Dataset(name="mixed", path=str(mixed)), loss_type="kto", trainer__max_length=LIMIT,
    )  # fmt: skip
    found = unpaired.tokenise(config, store, examples=8)
    for shown, row in zip(found.counts.examples, found.train, strict=False):
        assert shown.prompt.ids == row["prompt_ids"]
        assert shown.prompt.ids + shown.answers["completion"].ids == trained_on(config, store, row)[0]
        assert shown.label == row["label"]


# ------------------------------------------------------------------------------------------------ the plan


@pytest.fixture
def questions(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[int]:
    """How many kinds of data each process that counts was asked about; it answers in this process."""
    asked: list[int] = []

    def ask(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        question = json.loads(options["input"])
        asked.append(len(question["configs"]))
        assert command[-1] == str(os.getpid())  # with which it ends
        scratch = Store(tmp_path / "scratch")
        said = [answer(from_plain(each), scratch, question["examples"]) for each in question["configs"]]
        return subprocess.CompletedProcess(command, 0, stdout=f"noise\n{json.dumps(said)}\n", stderr="")

    monkeypatch.setattr(subprocess, "run", ask)
    monkeypatch.setenv("PREFSWEEP_CACHE", str(tmp_path / "user"))
    return asked


def look(store: Store, *argv: str, examples: int = 0) -> data_counts.Look:
    """What a plan of this command line finds."""
    return data_counts.look(sweep_of("loss_type=ipo", *argv), store, examples, lambda _: None)


def test_a_plan_counts_once_and_remembers_by_content(
    questions: list[int], store: Store, mixed: Path, tmp_path: Path
) -> None:
    """A second plan asks nothing, nor does one of a copy elsewhere; other rows, limits or tokenizers are asked for."""
    model = own_model(tmp_path / "sft", store)
    given = ("trainer=lora", f"model={model}", "beta=0.1,0.2")
    first = look(store, *given, f"dataset={mixed}")
    assert look(store, *given, f"dataset={mixed}") == first
    assert questions == [1]
    copied = shutil.copytree(mixed, tmp_path / "elsewhere" / "mixed")
    assert look(store, *given, f"dataset={copied}").found[0].counts == first.found[0].counts
    assert questions == [1]
    assert len(look(store, *given, f"dataset={mixed}", "trainer.max_length=48,60").found) == 2
    assert questions == [1, 1]
    write_rows_of(mixed / "train.jsonl", [SHORT] * 3)
    changed = look(store, *given, f"dataset={mixed}").found[0].counts
    assert changed is not None
    assert changed.splits["train"].read == 3
    assert questions == [1, 1, 1]
    said = json.loads((model / "tokenizer_config.json").read_text())
    (model / "tokenizer_config.json").write_text(json.dumps({**said, "model_max_length": 77}))
    look(store, *given, f"dataset={mixed}")
    assert questions == [1, 1, 1, 1]


def test_a_plan_counts_what_the_job_counts(questions: list[int], store: Store, mixed: Path) -> None:
    """Key for key, examples too, for a paired and an unpaired loss."""
    for loss, tokenise in (("ipo", pairs.tokenise), ("kto", unpaired.tokenise)):
        sweep = sweep_of("model=tiny", f"dataset={mixed}", f"loss_type={loss}", "beta=0.1", "trainer.max_length=48")
        (found,) = data_counts.look(sweep, store, 2, lambda _: None).found
        assert found.counts == tokenise(sweep.runs[0].config, store).counts
    assert questions == [1, 1]


def test_what_no_job_could_train_on_is_refused_at_the_plan(questions: list[int], store: Store, tmp_path: Path) -> None:
    """In the words of the job."""
    folder = write_data(tmp_path / "long", [LONG_PROMPT] * 3, [SHORT])
    with pytest.raises(ConfigError, match=r"trainer\.max_length=48: every prompt fills it; the shortest has 70 tokens"):
        look(store, "model=tiny", f"dataset={folder}", "trainer.max_length=48")
    assert questions == [1]


def test_what_is_not_counted_here_is_said(
    questions: list[int], store: Store, mixed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Data on the Hub, large data, and data that are built first: the job counts; nothing is asked for them."""
    monkeypatch.setattr(data_counts, "MOST_BYTES", 100)
    for argv, why in (
        (("model=tiny", "dataset=org/data@main"), "is on the Hub"),
        (("model=tiny", f"dataset={mixed}"), "is larger than"),
        (("model=tiny", "dataset=movie_reviews"), "is built before the first job"),
    ):
        (found,) = look(store, *argv).found
        assert found.counts is None
        assert why in (found.unknown or "")
    monkeypatch.setattr(data_counts, "MOST_BYTES", 10**6)
    (found,) = look(store, "model=org/model@main", f"dataset={mixed}").found
    assert found.unknown == "needs a tokenizer on the Hub"
    assert not questions


def test_a_plan_shows_what_a_run_has_recorded(
    questions: list[int], store: Store, configure: Configure, mixed: Path
) -> None:
    """Of data that the login node does not count, where a run of the sweep has begun."""
    counts = pairs.tokenise(configure(dataset=Dataset(name="mixed", path=str(mixed))), store).counts
    sweep = sweep_of("model=tiny", "dataset=org/data@main", "loss_type=ipo", "beta=0.1,0.2")
    run = store.run(sweep.runs[1].run_id)
    run.path.mkdir(parents=True)
    run.data_file.write_text(json.dumps(plain(counts)))
    (found,) = data_counts.look(sweep, store, 0, lambda _: None).found
    assert (found.counts, found.unknown) == (counts, None)
    assert not questions


def test_what_a_job_has_counted_is_not_counted_again(
    questions: list[int], store: Store, configure: Configure, mixed: Path
) -> None:
    """Of the same files, where the user's cache is gone or was never written; other files are asked for."""
    counts = pairs.tokenise(configure(dataset=Dataset(name="mixed", path=str(mixed))), store).counts
    known = Hashes(store, lambda _: None)
    sweep = with_inputs(sweep_of("model=tiny", f"dataset={mixed}", "loss_type=ipo"), known)
    run = store.run(sweep.runs[0].run_id)
    run.new_attempt(Attempt(inputs=dict(sweep.runs[0].inputs)))
    run.data_file.write_text(json.dumps(plain(counts)))
    assert data_counts.look(sweep, store, 0, lambda _: None).found[0].counts == counts
    assert not questions
    write_rows_of(mixed / "train.jsonl", [SHORT] * 3)
    changed = with_inputs(sweep, Hashes(store, lambda _: None))
    found = data_counts.look(changed, store, 0, lambda _: None).found[0].counts
    assert found is not None
    assert found.splits["train"].read == 3
    assert questions == [1]


@pytest.mark.parametrize(("lost", "warned"), [(5, False), (6, True)])
def test_more_than_5_percent_is_warned_of(lost: int, *, warned: bool) -> None:
    """Of rows left out and of rows cut, each for itself."""
    left = SplitCounts(100, 100 - lost, {"no prompt": lost}, 0, 10.0, 20.0)
    cut = SplitCounts(100, 100, {}, lost, 10.0, 20.0)
    for split in (left, cut):
        said = warnings(DataCounts("m", "d", 48, {"train": split, "test": SplitCounts(5, 5)}))
        assert bool(said) is warned
        assert not said or "(6%)" in said[0]


def test_pairs_for_an_unpaired_loss_are_counted_as_rows_and_as_completions(
    configure: Configure, store: Store, tmp_path: Path
) -> None:
    """A file of 5 rows has 5 rows; what is used, or lost, are completions."""
    rows = [{"prompt": f"Say {n}: ", "chosen": f"a{n}", "rejected": f"b{n}" if n else ""} for n in range(5)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[3:]))
    source = Dataset(name="halves", path=str(tmp_path))
    config = configure(dataset=source, loss_type="kto", trainer__micro_batch_size=3, trainer__max_length=LIMIT)
    found = unpaired.tokenise(config, store).counts
    assert (found.splits["train"].rows, found.splits["train"].read) == (5, 10)
    assert "train: 5 rows read, 10 completions, 9 used (5 desirable, 4 undesirable)" in count_lines(found)[0]
    said = warnings(found)
    assert "halves, train split: 1 of 10 completions (10%) are left out: 1 empty completion" in said[0]
    assert "halves: 4 of 4 held-out completions also stand in the training split" in said[-1]


def test_held_out_rows_that_are_trained_on_are_warned_of(configure: Configure, store: Store, tmp_path: Path) -> None:
    """As many as there are, but for case and spacing; none where there is none."""
    rows = [{"prompt": f"Say {n}: ", "chosen": "yes", "rejected": "no"} for n in range(6)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:4]))
    held_out = [rows[5], rows[2] | {"chosen": " YES"}, rows[3]]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in held_out))
    config = configure(dataset=Dataset(name="d", path=str(tmp_path)), trainer__max_length=LIMIT)
    assert [line for line in warnings(pairs.tokenise(config, store).counts) if "held-out" in line] == [
        (
            "d: 2 of 3 held-out rows also stand in the training split; what is measured on them is not held out "
            "(dataset.test_split)"
        )
    ]
    (tmp_path / "test.jsonl").write_text(json.dumps(rows[5]) + "\n")
    assert not warnings(pairs.tokenise(config, store).counts)


def test_what_is_left_out_is_told_once(configure: Configure) -> None:
    """By the look at the rows where the count of tokens says the same, else by that count."""
    note, other = "/d/train.jsonl: 7 of 12 rows are left out: 7 no prompt", "/d/train.jsonl: columns not used: id"
    for reasons, kept in (({"no prompt": 7}, [note, other]), ({"no prompt": 7, "prompt too long": 1}, [other])):
        lost = sum(reasons.values())
        counts = DataCounts("m", "d", 48, {"train": SplitCounts(12, 12 - lost, reasons)})
        told = told_once([note, other], Look((Counted(configure(), counts),)))
        assert told[: len(kept)] == kept
        assert [line.partition(" rows")[0] for line in told[len(kept) :]] == ["d, train split: 8 of 12"] * (lost - 7)


def test_completions_of_one_kind_are_warned_of() -> None:
    """Kto learns from desirable and undesirable ones."""
    split = SplitCounts(10, 10, desirable=10, undesirable=0)
    (said,) = warnings(DataCounts("m", "d", 48, {"train": split}))
    assert said == "d, train split: none of the completions used is undesirable; kto learns from both kinds"


def test_a_length_between_two_numbers_of_tokens_has_its_decimal() -> None:
    """A median of 111.5 is not 112."""
    (line,) = count_lines(DataCounts("m", "d", 256, {"train": SplitCounts(2, 2, {}, 0, 111.5, 120.0)}))
    assert "median 111.5 tokens, 95th percentile 120;" in line


# ------------------------------------------------------------------------------------------------ settings


def test_the_settings_are_those_of_the_runs() -> None:
    """By key, a list where runs differ, and the line names what varies."""
    sweep = sweep_of(
        "model=tiny", "loss_type=ipo", "beta=0.1", "trainer=full", "trainer.learning_rate=1e-4,5e-5",
        "trainer.batch_size=32", "trainer.micro_batch_size=2", "cluster.nodes=2", "cluster.gpus_per_node=4",
        "trainer.epochs=2", "trainer.max_length=100",
    )  # fmt: skip
    settings = settings_json(sweep)
    assert settings["learning_rate"] == [1e-4, 5e-5]
    assert settings["vary"] == ["learning_rate"]
    assert (settings["batch_size"], settings["micro_batch_size"]) == (32, 2)
    assert (settings["devices"], settings["accumulation"]) == (8, 2)
    assert (settings["epochs"], settings["max_steps"], settings["max_length"]) == (2, None, 100)
    assert (settings["trainer"], settings["lora_r"], settings["dtype"]) == ("full", None, "float32")
    line = settings_line(sweep)
    for words in ("trainer full", "learning rate 0.0001 | 5e-05", "cosine with warm-up over 10% of the steps",
                  "batch 32 (2 micro x 2 accumulated x 8 devices)", "for 2 epochs", "max_length 100", "dtype float32",
                  "weights all", "of these vary: learning_rate"):  # fmt: skip
        assert words in line
    lora = sweep_of("model=tiny", "trainer=lora", "trainer.lora.r=4", "trainer.max_steps=7", "trainer.warmup_steps=3")
    for words in ("LoRA r 4", "for 7 steps", "warm-up over 3 steps"):
        assert words in settings_line(lora)
    assert "vary: " not in settings_line(lora)


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (("model=org/sft@main",), False),
        (("model=./SFT",), False),
        (("model=tiny", "model.architecture=null", "model.path=org/sft"), False),
        (("model=zephyr_7b_sft",), False),
        (("model=llama_1b",), False),
        (("model=tiny,zephyr_7b_sft",), False),
        (("model=./SFT", "trainer.learning_rate=1e-5"), False),
        (("model=./SFT", "trainer.batch_size=16", "trainer.epochs=2"), False),
        (("model=./SFT", "trainer=lora"), True),
        (("model=./SFT", "trainer=lora,full"), True),
        (("model=org/sft@main", "trainer=full"), True),
        (("model=./SFT", "trainer.learning_rate=1e-5", "trainer.max_length=512"), True),
        (("model=tiny",), True),
        (("model=smollm2",), True),
        (("model=qwen_0_6b",), True),
        (("+sweeps=pref_align_scan", "model=./SFT", "dataset=org/data@main"), True),
    ],
)
def test_one_s_own_or_a_large_model_names_its_trainer(
    tmp_path: Path, store: Store, argv: tuple[str, ...], *, named: bool
) -> None:
    """The demo's is not taken silently: the line has key, value, and what to type instead."""
    folder = own_model(tmp_path / "sft", store)
    sweep = sweep_of(*[word.replace("./SFT", str(folder)) for word in argv], "beta=0.1")
    if named:
        check_named(sweep)
        of_demo = any(word.startswith(("trainer=lora", "trainer=full")) for word in argv)
        notes = demo_named(sweep)
        assert [note.partition(":")[0] for note in notes] == (
            [f"{argv[1].partition(',')[0]} on model={sweep.runs[0].config.model.name}"] if of_demo else []
        )
        return
    with pytest.raises(ConfigError) as caught:
        check_named(sweep)
    said = str(caught.value)
    assert said.startswith("trainer=lora: is the demo's (learning rate ")
    assert "give trainer=zephyr_lora or trainer=zephyr_full" in said
    assert "trainer.max_length=1024" in said
    assert "\n" not in said


# ------------------------------------------------------------------------------------------------ as it is typed


@pytest.mark.usefixtures("mixed")
def test_a_newcomers_80_pairs(launch: Launch, store: Store, tmp_path: Path) -> None:
    """The first command is refused; with a trainer it shows settings, counts and warnings, and writes nothing."""
    own_model(tmp_path / "sft", store)
    shutil.rmtree(store.root)
    typed = ("-m", "loss_type=sigmoid,ipo", "beta=0.1,0.3", "model=./sft", "dataset=./mixed", "dry_run=true")
    refused = launch(*typed)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.splitlines()[-1].startswith("prefsweep: trainer=lora: ")  # a slow machine says what it does
    assert len(refused.stderr.splitlines()) == 1
    shown = launch(*typed, "trainer=lora", "--show-data", "2")
    assert shown.returncode == 0, shown.stderr
    settings = next(line for line in shown.stdout.splitlines() if line.startswith("settings: "))
    assert "learning rate 0.001" in settings
    assert "max_length 48" in settings
    assert "data: mixed for sft, train: 80 rows read, 43 used, 37 left out" in shown.stdout
    assert shown.stdout.count("«prompt»Say: «/prompt»") == 2
    assert "37 of 80 rows (46%) are left out: 9 chosen == rejected, 17 prompt too long" in shown.stderr
    assert "20 of 43 rows used (47%) are cut at trainer.max_length=48" in shown.stderr
    assert not store.root.exists()
    again = json.loads(launch(*typed, "trainer=lora", "--json").stdout)
    (data,) = again["data"]
    assert data["counts"]["splits"]["train"]["left_out"]["prompt too long"] == 17
    assert data["counts"]["examples"] == []
    assert again["settings"]["max_length"] == 48


@pytest.mark.usefixtures("mixed")
def test_a_run_records_what_status_results_and_report_show(launch: Launch, store: Store) -> None:
    """The numbers of the plan, from the job: in data.json, `status`, results.jsonl and the report's cautions."""
    typed = ["-m", "loss_type=ipo", "beta=0.1", "model=tiny", "dataset=./mixed", "trainer=full", "trainer.max_steps=1",
             "evaluation.generations=2", "sweep=s"]  # fmt: skip
    planned = json.loads(launch(*typed, "--show-data", "3", "--json", "dry_run=true").stdout)
    done = launch(*typed)
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = store.runs()
    recorded = read_fact(run.data_file)
    assert recorded == planned["data"][0]["counts"]
    assert recorded is not None
    assert recorded["splits"]["train"]["used"] == 43
    status = launch("status", "s", "--show-data", "1")
    assert "data: mixed for tiny, train: 80 rows read, 43 used" in status.stdout
    assert "warning: mixed, train split: 37 of 80 rows (46%) are left out" in status.stdout
    assert status.stdout.count("«prompt»") == 1
    (told,) = json.loads(launch("status", "s", "--json").stdout)["data"]
    assert told["splits"] == recorded["splits"]
    frame = analysis.load(store.sweep("s").path)
    line, leaks = page_data.cautions(frame[frame["kind"] == "run"])
    assert f"{recorded['leaked']} of {recorded['splits']['test']['read']} in mixed for tiny" in leaks
    assert "37 of 80 rows are left out (9 chosen == rejected, 17 prompt too long" in line
    assert "20 of 43 rows used are cut at max_length 48" in line


def test_the_job_that_makes_a_table_records_too(configure: Configure, store: Store, mixed: Path) -> None:
    """Beside the word that the table is there, before any run has begun."""
    config = configure(dataset=Dataset(name="mixed", path=str(mixed)), trainer__max_length=LIMIT)
    folder = PreparingDir(store.cache("prepare", "key") / "001")
    make_table(TableWork(prepare=plain(config), root=str(store.root)), folder)
    found = read_fact(folder.data_file, DataCounts)
    assert folder.done_file.exists()
    assert found == pairs.tokenise(config, store).counts


# ------------------------------------------------------------------------------------------------ the report

SPLIT = {"read": 80, "used": 8, "left_out": {"prompt too long": 72}, "cut": 2, "median": 90.0, "percentile_95": 120.0}
PART = {"text": "Say <b>: ", "cut": 0}
TRAINED_ON = {
    "max_length": 48,
    "splits": {"train": SPLIT, "test": {**SPLIT, "used": 80, "left_out": {}, "cut": 0}},
    "examples": [{"prompt": PART, "answers": {"chosen": {"text": "yes", "cut": 3}, "rejected": PART}}],
}


def test_a_report_shows_data_and_warns(tmp_path: Path) -> None:
    """A row a split, the example, and a caution with the numbers."""
    write_rows(tmp_path, [run_row(data=TRAINED_ON), run_row(beta=0.5, data=TRAINED_ON), base_row()])
    frame = analysis.load(tmp_path)
    rows = page_data.splits(frame)
    assert [(row["split"], row["rows read"], row["used"], row["left out"], row["cut"]) for row in rows] == [
        ("train", "80", "8", "72 prompt too long", "2 (25%)"),
        ("test", "80", "80", "0", "0 (0%)"),
    ]
    write(frame, tmp_path / "report", [])
    page = (tmp_path / "report" / "report.html").read_text()
    assert "72 of 80 rows are left out (72 prompt too long)" in page
    assert "Say &lt;b&gt;: " in page
    assert "held-out rows" not in page


def test_a_report_says_what_is_not_held_out(tmp_path: Path) -> None:
    """Of rows that stand in both splits, as the plan and the log do."""
    write_rows(tmp_path, [run_row(data=TRAINED_ON | {"leaked": 2}), base_row()])
    said = " ".join(page_data.cautions(analysis.load(tmp_path)))
    assert "Of the held-out rows 2 of 80 in reviews for tiny also stand in the training split." in said


@pytest.mark.parametrize("data", [None, 5, {}, {"splits": 3}, {"splits": {"train": {"read": "x"}}}, {"splits": {}}])
def test_whatever_is_in_results_the_report_is_written(tmp_path: Path, data: object) -> None:
    """Results of an older version have no data, and a file may hold anything."""
    write_rows(tmp_path, [run_row(data=data), base_row()])
    frame = analysis.load(tmp_path)
    page_data.splits(frame)
    assert page_data.cautions(frame) == []


def test_lora_runs_record_as_well(configure: Configure, store: Store) -> None:
    """`data.json` is there before the first step."""
    run = store.run("r")
    run.path.mkdir(parents=True)
    train(configure(trainer__lora=LORA, trainer__max_steps=1), run, store, lambda: False)
    assert read_fact(run.data_file, DataCounts) is not None
