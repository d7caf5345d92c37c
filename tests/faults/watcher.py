"""Looks at everything every few seconds while faults are injected, and says which invariant is broken.

Owns: the looking, in a thread of its own. Must not know: what is injected next; what an invariant is.
"""

from __future__ import annotations

import threading
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from invariants import Doubles, Facts, Queue, Sayings, bad_reasons
from scenes import Answer, Scene, parsed
from world import World, name_of

EVERY_SECONDS = 4.0
NAMES_OF_JOBS = ("job.json", "jobs.json", "work.json", "attempt.json", "batch.json")
FAILED, WRONG_COMMAND = 1, 2


class Watcher:
    """Asks status, reads facts and processes; `find` is told what is broken."""

    def __init__(self, world: World, find: Callable[[str, Scene, str], None]) -> None:
        self.world, self.find = world, find
        self.facts, self.sayings = Facts(), Sayings()
        self.striking = threading.Lock()  # held while a fault is made and noted, so that it is not taken for a break
        self.doubles: dict[str, Doubles] = {}
        self.reasons: Counter[str] = Counter()
        self.asked = 0
        self.trained: set[str] = set()  # the scenes of which a process that trains was seen
        self.silent: Counter[str] = Counter()  # what status said where it could not answer
        self.queues: dict[str, Queue] = {}
        self._end = threading.Event()
        self._threads: dict[str, threading.Thread] = {}

    def start(self) -> None:
        """Begin; each scene has a thread, since a status that hangs must not keep the others from being asked."""
        self._main = threading.Thread(target=self._go, daemon=True)
        self._main.start()

    def stop(self) -> None:
        """End, when the looks under way have ended."""
        self._end.set()
        self._main.join()

    def _go(self) -> None:
        while not self._end.wait(1.0):
            for scene in list(self.world.scenes):
                thread = self._threads.get(scene.name)
                if thread is None or not thread.is_alive():
                    self._threads[scene.name] = threading.Thread(target=self._look, args=(scene,), daemon=True)
                    self._threads[scene.name].start()
                self._tell_doubles(scene)

    def _tell_doubles(self, scene: Scene) -> None:
        ranks = scene.ranks()
        if any(rank.run for rank in ranks):
            self.trained.add(scene.name)
        for said in self.doubles.setdefault(scene.name, Doubles()).broken(ranks):
            self.find("two processes train one run", scene, said)

    def _look(self, scene: Scene) -> None:
        try:
            self.look(scene)
        except Exception:  # noqa: BLE001 - of a scene that is removed or moved meanwhile, for one; the next look tells
            self.silent[traceback.format_exc().splitlines()[-1]] += 1
        self._end.wait(EVERY_SECONDS)

    def look(self, scene: Scene) -> None:
        """Check what can be checked of a scene at any time."""
        if scene.launches == 0 or not scene.root.exists():
            return
        before, root = scene.ranks(), scene.root
        with self.striking:
            changed = self.facts.broken(root)
        for said in changed:
            self.find("a fact changed", scene, said)
        self._look_at_queue(scene, root)
        answer, after = scene.ask(), scene.ranks()
        if scene.root != root or not root.exists() or answer.began < self.world.away_until:
            return
        self.asked += 1
        runs = self._runs(scene, answer)
        for said in bad_reasons(runs):
            self.find("a reason says nothing", scene, said)
        for said in self.sayings.broken(scene.name, runs, before, after, root):
            self.find("status says what is false", scene, said)
        for run in runs:
            if run["status"] not in ("TRAINED", "RUNNING", "NEW") and run["reason"]:
                self.reasons[f"{run['status']}: {told(str(run['reason']))}"] += 1

    def _look_at_queue(self, scene: Scene, root: Path) -> None:
        """Once the last launch has ended well: one that did not may find at its next try what it has left."""
        launched = scene.launches
        if scene.launcher is not None or scene.answered is None or scene.answered.code:
            return
        if any(path.name in NAMES_OF_JOBS for path in scene.injured):  # what we took away nobody can know
            return
        live = self.world.jobs_of(scene)
        if live is not None and scene.launches == launched:
            for said in self.queues.setdefault(scene.name, Queue()).broken(root, live, name_of(self.world.cluster)):
                self.find("every job is known, and alone with its run", scene, said)

    def _runs(self, scene: Scene, answer: Answer) -> Sequence[dict[str, object]]:
        """What status says; where it says nothing, it has to say why in one line."""
        if answer.code == 0:
            try:
                runs = parsed(answer)
            except ValueError as error:
                self.find("status is not JSON", scene, f"{error}: {answer.output[:300]}")
                return []
            scene.seen, scene.seen_at, scene.complaint = runs, answer.began, ""
            scene.is_unknown = False
            return runs
        complaint = answer.errors.strip()
        self.silent[told(complaint.splitlines()[-1] if complaint else "")] += 1
        scene.complaint, scene.is_unknown = complaint, answer.code == WRONG_COMMAND
        if answer.code not in (FAILED, WRONG_COMMAND) or "Traceback" in complaint or not complaint:
            self.find("status raises", scene, f"exit code {answer.code}: {complaint[-300:]}")
        return []


def told(reason: str) -> str:
    """A reason without what differs from one time to the next, so that like ones are counted together."""
    words = reason.partition("\n")[0][:160].split()
    return " ".join("PATH" if "/" in word and len(word) > 8 else word for word in words)
