"""What tells the runs' configurations apart, what they share, and where they come from.

Owns: nested configurations as flat ``a.b.c`` keys, and the counts of their values.
Must not know: HTML, scores.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import pandas as pd

from analysis.apart import show
from analysis.words import first_of, fixed

_SHOWN = 12  # values of a key that are listed


def differing(runs: pd.DataFrame) -> list[tuple[str, str, str]]:
    """Give (key, values, role) of each key whose value differs between runs; the sweep's axes come first.

    ``role`` is "axis", "follows from AXIS" for a key inside one, or "differs too" for what no axis explains.
    """
    axes = _values(row for row in runs["axes"] if row)
    explained = [(key, first_of(values, _SHOWN), "axis") for key, values in axes.items()]
    others = [
        (key, first_of(values, _SHOWN), _role(key, list(axes)))
        for key, values in _values(_flat_configs(runs)).items()
        if len(values) > 1 and key not in axes
    ]
    return explained + sorted(others, key=lambda each: each[2] == "differs too", reverse=True)


def common(runs: pd.DataFrame) -> list[tuple[str, str]]:
    """Give (key, value) of each key that has the same value in every run that has a configuration."""
    axes = {key for row in runs["axes"] for key in row}
    values = _values(_flat_configs(runs))
    return [(key, next(iter(each))) for key, each in values.items() if len(each) == 1 and key not in axes]


def provenance(runs: pd.DataFrame) -> list[tuple[str, str]]:
    """Give (what, values) of the runs' provenance; where runs differ, each value with its number of runs.

    With it the machines, what they trained on, how pairs went through the models, and the GPU-hours, those of runs
    without a result apart.
    """
    rows = [_flat(row) for row in runs["provenance"] if row]
    values = _values(rows)
    created = sorted(values.pop("created", {}))
    found = [(key, _counted(each)) for key, each in values.items()]
    if created:
        found.append(("created", _span(created)))
    hosts = Counter(host for each in runs["hosts"] for host in each)
    devices = Counter(each for each in runs["device"] if each)
    ways = Counter(each for each in runs["packing"] if each)
    told = (("ran on", hosts), ("trained on", devices), ("pairs", ways))
    found += [(name, _counted(each)) for name, each in told if each]
    return found + _cost(runs)


def _span(times: list[str]) -> str:
    """Give the first and last of some times; seconds since 1970 as a date."""
    first, last = (_date(each) for each in (times[0], times[-1]))
    return first if first == last else f"{first} to {last}"


def _date(text: str) -> str:
    try:
        return datetime.fromtimestamp(float(text), tz=UTC).strftime("%Y-%m-%d %H:%M UTC")
    except (ValueError, OverflowError, OSError):
        return text


def _cost(runs: pd.DataFrame) -> list[tuple[str, str]]:
    hours = runs["gpu_hours"]
    if not hours.gt(0).any():
        return []
    lost = float(hours[runs["status"] != "TRAINED"].sum())
    text = fixed(hours.sum(), 1) + (f", of them {fixed(lost, 1)} in runs without a result" if lost > 0 else "")
    return [("GPU-hours", text)]


def _flat_configs(runs: pd.DataFrame) -> list[dict[str, str]]:
    return [_flat(objective) for objective in runs["objective"] if objective]


def _flat(nested: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Flatten nested dicts to ``a.b.c`` keys with short texts as values."""
    flat: dict[str, str] = {}
    for key, value in nested.items():
        name = f"{prefix}{key}"
        flat |= _flat(value, f"{name}.") if isinstance(value, dict) and value else {name: show(value)}
    return flat


def _values(rows: Iterable[dict[str, Any]]) -> dict[str, Counter[str]]:
    """Count each key's values, as texts; a key that only some rows have counts as "(absent)" elsewhere."""
    rows = list(rows)
    keys = dict.fromkeys(key for row in rows for key in row)
    return {key: Counter(show(row[key]) if key in row else "(absent)" for row in rows) for key in keys}


def _role(key: str, axes: list[str]) -> str:
    axis = next((axis for axis in axes if key.startswith(f"{axis}.")), None)
    return f"follows from {axis}" if axis else "differs too"


def _counted(values: Counter[str]) -> str:
    if len(values) == 1:
        return next(iter(values))
    return ", ".join(f"{value} ({count} runs)" for value, count in values.most_common(_SHOWN))
