"""Resumable trainer state on disk: which checkpoint is whole.

Owns: the marker that closes a checkpoint, which is whole by names and sizes and of this training, the removal of old
ones. Must not know: torch; how the state is written, what its files hold (`checksums`).

The trainer writes a checkpoint file by file, and a kill may come between any two. So the last thing written is
`complete.json`, with the size and checksum of every file, after all of them were flushed to disk. A folder without it,
or one whose files differ from it, is no checkpoint. It also says whose it is, and of which step: a restore by hand may
put it into another run's folder, or under another name, and the trainer loads what it finds.

Each start has a folder of its own, `checkpoints/<start>/checkpoint-N`: one that does not know yet that another has
taken up its run neither writes nor removes what that one needs.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from launcher.errors import UNSAID, ConfigError, StoreError, Unread, UsageError
from launcher.machine import rights
from launcher.machine.terminal import say
from launcher.store import checkpoint_folders
from launcher.store.checkpoint_folders import MARKER, run_of, step_of
from launcher.store.file_system import NO_LINKS
from launcher.store.files import content_key, plain, read_fact, write_once
from launcher.store.names import order_of
from launcher.store.node_facts import CheckpointMarker
from launcher.store.origins import Sources
from launcher.store.reading import REMEDY
from launcher.store.run_folder import RunDir

_STEP = re.compile(r"global_step\d+/")
_OPTIMIZER_SHARD = re.compile(r"global_step\d+/(?:bf16_)?zero_pp_rank_(\d+)_mp_rank_00_optim_states\.pt")
_WEIGHTS_SHARD = re.compile(r"global_step\d+/zero_pp_rank_(\d+)_mp_rank_00_model_states\.pt")
STATE = "trainer_state.json"
_NEEDED = {
    "trainer state": re.compile(re.escape(STATE)),
    "weights": re.compile(r"(adapter_|pytorch_)?model.*\.(safetensors|bin)|global_step\d+/.*model_states\.pt"),
    "optimizer state": re.compile(r"optimizer\.(pt|bin)|global_step\d+/.*optim_states\.pt"),
    "schedule": re.compile(r"scheduler\.pt"),
}


@dataclass(frozen=True)
class Training:
    """What tells a training from all others: its run, and the hash of what it is trained on, where that is noted."""

    run: str
    sources: str | None = None

    @classmethod
    def of(cls, run: RunDir) -> Training:
        """That of a run as it is now. Paths do not count: a project may be moved."""
        noted = read_fact(run.sources_file, Sources)
        return cls(run.run_id) if noted is None else cls.on(run.run_id, noted)

    @classmethod
    def on(cls, run: str, sources: Sources) -> Training:
        """That of a run on these sources."""
        data = {key: each.files for key, each in (sources.inputs or {}).items() if key.startswith("dataset")}
        return cls(run, content_key([sources.model, plain(sources.dataset), data]))


def newest_first(own: Path) -> list[Path]:
    """Every checkpoint of a run, whole or not; `own`: the folder of one start, or of all of an older version's."""
    return checkpoint_folders.newest_first(own if order_of(own.name) == (0, 0) else own.parent)


def last_complete(own: Path) -> Path | None:
    """The newest whole checkpoint; those that are not whole are passed over."""
    return next((path for path in newest_first(own) if missing_in(path) is None), None)


def take_over(checkpoint: Path, own: Path) -> Path | None:
    """A checkpoint of any start as one in `own`, marker last; None where it was removed meanwhile.

    Its files get second names, so that the start that wrote it can take only its own away; where the file system has
    none, the folder moves, and what lies elsewhere behind a link gets another link.
    """
    mine = own / checkpoint.name
    if mine == checkpoint:
        return mine
    make_way(mine)
    try:
        files = sorted((path for path in checkpoint.rglob("*") if path.is_file()), key=_is_marker)
        for path in files:
            target = mine / path.relative_to(checkpoint)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, target)
    except FileNotFoundError:
        remove(mine)
        return None
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        remove(mine)
        own.mkdir(parents=True, exist_ok=True)
        if checkpoint.is_symlink() or checkpoint.parent.is_symlink():  # what is behind a link stays there
            mine.symlink_to(checkpoint.resolve())
            return mine
        return checkpoint.rename(mine)
    if (mine / MARKER).exists():
        return mine
    remove(mine)
    return None


def _is_marker(path: Path) -> bool:
    return path.name == MARKER


def missing_in(checkpoint: Path) -> str | None:
    """What keeps a checkpoint from being whole; None where nothing does."""
    try:
        marker = read_fact(checkpoint / MARKER, CheckpointMarker)
    except Unread:  # what may be whole is not removed
        raise
    except StoreError as error:  # it goes with what it closes: there is nothing to put right
        return str(error).removeprefix(f"{checkpoint}/").removesuffix(f"; {REMEDY}")
    if marker is None:
        return f"no {MARKER}: it was never finished"
    if (step := _step_in(checkpoint, marker)) not in (None, step_of(checkpoint)):
        return f"it is the checkpoint of step {step}"
    files, ranks = marker.files, marker.ranks
    for name, size in files.items():
        path = checkpoint / name
        if not path.is_file() or path.stat().st_size != size:
            return f"{name} is missing or has another size"
    lacking = [what for what, pattern in _NEEDED.items() if not any(pattern.fullmatch(name) for name in files)]
    lacking += [name for name in _rng_files(ranks) if name not in files]
    lacking += _missing_shards(files, ranks)
    return f"no {', '.join(lacking)}" if lacking else None


def sums_in(checkpoint: Path) -> dict[str, str]:
    """The checksums that its marker records; none where an older version wrote it."""
    marker = read_fact(checkpoint / MARKER, CheckpointMarker)
    return marker.sums if marker else {}


def packing_in(checkpoint: Path) -> str | None:
    """How pairs went through the model up to a checkpoint, in words; None where it does not say."""
    marker = read_fact(checkpoint / MARKER, CheckpointMarker)
    return marker.packing if marker else None


def _step_in(checkpoint: Path, marker: CheckpointMarker) -> int | None:
    """The step of which it says itself that it is; an older version wrote that into the trainer's state alone."""
    if marker.step is not None:
        return marker.step
    try:
        state = json.loads((checkpoint / STATE).read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    step = state.get("global_step") if isinstance(state, dict) else None
    return step if isinstance(step, int) else None


def owner_of(checkpoint: Path, training: Training) -> str | None:
    """Whose it is, in words, where it says that it is not of this training."""
    try:
        marker = read_fact(checkpoint / MARKER, CheckpointMarker)
    except StoreError:
        return None  # which `missing_in` tells
    if marker is None:
        return None
    run = run_of(checkpoint)
    if run not in (None, training.run):
        return f"it is a checkpoint of the run {run}"
    if None in (marker.sources, training.sources) or marker.sources == training.sources:
        return None
    return f"it is a checkpoint of another training of {marker.run}, with another model or other data"


def sources_of(run: RunDir) -> str | None:
    """The hash of what a run is trained on, as its newest whole checkpoint tells that has it; None where none does."""
    for checkpoint in newest_first(run.checkpoints):
        if missing_in(checkpoint) is None and owner_of(checkpoint, Training(run.run_id)) is None:
            marker = read_fact(checkpoint / MARKER, CheckpointMarker)
            if marker is not None and marker.sources is not None:
                return marker.sources
    return None


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


def seal(
    checkpoint: Path,
    ranks: int,
    sums: Mapping[str, str] = MappingProxyType({}),
    training: Training | None = None,
    packing: str | None = None,
) -> None:
    """Close a checkpoint that all `ranks` have written: flush every file, then write the marker.

    `sums`: the checksums of its files; `training`: whose it is; `packing`: how pairs went through the model.
    """
    rights.follow_umask(checkpoint)
    files = [checkpoint / name for name in sorted({*written(checkpoint), *sums} - {MARKER})]
    for path in files:
        _flush(path)
    for folder in {path.parent for path in files} | {checkpoint, checkpoint.parent}:
        _flush(folder)
    sizes = {path.relative_to(checkpoint).as_posix(): path.stat().st_size for path in files}
    run, sources = (training.run, training.sources) if training else (None, None)
    marker = CheckpointMarker(sizes, ranks, dict(sums), run, sources, step_of(checkpoint), packing)
    write_once(checkpoint / MARKER, marker)
    _flush(checkpoint)


def written(checkpoint: Path) -> list[str]:
    """The names of the files in a checkpoint that is not sealed yet."""
    found = (path for path in checkpoint.rglob("*") if path.is_file())
    return sorted(path.relative_to(checkpoint).as_posix() for path in found)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def rotate(own: Path, keep: int, up_to: int | None = None, training: Training | None = None) -> None:
    """Of this start and earlier ones, remove all but the newest `keep` whole checkpoints, and all that are not whole.

    What is later than `up_to`, by default than this start's newest whole one, stays: where that is damaged, what came
    before it is all there is. What is another run's, or of another training than `training`, counts for nothing and
    stays too, less a link to it: it may be all that its own has.
    """
    training = training or Training(_run_around(own))
    there = [path for path in newest_first(own) if order_of(path.parent.name) <= order_of(own.name)]
    found = [path for path in there if _is_link(path) or owner_of(path, training) is None]
    whole = [path for path in found if owner_of(path, training) is None and missing_in(path) is None]
    if up_to is None:
        up_to = next((step_of(path) for path in whole if path.parent == own), 0)
    by_step = {step_of(path): path for path in reversed(whole) if step_of(path) <= up_to}  # of one step the latest
    kept = sorted(by_step, reverse=True)[:keep]
    stay = [path for path in whole if step_of(path) > up_to] + [by_step[step] for step in kept]
    for path in found:
        if path not in stay:
            remove(path)
    for folder in {path.parent for path in found} - {own, *(path.parent for path in stay)}:
        with contextlib.suppress(OSError):  # not empty
            folder.unlink() if folder.is_symlink() else folder.rmdir()


def remove(checkpoint: Path) -> None:
    """Remove a checkpoint; the marker goes first, so that a kill in between leaves nothing that looks whole.

    Somebody else may be at it too. What cannot be removed is said, and tried again with the next one. Of one that is a
    link, or lies behind one, nothing but the link goes; of one that is another run's, nothing.
    """
    try:
        if checkpoint.is_symlink():
            checkpoint.unlink(missing_ok=True)
        elif not _is_link(checkpoint) and owner_of(checkpoint, Training(_run_around(checkpoint.parent))) is None:
            (checkpoint / MARKER).unlink(missing_ok=True)
            shutil.rmtree(checkpoint, onerror=_unless_gone)
    except OSError as error:
        say(f"{checkpoint} cannot be removed: {error.strerror or error}")


def make_way(place: Path) -> None:
    """Clear the place of a checkpoint that this start is to write; what is another run's gets another name."""
    remove(place)
    _rename(place)


def without_link(own: Path) -> None:
    """See that the folder into which this start writes is none of another's: a link there gets another name."""
    if own.is_symlink() and order_of(own.name) != (0, 0):
        _rename(own)


def _rename(place: Path) -> None:
    if os.path.lexists(place):
        place.rename(place.with_name(f"{place.name}.{secrets.token_hex(3)}.another"))


def _run_around(own: Path) -> str:
    """The run in whose folder a start's checkpoints lie, or all of an older version's."""
    return (own if order_of(own.name) == (0, 0) else own.parent).parent.name


def _is_link(checkpoint: Path) -> bool:
    """Whether it is one, or a start's folder is; `checkpoints/` may be."""
    start = checkpoint.parent
    return checkpoint.is_symlink() or (start.is_symlink() and order_of(start.name) != (0, 0))


def _unless_gone(_function: object, _path: str, raised: tuple[type[BaseException], BaseException, object]) -> None:
    if not isinstance(raised[1], FileNotFoundError):
        raise raised[1]
