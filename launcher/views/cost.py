"""What the runs of a plan will cost, as the user sees it: a range before anything was measured, then what was.

Owns: words and numbers of that. Must not know: the formulas (`planning.estimate`), where measured times come from.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from launcher.errors import number_of
from launcher.planning import estimate
from launcher.planning.data_counts import Look
from launcher.planning.estimate import Hours
from launcher.planning.plain_trl import Comparison, compared
from launcher.store.files import Plain
from launcher.submission.decide import Action, Decision

COSTLY_HOURS = 1  # from so many on a plan shows what each run costs


def is_costly(decisions: Iterable[Decision]) -> bool:
    """Whether any run may take an hour of a GPU."""
    found = (_estimated(decision) for decision in decisions)
    return any(hours is not None and hours.high >= COSTLY_HOURS for hours in found)


def hours_of(decision: Decision) -> str:
    """One run's GPU-hours, for a table."""
    measured, hours = measured_hours(decision), _estimated(decision)
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


def _estimated(decision: Decision) -> Hours | None:
    return estimate.cost(decision.run.config, decision.rates).gpu_hours


def cost_json(decision: Decision, data: Look) -> Plain:
    """The same under keys: the range, what was measured, or null, and how many times that plain TRL would take."""
    hours = _estimated(decision)
    beside = _plain_trl(decision, data)
    return {
        "gpu_hours_low": hours and hours.low,
        "gpu_hours_high": hours and hours.high,
        "gpu_hours_measured": measured_hours(decision),
        "gpu_hours_evaluation": evaluation_hours(decision),
        "measured_on": decision.cost and decision.cost.device,
        "mfu": decision.cost and decision.cost.mfu,
        "plain_trl_times": beside.times,
        "plain_trl_assumes_lengths": beside.assumed,
    }


def cost_lines(decisions: Iterable[Decision], at_once: int | None, data: Look) -> list[str]:
    """What the runs to be trained will cost, those that were measured apart from the others; then, in plain TRL.

    `at_once`: how many of them work at a time; None: all.
    """
    training = [each for each in decisions if each.action in (Action.SUBMIT, Action.RESUME)]
    if not training:
        return []
    measured = [each for each in training if measured_hours(each) is not None]
    open_ = [each for each in training if measured_hours(each) is None]
    apart = [[each for each in open_ if (each.rates is None) is unknown] for unknown in (False, True)]
    disk = [line for line in _estimates(training, at_once) if line.startswith("disk")]
    return [
        *([_measured(measured)] if measured else []),
        *(line for each in apart for line in _estimates(each, at_once) if line.startswith("estimate")),
        *_beside_plain_trl(training, data),
        *disk,
    ]


def _estimates(decisions: Sequence[Decision], at_once: int | None) -> list[str]:
    """What is estimated of runs, all of whose models have known rates, or none."""
    if not decisions:
        return []
    configs, rates = [each.run.config for each in decisions], {id(each.run.config): each.rates for each in decisions}
    found = estimate.total(configs, at_once, lambda config: rates[id(config)])
    known = [each for each in dict.fromkeys(rates.values()) if each is not None]
    return estimate.sentences(found, configs[0].cluster.gpu_tflops, estimate.widest(known) if known else None)


def _plain_trl(decision: Decision, data: Look) -> Comparison:
    config = decision.run.config
    return compared(config, data.split_for(config), decision.cost.computed if decision.cost else None)


def _beside_plain_trl(decisions: Sequence[Decision], data: Look) -> list[str]:
    """What the trainings would take in plain TRL, where what they take here is known and is worth an hour."""
    ours, theirs, assumed = Hours(0.0, 0.0), Hours(0.0, 0.0), False
    for each in decisions:
        measured = measured_hours(each)
        hours = _estimated(each) if measured is None else Hours(measured, measured)
        if hours is None:
            return []
        beside = _plain_trl(each, data)
        assumed |= beside.assumed
        ours = Hours(ours.low + hours.low, ours.high + hours.high)
        theirs = Hours(theirs.low + beside.times * hours.low, theirs.high + beside.times * hours.high)
    if theirs.high < COSTLY_HOURS:
        return []
    by = "pairs like UltraFeedback's, since the lengths of the data are not known, and " if assumed else ""
    often = f"{theirs.high / ours.high:.1f} times as many"
    way = "padded pairs, each prompt twice, the reference model in each step"
    return [
        f"plain TRL: {estimate.in_hours(theirs)}, {often}: {way} (assumed: {by}time that goes with the tokens computed)"
    ]


def _measured(decisions: Sequence[Decision]) -> str:
    hours, count = sum(measured_hours(each) or 0.0 for each in decisions), len(decisions)
    devices = sorted({each.cost.device for each in decisions if each.cost and each.cost.device})
    shares = [each.cost.mfu for each in decisions if each.cost and each.cost.mfu is not None]
    where = f" on {', '.join(devices)}" if devices else ""
    ends = dict.fromkeys(f"{100 * share:.1f}" for share in (min(shares), max(shares))) if shares else ()
    reached = f", at {' to '.join(ends)} % of its peak (MFU)" if ends else ""
    runs = number_of(count, "run")
    return f"measured: {hours:,.1f} GPU-hours for {runs}, as earlier ones took{where}{reached}"
