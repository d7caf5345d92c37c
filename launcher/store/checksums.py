"""What the files of a checkpoint or a model hold, by their checksums.

Owns: how a checksum is made, which rank makes that of which file. Must not know: torch, what such a folder must have.

A disk, a file system after a crash or a copy by hand can change what a file holds and leave its size; a training that
goes on from there ends as another model. Each rank reads what it has written itself, which its machine still has in
memory, and later what it is about to load.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import xxhash

THREADS = 4  # a checksum is made outside Python's lock
CHUNK_BYTES = 1 << 22
_OF_RANK = re.compile(r"(?:.*zero_pp_rank_(\d+)_.*|(?:.*/)?rng_state_(\d+)\.pth)")


def checksums(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """The checksum of each of these files.

    Raises:
        OSError: one cannot be read.
    """
    names = sorted(names)
    with ThreadPoolExecutor(THREADS) as pool:
        return dict(zip(names, pool.map(_checksum, (folder / name for name in names)), strict=True))


def _checksum(path: Path) -> str:
    state, buffer = xxhash.xxh3_128(), bytearray(CHUNK_BYTES)
    view = memoryview(buffer)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(view):
            state.update(view[:count])
    return state.hexdigest()


def of_rank(names: Iterable[str], rank: int, ranks: int) -> list[str]:
    """Those of the files that this rank writes and loads: its shards and its random state; rank 0 also the rest."""
    return [name for name in names if _writer(name) % ranks == rank]


def _writer(name: str) -> int:
    match = _OF_RANK.fullmatch(name)
    return int(next(filter(None, match.groups()))) if match else 0


def changed(folder: Path, recorded: Mapping[str, str], rank: int, ranks: int) -> list[str]:
    """What is wrong with the files that this rank is to load, a line for each that is not as it was recorded."""
    mine = of_rank(recorded, rank, ranks)
    try:
        found = checksums(folder, mine)
    except OSError as error:
        return [f"{Path(error.filename or '').name} cannot be read ({error.strerror})"]
    return [f"{name} has other content than was written" for name in mine if found[name] != recorded[name]]
