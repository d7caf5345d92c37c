"""The verb `fetch`: what nodes without internet need, fetched here."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from launcher.cli.arguments import DONE, Parser
from launcher.cli.launch import composed
from launcher.cli.selection import open_sweep
from launcher.errors import UsageError
from launcher.machine.installed import package_dir, trl_losses
from launcher.planning.conf_places import sweep_file
from launcher.planning.fetch import Item, carry_out, check_room, items_of
from launcher.planning.hub_sources import Settled, pin_sources, settle
from launcher.planning.launches import recorded_sweep
from launcher.planning.prerequisites import check_benchmarks, fetch_sources, missing_packages_of
from launcher.store.output_folder import Store
from launcher.sweep import Sweep
from launcher.views import console
from launcher.views import fetch as views_fetch

EXAMPLES = (
    "python -m launcher fetch +sweeps=pref_align_scan --dry-run",
    "python -m launcher fetch model=ORG/NAME dataset=ORG/PAIRS loss_type=sigmoid,ipo",
    "python -m launcher fetch smoke",
)
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


def fetch(options: argparse.Namespace) -> int:
    """Fetch what a sweep needs into this machine's caches, and pin it; what is here is only checked."""
    for name in OFFLINE:
        if os.environ.get(name, "").lower() in ("1", "true", "yes", "on"):
            raise UsageError(f"{name} is set, so nothing can be fetched; unset it here, where there is internet")
    if package_dir("huggingface_hub") is None:
        raise UsageError("huggingface_hub is not installed here; pip install 'prefsweep[hub]'")
    sweep, store = _sweep_of(options)
    settled = settle(sweep, store, dry_run=options.dry_run)
    items = items_of(settled.sweep)
    notes = [*settled.notes, *_notes(sweep)]
    console.show_notes(notes)
    if not options.json:
        views_fetch.show_items(items, dry_run=options.dry_run)
    if not options.dry_run:
        items = _fetch(settled, items, store, options)
    if options.json:
        views_fetch.show_json(sweep.name, items, notes, fetched=not options.dry_run)
    elif not options.dry_run:
        views_fetch.say_all_here(items)
    return DONE


def _fetch(settled: Settled, items: Sequence[Item], store: Store, options: argparse.Namespace) -> list[Item]:
    """The items as they are afterwards."""
    check_room(items)
    done = [item for item in items if item.prepared]
    for item in carry_out(items):
        done.append(item)
        if not options.json:
            views_fetch.say_fetched(item)
    fetch_sources(settled.sweep, store)
    check_benchmarks(settled.sweep)
    pin_sources(settled.sweep, store)
    order = [item.needed.identity for item in items]
    return sorted(done, key=lambda item: order.index(item.needed.identity))


def _sweep_of(options: argparse.Namespace) -> tuple[Sweep, Store]:
    """The sweep that is meant: one that was launched, a file of sweeps/, or what overrides make."""
    first, *others = options.words
    if "=" not in first and not others:
        known = {sweep.name for sweep in Store(options.output_dir.absolute()).sweeps()}
        if first in known or sweep_file(first) is None:
            options.sweep = first
            directory, store, _ = open_sweep(options)
            return recorded_sweep(directory, store, trl_losses()), store
        first = f"+sweeps={first}"
    sweep, _ = composed([first, *others], multirun=True)
    return sweep, Store(Path(sweep.runs[0].config.output_dir).absolute())


def _notes(sweep: Sweep) -> list[str]:
    """What a sweep needs and nobody can fetch beforehand."""
    tasks = dict.fromkeys(
        task
        for run in sweep.runs
        if "lm_eval" in run.config.evaluation.benchmarks
        for task in run.config.evaluation.lm_eval.tasks
    )
    named = ",".join(tasks)
    line = (
        f"evaluation.lm_eval.tasks={named}: which data they need only lm_eval knows; to have it here, run once "
        f"python -m lm_eval --model dummy --limit 1 --tasks {named}"
    )
    return [*missing_packages_of(sweep), *([line] if tasks else [])]


def arguments(parser: Parser) -> None:
    """What the verb may be given."""
    parser.add_argument(
        "words", nargs="+", metavar="SWEEP|key=value", help="a sweep that was launched, one of sweeps/, or overrides"
    )
    parser.add_argument("-m", "--multirun", action="store_true", help="as in a launch; makes no difference here")
    parser.add_argument("--dry-run", action="store_true", help="only show what would be fetched, with sizes")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
