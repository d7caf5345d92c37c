"""What a node offers to a run: `python -m launcher.worker.probe FOLDER` writes it to FOLDER/answer.json.

Owns: looking at the node that it runs on. Must not know: runs, sweeps.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import sys
import urllib.error
import urllib.request
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from launcher.cluster import node
from launcher.store.file_system import lacks_in
from launcher.store.files import Plain, write_once
from launcher.store.locks import try_flock
from launcher.store.node_facts import Probe

HUB = "https://huggingface.co"
HUB_SECONDS = 5.0  # a firewall that drops packets says nothing
PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "deepspeed", "wandb")


def main(folder: Path) -> None:
    """Answer what was asked: the word that the login node left in the folder, and what is here."""
    question = folder / "question"
    answer = Probe(
        node.name(),
        platform.python_version(),
        free_gb=shutil.disk_usage(folder).free / 1e9,
        word=question.read_text(encoding="utf-8") if question.exists() else None,
        packages={name: _version(name) for name in PACKAGES},
        lacks=lacks_in(folder),
        lock_seen=_sees_lock(folder / "lock"),
        hub=(hub := os.environ.get("HF_ENDPOINT") or HUB),
        hub_silence=_silence_of(hub),
        **_of_torch(),
    )
    write_once(folder / "answer.json", answer)


def _sees_lock(held_by_login_node: Path) -> bool | None:
    try:
        return not try_flock(held_by_login_node)
    except OSError:
        return None


def _silence_of(address: str) -> str | None:
    """Why that does not answer, whatever it were to say."""
    try:
        urllib.request.urlopen(address, timeout=HUB_SECONDS).close()  # noqa: S310 - the user's own
    except urllib.error.HTTPError:
        return None
    except (OSError, ValueError) as error:
        return str(getattr(error, "reason", error)) or type(error).__name__
    return None


def _version(name: str) -> str | None:
    with contextlib.suppress(PackageNotFoundError):
        return version(name)
    return None


def _of_torch() -> Plain:
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a library of the driver is missing
        return {"torch_error": f"{type(error).__name__}: {error}"}
    if not torch.cuda.is_available():
        return {"cuda": torch.version.cuda, "nccl": None, "gpus": []}
    nccl = ".".join(map(str, torch.cuda.nccl.version()))
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {"cuda": torch.version.cuda, "nccl": nccl, "gpus": names}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
