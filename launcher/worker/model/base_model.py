"""The folder of a base model: found, fetched, unpacked, merged or made; and what identifies its content.

Owns: turning a `Model` of the config into a folder that `from_pretrained` loads, its fingerprint, the name by which
others load it.
Must not know: modules in memory, data, losses, runs.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig
from transformers.utils import logging as transformers_logging

from launcher.config import Model
from launcher.errors import UNSAID, ConfigError, StoreError
from launcher.hub.sources import commit_of, model_source
from launcher.machine.installed import how_to_install
from launcher.machine.locate import place_of
from launcher.machine.terminal import say
from launcher.model.adapter import CONFIG_FILE, Adapter, adapter_in
from launcher.model.files import (
    ADAPTER_FILES,
    TEMPLATE_FILES,
    TOKENIZER_FILES,
    WEIGHT_FILES,
    MissingFiles,
    check_whole,
    files_like,
    has_tokenizer,
)
from launcher.store.entries import is_whole, making
from launcher.store.files import content_key
from launcher.store.hashes import file_sha256
from launcher.store.output_folder import Store
from launcher.worker import hub_files
from launcher.worker.model.merging import merge
from launcher.worker.model.precision import dtype_of
from launcher.worker.model.saving import save
from launcher.worker.model.tiny import build_tiny

LONGEST_WORDS = 300  # characters of a library's error


def ensure_base(model: Model, store: Store) -> str:
    """What `from_pretrained` loads: a folder, fetched from the Hub or made in the cache where there is none yet.

    Raises:
        ConfigError: the model is not there.
    """
    if model.architecture is not None:
        return _ensure_random(model.architecture, store)
    folder = locate(model, store)
    if model.gguf_file is not None:
        return _ensure_dequantised(folder, model.gguf_file, store)
    return str(folder) if adapter_in(folder) is None else _ensure_merged(model, folder, store)


def locate(model: Model, store: Store, *, weights: bool = True) -> Path:
    """The folder that `model.path` stands for; of a model on the Hub only what lies beside the weights, if so asked."""
    if not model.path:
        raise ConfigError(
            "model.path", UNSAID, "neither a path nor an architecture is given; give a Hub id or a folder"
        )
    source = model_source(model)
    if source is not None:
        return hub_files.fetch_model(source, commit_of(source, store), model.gguf_file, weights=weights)
    place = place_of(model.path)
    if place.kind == "package" and place.path is None:
        raise ConfigError("model.path", model.path, how_to_install(place.name))
    if place.path is None or not place.path.is_dir():
        raise ConfigError("model.path", model.path, "there is no such folder on this machine")
    return place.path.resolve()


@contextmanager
def _making(folder: Path) -> Iterator[Path | None]:
    """A cache entry that holds a model, as `making` has it: one that is not whole would be trusted for good.

    Raises:
        StoreError: what was made is no whole model.
    """
    with making(folder) as empty:
        yield empty
        try:
            if empty is not None:
                check_whole(empty)
        except MissingFiles as reason:
            raise StoreError(f"{folder}: the model that was made {reason}") from reason


def _ensure_random(architecture: dict[str, Any], store: Store) -> str:
    """The folder of a model with random weights, made on first use."""
    canonical = json.dumps(architecture, sort_keys=True)
    folder = store.cache("models", f"random-{hashlib.sha256(canonical.encode()).hexdigest()[:12]}")
    with _making(folder) as empty:
        if empty is not None:
            build_tiny(architecture, empty)
    return str(folder)


def _ensure_dequantised(source: Path, gguf_file: str, store: Store) -> str:
    """The folder of a GGUF model as plain safetensors that can be trained, made on first use."""
    folder = _dequantised(source, gguf_file, store)
    with _making(folder) as empty:
        if empty is not None:
            say(f"dequantising {gguf_file} into {folder} (once)")
            _dequantise(source, gguf_file, empty)
    return str(folder)


def _dequantised(source: Path, gguf_file: str, store: Store) -> Path:
    """Where the model of a GGUF file is unpacked to."""
    if not (source / gguf_file).is_file():
        raise ConfigError("model.gguf_file", gguf_file, f"not in {source}")
    digest = file_sha256(source / gguf_file, store)
    return store.cache("models", f"{Path(gguf_file).stem}-{digest[:12]}")


def _ensure_gguf_tokenizer(source: Path, gguf_file: str, store: Store) -> str:
    """The folder of a GGUF model's tokenizer: the whole model's where that is unpacked, else one without weights."""
    model = _dequantised(source, gguf_file, store)
    if is_whole(model):
        return str(model)
    folder = model.with_name(f"{model.name}-tokenizer")
    with making(folder) as empty:
        if empty is not None:
            AutoConfig.from_pretrained(source, gguf_file=gguf_file).save_pretrained(
                empty
            )  # names the kind of tokenizer
            _save_tokenizer(source, gguf_file, empty)
    return str(folder)


def _save_tokenizer(source: Path, gguf_file: str, folder: Path) -> None:
    AutoTokenizer.from_pretrained(source, gguf_file=gguf_file).save_pretrained(folder)


def _ensure_merged(model: Model, folder: Path, store: Store) -> str:
    """The folder of an adapter merged into the model that it belongs to, made on first use."""
    base, dtype = _below(model, folder), dtype_of(model)
    key = content_key([_content(model, store), str(dtype)])
    target = store.cache("models", f"merged-{key}")
    with _making(target) as empty:
        if empty is not None:
            say(f"merging the adapter {model.path} into {base.path} (once)")
            below = ensure_base(base, store)
            tokens = Path(ensure_tokenizer(model, store))
            with _naming(model):
                known = len(AutoTokenizer.from_pretrained(tokens, trust_remote_code=model.trust_remote_code))
                merge(Path(below), folder, empty, dtype, known, trust_remote_code=model.trust_remote_code)
            templates = dict.fromkeys(_hashes(folder, TEMPLATE_FILES, store), folder)
            for name, place in {**dict.fromkeys(_hashes(tokens, TOKENIZER_FILES, store), tokens), **templates}.items():
                (empty / name).parent.mkdir(exist_ok=True)
                shutil.copyfile(place / name, empty / name)
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
            "model.path", model.path, f"base_model_name_or_path in its {CONFIG_FILE} is the adapter itself"
        )
    return replace(model, path=adapter.base, revision=adapter.revision, chat_template=None, quantization=None)


@contextmanager
def _naming(model: Model) -> Iterator[None]:
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:  # peft, transformers and torch each have their own ways to refuse a file
        raise not_loadable(model, error) from error


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
    save(plain, folder)
    _save_tokenizer(source, gguf_file, folder)


def not_loadable(model: Model, error: Exception) -> ConfigError:
    """What a library's error becomes that could not load the model, or a part of it."""
    at = f"@{model.revision}" if model.revision else ""
    kind = "" if isinstance(error, (OSError, ValueError)) else f"{type(error).__name__}: "
    words = " ".join(str(error).split())[:LONGEST_WORDS] or type(error).__name__
    return ConfigError("model.path", f"{model.path}{at}", f"cannot be loaded: {kind}{words}")


def ensure_tokenizer(model: Model, store: Store) -> str:
    """Where the tokenizer lies: of a model on the Hub it is there without the weights, an adapter may have its own."""
    if model.architecture is not None:
        return ensure_base(model, store)
    if model.gguf_file is not None:
        return _ensure_gguf_tokenizer(locate(model, store), model.gguf_file, store)
    folder = locate(model, store, weights=False)
    own = adapter_in(folder) is None or has_tokenizer([path.name for path in folder.iterdir()])
    return str(folder) if own else ensure_tokenizer(_below(model, folder), store)


def settings_folder(model: Model, store: Store) -> str:
    """Where the model says how it is to write: of a model on the Hub it is there without the weights."""
    if model.architecture is not None or model.gguf_file is not None:
        return ensure_base(model, store)
    folder = locate(model, store, weights=False)
    return str(folder) if adapter_in(folder) is None else ensure_base(model, store)


def own_template(model: Model, store: Store) -> str | None:
    """The chat template that an adapter has beside it, though it leaves the tokenizer to its base; None without one."""
    if model.architecture is not None or model.gguf_file is not None:
        return None
    file = locate(model, store, weights=False) / "chat_template.jinja"
    if not file.is_file() or ensure_tokenizer(model, store) == str(file.parent):
        return None
    return file.read_text(encoding="utf-8")


def name_of(model: Model, store: Store) -> Adapter:
    """What an adapter trained on the base model names: the Hub id and commit, where it has them, else its folder."""
    source = model_source(model)
    folder = ensure_base(model, store)
    if source is None or model.gguf_file is not None or adapter_in(locate(model, store, weights=False)) is not None:
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
        return _file_hashes(Path(ensure_base(model, store)), WEIGHT_FILES, store)
    folder = locate(model, store, weights=False)
    if source is not None:
        packed = {} if model.gguf_file is None else {"gguf_file": model.gguf_file}
        own = {"hub": source.path, "commit": commit_of(source, store)} | packed
    else:
        own = _file_hashes(folder, WEIGHT_FILES if adapter_in(folder) is None else ADAPTER_FILES, store)
    return own if adapter_in(folder) is None else {"adapter": own, "base": _content(_below(model, folder), store)}


def _file_hashes(folder: Path, weights: Iterable[str], store: Store) -> dict[str, Any]:
    return {"weights": _hashes(folder, weights, store), "tokenizer": _hashes(folder, TOKENIZER_FILES, store)}


def _hashes(folder: Path, patterns: Iterable[str], store: Store) -> dict[str, str]:
    return {name: file_sha256(path, store) for name, path in files_like(folder, patterns).items()}
