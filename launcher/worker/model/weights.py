"""Models in memory: the tokenizer, policies, and the frozen base model that the runs of one process share.

Owns: turning a `Model` of the config into a tokenizer and a module. Must not know: where its files lie (`base_model`),
data, losses, runs.

A base module is loaded once per process and never changed: policies are deep copies of it, the reference is itself.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.utils import logging as transformers_logging
from trl.trainer.utils import add_fused_lm_head

from launcher.config import Model
from launcher.errors import ConfigError
from launcher.machine.installed import INSTALL_BITSANDBYTES, package_dir
from launcher.model.limits import no_end
from launcher.store.model_marker import verify_start
from launcher.store.output_folder import Store
from launcher.worker.model.base_model import ensure_base, ensure_tokenizer, not_loadable, own_template, settings_folder
from launcher.worker.model.loading import check_loaded
from launcher.worker.model.memory import Latest, keep_freed_memory
from launcher.worker.model.precision import dtype_of

_base: Latest[torch.nn.Module] = Latest()
_tokenizer: Latest[PreTrainedTokenizerBase] = Latest()


def tokenizer(model: Model, store: Store) -> PreTrainedTokenizerBase:
    """The model's own tokenizer, with the config's chat template if any; its end token pads where nothing else does."""
    folder = ensure_tokenizer(model, store)

    def read() -> PreTrainedTokenizerBase:
        try:
            found = AutoTokenizer.from_pretrained(folder, trust_remote_code=model.trust_remote_code)
        except Exception as error:  # each tokenizer class has its own way to refuse a file
            raise not_loadable(model, error) from error
        if found.eos_token is None:
            raise no_end("model.path", model.path)
        if found.pad_token is None:
            found.pad_token = found.eos_token
        template = own_template(model, store) if model.chat_template is None else model.chat_template
        if template is not None:
            found.chat_template = template
        return found

    return _tokenizer.get((folder, model.chat_template, _stamp(folder)), read)


def generation_settings(model: Model, store: Store) -> GenerationConfig:
    """What the model's folder says of how it is to write; a module that is loaded from it has the same."""
    folder = settings_folder(model, store)
    try:
        return GenerationConfig.from_pretrained(folder)
    except OSError:  # older ones have no file for it
        config = AutoConfig.from_pretrained(folder, trust_remote_code=model.trust_remote_code)
        return GenerationConfig.from_model_config(config)


def load(model: Model, store: Store) -> torch.nn.Module:
    """The base module: frozen, in evaluation mode, shared by everything in this process. Never change it."""
    folder, dtype = ensure_base(model, store), dtype_of(model)

    def read() -> torch.nn.Module:
        if not torch.cuda.is_available():
            keep_freed_memory()
        return from_folder(folder, model, dtype).eval().requires_grad_(requires_grad=False)

    kind = (dtype, model.attn_implementation, model.quantization)
    return _base.get((folder, _stamp(folder), *kind), read)


def _stamp(folder: str) -> tuple[tuple[str, int, int, int, int], ...]:
    """What changes when somebody replaces files of the folder while this process has its model in memory."""
    stats = ((path.name, path.stat()) for path in sorted(Path(folder).iterdir()) if path.is_file())
    return tuple((name, s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino) for name, s in stats)


def from_folder(folder: str, model: Model, dtype: torch.dtype) -> torch.nn.Module:
    """The weights in `folder` as a module of `model`'s kind.

    Raises:
        StoreError: a run has left them there, and they were changed since.
        ConfigError: they cannot be loaded, or have no such attention.
    """
    verify_start(Path(folder))
    transformers_logging.disable_progress_bar()
    options = {"trust_remote_code": model.trust_remote_code} | _packing(model, dtype)
    try:
        loaded = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, attn_implementation=model.attn_implementation, output_loading_info=True, **options
        )
    except (OSError, ValueError) as error:
        if 'attn_implementation="eager"' in str(error):  # transformers' own remedy, at the end of a long message
            wanted, lacks = model.attn_implementation, f"{model.name} has no such attention in transformers"
            raise ConfigError("model.attn_implementation", wanted, f"{lacks}; give eager") from error
        raise not_loadable(model, error) from error
    module: torch.nn.Module = loaded[0]
    check_loaded(loaded[1], folder)
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
        raise ConfigError("model.quantization", model.quantization, INSTALL_BITSANDBYTES)
    packed = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    return {"quantization_config": packed, "device_map": {"": str(device())}}


def load_policy(model: Model, store: Store) -> torch.nn.Module:
    """A fresh module to train, equal to one that was just loaded; under ZeRO-3 it is, since no rank has all of it.

    Packed weights stay frozen beneath adapters. The reference was scored without dropout, so there is none here either.
    """
    if is_deepspeed_zero3_enabled():
        return without_dropout(from_folder(ensure_base(model, store), model, dtype_of(model)))
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
