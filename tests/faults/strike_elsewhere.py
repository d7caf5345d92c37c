"""Faults of who asks, and from where: another cluster's login node, and another user, who may read and not write.

Owns: those injections. Must not know: other kinds.
"""

from __future__ import annotations

from random import Random

from scenes import Scene
from strike import Kind, Struck, one_of
from world import GUEST, World

THERE_SECONDS = 45.0


def _on_slurm(world: World, draw: Random) -> Scene | None:
    """A sweep on SLURM which nobody is launching."""
    idle = (scene for scene in world.scenes if scene.launches and scene.launcher is None)
    return one_of(draw, [scene for scene in idle if scene.shape.executor == "slurm"])


def _go_there(world: World, draw: Random) -> Struck | None:
    """Its user launches from another cluster's login node, and asks for the status there for a while."""
    if (scene := _on_slurm(world, draw)) is None:
        return None
    scene.login = world.login_elsewhere()
    scene.launch()
    return Struck(scene.name, scene, lambda: _go_home(scene), THERE_SECONDS)


def _go_home(scene: Scene) -> None:
    scene.login = {}


def _begin_there(world: World, draw: Random) -> Struck | None:
    """A new sweep, launched there; the launcher dies at some call, and its user goes home."""
    if (shape := one_of(draw, [scene.shape for scene in world.scenes if scene.shape.executor == "slurm"])) is None:
        return None
    if not world.has_room() or (call := world.a_call(draw)) is None:
        return None
    scene = world.new_scene(shape)
    scene.login, scene.deaths = world.login_elsewhere(), [call]
    world.scenes.append(scene)
    scene.launch()
    return Struck(f"{scene.name}, new, killed at call {call:,}", scene, lambda: _go_home(scene), THERE_SECONDS)


def _cancel_there(world: World, draw: Random) -> Struck | None:
    if (scene := _on_slurm(world, draw)) is None:
        return None
    scene.cancel(**world.login_elsewhere())
    return Struck(scene.name, scene)


def _ask_as_a_guest(world: World, draw: Random) -> Struck | None:
    """All three commands at once, by a user who may read all files and write none of them."""
    if (scene := one_of(draw, [scene for scene in world.scenes if scene.root.exists()])) is None:
        return None
    guest = world.guest()
    scene.others.append(scene.start("status", scene.name, f"--output-dir={scene.outputs}", within=GUEST, **guest))
    scene.others.append(scene.start(*scene.command, "--json", within=GUEST, **guest))
    scene.cancel(within=GUEST, **guest)
    return Struck(scene.name, scene)


KINDS = (
    Kind("sweep is launched on another cluster's login node", _go_there),
    Kind("sweep is begun on another cluster, whose launcher dies", _begin_there),
    Kind("cancel is asked on another cluster's login node", _cancel_there),
    Kind("another user asks, launches and cancels", _ask_as_a_guest),
)
