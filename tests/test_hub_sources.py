"""Models and data sets by their names on the Hub, as a user gives them, against the Hub on loopback."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import clean_environment
from hub_repos import content_of
from hub_server import HubServer, serving
from safetensors.numpy import load_file
from waiting import LONGEST_WAIT
from worker_fixtures import ARCHITECTURE, write_pairs

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SMALL = ["trainer=full", "trainer.learning_rate=1e-3", "trainer.max_steps=3", "trainer.batch_size=8",
         "trainer.micro_batch_size=4", "trainer.max_length=64", "evaluation.generations=2",
         "evaluation.max_new_tokens=4", "model.dtype=float32", "cluster=local", "cluster.runs_per_job=100"]  # fmt: skip
LOSSES = "loss_type=sigmoid,ipo,kto_pair"


@dataclass(frozen=True)
class Place:
    """A folder to work in, a Hub, and a home with that Hub's cache."""

    hub: HubServer
    folder: Path

    def run(self, *arguments: str, home: str = "home", code: str | None = None, **environment: str) -> Any:
        """`python -m launcher ARGUMENTS`, or a piece of code, as a process of its own."""
        command = ["-c", code, *arguments] if code else ["-m", "launcher", *arguments]
        here = {**self.hub.environment(str(self.folder / home)), **environment}
        return subprocess.run(
            [sys.executable, *command], cwd=self.folder, env=clean_environment(**here), capture_output=True, text=True,
            timeout=LONGEST_WAIT, check=False,
        )  # fmt: skip

    def plan(self, *arguments: str, **environment: str) -> Any:
        return self.run("-m", *arguments, *SMALL, "beta=0.1", "dry_run=true", **environment)

    def runs(self, output: str) -> dict[str, Path]:
        """The run folders by what tells them apart: model revision and loss, as config.yaml has them."""
        return {path.name: path for path in sorted((self.folder / output / "runs").iterdir())}


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model in `base`, with its weights in a second form too; a data set in `data`; more of it in `later`."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from launcher.worker.model.tiny import build_tiny

    folder = tmp_path_factory.mktemp("contents")
    build_tiny(ARCHITECTURE, folder / "base")
    build_tiny(ARCHITECTURE | {"seed": 1}, folder / "moved")
    (folder / "base" / "pytorch_model.bin").write_bytes(b"the same weights once more")
    (folder / "base" / "consolidated.safetensors").write_bytes(b"and again")
    write_pairs(folder / "data")
    write_pairs(folder / "later", train=24)
    base = AutoModelForCausalLM.from_pretrained(folder / "base")
    adapted = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, weights in adapted.named_parameters():
            weights.add_(0.3 if "lora_B" in name else 0.0)
    adapted.peft_config["default"].base_model_name_or_path = "org/base"
    adapted.peft_config["default"].revision = COMMIT
    adapted.save_pretrained(folder / "sft")
    return folder


@pytest.fixture
def place(contents: Path, tmp_path: Path) -> Iterator[Place]:
    """A Hub with org/base and org/data."""
    with serving() as hub:
        hub.plant("model", "org/base", contents / "base", commit=COMMIT)
        hub.plant("dataset", "org/data", contents / "data")
        yield Place(hub, tmp_path)


def weights_of(run: Path) -> dict[str, str]:
    return {
        name: hashlib.sha256(value.tobytes()).hexdigest()
        for name, value in load_file(run / "model" / "model.safetensors").items()
    }


# ------------------------------------------------------------------------------------------------ the main job


def loss_of(run_id: str) -> str:
    return run_id.partition("-beta")[0].rpartition("-")[2]


def test_runs_from_the_hub_are_those_from_folders(place: Place, contents: Path) -> None:
    """By name and by commit: TRAINED, published, bit-identical to the same runs from folders; commits are recorded.

    One form of the weights is fetched, once, and one reference pass serves the branch and its commit.
    """
    models = f"model=org/base,org/base@{COMMIT}"
    done = place.run("-m", models, "dataset=org/data", LOSSES, "beta=0.1", *SMALL, "output_dir=hub", "hub=huggingface")
    assert done.returncode == 0, done.stdout + done.stderr
    data = place.hub.repos["datasets/org/data"].branches["main"]
    assert f"model: org/base@main, commit {COMMIT}\n" in done.stdout
    assert f"dataset: org/data@main, commit {data}\n" in done.stdout
    folders = [f"model={contents / 'base'}", f"dataset={contents / 'data'}"]
    done = place.run("-m", *folders, LOSSES, "beta=0.1", *SMALL, "output_dir=here", "hub=off")
    assert done.returncode == 0, done.stdout + done.stderr
    here = {loss_of(name): weights_of(path) for name, path in place.runs("here").items()}
    hub = place.runs("hub")
    assert len(hub) == 6
    assert all(weights_of(path) == here[loss_of(name)] for name, path in hub.items())
    for name, path in hub.items():
        sources = json.loads((path / "sources.json").read_text())
        assert sources == {"model": {"hub": "org/base", "commit": COMMIT}, "dataset": {"commits": {"org/data": data}}}
        revision = json.loads((path / "revision.json").read_text())
        card = place.hub.repos[revision["repo"]].commits[revision["commit"]].files["README.md"].decode()
        assert COMMIT in card, name
        assert data in card, name
        attempt = json.loads((path / "attempt-001.json").read_text())
        assert {COMMIT, data} == set(attempt["settings"]["pins"].values())
    fetched = {file: counts["requests"] for file, counts in place.hub.downloads.items() if "org/base/" in file}
    assert fetched["org/base/model.safetensors"] == 1
    assert not [file for file in fetched if file.endswith((".bin", "consolidated.safetensors"))]
    assert len(list((place.folder / "hub" / "cache" / "reference").glob("*/manifest.json"))) == 1


@pytest.mark.long
def test_an_adapter_names_its_base_on_the_hub(place: Place) -> None:
    """What is published of a LoRA run loads with plain peft, from the Hub alone, as the model that was evaluated."""
    lora = ["trainer=lora", *SMALL[1:]]
    done = place.run("-m", "model=org/base", "dataset=org/data", "loss_type=ipo", "beta=0.1", *lora, "hub=huggingface")
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = place.runs("outputs").values()
    for folder in (run / "model", None):
        config = json.loads((folder / "adapter_config.json").read_text() if folder else _published(place, run))
        assert (config["base_model_name_or_path"], config["revision"]) == ("org/base", COMMIT)


def _published(place: Place, run: Path) -> str:
    revision = json.loads((run / "revision.json").read_text())
    return place.hub.repos[revision["repo"]].commits[revision["commit"]].files["adapter_config.json"].decode()


LOADED = """
import json, sys
import torch
from peft import AutoPeftModelForCausalLM, PeftModel
from transformers import AutoModelForCausalLM
base, commit, sft, lora_model, full_model = sys.argv[1:6]
ids = torch.arange(5, 25).unsqueeze(0)
def logits(module):
    with torch.no_grad():
        return module.eval()(input_ids=ids).logits
published = [json.loads(each) for each in sys.argv[6:]]
lora, full = ({"pretrained_model_name_or_path": each["repo"], "revision": each["revision"]} for each in published)
start = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), sft)
start = start.merge_and_unload()
untrained = logits(start)
by_hand = logits(PeftModel.from_pretrained(start, lora_model))
found = logits(AutoPeftModelForCausalLM.from_pretrained(**lora, dtype=torch.float32))
print("adapter", float((found - by_hand).abs().max()), float((found - untrained).abs().max()))
found = logits(AutoModelForCausalLM.from_pretrained(**full, dtype=torch.float32))
by_hand = logits(AutoModelForCausalLM.from_pretrained(full_model, dtype=torch.float32))
print("full", float((found - by_hand).abs().max()), float((found - untrained).abs().max()))
"""


def test_an_adapter_on_the_hub_is_a_starting_point(place: Place, contents: Path) -> None:
    """Its base at the revision that it names is pinned too; both trainers begin at log 2; the plan says what is done.

    What is published loads with plain peft and transformers, from the Hub alone, and computes what was evaluated.
    """
    place.hub.plant("model", "org/base", contents / "moved")  # so that main is another model than the adapter's base
    place.hub.plant("model", "org/sft", contents / "sft")
    sft = place.hub.repos["org/sft"].branches["main"]
    here = ["model=org/sft", "dataset=org/data", "loss_type=sigmoid", "beta=0.1", "trainer=lora,full"]
    done = place.run("-m", *here, *SMALL[1:], "hub.org=us")
    assert done.returncode == 0, done.stdout + done.stderr
    merged = (
        f"model: org/sft@main is an adapter of org/base@{COMMIT}; the two are merged once, and training starts there"
    )
    assert merged in done.stdout
    found = _by_trainer(place)
    for run in found.values():
        sources = json.loads((run / "sources.json").read_text())["model"]
        assert sources["adapter"] == {"hub": "org/sft", "commit": sft}
        assert sources["base"] == {"hub": "org/base", "commit": COMMIT}
        first = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
        assert first["loss"] == pytest.approx(math.log(2), abs=1e-5)
    revisions = [(found[trainer] / "revision.json").read_text() for trainer in ("lora", "full")]
    folders = [str(found[trainer] / "model") for trainer in ("lora", "full")]
    checked = place.run(
        str(contents / "base"), COMMIT, str(contents / "sft"), *folders, *revisions, code=LOADED, home="reader"
    )
    differences = {line.split()[0]: [float(word) for word in line.split()[1:]] for line in checked.stdout.splitlines()}
    assert differences.keys() == {"adapter", "full"}, checked.stderr
    for difference, trained in differences.values():
        assert difference < 1e-5
        assert trained > 1e-3
    repository = place.hub.repos[json.loads(revisions[0])["repo"]]
    (start,) = [branch for branch in repository.branches if branch.startswith("start-")]
    card = repository.commits[repository.branches[start]].files["README.md"].decode()
    assert "an adapter merged into [org/base]" in card
    assert COMMIT in card
    assert sft in card


def _by_trainer(place: Place) -> dict[str, Path]:
    runs = place.runs("outputs").values()
    return {"lora" if (run / "model" / "adapter_config.json").exists() else "full": run for run in runs}


# ------------------------------------------------------------------------------------------------ what moves


def test_a_sweep_keeps_to_the_commits_that_it_was_launched_with(place: Place, contents: Path) -> None:
    """A branch that moves while a sweep waits, or between two launches, changes nothing there, and the plan says so."""
    first = place.run("-m", "model=org/base", "dataset=org/data", "loss_type=ipo", "beta=0.1", *SMALL, "hub=off")
    assert first.returncode == 0, first.stdout + first.stderr
    data = place.hub.repos["datasets/org/data"].branches["main"]
    moved = place.hub.plant("model", "org/base", contents / "moved").branches["main"]
    place.hub.plant("dataset", "org/data", contents / "later")
    asked = ["-m", "model=org/base", "dataset=org/data", "loss_type=ipo", "beta=0.1,0.2", *SMALL, "hub=off"]
    second = place.run(*asked, home="another")  # whose cache knows of no commit
    assert second.returncode == 0, second.stdout + second.stderr
    assert "1 skip, 1 submit" in second.stdout
    assert f"org/base@main: has moved on to {moved}; runs in " in second.stderr
    assert f"keep to {COMMIT}, to which it was pinned there (model.revision={moved} makes runs on" in second.stderr
    assert "org/data@main: has moved on to" in second.stderr
    for run in place.runs("outputs").values():
        sources = json.loads((run / "sources.json").read_text())
        assert (sources["model"]["commit"], sources["dataset"]["commits"]["org/data"]) == (COMMIT, data)
        assert json.loads((run / "result.json").read_text())["train_pairs"] == 32


def test_a_job_that_nobody_has_pinned_for_pins_for_all(place: Place, contents: Path) -> None:
    """Where the launching machine had no way to the Hub, the first job settles what a branch stands for."""
    code = (
        "import sys; from pathlib import Path; from launcher.store.output_folder import Store\n"
        "from launcher.hub.sources import Source, commit_of\n"
        "print(commit_of(Source('model', 'org/base'), Store(Path(sys.argv[1]))))"
    )
    assert place.run("here", code=code).stdout.strip() == COMMIT
    moved = place.hub.plant("model", "org/base", contents / "moved").branches["main"]
    assert place.run("here", code=code).stdout.strip() == COMMIT
    assert place.run("there", code=code).stdout.strip() == moved


# ------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ["model=org/base@v9", "dataset=org/data"],
            "model.revision=v9: org/base has no such branch, tag or commit; it has main",
        ),
        (
            ["model=org/none", "dataset=org/data"],
            "model.path=org/none@main: the Hub has no such model, or it is private",
        ),
        (
            ["model=org/base", "dataset=org/data@dev"],
            "dataset.revision=dev: org/data has no such branch, tag or commit",
        ),
        (["model=org/base", "dataset=org/none"], "dataset.path=org/none@main: the Hub has no such dataset, or it is"),
        (["model=org/base@" + "f" * 40, "dataset=org/data"], f"model.revision={'f' * 40}: org/base has no such branch"),
        (
            [
                "model=tiny",
                "dataset=mixture",
                "dataset.name=m",
                "dataset.mixture=[{path: org/data, fraction: 1.0}, {path: org/none}]",
            ],
            "dataset.mixture[1].path=org/none@main: the Hub has no such dataset",
        ),
    ],
)
def test_what_is_not_on_the_hub_is_refused_when_planned(place: Place, overrides: list[str], words: str) -> None:
    """In one line with the key, the value and what there is; exit code 2; nothing is written."""
    done = place.plan(*overrides)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"prefsweep: {words}")
    assert done.stderr.count("\n") == 1
    assert not (place.folder / "outputs").exists()


@pytest.mark.parametrize(
    ("gone", "words"),
    [
        (["config.json"], "has no config.json and no adapter_config.json, so it holds no model"),
        (
            ["model.safetensors", "pytorch_model.bin"],
            "holds no weights: no model.safetensors or model.safetensors.index",
        ),
        (["tokenizer.json", "tokenizer_config.json"], "holds no tokenizer"),
        (["model-00002-of-00002.safetensors"], "lacks model-00002-of-00002.safetensors, which model.safetensors.index"),
    ],
)
def test_a_repository_that_holds_no_whole_model_is_refused_when_planned(
    place: Place, contents: Path, gone: list[str], words: str
) -> None:
    """By the names of its files and its index; the same of a folder."""
    files = content_of(contents / "base")
    if "model-00002-of-00002.safetensors" in gone:
        del files["model.safetensors"], files["pytorch_model.bin"]
        shards = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
        files |= dict.fromkeys(shards, b"weights")
        files["model.safetensors.index.json"] = json.dumps(
            {"weight_map": dict(zip("ab", shards, strict=True))}
        ).encode()
    files = {name: data for name, data in files.items() if name not in gone}
    place.hub.plant("model", "org/part", files)
    folder = place.folder / "part"
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    for model in ("org/part", "./part"):
        done = place.plan(f"model={model}", "dataset=org/data")
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert words in done.stderr


def test_a_revision_stays_what_was_typed(place: Place, contents: Path) -> None:
    """1.10 is not 1.1, in whichever way it is given."""
    old = place.hub.repos["org/base"].branches["main"]
    new = place.hub.plant("model", "org/base", contents / "moved").branches["main"]
    place.hub.repos["org/base"].tags.update({"1.1": old, "1.10": new, "1e3": new})
    newer = place.hub.repos["datasets/org/data"].branches["main"]
    place.hub.repos["datasets/org/data"].tags.update({"1.10": newer})
    for given in ("model=org/base@1.10", "model=org/base@1.1,org/base@1.10", "model=org/base@1e3"):
        done = place.plan(given, "dataset=org/data")
        assert f"commit {new}" in done.stdout, done.stderr
    done = place.plan(
        "model=custom", "model.name=b", "model.path=org/base", "model.revision=1.1,1.10", "dataset=org/data"
    )
    assert f"model: org/base@1.1, commit {old}" in done.stdout, done.stderr
    assert f"model: org/base@1.10, commit {new}" in done.stdout
    done = place.plan(
        "model=tiny", "dataset=mixture", "dataset.name=m", "dataset.mixture=[{path: org/data, revision: 1.10}]"
    )
    assert f"org/data@1.10, commit {newer}" in done.stdout, done.stderr


@pytest.mark.long
def test_a_folder_does_not_take_the_place_of_a_name_on_the_hub(place: Place) -> None:
    """Where both may be meant the launch asks; with a revision, and in jobs, the name is on the Hub."""
    write_pairs(place.folder / "org" / "data", train=24)
    done = place.plan("model=org/base", "dataset=org/data")
    assert done.returncode == 2
    assert (
        "dataset=org/data: is both a folder here and of the form of a name on the Hub; give ./org/data" in done.stderr
    )
    done = place.plan("model=org/base", "dataset=org/data@main")
    assert "dataset: org/data@main, commit" in done.stdout
    code = (
        "from pathlib import Path\n"
        "from launcher.config import Dataset; from launcher.store.output_folder import Store\n"
        "from launcher.dataset.shapes import pairs; from launcher.worker.dataset.reading import read\n"
        "rows = read(Dataset(name='d', path='org/data'), Store(Path('outputs')), pairs)\n"
        "print(*map(len, rows))"
    )
    done = place.run(code=code)
    assert done.stdout.split()[-2:] == ["32", "6"], done.stderr
    (place.folder / "m").mkdir()
    done = place.plan("model=./m@v1", "dataset=org/data@main")
    assert "./m is a folder, which has no revision v1; leave out @v1" in done.stderr


@pytest.mark.long
def test_pins_outlive_their_files(place: Place, contents: Path) -> None:
    """A launch finds them in what was recorded before; one whose commit is gone from the Hub says what to do."""
    launch = ["-m", "model=org/base", "dataset=org/data", "loss_type=ipo", "beta=0.1", *SMALL, "hub=off"]
    assert place.run(*launch).returncode == 0
    moved = place.hub.plant("model", "org/base", contents / "moved").branches["main"]
    shutil.rmtree(place.folder / "outputs" / "pins")
    done = place.run(*launch, "dry_run=true")
    assert f"model: org/base@main, commit {COMMIT}" in done.stdout
    assert f"has moved on to {moved}" in done.stderr
    del place.hub.repos["org/base"].commits[COMMIT]
    done = place.run(*launch, "dry_run=true")
    assert done.returncode == 0  # the cache has it
    assert f"is pinned to {COMMIT} in " in done.stderr
    done = place.run(*launch, "dry_run=true", home="another")
    assert done.returncode == 2
    assert "which the Hub does not have any more; remove " in done.stderr


def test_what_a_cache_has_only_half_is_refused_at_an_offline_launch(place: Place) -> None:
    """So is a name that the Hub cannot have, with one line."""
    half = "from huggingface_hub import hf_hub_download as h; h('org/base', 'config.json')"
    assert place.run(code=half).returncode == 0
    launch = ["-m", "loss_type=ipo", "beta=0.1", *SMALL, "hub=off"]
    done = place.run(*launch, "model=org/base", "dataset=org/data", HF_HUB_OFFLINE="1")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "model.path=org/base@main: is not whole in the cache (" in done.stderr
    done = place.run(*launch, "model=tiny", "dataset=org/a--b", HF_HUB_OFFLINE="1")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "dataset.path=org/a--b@main: cannot be a name on the Hub: " in done.stderr


def test_a_gated_model_is_refused_before_anything_is_submitted(place: Place) -> None:
    """Without a token and with one that has no access, each with its remedy; a dry run only says so."""
    place.hub.repos["org/base"].gated = "manual"
    here = ["model=org/base", "dataset=org/data"]
    launch = ["-m", *here, "loss_type=ipo", "beta=0.1", *SMALL]
    with_token = place.run(*launch)
    assert with_token.returncode == 2
    page = f"{place.hub.url}/org/base"
    words = f"model.path=org/base@main: is gated, and this token has no access; ask for it at {page}"
    assert with_token.stderr == f"prefsweep: {words}\n"
    without = place.run(*launch, HF_TOKEN="")
    assert without.returncode == 2
    assert "model.path=org/base@main: is gated, and no token was found here" in without.stderr
    assert f"accept its terms at {page}, then `hf auth login` or HF_TOKEN" in without.stderr
    assert not (place.folder / "outputs").exists()
    dry = place.plan(*here)
    assert dry.returncode == 0, dry.stderr
    assert words in dry.stderr


# ------------------------------------------------------------------------------------------------ offline


def test_a_warm_cache_needs_no_hub_and_a_cold_one_is_refused(place: Place, contents: Path) -> None:
    """With HF_HUB_OFFLINE the cache's commit is used, whatever else the Hub has now; without a cache, one line."""
    launch = ["-m", "model=org/base", "dataset=org/data", "loss_type=ipo", "beta=0.1", *SMALL, "hub=off"]
    warm = place.run(*launch, "output_dir=warm")
    assert warm.returncode == 0, warm.stdout + warm.stderr
    place.hub.plant("model", "org/base", contents / "moved")
    place.hub.plant("dataset", "org/data", contents / "later")
    asked = sum(place.hub.requests.values())
    offline = place.run(*launch, "output_dir=offline", HF_HUB_OFFLINE="1")
    assert offline.returncode == 0, offline.stdout + offline.stderr
    assert sum(place.hub.requests.values()) == asked
    (one,), (other,) = place.runs("warm").values(), place.runs("offline").values()
    assert weights_of(one) == weights_of(other)
    cold = place.run(*launch, "output_dir=cold", home="empty", HF_HUB_OFFLINE="1")
    assert cold.returncode == 2
    assert cold.stderr.startswith("prefsweep: model.path=org/base@main: is not whole in the cache (")
    assert "and HF_HUB_OFFLINE is set; where there is internet: hf download org/base" in cold.stderr
    assert not (place.folder / "cold").exists()


ROWS = """
import sys
from launcher.errors import ConfigError
from launcher.hub.sources import Source
from launcher.worker.dataset import hub_rows
for commit in sys.argv[1:]:
    try:
        source = Source("dataset", "org/data", key="dataset.path")
        print(len(hub_rows.read(source, commit, "dataset.train_split", "train")))
    except ConfigError as error:
        print(error)
"""


def test_rows_are_of_the_commit_that_is_asked_for_without_a_hub_too(place: Place, contents: Path) -> None:
    """Where `datasets` would take what it has prepared last; a commit that is not in the cache is refused."""
    first = place.hub.repos["datasets/org/data"].branches["main"]
    later = place.hub.plant("dataset", "org/data", contents / "later").branches["main"]
    third = place.hub.plant("dataset", "org/data", {**content_of(contents / "later"), "more.txt": b""}).branches["main"]
    assert place.run(first, later, code=ROWS).stdout.split() == ["32", "24"]
    offline = place.run(first, later, third, code=ROWS, HF_HUB_OFFLINE="1").stdout.splitlines()
    assert offline[:2] == ["32", "24"]
    assert "dataset.path=org/data@main: is not whole in the cache" in offline[2]


def test_a_job_refuses_a_split_of_which_a_shard_is_missing(place: Place, contents: Path) -> None:
    """Also where the launch could not know it; the names are asked of the Hub or of the cache."""
    lines = content_of(contents / "later")["train.jsonl"]
    shards = {f"train-{number:05d}-of-00003.jsonl": lines for number in (0, 2)}
    commit = place.hub.plant("dataset", "org/data", {**shards, "test.jsonl": lines}).branches["main"]
    assert "org/data@main lacks train-00001-of-00003.jsonl" in place.run(commit, code=ROWS).stdout


def test_rows_come_from_what_was_downloaded_beforehand(place: Place) -> None:
    """`hf download --repo-type dataset` on a machine with internet is all that a node without one needs."""
    commit = place.hub.repos["datasets/org/data"].branches["main"]
    code = "import sys; from huggingface_hub import snapshot_download as s; s('org/data', repo_type='dataset')"
    assert place.run(code=code).returncode == 0
    assert place.run(commit, code=ROWS, HF_HUB_OFFLINE="1").stdout.split() == ["32"]


# ------------------------------------------------------------------------------------------------ fetching

FETCH = """
import sys
from launcher.errors import ConfigError
from launcher.hub.sources import Source
from launcher.worker import hub_files
hub_files.PATIENCE_SECONDS = hub_files.SILENCE_SECONDS = 3.0
try:
    print("in", hub_files.fetch_model(Source("model", "org/base", key="model.path"), sys.argv[1], *sys.argv[2:]))
except ConfigError as error:
    print("refused:", error)
"""


def test_a_download_that_breaks_off_goes_on_where_it_was(place: Place) -> None:
    """At the byte that it had reached; what came is what is on the Hub."""
    large = bytes(range(256)) * 48_000  # more than huggingface_hub keeps in memory before it writes
    place.hub.plant("model", "org/base", {"config.json": b"{}", "model.safetensors": large}, commit=COMMIT)
    place.hub.spoil("org/base/model.safetensors", "cut:11000000")
    done = place.run(COMMIT, code=FETCH)
    assert " in " in f" {done.stdout}", done.stdout + done.stderr
    folder = Path(done.stdout.split()[-1])
    assert (folder / "model.safetensors").read_bytes() == large
    assert place.hub.downloads["org/base/model.safetensors"]["ranges"] >= 1


@pytest.mark.parametrize("times", [1, 500])
def test_a_hub_in_trouble_is_waited_for(place: Place, times: int) -> None:
    """For a while; then it is one line."""
    place.hub.spoil("org/base/config.json", "500", times)
    done = place.run(COMMIT, code=FETCH)
    if times == 1:
        assert "in " in done.stdout
    else:
        assert "refused: model.path=org/base@main: cannot be read:" in done.stdout


@pytest.mark.long
def test_half_a_model_in_the_cache_is_no_model(place: Place) -> None:
    """What an interrupted download has left is completed, or refused where the Hub cannot be reached."""
    half = "from huggingface_hub import hf_hub_download as h; h('org/base', 'config.json')"
    assert place.run(code=half).returncode == 0
    away = {"HF_ENDPOINT": "http://127.0.0.1:9"}
    for offline in ({"HF_HUB_OFFLINE": "1"}, away):
        done = place.run(COMMIT, code=FETCH, **offline)
        assert "refused: model.path=org/base@main:" in done.stdout, done.stdout + done.stderr
    assert "in " in place.run(COMMIT, code=FETCH).stdout
    for offline in ({"HF_HUB_OFFLINE": "1"}, away):
        assert "in " in place.run(COMMIT, code=FETCH, **offline).stdout


def test_a_repository_without_weights_names_what_it_has(place: Place) -> None:
    """A GGUF file is named with the key that takes it; one that is not there, with those that are."""
    place.hub.plant("model", "org/base", {"config.json": b"{}", "q8.gguf": b"GGUF"}, commit="9" * 40)
    done = place.run("9" * 40, code=FETCH)
    assert "holds no weights: no model.safetensors" in done.stdout
    assert "; give model.gguf_file=q8.gguf" in done.stdout
    done = place.run("9" * 40, "q4.gguf", code=FETCH)
    assert "org/base@main: has no q4.gguf (model.gguf_file); its .gguf files: q8.gguf" in done.stdout
