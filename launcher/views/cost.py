"""What the runs of a plan will cost, as the user sees it: a range before anything was measured, then what was.

Owns: words and numbers of that. Must not know: the formulas (`planning.estimate`), where measured times come from.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from launcher.planning import estimate
from launcher.store.files import Plain
from launcher.submission.decide import Action, Decision

COSTLY_HOURS = 1  # from so many on a plan shows what each run costs


def is_costly(decisions: Iterable[Decision]) -> bool:
    """Whether any run may take an hour of a GPU."""
    found = (estimate.cost(decision.run.config).gpu_hours for decision in decisions)
    return any(hours is not None and hours.high >= COSTLY_HOURS for hours in found)


def hours_of(decision: Decision) -> str:
    """One run's GPU-hours, for a table."""
    measured, hours = measured_hours(decision), estimate.cost(decision.run.config).gpu_hours
    if measured is not None:
        return f"{measured:.1f}"
    return "" if hours is None else f"{hours.low:.1f} to {hours.high:.1f}"


def measured_hours(decision: Decision) -> float | None:
    """The GPU-hours of the steps that a run has before it, as earlier runs of its kind took them."""
    gpus = estimate.gpus_of(decision.run.config)
    return None if decision.seconds is None or not gpus else decision.seconds * gpus / 3600


def evaluation_hours(decision: Decision) -> float | None:
    """The GPU-hours of the job that evaluates the run behind its training, as earlier ones took them."""
    if decision.evaluation is None or decision.evaluation_seconds is None:
        return None
    return decision.evaluation_seconds * estimate.gpus_of(decision.evaluation.config) / 3600


def cost_json(decision: Decision) -> Plain:
    """The same under keys: the range, and what was measured, or null."""
    hours = estimate.cost(decision.run.config).gpu_hours
    return {
        "gpu_hours_low": hours and hours.low,
        "gpu_hours_high": hours and hours.high,
        "gpu_hours_measured": measured_hours(decision),
        "gpu_hours_evaluation": evaluation_hours(decision),
        "measured_on": decision.cost and decision.cost.device,
        "mfu": _utilisation(decision),
    }


def cost_lines(decisions: Iterable[Decision]) -> list[str]:
    """What the runs to be trained will cost: those that were measured apart from the others."""
    training = [each for each in decisions if each.action in (Action.SUBMIT, Action.RESUME)]
    if not training:
        return []
    cluster = training[0].run.config.cluster
    configs = [each.run.config for each in training]
    said = estimate.sentences(estimate.total(configs, cluster.max_parallel), cluster.gpu_tflops)
    measured = [each for each in training if measured_hours(each) is not None]
    if not measured:
        return said
    rest = [each.run.config for each in training if measured_hours(each) is None]
    others = estimate.sentences(estimate.total(rest, cluster.max_parallel), cluster.gpu_tflops) if rest else []
    return [
        _measured(measured),
        *(line for line in others if line.startswith("estimate")),
        *(line for line in said if line.startswith("disk")),
    ]


def _measured(decisions: Sequence[Decision]) -> str:
    hours, count = sum(measured_hours(each) or 0.0 for each in decisions), len(decisions)
    devices = sorted({each.cost.device for each in decisions if each.cost and each.cost.device})
    shares = [share for each in decisions if (share := _utilisation(each)) is not None]
    where = f" on {', '.join(devices)}" if devices else ""
    ends = dict.fromkeys(f"{100 * share:.1f}" for share in (min(shares), max(shares))) if shares else ()
    reached = f", at {' to '.join(ends)} % of its peak (MFU)" if ends else ""
    runs = f"{count} run{'s' if count > 1 else ''}"
    return f"measured: {hours:,.1f} GPU-hours for {runs}, as earlier ones took{where}{reached}"


def _utilisation(decision: Decision) -> float | None:
    cost, config = decision.cost, decision.run.config
    if cost is None:
        return None
    return estimate.utilisation(config, cost.seconds_per_step, cost.tokens_per_pair, cost.device)
