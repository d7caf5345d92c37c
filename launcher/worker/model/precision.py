"""The precision of weights, and training those that are stored in bfloat16.

Owns: which precision `model.dtype` means here; the float32 copies that an optimizer updates in place of bfloat16.
Must not know: which optimizer it is, what is trained.

A bfloat16 has 8 significant bits: adding a step of 1e-5 to a weight of 0.1 leaves it as it was, so full fine-tuning in
plain bfloat16 stands still. The usual cure, which DeepSpeed applies as well: the forward runs on the bfloat16 weights
(the reference pass likewise, so that both agree), the optimizer works on float32 copies, and the weights are the
copies, rounded. Adapters need none of it: peft keeps them in float32.

The gradients of a step's micro-batches are added up in bfloat16. Measured on a random Llama of 128 wide, one pair a
micro-batch, as distances of the whole gradient relative to its norm:

    micro-batches   rounding of the sum   rounding of forward and backward, whatever the sum is kept in
    4               0.003                 0.015
    16              0.006                 0.016
    64              0.009                 0.015
    256             0.016                 0.013

The norm is the same to 3 in 10,000. So a sum in float32, for 2 bytes a weight more, would take away the smaller part.
"""

from __future__ import annotations

import functools
from typing import Any

import torch

from launcher.config import Model
from launcher.errors import ConfigError

MASTER = "master"  # key in the optimizer's state, so that a checkpoint holds the copies


def keep_master_weights(optimizer: torch.optim.Optimizer) -> None:
    """Let a fresh optimizer update float32 copies of its low-precision parameters, and those after them."""
    masters: dict[torch.Tensor, torch.Tensor] = {}
    for group in optimizer.param_groups:
        group["params"] = [_master(parameter, masters) for parameter in group["params"]]
    if not masters:
        return
    _move_state(optimizer, masters)

    def take_gradients(*_: Any) -> None:
        for parameter, master in masters.items():
            master.grad = None if parameter.grad is None else parameter.grad.float()

    def give_weights(*_: Any) -> None:
        for parameter, master in masters.items():
            master.grad = None
            parameter.data.copy_(master.data)
            optimizer.state[master][MASTER] = master.data

    def restore(*_: Any) -> None:
        for parameter, master in masters.items():
            saved = optimizer.state[master].get(MASTER)
            if saved is not None:
                master.data.copy_(saved)
                parameter.data.copy_(saved)

    optimizer.register_step_pre_hook(take_gradients)
    optimizer.register_step_post_hook(give_weights)
    optimizer.register_load_state_dict_post_hook(restore)


def _move_state(optimizer: torch.optim.Optimizer, masters: dict[torch.Tensor, torch.Tensor]) -> None:
    """Give each copy what an optimizer such as Adagrad has begun for its parameter, in the copy's precision."""
    for parameter, master in masters.items():
        if parameter in optimizer.state:
            began = optimizer.state.pop(parameter)
            optimizer.state[master] = {name: value.to(master.dtype) for name, value in began.items()}


def _master(parameter: torch.Tensor, masters: dict[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    if parameter.dtype not in (torch.bfloat16, torch.float16):
        return parameter
    masters[parameter] = parameter.detach().float().clone().requires_grad_()
    return masters[parameter]


@functools.cache
def automatic_dtype() -> torch.dtype:
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
        return automatic_dtype()
    if model.dtype == "float16":
        raise ConfigError("model.dtype", model.dtype, "its small gradients become 0; use bfloat16 or float32")
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[model.dtype]
