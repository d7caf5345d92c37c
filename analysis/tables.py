"""Tables of runs for people (Markdown) and for programs (CSV), and how a number is written.

Owns: which columns a table has, and the text of a value, an interval, a duration.
Must not know: HTML, figures, how an interval is computed.
"""

from __future__ import annotations

import math
import re

import pandas as pd
from tabulate import tabulate

from analysis.read import show
from analysis.statistics import Best, Estimate

MISSING = "–"  # noqa: RUF001 - an en dash, on purpose: a hyphen reads as a minus
MINUS = "\N{MINUS SIGN}"
_NAMED = ("kind", "run_id", "model", "dataset", "loss_type", "beta", "seed")
_STATE = ("status", "reason", "step", "max_steps", "seconds", "attempts", "job_id")
_SCORES = (
    *("training_loss", "heldout_loss", "reward_accuracy", "reward_margin", "kl", "kl_stderr"),
    *("golden_reward", "golden_reward_stderr", "pairs", "generations"),
)
_WHOLE = ("seed", "step", "max_steps", "attempts", "pairs", "generations")
_FORMULA = re.compile(r"^\s*[=+\-@]")
_MARKUP = re.compile(r"[\\|`*\[\]]")


def runs_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Give one flat row per row of a ``with_estimates`` frame, in its order: base models and runs.

    Numbers are as in ``results.jsonl`` (NaN where missing). To them come a column for each further axis
    (text), and ``golden_reward_low/high`` and ``difference``, ``difference_low/high``: 95 % intervals of the
    golden reward and of its difference to the base.
    """
    table = frame[[*_NAMED, *_STATE, *_SCORES]].copy()
    for position, axis in enumerate(other_axes(frame)):
        name = axis if axis not in table.columns else f"axis {axis}"
        values = [show(axes[axis]) if axis in axes else None for axes in frame["axes"]]
        table.insert(len(_NAMED) + position, name, pd.Series(values, index=table.index, dtype=object))
    table["golden_reward_low"] = [estimate.low for estimate in frame["score"]]
    table["golden_reward_high"] = [estimate.high for estimate in frame["score"]]
    for part, column in (("value", "difference"), ("low", "difference_low"), ("high", "difference_high")):
        table[column] = [getattr(estimate, part) for estimate in frame["difference"]]
    return table


def other_axes(frame: pd.DataFrame) -> list[str]:
    """Name the sweep's axes that have no column of their own, in order of appearance."""
    names = dict.fromkeys(name for axes in frame["axes"] for name in axes)
    return [name for name in names if name not in _NAMED]


def to_csv(table: pd.DataFrame) -> str:
    """Write ``runs_table`` as CSV; numbers in full, missing ones empty.

    A text that a spreadsheet would run as a formula gets a leading apostrophe.
    """
    cells = {
        name: pd.Series([_whole(each) if name in _WHOLE else _harmless(each) for each in table[name]], dtype=object)
        for name in table
    }
    return str(pd.DataFrame(cells).to_csv(index=False, lineterminator="\n"))


def to_markdown(table: pd.DataFrame) -> str:
    """Write ``runs_table`` as a Markdown table: four significant digits, columns without any value left out."""
    filled = table.dropna(axis="columns", how="all")
    cells = filled.astype(object).map(_markdown_cell)
    align = ["right" if is_number else "left" for is_number in (filled[name].dtype.kind == "f" for name in filled)]
    text = tabulate(
        cells.to_numpy().tolist(),
        headers=[_escape(name) for name in cells.columns],
        tablefmt="pipe",
        disable_numparse=True,
        colalign=align,
    )
    return str(text + "\n")


def best_rows(best: list[Best]) -> list[dict[str, str]]:
    """Write the best settings as rows of text, with the same keys in the same order each."""
    return [
        {
            "model": or_missing(each.row["model"]),
            "loss_type": or_missing(each.row["loss_type"]),
            "best setting": setting(each.row),
            "score": f"{fixed(each.row[each.metric])} {metric_name(each)}",
            "difference": f"{signed(each.difference.value)} {against(each)}",
            "95 % interval": limits(each.difference),
            "corrected": f"{limits(each.corrected)} for {each.looked_at}",
            "verdict": verdict(each),
        }
        for each in best
    ]


def metric_name(best: Best) -> str:
    """Name the metric by which a setting is the best."""
    return best.metric.replace("_", " ")


def against(best: Best) -> str:
    """Say what the difference of a best setting is taken against."""
    return "to untrained" if best.metric == "golden_reward" else "to chance"


def verdict(best: Best) -> str:
    """Say whether the difference of a best setting is more than noise, by its corrected interval."""
    if not best.corrected.known:
        return "no interval"
    if not best.beyond_noise:
        return "within noise"
    return "better" if best.corrected.value > 0 else "worse"


def setting(row: pd.Series) -> str:
    """Name a run's beta and further axes."""
    parts = [f"beta {number(row['beta'])}", row["setting"]]
    return ", ".join(part for part in parts if part)


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


def _whole(value: float) -> object:
    return int(value) if math.isfinite(value) and value == int(value) else value


def _harmless(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value


def _markdown_cell(value: object) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.4g}"
    return "" if value is None or value is pd.NA else _escape(str(value))


def _escape(text: str) -> str:
    """Make a text harmless in a Markdown table: no markup, no HTML, one line."""
    text = _MARKUP.sub(lambda match: "\\" + match[0], text)
    return " ".join(text.replace("&", "&amp;").replace("<", "&lt;").split())
