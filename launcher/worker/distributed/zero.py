"""DeepSpeed: what its JSON becomes in the libraries' hands, the sharded reference, and its end.

Owns: everything that is said to DeepSpeed, and to accelerate because of it.
Must not know: losses, runs, the table.

The JSON in conf/deepspeed is DeepSpeed's own; what it leaves to "auto" is filled in by transformers' integration from
the run's arguments, so that every value has one home. DeepSpeed is imported here and in the libraries only, and only
when a run asks for it.
"""

from __future__ import annotations

import copy
import gc
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.state import AcceleratorState, PartialState  # type: ignore[import-untyped]
from transformers.integrations import deepspeed as integration

from launcher.config import WEIGHTS_DIVIDED, DeepSpeed
from launcher.errors import ConfigError
from launcher.machine.installed import package_dir
from launcher.worker.distributed import ranks
from launcher.worker.distributed.rendezvous import PATIENCE

Json = dict[str, Any]
_ACCELERATE = "ACCELERATE_USE_DEEPSPEED"  # how accelerate is told


def settings(deepspeed: DeepSpeed) -> Json | None:
    """A copy of DeepSpeed's JSON, which transformers fills in; None where a run does without DeepSpeed.

    Raises:
        ConfigError: it is asked for and not installed.
    """
    if not deepspeed.config:
        return None
    if package_dir("deepspeed") is None:
        raise ConfigError(
            "deepspeed", deepspeed.name, "DeepSpeed is not installed here; pip install 'prefsweep[deepspeed]'"
        )
    return copy.deepcopy(deepspeed.config)


def divides_weights(deepspeed: DeepSpeed) -> bool:
    """Whether no rank holds all weights (ZeRO-3)."""
    stage = deepspeed.config.get("zero_optimization", {}).get("stage", 0)
    return bool(stage >= WEIGHTS_DIVIDED)


def arguments(deepspeed: DeepSpeed, dtype: torch.dtype) -> Json:
    """What DPOConfig must be told so that it takes the ranks, the device and the precision for what they are."""
    told: Json = {"ddp_timeout": int(PATIENCE.total_seconds())}
    given = settings(deepspeed)
    os.environ.pop(_ACCELERATE, None)  # of the run before
    if given is None:
        several = torch.distributed.is_initialized() and "LOCAL_RANK" in os.environ
        return told | {"use_cpu": several and not torch.cuda.is_available(), "bf16": False}
    if dtype == torch.bfloat16 and not torch.cuda.is_available():
        raise ConfigError("deepspeed", deepspeed.name, "bfloat16 needs a GPU here; give model.dtype=float32")
    join_library()
    if not torch.cuda.is_available():
        _tell_accelerate_of_gloo()
        told["accelerator_config"] = {"use_configured_state": True}
    # No autocast comes of bf16 here: DeepSpeed keeps the weights themselves in bfloat16, over float32 masters.
    return told | {"deepspeed": given, "bf16": dtype == torch.bfloat16}


def join_library() -> Any:
    """The deepspeed package, in our process group: unless it is told, it takes each rank for the only one."""
    # DeepSpeed calls torch by names that are going; nothing that a run's log should repeat at each step.
    warnings.filterwarnings("ignore", message="`torch.distributed", category=FutureWarning)
    import deepspeed  # type: ignore[import-untyped]

    from launcher.worker.distributed import compiling

    compiling.take_turns()
    deepspeed.init_distributed(dist_backend=torch.distributed.get_backend(), timeout=PATIENCE, verbose=False)
    return deepspeed


def _tell_accelerate_of_gloo() -> None:
    """Without a GPU, accelerate does not find out by itself that DeepSpeed has several ranks."""
    AcceleratorState._reset_state(reset_partial_state=True)  # noqa: SLF001 - accelerate's own way to start anew
    os.environ[_ACCELERATE] = "true"
    PartialState(backend="gloo", timeout=PATIENCE)


@contextmanager
def sharded(deepspeed: DeepSpeed, dtype: torch.dtype, load: Callable[[], torch.nn.Module]) -> Iterator[torch.nn.Module]:
    """A frozen module whose weights the ranks share (ZeRO-3), made by `load`; each forward is a joint one."""
    inference = _for_inference(settings(deepspeed) or {}, dtype)
    shards_at_load = integration.HfDeepSpeedConfig(inference)  # as long as it lives
    engine: Any = None
    deepspeed_library = join_library()
    try:
        engine, *_ = deepspeed_library.initialize(model=load(), config=inference)
        engine.eval()
        yield engine
    finally:
        if engine is not None:
            engine.destroy()
        del shards_at_load
        _clean_up()


def _for_inference(config: Json, dtype: torch.dtype) -> Json:
    """The JSON without what only training needs, nothing left to "auto"."""
    for section in ("optimizer", "scheduler"):
        config.pop(section, None)
    zero = config["zero_optimization"]
    zero.pop("offload_optimizer", None)
    config["zero_optimization"] = {key: value for key, value in zero.items() if value != "auto"}
    return config | {
        "train_micro_batch_size_per_gpu": 1,
        "train_batch_size": ranks.size(),
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 0.0,
        "bf16": {"enabled": dtype == torch.bfloat16},
    }


def release(trainer: Any) -> None:
    """Give back all that a trainer under DeepSpeed or with several ranks holds, before the next run is made."""
    engine = getattr(trainer, "deepspeed", None)
    if engine is not None:
        engine.destroy()
    if trainer is not None:
        trainer.accelerator.free_memory()
        for name in ("deepspeed", "model_wrapped", "model", "optimizer", "lr_scheduler"):
            setattr(trainer, name, None)
        for name in ("model", "optimizer", "lr_scheduler"):
            setattr(trainer.callback_handler, name, None)
    _clean_up()


def _clean_up() -> None:
    integration.unset_hf_deepspeed_config()  # else the next from_pretrained shards, which one rank cannot do alone
    os.environ.pop(_ACCELERATE, None)
    AcceleratorState._reset_state(reset_partial_state=True)  # noqa: SLF001 - see above
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
