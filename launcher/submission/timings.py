"""What earlier runs took, and what a run will therefore take.

Owns: the time per step, and around the steps, of runs that need about the same; the time of evaluations that do.
Must not know: schedulers, decisions.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from launcher.losses import LOSS_KEYS
from launcher.store.attempt_config import wanted_by
from launcher.store.attempts import Attempts
from launcher.store.facts import Started
from launcher.store.files import Plain, content_key, read_fact
from launcher.store.output_folder import Store
from launcher.store.results import Result
from launcher.store.run_folder import AttemptDir
from launcher.store.work_done import job_file, lacking
from launcher.sweep import Run

NO_COST = ("cluster", "judge", "samples")  # of an evaluation's settings, beside its benchmarks, which are asked for
NO_TIME = ("learning_rate", "max_steps", "epochs")  # of the trainer's keys, beside those of losses


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


@dataclass(frozen=True)
class Costs:
    """What has been measured so far.

    Attributes:
        trainings: by the cost key of their runs.
        evaluations: seconds of the jobs that evaluated and did nothing else, the median for each kind.
    """

    trainings: Mapping[str, Cost]
    evaluations: Mapping[str, float]

    def training(self, run: Run) -> Cost | None:
        """What a run of this kind takes; None where none has been measured."""
        return self.trainings.get(cost_key(run))

    def evaluation(self, run: Run, benchmarks: Iterable[str]) -> float | None:
        """Seconds from start to end of a job that does these benchmarks of a run; `run` is as such a job has it."""
        return self.evaluations.get(_evaluation_key(cost_key(run), run.settings, benchmarks))


def read_costs(store: Store) -> Costs:
    """What the finished runs took."""
    trainings: dict[str, list[Cost]] = {}
    evaluations: dict[str, list[float]] = {}
    for attempts in map(Attempts.of, store.runs()):
        if (trained := _cost_of(attempts)) is not None:
            trainings.setdefault(trained[0], []).append(trained[1])
        if (evaluated := _evaluation_of(attempts)) is not None:
            evaluations.setdefault(evaluated[0], []).append(evaluated[1])
    return Costs(
        {key: _median(values) for key, values in trainings.items()},
        {key: statistics.median(values) for key, values in evaluations.items()},
    )


def _evaluation_key(model_and_data: str, settings: Plain, benchmarks: Iterable[str]) -> str:
    """Evaluations with the same key do the same work, on as many GPUs."""
    cluster = settings["cluster"]
    how = {key: value for key, value in settings["evaluation"].items() if key not in (*NO_COST, "benchmarks")}
    return content_key([model_and_data, how, sorted(benchmarks), cluster["nodes"], cluster["gpus_per_node"]])


def _evaluation_of(attempts: Attempts) -> tuple[str, float] | None:
    """The last evaluation of a run, where it came to its end in one go; what others had measured is not its work."""
    run, attempt = attempts.run, attempts.evaluating
    began = None if attempt is None else _began(attempt)
    if attempt is None or began is None or attempt.requeue_log.exists() or lacking(run, wanted_by(attempt)):
        return None
    written = {name: job_file(run, name).stat().st_mtime for name in wanted_by(attempt)}
    own = {name: when for name, when in written.items() if when >= began}
    key = attempt.record.cost_key
    return (_evaluation_key(key, attempt.record.settings, own), max(own.values()) - began) if key and own else None


def _began(attempt: AttemptDir) -> float | None:
    started = read_fact(attempt.started_file, Started)
    return None if started is None else started.time


def _cost_of(attempts: Attempts) -> tuple[str, Cost] | None:
    result = read_fact(attempts.run.result_file, Result)
    last = attempts.training if result else None
    if not (result and result.steps and last and last.record.cost_key):
        return None
    around = _seconds_around(last, result.seconds) if len(attempts.trainings) == 1 else 0.0
    return last.record.cost_key, Cost(result.seconds / result.steps, result.steps, around)


def _seconds_around(attempt: AttemptDir, training: float) -> float:
    files = (attempt.run.result_file, attempt.run.evaluation_file)
    last = max((path.stat().st_mtime for path in files if path.exists()), default=0.0)
    began = _began(attempt)
    return max(0.0, last - (last if began is None else began) - training)


def _median(found: list[Cost]) -> Cost:
    around = [cost.around for cost in found if cost.around]
    return Cost(
        statistics.median(cost.seconds_per_step for cost in found),
        statistics.median(cost.steps for cost in found),
        statistics.median(around) if around else 0.0,
    )


def cost_key(run: Run) -> str:
    """Runs with the same key need about the same time per step."""
    trainer = {key: value for key, value in run.objective["trainer"].items() if key not in NO_TIME}
    # A null rather than nothing: so the keys that are on disk stay.
    parts = [run.objective["model"], run.objective["dataset"], trainer | dict.fromkeys(LOSS_KEYS)]
    return content_key(parts, 8)
