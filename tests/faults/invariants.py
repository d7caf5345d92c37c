"""What must hold whatever is injected, checked from outside: of files, processes and the Hub, with code of our own.

Owns: each invariant, as a function that says what breaks it. Must not know: prefsweep's code; how faults are injected.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from living import Rank
from reading import fact, facts_below, hash_of, jobs_below, losses_of, owner_of, weights_of
from safetensors.numpy import load

FENCE_SECONDS = 30  # for which two starts of a run may work side by side
ENDED = ("FAILED", "LOST", "TIMEOUT", "CANCELLED")
BARE = re.compile(r"(\w*(Error|Exception|Exit)|Traceback.*|None|null)?[:.]?\s*")


# ------------------------------------------------------------------------------------------------ while it runs


@dataclass
class Facts:
    """What write-once facts have held so far: none changes, and none goes, but those that we have damaged."""

    held: dict[Path, tuple[tuple[int, int, int], str]] = field(default_factory=dict)
    excused: set[Path] = field(default_factory=set)

    def excuse(self, path: Path) -> None:
        """We have damaged this fact, or all below this folder: what becomes of it is no news."""
        self.excused.add(path)

    def broken(self, root: Path) -> list[str]:
        """What has changed since the last look."""
        told = [said for path in facts_below(root) if (said := self._changed(path))]
        gone = [path for path in list(self.held) if path.is_relative_to(root) and not path.exists()]
        for path in gone:
            self.held.pop(path, None)
        return told + [f"{path}: a fact is gone" for path in gone if root.exists() and not self._is_excused(path)]

    def forget(self, root: Path) -> None:
        """This folder is no more, or lies elsewhere."""
        self.held = {path: held for path, held in list(self.held.items()) if not path.is_relative_to(root)}

    def _is_excused(self, path: Path) -> bool:
        return any(path.is_relative_to(each) for each in self.excused)

    def _changed(self, path: Path) -> str | None:
        try:
            stat, before = path.stat(), self.held.get(path)
            mark = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
            if before and before[0] == mark:
                return None
            self.held[path] = (mark, hashlib.sha256(path.read_bytes()).hexdigest())
        except OSError:  # gone, or moved meanwhile: the next look tells
            return None
        if before and before[1] != self.held[path][1] and not self._is_excused(path):
            return f"{path}: a fact has changed since it was written"
        return None


@dataclass
class Doubles:
    """Two processes train one run at once for no longer than the fence allows."""

    since: dict[tuple[int, int], float] = field(default_factory=dict)

    def broken(self, ranks: list[Rank]) -> list[str]:
        """Which have done so for too long; a process that is stopped does not train."""
        by_place: dict[tuple[str, int], list[Rank]] = {}
        for rank in ranks:
            if rank.run and not rank.stopped:
                by_place.setdefault((rank.run, rank.rank), []).append(rank)
        pairs = {(some[0].pid, some[1].pid): some for some in by_place.values() if len(some) > 1}
        now = time.monotonic()
        self.since = {pids: self.since.get(pids, now) for pids in pairs}
        return [
            f"{some[0].run}: processes {pids} train it side by side for {now - self.since[pids]:.0f} s: "
            + " and ".join(f"attempt {rank.attempt}, job {rank.job} on {rank.node}" for rank in some)
            for pids, some in pairs.items()
            if now - self.since[pids] > FENCE_SECONDS
        ]


@dataclass
class Sayings:
    """Status says nothing that we know to be false; twice running, since it may have asked a moment too early."""

    doubted: dict[str, tuple[str, int]] = field(default_factory=dict)
    steps: dict[str, int] = field(default_factory=dict)

    def broken(
        self, scene: str, runs: Sequence[dict[str, Any]], before: list[Rank], after: list[Rank], root: Path
    ) -> list[str]:
        """What it says that is false; `before` and `after`: who was alive when it was asked, and when it answered."""
        alive = {rank.pid for rank in before if not rank.stopped} & {rank.pid for rank in after}
        training = {rank.run for rank in before if rank.pid in alive}
        told = []
        for run in runs:
            false = self._false(run, run["run_id"] in training, root / "runs" / run["run_id"])
            key = f"{scene}/{run['run_id']}"
            word, times = self.doubted.pop(key, ("", 0))
            if false:
                self.doubted[key] = (false, times + 1 if word == false else 1)
                told += [f"{run['run_id']}: {false}"] if self.doubted[key][1] == 3 else []
        return told

    def _false(self, run: dict[str, Any], is_alive: bool, folder: Path) -> str:
        moved = (step := len(losses_of(folder))) > self.steps.get(str(folder), 0)
        self.steps[str(folder)] = step
        if run["status"] in ENDED and is_alive and moved:
            return f"status says {run['status']} ({run['reason']}), and a process goes on training it"
        if run["status"] == "TRAINED" and not (folder / "model" / "model.safetensors").exists():
            return "status says TRAINED, and there are no weights"
        if run["status"] == "NEW" and list(folder.glob("attempts/[0-9]*/rank*.log")):
            return "status says NEW, and a job has come to it"
        return ""


@dataclass
class Queue:
    """SLURM has no job of a sweep that no file names, and no two at work on one run; three times running.

    A job of several runs goes on with the others where one has failed, which another job may train meanwhile.
    """

    seen: dict[str, int] = field(default_factory=dict)

    def broken(self, root: Path, live: set[str], home: str = "") -> list[str]:
        """What is wrong with the jobs that SLURM has of a sweep, when no launcher is at work; `home`: of jobs_below."""
        jobs = jobs_below(root, home)
        by_run: dict[str, set[str]] = {}
        told = [f"{job}: a job that no file names" for job in sorted(live - jobs.keys())]
        for job in live & jobs.keys():
            for attempt in jobs[job]:
                if attempt.suffix != ".evaluation" and not (attempt / "failure.json").exists():
                    by_run.setdefault(attempt.parts[-3], set()).add(job)
        told += [f"{run}: {len(some)} jobs train it, {sorted(some)}" for run, some in by_run.items() if len(some) > 1]
        self.seen = {said: self.seen.get(said, 0) + 1 for said in told}
        return [said for said in told if self.seen[said] == 3]


def bad_reasons(runs: Sequence[dict[str, Any]]) -> list[str]:
    """Ends for which no reason is given, or none that a person can act on."""
    return [
        f"{run['run_id']}: {run['status']} for the reason {run['reason']!r}, on which nobody can act"
        for run in runs
        if run["status"] in ENDED and BARE.fullmatch(str(run["reason"] or ""))
    ]


# ------------------------------------------------------------------------------------------------ at the end


def written_by(uid: int, folder: Path) -> list[str]:
    """What a user has made there who may not write there."""
    theirs = [path for path in folder.rglob("*") if owner_of(path) == uid]
    return [f"{path}: made by user {uid}, who may not write there" for path in theirs]


def wrong_weights(run: Path, true: str) -> list[str]:
    """Whether final weights are, bit for bit, those of a sweep that was left in peace."""
    ours = weights_of(run / "model")
    return [] if ours == true else [f"{run}: its weights are {ours[:12]}, and in peace {true[:12]}"]


def wrong_losses(run: Path, true: dict[int, float]) -> list[str]:
    """Whether each step was logged, with the loss that it has in peace."""
    ours = losses_of(run)
    off = sorted(step for step in true if ours.get(step) != true[step])
    return [f"{run}: steps {off[:8]} of metrics.jsonl are not logged as they are in peace"] if off else []


def wrong_publication(run: Path, branches: dict[str, dict[str, bytes]] | None) -> list[str]:
    """Whether what is published is what was trained; `branches`: those of its repository, where it is on a Hub."""
    revision = fact(run / "revision.json")
    if not revision:
        return [f"{run}: TRAINED, and there is no revision.json"]
    if branches is None:
        address = Path(revision["address"])
        moved = run.parents[1] / "hub" / revision["repo"] / revision["revision"]  # with its output folder
        published = weights_of(address if address.is_dir() else moved)
    else:
        published = _hash_of(branches.get(revision["revision"], {}).get("model.safetensors"))
    return [] if published == weights_of(run / "model") else [f"{run}: other weights are published than it has"]


def _hash_of(data: bytes | None) -> str:
    return "" if data is None else hash_of(load(data))
