"""A tiny model and made-up pairs, shared by the tests of the compute-node side."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from launcher.config import (
    Checkpoint,
    Cluster,
    Dataset,
    Evaluation,
    Hub,
    Lora,
    Model,
    RunConfig,
    Tracking,
    Trainer,
)

ARCHITECTURE = {
    "model_type": "llama",
    "seed": 0,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
WORDS = ("film", "was", "long", "and", "warm", "or", "cold", "a", "hero", "ran", "far", "from", "his", "town")
LORA = Lora(r=4, alpha=8)


def write_pairs(folder: Path, train: int = 32, test: int = 6) -> Path:
    """A folder with train.jsonl and test.jsonl of made-up sentences, the same each time."""
    draw = random.Random(0)  # noqa: S311 - made-up text

    def sentence() -> str:
        return " " + " ".join(draw.choice(WORDS) for _ in range(draw.randint(2, 6)))

    folder.mkdir(parents=True, exist_ok=True)
    for split, count in (("train", train), ("test", test)):
        rows = [{"prompt": "Story:", "chosen": sentence(), "rejected": sentence()} for _ in range(count)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def make_config(folder: Path, **changes: Any) -> RunConfig:
    """A run of the tiny model on the pairs in `folder`; `section__key=value` changes a key of a section."""
    config = RunConfig(
        model=Model(name="tiny", architecture=dict(ARCHITECTURE), dtype="float32"),
        dataset=Dataset(name="made-up", path=str(folder), prompts=["Story:", "Story: the"], golden_reward="vader"),
        trainer=Trainer(name="full", learning_rate=1e-3, max_steps=6, batch_size=8, micro_batch_size=4, max_length=64),
        loss_type="sigmoid",
        beta=0.1,
        seed=1,
        cluster=Cluster(),
        checkpoint=Checkpoint(every=2),
        hub=Hub(),
        tracking=Tracking(),
        evaluation=Evaluation(batch_size=4, generations=6, max_new_tokens=5, samples=3),
        output_dir="unused",
    )
    for name, value in changes.items():
        section, _, key = name.partition("__")
        config = replace(config, **{section: replace(getattr(config, section), **{key: value}) if key else value})
    return config


Configure = Callable[..., RunConfig]


@pytest.fixture
def configure(tmp_path: Path) -> Configure:
    """Makes configs of the tiny model on pairs in this test's folder."""
    folder = write_pairs(tmp_path / "pairs")
    return lambda **changes: make_config(folder, **changes)
