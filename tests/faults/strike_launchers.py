"""Faults of launching: launchers that die or meet, code and folders that go, clocks that are wrong, a Hub that fails.

Owns: those injections. Must not know: other kinds.
"""

from __future__ import annotations

import math
import shutil
import time
from pathlib import Path
from random import Random

from scenes import Scene
from strike import Injection, Kind, Struck, one_of
from world import World, counted, late

HOURS = 3600.0


def _kill_launcher(world: World, draw: Random) -> Struck | None:
    """At a moment that is drawn: it has just begun, plans, submits, or has just submitted."""
    scene = one_of(draw, [scene for scene in world.scenes if scene.launcher is not None])
    if scene is None:
        return None
    launcher, wait = scene.launcher, draw.uniform(0.0, 3.0)
    time.sleep(wait)
    if launcher is None or launcher.poll() is not None:
        return None
    launcher.kill()
    return Struck(f"{scene.name}, {time.monotonic() - scene.launched:.1f} s after its start", scene)


def _kill_at_any_call(world: World, draw: Random) -> Struck | None:
    """The launch of a new sweep, and its next one, if that comes so far."""
    shape = one_of(draw, [scene.shape for scene in world.scenes])
    if shape is None or not world.has_room() or (call := world.a_call(draw)) is None:
        return None
    scene = world.new_scene(shape)
    scene.deaths = [call, world.a_call(draw) or call]
    world.scenes.append(scene)
    scene.launch()
    return Struck(f"{scene.name}, new, at call {call:,} of some {world.calls:,}, then at {scene.deaths[0]:,}", scene)


def _cancel(world: World, draw: Random) -> Struck | None:
    """By its user; what was cancelled is then launched again."""
    scene = one_of(draw, [scene for scene in world.scenes if scene.launches and scene.ranks()])
    if scene is None:
        return None
    scene.cancel()
    return Struck(scene.name, scene)


def _kill_cancel(world: World, draw: Random) -> Struck | None:
    scene = one_of(draw, [scene for scene in world.scenes if scene.launches and scene.ranks()])
    if scene is None:
        return None
    if not world.calls_of_cancel:
        scene.cancel(within=scene.killed_at(0))
        world.calls_of_cancel = counted(scene, scene.others[-1])
        return Struck(f"{scene.name}, not killed: {world.calls_of_cancel:,} calls are counted", scene)
    call = late(draw, world.calls_of_cancel)
    scene.cancel(within=scene.killed_at(call))
    return Struck(f"{scene.name}, at call {call:,} of some {world.calls_of_cancel:,}", scene)


def _two_launchers(world: World, draw: Random) -> Struck | None:
    """A second one of the same sweep; the first is under way, or is started with it."""
    scene = one_of(draw, [scene for scene in world.scenes if scene.launches])
    if scene is None:
        return None
    if scene.launcher is None:
        scene.launch()
    scene.others.append(scene.start(*scene.command, "--json"))
    return Struck(scene.name, scene)


def _edit_code(world: World, draw: Random) -> Struck | None:
    """Whoever edits the checkout breaks nothing that is submitted; it is whole again when somebody launches."""
    file = one_of(draw, sorted(world.code.glob("launcher/worker/*.py")))
    if file is None:  # it is deleted now
        return None
    text = file.read_text()
    file.write_text("raise SystemExit('edited')\n" + text)

    def lift() -> None:
        code = world.code if world.code.exists() else _aside(world)
        (code / file.relative_to(world.code)).write_text(text)

    return Struck(file.name, None, lift, 6)


def _aside(world: World) -> Path:
    """Where the code lies while it is deleted."""
    return world.folder / "code.gone"


def _delete_code(world: World, _: Random) -> Struck | None:
    aside = _aside(world)
    if aside.exists():
        return None

    def lift() -> None:
        aside.rename(world.code)
        world.away_until = time.monotonic()

    world.away_until = math.inf
    world.code.rename(aside)
    return Struck("all of it", None, lift, 6)


def _is_idle(scene: Scene) -> bool:
    return bool(scene.launches) and scene.is_quiet() and not scene.ranks()


def _rename_and_back(world: World, draw: Random) -> Struck | None:
    """Of a sweep that has nothing in flight."""
    scene = one_of(draw, [scene for scene in world.scenes if _is_idle(scene) and not scene.is_done()])
    if scene is None:
        return None
    root, aside = scene.root, scene.folder / "renamed"
    root.rename(aside)
    time.sleep(2)
    aside.rename(root)
    return Struck(scene.name, scene)


def _move(world: World, draw: Random) -> Struck | None:
    """Of a sweep that has nothing in flight, for good: it is launched again with the folder's new name."""
    scene = one_of(draw, [scene for scene in world.scenes if _is_idle(scene) and not scene.is_done()])
    if scene is None:
        return None
    root = scene.root
    scene.outputs = f"moved{scene.launches}"
    root.rename(scene.root)
    scene.injured = {scene.root / path.relative_to(root): data for path, data in scene.injured.items()}
    return Struck(scene.name, scene)


def _set_clock(hours: float) -> Injection:
    """That of every process that starts meanwhile."""

    def inject(world: World, _: Random) -> Struck | None:
        (world.moods / "clock").write_text(str(hours * HOURS))
        return Struck("what starts now", None, lambda: (world.moods / "clock").unlink(missing_ok=True), 15)

    return inject


def _hub(*faults: str) -> Injection:
    def inject(world: World, draw: Random) -> Struck | None:
        if not any(scene.shape.store == "huggingface" for scene in world.scenes):
            return None
        state = Random(draw.random())  # noqa: S311 - which request fails is no secret
        world.hub.fault = lambda *_: state.choice((*faults, None))

        def lift() -> None:
            world.hub.fault = lambda *_: None

        return Struck(f"about {len(faults)} of {len(faults) + 1} requests", None, lift, 20)

    return inject


def _lose_snapshot_tools(world: World, _: Random) -> Struck | None:
    """Whatever the launcher keeps for this user is gone."""
    shutil.rmtree(world.folder / "user", ignore_errors=True)
    return Struck("the user's cache")


KINDS = (
    Kind("launcher gets SIGKILL", _kill_launcher),
    Kind("launcher is killed at any system call", _kill_at_any_call),
    Kind("cancel", _cancel),
    Kind("cancel is killed at any system call", _kill_cancel),
    Kind("two launchers at once", _two_launchers),
    Kind("code is edited", _edit_code),
    Kind("code is deleted for a while", _delete_code),
    Kind("output folder is renamed and back", _rename_and_back),
    Kind("output folder is moved", _move),
    Kind("clock is 3 h ahead", _set_clock(3)),
    Kind("clock is 3 h behind", _set_clock(-3)),
    Kind("user's cache is gone", _lose_snapshot_tools),
    Kind("Hub answers 500", _hub("500")),
    Kind("Hub answers 429", _hub("429")),
    Kind("Hub hangs up", _hub("cut", "lost")),
    Kind("Hub is slow", _hub("slow")),
)
