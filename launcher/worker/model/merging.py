"""An adapter merged into the model that it belongs to: base + adapter as plain weights.

Owns: the arithmetic of the merge and its proof, vocabularies that the adapter has enlarged, heads that it has changed.
Must not know: where either lies, what becomes of the result.

W + scale B A is computed in float32, whatever the weights are kept in, and rounded once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model_state_dict
from safetensors import safe_open
from transformers import AutoModelForCausalLM, GenerationConfig
from transformers.utils import logging as transformers_logging

from launcher.errors import ConfigError
from launcher.model.files import ADAPTER_WEIGHTS
from launcher.worker.model.loading import check_loaded
from launcher.worker.model.saving import save

GENERATION_CONFIG = "generation_config.json"
ALL_LINEAR = "all-linear"  # but for the head
WHOLE_EMBEDDINGS = ("embed_tokens.weight", "lm_head.weight", "wte.weight", "embed_in.weight", "embed_out.weight")
PROBE_TOKENS, PROBE_TOLERANCE = 16, 1e-4  # of the texts by which a merge is checked; of its largest logit


def merge(base: Path, adapter: Path, target: Path, dtype: torch.dtype, tokens: int, *, trust_remote_code: bool) -> None:
    """Write the merged weights in `dtype`, and the model's configuration, into `target`.

    Args:
        base: the folder of the model that the adapter belongs to.
        adapter: its folder.
        target: an empty folder.
        dtype: the precision of what is written.
        tokens: how many the tokenizer has.
        trust_remote_code: whether the model's own code may run.

    Raises:
        ConfigError: the base holds packed weights or lacks some, the adapter's weights are not those that it says,
            or peft cannot merge it.
        ValueError, RuntimeError, OSError: the two do not fit, or cannot be loaded.
    """
    _check_weights(adapter)
    adapted = _load_adapted(base, adapter, tokens, trust_remote_code=trust_remote_code)
    _check_keys(adapted, adapter)
    before, kinds = _logits(adapted), PeftConfig.from_pretrained(adapter)
    if _is_tied(adapted.get_base_model()) and _reaches_embeddings(adapted.get_base_model(), kinds):
        # Peft would merge a change of one of the two into the weights that they share.
        adapted = _load_adapted(base, adapter, tokens, trust_remote_code=trust_remote_code, tied=False)
    merged = adapted.merge_and_unload(safe_merge=True)
    _check_equal(before, _logits(merged), adapter)
    if (adapter / GENERATION_CONFIG).is_file():
        merged.generation_config = GenerationConfig.from_pretrained(adapter)
    save(merged.to(dtype), target)


def _load_adapted(base: Path, adapter: Path, tokens: int, *, trust_remote_code: bool, tied: bool = True) -> PeftModel:
    """The adapter on top of its base, in float32; `tied`: whether a head may share the embeddings' weights."""
    transformers_logging.disable_progress_bar()
    module, loading = AutoModelForCausalLM.from_pretrained(
        base, dtype=torch.float32, trust_remote_code=trust_remote_code, output_loading_info=True
    )
    check_loaded(loading, str(base))
    if getattr(module.config, "quantization_config", None) is not None:
        raise ConfigError(
            "model.path",
            adapter,
            f"its base {base} holds packed weights, into which no adapter can be merged; name "
            "the base in full precision in adapter_config.json",
        )
    _enlarge(module, _embedding_rows(adapter), tokens)
    if not tied:
        _untie(module)
    return PeftModel.from_pretrained(module, adapter).eval()


def _check_weights(adapter: Path) -> None:
    if not any(path.is_file() for pattern in ADAPTER_WEIGHTS for path in adapter.glob(pattern)):
        raise ConfigError("model.path", adapter, f"holds no adapter weights ({' or '.join(ADAPTER_WEIGHTS)})")


def _enlarge(module: Any, rows: int | None, tokens: int) -> None:
    """Give the embeddings as many rows as the adapter brings, or else as its tokenizer has tokens, if that is more."""
    there = module.get_input_embeddings().weight.shape[0]
    if rows is None and tokens <= there:
        return
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # rows that the adapter does not bring are drawn
        if rows != there:
            module.resize_token_embeddings(rows or tokens, mean_resizing=False)


def _reaches_embeddings(module: Any, kinds: Any) -> bool:
    """Whether the adapter changes the embeddings or the head, which may share their weights."""
    if getattr(kinds, "ensure_weight_tying", False) or getattr(kinds, "trainable_token_indices", None):
        return True
    wanted = [getattr(kinds, key, None) or () for key in ("target_modules", "modules_to_save")]
    return any(_is_named(name, each) for name in _embedding_names(module) for each in wanted)


def _embedding_names(module: Any) -> list[str]:
    """The names of the embeddings and of the head."""
    ends = (module.get_input_embeddings(), module.get_output_embeddings())
    return [name for name, each in module.named_modules() if any(each is end for end in ends)]


def _is_named(module: str, wanted: Any) -> bool:
    """Whether a module is meant by peft's `target_modules`: a pattern for its whole name, or ends of names."""
    if isinstance(wanted, str):
        return wanted != ALL_LINEAR and re.fullmatch(wanted, module) is not None
    return any(module == end or module.endswith(f".{end}") for end in wanted)


def _untie(module: Any) -> None:
    """Give a head that is the embeddings' own weights a copy of them."""
    head, embeddings = module.get_output_embeddings(), module.get_input_embeddings()
    head.weight = torch.nn.Parameter(embeddings.weight.detach().clone())
    module.config.tie_word_embeddings = False


def _is_tied(module: Any) -> bool:
    return module.get_output_embeddings() is not None and bool(getattr(module.config, "tie_word_embeddings", False))


def _check_keys(adapted: PeftModel, adapter: Path) -> None:
    """Whether the adapter's file has exactly the weights that its configuration asks for; peft only warns.

    Raises:
        ConfigError: it has not.
    """
    wanted = set(get_peft_model_state_dict(adapted, save_embedding_layers=False))
    there = {name for name, _ in _first_sizes(adapter)}
    embeddings = tuple(f"base_model.model.{name}." for name in _embedding_names(adapted.get_base_model()))
    foreign = {name for name in there - wanted if not name.startswith(embeddings)}  # those peft adds of its own accord
    missing = wanted - there
    counts = (("missing", missing), ("foreign", foreign))
    if said := [f"{len(names)} {what} ({min(names)}, ...)" for what, names in counts if names]:
        raise ConfigError(
            "model.path",
            adapter,
            "its weights are not those of its adapter_config.json on this base: "
            f"{' and '.join(said)}; save the adapter without a wrapper such as torch.compile, or name its own base",
        )


@torch.no_grad()
def _logits(module: Any) -> torch.Tensor:
    size = module.get_input_embeddings().weight.shape[0]
    ids = torch.randint(size, (2, PROBE_TOKENS), generator=torch.Generator().manual_seed(0))
    logits: torch.Tensor = module(input_ids=ids).logits
    return logits


def _check_equal(before: torch.Tensor, after: torch.Tensor, adapter: Path) -> None:
    """Whether the merged model computes what the two did, within float32's rounding.

    Raises:
        ConfigError: it does not: peft cannot merge such an adapter.
    """
    apart = float((before - after).abs().max())
    if not apart <= PROBE_TOLERANCE * (1 + float(before.abs().max())):
        raise ConfigError(
            "model.path",
            adapter,
            f"merged into its base it is another model (logits up to {apart:.2g} apart): peft "
            "cannot merge this kind; start from merged weights of your own",
        )


def _embedding_rows(adapter: Path) -> int | None:
    """The number of tokens that the adapter has embeddings for, where it holds whole ones."""
    parts = ("lora_", "trainable_tokens")  # of what is no whole weight
    found = [(name, size) for name, size in _first_sizes(adapter) if not any(part in name for part in parts)]
    return max((size for name, size in found if name.endswith(WHOLE_EMBEDDINGS)), default=None)


def _first_sizes(adapter: Path) -> Iterator[tuple[str, int]]:
    """The first dimension of each weight in the adapter's file; of a single number 0."""
    file = adapter / ADAPTER_WEIGHTS[0]
    if file.is_file():
        with safe_open(file, framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118 - it is no mapping
                yield name, next(iter(weights.get_slice(name).get_shape()), 0)
        return
    loaded: dict[str, Any] = torch.load(adapter / ADAPTER_WEIGHTS[1], map_location="cpu", weights_only=True)
    yield from ((name, next(iter(weight.shape), 0)) for name, weight in loaded.items())
