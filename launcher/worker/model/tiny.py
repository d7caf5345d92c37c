"""A model made on the spot: random weights, a byte tokenizer. For tests and smoke runs.

Owns: what such a model consists of.
Must not know: where it is kept.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from launcher.errors import UNSAID, ConfigError
from launcher.model.template import CHAT_TEMPLATE
from launcher.worker.model.saving import save

PAD, START, END = "<|pad|>", "<|im_start|>", "<|im_end|>"


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, the three special ones first, ChatML as chat template."""
    alphabet = [PAD, START, END, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, bos_token=START, eos_token=END)
    fast.chat_template = CHAT_TEMPLATE
    return fast


def build_tiny(architecture: dict[str, Any], folder: Path) -> None:
    """Write a model of this architecture, and its tokenizer, into `folder`.

    `architecture` holds the keys of transformers' configuration of its `model_type`, and `seed`, for the weights.
    """
    keys = dict(architecture)
    seed = int(keys.pop("seed", 0))
    tokenizer = byte_tokenizer()
    keys.setdefault("vocab_size", len(tokenizer))
    if keys["vocab_size"] < len(tokenizer):
        raise ConfigError("model.architecture.vocab_size", keys["vocab_size"], f"at least {len(tokenizer)} (bytes)")
    special = {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    try:
        config = AutoConfig.for_model(**keys, **special)
    except (TypeError, ValueError) as error:
        raise ConfigError("model.architecture", UNSAID, str(error).strip().splitlines()[0]) from error
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        save(AutoModelForCausalLM.from_config(config, dtype=torch.float32), folder)
    tokenizer.save_pretrained(folder)
