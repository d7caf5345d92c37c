"""Faults of files: facts that are torn, emptied or gone; checkpoints that are torn or spoilt; disks that fail.

Owns: those injections, each done to the file itself, as a crash of a file system does it. What a file held is kept, so
that it can be put right by whoever is told to.
Must not know: other kinds.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random

from reading import losses_of
from scenes import Scene
from strike import Injection, Kind, Struck, a_rank, name_of, one_of
from world import World

FACTS = {
    "config.yaml": "runs/*/config.yaml",
    "attempt.json": "runs/*/attempts/[0-9]*/attempt.json",
    "job.json": "runs/*/attempts/[0-9]*/job.json",
    "a start": "runs/*/*/*/started.json",
    "a start's own fact": "runs/*/starts/*.json",
    "result.json": "runs/*/result.json",
    "revision.json": "runs/*/revision.json",
    "evaluation.json": "runs/*/evaluation.json",
    "sources.json": "runs/*/sources.json",
    "data.json": "runs/*/data.json",
    "complete.json": "runs/*/checkpoints/**/complete.json",
    "launches/NNN.json": "sweeps/*/launches/*.json",
    "batch.json": "sweeps/*/jobs/*/batch.json",
    "work.json": "sweeps/*/jobs/*/work.json",
    "jobs.json": "sweeps/*/jobs/*/jobs.json",
    "the table's manifest": "cache/reference/*/manifest.json",
    "the table": "cache/reference/*/table.parquet",
    "the model's cache": "cache/models/*/model.safetensors",
    "progress.json": "runs/*/attempts/*/progress.json",
}
BAD_CALLS = {
    "EIO": errno.EIO,
    "ESTALE": errno.ESTALE,
    "ENOSPC": errno.ENOSPC,
    "EROFS": errno.EROFS,
    "EDQUOT": errno.EDQUOT,
}


def _tear(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _empty(path: Path) -> None:
    os.truncate(path, 0)


def _remove(path: Path) -> None:
    path.unlink()


WAYS: dict[str, Callable[[Path], None]] = {"torn": _tear, "empty": _empty, "removed": _remove}


def _damage(pattern: str, way: Callable[[Path], None]) -> Injection:
    """One such file of one scene."""

    def inject(world: World, draw: Random) -> Struck | None:
        found = [(scene, path) for scene in world.scenes for path in sorted(scene.root.glob(pattern))]
        found = [(scene, path) for scene, path in found if path not in scene.injured and path.stat().st_size]
        if (chosen := one_of(draw, found)) is None:
            return None
        scene, path = chosen
        _note(scene, path)
        with suppress(OSError):  # gone meanwhile
            way(path)
        return Struck(str(path.relative_to(world.folder)), scene)

    return inject


def _note(scene: Scene, path: Path) -> None:
    with suppress(OSError):
        scene.injured[path] = path.read_bytes()


def _tear_last_line(world: World, draw: Random) -> Struck | None:
    """As a crash leaves a log: half of its last line is there. Its writer is killed, or it would know its own place."""
    if (found := a_rank(world, draw)) is None:
        return None
    scene, rank = found
    run = scene.root / "runs" / rank.run
    log = run / "metrics.jsonl"
    with suppress(OSError):
        os.kill(rank.pid, 9)
        steps = set(losses_of(run))
        os.truncate(log, log.stat().st_size - 20)
        scene.torn_steps.setdefault(run.name, set()).update(steps - set(losses_of(run)))
    return Struck(name_of(rank), scene)


def _spoil_checkpoint(spoil: Callable[[Path, Random], None]) -> Injection:
    """The newest whole checkpoint of a run, whose processes are killed at the same moment."""

    def inject(world: World, draw: Random) -> Struck | None:
        if (found := a_rank(world, draw)) is None:
            return None
        scene, rank = found
        run = scene.root / "runs" / rank.run
        whole = sorted(run.glob("checkpoints/**/complete.json"), key=lambda path: path.stat().st_mtime)
        if not whole:
            return None
        files = [path for path in whole[-1].parent.rglob("*") if path.is_file() and path.stat().st_size > 1000]
        victim = draw.choice(sorted(files))
        for each in scene.ranks():
            if each.run == rank.run:
                with suppress(ProcessLookupError):
                    os.kill(each.pid, 9)
        with suppress(OSError):
            spoil(victim, draw)
        return Struck(str(victim.relative_to(run)), scene)

    return inject


def _flip(path: Path, draw: Random) -> None:
    """Some bytes in the middle are others, and the size is as before."""
    with path.open("r+b") as file:
        file.seek(draw.randrange(path.stat().st_size // 2, path.stat().st_size - 64))
        file.write(bytes(draw.randrange(256) for _ in range(64)))


def _cut(path: Path, draw: Random) -> None:
    os.truncate(path, draw.randrange(path.stat().st_size))


def _fail_calls(number: int) -> Injection:
    """The next calls that write below a run's folder fail, of whichever process."""

    def inject(world: World, draw: Random) -> Struck | None:
        if (found := a_rank(world, draw)) is None:
            return None
        scene, rank = found
        calls = draw.choice((1, 3, 30))
        world.fail_disk(number, calls, scene.root / "runs" / rank.run)
        return Struck(f"{calls} calls below the folder of {rank.run}", scene, world.mend_disk, 8)

    return inject


def _fill_disk(world: World, draw: Random) -> Struck | None:
    """The disk that a sweep has to itself is full for a while."""
    scene = one_of(draw, [scene for scene in world.scenes if scene.disk is not None])
    if scene is None or scene.disk is None:
        return None
    ballast, free = scene.disk / "ballast", os.statvfs(scene.disk)
    with suppress(OSError), ballast.open("wb") as file:
        for _ in range(free.f_bavail):
            file.write(bytes(free.f_bsize))
    return Struck(str(scene.disk), scene, lambda: ballast.unlink(missing_ok=True), 15)


def _fail_launch(number: int) -> Injection:
    """The next calls that write below the output folder fail: the launcher's, or whose turn it is."""

    def inject(world: World, draw: Random) -> Struck | None:
        scene = one_of(draw, [scene for scene in world.scenes if scene.launcher is not None])
        if scene is None:
            return None
        calls = draw.choice((1, 2, 5))
        world.fail_disk(number, calls, scene.root)
        return Struck(f"{calls} calls of a launcher", scene, world.mend_disk, 6)

    return inject


KINDS = (
    *(Kind(f"{name} is {way}", _damage(FACTS[name], WAYS[way])) for name in FACTS for way in WAYS),
    Kind("metrics.jsonl ends in half a line", _tear_last_line),
    Kind("checkpoint is torn", _spoil_checkpoint(_cut)),
    Kind("checkpoint has other bytes", _spoil_checkpoint(_flip)),
    Kind("disk is full", _fill_disk),
    *(Kind(f"{name} under a run", _fail_calls(number)) for name, number in BAD_CALLS.items()),
    *(Kind(f"{name} under a launcher", _fail_launch(number)) for name, number in BAD_CALLS.items()),
)
