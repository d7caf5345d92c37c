"""How a number, an interval or a duration is written for reading.

Owns: digits, signs, units. Must not know: tables, runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from analysis.intervals import Estimate

MISSING = "–"  # noqa: RUF001 - an en dash, on purpose: a hyphen reads as a minus
MINUS = "\N{MINUS SIGN}"


def number(value: float, digits: int = 4) -> str:
    """Write a number with up to ``digits`` significant digits, a true minus sign, and a dash where it is missing."""
    if math.isnan(value):
        return MISSING
    return f"{value:.{digits}g}".replace("-", MINUS)


def fixed(value: float, digits: int = 2) -> str:
    """Write a number with ``digits`` decimals, or in powers of ten where those would not do."""
    if math.isnan(value):
        return MISSING
    if math.isinf(value) or abs(value) >= 1e5 or 0 < abs(value) < 0.5 * 10**-digits:  # noqa: PLR2004
        return number(value, 1 if abs(value) < 1 else 3)
    return f"{value:.{digits}f}".replace("-", MINUS)


def signed(value: float) -> str:
    """Write a difference: two decimals and always a sign."""
    return f"+{fixed(value)}" if value >= 0 else fixed(value)


def limits(estimate: Estimate) -> str:
    """Write an interval as "low to high", or a dash."""
    return f"{fixed(estimate.low)} to {fixed(estimate.high)}" if estimate.known else MISSING


def count(value: float) -> str:
    """Write a number of things, or of things in a second, with its thousands apart."""
    return f"{value:,.0f}" if math.isfinite(value) else MISSING


def share(value: float) -> str:
    """Write a share from 0 to 1 as a percentage."""
    return f"{value:.0%}".replace("%", " %") if math.isfinite(value) else MISSING


def size(value: float) -> str:
    """Write bytes, in units of a thousand."""
    if not math.isfinite(value):
        return MISSING
    return f"{value / 1e9:.3g} GB" if value >= 1e9 else f"{value / 1e6:.3g} MB"  # noqa: PLR2004


def duration(seconds: float) -> str:
    """Write seconds as hours, minutes or seconds."""
    if not math.isfinite(seconds):
        return MISSING
    if seconds < 100:  # noqa: PLR2004
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 100 else f"{minutes / 60:.1f} h"  # noqa: PLR2004


def or_missing(text: str | None) -> str:
    """Give the text, or a dash where there is none."""
    return text or MISSING


def first_of(parts: Iterable[str], at_most: int, between: str = ", ") -> str:
    """Join the first parts, and say how many more there are."""
    every = list(parts)
    more = f" and {len(every) - at_most} more" if len(every) > at_most else ""
    return between.join(every[:at_most]) + more


def listed(parts: list[str]) -> str:
    """Join parts as a sentence does."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
