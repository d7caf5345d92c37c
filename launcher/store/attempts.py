"""Which attempt has a run in its hands.

Owns: what each attempt at a run is for, which trains, which evaluates, which of the two acts, what is open.
Must not know: schedulers, processes, what follows from the answers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from launcher.errors import Foreign, StoreError
from launcher.store.run_folder import AttemptDir, RunDir
from launcher.store.starts import last_start
from launcher.store.work_done import has_done_its_part


@dataclass(frozen=True)
class Attempts:
    """The attempts at a run as they are found when they are first asked for; each one's record is read once."""

    run: RunDir

    @classmethod
    def of(cls, run: RunDir) -> Attempts:
        """Those of a run."""
        return cls(run)

    @cached_property
    def all(self) -> tuple[AttemptDir, ...]:
        """Of either purpose, oldest first.

        Raises:
            Unread: the system does not tell which there are.
        """
        return tuple(self.run.attempts())

    def check_own(self) -> None:
        """Look whether all are attempts at this run; one that cannot be read is told by whoever needs it.

        Raises:
            Foreign: one is at another.
        """
        for attempt in self.all:
            try:
                _ = attempt.record
            except Foreign:
                raise
            except StoreError:
                continue

    @cached_property
    def trainings(self) -> list[AttemptDir]:
        """The attempts to train it so far, oldest first."""
        return [attempt for attempt in self.all if not attempt.evaluates]

    @property
    def training(self) -> AttemptDir | None:
        """The last attempt to train it."""
        return self.trainings[-1] if self.trainings else None

    @property
    def _trainer(self) -> AttemptDir | None:
        """The attempt that is to train it; of a run that is trained, the last one that took it up at all."""
        if len(self.trainings) > 1 and self.run.has(self.run.result_file):
            return next((each for each in reversed(self.trainings) if last_start(each)), self.training)
        return self.training

    @property
    def evaluating(self) -> AttemptDir | None:
        """The last attempt that evaluates what the last of `trainings` trains; numbers are given in order."""
        return self.all[-1] if self.all and self.all[-1].evaluates else None

    @property
    def acting(self) -> AttemptDir | None:
        """The attempt that has the run in its hands, or had it last.

        It is the one that trains, until it has done its part; then the one that evaluates. An evaluation that waited
        for no training was made when there was none under way.
        """
        training, evaluating = self._trainer, self.evaluating
        if evaluating is None or not self.run.has(self.run.result_file):
            return training
        waited = training is not None and evaluating.record.follows is not None
        return training if training and waited and not has_done_its_part(training) else evaluating

    @property
    def current(self) -> list[AttemptDir]:
        """The one that acts, and the one that waits to evaluate what it trains."""
        return list(dict.fromkeys(attempt for attempt in (self.acting, self.evaluating) if attempt))

    @property
    def open(self) -> list[AttemptDir]:
        """Those of `current` that have not failed."""
        return [attempt for attempt in self.current if not attempt.has(attempt.failure_file)]

    @property
    def without_job(self) -> list[AttemptDir]:
        """The last to train and to evaluate it, where neither a job of theirs is recorded nor that there is none."""
        last = [attempt for attempt in (self.training, self.evaluating) if attempt]
        return [attempt for attempt in last if not (attempt.has(attempt.failure_file) or attempt.job)]

    def is_over(self, attempt: AttemptDir) -> bool:
        """Whether nothing is left of it: it failed, did its part, or another attempt is to evaluate instead."""
        if attempt.evaluates and attempt != self.evaluating:
            return True
        return attempt.has(attempt.failure_file) or has_done_its_part(attempt)


def is_called_off(attempt: AttemptDir) -> bool:
    """Whether somebody has cancelled the run since the attempt was made: this one, or one that was made later."""
    if attempt.cancel_file.exists():
        return True
    return any(each.cancel_file.exists() for each in attempt.run.attempts() if each.number > attempt.number)
