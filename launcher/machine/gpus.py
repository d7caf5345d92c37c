"""This machine's GPUs, told without torch.

Owns: their names, and which of them are ours. Must not know: jobs.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

VISIBLE = "CUDA_VISIBLE_DEVICES"
PROGRAM = "nvidia-smi"
DRIVER = Path("/proc/driver/nvidia/gpus")
DEVICES = Path("/dev")
_NAME = re.compile(r"\d+|(GPU|MIG)-\S+")
ANSWER_SECONDS = 60


def gpu_names(folder: Path = DRIVER) -> list[str]:
    """The models of this machine's NVIDIA GPUs, as their driver tells them; none without one."""
    return _told_by_driver("Model", folder)


def _told_by_driver(what: str, folder: Path) -> list[str]:
    """A line of what the driver says of each GPU, in the order of their slots, as nvidia-smi counts them."""
    texts = [file.read_text(encoding="utf-8") for file in sorted(folder.glob("*/information"))]
    return [found[1] for text in texts if (found := re.search(rf"^{what}:\s*(.+?)\s*$", text, re.MULTILINE))]


def visible_gpus() -> list[str]:
    """This machine's NVIDIA GPUs that CUDA_VISIBLE_DEVICES does not hide, as it names them: by index, UUID or MIG name.

    Without it all, by index; where there is no device file, as below WSL2, as many as nvidia-smi tells. CUDA heeds its
    names up to the first that is none, or an index that this machine does not have, and so do we; where no device file
    says how many there are, indices are taken on trust.
    """
    there = sum(file.name[6:].isdigit() for file in DEVICES.glob("nvidia[0-9]*"))
    named = os.environ.get(VISIBLE)
    if named is None:
        return list(map(str, range(there or _told_of(shutil.which(PROGRAM)))))

    def is_here(name: str) -> bool:
        return _NAME.fullmatch(name) is not None and not (there and name.isdigit() and int(name) >= there)

    return _each_once(list(dict.fromkeys(takewhile(is_here, map(_plain, named.split(","))))))


@functools.cache
def _told_of(program: str | None) -> int:
    """How many GPUs nvidia-smi tells of, if there is one."""
    return len(_uuids()) if program else 0


def _plain(name: str) -> str:
    """A GPU's name as everybody writes it: 01 is 1, also for CUDA."""
    name = name.strip()
    return str(int(name)) if name.isdecimal() else name


def _each_once(names: Sequence[str]) -> list[str]:
    """These GPUs without a second name of one; indices alone, or names of one length, are never two of one."""
    if all(map(str.isdigit, names)) or len({(name.isdigit(), len(name)) for name in names}) < 2:  # noqa: PLR2004
        return list(names)
    first = {identity: name for name, identity in reversed(identities(names).items())}
    return [name for name in names if name in first.values()]


def identities(gpus: Sequence[str]) -> dict[str, str]:
    """What each of these GPUs is called whatever index it has: its UUID as the driver tells it, else the same name.

    Indices are taken as the driver counts; CUDA may count GPUs of several models otherwise (CUDA_DEVICE_ORDER).
    """
    uuids = _uuids()
    numbered = {str(index): uuid for index, uuid in enumerate(uuids)}
    begun = {gpu: [uuid for uuid in uuids if uuid.startswith(gpu)] for gpu in gpus}  # CUDA takes beginnings, too
    return {gpu: numbered.get(gpu) or next(iter(begun[gpu]), gpu) for gpu in gpus}


def _uuids() -> list[str]:
    """The GPUs by UUID, as nvidia-smi tells them, which shows those that this process may use; else the driver."""
    command = [PROGRAM, "--query-gpu=uuid", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_SECONDS, check=False)
        told = [line for line in map(str.strip, done.stdout.splitlines()) if line.startswith("GPU-")]
    except (OSError, subprocess.TimeoutExpired):
        told = []
    told = told or _told_by_driver("GPU UUID", DRIVER)
    return [] if any("?" in uuid for uuid in told) else told  # of a GPU that nobody has used since the start
