"""The verb `du`: what takes the disk."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from launcher.cli.arguments import DONE, Parser, sweep_arguments
from launcher.cli.selection import find_sweep, runs_of, store_of
from launcher.store.disk_use import space
from launcher.store.output_folder import Store, SweepDir, folders_in
from launcher.store.run_folder import RunDir
from launcher.views.disk import Part, show_parts

EXAMPLES = ("python -m launcher du", "python -m launcher du smoke")


def arguments(parser: Parser) -> None:
    """What the verb may be given."""
    sweep_arguments(parser, default="all of the output folder")


def disk_use(options: argparse.Namespace) -> int:
    """Show what takes the disk: in the output folder by kind, of a sweep by run."""
    if options.sweep is None:
        store = Store(options.output_dir.absolute())
        parts, whole, title = list(_of_all(store)), [store.root], f"disk of {store.root}"
    else:
        directory = find_sweep(options, options.sweep)
        store, runs = store_of(directory), runs_of(directory, store_of(directory))
        parts, title = list(_of_sweep(directory, runs)), f"disk of sweep {directory.name}"
        whole = [directory.path, *(run.path for run in runs)]
    show_parts(title, [part for part in parts if part.disk], space(whole).taken, as_json=options.json)
    return DONE


def _of_all(store: Store) -> Iterator[Part]:
    runs = store.runs()
    yield from _of_runs(runs)
    for kind in ("code", "jobs"):
        yield Part(f"sweeps: {kind}", space(sweep.path / kind for sweep in store.sweeps()).taken)
    others = [each for sweep in store.sweeps() for each in _inside(sweep.path) if each.name not in ("code", "jobs")]
    yield Part("sweeps: launches, results, reports", space(others).taken)
    for folder in folders_in(store.root / "cache"):
        yield Part(f"cache: {folder.name}", space([folder]).taken)
    yield Part("hub: published models (files shared with runs counted here too)", space([store.root / "hub"]).taken)


def _of_runs(runs: list[RunDir]) -> Iterator[Part]:
    models = [path for run in runs for path in (run.model, run.path / "milestones", run.before)]
    yield Part("runs: models, milestones", space(models).taken)
    yield Part("runs: checkpoints", space(run.checkpoints for run in runs).taken)
    known = {*models, *(run.checkpoints for run in runs)}
    rest = [path for run in runs for path in _inside(run.path) if path not in known]
    yield Part("runs: logs, records, evaluations", space(rest).taken)


def _of_sweep(directory: SweepDir, runs: list[RunDir]) -> Iterator[Part]:
    for run in runs:
        yield Part(f"run {run.run_id}", space([run.path]).taken)
    for path in _inside(directory.path):
        yield Part(f"{directory.name}/{path.name}", space([path]).taken)


def _inside(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []
