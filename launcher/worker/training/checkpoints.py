"""Resumable trainer state on disk: which checkpoint is whole.

Owns: the marker that closes a checkpoint, the search for the last whole one, the removal of old ones.
Must not know: torch; how the state is written. (Names and sizes are read, nothing is loaded.)

The trainer writes a checkpoint file by file, and a kill may come between any two. So the last thing written is
`complete.json`, with the size of every file, after all of them were flushed to disk. A folder without it, or one whose
files differ from it, is no checkpoint.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Collection
from pathlib import Path

from launcher.errors import UNSAID, ConfigError, StoreError, UsageError
from launcher.store.facts import CheckpointMarker
from launcher.store.files import read_fact, write_once

MARKER = "complete.json"
_FOLDER = re.compile(r"checkpoint-(\d+)")
_STEP = re.compile(r"global_step\d+/")
_OPTIMIZER_SHARD = re.compile(r"global_step\d+/(?:bf16_)?zero_pp_rank_(\d+)_mp_rank_00_optim_states\.pt")
_WEIGHTS_SHARD = re.compile(r"global_step\d+/zero_pp_rank_(\d+)_mp_rank_00_model_states\.pt")
_NEEDED = {
    "trainer state": re.compile(r"trainer_state\.json"),
    "weights": re.compile(r"(adapter_|pytorch_)?model.*\.(safetensors|bin)|global_step\d+/.*model_states\.pt"),
    "optimizer state": re.compile(r"optimizer\.(pt|bin)|global_step\d+/.*optim_states\.pt"),
    "schedule": re.compile(r"scheduler\.pt"),
}


def step_of(checkpoint: Path) -> int:
    """The optimizer step at which it was written."""
    match = _FOLDER.fullmatch(checkpoint.name)
    if match is None:
        raise ValueError(f"{checkpoint} is no checkpoint folder")
    return int(match[1])


def _newest_first(folder: Path) -> list[Path]:
    names = os.listdir(folder) if folder.is_dir() else []
    return sorted((folder / name for name in names if _FOLDER.fullmatch(name)), key=step_of, reverse=True)


def last_complete(folder: Path) -> Path | None:
    """The newest whole checkpoint; those that are not whole are passed over."""
    return next((path for path in _newest_first(folder) if missing_in(path) is None), None)


def missing_in(checkpoint: Path) -> str | None:
    """What keeps a checkpoint from being whole; None where nothing does."""
    try:
        marker = read_fact(checkpoint / MARKER, CheckpointMarker)
    except StoreError as error:
        return str(error)
    if marker is None:
        return f"no {MARKER}: it was never finished"
    files, ranks = marker.files, marker.ranks
    for name, size in files.items():
        path = checkpoint / name
        if not path.is_file() or path.stat().st_size != size:
            return f"{name} is missing or has another size"
    lacking = [what for what, pattern in _NEEDED.items() if not any(pattern.fullmatch(name) for name in files)]
    lacking += [name for name in _rng_files(ranks) if name not in files]
    lacking += _missing_shards(files, ranks)
    return f"no {', '.join(lacking)}" if lacking else None


def _rng_files(ranks: int) -> list[str]:
    return ["rng_state.pth"] if ranks == 1 else [f"rng_state_{rank}.pth" for rank in range(ranks)]


def _missing_shards(files: Collection[str], ranks: int) -> list[str]:
    """What DeepSpeed would miss: the name of the newest step, each rank's optimizer state, and weights.

    Up to ZeRO-2 one file holds the weights, from ZeRO-3 on each rank has its part.
    """
    if not any(_STEP.match(name) for name in files):
        return []
    optimizers = {int(match[1]) for name in files if (match := _OPTIMIZER_SHARD.fullmatch(name))}
    weights = {int(match[1]) for name in files if (match := _WEIGHTS_SHARD.fullmatch(name))}
    missing = [] if "latest" in files else ["latest"]
    missing += [f"optimizer state of rank {rank}" for rank in range(ranks) if rank not in optimizers]
    return missing + [f"weights of rank {rank}" for rank in range(ranks) if weights and rank not in weights]


def check_fits(checkpoint: Path, ranks: int, *, sharded: bool) -> None:
    """Refuse to resume with another number of ranks than shards were written by, or with other means.

    Raises:
        UsageError: says what to change.
    """
    marker = read_fact(checkpoint / MARKER, CheckpointMarker) or CheckpointMarker({}, ranks)
    was_sharded = any(_STEP.match(name) for name in marker.files)
    if was_sharded != sharded:
        was, now = ("with", "without") if was_sharded else ("without", "with")
        raise ConfigError(
            "deepspeed",
            UNSAID,
            f"{checkpoint} was written {was} DeepSpeed and cannot be resumed {now} it; "
            "choose as before, or remove the checkpoint to begin again",
        )
    if sharded and marker.ranks != ranks:
        raise UsageError(
            f"cluster.nodes x cluster.gpus_per_node: {checkpoint} is divided among {marker.ranks} ranks, this job "
            f"has {ranks}; give as many as before, or remove the checkpoint to begin again"
        )


def seal(checkpoint: Path, ranks: int) -> None:
    """Close a checkpoint that all `ranks` have written: flush every file, then write the marker."""
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name != MARKER)
    for path in files:
        _flush(path)
    for folder in {path.parent for path in files} | {checkpoint}:
        _flush(folder)
    sizes = {path.relative_to(checkpoint).as_posix(): path.stat().st_size for path in files}
    write_once(checkpoint / MARKER, CheckpointMarker(sizes, ranks))
    _flush(checkpoint)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def rotate(folder: Path, keep: int) -> None:
    """Remove all but the newest `keep` whole checkpoints, and all that are not whole."""
    whole = [path for path in _newest_first(folder) if missing_in(path) is None]
    for path in _newest_first(folder):
        if path not in whole[:keep]:
            remove(path)


def remove(checkpoint: Path) -> None:
    """Remove a checkpoint; the marker goes first, so that a kill in between leaves nothing that looks whole."""
    (checkpoint / MARKER).unlink(missing_ok=True)
    shutil.rmtree(checkpoint)
