"""Each kernel of packed attention beside TRL's padded forward: sums of log-probs, gradients, in both precisions.

Owns: the models, what is compared, how far apart is right. Must not know: which kernel the product chooses where.

A model is random, and its weights are rounded to bfloat16, so that it is the same one in float32. What it gives there
for the batch that TRL pads and masks is the yardstick: in float32 each way has to give the same up to rounding, in
bfloat16 it may be little farther from it than that batch's own forward in bfloat16 is.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from machine import Machine
from made_up import collated, made_up
from results import Results
from transformers import AutoConfig, AutoModelForCausalLM
from trl.trainer.utils import add_fused_lm_head

from launcher.worker.model import weights
from launcher.worker.scoring import attention, head, kernels
from launcher.worker.scoring.forward import forward, why_not

WINDOW = 64  # tokens
REAL = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4, "head_dim": 64}
TINY = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "head_dim": 16}
COMMON: dict[str, Any] = {
    "vocab_size": 1009, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 1024,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1, "tie_word_embeddings": False,
}  # fmt: skip
CAPS = {"attn_logit_softcapping": 5.0, "final_logit_softcapping": 10.0}
# Each with what its configuration has beside these, and the attention of its own that knows all of it.
ARCHITECTURES: dict[str, tuple[dict[str, Any], str]] = {
    "llama": ({}, "sdpa"),
    "qwen3": ({}, "sdpa"),
    "mistral": ({"sliding_window": WINDOW}, "sdpa"),
    "gemma2": ({"sliding_window": WINDOW, **CAPS}, "eager"),
}
# Prompt, chosen, rejected, in tokens; a quarter of it where models are tiny.
PAIRS = ((120, 90, 60), (32, 200, 150), (4, 40, 33), (64, 8, 128), (200, 100, 100), (90, 170, 30),
         (16, 16, 240), (150, 60, 70), (40, 140, 90), (100, 110, 8), (8, 220, 180), (60, 50, 130))  # fmt: skip
Kernel = Callable[..., torch.Tensor]
KERNELS: dict[str, Kernel] = {
    "one call per sequence": kernels.one_by_one,
    "varlen": kernels.at_once,
    "flex": kernels.flexibly,
}
CHOSEN, PADDED = "as the product chooses", "padded, without a mask"
SUMS, GRADIENT = 3e-6, 1e-4  # of the largest sum, of the gradient's norm: what rounding of float32 may make of them
TIMES = 2.5  # as far from float32 as the padded forward in bfloat16, and no more than that: of 24 sums
NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


@dataclass(frozen=True)
class Made:
    """What a way gives: the sum of log-probs of each completion, the gradient of a mixture of them, kernels used."""

    sums: torch.Tensor
    gradient: torch.Tensor | None
    used: list[str]


def run(machine: Machine, results: Results) -> None:
    """Compare them all."""
    for dtype, called in NAMES.items():
        torch.compiler.reset()  # each precision is compiled for itself, and only so many are kept
        for name in ARCHITECTURES:
            results.attempt(f"{name} {called}", 15, partial(_compare, machine, results, name, dtype))


def _compare(machine: Machine, results: Results, name: str, dtype: torch.dtype) -> None:
    model = _built(machine, name)
    shrink = 4 if machine.tiny else 1
    batch = collated(made_up([tuple(length // shrink for length in each) for each in PAIRS], COMMON["vocab_size"]))
    batch = {key: each.to(machine.device) for key, each in batch.items()}
    exact, module = _with_head(model, torch.float32), _with_head(model, dtype)
    true = _made(exact, exact, batch)
    padded = true if dtype == torch.float32 else _made(module, module, batch)
    called = f"{name} {NAMES[dtype]}"
    results.check(f"{called}: can be packed", right=(why := why_not(module)) is None, why=why)
    for way in (*KERNELS, CHOSEN, PADDED):
        if (reason := _why_left_out(machine, name, dtype, way)) is not None:
            results.skip(f"{called}: {way}", reason)
            continue
        made = _by(way, module, batch, with_gradient=machine.is_gpu or way != "flex")
        _judge(results, f"{called}: {way}", made, padded, true)


def _why_left_out(machine: Machine, name: str, dtype: torch.dtype, way: str) -> str | None:
    if way == "varlen":
        if not machine.is_gpu:
            return "it is for GPUs"
        if dtype not in kernels.HALF:
            return "it knows half precision only"
        if "attn_logit_softcapping" in ARCHITECTURES[name][0]:
            return "it knows no soft caps"
    return None


def _built(machine: Machine, name: str) -> Any:
    """The model in float32, its weights wide enough for attention to matter, and such that bfloat16 has them."""
    more, native = ARCHITECTURES[name]
    size = TINY if machine.tiny else REAL
    settings = COMMON | size | ({"query_pre_attn_scalar": size["head_dim"]} if name == "gemma2" else {}) | more
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **settings), attn_implementation=native)
    with torch.no_grad():
        for parameter in model.parameters():
            wide = 4.0 if parameter.ndim > 1 and parameter.std() < 0.05 else 1.0
            parameter.copy_((parameter * wide).bfloat16())
    return weights.without_dropout(model.float().to(machine.device))  # as the product has what it trains


def _with_head(model: Any, dtype: torch.dtype) -> Any:
    module = copy.deepcopy(model)
    for parameter in module.parameters():  # and no table of angles, which stays in float32 where models are loaded
        parameter.data = parameter.data.to(dtype)
    add_fused_lm_head(module, outputs=head.LOGGED)
    return module


def _by(way: str, model: Any, batch: dict[str, torch.Tensor], *, with_gradient: bool) -> Made:
    with attention.of_pairs(model, packed=way != PADDED), _forced(KERNELS.get(way)) as used:
        made = _made(partial(forward, model), model, batch, with_gradient=with_gradient)
    return Made(made.sums, made.gradient, sorted(used))


@contextmanager
def _forced(kernel: Kernel | None) -> Iterator[set[str]]:
    """Within, attention is computed by this kernel; None: by the one that the product chooses. Those that were used."""
    used: set[str] = set()
    chosen = kernels.way_of

    def way_of(*given: Any, **told: Any) -> Kernel:
        found = kernel or chosen(*given, **told)
        used.add(found.__name__)
        return found

    kernels.way_of = way_of
    try:
        yield used
    finally:
        kernels.way_of = chosen


def _made(score: Callable[..., Any], model: Any, batch: dict[str, torch.Tensor], *, with_gradient: bool = True) -> Made:
    model.zero_grad()
    with torch.set_grad_enabled(with_gradient):
        sums = score(**batch, use_cache=False, fused_lm_head=True).log_probs.float().sum(dim=1)
    if not with_gradient:
        return Made(sums.double(), None, [])
    (sums * torch.linspace(-1.0, 2.0, len(sums), device=sums.device)).sum().backward()
    gradient = torch.cat([each.grad.flatten() for each in model.parameters() if each.grad is not None])
    return Made(sums.detach().double(), gradient.double(), [])


def _judge(results: Results, name: str, made: Made, padded: Made, true: Made) -> None:
    """Say how far it is from float32, beside the padded forward of the same precision, and whether that is right."""
    exact = padded is true
    sums, gradient = _apart(made, true)
    theirs = _apart(padded, true)
    bounds = (SUMS, GRADIENT) if exact else (TIMES * theirs[0], TIMES * theirs[1])
    right = sums <= bounds[0] and (gradient is None or gradient <= bounds[1])
    results.check(name, right=right, sums=sums, gradient=gradient, bounds=bounds, kernels=made.used)


def _apart(made: Made, true: Made) -> tuple[float, Any]:
    """Of the sums, root mean square over the largest; of the gradient, the norm; both relative."""
    sums = float((made.sums - true.sums).square().mean().sqrt() / true.sums.abs().max())
    if made.gradient is None or true.gradient is None:
        return sums, None
    return sums, float((made.gradient - true.gradient).norm() / true.gradient.norm())
