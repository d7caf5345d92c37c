"""launcher.model.adapter, launcher.worker.model.merging: an adapter of an SFT as the starting point."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, LoraModel, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from worker_fixtures import ARCHITECTURE, LORA, Configure

from launcher.config import Model
from launcher.errors import ConfigError, UsageError
from launcher.model.adapter import adapter_in, adapter_of
from launcher.store.output_folder import Store
from launcher.store.run_folder import RunDir
from launcher.worker.hub import record_sources
from launcher.worker.model import base_model
from launcher.worker.model import weights as models
from launcher.worker.model.tiny import build_tiny
from launcher.worker.training.train import Stopped, load_trained, train

IDS = torch.arange(5, 25).unsqueeze(0)
Make = Callable[..., Path]


@pytest.fixture
def make_adapter(tmp_path: Path) -> Make:
    """An adapter of a tiny model, far enough from it to be told apart, in a folder as the handbook leaves it."""
    build_tiny(ARCHITECTURE, tmp_path / "base")

    def make(name: str = "sft", *, config_json: bool = True, tokens: int = 0, **options: Any) -> Path:
        folder = tmp_path / name
        base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base")
        tokenizer.add_tokens([f"<more{number}>" for number in range(tokens)])
        if tokens:
            base.resize_token_embeddings(len(tokenizer))
        lora = LoraConfig(**{"r": 4, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **options})
        adapted = get_peft_model(base, lora)
        torch.manual_seed(1)
        with torch.no_grad():
            for weights in adapted.parameters():
                if weights.requires_grad:
                    weights.add_(torch.randn_like(weights) * 0.3)
        adapted.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        if config_json:
            shutil.copyfile(tmp_path / "base" / "config.json", folder / "config.json")
        return folder

    return make


def model_at(folder: Path, **changes: Any) -> Model:
    return replace(Model(name="sft", path=str(folder), dtype="float32"), **changes)


def models_folder(folder: Path, store: Store) -> str:
    return base_model.ensure_base(model_at(folder), store)


def logits_by_peft(folder: Path) -> torch.Tensor:
    """What plain peft computes with the adapter on top of its base."""
    base = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
    module = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if (more := len(AutoTokenizer.from_pretrained(folder))) > module.config.vocab_size:
        module.resize_token_embeddings(more)
    return logits_of(PeftModel.from_pretrained(module, folder))


def logits_of(module: Any) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = module.eval()(input_ids=IDS).logits
    return logits


def loaded(folder: str | Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def first_loss(run: RunDir) -> float:
    return float(json.loads(run.metrics_file.read_text().splitlines()[0])["loss"])


def name_base(adapter: Path, base: Path) -> None:
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "base_model_name_or_path": str(base)}))


# ------------------------------------------------------------------------------------------------ merging


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"config_json": False},
        {"use_dora": True},
        {"use_rslora": True, "lora_alpha": 32},
        {"modules_to_save": ["lm_head"], "target_modules": ["q_proj", "v_proj"]},
        {"tokens": 3, "modules_to_save": ["embed_tokens", "lm_head"], "target_modules": ["q_proj"]},
    ],
)
def test_the_merged_model_is_the_base_with_its_adapter(make_adapter: Make, store: Store, options: Any) -> None:
    """It computes what plain peft does, whatever the adapter changes; its folder is a model like any other."""
    folder = make_adapter(**options)
    merged = base_model.ensure_base(model_at(folder), store)
    logits = logits_of(loaded(merged))
    assert (logits - logits_by_peft(folder)).abs().max() < 1e-4
    base = loaded(folder.parent / "base")
    assert (logits[..., : base.vocab_size] - logits_of(base)).abs().max() > 0.01
    assert not (Path(merged) / "adapter_config.json").exists()
    assert len(AutoTokenizer.from_pretrained(merged)) == len(AutoTokenizer.from_pretrained(folder))


def test_a_tied_head_that_the_adapter_changes_is_kept(tmp_path: Path, make_adapter: Make, store: Store) -> None:
    """A base whose head is its embeddings has a head of its own once the adapter has trained one."""
    shutil.rmtree(tmp_path / "base")
    build_tiny(ARCHITECTURE | {"tie_word_embeddings": True}, tmp_path / "base")
    folder = make_adapter(modules_to_save=["lm_head"], target_modules=["q_proj"])
    merged = loaded(base_model.ensure_base(model_at(folder), store))
    assert (logits_of(merged) - logits_by_peft(folder)).abs().max() < 1e-4


@pytest.mark.parametrize("target", [["lm_head"], ["embed_tokens"], ["embed_tokens", "lm_head", "q_proj"]])
def test_tied_embeddings_that_the_adapter_changes_are_parted(
    tmp_path: Path, make_adapter: Make, store: Store, target: list[str]
) -> None:
    """A change of one of two that share their weights is no change of the other."""
    shutil.rmtree(tmp_path / "base")
    build_tiny(ARCHITECTURE | {"tie_word_embeddings": True}, tmp_path / "base")
    folder = make_adapter(target_modules=target)
    merged = loaded(models_folder(folder, store))
    assert (logits_of(merged) - logits_by_peft(folder)).abs().max() < 1e-3
    assert (logits_of(merged) - logits_of(loaded(tmp_path / "base"))).abs().max() > 0.1


def test_what_peft_cannot_merge_is_refused(make_adapter: Make, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The merged model is compared with base and adapter: a merge that is wrong, for whatever reason, is not used."""
    folder = make_adapter()
    merge = LoraModel.merge_and_unload

    def wrong(self: Any, *args: Any, **kwargs: Any) -> Any:
        merged = merge(self, *args, **kwargs)
        with torch.no_grad():
            merged.lm_head.weight.add_(0.01)
        return merged

    monkeypatch.setattr(LoraModel, "merge_and_unload", wrong)
    with pytest.raises(ConfigError, match=r"merged into its base it is another model \(logits up to \d"):
        models_folder(folder, store)
    assert not list(store.cache("models", "x").parent.glob("merged-*"))


@pytest.mark.parametrize("target", [["embed_tokens"], ["lm_head"], ["embed_tokens", "lm_head"]])
def test_weights_that_stay_tied_are_merged_as_such_or_refused(
    tmp_path: Path, make_adapter: Make, store: Store, target: list[str]
) -> None:
    """peft's `ensure_weight_tying`: whatever comes of it computes what plain peft does."""
    shutil.rmtree(tmp_path / "base")
    build_tiny(ARCHITECTURE | {"tie_word_embeddings": True}, tmp_path / "base")
    folder = make_adapter(target_modules=target, ensure_weight_tying=True)
    merged = None
    with suppress(ConfigError):
        merged = logits_of(loaded(models_folder(folder, store)))
    assert merged is None or (merged - logits_by_peft(folder)).abs().max() < 1e-3


def test_trained_tokens_and_tokens_without_embeddings(make_adapter: Make, store: Store) -> None:
    """An adapter may bring new values for some tokens only; a tokenizer with more tokens enlarges the embeddings."""
    folder = make_adapter(trainable_token_indices=[5, 6, 7], target_modules=["q_proj"])
    assert (logits_of(loaded(models_folder(folder, store))) - logits_by_peft(folder)).abs().max() < 1e-4
    tokens = AutoTokenizer.from_pretrained(folder)
    tokens.add_tokens(["<one more>"])
    tokens.save_pretrained(folder)
    merged = loaded(models_folder(folder, store))
    assert merged.get_input_embeddings().weight.shape[0] == len(tokens)


@pytest.mark.parametrize("kept", [0.0, 0.5])
def test_an_adapter_whose_weights_do_not_fit_is_refused(make_adapter: Make, store: Store, kept: float) -> None:
    """Where none of them, or only some, are those of its configuration; peft would leave the rest out in silence."""
    folder = make_adapter()
    weights = sorted(load_file(folder / "adapter_model.safetensors").items())
    part = int(len(weights) * kept)
    renamed = {
        name if n < part else name.replace("model.", "model._orig_mod.", 1): w for n, (name, w) in enumerate(weights)
    }
    save_file(renamed, folder / "adapter_model.safetensors")
    with pytest.raises(
        ConfigError, match=r"its weights are not those of its adapter_config\.json on this base: \d+ missing"
    ):
        models_folder(folder, store)


def test_a_template_beside_an_adapter_without_a_tokenizer_counts(make_adapter: Make, store: Store) -> None:
    """The base's tokenizer, with the adapter's template; in the merged folder too."""
    folder = make_adapter()
    for path in folder.glob("tokenizer*"):
        path.unlink()
    (folder / "chat_template.jinja").write_text("of the adapter")
    assert models.tokenizer(model_at(folder), store).chat_template == "of the adapter"
    assert AutoTokenizer.from_pretrained(models_folder(folder, store)).chat_template == "of the adapter"


def test_a_checkpoint_that_lacks_weights_is_refused(tmp_path: Path, store: Store) -> None:
    """They would be drawn at random, and trained on."""
    build_tiny(ARCHITECTURE, tmp_path / "whole")
    weights = load_file(tmp_path / "whole" / "model.safetensors")
    gone = next(name for name in weights if "mlp" in name)
    save_file({name: w for name, w in weights.items() if name != gone}, tmp_path / "whole" / "model.safetensors",
              metadata={"format": "pt"})  # fmt: skip
    with pytest.raises(
        ConfigError, match=rf"lacks weights that its config\.json asks for \({gone}\); they would be random"
    ):
        models.load(model_at(tmp_path / "whole"), store)


def test_weights_beside_an_adapter_are_not_its_base(make_adapter: Make, store: Store) -> None:
    """Whatever else lies in the folder, merged weights for one: the base is the one that the adapter names."""
    folder = make_adapter()
    logits = logits_by_peft(folder)
    other = loaded(folder.parent / "base")
    with torch.no_grad():
        other.lm_head.weight.add_(1.0)
    other.save_pretrained(folder)
    assert (folder / "model.safetensors").exists()
    assert (logits_of(loaded(base_model.ensure_base(model_at(folder), store))) - logits).abs().max() < 1e-4


def test_an_adapter_of_an_adapter(make_adapter: Make, store: Store) -> None:
    """The one below is merged first."""
    below, above = make_adapter("below"), make_adapter("above")
    name_base(above, below)
    middle = loaded(base_model.ensure_base(model_at(below), store))
    expected = logits_of(PeftModel.from_pretrained(middle, above))
    assert (logits_of(loaded(base_model.ensure_base(model_at(above), store))) - expected).abs().max() < 1e-4


def test_merging_is_done_once_and_known_by_content(make_adapter: Make, store: Store) -> None:
    """A second run finds the folder; another adapter, another base or another precision is another folder."""
    folder = make_adapter()
    first, known = base_model.ensure_base(model_at(folder), store), base_model.fingerprint(model_at(folder), store)
    written = (Path(first) / "model.safetensors").stat().st_mtime_ns
    assert base_model.ensure_base(model_at(folder), store) == first
    assert (Path(first) / "model.safetensors").stat().st_mtime_ns == written
    half = base_model.ensure_base(model_at(folder, dtype="bfloat16"), store)
    assert half != first
    assert load_file(Path(half) / "model.safetensors")["lm_head.weight"].dtype is torch.bfloat16
    assert known.keys() == {"adapter", "base"}
    other = make_adapter("other", r=2)
    assert base_model.fingerprint(model_at(other), store)["adapter"] != known["adapter"]
    assert base_model.fingerprint(model_at(other), store)["base"] == known["base"]
    build_tiny(ARCHITECTURE | {"seed": 5}, folder.parent / "base")
    assert base_model.fingerprint(model_at(folder), store)["base"] != known["base"]
    assert base_model.ensure_base(model_at(folder), store) != first


# ------------------------------------------------------------------------------------------------ training


@pytest.mark.parametrize("lora", [None, LORA])
@pytest.mark.parametrize(("loss", "start"), [("sigmoid", math.log(2)), ("ipo", 25.0), ("kto_pair", 0.5)])
def test_training_starts_from_the_merged_model(
    make_adapter: Make, configure: Configure, store: Store, lora: object, loss: str, start: float
) -> None:
    """The first loss is that of a policy which is its own reference: the adapter counts in both."""
    config = configure(model=model_at(make_adapter()), trainer__lora=lora, loss_type=loss, trainer__max_steps=1)
    run = store.run("r")
    train(config, run, store, lambda: False)
    assert first_loss(run) == pytest.approx(start, abs=1e-4 if loss != "ipo" else 1e-3)


def test_what_was_trained_is_what_its_folder_holds(make_adapter: Make, configure: Configure, store: Store) -> None:
    """The adapter on the merged model, loaded by plain peft, computes what the evaluation computes with."""
    config = configure(model=model_at(make_adapter()), trainer__lora=LORA, trainer__max_steps=2)
    run = store.run("r")
    train(config, run, store, lambda: False)
    evaluated = logits_of(load_trained(config, run, store).model)
    assert (logits_by_peft(run.model) - evaluated).abs().max() < 1e-5


def test_a_run_that_has_begun_is_held_to_its_model(make_adapter: Make, configure: Configure, store: Store) -> None:
    """Another adapter in the same folder: the run does not go on from it, nor is it measured against it."""
    folder = make_adapter()
    config, run = configure(model=model_at(folder), trainer__lora=LORA), store.run("r")
    record_sources(config, run, store)
    stops = iter([False, False, True, True])
    with pytest.raises(Stopped):
        train(config, run, store, lambda: next(stops, True))
    make_adapter(r=2)
    with pytest.raises(
        UsageError, match=r"r: its model is not the one that it was trained on so far \(.*sources\.json\)"
    ):
        record_sources(config, run, store)
    shutil.rmtree(run.checkpoints)  # nothing is left of the training: it begins anew
    record_sources(config, run, store)
    assert json.loads(run.sources_file.read_text())["model"] == base_model.fingerprint(config.model, store)


# ------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "adapter_config.json is not JSON"),
        ("[]", "adapter_config.json holds no mapping"),
        ('{"peft_type": "LORA"}', "does not say which model the adapter belongs to; set base_model_name_or_path there"),
        (
            '{"peft_type": "PROMPT_TUNING", "base_model_name_or_path": "a/b"}',
            "of peft_type PROMPT_TUNING, which change",
        ),
    ],
)
def test_what_is_no_adapter_that_can_be_merged(text: str, words: str) -> None:
    """One line with the folder, what is wrong and what would be right."""
    with pytest.raises(ConfigError, match=r"model\.path=/sft: .*" + words):
        adapter_of(text, "model.path", "/sft")


def test_an_adapter_of_itself_is_refused(make_adapter: Make, store: Store) -> None:
    """Its base would be sought for ever."""
    folder = make_adapter()
    name_base(folder, folder)
    assert adapter_in(folder) is not None
    with pytest.raises(ConfigError, match=r"base_model_name_or_path in its adapter_config\.json is the adapter itself"):
        base_model.ensure_base(model_at(folder), store)


def test_packed_weights_take_no_adapter(make_adapter: Make, store: Store) -> None:
    """An adapter whose base is quantised is refused with the way out."""
    folder = make_adapter()
    file = folder.parent / "base" / "config.json"
    packed = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    file.write_text(json.dumps({**json.loads(file.read_text()), "quantization_config": packed}))
    with pytest.raises(
        ConfigError, match="holds packed weights, into which no adapter can be merged; name the base in"
    ):
        base_model.ensure_base(model_at(folder), store)
