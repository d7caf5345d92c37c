"""launcher.worker.dataset.weak_rejects: pairs from instructions and a weaker model."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Launch, sweep_of
from datasets import Dataset as Rows
from ranks import finish, start
from transformers import AutoModelForCausalLM
from worker_fixtures import ARCHITECTURE, Configure

from launcher.config import Dataset, Model, RunConfig, WeakRejects
from launcher.errors import ConfigError
from launcher.store.files import Plain, write_once
from launcher.store.output_folder import PreparingDir, Store
from launcher.worker.dataset import completions, weak_rejects
from launcher.worker.dataset.completions import OwnNumbers
from launcher.worker.dataset.pairs import load_pairs, tokenise
from launcher.worker.model import base_model
from launcher.worker.model import weights as models
from launcher.worker.training import reference_table
from launcher.worker.training.train import train

TASKS = [{"prompt": f"Name {number} animals.", "completion": f"A cat and {number} dogs."} for number in range(10)]
WEAKER = Model(name="weaker", architecture=ARCHITECTURE | {"seed": 7}, dtype="float32")


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of prompts of every batch that the weaker model completes."""
    counted: list[int] = []
    complete = completions.complete

    def count(module: Any, tokenizer: Any, prompts: list[Any], settings: WeakRejects) -> list[Plain]:
        counted.append(len(prompts))
        return complete(module, tokenizer, prompts, settings)

    monkeypatch.setattr(weak_rejects, "complete", count)
    return counted


def tasks(folder: Path, rows: list[dict[str, Any]], **changes: Any) -> Dataset:
    """A data set whose training rows are `rows`, held out the first two of them."""
    folder.mkdir(exist_ok=True)
    for split, of_split in (("train", rows), ("test", rows[:2])):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in of_split))
    weak = WeakRejects(path=str(folder), model=WEAKER, max_new_tokens=24, batch_size=4)
    return Dataset(name="tasks", builder="weak_rejects", weak_rejects=replace(weak, **changes))


def rejected(rows: Rows) -> dict[str, str]:
    """The weaker model's completion by prompt; with random weights some may be without a word, and so dropped."""
    said = {row["prompt"][-1]["content"]: row["rejected"][0]["content"] for row in rows}
    assert len(said) == len(rows) > len(TASKS) / 2
    return said


def log_of(store: Store) -> Path:
    (path,) = store.root.glob("cache/weak_rejects/*/completions.jsonl")
    return path


def manifest_of(store: Store) -> Plain:
    (path,) = store.root.glob("cache/datasets/weak-rejects-*/manifest.json")
    return json.loads(path.read_text())  # type: ignore[no-any-return]


def test_the_answer_is_chosen_over_the_weaker_models(tmp_path: Path, store: Store, written: list[int]) -> None:
    """Prompt and answer become messages; a prompt in both splits is completed once; nothing is written twice."""
    dataset = tasks(tmp_path / "tasks", TASKS)
    train_rows, _ = load_pairs(dataset, store)
    last = train_rows[-1]
    (asked,), (answered,) = last["prompt"], last["chosen"]
    assert (asked["role"], answered["role"], last["rejected"][0]["role"]) == ("user", "assistant", "assistant")
    assert {"prompt": asked["content"], "completion": answered["content"]} in TASKS
    assert len(set(rejected(train_rows).values())) == len(train_rows)
    assert written == [4, 4, 2]
    assert load_pairs(dataset, store)[0][:] == train_rows[:]
    assert written == [4, 4, 2]


def test_greedy_completions_are_those_of_the_model(tmp_path: Path, store: Store) -> None:
    """At temperature 0 a completion is what an argmax loop over the model's own template gives."""
    said = rejected(load_pairs(tasks(tmp_path / "tasks", TASKS, temperature=0.0), store)[0])
    folder = base_model.ensure_base(WEAKER, store)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), models.tokenizer(WEAKER, store)
    text = "<|im_start|>user\nName 3 animals.<|im_end|>\n<|im_start|>assistant\n"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    begin = len(ids)
    while len(ids) < begin + 24 and ids[-1] != tokenizer.eos_token_id:
        ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    assert said["Name 3 animals."] == tokenizer.decode(ids[begin:], skip_special_tokens=True).strip()


def test_a_killed_job_loses_only_its_batch(tmp_path: Path, store: Store, written: list[int]) -> None:
    """Killed inside the second batch, with a torn line, it writes that batch again and the same completions."""
    dataset = tasks(tmp_path / "tasks", TASKS)
    load_pairs(dataset, store)
    undisturbed = log_of(store).read_text()
    lines = undisturbed.splitlines(keepends=True)
    other = Store(tmp_path / "other")
    log = other.root / log_of(store).relative_to(store.root)
    log.parent.mkdir(parents=True)
    log.write_text("".join(lines[:5]) + lines[5][:20])
    written.clear()
    load_pairs(dataset, other)
    assert written == [4, 2]
    assert [line for line in log.read_text().splitlines(keepends=True) if line in lines] == lines


def test_a_longer_limit_goes_on_where_a_shorter_one_ended(tmp_path: Path, store: Store, written: list[int]) -> None:
    """Of the rows that are wanted only those are completed, and a longer limit keeps what a shorter one had."""
    dataset = replace(tasks(tmp_path / "tasks", TASKS), train_pairs=8)
    short = rejected(load_pairs(dataset, store)[0])
    assert written == [4, 4]
    long = rejected(load_pairs(replace(dataset, train_pairs=None), store)[0])
    assert written == [4, 4, 2]
    assert long.items() >= short.items()


def test_neighbours_change_nothing(tmp_path: Path, store: Store) -> None:
    """A prompt's completion is the same alone as in a batch, and another with another seed."""
    dataset = tasks(tmp_path / "tasks", TASKS)
    assert dataset.weak_rejects is not None
    module, tokenizer = models.load(WEAKER, store), models.tokenizer(WEAKER, store)
    prompts = [[{"role": "user", "content": "word " * number}] for number in (1, 9, 4)]
    together = completions.complete(module, tokenizer, prompts, dataset.weak_rejects)
    alone = [completions.complete(module, tokenizer, [prompt], dataset.weak_rejects)[0] for prompt in prompts]
    reseeded = completions.complete(module, tokenizer, prompts, replace(dataset.weak_rejects, seed=1))
    assert together == alone
    assert together != reseeded


def test_own_numbers_sample_the_models_distribution() -> None:
    """Over evenly spread numbers each token comes as often as softmax(logits / temperature) says, none at -inf."""
    logits, count = torch.tensor([0.0, 1.0, -torch.inf, 2.0, -1.0]), 10_000
    uniforms = ((torch.arange(count, dtype=torch.float64) + 0.5) / count).unsqueeze(1)
    processed = OwnNumbers(uniforms, begin=3, temperature=2.0)(torch.zeros(count, 3), logits.expand(count, 5))
    weights = [1.0, 1.6487212707, 0.0, 2.7182818285, 0.6065306597]  # exp(logit / 2)
    found = torch.bincount(processed.argmax(dim=1), minlength=5) / count
    assert found.tolist() == pytest.approx([weight / sum(weights) for weight in weights], abs=2 / count)
    assert int(torch.isfinite(processed).sum()) == count


def test_rows_of_no_use_are_dropped_and_counted(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """No answer, no word, the answer itself but for its case, no room: left out, and counted in the manifest."""
    said = {"no word": " ...\n", "same": "a CAT", "good": "a dog"}

    def complete(_module: Any, _tokenizer: Any, prompts: list[Any], _settings: WeakRejects) -> list[Plain]:
        asked = [prompt[-1]["content"] for prompt in prompts]
        return [
            {"completion": said.get(text, ""), "finish": "stop" if text in said else completions.NO_ROOM}
            for text in asked
        ]

    monkeypatch.setattr(weak_rejects, "complete", complete)
    rows = [{"prompt": prompt, "completion": "A cat."} for prompt in ("good", "no word", "same", "too long", "good")]
    rows.append({"prompt": "unanswered", "completion": ""})
    assert len(load_pairs(tasks(tmp_path / "tasks", rows), store)[0]) == 2
    assert manifest_of(store)["splits"]["train"] == {
        "rows": 6,
        "pairs": 2,
        "dropped": {
            "completed without a word": 1,
            "completed as the answer says": 1,
            "too long for the weaker model": 1,
            "without an answer": 1,
        },
    }


def test_a_prompt_without_room_is_not_completed(tmp_path: Path, store: Store) -> None:
    """Prompt and longest completion must fit the weaker model's context of 256 tokens, here bytes."""
    rows = [{"prompt": "x" * length, "completion": "y"} for length in (10, 300)]
    load_pairs(tasks(tmp_path / "tasks", rows), store)
    assert manifest_of(store)["splits"]["train"]["dropped"] == {"too long for the weaker model": 1}


def test_instructions_of_every_shape() -> None:
    """Columns of other names, a system prompt, or messages whose last is the answer."""
    weak = WeakRejects(path="x", columns={"prompt": "question", "completion": "response"})
    rows = Rows.from_list([{"question": "Q", "response": "A", "system": "S"}])
    (one,) = weak_rejects.instructions_in(rows, weak)
    assert one.prompt == [{"role": "system", "content": "S"}, {"role": "user", "content": "Q"}]
    assert one.answer == "A"
    chat = [{"role": role, "content": role} for role in ("user", "assistant", "user", "assistant")]
    rows = Rows.from_list([{"messages": chat}, {"messages": chat[:3]}])
    whole, unanswered = weak_rejects.instructions_in(rows, WeakRejects(path="x"))
    assert (whole.prompt, whole.answer, unanswered.answer) == (chat[:3], "assistant", "")
    with pytest.raises(
        ConfigError, match=r"weak_rejects\.columns: x has no column completion; found prompt, text; map"
    ):
        weak_rejects.instructions_in(Rows.from_list([{"prompt": "Q", "text": "A"}]), WeakRejects(path="x"))


def test_the_weaker_model_and_its_settings_are_on_record(tmp_path: Path, store: Store) -> None:
    """The manifest has its hashes, seed and settings; another model is another log and other pairs."""
    dataset = tasks(tmp_path / "tasks", TASKS, seed=5, temperature=0.7)
    first = load_pairs(dataset, store)[0]
    weaker = manifest_of(store)["made_from"]["weaker"]
    assert weaker["model"] == base_model.fingerprint(WEAKER, store)
    assert (weaker["seed"], weaker["temperature"], weaker["max_new_tokens"]) == (5, 0.7, 24)
    assert dataset.weak_rejects is not None
    other = replace(WEAKER, architecture=ARCHITECTURE | {"seed": 8})
    second = load_pairs(replace(dataset, weak_rejects=replace(dataset.weak_rejects, model=other)), store)[0]
    assert first["rejected"][:] != second["rejected"][:]
    assert len(list(store.root.glob("cache/weak_rejects/*/completions.jsonl"))) == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"path": "/no/such.jsonl"}, r"dataset\.weak_rejects\.path=/no/such\.jsonl: there is no such"),
        ({"model": Model(name="w", path="/no/such")}, r"dataset\.weak_rejects\.model\.path=/no/such: there is no such"),
        ({"model": replace(WEAKER, chat_template="")}, r"dataset\.weak_rejects\.model\.chat_template: the tokenizer"),
    ],
)
def test_what_is_missing_is_named_by_its_key(tmp_path: Path, store: Store, changes: dict[str, Any], words: str) -> None:
    """The error speaks of the weaker model's keys, not of those of the model that is trained."""
    with pytest.raises(ConfigError, match=words):
        load_pairs(tasks(tmp_path / "tasks", TASKS, **changes), store)


def test_a_run_trains_on_the_pairs(tmp_path: Path, configure: Configure, store: Store, written: list[int]) -> None:
    """Preparing a run makes the pairs; its loss begins at log 2, and its process completes each prompt once."""
    config: RunConfig = configure(dataset=tasks(tmp_path / "tasks", TASKS), trainer__max_steps=2)
    reference_table.forget_prepared()
    assert len(tokenise(config, store).train) == manifest_of(store)["splits"]["train"]["pairs"] >= 8
    train(config, store.run("run"), store, lambda: False)
    first = json.loads((store.run("run").path / "metrics.jsonl").read_text().splitlines()[0])
    assert first["loss"] == pytest.approx(0.693147, abs=1e-5)
    assert sum(written) == 10


COUNT_BATCHES = """
from launcher.worker.dataset import weak_rejects
complete = weak_rejects.complete
def counting(*arguments):
    with open(sys.argv[1] + f"/batches-{rank}", "a") as file:
        file.write("batch\\n")
    return complete(*arguments)
weak_rejects.complete = counting
"""


def test_of_two_ranks_the_first_completes(tmp_path: Path, configure: Configure, store: Store) -> None:
    """In the job that prepares a sweep rank 0 writes every batch; the other waits, and shares the reference pass."""
    config: RunConfig = configure(dataset=tasks(tmp_path / "tasks", TASKS))
    job = store.cache("prepare", "key") / "001" / "0"
    write_once(job / "job.json", {"prepare": asdict(config), "root": str(store.root)})
    assert finish(start(job, before=COUNT_BATCHES)) == [0, 0]
    assert PreparingDir(job.parent).done_file.exists()
    assert len(list(store.root.glob("cache/reference/*/table.parquet"))) == 1
    assert {path.name: len(path.read_text().splitlines()) for path in job.glob("batches-*")} == {"batches-0": 3}


NAMED = ["dataset=weak_rejects", "dataset.name=tasks", "dataset.weak_rejects.path=org/tasks"]


def test_the_weaker_model_belongs_to_the_run() -> None:
    """Pairs of another weaker model make another run; without the section no run id knows of it."""
    one, two = (sweep_of("model=tiny", *NAMED, f"dataset.weak_rejects.seed={seed}").runs[0] for seed in (0, 1))
    assert one.run_id != two.run_id
    assert sweep_of("model=tiny").runs[0].objective["dataset"]["weak_rejects"] is None


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("dataset.weak_rejects.max_new_tokens=0", "dataset.weak_rejects.max_new_tokens=0: must be at least 1"),
        ("dataset.weak_rejects.temperature=-1", "dataset.weak_rejects.temperature=-1.0: must be a number of at least"),
        ("dataset.weak_rejects.path=./tasks", "dataset.weak_rejects.path=./tasks: what is on disk needs its absolute"),
        ("dataset.weak_rejects.model.quantization=8bit", "dataset.weak_rejects.model.quantization=8bit: must be"),
        ("dataset.weak_rejects.model.dtype=float16", "dataset.weak_rejects.model.dtype=float16: must be one of auto"),
        ("dataset.builder=movie_reviews", "dataset.builder=movie_reviews: dataset.weak_rejects goes with weak_rejects"),
    ],
)
def test_a_wrong_value_is_refused_when_the_sweep_is_planned(argument: str, words: str) -> None:
    """One line names the key, the value and what would be right."""
    with pytest.raises(ConfigError) as refusal:
        sweep_of("model=tiny", *NAMED, argument)
    assert str(refusal.value).startswith(words)


def test_missing_sources_are_refused_at_launch(launch: Launch, tmp_path: Path) -> None:
    """On the login node, before anything is written: the columns of a local file, the folder of the weaker model."""
    tasks(tmp_path / "tasks", [{"question": "Q", "answer": "A"}])
    here = ["model=tiny", *NAMED[:2], f"dataset.weak_rejects.path={tmp_path / 'tasks'}", "dry_run=true"]
    weaker = ["dataset.weak_rejects.model.gguf_file=null", "dataset.weak_rejects.model.path"]
    done = launch(*here, weaker[0], f"{weaker[1]}=/no/such")
    assert done.returncode == 2
    assert done.stderr.startswith("prefsweep: dataset.weak_rejects.model.path=/no/such: no such folder")
    done = launch(*here, weaker[0], f"{weaker[1]}=org/weak")
    assert done.returncode == 2
    assert "dataset.weak_rejects.columns: " in done.stderr
    assert "has no column prompt, completion; it has answer, question; map" in done.stderr
    mapped = [
        f"+dataset.weak_rejects.columns.{ours}={b}" for ours, b in (("prompt", "question"), ("completion", "answer"))
    ]
    done = launch(*here, weaker[0], f"{weaker[1]}=org/weak", *mapped)
    assert done.returncode == 0, done.stderr
    assert "dataset.weak_rejects.model.path=org/weak@main: not looked up" in done.stderr
