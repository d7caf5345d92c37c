"""The page: what stands where on it, and its safety.

Owns: the template's values. Every text is escaped by Jinja2, and a content security policy lets no script run but our
own, and nothing be loaded. Must not know: files, how a number is computed or a figure drawn.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from importlib.metadata import version

import jinja2
import numpy as np
import pandas as pd

from analysis import rows, winners, words
from analysis.figures import look
from analysis.figures.figure import Figure
from analysis.intervals import Estimate
from analysis.measures import Measure, present, shown
from analysis.page import configurations, data, summary
from analysis.page.generations import prompts
from analysis.winners import Winner

_ALIKE = 12  # settings that are named
_LIBRARIES = ("altair", "vl-convert-python", "pandas", "scipy", "jinja2", "tabulate")


@dataclass(frozen=True)
class Content:
    """What a page is made of: a ``with_estimates`` frame, what to say first, winners, the figures and their SVG."""

    runs: pd.DataFrame
    findings: list[str]
    cautions: list[str]
    winners: list[Winner]
    figures: list[Figure]
    images: dict[str, str]


@dataclass(frozen=True)
class Cell:
    """A cell of the table of runs: its text, what it is sorted by, and its CSS class."""

    text: str
    key: str | float = ""
    css: str = ""


def render_page(content: Content) -> str:
    """Give the page's HTML."""
    frame, found = content.runs, content.winners
    scripts = {"vega": look.script(), "behaviour": _resource("report.js")}
    runs = frame[frame["kind"] == "run"]
    trainings = runs[runs["milestone"].isna()]
    header, rows = _runs(frame)
    return _template().render(
        title=summary.title(frame),
        findings=content.findings,
        cautions=content.cautions,
        best=[_winner(row, each) for row, each in zip(winners.best_rows(found), found, strict=True)],
        curved=any(each.curve for each in found),
        leads=winners.lead_rows(winners.between(found)),
        figures=[_figure(figure, content.images[figure.name]) for figure in content.figures],
        unfinished=_unfinished(runs),
        header=header,
        rows=rows,
        data=data.splits(trainings),
        examples=data.examples(trainings),
        prompts=prompts(frame),
        differing=configurations.differing(runs),
        common=configurations.common(runs),
        provenance=configurations.provenance(trainings),
        commands=_commands(runs),
        style=_resource("report.css"),
        scripts=scripts,
        policy=_policy(list(scripts.values())),
        made_with=", ".join(f"{name} {version(name)}" for name in _LIBRARIES),
    )


def _commands(runs: pd.DataFrame) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """Give each training's command, and where its models are: what to call each, and its address."""
    models: dict[str, list[tuple[str, str]]] = {}
    for run_id, step, address in runs[["run_id", "milestone", "address"]].to_numpy():
        if address:
            name = "Its model" if pd.isna(step) else f"After step {step:.0f}"
            models.setdefault(run_id.partition("@")[0], []).append((name, address))
    trainings = runs[runs["milestone"].isna()]
    rows = trainings[["run_id", "command"]].to_numpy()
    return [(run_id, command, models.get(run_id, [])) for run_id, command in rows if command]


def _winner(row: dict[str, str], winner: Winner) -> dict[str, str]:
    """Give a best setting's row for the page: the interval that its verdict goes by, and the settings like it."""
    if "ties with" not in row:
        return row
    alike = [rows.setting(each).removeprefix("beta ") for each in winner.best.ties or ()]
    kept = {key: value for key, value in row.items() if key not in {"95 % interval", "ties with"}}
    return kept | {"not told from it: beta": words.first_of(alike, _ALIKE, "; ") or row["ties with"]}


def _template() -> jinja2.Template:
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters["fixed"] = words.fixed
    environment.filters["signed"] = words.signed
    return environment.from_string(_resource("report.html.j2"))


def _resource(name: str) -> str:
    return resources.files("analysis.page").joinpath(name).read_text(encoding="utf-8")


def _policy(scripts: list[str]) -> str:
    """Give a content security policy: these scripts by their hashes, inline styles, inline images, nothing else."""
    digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts)
    hashes = " ".join(f"'sha256-{digest}'" for digest in digests)
    return f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'"


def _figure(figure: Figure, image: str) -> dict[str, str]:
    """Give what the template needs of a figure: texts, the specification, and a still image as a fallback."""
    encoded = base64.b64encode(image.encode()).decode()
    return {
        "name": figure.name,
        "title": figure.title,
        "caption": figure.caption,
        "description": figure.description,
        "specification": "" if figure.chart is None else look.to_json(figure.chart),
        "image": f"data:image/svg+xml;base64,{encoded}" if image else "",
    }


def _runs(frame: pd.DataFrame) -> tuple[list[tuple[str, str]], list[list[Cell]]]:
    """Give header (name, CSS class) and rows of the page's table of runs, columns without any value left out."""
    measures = shown(present(frame))
    rewards = len(frame["reward"].dropna().unique()) > 1
    rows = [_row(row, measures, rewards=rewards) for _, row in frame.iterrows()]
    names = [name for name in rows[0] if any(row[name].text not in {"", words.MISSING} for row in rows)]
    header = [(name, rows[0][name].css) for name in names]
    return header, [[row[name] for name in names] for row in rows]


def _row(row: pd.Series, measures: list[Measure], *, rewards: bool) -> dict[str, Cell]:
    base = row["kind"] == "base"
    status = "untrained" if base else str(row["status"] or "?")
    reason = "" if base else str(row["reason"] or "")
    return {
        "status": Cell(status, status, f"status {status.lower()}"),
        "model": _text(row["model"]),
        "loss_type": _text(row["loss_type"]),
        "beta": _value(row["beta"], words.number),
        "setting": _text(row["evaluated" if base else "setting"]),
        "seed": _value(row["seed"], words.number),
        **_scores(row, measures),
        "KL": _value(row["kl"], words.fixed),
        "accuracy": _value(row["reward_accuracy"], words.fixed),
        "margin": _value(row["reward_margin"], words.fixed),
        **({"of the reward": _text(row["reward"])} if rewards else {}),
        "held-out loss": _value(row["heldout_loss"], words.number),
        "steps": Cell(_steps(row), _key(row["step"]), "number"),
        "time": _value(row["seconds"], words.duration),
        "GPU-hours": _value(row["gpu_hours"], words.fixed),
        "tokens/s": _value(row["tokens_per_second"], words.count),
        "padding": _value(row["padding"], words.share),
        "memory": _value(row["peak_memory_bytes"], words.size),
        "of peak": _value(row["mfu"], words.share),
        "attempts": _value(row["attempts"], words.number),
        "reason": Cell(reason, reason, "reason"),
        "run": Cell(str(row["run_id"] or ""), str(row["run_id"] or ""), "run"),
    }


def _scores(row: pd.Series, measures: list[Measure]) -> dict[str, Cell]:
    cells = {}
    for each in measures:
        cells[each.name] = _estimate(row[each.estimate], words.fixed)
        name = "to untrained" if len(measures) == 1 else f"{each.name} to untrained"
        cells[name] = _estimate(row[each.difference], words.signed)
    return cells


def _unfinished(runs: pd.DataFrame) -> list[tuple[str, str, str]]:
    """Give status, name and reason of each run that is not trained or has no evaluation."""
    found = []
    for (_, row), evaluated in zip(runs.iterrows(), rows.judged(runs), strict=True):
        if row["status"] != "TRAINED" or not evaluated:
            reason = row["reason"] or ("not evaluated yet" if row["status"] == "TRAINED" else "")
            found.append((str(row["status"] or "?"), str(row["run_id"]), reason))
    return found


def _text(value: str | None) -> Cell:
    return Cell(value or words.MISSING, value or "", "text")


def _value(value: float, write_number: Callable[[float], str]) -> Cell:
    return Cell(write_number(value), _key(value), "number")


def _estimate(estimate: Estimate, write_number: Callable[[float], str]) -> Cell:
    text = write_number(estimate.value)
    return Cell(f"{text} ({words.limits(estimate)})" if estimate.known else text, _key(estimate.value), "number")


def _key(value: float) -> float | str:
    return value if math.isfinite(value) else ""


def _steps(row: pd.Series) -> str:
    if np.isnan(row["step"]):
        return words.MISSING
    return words.number(row["step"], 7) + ("" if np.isnan(row["max_steps"]) else f" of {row['max_steps']:.7g}")
