"""What the curves say, in sentences, and what to beware of in them.

Owns: those words. Must not know: HTML, files, how a curve is fitted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from analysis.measures import Measure
from analysis.rows import setting
from analysis.smooth import Curve, Lead, Smooth
from analysis.winners import WITHOUT, Winner, probability
from analysis.words import fixed, limits, listed, signed

_NAMED = 6  # settings written out in a sentence


def winner(group: Sequence[Winner], smooth: Smooth, where: str) -> list[str]:
    """Name the best loss and setting of one model and what a rerun scores; in a second paragraph, how sure that is."""
    first = smooth.curves[0]
    text = (
        f"{where} {_what(smooth)}: a rerun of it is expected to have "
        f"{smooth.measure.name} {fixed(first.rerun.value)} (95 % interval {limits(first.rerun)})"
        f"{_gain(first, smooth.measure.alone(first.row))}."
    )
    more = [*_alike(first), _raw(first, smooth.measure), *_without(group), *_smallest(smooth)]
    return [" ".join([text, *_probable(smooth)]), " ".join(more)]


def _what(smooth: Smooth) -> str:
    """Name the setting that is expected to score best, and say of how much that is the best."""
    first = smooth.curves[0]
    if not smooth.leads:
        return f"the best of {first.loss}, the one loss with a curve, is {setting(first.row)}"
    sure = all(each.beyond_noise for each in smooth.leads)
    best = "the best" if sure else "the best by its expected score"
    return f"{best} is {first.loss} at {setting(first.row)}"


def _gain(curve: Curve, alone: str) -> str:
    if not curve.gain.known:
        return ""
    noise = "" if curve.gain.excludes(0) else "; the difference is within noise"
    noise = f"; {alone} says nothing of others" if alone else noise
    return f", {signed(curve.gain.value)} against the untrained model on average ({limits(curve.gain)}){noise}"


def _probable(smooth: Smooth) -> list[str]:
    """Say how probable it is that the loss is the best, and how far it leads the next."""
    if not smooth.leads:
        return []
    first, lead = smooth.curves[0], smooth.leads[0]
    return [f"{first.loss} is the best loss with a probability of {probability(first.probability)}; {_lead(lead)}."]


def _lead(lead: Lead) -> str:
    other = f"the next, {lead.second.loss} at {setting(lead.second.row)}"
    noise = "" if lead.beyond_noise else ", so which of them is better is within noise"
    pairs = "" if lead.corrected == lead.difference else "; corrected for all pairs of losses"
    return f"its expected lead over {other}, is {fixed(lead.difference.value)} ({limits(lead.corrected)}{pairs}){noise}"


def _raw(curve: Curve, measure: Measure) -> str:
    at = "" if curve.raw_row.name == curve.row.name else f" (at {setting(curve.raw_row)})"
    flatters = measure.sign * curve.raw > measure.sign * curve.expected.value
    more = ", flatters: it was chosen for that" if flatters else ", is no better than is expected of a rerun"
    return (
        f"The {'lowest' if measure.lower else 'highest'} score measured of {curve.loss}, {fixed(curve.raw)}{at}{more}."
    )


def _alike(curve: Curve) -> list[str]:
    """Say which settings of the loss may be its best."""
    others = [row for row in curve.alike if row.name != curve.row.name]
    if not others:
        return [f"No other setting of {curve.loss} is within noise of its best."] if curve.settings > 1 else []
    if len(others) == curve.settings - 1:
        return [f"The best of {curve.loss} cannot be told from any of the {len(others)} others."]
    names = [setting(each).removeprefix("beta ") for each in others[:_NAMED]]
    names += [f"{len(others) - _NAMED} more"] if len(others) > _NAMED else []
    return [f"Within noise of the best of {curve.loss}: beta {listed(names)}."]


def _without(group: Sequence[Winner]) -> list[str]:
    """Name the losses that have no curve, which nothing here compares."""
    others = [
        f"{each.best.row['loss_type']} ({fixed(each.best.value)} at {setting(each.best.row)})"
        for each in group
        if not each.curve
    ]
    return [f"Without a curve, and so not compared: {listed(others)}, as measured."] if others else []


def _smallest(smooth: Smooth) -> list[str]:
    least = fixed(smooth.smallest)
    return [f"Between two settings, a true difference of {least} is seen 4 times in 5, and a smaller one less often."]


# ------------------------------------------------------------------------------------------------ cautions


def cautions(concluded: Sequence[Smooth], sweep: str) -> list[str]:
    """Say what a reader of the curves could get wrong, most serious first; ``sweep`` is its name, for commands."""
    of_runs = [each for each in concluded if math.isnan(each.milestone)]
    return [*_destroyed(of_runs), *_edges(of_runs, sweep), *_missing(of_runs), *_assumed(of_runs)]


def _destroyed(concluded: Sequence[Smooth]) -> list[str]:
    found = [
        f"{each.row['loss_type']} at {setting(each.row)} on {smooth.model} ({each.reason})"
        for smooth in concluded
        for each in smooth.destroyed
    ]
    if not found:
        return []
    names = listed(found[:_NAMED] + ([f"{len(found) - _NAMED} more"] if len(found) > _NAMED else []))
    one = len(found) == 1
    words = (
        "counts as destroyed: it is left out of the curve"
        if one
        else "count as destroyed: they are left out of the curves"
    )
    return [f"{names} {words}, and {'drawn as a cross' if one else 'drawn as crosses'}. Read what such a model writes."]


def _edges(concluded: Sequence[Smooth], sweep: str) -> list[str]:
    found = [
        f"{curve.loss} on {smooth.model} ({listed([f'{end} {_last(key)}' for key, end in curve.edges.items()])})"
        for smooth in concluded
        for curve in smooth.curves
        if curve.edges
    ]
    if not found:
        return []
    one = len(found) == 1
    return [
        f"The best of {listed(found[:_NAMED])} lies at the edge of what was tried, so a better one may lie beyond: "
        f"python -m launcher suggest {sweep} says what to run next."
        if one
        else f"The best settings of {listed(found[:_NAMED])} lie at the edge of what was tried, so better ones may lie "
        f"beyond: python -m launcher suggest {sweep} says what to run next."
    ]


def _last(key: str) -> str:
    return key.rpartition(".")[2]


def _missing(concluded: Sequence[Smooth]) -> list[str]:
    """Say why losses have no curve, each reason once, of losses that share it."""
    losses: dict[str, dict[str, None]] = {}
    for smooth in concluded:
        for loss, why in smooth.without.items():
            losses.setdefault(why.removeprefix(f"{loss} has "), {})[loss] = None
    return [
        f"{listed(list(own))} {'has' if len(own) == 1 else 'have'} {why}" if why[0].islower() else why
        for why, own in list(losses.items())[:_NAMED]
    ]


def _assumed(concluded: Sequence[Smooth]) -> list[str]:
    """Say what the curves assume, and how large they take the noise between trainings to be."""
    curved = [each for each in concluded if each.curves]
    if not curved:
        return []
    noise = listed(
        [f"{fixed(each.training.value)} ({limits(each.training)}) on {each.model}" for each in curved[:_NAMED]]
    )
    by = "seeds" if all(each.seeded for each in curved) else "the scores' scatter about the curves"
    more = "" if by == "seeds" else " Seeds (seed=1,2,3) would show it more surely."
    text = (
        f"The curves assume that a loss's score varies smoothly; docs/statistics.md says how. By {by} another training "
        f'of one setting moves its score by a standard deviation of {noise}.{more} The column "{WITHOUT}" has '
        "intervals of the highest score, with Bonferroni's correction for all settings of the model."
    )
    return [text]
