"""What a report concludes, for programs: plain values, as ``python -m analysis --json`` prints them.

Owns: their names and form; what is not known is null. Must not know: how anything is computed or worded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from analysis.best import Best
from analysis.intervals import Estimate
from analysis.smooth import Curve, Smooth
from analysis.winners import Between, Winner, between, by_model

Plain = dict[str, Any]


def told(found: Sequence[Winner]) -> Plain:
    """Give what is concluded of each model and dataset, with the losses in the order of ``found``."""
    return {"models": [_model(group) for group in by_model(found)]}


def _model(group: Sequence[Winner]) -> Plain:
    first = group[0]
    smooth = first.smooth
    return {
        "model": first.best.row["model"],
        "dataset": first.best.row["dataset"],
        "measure": first.measure.column,
        "less_is_better": first.measure.lower,
        **_scales(smooth),
        "losses": [_loss(each) for each in group],
        "leads": [_lead(each) for each in between(group)],
        "destroyed": [_setting(each.row) | {"reason": each.reason} for each in (smooth.destroyed if smooth else ())],
    }


def _scales(smooth: Smooth | None) -> Plain:
    if smooth is None or not smooth.curves:
        return {"training_noise": None, "noise_from_seeds": None, "smallest_difference": None}
    return {
        "training_noise": _estimate(smooth.training),
        "noise_from_seeds": smooth.seeded,
        "smallest_difference": _number(smooth.smallest),
    }


def _loss(winner: Winner) -> Plain:
    why = winner.smooth.without.get(winner.best.row["loss_type"] or "?") if winner.smooth else None
    return {
        "loss_type": winner.best.row["loss_type"],
        "verdict": winner.verdict,
        "curve": _curve(winner.curve, winner.probability) if winner.curve else None,
        "no_curve": None if winner.curve else why,
        "without_assuming_smoothness": _best(winner.best),
    }


def _curve(curve: Curve, probability: float | None) -> Plain:
    return {
        "best": _setting(curve.row),
        "rerun": _estimate(curve.rerun),
        "expected": _estimate(curve.expected),
        "to_untrained": _estimate(curve.gain),
        "probability": probability,
        "within_noise": [
            _setting(row) | {"probability": likely} for row, likely in zip(curve.alike, curve.shares, strict=True)
        ],
        "raw": _setting(curve.raw_row) | {"score": curve.raw},
        "at_edge": dict(curve.edges),
        "settings": curve.settings,
        "runs": curve.runs,
    }


def _best(best: Best) -> Plain:
    return {
        "best": _setting(best.row),
        "score": _number(best.value),
        "difference": _estimate(best.difference),
        "corrected": _estimate(best.corrected),
        "looked_at": best.looked_at,
        "settings": best.of_loss,
        "ties": None if best.ties is None else [_setting(each) for each in best.ties],
    }


def _lead(found: Between) -> Plain:
    lead, plain = found.lead, found.corrected
    return {
        "first": found.first.best.row["loss_type"],
        "second": found.second.best.row["loss_type"],
        "expected": _estimate(lead.difference) if lead else None,
        "corrected": _estimate(lead.corrected) if lead else None,
        "probability": lead.probability if lead else None,
        "without_assuming_smoothness": {
            "difference": _estimate(plain.difference),
            "corrected": _estimate(plain.corrected),
            "looked_at": plain.looked_at,
        },
    }


def _setting(row: pd.Series) -> Plain:
    return {"beta": _number(row["beta"]), "setting": row["setting"], "run_ids": list(row["run_ids"])}


def _estimate(estimate: Estimate) -> Plain | None:
    if not math.isfinite(estimate.value):
        return None
    return {name: _number(getattr(estimate, name)) for name in ("value", "low", "high", "confidence")}


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
