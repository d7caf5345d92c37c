"""Where the parts of tests/gpu compute, and how large what they compute with is.

Owns: the device, waiting for it, its memory. Must not know: any part.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass
from pathlib import Path

import torch

GIB = 2**30


@dataclass(frozen=True)
class Machine:
    """The device, whether models are tiny, and a folder for what is written."""

    device: torch.device
    tiny: bool
    folder: Path

    @property
    def is_gpu(self) -> bool:
        """Else it is a CPU, on which some things have no meaning."""
        return self.device.type == "cuda"

    @property
    def name(self) -> str:
        """Of the chip."""
        return torch.cuda.get_device_name(self.device) if self.is_gpu else "cpu"

    def wait(self) -> None:
        """Until all that was started is done."""
        if self.is_gpu:
            torch.cuda.synchronize(self.device)

    def empty(self) -> None:
        """Give back the memory that nothing holds any more."""
        gc.collect()
        if self.is_gpu:
            torch.cuda.empty_cache()
