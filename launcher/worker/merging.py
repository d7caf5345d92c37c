"""An adapter merged into the model that it belongs to: base + adapter as plain weights.

Owns: the arithmetic of the merge, vocabularies that the adapter has enlarged, heads that it has changed.
Must not know: where either lies, what becomes of the result.

W + scale B A is computed in float32, whatever the weights are kept in, and rounded once.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors import safe_open
from transformers import AutoModelForCausalLM, GenerationConfig
from transformers.utils import logging as transformers_logging

from launcher.config import ConfigError

GENERATION_CONFIG = "generation_config.json"


def merge(base: Path, adapter: Path, target: Path, dtype: torch.dtype, *, trust_remote_code: bool) -> None:
    """Write the merged weights in `dtype`, and the model's configuration, into `target`.

    Raises:
        ConfigError: the base model holds packed weights, into which nothing can be merged.
        ValueError, RuntimeError, OSError: the two do not fit, or cannot be loaded.
    """
    transformers_logging.disable_progress_bar()
    module = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, trust_remote_code=trust_remote_code)
    if getattr(module.config, "quantization_config", None) is not None:
        raise ConfigError(
            f"model.path={adapter}: its base {base} holds packed weights, into which no adapter can be merged; name "
            "the base in full precision in adapter_config.json"
        )
    rows = _embedding_rows(adapter)
    if rows is not None and rows != module.get_input_embeddings().weight.shape[0]:
        module.resize_token_embeddings(rows, mean_resizing=False)  # the adapter brings the values
    merged = PeftModel.from_pretrained(module, adapter).merge_and_unload(safe_merge=True)
    _untie(merged)
    if (adapter / GENERATION_CONFIG).is_file():
        merged.generation_config = GenerationConfig.from_pretrained(adapter)
    merged.to(dtype).save_pretrained(target)


def _embedding_rows(adapter: Path) -> int | None:
    """The number of tokens that the adapter has embeddings for, where it holds embeddings."""
    sizes = [size for name, size in _first_sizes(adapter) if "embed" in name or "lm_head" in name or "wte" in name]
    return max(sizes, default=None)


def _first_sizes(adapter: Path) -> Iterator[tuple[str, int]]:
    """The first dimension of each whole weight (not of a low-rank factor) in the adapter's files."""
    for file in sorted(adapter.glob("adapter_model*.safetensors")):
        with safe_open(file, framework="pt") as weights:
            yield from ((n, weights.get_slice(n).get_shape()[0]) for n in weights.keys() if "lora_" not in n)  # noqa: SIM118
    for file in sorted(adapter.glob("adapter_model*.bin")):
        loaded: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        yield from ((name, weight.shape[0]) for name, weight in loaded.items() if "lora_" not in name)


def _untie(module: Any) -> None:
    """Have a head that the adapter has changed saved beside the embeddings that it was tied to, not dropped."""
    head, embeddings = module.get_output_embeddings(), module.get_input_embeddings()
    if head is None or not getattr(module.config, "tie_word_embeddings", False):
        return
    if head.weight.data_ptr() != embeddings.weight.data_ptr() and not torch.equal(head.weight, embeddings.weight):
        module.config.tie_word_embeddings = False
