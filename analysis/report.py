"""The report's folder: one self-contained page, the figures and the tables.

Owns: the files of a report. Must not know: what the page says, how a number is computed or a figure drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from analysis import best, statistics, tables
from analysis.figures import figures, look
from analysis.figures.figure import Figure
from analysis.page import page

_ENDS = ("svg", "png", "pdf")
# how the names of figures begin that an earlier report may have had
_OPTIONAL = ("golden-reward", "mt-bench", "radar", "heatmap", "steps", "actions", "command-", "lm-eval-")


@dataclass(frozen=True)
class Report:
    """A report that has been written: the page's path, and the best settings (``tables.best_rows``)."""

    page: Path
    best: list[dict[str, str]]


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
    chosen = best.best_settings(settings)
    drawn = figures.figures(runs, settings, chosen)
    images = {figure.name: _save(figure, folder / "figures") for figure in drawn}
    for stale in {path.stem for path in (folder / "figures").glob("*.svg")} - set(images):
        if stale.startswith(_OPTIONAL):
            _remove(folder / "figures", stale)
    _write_tables(frame, runs, chosen, folder / "tables")
    text = page.render_page(page.Content(runs, settings, chosen, drawn, images, notes))
    (folder / "report.html").write_text(text, encoding="utf-8")
    return Report(folder / "report.html", tables.best_rows(chosen))


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


def _write_tables(frame: pd.DataFrame, runs: pd.DataFrame, chosen: list[best.Best], folder: Path) -> None:
    tables.to_parquet(frame, folder / "results.parquet")
    table = tables.runs_table(runs)
    winners = pd.DataFrame(tables.best_rows(chosen))
    written = {
        "runs.csv": tables.to_csv(table),
        "runs.md": tables.to_markdown(table),
        "runs.tex": tables.to_latex(tables.short_table(runs), "All runs."),
        "best.csv": tables.to_csv(winners),
        "best.md": tables.to_markdown(winners),
        "best.tex": tables.to_latex(winners, "The best setting of each loss."),
    }
    for name, text in written.items():
        (folder / name).write_text(text, encoding="utf-8")
