"""What a sweep's page is told at one moment: plain values, from states and curves.

Owns: the keys that `page.js` reads. Must not know: how they are shown, who asks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from launcher.runs.status import BAD, Status
from launcher.store.curve import KEYS, Curve
from launcher.store.files import Plain
from launcher.store.output_folder import SweepDir
from launcher.views.console import logs_command
from launcher.views.marks import LETTERS, ORDER
from launcher.views.run_lines import Shown, doing, node_of, stage, waits, why

CURVES = 24  # runs at work that are drawn
FAILURES = 50  # that are listed
REASONS = 10  # for which runs wait
TRACEBACK_LINES = 20
DIGITS = 6  # of a number: a curve has a few hundred pixels


def told(directory: SweepDir, runs: Sequence[Shown], notes: Sequence[str], asked: float) -> Plain:
    """All that the page shows beside the report and the cost.

    Args:
        directory: of the sweep.
        runs: all of it.
        notes: what else is to be said.
        asked: when the scheduler answered last, in seconds since 1970.
    """
    at_work = [each for each in runs if _is_at_work(each)]
    failed = [each for each in runs if each.status in BAD]
    counts = Counter(each.status for each in runs)
    starts = [each.state.job.start for each in runs if each.state.job.start and each.status is Status.PENDING]
    return {
        "sweep": directory.name,
        "asked": asked,
        "over": not any(each.state.in_flight for each in runs),
        "total": len(runs),
        "counts": [[status, counts[status]] for status in sorted(counts, key=ORDER.__getitem__)],
        "share": sum(each.share for each in runs) / max(1, len(runs)),
        "notes": list(notes),
        "running": [_running(each) for each in at_work[:CURVES]],
        "running_left_out": max(0, len(at_work) - CURVES),
        "failed": [_failed(directory, each) for each in failed[:FAILURES]],
        "failed_left_out": max(0, len(failed) - FAILURES),
        "waiting": _waiting([each for each in runs if each.status in (Status.PENDING, Status.NEW)]),
        "next_start": min(starts, default=None),
        "grid": _grid(runs),
    }


def _is_at_work(shown: Shown) -> bool:
    return shown.status is Status.RUNNING or (shown.status is Status.TRAINED and shown.state.in_flight)


def _running(shown: Shown) -> Plain:
    return {
        "run": shown.name.run_id,
        "status": shown.status,
        "node": node_of(shown.state),
        "step": shown.step,
        "max_steps": shown.max_steps,
        "share": shown.share,
        "seconds_left": shown.seconds_left,
        "doing": stage(shown.state) or doing(shown.state),
        "reason": shown.state.reason or "",
        "curves": {key: _points(shown.curve, key) for key in KEYS},
    }


def _points(curve: Curve, key: str) -> list[list[float]]:
    found = ((dot.step, getattr(dot, key)) for dot in curve.dots)
    return [[step, float(f"{value:.{DIGITS}g}")] for step, value in found if value is not None]


def _failed(directory: SweepDir, shown: Shown) -> Plain:
    run_id = shown.name.run_id
    return {
        "run": run_id,
        "status": shown.status,
        "reason": shown.state.reason or "",
        "traceback": "\n".join(shown.state.facts.traceback.splitlines()[-TRACEBACK_LINES:]),
        "command": logs_command(directory, run_id),
    }


def _waiting(runs: Sequence[Shown]) -> list[list[object]]:
    """What runs wait for, each with their number; what few wait for is counted together."""
    found = waits(runs)
    left = sum(number for _, number in found[REASONS:])
    return [[text, number] for text, number in found[:REASONS]] + ([["something else", left]] if left else [])


def _grid(runs: Sequence[Shown]) -> Plain:
    """Model and loss by beta, the runs of each cell."""
    betas = sorted({each.name.beta for each in runs})
    several = len({each.name.model for each in runs}) > 1
    rows: dict[str, dict[float, list[list[str]]]] = {}
    for each in runs:
        name = f"{each.name.model} {each.name.loss_type}" if several else each.name.loss_type
        about = why(each)
        cell = [LETTERS[each.status], each.status, f"{each.name.run_id}: {each.status}{about and f', {about}'}"]
        rows.setdefault(name, {}).setdefault(each.name.beta, []).append(cell)
    cells = [{"name": name, "cells": [row.get(beta, []) for beta in betas]} for name, row in rows.items()]
    return {"betas": [f"{beta:g}" for beta in betas], "rows": cells}
