"""What tells the runs' configurations apart, what they share, and where they come from.

Owns: nested configurations as flat ``a.b.c`` keys, and the counts of their values.
Must not know: HTML, scores.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import pandas as pd

from analysis.read import show

_SHOWN = 12  # values of a key that are listed


def differing(runs: pd.DataFrame) -> list[tuple[str, str, str]]:
    """Give (key, values, role) of each key whose value differs between runs; the sweep's axes come first.

    ``role`` is "axis", "follows from AXIS" for a key inside one, or "differs too" for what no axis explains.
    """
    axes = _values(row for row in runs["axes"] if row)
    explained = [(key, _listed(values), "axis") for key, values in axes.items()]
    others = [
        (key, _listed(values), _role(key, list(axes)))
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
    """Give (what, values) of the runs' provenance; where runs differ, each value with its number of runs."""
    rows = [_flat(row) for row in runs["provenance"] if row]
    values = _values(rows)
    created = sorted(values.pop("created", {}))
    found = [(key, _counted(each)) for key, each in values.items()]
    if created:
        found.append(("created", created[0] if len(created) == 1 else f"{created[0]} to {created[-1]}"))
    return found


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


def _listed(values: Counter[str]) -> str:
    shown = ", ".join(list(values)[:_SHOWN])
    return shown if len(values) <= _SHOWN else f"{shown} and {len(values) - _SHOWN} more"


def _counted(values: Counter[str]) -> str:
    if len(values) == 1:
        return next(iter(values))
    return ", ".join(f"{value} ({count} runs)" for value, count in values.most_common(_SHOWN))
