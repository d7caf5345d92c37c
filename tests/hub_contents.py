"""Tiny models and data sets under the names and at the commits that conf/ gives, for a Hub on loopback.

Columns, splits and roles are those of the real data sets, and their cards say it as the real ones do; the rows, and the
weights, are made on the spot. The branch main of what conf/ pins has moved on since, so that whoever loses the commit
on the way finds other weights and other rows.
"""

from __future__ import annotations

import hashlib
import io
import random
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow
import pyarrow.parquet
import yaml
from conftest import REPOSITORY
from hub_server import HubServer
from worker_fixtures import ARCHITECTURE, WORDS

MODELS = {"zephyr_7b_sft": "mistral_7b", "openhermes": None}  # whose template conf/ gives; None: ChatML
TRAIN, TEST = 40, 10
MESSAGES = pyarrow.list_(pyarrow.struct([("content", pyarrow.string()), ("role", pyarrow.string())]))
TYPES = {str: pyarrow.string(), float: pyarrow.float64(), bool: pyarrow.bool_(), list: MESSAGES}
Row = dict[str, Any]


def plant_everything(hub: HubServer) -> None:
    """Every model and data set of pref_align_scan, zephyr_ipo_lora and kto_unpaired."""
    for number, choice in enumerate(MODELS):
        plant(hub, "model", choice, partial(model_files, choice), seed=2 * number)
    for choice in DATA_SETS:
        plant(hub, "dataset", choice, partial(data_files, choice), seed=0)


def named(kind: str, choice: str) -> dict[str, Any]:
    """What conf/ says of a model or data set."""
    said: dict[str, Any] = yaml.safe_load((REPOSITORY / "conf" / kind / f"{choice}.yaml").read_text())
    return said


def plant(hub: HubServer, kind: str, choice: str, content: Callable[[int], dict[str, bytes]], *, seed: int) -> None:
    """What conf/ names, made from `seed`; where that is a commit, main has moved on to what another seed makes."""
    path, revision = named(kind, choice)["path"], named(kind, choice)["revision"]
    pinned = re.fullmatch("[0-9a-f]{40}", revision) is not None
    hub.plant(kind, path, content(seed), **({"commit": revision} if pinned else {"branch": revision}))
    if pinned:
        hub.plant(kind, path, content(seed + 1))


# ------------------------------------------------------------------------------------------------ models


def model_files(choice: str, seed: int) -> dict[str, bytes]:
    """A tiny Llama in two files of weights, its chat template where models of that time have it."""
    from transformers import AutoModelForCausalLM

    from launcher.worker.model.tiny import build_tiny, byte_tokenizer

    tokenizer, template = byte_tokenizer(), MODELS[choice]
    if template is not None:
        tokenizer.chat_template = named("model", template)["chat_template"]
    with TemporaryDirectory() as made, TemporaryDirectory() as divided:
        build_tiny(ARCHITECTURE | {"seed": seed}, Path(made))
        AutoModelForCausalLM.from_pretrained(made).save_pretrained(divided, max_shard_size="80KB")
        tokenizer.save_pretrained(divided, save_jinja_files=False)
        files = {path.name: path.read_bytes() for path in Path(divided).iterdir()}
    readme = f"---\nlicense: apache-2.0\nlibrary_name: transformers\n---\n# {choice}, tiny\n".encode()
    return {**files, "README.md": readme, ".gitattributes": b"*.safetensors filter=lfs\n"}


# ------------------------------------------------------------------------------------------------ data sets


def ultrafeedback_row(draw: random.Random) -> Row:
    """The prompt as text, and repeated as the first message of both completions."""
    prompt = sentence(draw)
    asked, chosen, rejected = message("user", prompt), *(message("assistant", sentence(draw)) for _ in range(2))
    return {
        "prompt": prompt, "prompt_id": hashlib.sha256(prompt.encode()).hexdigest(), "chosen": [asked, chosen],
        "rejected": [asked, rejected], "messages": [asked, chosen], "score_chosen": 8.0, "score_rejected": 4.5,
    }  # fmt: skip


def orca_row(draw: random.Random) -> Row:
    """Both completions begin with what the system says, which may be nothing, and what the user asks."""
    prompt, system = sentence(draw), draw.choice(("", "You are a helpful assistant."))
    before = [message("system", system), message("user", prompt)]
    answers = [[*before, message("assistant", sentence(draw))] for _ in range(2)]
    return {"chosen": answers[0], "rejected": answers[1], "prompt": prompt}


def kto_row(draw: random.Random) -> Row:
    """Messages in both columns, of which the prompt may hold a whole conversation."""
    turns = [message(role, sentence(draw)) for role in ("user", "assistant", "user")]
    answer = message("assistant", sentence(draw))
    return {"prompt": turns[draw.choice((0, 2)) :], "completion": [answer], "label": draw.random() < 0.5}


DATA_SETS: dict[str, tuple[tuple[str, ...], Callable[[random.Random], Row]]] = {
    "ultrafeedback_binarized": (
        ("train_prefs", "train_sft", "test_prefs", "test_sft", "train_gen", "test_gen"),
        ultrafeedback_row,
    ),
    "orca_dpo_pairs": (("train_prefs", "test_prefs"), orca_row),
    "kto_mix": (("train", "test"), kto_row),
}


def data_files(choice: str, seed: int) -> dict[str, bytes]:
    """A parquet file for each split, and a card that says where they are and what is in them."""
    splits, row = DATA_SETS[choice]
    draw = random.Random(f"{choice} {seed}")  # noqa: S311 - made-up text
    rows = {split: [row(draw) for _ in range(TEST if split.startswith("test") else TRAIN)] for split in splits}
    files = {f"data/{split}-00000-of-00001.parquet": parquet(rows[split]) for split in splits}
    return {**files, "README.md": card(choice, rows, files), ".gitattributes": b"*.parquet filter=lfs\n"}


def parquet(rows: list[Row]) -> bytes:
    schema = pyarrow.schema([(name, TYPES[type(value)]) for name, value in rows[0].items()])
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema=schema), buffer)
    return buffer.getvalue()


def card(choice: str, rows: dict[str, list[Row]], files: dict[str, bytes]) -> bytes:
    """README.md with the metadata by which datasets finds the splits, and checks that all rows have come."""
    first = next(iter(rows.values()))[0]
    data_files = [{"split": split, "path": f"data/{split}-*"} for split in rows]
    sizes = zip(rows.items(), files.values(), strict=True)
    told = {
        "license": "mit",
        "configs": [{"config_name": "default", "data_files": data_files}],
        "dataset_info": {
            "features": [feature(name, value) for name, value in first.items()],
            "splits": [
                {"name": name, "num_bytes": len(data), "num_examples": len(each)} for (name, each), data in sizes
            ],
            "download_size": sum(map(len, files.values())),
            "dataset_size": sum(map(len, files.values())),
        },
    }
    return f"---\n{yaml.safe_dump(told, sort_keys=False)}---\n# {choice}, tiny\n".encode()


def feature(name: str, value: object) -> dict[str, Any]:
    if isinstance(value, list):
        return {"name": name, "list": [{"name": each, "dtype": "string"} for each in ("content", "role")]}
    return {"name": name, "dtype": {str: "string", float: "float64", bool: "bool"}[type(value)]}


def message(role: str, content: str) -> dict[str, str]:
    return {"content": content, "role": role}


def sentence(draw: random.Random) -> str:
    return " ".join(draw.choice(WORDS) for _ in range(draw.randint(3, 6)))
