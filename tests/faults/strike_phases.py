"""Faults in a phase of a job: it is killed, warned of its time limit, or put back, while it prepares, loads, saves, ...

Owns: how a phase is told from a run's folder, and those injections. Must not know: other kinds.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from random import Random

from living import Rank
from reading import losses_of
from scenes import Scene
from strike import Injection, Kind, Struck, is_at_home, name_of
from world import World

LOOKS, BETWEEN = 20, 0.1  # for a phase that is short, at a time at which it may come
Strike = Callable[[World, Rank], None]


def _prepares(_: Scene, rank: Rank) -> bool:
    return not rank.run and "/cache/prepare/" in rank.command


def _starts(_: Scene, rank: Rank) -> bool:
    return not rank.run and "/cache/prepare/" not in rank.command


def _loads(scene: Scene, rank: Rank) -> bool:
    run = scene.root / "runs" / rank.run
    return bool(rank.run) and not (run / "metrics.jsonl").exists()


def _evaluates(scene: Scene, rank: Rank) -> bool:
    run = scene.root / "runs" / rank.run
    return bool(rank.run) and (run / "result.json").exists() and not (run / "evaluation.json").exists()


def _pushes(scene: Scene, rank: Rank) -> bool:
    run = scene.root / "runs" / rank.run
    return bool(rank.run) and (run / "evaluation.json").exists() and not (run / "revision.json").exists()


def _is_near(scene: Scene, rank: Rank) -> bool:
    """Whether a run is about to end its training."""
    steps = int(next(word for word in scene.words if word.startswith("trainer.max_steps=")).partition("=")[2])
    return bool(rank.run) and len(losses_of(scene.root / "runs" / rank.run)) > steps - 6


PHASES = {"starts": _starts, "prepares": _prepares, "loads": _loads, "evaluates": _evaluates, "pushes": _pushes}
SHORT = ("evaluates", "pushes")


def _kill(_: World, rank: Rank) -> None:
    os.kill(rank.pid, signal.SIGKILL)


def _warn(world: World, rank: Rank) -> None:
    """As SLURM warns of the time limit: all ranks of the job's step."""
    _ask(world, "scancel", "--signal=USR2", rank.job)


def _put_back(world: World, rank: Rank) -> None:
    _ask(world, "scontrol", "requeue", rank.job)


def _ask(world: World, *command: str) -> None:
    environment = world.cluster.environment
    subprocess.run(command, env=environment, capture_output=True, timeout=120, check=False, cwd=world.folder)


STRIKES: dict[str, Strike] = {"is killed": _kill, "is warned of its limit": _warn, "is put back": _put_back}


def _all(world: World) -> Iterator[tuple[Scene, Rank]]:
    return ((scene, rank) for scene in world.scenes for rank in scene.ranks())


def _in_phase(phase: str, strike: Strike) -> Injection:
    is_in, needs_slurm = PHASES[phase], strike is not _kill

    def inject(world: World, draw: Random) -> Struck | None:
        looks = LOOKS if phase in SHORT and any(_is_near(*each) for each in _all(world)) else 1
        for _ in range(looks):
            found = [(s, r) for s, r in _all(world) if is_in(s, r) and (not needs_slurm or is_at_home(world, r))]
            if found:
                scene, rank = draw.choice(found)
                with suppress(ProcessLookupError):
                    strike(world, rank)
                return Struck(name_of(rank), scene)
            time.sleep(BETWEEN)
        return None

    return inject


def _at_a_write(what: str) -> Injection:
    """Whoever writes there is killed at one of its next calls: opening, writing, flushing, linking or renaming."""

    def inject(world: World, draw: Random) -> Struck | None:
        found = [(scene, rank) for scene, rank in _all(world) if rank.run and (scene.root / "runs" / rank.run).exists()]
        if not found:
            return None
        scene, rank = draw.choice(found)
        skip = draw.randrange(60)
        world.fail_disk(-signal.SIGKILL, 1, scene.root / "runs" / rank.run / what, skip=skip)
        return Struck(f"{rank.run}, call {skip + 1} below {what or 'its folder'}", scene, world.mend_disk, 6)

    return inject


def _launcher_at_a_write(world: World, draw: Random) -> Struck | None:
    """A launcher is killed at one of its calls that write below the output folder."""
    found = [scene for scene in world.scenes if scene.launcher is not None and scene.launcher.poll() is None]
    if not found:
        return None
    scene = draw.choice(found)
    pid, skip = scene.launcher.pid if scene.launcher else 0, draw.randrange(150)
    world.fail_disk(-signal.SIGKILL, 1, Path(scene.folder), skip=skip, pid=pid)
    return Struck(f"{scene.name}, at call {skip + 1}", scene, world.mend_disk, 8)


KINDS = (
    *(
        Kind(f"job {how} while it {phase}", _in_phase(phase, strike))
        for phase in PHASES
        for how, strike in STRIKES.items()
    ),
    Kind("rank is killed at a write of a checkpoint", _at_a_write("checkpoints")),
    Kind("rank is killed at a write of its model", _at_a_write(".model.partial")),
    Kind("rank is killed at any write", _at_a_write("")),
    Kind("launcher is killed at a write", _launcher_at_a_write),
)
