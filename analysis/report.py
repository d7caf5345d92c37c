"""The report's folder: one self-contained page, the figures and the tables.

Owns: the files of a report, what stands where on the page, and the page's safety: every text is escaped by
Jinja2, and a content security policy lets no script run but our own, and nothing be loaded.
Must not know: how a number is computed or a figure drawn.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from importlib.metadata import version
from pathlib import Path

import jinja2
import numpy as np
import pandas as pd

from analysis import config, plots, render, statistics, summary, tables
from analysis.generations import prompts

_LIBRARIES = ("altair", "vl-convert-python", "pandas", "scipy", "jinja2", "tabulate")


@dataclass(frozen=True)
class Report:
    """A report that has been written: the page's path, and the best settings (``tables.best_rows``)."""

    page: Path
    best: list[dict[str, str]]


@dataclass(frozen=True)
class Cell:
    """A cell of the table of runs: its text, what it is sorted by, and its CSS class."""

    text: str
    key: str | float = ""
    css: str = ""


def write(frame: pd.DataFrame, folder: Path, notes: list[str]) -> Report:
    """Write the report on a frame of ``load`` into ``folder``, which is made if need be.

    ``notes`` are warnings to repeat on the page. Writes report.html, figures/*.svg and *.png, tables/runs.csv
    and runs.md; a figure without data has no files, and those of an earlier report go. Raises OSError where
    the folder cannot be written.
    """
    frame = statistics.with_estimates(frame)
    drawn, best = plots.figures(frame), statistics.best_settings(frame)
    for name in ("figures", "tables"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    images = {figure.name: _save(figure, folder / "figures") for figure in drawn}
    table = tables.runs_table(frame)
    (folder / "tables" / "runs.csv").write_text(tables.to_csv(table), encoding="utf-8")
    (folder / "tables" / "runs.md").write_text(tables.to_markdown(table), encoding="utf-8")
    page = folder / "report.html"
    page.write_text(_page(frame, drawn, images, best, notes), encoding="utf-8")
    return Report(page, tables.best_rows(best))


def _save(figure: plots.Figure, folder: Path) -> str:
    """Write a figure's files; give the SVG's text ("" where there is nothing to draw)."""
    svg, png = folder / f"{figure.name}.svg", folder / f"{figure.name}.png"
    if figure.chart is None:
        svg.unlink(missing_ok=True)
        png.unlink(missing_ok=True)
        return ""
    image = render.to_svg(figure.chart)
    svg.write_text(image, encoding="utf-8")
    png.write_bytes(render.to_png(figure.chart))
    return image


def _page(
    frame: pd.DataFrame,
    drawn: list[plots.Figure],
    images: dict[str, str],
    best: list[statistics.Best],
    notes: list[str],
) -> str:
    scripts = {"vega": render.script(), "behaviour": _resource("report.js")}
    runs = frame[frame["kind"] == "run"]
    header, rows = _runs(frame)
    return _template().render(
        title=summary.title(frame),
        lead=summary.lead(frame, best),
        cautions=[*notes, *summary.cautions(frame, best)],
        best=tables.best_rows(best),
        figures=[_figure(figure, images[figure.name]) for figure in drawn],
        unfinished=_unfinished(runs),
        header=header,
        rows=rows,
        prompts=prompts(frame),
        differing=config.differing(runs),
        common=config.common(runs),
        provenance=config.provenance(runs),
        commands=[(row["run_id"], row["command"], row["address"]) for _, row in runs.iterrows() if row["command"]],
        style=_resource("report.css"),
        scripts=scripts,
        policy=_policy(list(scripts.values())),
        made_with=", ".join(f"{name} {version(name)}" for name in _LIBRARIES),
    )


def _template() -> jinja2.Template:
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters["fixed"] = tables.fixed
    environment.filters["signed"] = tables.signed
    return environment.from_string(_resource("report.html.j2"))


def _resource(name: str) -> str:
    return resources.files("analysis").joinpath(name).read_text(encoding="utf-8")


def _policy(scripts: list[str]) -> str:
    """Give a content security policy: these scripts by their hashes, inline styles, inline images, nothing else."""
    digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts)
    hashes = " ".join(f"'sha256-{digest}'" for digest in digests)
    return f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'"


def _figure(figure: plots.Figure, image: str) -> dict[str, str]:
    """Give what the template needs of a figure: texts, the specification, and a still image as a fallback."""
    encoded = base64.b64encode(image.encode()).decode()
    return {
        "name": figure.name,
        "title": figure.title,
        "caption": figure.caption,
        "description": figure.description,
        "specification": "" if figure.chart is None else render.to_json(figure.chart),
        "image": f"data:image/svg+xml;base64,{encoded}" if image else "",
    }


def _runs(frame: pd.DataFrame) -> tuple[list[tuple[str, str]], list[list[Cell]]]:
    """Give header (name, CSS class) and rows of the page's table of runs, columns without any value left out."""
    rows = [_row(row) for _, row in frame.iterrows()]
    names = [name for name in rows[0] if any(row[name].text not in {"", tables.MISSING} for row in rows)]
    header = [(name, rows[0][name].css) for name in names]
    return header, [[row[name] for name in names] for row in rows]


def _row(row: pd.Series) -> dict[str, Cell]:
    base = row["kind"] == "base"
    status = "untrained" if base else str(row["status"] or "?")
    reason = "" if base else str(row["reason"] or "")
    return {
        "status": Cell(status, status, f"status {status.lower()}"),
        "model": _text(row["model"]),
        "loss_type": _text(row["loss_type"]),
        "beta": _value(row["beta"], tables.number),
        "setting": _text(row["setting"] if not base else ""),
        "golden reward": _estimate(row["score"], tables.fixed),
        "to untrained": _estimate(row["difference"], tables.signed),
        "KL": _value(row["kl"], tables.fixed),
        "accuracy": _value(row["reward_accuracy"], tables.fixed),
        "margin": _value(row["reward_margin"], tables.fixed),
        "held-out loss": _value(row["heldout_loss"], tables.number),
        "steps": Cell(_steps(row), _key(row["step"]), "number"),
        "time": _value(row["seconds"], tables.duration),
        "attempts": _value(row["attempts"], tables.number),
        "reason": Cell(reason, reason, "reason"),
        "run": Cell(str(row["run_id"] or ""), str(row["run_id"] or ""), "run"),
    }


def _unfinished(runs: pd.DataFrame) -> list[tuple[str, str, str]]:
    """Give status, name and reason of each run that is not trained or has no evaluation."""
    found = []
    for _, row in runs.iterrows():
        evaluated = math.isfinite(row["golden_reward"]) or math.isfinite(row["reward_accuracy"])
        if row["status"] != "TRAINED" or not evaluated:
            reason = row["reason"] or ("not evaluated yet" if row["status"] == "TRAINED" else "")
            found.append((str(row["status"] or "?"), str(row["run_id"]), reason))
    return found


def _text(value: str | None) -> Cell:
    return Cell(value or tables.MISSING, value or "", "text")


def _value(value: float, write_number: Callable[[float], str]) -> Cell:
    return Cell(write_number(value), _key(value), "number")


def _estimate(estimate: statistics.Estimate, write_number: Callable[[float], str]) -> Cell:
    text = write_number(estimate.value)
    return Cell(f"{text} ({tables.limits(estimate)})" if estimate.known else text, _key(estimate.value), "number")


def _key(value: float) -> float | str:
    return value if math.isfinite(value) else ""


def _steps(row: pd.Series) -> str:
    if np.isnan(row["step"]):
        return tables.MISSING
    return tables.number(row["step"], 7) + ("" if np.isnan(row["max_steps"]) else f" of {row['max_steps']:.7g}")
