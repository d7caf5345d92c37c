"""launcher.model.limits, worker.training.fit: what a model does not take is told before anything is computed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from conftest import Launch
from test_sampling import with_settings
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel
from worker_fixtures import ARCHITECTURE, Configure, write_pairs

from launcher.config import Model
from launcher.errors import ConfigError
from launcher.model.limits import positions_of
from launcher.store.output_folder import Store
from launcher.worker.model import weights
from launcher.worker.training import reference_table
from launcher.worker.training.train import train

ROPE = {"max_position_embeddings": 4096}


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        ({"n_positions": 32}, 32),
        ({"n_ctx": 512}, 512),
        (ROPE, 4096),
        ({"text_config": ROPE, "max_position_embeddings": 7}, 4096),
        (ROPE | {"rope_scaling": None}, 4096),
        (ROPE | {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}, 4096),
        (ROPE | {"rope_scaling": {"type": "linear", "factor": 4.0}}, 16384),
        (ROPE | {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048}}, 8192),
        (ROPE | {"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 2048}}, 4096),
        (ROPE | {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, 4096),
        (ROPE | {"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 8.0}}}, 32768),
        ({"model_type": "bloom"}, None),
        ({"model_type": "mamba", "hidden_size": 8}, None),
        ({"model_type": "falcon", "max_position_embeddings": 2048, "alibi": True}, None),
        ({"model_type": "mpt", "max_seq_len": 2048, "attn_config": {"alibi": True}}, None),
        ({"max_position_embeddings": -1}, None),
    ],
)
def test_positions_by_a_models_configuration(config: dict[str, Any], limit: int | None) -> None:
    """Absolute and rotary ones, scaled or not, in a model of several parts; none where nothing limits them."""
    found = positions_of(config)
    assert (found and found[1]) == limit


@pytest.fixture
def folders(configure: Configure, store: Store, tmp_path: Path) -> dict[str, Path]:
    """short: 32 absolute positions; pad: one token more than rows; endless: a tokenizer without an end token."""
    made = {name: tmp_path / name for name in ("short", "pad", "endless")}
    for folder in made.values():
        with_settings(configure(), store, folder)
    tokens = AutoTokenizer.from_pretrained(made["short"])
    shape = {"n_embd": 32, "n_layer": 2, "n_head": 2, "bos_token_id": 1, "eos_token_id": 2}
    GPT2LMHeadModel(GPT2Config(vocab_size=len(tokens), n_positions=32, **shape)).save_pretrained(made["short"])
    more = AutoTokenizer.from_pretrained(made["pad"])
    more.add_special_tokens({"pad_token": "[PAD]"})
    more.save_pretrained(made["pad"])
    said = json.loads((made["endless"] / "tokenizer_config.json").read_text())
    (made["endless"] / "tokenizer_config.json").write_text(json.dumps(said | {"eos_token": None}))
    return made


PAD = r"its tokenizer goes beyond the 259 rows of its embedding \('\[PAD\]' is 259; vocab_size in its config\.json\)"
SHORT = r"above the 32 positions of model \S+ \(n_positions\); give at most 32"
LIMITS = [
    ("short", rf"trainer\.max_length=64: {SHORT}"),
    ("pad", rf"model\.path=\S+/pad: {PAD}; resize the embedding"),
    ("endless", r"model\.path=\S+/endless: its tokenizer has no end token; name one as eos_token in its tokenizer_con"),
]


@pytest.mark.parametrize(("name", "message"), LIMITS)
def test_the_plan_tells_of_a_local_folders_limits(
    launch: Launch, folders: dict[str, Path], tmp_path: Path, name: str, message: str
) -> None:
    """One line with key, value and limit, exit 2, and nothing written."""
    write_pairs(tmp_path / "pairs")
    words = ["-m", "model=custom", "model.name=m", f"model.path={folders[name]}", "dataset=./pairs", "trainer=full"]
    told = launch(*words, "trainer.max_length=64", "loss_type=sigmoid", "beta=0.1", "dry_run=true")
    assert told.returncode == 2, told.stdout + told.stderr
    (line,) = told.stderr.splitlines()
    assert re.match(f"prefsweep: {message}", line), line


@pytest.mark.parametrize(("name", "message"), LIMITS)
def test_a_job_tells_of_them_before_the_reference_pass(
    configure: Configure,
    store: Store,
    folders: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    message: str,
) -> None:
    """As of a model on the Hub, whose files the login node has not."""
    monkeypatch.setattr(reference_table, "measure", lambda *_: pytest.fail("it was measured"))
    config = configure(model=Model(name="m", path=str(folders[name]), dtype="float32"))
    with pytest.raises(ConfigError, match=message):
        train(config, store.run("r"), store, lambda: False)


def test_room_behind_the_prompts_is_looked_at_too(configure: Configure, store: Store, folders: dict[str, Path]) -> None:
    """The prompt "Story: the" has 10 tokens; behind them 22 fit, and no more."""
    model = Model(name="m", path=str(folders["short"]), dtype="float32")
    changes: dict[str, Any] = {"trainer__max_length": 32, "trainer__max_steps": 1}
    train(configure(model=model, **changes, evaluation__max_new_tokens=22), store.run("r"), store, lambda: False)
    weights._tokenizer.forget()
    reference_table.forget_prepared()
    with pytest.raises(
        ConfigError,
        match=r"evaluation\.max_new_tokens=23: with a prompt of 10 tokens before them they are above the 32 positions",
    ):
        train(configure(model=model, **changes, evaluation__max_new_tokens=23), store.run("s"), store, lambda: False)


@pytest.mark.parametrize("kind", ["granitemoe", "phimoe"])
def test_experts_that_trl_cannot_balance_are_told(configure: Configure, store: Store, kind: str) -> None:
    """One line, before the reference pass; without their balance the model is trained."""
    experts = ARCHITECTURE | {"model_type": kind, "num_local_experts": 4, "num_experts_per_tok": 2}
    model = Model(name="m", architecture=experts | {"router_aux_loss_coef": 0.1}, dtype="float32")
    told = rf"^model\.path=None: TRL cannot balance the experts of a {kind} \(its .* no num_experts\); set"
    with pytest.raises(ConfigError, match=told):
        train(configure(model=model), store.run("r"), store, lambda: False)
    if kind == "phimoe":
        return  # its router draws random numbers
    model = Model(name="m", architecture=experts | {"router_aux_loss_coef": 0.0}, dtype="float32")
    train(configure(model=model, trainer__max_steps=1), store.run("s"), store, lambda: False)
    assert store.run("s").result_file.exists()
