"""Which checkpoint a training goes on from.

Owns: the choice, by all ranks; what is said of checkpoints that are damaged.
Must not know: torch, how a checkpoint is written or loaded.

The newest whole one of any start is taken over first, as this start's own: whoever else may still be at work in the run
cannot take it away while it is loaded. Then each rank reads what it is about to load. One that is damaged is passed
over, with a line in `damage.jsonl` that `status` tells; a training without any begins anew.
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

from launcher.errors import Unread
from launcher.machine import rights
from launcher.machine.terminal import say
from launcher.store import checksums
from launcher.store.checkpoint_folders import MARKER, step_of
from launcher.store.files import append_line, plain
from launcher.store.node_facts import Damage
from launcher.store.run_folder import RunDir
from launcher.worker.distributed import ranks
from launcher.worker.training import checkpoints


def checkpoint_to_resume(run: RunDir, own: Path, keep: int, *, sharded: bool) -> Path | None:
    """The checkpoint to go on from, in the folder `own` of this start; None: from the beginning.

    Called on all ranks. Afterwards nothing of earlier starts is left but `keep` checkpoints.

    Raises:
        UsageError: it was written by another number of ranks, or with other means.
        Unread: the system does not let one be read: it is neither gone on from nor taken for damaged.
    """
    ranks.first(partial(checkpoints.without_link, own))
    search = _Search(run, own, sharded)
    while name := ranks.first(search.next):
        checkpoint = Path(name)
        sums = checkpoints.sums_in(checkpoint)
        faults = ranks.gather(checksums.changed(checkpoint, sums, ranks.index(), ranks.size()))
        if ranks.first(partial(search.is_sound, faults)):
            break
    ranks.first(partial(search.close, keep, name))
    return Path(name) if name else None


class _Search:
    """Rank 0's way through the checkpoints, each tried once."""

    def __init__(self, run: RunDir, own: Path, sharded: bool) -> None:
        self.run, self.own, self.sharded = run, own, sharded
        self._training = checkpoints.Training.of(run)
        self._tried: list[Path] = []
        self._damaged: dict[str, str] = {}  # by their names below checkpoints/

    def next(self) -> str | None:
        """The newest that is not tried yet and is whole by its names and sizes; it is our own by then.

        Raises:
            Unread: another user does not let one be read.
        """
        for found in checkpoints.newest_first(self.own):
            if found in self._tried or not (found / MARKER).exists():
                continue
            self._tried.append(found)
            if (shut := rights.unreadable_in(found)) is not None:  # what may be whole is not passed over
                raise Unread(rights.refused(shut, "read"))
            if (whose := checkpoints.owner_of(found, self._training)) is not None:
                self._pass_over(whose)  # where it lies it stays for now: it may be all that its own run has
                continue
            mine = checkpoints.take_over(found, self.own)
            if mine is None:
                say(f"{found.name} was removed while it was taken over")
            elif (why := checkpoints.missing_in(mine)) is not None:
                self._pass_over(why)
            else:
                checkpoints.check_fits(mine, ranks.size(), sharded=self.sharded)
                return str(mine)
        return None

    def is_sound(self, faults: list[str]) -> bool:
        """Whether no rank has found anything."""
        if faults:
            self._pass_over("; ".join(faults))
        return not faults

    def _pass_over(self, why: str) -> None:
        found = self._tried[-1]
        mine = self.own / found.name
        say(f"{found.name} is damaged, and passed over: {why}")
        self._damaged[found.relative_to(self.run.checkpoints).as_posix()] = why
        checkpoints.make_way(mine)
        self._tried.append(mine)

    def close(self, keep: int, name: str | None) -> None:
        """Record the damage, with what is gone on from, and remove what earlier starts have left."""
        step = step_of(Path(name)) if name else None
        known = {damage.checkpoint for damage in self.run.damages()}
        for checkpoint, why in self._damaged.items():
            if checkpoint not in known:
                append_line(self.run.damage_log, plain(Damage(checkpoint, why, step, time.time())))
        if self._tried and name is None:
            say("no whole checkpoint is left: the training begins anew")
        checkpoints.rotate(self.own, keep, training=self._training)


def refuse(run: RunDir, checkpoint: Path, why: str) -> None:
    """Record as damaged a checkpoint that a training could not start from, and remove it: the next start has others."""
    others = (each for each in checkpoints.newest_first(run.checkpoints) if each != checkpoint)
    step = next((step_of(each) for each in others if checkpoints.missing_in(each) is None), None)
    name = checkpoint.relative_to(run.checkpoints).as_posix()
    append_line(run.damage_log, plain(Damage(name, why, step, time.time())))
    checkpoints.remove(checkpoint)
