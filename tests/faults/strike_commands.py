"""Faults of SLURM's commands: what they answer to the launcher, to status, and to the jobs.

Owns: those injections. Must not know: other kinds.
"""

from __future__ import annotations

from random import Random

from strike import Injection, Kind, Struck
from world import World

SECONDS = 12.0
ANSWERS = ("fails", "is-silent", "talks-rubbish", "has-a-banner", "has-a-footer", "warns", "hangs")
DONE_ALL_THE_SAME = ("does-it-and-fails", "does-it-and-dies", "does-it-in-silence", "names-the-cluster")
WAYS = {
    "squeue": ANSWERS,
    "sacct": ANSWERS,
    "sbatch": (*ANSWERS, *DONE_ALL_THE_SAME),
    "scontrol": ("fails", "talks-rubbish", "has-a-banner"),
}


def _spoil(command: str, way: str) -> Injection:
    calls = 1 if way == "hangs" else 3

    def inject(world: World, draw: Random) -> Struck | None:
        world.spoil(command, way, calls)
        scene = None
        if command == "sbatch":  # it is called by a launch alone: the next one meets it
            waiting = [scene for scene in world.scenes if scene.launches == 0 or scene.launcher is None]
            scene = draw.choice(waiting) if waiting else None
        return Struck(f"its next {calls} calls", scene, lambda: world.unspoil(command), SECONDS * (4 if scene else 1))

    return inject


KINDS = tuple(
    Kind(f"{command} {way.replace('-', ' ')}", _spoil(command, way)) for command, ways in WAYS.items() for way in ways
)
