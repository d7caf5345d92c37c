"""The loop: keeps sweeps alive, injects faults into them in the order of a seed, and does what a user would do.

Owns: when a fault is injected and lifted; the launch command, again whenever nothing is in flight; the end of a scene.
Must not know: how a fault is injected, how an invariant is checked.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from invariants import written_by, wrong_losses, wrong_publication, wrong_weights
from journal import Journal
from kinds import deck
from scenes import IN_FLIGHT, SHAPES, Answer, Scene, Shape
from strike import Kind, Struck
from truth import Truth
from watcher import Watcher
from world import GUEST_UID, World, login_of

BETWEEN_SECONDS = (0.5, 4.5)
TARGET_SECONDS = 400.0  # for which a fault waits for whom it could strike
MOST_WAITING = 40
AGAIN_SECONDS = 5.0  # between two launches of a scene
THERE_SECONDS = 30.0  # for which a job of another cluster's is waited for
LAUNCH_SECONDS = 400.0
LONGEST_SECONDS = 700.0  # from the last fault that a scene has met to its end
THERE = re.compile(r"is on cluster (\S+), and this is .*; ask there")
AGAIN = re.compile(r"launch them again with -m")
AGAIN_BY_NAME = re.compile(r"`resume \S+ (\S+)` tries again")
HELD = re.compile(r"^(?!asked to stop).*`scontrol release (\S+)` lets it go on")
HELD_SECONDS = 30.0  # for which a job is left held: a fault may be holding it
TOLD = re.compile(r"(/\S+?): .*(?:put it right, or move it away|launch the run again with -m)")


class Broken(Exception):
    """An invariant is broken, and nothing more is injected."""


@dataclass
class Harness:
    """One run of the harness."""

    world: World
    truth: Truth
    journal: Journal
    draw: Random
    faults: int
    alive: int
    keep_going: bool
    chosen: Sequence[Kind]
    shapes: tuple[Shape, ...] = SHAPES
    lifts: list[tuple[float, str, Callable[[], None]]] = field(default_factory=list)
    borne: dict[str, list[str]] = field(default_factory=dict)  # by scene: the kinds that it has met
    open: dict[int, tuple[str, set[str]]] = field(default_factory=dict)  # by fault: its kind, the scenes that bear it
    drained: bool = False

    def __post_init__(self) -> None:
        own = Random(self.draw.random())  # noqa: S311 - so that the order of kinds depends on the seed alone
        self.kinds = deck(own, self.chosen)
        self.waiting: list[tuple[float, Kind]] = []
        self.watcher = Watcher(self.world, self._find)

    # ------------------------------------------------------------------------------------------------ the loop

    def go(self) -> None:
        """Inject all faults, and let every scene come to its end.

        Raises:
            Broken: an invariant does not hold.
        """
        self.watcher.start()
        self._tend()
        try:
            while sum(self.journal.injected.values()) < self.faults:
                self._inject_one()
                self._pause(self.draw.uniform(*BETWEEN_SECONDS))
            self.drained = True
            while self.world.scenes or self.lifts:
                self._pause(1.0)
        finally:
            self.watcher.stop()
            for _, _, lift in self.lifts:
                lift()

    def _inject_one(self) -> None:
        """The first of those that wait for somebody to strike, else the next of the deck; each in its turn."""
        for since, kind in list(self.waiting):
            if self._strikes(kind):
                self.waiting.remove((since, kind))
                return
            if time.monotonic() - since > TARGET_SECONDS:
                self.waiting.remove((since, kind))
                self.journal.passed_over[kind.name] += 1
        if len(self.waiting) < MOST_WAITING and not self._strikes(kind := next(self.kinds)):
            self.waiting.append((time.monotonic(), kind))

    def _strikes(self, kind: Kind) -> bool:
        """Whether it has found somebody to strike."""
        with self.watcher.striking:
            struck = kind.inject(self.world, self.draw)
            if struck is not None:
                self._note(sum(self.journal.injected.values()) + 1, kind, struck)
        return struck is not None

    def _note(self, number: int, kind: Kind, struck: Struck) -> None:
        self.journal.fault(number, self.faults, kind, struck)
        bearers = [struck.scene] if struck.scene else self.world.scenes
        self.open[number] = (kind.name, {scene.name for scene in bearers})
        for scene in bearers:
            self.borne.setdefault(scene.name, []).append(kind.name)
            scene.met_at = time.monotonic()
            for path in scene.injured:
                self.watcher.facts.excuse(path.parent if path.name in ("result.json", "config.yaml") else path)
                if path.name == "evaluation.json":  # measured again, it is published again
                    self.watcher.facts.excuse(path.with_name("revision.json"))
        if struck.scene is not None:
            struck.scene.struck_at = time.monotonic()
        if struck.lift is not None:
            self.lifts.append((time.monotonic() + struck.seconds, kind.name, struck.lift))

    def _pause(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while True:
            self._tend()
            if self.journal.findings and not self.keep_going:
                raise Broken
            if time.monotonic() >= deadline:
                return
            time.sleep(0.5)

    def _find(self, invariant: str, scene: Scene, text: str) -> None:
        self.journal.find(invariant, scene.name, text)
        self.open = {number: fault for number, fault in self.open.items() if scene.name not in fault[1]}

    # ------------------------------------------------------------------------------------------------ tending

    def _tend(self) -> None:
        """Lift what has lasted long enough; do for each scene what a user would do; begin new ones."""
        now = time.monotonic()
        due = [lift for lift in self.lifts if lift[0] <= now]
        self.lifts = [lift for lift in self.lifts if lift[0] > now]
        for _, name, lift in due:
            lift()
            self.journal.say(f"lifted  {name}")
        for scene in list(self.world.scenes):
            self._tend_scene(scene)
        while not self.drained and len(self.world.scenes) < self.alive:
            self._begin()

    def _begin(self) -> None:
        alive = [scene.shape for scene in self.world.scenes]
        shape = self.draw.choice([shape for shape in self.shapes if shape not in alive] or self.shapes)
        scene = self.world.new_scene(shape)
        self.world.scenes.append(scene)
        scene.launch()
        self.journal.say(f"begun   {scene.name}")

    def _tend_scene(self, scene: Scene) -> None:
        self._end_launch(scene)
        self._release_held(scene)
        code_is_there = (self.world.code / "launcher").exists()
        if (
            scene.launcher is not None
            or scene.others
            or time.monotonic() - scene.launched < AGAIN_SECONDS
            or not code_is_there
        ):
            return
        if scene.is_done() and scene.is_quiet():
            if not scene.ranks() and self.truth.is_known():
                self._end(scene)
        elif not scene.ranks() and (there := self._asks_elsewhere(scene)) is not None:
            scene.login, scene.launched = there, time.monotonic()
            self.journal.by_hand["asked on the cluster that has the job"] += 1
            self.journal.say(f"by hand {scene.name}: asked on the cluster that has its jobs, as prefsweep says")
        elif scene.is_quiet() or scene.has_failed_to_launch() or asks_for_launch(scene):
            self._launch_again(scene)
        elif time.monotonic() - max(scene.launched, scene.met_at, scene.began) > LONGEST_SECONDS:
            states = [(run["run_id"], run["status"], run["reason"], run["step"]) for run in scene.seen]
            self._give_up(scene, f"nothing has come of it for {LONGEST_SECONDS:.0f} s: {states} {scene.complaint}")

    def _release_held(self, scene: Scene) -> None:
        """What a user does about jobs that SLURM has put on hold, and that status names."""
        found = {match[1] for run in scene.seen if (match := HELD.search(str(run["reason"])))}
        if found and scene.seen_at > max(scene.released, scene.launched, scene.struck_at) + HELD_SECONDS:
            scene.released = time.monotonic()
            for job in found:
                self.world.release(scene, job)
            self.journal.by_hand["a held job is released"] += len(found)
            self.journal.say(f"by hand {scene.name}: {', '.join(sorted(found))} released, as prefsweep says")

    def _asks_elsewhere(self, scene: Scene) -> dict[str, str] | None:
        """Where its user has to go: a launch says so, or all that is left in flight is on another cluster."""
        refused = THERE.search(scene.answered.errors) if scene.answered and scene.answered.code else None
        left = [str(run["reason"]) for run in scene.seen if run["status"] in IN_FLIGHT]
        named = {refused[1]} if refused else {found[1] if (found := THERE.search(each)) else "" for each in left}
        cluster = self.world.clusters().get(named.pop()) if len(named) == 1 else None
        is_fresh = scene.seen_at > max(scene.launched, scene.struck_at) + THERE_SECONDS
        if cluster is None or scene.login == login_of(cluster) or not (refused or is_fresh):
            return None
        return login_of(cluster)

    def _end_launch(self, scene: Scene) -> None:
        for other in [process for process in scene.others if process.poll() is not None]:
            scene.others.remove(other)
            self._judge(scene, scene.answer_of(other, scene.launched))
        if scene.launcher is None:
            return
        if scene.launcher.poll() is None:
            if time.monotonic() - scene.launched > LAUNCH_SECONDS:
                scene.launcher.kill()
                self._find("a launch ends", scene, f"a launch goes on for {LAUNCH_SECONDS:.0f} s")
            return
        scene.answered = scene.answer_of(scene.launcher, scene.launched)
        scene.launcher, scene.launched, scene.is_unknown = None, time.monotonic(), False
        self._judge(scene, scene.answered)

    def _judge(self, scene: Scene, answer: Answer) -> None:
        """A launch may fail, in one line that says why."""
        said = answer.errors.strip() or answer.output.strip()  # `publish` says of each model what became of it
        if answer.code > 0:
            last = said.splitlines()[-1][:300] if said else ""
            self.journal.say(f"refused {scene.name}: {last}")
        has_no_words = answer.code > 0 and ("Traceback" in said or not said)  # what a job prints as it dies is its own
        if answer.began >= self.world.away_until and has_no_words:
            self._find("every failure has a reason", scene, f"a launch ends with code {answer.code}: {said[-300:]}")

    def _launch_again(self, scene: Scene) -> None:
        """What a user does: what the last answers say has to be done by hand, and the same command."""
        said = [scene.complaint, scene.answered.errors + scene.answered.output if scene.answered else ""]
        said += [str(run["reason"]) for run in scene.seen]
        for path in {Path(found[1]) for text in said for found in TOLD.finditer(text)}:
            self._put_right(scene, path)
        scene.complaint = ""
        answer = scene.answered.output if scene.answered else ""
        if "use `publish`" in answer:
            scene.type("publish", scene.name)
        elif named := AGAIN_BY_NAME.findall(answer):
            scene.type("resume", scene.name, *dict.fromkeys(named))
            self.journal.by_hand["a run that has failed too often is resumed by its name"] += 1
        else:
            scene.launch()
        self.journal.say(f"again   {scene.name}, launch {scene.launches}")
        if scene.launches > 6 + 2 * len(self.borne.get(scene.name, ())):
            self._give_up(scene, f"{scene.launches} launches do not end it: {said}")

    def _put_right(self, scene: Scene, path: Path) -> None:
        """As prefsweep says: put back what we have damaged, or move it away."""
        if path not in scene.injured:
            if path.exists():
                self._find("what is called damaged is", scene, f"{path} is called damaged, and nobody has touched it")
            return
        if path.exists() and self.draw.random() < 0.5:
            shutil.move(path, self.world.folder / f"moved.{time.monotonic_ns()}")  # it may lie on another disk
            done = "moved away"
        else:
            path.write_bytes(scene.injured[path])
            done = "put right"
        self.journal.by_hand[f"{path.name} is {done}"] += 1
        self.journal.say(f"by hand {scene.name}: {path.name} is {done}, as prefsweep says")

    # ------------------------------------------------------------------------------------------------ the end

    def _end(self, scene: Scene) -> None:
        """All runs are trained, as it seems: compare them with the truth, and be done with the scene."""
        if scene.name not in self.watcher.trained:  # then no fault has struck one, and nothing is known of doubles
            self._find("what trains is seen", scene, "no process was seen to train it")
        for text in written_by(GUEST_UID, scene.folder):
            self._find("who may not write writes nothing", scene, text)
        for run in scene.runs():
            key = (run.name, scene.shape.ranks)
            for text in wrong_weights(run, self.truth.weights[key]):
                self._find("weights are those of a sweep in peace", scene, text)
            torn = scene.torn_steps.get(run.name, set())
            losses = {step: loss for step, loss in self.truth.losses[key].items() if step not in torn}
            for text in wrong_losses(run, losses):
                self._find("every step is logged", scene, text)
            for text in wrong_publication(run, self._branches(scene)):
                self._find("what is published is what was trained", scene, text)
        self._count_survived(scene)
        self.journal.say(f"ended   {scene.name}, after {scene.launches} launches")
        self._drop(scene)

    def _count_survived(self, scene: Scene) -> None:
        """A fault is survived when the last of those that bore it has ended well."""
        for number, (name, bearers) in list(self.open.items()):
            if bearers == {scene.name}:
                self.journal.survived[name] += 1
                del self.open[number]
            bearers.discard(scene.name)

    def _branches(self, scene: Scene) -> dict[str, dict[str, bytes]] | None:
        if scene.shape.store != "huggingface":
            return None
        repo = next((repo for name, repo in self.world.hub.repos.items() if name.endswith(f"-{scene.name}")), None)
        return {} if repo is None else {name: repo.commits[commit].files for name, commit in repo.branches.items()}

    def _give_up(self, scene: Scene, why: str) -> None:
        self._find("nothing but the launch command is needed", scene, why)
        self._drop(scene)

    def _drop(self, scene: Scene) -> None:
        self.world.scenes.remove(scene)
        self.watcher.facts.forget(scene.folder)
        if not any(f"[{scene.name}]" in finding for finding in self.journal.findings):
            scene.remove()


def asks_for_launch(scene: Scene) -> bool:
    """Whether `status` says that something is to be put right, or to be launched again, though it may list runs."""
    return bool(TOLD.search(scene.complaint) or AGAIN.search(scene.complaint))
