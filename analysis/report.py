"""The report's folder: one self-contained page, the figures and the tables.

Owns: the files of a report. Must not know: what the page says, how a number is computed or a figure drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from analysis import as_json, best, smooth, statistics, tables
from analysis.figures import figures, look
from analysis.figures.figure import Figure
from analysis.page import cautions, page, summary
from analysis.winners import RUNS, Winner, best_rows, winners

_ENDS = ("svg", "png", "pdf")
# how the names of figures begin that an earlier report may have had
_OPTIONAL = ("golden-reward", "mt-bench", "radar", "heatmap", "steps", "actions", "command-", "lm-eval-")


@dataclass(frozen=True)
class Report:
    """A report that has been written: its page, the best settings (``winners.best_rows``), and all for programs."""

    page: Path
    best: list[dict[str, str]]
    told: as_json.Plain


def write(frame: pd.DataFrame, folder: Path, notes: list[str]) -> Report:
    """Write the report on a frame of ``load`` into ``folder``, which is made if need be.

    ``notes`` are warnings to repeat on the page. Writes report.html, figures/ (SVG, PNG, PDF) and tables/ (CSV,
    Markdown, LaTeX; results.parquet); a figure without data has no files, and those of an earlier report go.
    Raises OSError where the folder cannot be written.
    """
    for name in ("figures", "tables"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    runs = statistics.with_estimates(frame)
    settings = statistics.settings(runs)
    chosen, concluded = best.best_settings(settings), smooth.conclusions(settings)
    found = winners(chosen, concluded)
    drawn = figures.figures(runs, settings, chosen, concluded)
    images = {figure.name: _save(figure, folder / "figures") for figure in drawn}
    for stale in {path.stem for path in (folder / "figures").glob("*.svg")} - set(images):
        if stale.startswith(_OPTIONAL):
            _remove(folder / "figures", stale)
    _write_tables(frame, runs, found, folder / "tables")
    findings = summary.findings(runs, found)
    warnings = [*notes, *cautions.cautions(runs, chosen, settings, concluded)]
    text = page.render_page(page.Content(runs, findings, warnings, found, drawn, images))
    (folder / "report.html").write_text(text, encoding="utf-8")
    told = {"report": str(folder / "report.html"), "findings": findings, "cautions": warnings} | as_json.told(found)
    return Report(folder / "report.html", best_rows(found), told)


def _save(figure: Figure, folder: Path) -> str:
    """Write a figure's files; give the SVG's text ("" where there is nothing to draw)."""
    if figure.chart is None:
        _remove(folder, figure.name)
        return ""
    image = look.to_svg(figure.chart)
    (folder / f"{figure.name}.svg").write_text(image, encoding="utf-8")
    (folder / f"{figure.name}.png").write_bytes(look.svg_to_png(image))
    (folder / f"{figure.name}.pdf").write_bytes(look.svg_to_pdf(image))
    return image


def _remove(folder: Path, name: str) -> None:
    for end in _ENDS:
        (folder / f"{name}.{end}").unlink(missing_ok=True)


def _write_tables(frame: pd.DataFrame, runs: pd.DataFrame, found: list[Winner], folder: Path) -> None:
    tables.to_parquet(frame, folder / "results.parquet")
    table = tables.runs_table(runs)
    rows = pd.DataFrame(best_rows(found))
    written = {
        "runs.csv": tables.to_csv(table),
        "runs.md": tables.to_markdown(table),
        "runs.tex": tables.to_latex(tables.short_table(runs), "All runs."),
        "best.csv": tables.to_csv(rows),
        "best.md": tables.to_markdown(rows),
        "best.tex": tables.to_latex(rows.drop(columns=RUNS, errors="ignore"), "The best setting of each loss."),
    }
    for name, text in written.items():
        (folder / name).write_text(text, encoding="utf-8")
