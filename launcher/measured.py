"""What earlier runs took, and what a run will therefore take.

Owns: the time per step, and around the steps, of runs that need about the same. Must not know: schedulers, decisions.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from launcher.files import read_fact
from launcher.plan import Run, cost_key
from launcher.store import RunDir, Store


@dataclass(frozen=True)
class Cost:
    """Medians over the finished runs of one cost key.

    Attributes:
        seconds_per_step: of training, in seconds.
        steps: how many optimizer steps they had.
        around: seconds from the start of the attempt to its last fact, less those of training; of runs that needed
            one attempt only. 0 where there is none.
    """

    seconds_per_step: float
    steps: float
    around: float

    def training(self, run: Run, done: int = 0) -> float:
        """Seconds of training that a run has before it, `done` steps being behind it."""
        return self.seconds_per_step * max(0.0, (run.config.trainer.max_steps or self.steps) - done)


def costs(store: Store) -> Mapping[str, Cost]:
    """What the finished runs took, by cost key."""
    seen: dict[str, list[Cost]] = {}
    for run in store.runs():
        found = _cost_of(run)
        if found is not None:
            seen.setdefault(found[0], []).append(found[1])
    return {key: _median(values) for key, values in seen.items()}


def cost_of(run: Run, known: Mapping[str, Cost]) -> Cost | None:
    """What a run of this kind takes; None where none has been measured."""
    return known.get(cost_key(run))


def _cost_of(run: RunDir) -> tuple[str, Cost] | None:
    result = read_fact(run.result_file)
    attempts = run.attempts() if result else []
    key = attempts[-1].record.get("cost_key") if attempts else None
    if not (key and result and result["steps"]):
        return None
    around = _seconds_around(run, float(result["seconds"])) if len(attempts) == 1 else 0.0
    return key, Cost(result["seconds"] / result["steps"], result["steps"], around)


def _seconds_around(run: RunDir, training: float) -> float:
    started = read_fact(run.attempts()[-1].started_file) or {}
    last = max((path.stat().st_mtime for path in (run.result_file, run.evaluation_file) if path.exists()), default=0.0)
    return max(0.0, last - float(started.get("time", last)) - training)


def _median(found: list[Cost]) -> Cost:
    around = [cost.around for cost in found if cost.around]
    return Cost(
        statistics.median(cost.seconds_per_step for cost in found),
        statistics.median(cost.steps for cost in found),
        statistics.median(around) if around else 0.0,
    )
