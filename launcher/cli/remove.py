"""The verb `rm`: delete a sweep with its runs, or some of its runs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from launcher.cli.arguments import DONE, Parser
from launcher.cli.selection import find_sweep, named_runs, store_of
from launcher.cluster.scheduler import scheduler_to_ask
from launcher.errors import UsageError
from launcher.machine.terminal import say
from launcher.runs.holdings import Going, Holdings, going_with, without_runs
from launcher.store import disk_use
from launcher.store.disk_use import check_within, space
from launcher.store.files import write_once
from launcher.store.output_folder import Store, SweepDir
from launcher.views.console import show_notes
from launcher.views.disk import Part, can_ask, is_confirmed, say_kept, say_nothing_to_delete, show_going

EXAMPLES = (
    "python -m launcher rm smoke --dry-run",
    "python -m launcher rm smoke --yes",
    "python -m launcher rm smoke tiny-ipo-beta0.1 --yes",
)


def arguments(parser: Parser) -> None:
    """What the verb may be given."""
    parser.add_argument("sweep", metavar="SWEEP", help="by name or folder")
    parser.add_argument(
        "runs", nargs="*", default=[], metavar="RUN", help="run ids or their beginnings (default: the whole sweep)"
    )
    deletion_arguments(parser)
    parser.add_argument("--published", action="store_true", help="also the models in hub/ of the runs that are deleted")


def deletion_arguments(parser: Parser) -> None:
    """Whether anything is deleted, and whether one is asked."""
    parser.add_argument("--dry-run", action="store_true", help="show what would be deleted, and delete nothing")
    parser.add_argument("--yes", action="store_true", help="delete without asking")


def remove(options: argparse.Namespace) -> int:
    """Delete the sweep's records and those of its runs that no other sweep holds; nothing that is in flight."""
    directory = find_sweep(options, options.sweep)
    store, scheduler = store_of(directory), scheduler_to_ask()

    def look() -> Going:
        runs = named_runs(options.runs, directory, store)
        return going_with(directory, runs, Holdings.of(store), scheduler, published=options.published)

    going = look()
    paths = [*(run.path for run in going.runs), *(path for path, _ in going.paths)]
    for path in paths:
        check_within(store.root, path)
    notes = [*say_kept(going.kept), *_published(going)]
    if not paths:
        say_nothing_to_delete(directory.name)
        show_notes(notes)
    elif asked(options, _parts(going, store), space(paths).freed, notes):
        with store.submitting():  # nobody launches meanwhile
            check_same(going, look())
            _carry_out(going, directory, store)
    return DONE


def check_same(shown: object, found: object) -> None:
    """That what is there is what was shown, before somebody was asked, or waited for a launch.

    Raises:
        UsageError: it is not.
    """
    if shown != found:
        raise UsageError("nothing was deleted: something has changed since it was shown; try again")


def _parts(going: Going, store: Store) -> list[Part]:
    runs = [Part(f"run {run.run_id}", space([run.path]).taken) for run in going.runs]
    others = [Part(f"{what} {path.relative_to(store.root)}", space([path]).taken) for path, what in going.paths]
    return [*runs, *others]


def _published(going: Going) -> list[str]:
    if not going.published:
        return []
    count = len(going.published)
    what = "a published model stays" if count == 1 else f"{count} published models stay"
    return [f"kept: {what} in {going.published[0].parent}; --published deletes them too"]


def asked(options: argparse.Namespace, parts: Sequence[Part], freed: int, notes: Sequence[str] = ()) -> bool:
    """Show what is to be deleted; whether it is wanted, by --yes or by somebody at a terminal.

    Raises:
        UsageError: there is nobody to be asked.
    """
    show_going(parts, freed, notes, is_done=options.yes and not options.dry_run)
    if options.dry_run or options.yes:
        return not options.dry_run
    if not can_ask():
        raise UsageError("nothing was deleted: there is no terminal at which to ask; add --yes")
    if is_confirmed("delete that?"):
        return True
    say("nothing was deleted")
    return False


def _carry_out(going: Going, directory: SweepDir, store: Store) -> None:
    if going.whole is not None:
        _keep_jobs(going, directory, store)
    for run in going.runs:
        disk_use.remove(store.root, run.path)
    for path, _ in going.paths:
        disk_use.remove(store.root, path)
    if going.whole is None:
        without_runs(directory, {run.run_id for run in going.runs})
        if directory.results_file.exists():
            disk_use.remove(store.root, directory.results_file)  # derived, and names runs that are gone


def _keep_jobs(going: Going, directory: SweepDir, store: Store) -> None:
    """Have the runs that stay know their jobs without the records of the sweep that goes."""
    for run_id in going.kept:
        for attempt in store.run(run_id).attempts():
            job = attempt.job if attempt.batch is not None and attempt.batch.parent == directory.jobs else None
            if job is not None:
                write_once(attempt.job_file, job)
