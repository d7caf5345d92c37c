"""The verb `gc`: delete what nothing refers to any more."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from launcher.cli.arguments import DONE, Parser
from launcher.cli.remove import asked, check_same, deletion_arguments
from launcher.cluster.scheduler import scheduler_to_ask
from launcher.errors import UsageError, listed
from launcher.runs.holdings import NAMED, Holdings, Left, garbage_of
from launcher.store.disk_use import check_within, remove, space
from launcher.store.output_folder import Store
from launcher.views.console import show_notes
from launcher.views.disk import Part, say_nothing_to_delete

EXAMPLES = ("python -m launcher gc --dry-run", "python -m launcher gc --yes")


def arguments(parser: Parser) -> None:
    """What the verb may be given."""
    deletion_arguments(parser)


def garbage(options: argparse.Namespace) -> int:
    """Delete runs that no sweep holds, code that no job runs, models and tables that no run names, left parts."""
    store = Store(options.output_dir.absolute())
    if not store.is_used:
        raise UsageError(f"{store.root}: nobody has launched into this folder; give --output-dir FOLDER")
    found, notes = garbage_of(Holdings.of(store), scheduler_to_ask())
    show_notes(notes)
    for each in found:
        check_within(store.root, each.path)
    if not found:
        say_nothing_to_delete(str(store.root))
    elif asked(options, _parts(found), space(each.path for each in found).freed):
        with store.submitting():  # nobody launches meanwhile
            check_same(found, garbage_of(Holdings.of(store), scheduler_to_ask())[0])
            for each in found:
                remove(store.root, each.path)
    return DONE


def _parts(found: Sequence[Left]) -> list[Part]:
    """By what it is, with how many there are of it."""
    kinds = dict.fromkeys(each.what for each in found)
    of_kind = {kind: [each.path for each in found if each.what == kind] for kind in kinds}
    return [
        Part(f"{kind}: {len(paths)} ({listed(dict.fromkeys(path.name for path in paths), NAMED)})", space(paths).taken)
        for kind, paths in of_kind.items()
    ]
