"""What runs come to when nothing happens to them: the same sweeps, launched once and left in peace.

Owns: the weights and the losses that others are compared with, of this machine, these libraries and this code.
Must not know: faults.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from reading import losses_of, weights_of
from scenes import TRUE_SHAPES, Scene
from world import World

LONGEST_SECONDS = 600


@dataclass(frozen=True)
class Truth:
    """By run id and number of ranks: a hash of the final weights, and each step's loss."""

    weights: dict[tuple[str, int], str]
    losses: dict[tuple[str, int], dict[int, float]]


def found(world: World) -> Truth:
    """The truth, from sweeps that are left in peace."""
    scenes = [world.new_scene(shape, slow=False) for shape in TRUE_SHAPES]
    for scene in scenes:
        scene.launch()
    for scene in scenes:
        _wait(scene)
    runs = {(run.name, scene.shape.ranks): run for scene in scenes for run in scene.runs()}
    weights = {key: weights_of(run / "model") for key, run in runs.items()}
    return Truth(weights, {key: losses_of(run) for key, run in runs.items()})


def _wait(scene: Scene) -> None:
    deadline = time.monotonic() + LONGEST_SECONDS
    while True:
        if scene.launcher is None or scene.launcher.poll() is not None:
            answer = scene.ask()
            if answer.code == 0 and all(f'"status": "{word}"' not in answer.output for word in ("PENDING", "RUNNING")):
                break
        if time.monotonic() > deadline:
            raise RuntimeError(f"{scene.name}: does not end in peace; see {scene.folder}")
        time.sleep(1)
    if answer.output.count('"TRAINED"') == 0 or '"FAILED"' in answer.output:
        raise RuntimeError(f"{scene.name}: is not trained though it was left in peace:\n{answer.output}")
