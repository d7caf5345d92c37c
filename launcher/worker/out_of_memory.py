"""After the accelerator ran out of memory: the same run with half the micro-batch and twice the accumulation.

Owns: when that is the same training, and the record of it; what follows where a benchmark ran out of it. Must not know:
how a run is trained or requeued.

The global batch stays, and so do the pairs of each step; the sum over a batch is taken in more pieces, so weights agree
up to rounding. Where the loss of a pair depends on its neighbours in the micro-batch, it would be another objective.

What is measured depends on how many rows go through the model at once, since they share the random numbers: a benchmark
is tried again with memory that nothing else takes, never with fewer rows than the sweep's other runs had.
"""

from __future__ import annotations

import gc
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from launcher.config import RunConfig
from launcher.errors import MeasuringError
from launcher.losses import loss_named
from launcher.machine.terminal import say
from launcher.store.files import append_line, plain
from launcher.store.node_facts import Halving
from launcher.store.run_folder import RunDir

Result = TypeVar("Result")
LACK = "OutOfMemoryError"  # as torch names it
ROWS_AT_ONCE = {"preference": "evaluation.batch_size", "mt_bench": "evaluation.mt_bench.batch_size"}


def can_halve(reason: str, config: RunConfig) -> bool:
    """Whether what went wrong is a lack of the accelerator's memory that a smaller micro-batch may mend."""
    trainer = config.trainer
    wanted = config.cluster.halve_micro_batch and not loss_named(config.loss_type).neighbours
    return LACK in reason and wanted and trainer.micro_batch_size % 2 == 0


def halve(config: RunConfig, run: RunDir) -> RunConfig:
    """Note on disk that the run goes on with half its micro-batch, in this attempt and those after it."""
    half = config.trainer.micro_batch_size // 2
    append_line(run.memory_log, plain(Halving(half, run.last_checkpoint_step(), time.time())))
    say(f"out of memory: going on with trainer.micro_batch_size={half} and twice the accumulation")
    return replace(config, trainer=replace(config.trainer, micro_batch_size=half))


def within_memory(config: RunConfig, run: RunDir, work: Callable[[RunConfig], Result]) -> Result:
    """What `work` returns; where memory runs out, it is called again with half the micro-batch. For one rank only."""
    while True:
        try:
            return work(config)
        except Exception as error:
            if not can_halve(f"{type(error).__name__}: {error}", config):
                raise
            traceback.clear_frames(error.__traceback__)  # they hold the tensors that filled the memory
        config = halve(config, run)
        _release()


def measured(benchmark: str, work: Callable[[], None]) -> None:
    """Do a benchmark's `work`; where the accelerator's memory runs out, once more when what training left is released.

    Raises:
        MeasuringError: it has run out again. That is no lack of the training's.
    """
    try:
        work()
    except Exception as error:
        if not _is_lack(error):
            raise
        traceback.clear_frames(error.__traceback__)
    else:
        return
    say(f"{benchmark}: out of memory: once more, with nothing else in it")
    _release()
    try:
        work()
    except Exception as error:
        if _is_lack(error):
            raise MeasuringError(_too_large(benchmark)) from None
        raise


def _is_lack(error: Exception) -> bool:
    return LACK in f"{type(error).__name__}: {error}"


def _too_large(benchmark: str) -> str:
    key = ROWS_AT_ONCE.get(benchmark, f"evaluation.{benchmark}")
    return (
        f"{benchmark}: the GPU's memory is too small for it, with nothing else in it; the run is trained: lower {key}"
    )


def _release() -> None:
    from launcher.worker.training.train import forget_trained

    forget_trained()
    gc.collect()
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
