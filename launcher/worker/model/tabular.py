"""A policy that is a table: one logit for each token, whatever was said before.

Owns: that model in transformers' words, so that it is trained, saved and evaluated by the code that every model uses.
Must not know: losses, data sets.

For experiments whose optimum is known in closed form (`conf/model/three_actions.yaml`). It is built, like every model
that has an `architecture`, by `tiny.build_tiny`.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutput

NEVER = -1e4  # its exponential is 0 in every precision, and so is its gradient


class TabularConfig(PreTrainedConfig):
    """`support`: the token ids that the policy can choose; all are equally likely at first."""

    model_type = "tabular"

    def __init__(self, vocab_size: int = 1, support: list[int] | None = None, **kwargs: Any) -> None:
        self.vocab_size = vocab_size
        self.support = support or []
        self.hidden_size, self.num_hidden_layers = 1, 0
        super().__init__(**({"tie_word_embeddings": False} | kwargs))


class _One(torch.nn.Module):
    """Says 1 of every token, so that the head's weights are the logits."""

    def forward(self, input_ids: torch.Tensor, **_: Any) -> BaseModelOutput:
        return BaseModelOutput(last_hidden_state=torch.ones(*input_ids.shape, 1, device=input_ids.device))


class TabularForCausalLM(PreTrainedModel, GenerationMixin):
    """The logits of every next token are the weights of the head."""

    config_class = TabularConfig
    base_model_prefix = "model"
    _supports_sdpa = True  # it attends to nothing, in whichever way it is asked to

    def __init__(self, config: TabularConfig) -> None:
        super().__init__(config)
        self.model = _One()
        self.lm_head = torch.nn.Linear(1, config.vocab_size, bias=False)
        self.post_init()

    def _init_weights(self, module: torch.nn.Module) -> None:
        if isinstance(module, torch.nn.Linear):
            with torch.no_grad():
                module.weight.fill_(NEVER)
                module.weight[self.config.support] = 0.0

    def get_output_embeddings(self) -> torch.nn.Linear:
        """The head, which TRL reads."""
        return self.lm_head

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,  # noqa: ARG002 - `generate` asks for it, by name
        logits_to_keep: int = 0,
        **kwargs: Any,  # noqa: ARG002 - and for this one
    ) -> CausalLMOutput:
        """Logits of the next token at each place: text x place x vocabulary."""
        hidden = self.model(input_ids).last_hidden_state[:, -logits_to_keep or None :]
        return CausalLMOutput(logits=self.lm_head(hidden))

    def prepare_inputs_for_generation(self, input_ids: torch.Tensor, **kwargs: Any) -> dict[str, Any]:  # noqa: ARG002
        """The text so far; there is nothing to cache."""
        return {"input_ids": input_ids, "logits_to_keep": 1}


AutoConfig.register("tabular", TabularConfig)
AutoModelForCausalLM.register(TabularConfig, TabularForCausalLM)


def action_probabilities(model: Any, tokenizer: Any) -> dict[str, float] | None:
    """The probability of each token that a tabular policy can choose; None for any other model."""
    if not isinstance(model, TabularForCausalLM):
        return None
    probabilities = model.lm_head.weight.detach().double().flatten().softmax(dim=0)
    return {tokenizer.decode([token]): probabilities[token].item() for token in model.config.support}
