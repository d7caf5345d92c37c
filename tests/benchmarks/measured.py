"""What the benchmarks have in common: repeats in turn, a number in words, and as a line of JSON.

Owns: how a measured number is printed and recorded. Must not know: what is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rich.table import Table


def parser(about: str | None) -> argparse.ArgumentParser:
    """A benchmark's command line; `about`: its docstring."""
    made = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--json", type=Path, metavar="FILE", help="append what was measured, a line each")
    return made


def seconds_of(work: Callable[[], object]) -> float:
    """How long it takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def in_turn(works: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each, once after the other and all of it again: what slows the machine down meets all alike."""
    taken: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            taken[name].append(seconds_of(work))
    return taken


def in_words(values: Sequence[float], digits: int = 2) -> str:
    """The median, and of several the least and the most: `1.20 (1.10 to 1.45)`."""
    median = f"{statistics.median(values):,.{digits}f}"
    return median if len(values) == 1 else f"{median} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def ratio(others: Sequence[float], ours: Sequence[float]) -> str:
    """How many times as much the others' median is."""
    return f"{statistics.median(others) / statistics.median(ours):.1f}x"


def table(title: str, *columns: str, numbers: Sequence[str]) -> Table:
    """An empty table; the columns named in `numbers` are flush right."""
    made = Table(title=title, title_justify="left", box=None)
    for column in columns:
        made.add_column(column, justify="right" if column in numbers else "left")
    return made


def record(file: Path | None, benchmark: str, **values: object) -> None:
    """Append a line, at once: which benchmark, what it found, when and on which machine."""
    if file is None:
        return
    line = {"benchmark": benchmark, **values, "machine": machine(), "time": round(time.time())}
    with file.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(line) + "\n")


def write_into(page: Path, begins: Sequence[str], *cells: str) -> None:
    """Replace the row of a Markdown page's table that begins with these cells, at once."""
    lines = page.read_text(encoding="utf-8").splitlines(keepends=True)
    start = f"| {' | '.join(begins)} |"
    (at,) = [place for place, line in enumerate(lines) if line.startswith(start)]
    lines[at] = f"| {' | '.join([*begins, *cells])} |\n"
    page.write_text("".join(lines), encoding="utf-8")


def machine() -> str:
    """Its cores and what they are, as in `2 x Intel(R) Xeon(R) Processor`."""
    cpuinfo = Path("/proc/cpuinfo")
    told = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    model = next((line.partition(":")[2].strip() for line in told if line.startswith("model name")), platform.machine())
    return f"{os.cpu_count()} x {model}"
