"""This machine's GPUs, told without torch.

Owns: their names, and which of them are ours. Must not know: jobs.
"""

from __future__ import annotations

import os
import re
from pathlib import Path


def gpu_names(folder: Path = Path("/proc/driver/nvidia/gpus")) -> list[str]:
    """The models of this machine's NVIDIA GPUs, as their driver tells them; none without one."""
    texts = [file.read_text(encoding="utf-8") for file in sorted(folder.glob("*/information"))]
    return [found[1] for text in texts if (found := re.search(r"^Model:\s*(.+?)\s*$", text, re.MULTILINE))]


def visible_gpus() -> list[int]:
    """The indices of this machine's NVIDIA GPUs, less those that CUDA_VISIBLE_DEVICES hides."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [int(index) for index in named.split(",") if index.strip().isdigit()]
    return sorted(int(file.name[6:]) for file in Path("/dev").glob("nvidia[0-9]*") if file.name[6:].isdigit())
