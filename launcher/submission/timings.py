"""What earlier runs took, and what a run will therefore take.

Owns: the time per step, and around the steps, of runs that need about the same; the time of evaluations that do.
Must not know: schedulers, decisions.

What a run took holds for another that does the same in each step on the same kind of machine, as far as a launch can
choose that: `cost_key` has all of it. Only the number of steps may differ, which is computed. On which GPU a job
really ran is known afterwards alone: where runs of one key ran on several, those on the slowest count. Attempts of
versions that put less into the key count where their settings, which they recorded as well, give the key of today.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from launcher.config import Cluster, Dataset, DeepSpeed, Evaluation, Model, RunConfig, Trainer, from_plain
from launcher.errors import ConfigError, StoreError
from launcher.losses import TRAINER_KEYS, loss_named
from launcher.machine.once import Once
from launcher.planning.estimate import Rates, parameters, rate
from launcher.planning.stages import is_joint, to_be_trained
from launcher.planning.trainer_rules import steps_of
from launcher.store.attempt_config import wanted_by
from launcher.store.attempts import Attempts
from launcher.store.facts import Attempt
from launcher.store.files import Plain, content_key, read_fact
from launcher.store.output_folder import Store
from launcher.store.results import Result
from launcher.store.run_folder import AttemptDir
from launcher.store.starts import all_starts
from launcher.store.throughput import Throughput
from launcher.store.work_done import job_file, lacking
from launcher.sweep import Run

T = TypeVar("T")
NO_COST = ("cluster", "judge", "samples")  # of an evaluation's settings, beside its benchmarks, which are asked for
# Of the trainer's keys those that change no step's time, beside those of losses.
NO_TIME = (
    "name", "learning_rate", "lr_scheduler", "warmup_ratio", "warmup_steps", "weight_decay", "max_grad_norm",
    "max_steps", "epochs",
)  # fmt: skip
KEY_DIGITS = 16
_ONCE = Once()
MACHINE = ("partition", "constraint", "nodes", "gpus_per_node", "cpus_per_gpu", "extra")  # of `cluster`
OF_EACH_TRAINING = ("batch_size", "generations", "max_new_tokens")  # of `evaluation`, where `preference` is measured


@dataclass(frozen=True)
class Cost:
    """Medians over the finished runs of one cost key on one kind of device.

    Attributes:
        seconds_per_step: of training, in seconds.
        steps: how many optimizer steps they had.
        around: seconds from the start of the attempt to its last fact, less those of training; of runs that needed
            one attempt only. 0 where there is none.
        device: the GPU's name, or `cpu`; None where none is recorded.
        pairs: how many pairs, or completions, there are in one epoch.
        tokens_per_pair: of both sequences, as they are cut; None where that is not recorded.
        computed: places computed for each token of prompts and answers; None where that is not recorded.
        mfu: the share of the GPUs' peak; None where that is not known.
    """

    seconds_per_step: float
    steps: float
    around: float
    device: str | None = None
    pairs: float | None = None
    tokens_per_pair: float | None = None
    computed: float | None = None
    mfu: float | None = None

    def training(self, run: Run, done: int = 0) -> float:
        """Seconds of training that a run has before it, `done` steps being behind it."""
        return self.seconds_per_step * max(0.0, self._steps_of(run) - done)

    def _steps_of(self, run: Run) -> float:
        """The run's optimizer steps: an epoch's last may be smaller than the others."""
        trainer = run.config.trainer
        if trainer.max_steps is not None:
            return trainer.max_steps
        return self.steps if self.pairs is None else steps_of(trainer, self.pairs)


@dataclass(frozen=True)
class Costs:
    """What has been measured so far.

    Attributes:
        trainings: by the cost key that their attempts recorded.
        earlier: of attempts whose recorded key is not of today, by what it would be.
        evaluations: seconds of the jobs that evaluated and did nothing else, the median for each kind.
        rates: operations a second, GPU and weight that the trainings of a model came to, whatever else they were; its
            size is no part of what a run records.
    """

    trainings: Mapping[str, Cost]
    evaluations: Mapping[str, float]
    earlier: Mapping[str, Cost] = field(default_factory=dict)
    rates: Mapping[str, Rates] = field(default_factory=dict)

    def training(self, run: Run) -> Cost | None:
        """What a run of this kind takes; None where none has been measured.

        `run` is as configured: of a joint run those times count first that hold no evaluation.
        """
        kinds = [to_be_trained(run), run] if is_joint(run.config) else [run]
        known = (self.trainings.get(key) or self.earlier.get(key) for key in map(cost_key, kinds))
        return next(filter(None, known), None)

    def rates_of(self, config: RunConfig) -> Rates | None:
        """What trainings of the same model came to; None where none was measured, or its size is not known."""
        found, size = self.rates.get(_model_key(config.model)), parameters(config.model)
        return None if found is None or size is None else Rates(found.least * size, found.most * size, found.runs)

    def evaluation(self, run: Run, benchmarks: Iterable[str]) -> float | None:
        """Seconds from start to end of a job that does these benchmarks of a run; `run` is as such a job has it."""
        return self.evaluations.get(_evaluation_key(cost_key(run), run.settings, benchmarks))


def read_costs(store: Store) -> Costs:
    """What the finished runs took."""
    trainings: dict[str, list[Cost]] = {}
    earlier: dict[str, list[Cost]] = {}
    evaluations: dict[str, list[float]] = {}
    rates: dict[str, list[float]] = {}
    configs: dict[str, RunConfig | None] = {}
    for attempts in map(Attempts.of, store.runs()):
        trained, evaluated = _if_readable(_cost_of, attempts), _if_readable(_evaluation_of, attempts)
        if trained is not None:
            key, measured = trained
            trainings.setdefault(key, []).append(measured)
            if key not in configs or len(key) != KEY_DIGITS:  # of an earlier version, runs of one key may differ
                configs[key] = _config_of(attempts)
            if (config := configs[key]) is not None:
                reached = rate(config, measured.seconds_per_step, measured.tokens_per_pair)
                rates.setdefault(_model_key(config.model), []).extend([reached] if reached else [])
                if len(key) != KEY_DIGITS:
                    earlier.setdefault(_key(config), []).append(measured)
        if evaluated is not None:
            evaluations.setdefault(evaluated[0], []).append(evaluated[1])
    return Costs(
        {key: _slowest(values) for key, values in trainings.items()},
        {key: statistics.median(values) for key, values in evaluations.items()},
        {key: _slowest(values) for key, values in earlier.items()},
        {key: Rates(min(values), max(values), len(values)) for key, values in rates.items() if values},
    )


def _if_readable(measured: Callable[[Attempts], T | None], attempts: Attempts) -> T | None:
    """What a run has taken; nothing of one, of whatever sweep, that cannot be read."""
    try:
        return measured(attempts)
    except StoreError:
        return None


def _evaluation_key(model_and_data: str, settings: Plain, benchmarks: Iterable[str]) -> str:
    """Evaluations with the same key do the same work, on as many GPUs."""
    cluster = settings["cluster"]
    how = {key: value for key, value in settings["evaluation"].items() if key not in (*NO_COST, "benchmarks")}
    return content_key([model_and_data, how, sorted(benchmarks), cluster["nodes"], cluster["gpus_per_node"]])


def _evaluation_of(attempts: Attempts) -> tuple[str, float] | None:
    """The last evaluation of a run, where it came to its end in one go; what others had measured is not its work."""
    run, attempt = attempts.run, attempts.evaluating
    began = None if attempt is None else _began(attempt)
    if attempt is None or began is None or attempt.has(attempt.requeue_log) or lacking(run, wanted_by(attempt)):
        return None
    written = {name: job_file(run, name).stat().st_mtime for name in wanted_by(attempt)}
    own = {name: when for name, when in written.items() if when >= began}
    key = attempt.record.cost_key
    return (_evaluation_key(key, attempt.record.settings, own), max(own.values()) - began) if key and own else None


def _began(attempt: AttemptDir) -> float | None:
    """When it was first taken up."""
    starts = all_starts(attempt)
    return starts[0].fact.time if starts else None


def _cost_of(attempts: Attempts) -> tuple[str, Cost] | None:
    result = read_fact(attempts.run.result_file, Result)
    last = attempts.training if result else None
    if not (result and result.steps and last and last.record.cost_key):
        return None
    around = _seconds_around(last, result.seconds) if len(attempts.trainings) == 1 else 0.0
    told = result.throughput or Throughput()
    measured = Cost(
        result.seconds / result.steps,
        result.steps,
        around,
        result.device,
        result.train_pairs,
        result.tokens_per_pair,
        told.computed_tokens / told.tokens if told.computed_tokens and told.tokens else None,
        told.mfu,
    )
    return last.record.cost_key, measured


def _seconds_around(attempt: AttemptDir, training: float) -> float:
    own = [job_file(attempt.run, name) for name in wanted_by(attempt) if name == "preference"]
    last = max((path.stat().st_mtime for path in (attempt.run.result_file, *own) if attempt.has(path)), default=0.0)
    began = _began(attempt)
    return max(0.0, last - (last if began is None else began) - training)


def _slowest(found: list[Cost]) -> Cost:
    """The medians on that kind of device on which a step took longest."""
    by_device: dict[str | None, list[Cost]] = {}
    for cost in found:
        by_device.setdefault(cost.device, []).append(cost)
    return max(map(_median, by_device.values()), key=lambda cost: cost.seconds_per_step)


def _median(found: list[Cost]) -> Cost:
    return Cost(
        statistics.median(cost.seconds_per_step for cost in found),
        statistics.median(cost.steps for cost in found),
        _median_known(cost.around or None for cost in found) or 0.0,
        found[0].device,
        _median_known(cost.pairs for cost in found),
        _median_known(cost.tokens_per_pair for cost in found),
        _median_known(cost.computed for cost in found),
        _median_known(cost.mfu for cost in found),
    )


def _median_known(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def cost_key(run: Run) -> str:
    """Runs with the same key need about the same time per step, and around the steps, on the same device."""
    return _key(run.config)


def _key(config: RunConfig) -> str:
    sections = (config.model, config.dataset, config.trainer, config.deepspeed, config.cluster, config.evaluation)
    return _ONCE(_key_of, _family(config.loss_type), *sections)


def _key_of(
    loss: str, model: Model, dataset: Dataset, trainer: Trainer, sharding: DeepSpeed, cluster: Cluster, of: Evaluation
) -> str:
    parts = {
        "model": _without(model, ("about",)),
        "dataset": _without(dataset, ("about",)),
        "trainer": _without(trainer, (*NO_TIME, *TRAINER_KEYS)),
        "loss": loss,
        "deepspeed": sharding.config,
        "machine": {key: getattr(cluster, key) for key in MACHINE},
        "preference": {key: getattr(of, key) for key in OF_EACH_TRAINING} if "preference" in of.benchmarks else None,
    }
    return content_key(parts, KEY_DIGITS)


def _without(section: Any, keys: Collection[str]) -> Plain:
    return {key: value for key, value in asdict(section).items() if key not in keys}


def _model_key(model: Model) -> str:
    return _ONCE(_key_of_model, model)


def _key_of_model(model: Model) -> str:
    return content_key(_without(model, ("about",)), KEY_DIGITS)


def _config_of(attempts: Attempts) -> RunConfig | None:
    """How the last training was configured, by what it recorded; None where that is no configuration of today."""
    record = attempts.training.record if attempts.training else Attempt()
    try:
        config: RunConfig = from_plain({**attempts.run.read_config(), **record.settings})
    except (ConfigError, StoreError, TypeError, AttributeError):  # of a version that had other keys
        return None
    return config


def _family(name: str) -> str:
    """Losses of pairs make one forward and one backward of both sequences; each other does its own."""
    loss = loss_named(name)
    return "pairs" if loss.paired and loss.reference else name
