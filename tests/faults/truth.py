"""What runs come to when nothing happens to them: the same objectives, launched once and left in peace.

Owns: the weights and the losses that others are compared with, of this machine, these libraries and this code.
Must not know: faults.

Runs of one rank train on the local executor, which no fault of the cluster reaches, beside all else; those of several
ranks before the first fault.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass, field

from reading import losses_of, weights_of
from scenes import ALONE, Scene, Shape, parsed
from world import World

LONGEST_SECONDS = 900
Key = tuple[str, int]  # a run's id, and how many ranks it has


@dataclass
class Truth:
    """A hash of the final weights of each run, and each step's loss."""

    scenes: list[Scene]
    weights: dict[Key, str] = field(default_factory=dict)
    losses: dict[Key, dict[int, float]] = field(default_factory=dict)

    def is_known(self) -> bool:
        """Whether all of it is known by now.

        Raises:
            RuntimeError: a run has failed, though nothing was done to it.
        """
        for scene in list(self.scenes):
            if _has_ended(scene):
                self._read(scene)
                self.scenes.remove(scene)
        return not self.scenes

    def _read(self, scene: Scene) -> None:
        for run in scene.runs():
            key = (run.name, scene.shape.ranks)
            self.weights[key], self.losses[key] = weights_of(run / "model"), losses_of(run)
        scene.remove()


def sought(world: World, shapes: Collection[Shape]) -> Truth:
    """The truth about sweeps of these shapes; what faults could reach is known already."""
    joint = Truth([_launched(world, shape) for shape in shapes if shape.ranks > 1])
    alone = [_launched(world, ALONE)] if any(shape.ranks == 1 for shape in shapes) else []
    deadline = time.monotonic() + LONGEST_SECONDS
    while not joint.is_known():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{joint.scenes[0].folder}: does not end in peace")
        time.sleep(2)
    joint.scenes = alone
    return joint


def _launched(world: World, shape: Shape) -> Scene:
    scene = world.new_scene(shape, slow=False)
    scene.launch()
    return scene


def _has_ended(scene: Scene) -> bool:
    if scene.launcher is not None and scene.launcher.poll() is None:
        return False
    answer = scene.ask()
    if answer.code:  # the code may be gone for a moment
        return False
    states = {run["status"] for run in parsed(answer)}
    if states & {"FAILED", "LOST", "CANCELLED", "TIMEOUT"}:
        raise RuntimeError(f"{scene.folder}: fails though nothing was done to it: {answer.output}")
    return states == {"TRAINED"} and not scene.ranks()
