"""Whether a run's rows and prompts fit its model: asked before the reference pass, where an answer costs nothing.

Owns: what is compared with the model's limits. Must not know: the limits (`model.limits`), reference values.
"""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig

from launcher.config import RunConfig
from launcher.errors import ConfigError
from launcher.model import limits
from launcher.store.output_folder import Store
from launcher.worker.dataset.prompts import prompts
from launcher.worker.model import base_model, weights
from launcher.worker.model.text import rendered


def check_fit(config: RunConfig, store: Store, highest_of_rows: int) -> None:
    """Look at the longest text and the largest token id that the run can come to, beside that of its rows.

    Raises:
        ConfigError: the model does not take them; names key, value and limit.
    """
    model, whose = config.model, f"model {config.model.name}"
    folder = base_model.ensure_base(model, store)
    read = AutoConfig.from_pretrained(folder, trust_remote_code=model.trust_remote_code)
    said, tokens = read.to_dict(), weights.tokenizer(model, store)
    limits.check_length(said, "trainer.max_length", config.trainer.max_length, whose)
    if "preference" in config.evaluation.benchmarks:
        _check_prompts(config, store, said, whose)
    highest = max(tokens.pad_token_id, tokens.eos_token_id, highest_of_rows)
    limits.check_rows(said, {str(tokens.convert_ids_to_tokens(highest)): highest}, "model.path", model.path)
    _check_experts(read.get_text_config(), model.path)


def _check_prompts(config: RunConfig, store: Store, said: dict[str, Any], whose: str) -> None:
    """Whether there is room behind the longest prompt that is continued when the run is evaluated."""
    tokens, new = weights.tokenizer(config.model, store), config.evaluation.max_new_tokens
    texts = [rendered(prompt, tokens) for prompt in prompts(config, store)]
    longest = max((len(tokens(text)["input_ids"]) for text in texts), default=0)
    try:
        limits.check_length(said, "evaluation.max_new_tokens", longest + new, whose)
    except ConfigError as error:
        behind = f"with a prompt of {longest} tokens before them they are {error.remedy.partition(';')[0]}"
        remedy = f"{behind}; give fewer, or shorter dataset.prompts"
        raise ConfigError("evaluation.max_new_tokens", new, remedy) from error


def _check_experts(text: Any, path: str | None) -> None:
    """TRL adds the loss of the experts' balance, and reads two numbers for it under names that not all models use."""
    weight: Any = getattr(text, "router_aux_loss_coef", None)
    balanced = hasattr(text, "output_router_logits") and weight
    missing = [name for name in ("num_experts", "num_experts_per_tok") if not hasattr(text, name)]
    if balanced and missing:
        raise ConfigError(
            "model.path",
            path,
            f"TRL cannot balance the experts of a {text.model_type} (its configuration has no {missing[0]}); set "
            "router_aux_loss_coef to 0 in its config.json to train without",
        )
