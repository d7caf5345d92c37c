"""What every Python process of grid.py imports first: parts of it are clocked, and kto_pair starts off the reference.

Owns: the CPU seconds of a reference pass and of trainings, told by the process that makes them; that other start.
Must not know: what is compared.

At the reference model kto_pair's gradient has a kink, at which rounding decides (`losses.kto_pair_loss`). So its runs,
ours and TRL's, start with the same noise on what they train, and our own check, which refuses such a start, is off for
them. They compute what all others do.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NOISE = 1e-3  # beside weights of some 0.02
IS_JOB = "submitit.core._submit" in sys.orig_argv  # the process that trains, of all that a launch starts


@contextmanager
def clocked(part: str, **whose: Any) -> Iterator[None]:
    """Note the CPU seconds that this process has spent within."""
    began = time.process_time()
    yield
    line = {"part": part, **whose, "seconds": time.process_time() - began}
    with Path(os.environ["GRID_CLOCK"]).open("a") as file:
        file.write(json.dumps(line) + "\n")


def move(model: Any) -> None:
    """Add noise to what is trained of a model, the same each time."""
    import torch

    draw = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += NOISE * torch.randn(parameter.shape, generator=draw)


def watch() -> None:
    """Have the reference passes and trainings of this process clocked, and kto_pair moved."""
    from launcher.worker.training import first_step, reference_table
    from launcher.worker.training.trainer import RunTrainer

    measure, check, train = reference_table.measure, first_step.check, RunTrainer.train

    def clocked_measure(*args: Any, **kwargs: Any) -> Any:
        with clocked("pass"):
            return measure(*args, **kwargs)

    def clocked_train(trainer: Any, *args: Any, **kwargs: Any) -> Any:
        if trainer.loss_name == "kto_pair":
            move(trainer.model)
        with clocked("train", loss_type=trainer.loss_name, beta=trainer.beta):
            return train(trainer, *args, **kwargs)

    def check_others(trainer: Any, *args: Any) -> None:
        if trainer.loss_name != "kto_pair":
            check(trainer, *args)

    reference_table.measure, first_step.check = clocked_measure, check_others
    RunTrainer.train = clocked_train


if IS_JOB:
    watch()
