"""What a sweep will cost before anything of it has run: GPU-hours and disk, from sizes alone. Pure.

Owns: the formulas, their sources and their assumptions.
Must not know: measured times (`submission.timings` has those, and they are better), files, schedulers.

GPU-hours. A token costs the operations of `model.operations`, and one forward more with activations that are computed
again; a pair has the tokens of both its sequences, the prompt in each. KTO trains one of a row's two sequences and only
scores the other. The reference table costs one forward of each pair for each model and data set. Divided by the GPUs'
peak and by the share of it that is reached. Before anything was measured that is only known to lie somewhere:
pretraining at scale reaches 21 to 46 % (Chowdhery et al., "PaLM", 2022, table 3); preference training reaches less,
with its short sequences of unlike lengths, small micro-batches and few GPUs. Hence two numbers, for 25 and for 5 %. A
small model, or weights that are kept in the nodes' memory, may reach less still. Once runs of a model have ended, what
their GPUs did in a second, by the same formula with their real tokens, takes the place of both numbers for others of
that model; a run of their very kind takes as long as they did (`submission.timings`).

Disk. A final model is its weights, or its adapters; a checkpoint has beside them, in float32, master weights and
Adam's two moments: 12 bytes a trained weight (Rajbhandari et al., "ZeRO", 2020, section 3.1). A LoRA of rank r adds
r (a + b) to a matrix of a x b, which over all matrices of a model of width h is about 2 r N / h; for adapters on some
of the layers only, that is too much.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from launcher.config import DatasetFacts, Model, RunConfig
from launcher.losses import loss_named
from launcher.machine.disk import in_words
from launcher.model.operations import PEAKS_TFLOPS, per_token

PEAK_TFLOPS = PEAKS_TFLOPS["A100"]
UTILISATIONS = (0.25, 0.05)
OPTIMIZER_BYTES = 12
WRITTEN_BYTES = 1e9  # a second, of a checkpoint: a shared file system that others use too; many do several times that
WEIGHT_BYTES = {"float32": 4}
ADAPTER_BYTES = 4
UNITS = {"b": 1e9, "m": 1e6}


@dataclass(frozen=True)
class Hours:
    """GPU-hours between those at the higher and those at the lower utilisation."""

    low: float
    high: float


@dataclass(frozen=True)
class Rates:
    """Operations a second and GPU that runs of a model have come to: the least and the most; of how many runs."""

    least: float
    most: float
    runs: int = 1


@dataclass(frozen=True)
class Cost:
    """One run's cost; None is what cannot be known beforehand.

    Attributes:
        gpu_hours: of training, without the reference table.
        reference_gpu_hours: of the reference table that it needs, which it may share.
        full: whether every pair was counted as filling max_length twice.
        model_bytes: its final model.
        checkpoint_bytes: one checkpoint.
    """

    gpu_hours: Hours | None
    reference_gpu_hours: Hours | None
    full: bool
    model_bytes: float | None
    checkpoint_bytes: float | None


@dataclass(frozen=True)
class Total:
    """A sweep's cost: hours with each reference table once, final models, and the checkpoints of runs at work."""

    gpu_hours: Hours | None
    full: bool
    model_bytes: float | None
    checkpoint_bytes: float | None

    @property
    def disk_bytes(self) -> float | None:
        """The most that the sweep has on disk at a time."""
        known = self.model_bytes is not None and self.checkpoint_bytes is not None
        return (self.model_bytes or 0) + (self.checkpoint_bytes or 0) if known else None


def parameters(model: Model) -> float | None:
    """The number of weights: as the config says, else as the model's name does (7B, 0.6B, 135M)."""
    if model.about is not None and model.about.parameters is not None:
        return float(model.about.parameters)
    sizes = re.findall(r"(?<![\w.])(\d+(?:\.\d+)?)([bm])(?![a-z0-9])", f"{model.path or ''} {model.name}".lower())
    return float(sizes[0][0]) * UNITS[sizes[0][1]] if sizes else None


def cost(config: RunConfig, rates: Rates | None = None) -> Cost:
    """What one run will cost, at the rates that other runs of its model have come to, where there are any."""
    tokens, full = _tokens_per_pair(config)
    size, pairs, table = parameters(config.model), _pairs_trained(config), _pairs(config)
    model_bytes, checkpoint_bytes = _bytes(config, size)
    return Cost(
        gpu_hours=_gpu_hours(config, _operations(config, size, tokens, pairs), rates),
        reference_gpu_hours=_reference_hours(config, size and table and 2 * size * tokens * table, rates),
        full=full,
        model_bytes=model_bytes,
        checkpoint_bytes=checkpoint_bytes,
    )


def _reference_hours(config: RunConfig, operations: float | None, rates: Rates | None) -> Hours | None:
    """Of the reference table; none where the loss asks no reference model."""
    return _gpu_hours(config, operations, rates) if loss_named(config.loss_type).needs_table else Hours(0, 0)


def saving_seconds(config: RunConfig) -> float | None:
    """How long a checkpoint may take to be written, all ranks together; None where its size cannot be known."""
    size = _bytes(config, parameters(config.model))[1]
    return None if size is None else size / WRITTEN_BYTES


def total(
    configs: Iterable[RunConfig], at_once: int | None, rates: Callable[[RunConfig], Rates | None] = lambda _: None
) -> Total:
    """What a sweep will cost, with at most `at_once` of its runs at work at the same time (None: all).

    `rates`: those that other runs of a run's model have come to.
    """
    configs = list(configs)
    costs = [cost(config, rates(config)) for config in configs]
    tables = {
        repr((c.model, c.dataset, c.trainer.max_length)): own.reference_gpu_hours
        for c, own in zip(configs, costs, strict=True)
        if loss_named(c.loss_type).needs_table
    }
    working = min(at_once or len(configs), len(configs))
    live = [
        own.checkpoint_bytes
        and own.checkpoint_bytes * (c.checkpoint.keep + 1)  # the old ones go after the new is whole
        for c, own in zip(configs, costs, strict=True)
    ]
    return Total(
        gpu_hours=_sum_of_hours([own.gpu_hours for own in costs] + list(tables.values())),
        full=any(own.full for own in costs),
        model_bytes=_sum(
            [
                own.model_bytes and own.model_bytes * (1 + len(c.checkpoint.milestones or ()))
                for c, own in zip(configs, costs, strict=True)
            ]
        ),
        checkpoint_bytes=_sum(sorted(live, key=lambda size: -(size or 0))[:working]),
    )


def _sum(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def _sum_of_hours(values: list[Hours | None]) -> Hours | None:
    known = [value for value in values if value is not None]
    return Hours(sum(v.low for v in known), sum(v.high for v in known)) if len(known) == len(values) else None


def forwards(config: RunConfig) -> float:
    """What a pair costs, in forwards of both its sequences."""
    return (_operations(config, 1.0, 1.0, 1.0) or 0.0) / 2


def _operations(config: RunConfig, size: float | None, tokens: float, pairs: float | None) -> float | None:
    """Of so many pairs with so many tokens each, what is computed again among them."""
    if size is None or pairs is None:
        return None
    paired, recomputes = loss_named(config.loss_type).paired, config.trainer.gradient_checkpointing
    trained = size if config.trainer.lora is None else 0.0
    return per_token(size, trained, paired=paired, recomputes=recomputes) * tokens * pairs


def _tokens_per_pair(config: RunConfig) -> tuple[float, bool]:
    """Tokens of both sequences of a pair, and whether that is only known not to be exceeded."""
    about = config.dataset.about
    if about is not None and about.tokens_per_pair is not None:
        return about.tokens_per_pair, False
    return 2 * config.trainer.max_length, True


def _pairs(config: RunConfig) -> float | None:
    """Training pairs; for KTO, rows: a pair is split into two."""
    dataset, about = config.dataset, config.dataset.about or DatasetFacts()
    known = [pairs for pairs in (dataset.train_pairs, about.train_pairs) if pairs is not None]
    split = not loss_named(config.loss_type).paired and not about.labelled
    return min(known) * (2 if split else 1) if known else None


def _pairs_trained(config: RunConfig) -> float | None:
    if config.trainer.max_steps is not None:
        return config.trainer.max_steps * config.trainer.batch_size
    pairs = _pairs(config)
    return None if pairs is None else pairs * config.trainer.epochs


def _gpu_hours(config: RunConfig, operations: float | None, rates: Rates | None) -> Hours | None:
    if operations is None:
        return None
    if rates is not None:
        return Hours(operations / rates.most / 3600, operations / rates.least / 3600)
    at_peak = operations / ((config.cluster.gpu_tflops or PEAK_TFLOPS) * 1e12) / 3600
    return Hours(*(at_peak / share for share in UTILISATIONS))


def rate(config: RunConfig, seconds_per_step: float, tokens_per_pair: float | None) -> float | None:
    """Operations a second, GPU and weight, by the formulas above.

    Args:
        config: of the run.
        seconds_per_step: as measured.
        tokens_per_pair: of both sequences, as measured.

    Returns:
        None where the tokens or the number of GPUs are not known.
    """
    gpus = gpus_of(config)
    if tokens_per_pair is None or not gpus or seconds_per_step <= 0:
        return None
    operations = _operations(config, 1.0, tokens_per_pair, config.trainer.batch_size)
    return None if operations is None else operations / (seconds_per_step * gpus)


def widest(rates: Sequence[Rates]) -> Rates:
    """The rates of several models as one range."""
    return Rates(min(each.least for each in rates), max(each.most for each in rates), sum(each.runs for each in rates))


def gpus_of(config: RunConfig) -> int:
    """How many GPUs a run has."""
    return config.cluster.nodes * config.cluster.gpus_per_node


def _bytes(config: RunConfig, size: float | None) -> tuple[float | None, float | None]:
    """Bytes of the final model and of one checkpoint."""
    weight, lora, about = WEIGHT_BYTES.get(config.model.dtype, 2), config.trainer.lora, config.model.about
    if lora is None:
        return (None, None) if size is None else (size * weight, size * (weight + OPTIMIZER_BYTES))
    if size is None or about is None or about.hidden_size is None:
        return None, None
    adapters = 2 * lora.r * size / about.hidden_size
    return adapters * ADAPTER_BYTES, adapters * (ADAPTER_BYTES + OPTIMIZER_BYTES)


# ------------------------------------------------------------------------------------------------ in words


def sentences(sum_of: Total, gpu_tflops: float | None, rates: Rates | None = None) -> list[str]:
    """The estimate in words, with its formula; what is not known is left out. `rates`: the range of those it is of."""
    said = []
    if sum_of.gpu_hours is not None and rates is not None:
        full = ", each pair taken as full: 2 x max_length" if sum_of.full else ""
        runs = f"{rates.runs} earlier run{'s' if rates.runs > 1 else ''}"
        reached = " to ".join(dict.fromkeys(f"{each / 1e12:.3g}" for each in (rates.least, rates.most)))
        said.append(
            f"estimate: {in_hours(sum_of.gpu_hours)}, at the {reached} TFLOP/s a GPU that {runs} of the same model "
            f"came to with other settings{full}"
        )
    elif sum_of.gpu_hours is not None:
        full = ", each taken as full: 2 x max_length" if sum_of.full else ""
        high, low = (f"{share:.0%}".rstrip("%") for share in UTILISATIONS)
        peak = f"{gpu_tflops:g} TFLOP/s" if gpu_tflops else f"an A100's {PEAK_TFLOPS:g} TFLOP/s"
        said.append(
            f"estimate: {in_hours(sum_of.gpu_hours)}, at {low} to {high} % of {peak} ("
            f"3 or 2 forwards a pair, 1 more with gradient checkpointing, of 2 x weights x tokens{full}); "
            "once a run has ended, as measured"
        )
    if sum_of.model_bytes is not None and sum_of.checkpoint_bytes is not None:
        said.append(
            f"disk: about {in_words(sum_of.model_bytes)} of final models, and {in_words(sum_of.checkpoint_bytes)} of "
            "checkpoints while runs are at work; cluster.max_parallel limits those"
        )
    return said


def in_hours(hours: Hours) -> str:
    """A range in words."""
    if hours.high < 1:
        return "less than 1 GPU-hour"
    return f"about {' to '.join(dict.fromkeys(map(_rounded, (hours.low, hours.high))))} GPU-hours"


def _rounded(hours: float) -> str:
    """Two digits: more are not known."""
    return f"{float(f'{hours:.2g}'):,g}"
