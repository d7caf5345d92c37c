"""model.trust_remote_code: a model whose code lies beside its weights is trained, evaluated and published with it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, dynamic_module_utils
from worker_fixtures import ARCHITECTURE, Configure

from launcher.config import OBJECTIVE, Checkpoint, Hub, Model
from launcher.hub.push import publish
from launcher.store.files import read_fact
from launcher.store.output_folder import Store
from launcher.store.run_folder import Point, points_of
from launcher.worker.evaluation.preference import evaluate
from launcher.worker.hub import record_sources
from launcher.worker.model.tiny import byte_tokenizer
from launcher.worker.training.train import train

CONFIGURATION = """
from transformers import LlamaConfig

class CentredConfig(LlamaConfig):
    model_type = "centred"
"""
MODELING = """
import torch
from transformers import LlamaForCausalLM
from .configuration_centred import CentredConfig

class CentredForCausalLM(LlamaForCausalLM):
    config_class = CentredConfig

    def __init__(self, config):
        super().__init__(config)
        self.model.norm = torch.nn.LayerNorm(config.hidden_size)  # transformers' own Llama has no bias here
"""
CODE = {"configuration_centred.py": CONFIGURATION, "modeling_centred.py": MODELING}
AUTO_MAP = {
    "AutoConfig": "configuration_centred.CentredConfig",
    "AutoModelForCausalLM": "modeling_centred.CentredForCausalLM",
}


@pytest.fixture
def custom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model of random weights that only its own code can load; transformers keeps copies of code in this folder."""
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(tmp_path / "modules")
    folder = tmp_path / "centred"
    folder.mkdir()
    for name, code in CODE.items():
        (folder / name).write_text(code)
    tokenizer = byte_tokenizer()
    keys = {key: value for key, value in ARCHITECTURE.items() if key not in ("seed", "model_type")}
    told = {"model_type": "centred", "auto_map": AUTO_MAP, "vocab_size": len(tokenizer), **keys}
    (folder / "config.json").write_text(json.dumps(told))
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    AutoModelForCausalLM.from_config(config, trust_remote_code=True).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def weights(folder: Path) -> dict[str, Any]:
    return load_file(folder / "model.safetensors")


def test_a_model_with_code_of_its_own_is_published_whole(custom: Path, configure: Configure, store: Store) -> None:
    """Full fine-tuning with a milestone: both are evaluated, and both revisions load with the weights trained."""
    model = Model(name="centred", path=str(custom), dtype="float32", trust_remote_code=True)
    config = configure(model=model, trainer__lr_scheduler="constant", checkpoint=Checkpoint(every=100, milestones=[2]))
    run = store.run("r")
    run.write_config({key: asdict(config)[key] for key in OBJECTIVE})
    record_sources(config, run, store)
    train(config, run, store, lambda: False)
    evaluate(config, run, store)
    assert [point.step for point in points_of(run)] == [2, None]
    for point in points_of(run):
        assert (read_fact(point.folder.evaluation_file) or {})["pairs"] == 6
        _assert_published_whole(point, store)
    assert not torch.equal(*(weights(folder.model)["model.norm.bias"] for folder in (run, run.milestone(2))))


def _assert_published_whole(point: Point, store: Store) -> None:
    revision = Path(publish(point, Hub(store="folder", repo="centred", revision="ipo"), store).address)
    assert {path.name for path in revision.glob("*.py")} == set(CODE)
    loaded = AutoModelForCausalLM.from_pretrained(revision, trust_remote_code=True).state_dict()
    trained = weights(point.folder.model)
    assert "model.norm.bias" in trained
    assert all(torch.equal(loaded[name], tensor) for name, tensor in trained.items())
    assert f'from_pretrained("{revision}", trust_remote_code=True)' in (revision / "README.md").read_text()
