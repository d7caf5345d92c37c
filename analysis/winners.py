"""Each loss's best setting, judged in both ways: by its curve where it has one, and without assuming a curve.

Owns: which curve and which ``Best`` belong together, the rows of the tables of winners and what programs are told of
them. Must not know: files, HTML, how an interval is computed, the sentences of the summary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from analysis import best as plain
from analysis.best import Best
from analysis.intervals import Estimate
from analysis.measures import Measure
from analysis.rows import setting
from analysis.smooth import Curve, Lead, Smooth
from analysis.words import MISSING, fixed, limits, or_missing, share, signed

WITHOUT = "without assuming smoothness"  # the column of Bonferroni's intervals, where others have curves
RUNS = "runs"  # the column of their ids, for `publish`, `logs` and `status`
_ALIKE = 4  # settings within noise of the best that a table names


@dataclass(frozen=True)
class Winner:
    """A loss's best setting on a model: ``best`` by its score, ``curve`` by its curve, None where it has none.

    ``smooth`` is what is concluded of the model, None where nothing is.
    """

    best: Best
    smooth: Smooth | None = None
    curve: Curve | None = None

    @property
    def measure(self) -> Measure:
        """What it is judged by."""
        return self.best.measure

    @property
    def row(self) -> pd.Series:
        """The setting that is named: the curve's, where there is one."""
        return self.curve.row if self.curve else self.best.row

    @property
    def probability(self) -> float | None:
        """The probability that its loss is the best of those with a curve; None without another to compare with."""
        compared = self.smooth is not None and len(self.smooth.curves) > 1
        return self.curve.probability if self.curve and compared else None

    @property
    def verdict(self) -> str:
        """Whether it differs from the untrained model by more than noise: by its curve, where that can be said."""
        if alone := _alone(self):
            return alone
        known = self.curve is not None and self.curve.gain.known
        return _verdict(self.curve.gain, self.measure) if self.curve and known else _verdict_of(self.best)


@dataclass(frozen=True)
class Between:
    """The best loss by its expected score against another: by their curves, and by their highest scores."""

    first: Winner
    second: Winner
    lead: Lead | None
    corrected: plain.Lead


def winners(best: Sequence[Best], concluded: Sequence[Smooth]) -> list[Winner]:
    """Join the best settings with what their curves say, in the order of ``best``."""
    known = {(each.model, each.dataset): each for each in concluded if math.isnan(each.milestone)}
    found = []
    for each in best:
        smooth = known.get((each.row["model"], each.row["dataset"]))
        smooth = smooth if smooth and smooth.measure == each.measure else None
        loss = each.row["loss_type"] or "?"
        curve = next((curve for curve in smooth.curves if curve.loss == loss), None) if smooth else None
        found.append(Winner(each, smooth, curve))
    return found


def by_model(found: Sequence[Winner]) -> list[list[Winner]]:
    """Group those that compare."""
    return plain.by_model(found, lambda each: each.best)


def between(found: Sequence[Winner]) -> list[Between]:
    """Compare each model's best loss with its others: by curves where they have them, else by their highest scores."""
    comparisons = []
    for group in by_model(found):
        own = {each.curve.loss: each for each in group if each.curve}
        smooth = group[0].smooth
        if smooth and smooth.leads:
            comparisons += [
                Between(one, other, lead, plain.lead(one.best, other.best))
                for lead in smooth.leads
                if (one := own.get(lead.first.loss)) and (other := own.get(lead.second.loss))
            ]
            continue
        of_best = {id(each.best): each for each in group}
        for lead in plain.leads([each.best for each in group]):
            comparisons.append(Between(of_best[id(lead.first)], of_best[id(lead.second)], None, lead))
    return comparisons


# ------------------------------------------------------------------------------------------------ as text


def best_rows(found: Sequence[Winner]) -> list[dict[str, str]]:
    """Write the winners as rows of text, with the same keys in the same order each; other ones where some have curves.

    Where no loss has a curve there is nothing to say but what is said without one.
    """
    if not any(each.curve for each in found):
        return [_without_curve(each) for each in found]
    names = list(dict.fromkeys(each.measure.name for each in found))
    return [_with_curve(each, names) for each in found]


def _with_curve(winner: Winner, names: Sequence[str]) -> dict[str, str]:
    """Write a row; ``names``: of all measures that the rows are judged by."""
    best, curve = winner.best, winner.curve
    rerun = f"{fixed(curve.rerun.value)} ({limits(curve.rerun)})" if curve else MISSING
    gain = f"{signed(curve.gain.value)} ({limits(curve.gain)})" if curve and curve.gain.known else MISSING
    several = f" {winner.measure.name}" if len(names) > 1 and curve else ""
    return {
        "model": or_missing(best.row["model"]),
        "loss_type": or_missing(best.row["loss_type"]),
        "best setting": setting(winner.row),
        f"{names[0] if len(names) == 1 else 'score'} of a rerun": f"{rerun}{several}",
        "to untrained": gain,
        "verdict": winner.verdict,
        "best loss": MISSING if (likely := winner.probability) is None else probability(likely),
        "within noise": alike(curve) if curve else MISSING,
        "raw, flattered": raw(winner),
        "settings": budget(winner),
        WITHOUT: f"{limits(best.corrected)} for {best.looked_at}",
        RUNS: ", ".join(winner.row["run_ids"]),
    }


def _without_curve(winner: Winner) -> dict[str, str]:
    best = winner.best
    return {
        "model": or_missing(best.row["model"]),
        "loss_type": or_missing(best.row["loss_type"]),
        "best setting": setting(best.row),
        "score": f"{fixed(best.value)} {best.measure.name}",
        "difference": f"{signed(best.difference.value)} to {best.measure.against}",
        "95 % interval": limits(best.difference),
        "corrected": f"{limits(best.corrected)} for {best.looked_at}",
        "verdict": winner.verdict,
        "ties with": ties(best),
        RUNS: ", ".join(best.row["run_ids"]),
    }


def probability(value: float) -> str:
    """Write a probability, which draws give no more exactly than to a hundredth."""
    if value < 0.01:  # noqa: PLR2004
        return "below 1 %"
    return "above 99 %" if value > 0.99 else share(value)  # noqa: PLR2004


def alike(curve: Curve) -> str:
    """Name the settings that may be the loss's best, the most probable first."""
    names = [setting(row).removeprefix("beta ") for row in curve.alike]
    apart = "; " if any(", " in each for each in names) else ", "
    return apart.join(names if len(names) <= _ALIKE + 1 else [*names[:_ALIKE], f"{len(names) - _ALIKE} more"])


def raw(winner: Winner) -> str:
    """Give the highest score as measured, with its setting where that is another one."""
    if winner.curve is None:
        return fixed(winner.best.value)
    row = winner.curve.raw_row
    other = f" at {setting(row)}" if row.name != winner.row.name else ""
    return f"{fixed(winner.curve.raw)}{other}"


def budget(winner: Winner) -> str:
    """Say how many settings of a loss were scored, and by how many seeds each."""
    if winner.curve is None:
        return str(winner.best.of_loss)
    settings, runs = winner.curve.settings, winner.curve.runs
    seeds, rest = divmod(runs, settings)
    return f"{settings}, {runs} runs" if rest else f"{settings} x {seeds} seed{'' if seeds == 1 else 's'}"


def ties(best: Best) -> str:
    """Say with how many of the loss's other settings one ties: none is not the same as not computed."""
    if best.ties is None:
        return "not computed"
    if best.of_loss == 1:
        return MISSING
    return f"{len(best.ties)} of {best.of_loss - 1}" if best.ties else "none"


def lead_rows(found: Sequence[Between]) -> list[dict[str, str]]:
    """Write the comparisons between winners as rows of text."""
    write = _by_curve if any(each.lead for each in found) else _by_score
    return [write(each) for each in found]


def _by_curve(found: Between) -> dict[str, str]:
    lead = found.lead
    return {
        "model": or_missing(found.first.best.row["model"]),
        "best loss": f"{found.first.best.row['loss_type']} at {setting(found.first.row)}",
        "against": f"{found.second.best.row['loss_type']} at {setting(found.second.row)}",
        "expected lead": f"{signed(lead.difference.value)} {found.first.measure.name}" if lead else MISSING,
        "95 % interval": limits(lead.difference) if lead else MISSING,
        "for all pairs": limits(lead.corrected) if lead else MISSING,
        "better with": probability(lead.probability) if lead else MISSING,
        WITHOUT: f"{limits(found.corrected.corrected)} for {found.corrected.looked_at}",
        "verdict": _alone(found.first) or (_verdict(lead.corrected) if lead else _verdict_of(found.corrected)),
    }


def _by_score(found: Between) -> dict[str, str]:
    lead = found.corrected
    return {
        "model": or_missing(lead.first.row["model"]),
        "best loss": f"{lead.first.row['loss_type']} at {setting(lead.first.row)}",
        "against": f"{lead.second.row['loss_type']} at {setting(lead.second.row)}",
        "lead": f"{signed(lead.difference.value)} {lead.first.measure.name}",
        "95 % interval": limits(lead.difference),
        "corrected": f"{limits(lead.corrected)} for {lead.looked_at}",
        "verdict": _alone(found.first) or _verdict_of(lead),
    }


def _alone(winner: Winner) -> str:
    """Say that what is compared was scored on one unit alone, of which no verdict follows."""
    return f"{alone} only" if (alone := winner.measure.alone(winner.row)) else ""


def _verdict_of(found: Best | plain.Lead) -> str:
    return _verdict(found.corrected, found.measure if isinstance(found, Best) else found.first.measure)


def _verdict(interval: Estimate, measure: Measure | None = None) -> str:
    """Say whether a difference is more than noise; of a ``measure`` less may be better, else more is."""
    if not interval.known:
        return "no interval"
    if not interval.excludes(0):
        return "within noise"
    return "better" if (measure.sign if measure else 1) * interval.value > 0 else "worse"
